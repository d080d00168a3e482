"""What a run measured: the contents of ``metrics.json``, and the table at its end."""

import math
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from aeplus.methods.measured import LayerReport
from aeplus.metrics.success import SCORES, Score
from aeplus.utils.jsonl import write_json
from aeplus.utils.tables import Row, counted, print_line, print_table, shown


@dataclass
class RunReport:
    """The report of a run. Percentages go from 0 to 100; ``None`` where there is no prompt to measure on.

    Attributes:
        method: Name of the method.
        model: Name of the model.
        seed: Seed of the run.
        edits: Edits in the stream.
        edits_done: How many of them are committed.
        before: Efficacy, Generalization, Specificity and Score of all edits before the first.
        after: The same after the last committed batch.
        intervals: 95 % bootstrap intervals of ``before`` and ``after``, but for the Score: for each of the three
            ``value``, ``low``, ``high`` and over how many prompts, ``count``.
        hits: ``after`` by edit, for the three: ``edits``, their indices from 0; ``hits``, how many of its prompts are
            answered right; ``prompts``, how many it has. Empty before the end.
        batches: One entry per committed batch.
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of all edits together, mean over the layers.
        measures: What :class:`~aeplus.callbacks.evaluation.EvaluationWriter` measured: ``before``, ``batches`` by
            their number, ``after``, ``retention``. Empty without it.
        seconds: Wall-clock seconds for statistics and contexts, and in total with loading and evaluation; of a resumed
            run those since, and ``earlier``, the seconds of the batches that it began with.
        environment: What it ran on and by, see :func:`environment`. Empty where no trainer ran it.
    """

    method: str
    model: str
    seed: int
    edits: int = 0
    edits_done: int = 0
    before: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(SCORES))
    after: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(SCORES))
    intervals: dict[str, dict[str, Any]] = field(default_factory=lambda: {"before": {}, "after": {}})
    hits: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    leakage: float | None = None
    measures: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"statistics": 0.0, "total": 0.0})
    environment: dict[str, str] = field(default_factory=dict)

    def record(self, when: Literal["before", "after"], score: Score) -> None:
        """Takes what was measured on all edits, with its intervals."""
        setattr(self, when, score.summary())
        self.intervals[when] = score.intervals(seed=self.seed)
        if when == "after":
            self.hits = score.hits()

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Writes the report as JSON, ``null`` for numbers that are not finite: all of it, or nothing.

        What is there is replaced, even if an editor has saved it meanwhile: a run asks when it begins.

        Raises:
            InputError: If it cannot be written.
        """
        write_json(path, _finite(self.as_dict()), overwrite=True)


def _finite(value: Any) -> Any:
    """A value without NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment(device: torch.device) -> dict[str, str]:
    """What a run depends on beside its settings: where it ran, Python and the versions of the packages."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "CPU cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **versions(),
    }


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    return {package: version(package) for package in ("aeplus", "torch", "transformers", "lightning")}


def machine(device: torch.device) -> str:
    """What stands in a table's notes about the machine."""
    known = environment(device)
    threads = counted(int(known["threads"]), "thread")
    return f"{known['CPU cores']} CPU cores, {threads}, torch {known['torch']}, {known['device']}"


def batch_report(
    edits: int,
    layers: Sequence[LayerReport],
    residual_norms: Sequence[float],
    steps: Sequence[float],
    scores: Sequence[Mapping[str, float | None]],
    committed: int,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """A batch's entry in ``metrics.json``.

    Conflicts and ``‖Λp‖`` are means over the layers, the rank of P̃ is summed over them, ``sigma_max`` and
    ``leakage`` are the largest; ``layers`` holds each layer's own. ``residual_norm`` is the mean ``‖r‖`` of the
    edits at the last layer. ``committed_iteration`` is the smoothing iteration t that was committed, 0 where nothing
    was smoothed; ``candidates`` holds what validation made of each iteration, and ``validation_score`` and
    ``validation_probability`` are those of the committed one. Where every layer chooses by itself there is one
    candidate, and the session adds ``chosen``: for each layer the iteration, and the scores that it was chosen by.

    Args:
        edits: Edits in the batch.
        layers: Each layer's measurements.
        residual_norms: ``‖r‖`` of each edit.
        steps: Mean gradient steps of an edit in each optimization, ``target_steps``.
        scores: ``score`` and ``probability`` of each candidate, by its iteration.
        committed: The iteration that was committed.
        seconds: What took how long.
    """
    count = len(layers)
    return {
        "edits": edits,
        "conflict_preserved": sum(r.conflict_preserved for r in layers) / count,
        "conflict_preserved_max": max(r.conflict_preserved_max for r in layers),
        "conflict_prior": sum(r.conflict_prior for r in layers) / count,
        "conflict_prior_max": max(r.conflict_prior_max for r in layers),
        "residual_norm": sum(residual_norms) / len(residual_norms),
        "residual_norm_max": max(residual_norms),
        "target_steps": list(steps),
        "rank": sum(r.rank for r in layers),
        "sigma_max": max(r.sigma_max for r in layers),
        "leakage": max(r.leakage for r in layers),
        "prior_weight_norm": sum(r.prior_weight_norm for r in layers) / count,
        "smoothing_iterations": len(scores),
        "committed_iteration": committed,
        "validation_score": scores[committed]["score"],
        "validation_probability": scores[committed]["probability"],
        "candidates": [dict(score) for score in scores],
        "seconds": dict(seconds),
        "layers": [r.as_dict() for r in layers],
    }


_HEADER = ["", *(name.capitalize() for name in SCORES)]


def print_summary(
    report: RunReport,
    folder: Path,
    model: Path | None,
    tensorboard: str | None = None,
    *,
    earlier: int = 0,
    journal: Path | None = None,
) -> None:
    """Prints Efficacy, Generalization, Specificity and Score before and after, and where everything lies.

    Args:
        report: The report.
        folder: Where ``metrics.json`` is.
        model: Where the edited model is, if it was saved.
        tensorboard: Where TensorBoard reads, if it can.
        earlier: How many of the edits the run began with.
        journal: Where the edits are, if there are any.
    """
    rows = [Row(["before", *_scores(report.before)]), Row(["after", *_scores(report.after)], style="bold")]
    print_table(f"{_title(report, earlier)} (%)", _HEADER, rows, left=_HEADER[:1])
    statistics = report.seconds["statistics"]
    print_line(f"{report.seconds['total']:.0f} s, {statistics:.0f} s of it statistics", style="dim")
    print_line(f"metrics: {folder / 'metrics.json'}")
    if model is not None:
        print_line(f"edited model: {model}")
    if journal is not None:
        export = shlex.join(["aeplus", "export", str(journal), "--format", "huggingface", "--out", "FOLDER"])
        print_line(f"journal: {journal}; a model of it: {export}")
    if tensorboard is not None:
        print_line(f"TensorBoard: tensorboard --logdir {tensorboard}")


def _title(report: RunReport, earlier: int) -> str:
    new = report.edits - earlier
    if not new:
        return f"nothing to do: {earlier} of {counted(earlier, 'edit')} of {report.model} are in the journal"
    done = "" if report.edits_done == report.edits else f"{report.edits_done - earlier} of "
    what = counted(new, "new edit" if earlier else "edit")
    rest = f", with {earlier} of the journal" if earlier else ""
    return f"{done}{what} of {report.model} by {report.method}{rest}"


def print_validation(metrics: Mapping[str, Tensor], edits: int) -> None:
    """Prints what ``validate`` measured: on the validation set, and on all the edits' test prompts.

    Args:
        metrics: What was logged.
        edits: How many edits there are.
    """
    rows = []
    for what in ("validation", "edits"):
        values = {name: metrics.get(f"{what}/{name}") for name in SCORES}
        rows.append([what, *_scores({name: None if v is None else float(v) for name, v in values.items()})])
    print_table(f"Measured on {counted(edits, 'edit')} (%)", _HEADER, rows, left=_HEADER[:1])


def _scores(values: Mapping[str, float | None]) -> list[str]:
    return [shown(values[name]) for name in SCORES]
