"""The outcome of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aeplus.metrics.success import SCORES
from aeplus.utils.jsonl import read_json


@dataclass(frozen=True)
class Outcome:
    """A finished run, or a failed one.

    Attributes:
        method: The method's label.
        seed: The run's seed.
        before: Efficacy, Generalization, Specificity and Score of the unedited model, in percent; and by the way of
            asking, :data:`~aeplus.metrics.success.PARTS`, where asked.
        after: The same of the edited model.
        editing_seconds: Seconds for targets, solving and validation of all batches; targets from the cache count as
            if they had been computed by this run.
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of all edits together, mean over the layers.
        seconds: Wall-clock time of the whole run.
        error: Why the run failed; ``None`` if it finished.
        measures: What ``EvaluationWriter`` measured of the edited model, by names such as ``tokens.efficacy``, and
            ``retention`` after the last batch; empty without it.
    """

    method: str
    seed: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    editing_seconds: float | None
    leakage: float | None
    seconds: float
    error: str | None = None
    measures: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def failed(cls, method: str, seed: int, error: str, seconds: float) -> "Outcome":
        """The outcome of a failed run."""
        nothing = dict.fromkeys(SCORES)
        return cls(method, seed, nothing, nothing, None, None, seconds, error)

    @classmethod
    def read_metrics(cls, method: str, seed: int, folder: Path, seconds: float) -> "Outcome":
        """The outcome of a run, from the ``metrics.json`` in its folder."""
        metrics = read_json(folder / "metrics.json")
        if metrics["edits_done"] < metrics["edits"]:
            error = f"ended after {metrics['edits_done']} of {metrics['edits']} edits"
            return cls.failed(method, seed, error, seconds)
        editing = sum(batch["seconds"]["total"] for batch in metrics["batches"])
        measured = metrics.get("measures", {})
        measures = dict(_numbers({name: of for name, of in measured.get("after", {}).items() if name != "edits"}))
        measures |= {"retention": measured["retention"]["mean"][-1]} if measured.get("retention") else {}
        own = metrics["before"], metrics["after"], editing, metrics.get("leakage")
        return cls(method, seed, *own, seconds, measures=measures)


def _numbers(measured: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Every number but the intervals' ends and counts, as tables of experiments call it."""
    for name, value in measured.items():
        if isinstance(value, Mapping) and not {"value", "low"} <= value.keys():
            yield from _numbers(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value["value"] if isinstance(value, Mapping) else value
