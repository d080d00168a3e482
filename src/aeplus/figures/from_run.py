"""The figures of a run, from the files in its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aeplus import figures as draw
from aeplus.errors import InputError
from aeplus.figures.conflict import AXIS_LABELS
from aeplus.run.records import EditRecord, read_records
from aeplus.utils.jsonl import read_json

DATA = Path("figures") / "data.json"
"""What :class:`~aeplus.callbacks.figures.FigureWriter` adds: spectra and hidden states."""

HIDDEN = Path("figures") / "hidden.safetensors"
"""The hidden states themselves, where ``keep_hidden`` asks for them: ``before`` and ``after``, ``[n, o]`` each."""


def figures_of_run(folder: Path, names: Sequence[str] | None = None, bins: int = 5) -> dict[str, Figure]:
    """Draws the figures for which a run has data.

    Args:
        folder: The run's folder, with any of ``edits.jsonl``, ``metrics.json``, ``capabilities.json`` and
            ``figures/data.json``.
        names: Names out of :data:`FIGURES`; by default all.
        bins: Maximum number of bins of the conflict in ``score``.

    Returns:
        The figures by the names of their files, those without data left out; ``spectrum`` gives one for each layer.

    Raises:
        InputError: If a name is unknown, the folder is missing, or a file is damaged.
    """
    check_names(names)
    if not folder.is_dir():
        msg = f"expected a run folder, got {folder}; pass one such as lightning_logs/edits/version_0."
        raise InputError(msg)
    run = _Run(folder, bins)
    drawn: dict[str, Figure] = {}
    try:
        for name in FIGURES if names is None else names:
            drawn |= FIGURES[name](run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"expected the files of a run in {folder}, got a damaged one ({error!r}); repeat the run."
        raise InputError(msg) from error
    return drawn


def check_names(names: Sequence[str] | None) -> None:
    """Checks that every name is one of :data:`FIGURES`.

    Raises:
        InputError: If one is not.
    """
    if unknown := [name for name in names or () if name not in FIGURES]:
        msg = f"expected figures out of {', '.join(FIGURES)}, got {', '.join(unknown)}; choose from these."
        raise InputError(msg)


class _Run:
    """The files of a run's folder."""

    def __init__(self, folder: Path, bins: int) -> None:
        self.bins = bins
        self.records: list[EditRecord] = read_records(folder)
        self.metrics = _json(folder / "metrics.json")
        self.capabilities = _json(folder / "capabilities.json")
        self.data = _json(folder / DATA)
        self.method = str(self.metrics.get("method", "edits"))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values = read_json(path, "the JSON of a run")
    return values if isinstance(values, dict) else {}


def _conflict(run: _Run) -> dict[str, Figure]:
    if not run.records:
        return {}
    return {"conflict": draw.conflict_distributions({run.method: quantities(run.records)})}


def _stream(run: _Run) -> dict[str, Figure]:
    records = run.records
    if not records:
        return {}
    batches, smoothed = [r.batch for r in records], [r.smoothed for r in records]
    return {"stream": draw.conflict_along_stream(batches, quantities(records), smoothed)}


def _score(run: _Run) -> dict[str, Figure]:
    scores = [record.score() for record in run.records]
    if all(score is None for score in scores):
        return {}
    return {"score": draw.score_by_conflict({run.method: {**quantities(run.records), "score": scores}}, run.bins)}


def quantities(records: Sequence[EditRecord]) -> dict[str, list[float | None]]:
    """The three quantities of some edits, as the figures take them."""
    return {name: [getattr(record, name) for record in records] for name in AXIS_LABELS}


def _effort(run: _Run) -> dict[str, Figure]:
    batches = run.metrics.get("batches", ())
    committed = [
        f"t = {batch['committed_iteration']}\nof {batch['smoothing_iterations'] - 1}"
        if batch.get("smoothing_iterations", 1) > 1 and "committed_iteration" in batch
        else ""
        for batch in batches
    ]
    return {"effort": draw.effort_by_batch([b["seconds"] for b in batches], committed)} if batches else {}


def _spectra(run: _Run) -> dict[str, Figure]:
    return {
        f"spectrum_layer_{s['layer']}": draw.spectrum(
            s["values"], s["null"], {int(index): count for index, count in s["added"].items()}, f"layer {s['layer']}"
        )
        for s in run.data.get("spectra", ())
    }


def _hidden(run: _Run) -> dict[str, Figure]:
    if not (states := run.data.get("hidden")):
        return {}
    before, after = (np.array(states[when], dtype=float) for when in ("before", "after"))
    projection = draw.Projection(before, after, (states["axes"][0], states["axes"][1]))
    title = f"hidden states after layer {states['layer']}, {len(projection.before)} prompts"
    return {"hidden": draw.hidden_states(projection, title)}


def _capabilities(run: _Run) -> dict[str, Figure]:
    results = run.capabilities.get("results")
    return {"capabilities": draw.capability_bars(results)} if results else {}


def _retention(run: _Run) -> dict[str, Figure]:
    matrix = run.metrics.get("measures", {}).get("retention", {}).get("matrix")
    return {"retention": draw.retention_heat_map(matrix)} if matrix else {}


FIGURES: dict[str, Callable[[_Run], dict[str, Figure]]] = {
    "conflict": _conflict,
    "stream": _stream,
    "score": _score,
    "effort": _effort,
    "spectrum": _spectra,
    "hidden": _hidden,
    "capabilities": _capabilities,
    "retention": _retention,
}
"""The figures of a run, by name."""
