"""The figures of an experiment, from what its cells wrote."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aeplus import figures as draw
from aeplus.commands.experiment.data import slug
from aeplus.commands.experiment.grid import SET
from aeplus.commands.experiment.tables import Result, cell_label
from aeplus.errors import InputError
from aeplus.figures.conflict import AXIS_LABELS
from aeplus.figures.from_run import HIDDEN, quantities
from aeplus.run.records import read_records
from aeplus.utils.cache import load_tensors


def check_figures(names: Sequence[str]) -> None:
    """Checks that figures are some of :data:`FIGURES`.

    Raises:
        InputError: If one is not.
    """
    if unknown := [str(name) for name in names if name not in FIGURES]:
        msg = f"expected figures out of {', '.join(FIGURES)}, got {', '.join(unknown)}; choose from these."
        raise InputError(msg)


def draw_figures(names: Sequence[str], results: Sequence[Result]) -> dict[str, Figure]:
    """The figures for which cells have data, by the names of their files.

    Args:
        names: Names out of :data:`FIGURES`.
        results: The cells.

    Raises:
        InputError: If a file of a cell is damaged.
    """
    done = [result for result in results if result.files is not None]
    drawn: dict[str, Figure] = {}
    for name in names if done else ():
        drawn |= FIGURES[name](done)
    return drawn


def _labels(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Cells by what tells them apart, all seeds together: the data set, the variant and what is set."""
    axes = ["data", "variant", *(f"{SET}{path}" for path in results[0].cell.values)] if results else []
    several = [axis for axis in axes if len({repr(r.cell.on(axis)) for r in results}) > 1] or ["data"]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(cell_label(several, {axis: result.cell.on(axis) for axis in several}), []).append(result)
    return groups


def _edits(results: Sequence[Result]) -> dict[str, list[float | None]]:
    """The quantities and scores of the edits of some cells, one after the other."""
    records = [record for result in results for record in read_records(result.cell.run.folder)]
    return {**quantities(records), "score": [record.score() for record in records]}


def _score(results: Sequence[Result]) -> dict[str, Figure]:
    data = {label: _edits(group) for label, group in _labels(results).items()}
    return {"score": draw.score_by_conflict({label: edits for label, edits in data.items() if edits["score"]})}


def _conflict(results: Sequence[Result]) -> dict[str, Figure]:
    data = {label: _edits(group) for label, group in _labels(results).items()}
    return {"conflict": draw.conflict_distributions({n: {q: e[q] for q in AXIS_LABELS} for n, e in data.items()})}


def _capabilities(results: Sequence[Result]) -> dict[str, Figure]:
    """The unedited model, and every variant at its end; the first seed of each."""
    bars: list[dict[str, Any]] = []
    for label, group in _labels(results).items():
        measured = group[0].files.capabilities.get("results") if group[0].files is not None else None
        if measured:
            bars = bars or [measured[0]]
            bars.append({**measured[-1], "label": label})
    return {"capabilities": draw.capability_bars(bars)} if bars else {}


def _hidden(results: Sequence[Result]) -> dict[str, Figure]:
    """A figure for each data set, its variants over one another; the first seed of each."""
    drawn = {}
    names = list(dict.fromkeys(result.cell.data for result in results))
    for name in names:
        before: np.ndarray | None = None
        after: dict[str, np.ndarray] = {}
        others: list[str] = []
        for result in results:
            path = result.cell.run.folder / HIDDEN
            if result.cell.data == name and result.cell.variant not in after and path.is_file():
                found = _states(path)
                if before is None or np.array_equal(before, found["before"]):  # the same prompts
                    before, after[result.cell.variant] = found["before"], found["after"]
                    seed = result.cell.run.seed
                else:
                    others.append(result.cell.variant)
        if before is not None:
            plane = draw.project_several(before, after)
            without = ", ".join(variant for variant in dict.fromkeys(others) if variant not in after)
            left_out = f"; without {without}, whose states before are others" if without else ""
            of = f", seed {seed}" if len({result.cell.run.seed for result in results}) > 1 else ""
            title = f"{len(before)} prompts{of}{left_out}"
            drawn[hidden_name(name, len(names))] = draw.hidden_overlay(plane, title)
    return drawn


def hidden_name(data: str, sets: int) -> str:
    """The file's name of a figure of hidden states, one of each data set."""
    return "hidden" if sets == 1 else f"hidden_{slug(data)}"


def _states(path: Path) -> dict[str, np.ndarray]:
    found, _ = load_tensors(path, ["before", "after"], {}, "hidden states")
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def _components(results: Sequence[Result]) -> dict[str, Figure]:
    data: dict[str, list[Any]] = {}
    for label, group in _labels(results).items():
        data[label] = [batch for result in group if result.files for batch in result.files.metrics["batches"]]
    return {"components": draw.components(data)}


def _effort(results: Sequence[Result]) -> dict[str, Figure]:
    runs = {
        label: [batch["seconds"] for result in group if result.files for batch in result.files.metrics["batches"]]
        for label, group in _labels(results).items()
    }
    return {"effort": draw.effort_by_run(runs)}


FIGURES: dict[str, Callable[[Sequence[Result]], dict[str, Figure]]] = {
    "score": _score,
    "conflict": _conflict,
    "capabilities": _capabilities,
    "hidden": _hidden,
    "components": _components,
    "effort": _effort,
}
"""The figures by name."""
