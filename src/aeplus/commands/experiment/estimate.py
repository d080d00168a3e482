"""What an experiment will take: its cells, with minutes and memory from a few edits that are made."""

import io
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aeplus.commands.experiment.cells import Cell, make_cells, short, value_text
from aeplus.commands.experiment.data import draw
from aeplus.commands.experiment.grid import Grid
from aeplus.commands.runs.runner import Runner, count_edits
from aeplus.errors import InputError
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


@dataclass(frozen=True)
class Calibration:
    """What was measured on a few edits, in seconds.

    Attributes:
        targets: For the targets of an edit, by the number of layers at which it learns them: those of later layers are
            nearly reached where they begin.
        batch: For solving and validating a batch.
        asked: For asking the test prompts of an edit, once.
        fixed: For the rest of a cell, whatever its size.
        once: Loading, and statistics of preserved knowledge where the cache has none.
        memory: Bytes of a process: weights, and the most that editing or statistics need above them.
    """

    targets: dict[int, float]
    batch: float
    asked: float
    fixed: float
    once: float
    memory: int

    def seconds(self, edits: int, batches: int, layers: int) -> float:
        """Seconds of a cell.

        Args:
            edits: Its edits; each is asked before and after.
            batches: Its batches.
            layers: Layers at which it learns targets, one of the numbers in :attr:`targets`.
        """
        return self.fixed + batches * self.batch + edits * (self.targets[layers] + 2 * self.asked)


def calibrate(grid: Grid, settings: Mapping[str, Any]) -> Calibration:
    """Makes one edit of the grid's first data set, a few with every kind of target, and the one again.

    All of it in a temporary folder.
    Where its data are not at hand (AlphaSet, a data set on the hub), they are facts of gensim's. The second time
    everything about the unedited model is known, so that the two sizes tell what an edit costs from what a cell does.

    Raises:
        InputError: If they cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="aeplus-") as scratch:
        out = Path(scratch)
        few = min(_EDITS, settings["data"]["batch_size"])
        kinds: dict[int, Cell] = {}
        for variant in reversed(grid.variants):
            cell = _cell(grid, settings, variant, few, out / "few")
            kinds[target_layers(cell)] = cell
        one, again = (_cell(grid, settings, grid.variants[0], 1, out / name) for name in ("one", "again"))
        began = time.perf_counter()
        model_settings = settings["model"]
        model, tokenizer = load_named(model_settings)
        decoder = Decoder(model, model_settings.get("site"))
        sites = decoder.select(model_settings["layers"])
        loaded = time.perf_counter() - began
        runner = Runner(model, tokenizer, sites, out / "targets")
        first = _made(runner, one)
        several = {layers: _made(runner, cell) for layers, cell in sorted(kinds.items())}
        third = _made(runner, again)
    second = next(iter(several.values()))
    rest, least = (_spent(m, "total") - _batches(m, "total") for m in (second, third))
    asked = max(0.0, rest - least) / max(1, 2 * second["edits"] - 1)  # before and after, less one asked after
    return Calibration(
        targets={layers: _batches(m, "targets") / m["edits"] for layers, m in several.items()},
        batch=(_batches(second, "total") - _batches(second, "targets")) / len(second["batches"]),
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


def target_layers(cell: Cell) -> int:
    """At how many layers a cell learns targets."""
    model = cell.run.settings["model"]
    if model["method"].get("targets") != "own":
        return 1
    return min(2, len(model["layers"])) if model["method"].get("sites") == "ends" else len(model["layers"])


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


def _beyond(cells: Sequence[Cell], grid: Grid) -> Iterator[str]:
    """What the estimate leaves out."""
    if any("alphaset" in entry for entry in grid.data.values()):
        yield " Building AlphaSet comes on top."
    methods = [cell.run.settings["model"]["method"] for cell in cells]
    if any(method.get("smooth") for method in methods):
        yield " Smoothing takes longer than estimated, the more the larger T."
    if any(method.get("update") == "gradient" for method in methods):
        yield " KDE takes longer than estimated."


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
            each = None if count is None else measured.seconds(count, batches, target_layers(group[0]))
            seconds = None if each is None else len(group) * each
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
        + "".join([".", *_beyond(cells, grid)])
    )
    print_line(f"memory: about {measured.memory * jobs / _GIB:.1f} GiB{f' in {jobs} processes' if jobs > 1 else ''}")
