"""What an experiment will take: its cells, with minutes and memory from a few edits that are made."""

import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aeplus.commands.experiment.cells import Cell, make_cells, short, value_text
from aeplus.commands.experiment.data import draw
from aeplus.commands.experiment.grid import Grid
from aeplus.commands.runs.runner import Runner, count_edits
from aeplus.errors import InputError
from aeplus.methods.method import Method
from aeplus.models.costs import ModelShape, memory
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_named
from aeplus.utils.jsonl import read_json
from aeplus.utils.tables import print_line, print_table

_TOKENS = 16  # of a prompt with its answer behind a context
_ANSWER = 2
_EDITS = 6  # that are made together: of two, an edit costs twice what it costs of ten
_OUTSIDE = 10  # one of so many directions is outside the null space
_GIB = 1 << 30
_PARTS = ("targets", "solve", "validate")  # of a batch's seconds
_GRADIENT = "gradient"  # how KDE learns: while it is solved


@dataclass(frozen=True)
class Calibration:
    """What was measured on a few edits, in seconds.

    Attributes:
        learned: For what an edit learns, by :func:`kind_of` its cell: targets of later layers are nearly reached where
            they begin.
        candidate: For solving and validating a candidate of a batch.
        batch: For the rest of a batch.
        asked: For asking the test prompts of an edit, once.
        fixed: For the rest of a cell, whatever its size.
        once: Loading, and statistics of preserved knowledge where the cache has none.
        memory: Bytes of a process: weights, and the most that editing or statistics need above them.
    """

    learned: dict[str, float]
    candidate: float
    batch: float
    asked: float
    fixed: float
    once: float
    memory: int

    def seconds(self, edits: int, batches: int, kind: str, candidates: int) -> float:
        """Seconds of a cell.

        Args:
            edits: Its edits; each is asked before and after.
            batches: Its batches.
            kind: How it learns, one of those in :attr:`learned`.
            candidates: How many of a batch are found and scored.
        """
        each = self.batch + candidates * self.candidate
        return self.fixed + batches * each + edits * (self.learned[kind] + 2 * self.asked)


def calibrate(grid: Grid, settings: Mapping[str, Any]) -> Calibration:
    """Makes one edit of the grid's first data set, a few with every way to learn, and the one again.

    All of it in a temporary folder.
    Where its data are not at hand (AlphaSet, a data set on the hub), they are facts of gensim's. The second time
    everything about the unedited model is known, so that the two sizes tell what an edit costs from what a cell does.

    Raises:
        InputError: If they cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="aeplus-") as scratch:
        out = Path(scratch)
        few = min(_EDITS, settings["data"]["batch_size"])
        kinds: dict[str, Cell] = {}
        for variant in reversed(grid.variants):
            cell = _cell(grid, settings, variant, few, out / "few")
            kinds[kind_of(cell)] = cell
        one, again = (_cell(grid, settings, grid.variants[0], 1, out / name) for name in ("one", "again"))
        began = time.perf_counter()
        model_settings = settings["model"]
        model, tokenizer = load_named(model_settings)
        decoder = Decoder(model, model_settings.get("site"))
        sites = decoder.select(model_settings["layers"])
        loaded = time.perf_counter() - began
        runner = Runner(model, tokenizer, sites, out / "targets")
        first = _made(runner, one)
        several = {kind: _made(runner, cell) for kind, cell in sorted(kinds.items())}
        third = _made(runner, again)
    kind, second = next(iter(several.items()))
    rest, least = (_spent(m, "total") - _batches(m, "total") for m in (second, third))
    asked = max(0.0, rest - least) / max(1, 2 * second["edits"] - 1)  # before and after, less one asked after
    parts = {part: _batches(second, part) for part in ("total", *_PARTS)}
    scored = sum(batch["smoothing_iterations"] for batch in second["batches"])
    return Calibration(
        learned={kind: sum(_batches(m, part) for part in _learning(kind)) / m["edits"] for kind, m in several.items()},
        candidate=sum(parts[part] for part in _PARTS if part not in _learning(kind)) / scored,
        batch=(parts["total"] - sum(parts[part] for part in _PARTS)) / len(second["batches"]),
        asked=asked,
        fixed=max(0.0, least - asked),
        once=loaded + first["seconds"]["statistics"],
        memory=_memory(ModelShape.of(decoder), settings),
    )


def _cell(grid: Grid, settings: Mapping[str, Any], variant: str, count: int, out: Path) -> Cell:
    """A cell of the grid's first data set with a few edits, its data drawn."""
    name, entry = next(iter(grid.data.items()))
    at_hand = "path" in entry and isinstance(entry["path"], str) and Path(entry["path"]).is_file()
    own = {**entry, "limit": count} if at_hand else {"stream": "plain", "count": count}
    first = {path: values[:1] for path, values in grid.settings.items()}
    small = replace(grid, data={name: own}, variants=[variant], settings=first, seeds=grid.seeds[:1])
    (cell,) = make_cells(small, settings, out)
    with redirect_stdout(io.StringIO()):  # what the commands that draw say
        draw(cell.place, out)
    return cell


def _made(runner: Runner, cell: Cell) -> dict[str, Any]:
    outcome = runner.make(cell.run)
    if outcome.error is not None:
        raise InputError(outcome.error)
    metrics: dict[str, Any] = read_json(cell.run.folder / "metrics.json")
    return metrics


def _spent(metrics: Mapping[str, Any], part: str) -> float:
    """Seconds of a run without statistics."""
    return float(metrics["seconds"][part] - metrics["seconds"]["statistics"])


def _batches(metrics: Mapping[str, Any], part: str) -> float:
    return float(sum(batch["seconds"][part] for batch in metrics["batches"]))


def _memory(shape: ModelShape, settings: Mapping[str, Any]) -> int:
    layers, targets = settings["model"]["layers"], settings["model"]["targets"]
    rows = settings["data"]["batch_size"] * (targets["contexts"] + 1)
    tokens = min(targets["chunk_tokens"], rows * _TOKENS)
    above = memory(
        *(shape, max(layers) + 1, len(layers), tokens, tokens * _ANSWER // _TOKENS, shape.intermediate // _OUTSIDE),
        sample=settings["model"]["preserved"]["sample"],
    )
    return shape.weight_bytes + max(above.editing, above.statistics)


def _learning(kind: str) -> tuple[str, ...]:
    """In which parts of a batch's seconds it learns."""
    return ("targets", "solve") if kind == _GRADIENT else ("targets",)


def kind_of(cell: Cell) -> str:
    """How a cell learns, as far as it matters to its time: by gradient, or targets at so many layers."""
    model = cell.run.settings["model"]
    method, layers = model["method"], len(model["layers"])
    if method.get("update") == "gradient":
        return _GRADIENT
    if method.get("targets") != "own":
        layers = 1
    elif method.get("sites") == "ends":
        layers = min(2, layers)
    return f"{layers} layers"


def candidates_of(cell: Cell) -> int:
    """How many candidates of a batch are found and scored, at most."""
    method = cell.run.settings["model"]["method"]
    return int(method.get("smoothing_steps", Method.smoothing_steps)) + 1 if method.get("smooth") else 1


def edits_of(cell: Cell, entry: Mapping[str, Any]) -> int | None:
    """How many edits a cell makes; ``None`` where only reading its data would tell, and they are not at hand."""
    if "stream" in entry:
        return int(entry.get("count", 50))
    if "alphaset" in entry:
        from aeplus.commands.alphaset.answers import Sizes

        sizes, number = Sizes.parse(entry["sizes"]) if "sizes" in entry else Sizes(), entry["alphaset"] - 1
        return sizes.conflict[number] + sizes.fill[number]
    if entry.get("limit"):
        return int(entry["limit"])
    try:
        return count_edits(cell.run.settings["data"])
    except InputError:
        return None


def _beyond(grid: Grid) -> str:
    """What the estimate leaves out."""
    return " Building AlphaSet comes on top." if any("alphaset" in entry for entry in grid.data.values()) else ""


def show_cells(cells: Sequence[Cell], grid: Grid, title: str, measured: Calibration | None, jobs: int) -> None:
    """Prints the cells, those of several seeds in a row, with what they take.

    Args:
        cells: The cells.
        grid: Their grid.
        title: The table's title.
        measured: What a few edits took; ``None`` to print no estimates.
        jobs: Processes.
    """
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        settings = ", ".join(f"{short(path)}={value_text(value)}" for path, value in cell.values.items())
        rows.setdefault((cell.data, cell.variant, settings), []).append(cell)
    lines, total, unknown = [], 0.0, 0
    for key, group in rows.items():
        count = edits_of(group[0], grid.data[group[0].data])
        minutes = ""
        if measured is not None:
            batches = 1 if count is None else -(-count // group[0].run.settings["data"]["batch_size"])
            way = kind_of(group[0]), candidates_of(group[0])
            seconds = None if count is None else len(group) * measured.seconds(count, batches, *way)
            total += seconds or 0.0
            unknown += len(group) if seconds is None else 0
            minutes = "?" if seconds is None else f"{seconds / 60:.1f}"
        lines.append([*key, str(len(group)), "?" if count is None else str(count), minutes])
    header = ["data", "variant", "set", "seeds", "edits", "minutes"]
    print_table(title, header, lines, left=header[:3])
    if measured is None:
        return
    alone = total + measured.once
    print_line(
        f"{len(cells)} cells: about {alone / 60:.0f} minutes in one process"
        + (f", {(total / jobs + measured.once) / 60:.0f} in {jobs}" if jobs > 1 else "")
        + (f"; {unknown} cells of unknown size left out" if unknown else "")
        + f".{_beyond(grid)}"
    )
    print_line(f"memory: about {measured.memory * jobs / _GIB:.1f} GiB{f' in {jobs} processes' if jobs > 1 else ''}")
