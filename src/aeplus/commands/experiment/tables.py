"""The tables of an experiment: cells by rows and columns, mean ± sample standard deviation over the seeds."""

import csv
import io
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from aeplus.commands.experiment.cells import Cell, short, value_text
from aeplus.commands.experiment.grid import AXES, SET, Claim, Layout
from aeplus.commands.experiment.values import Files, When, value_of
from aeplus.errors import InputError
from aeplus.utils.tables import latex_table, markdown_table, print_table, shown, with_deviation

Number = dict[str, Any]
"""``mean``, ``sd`` (``None`` of one seed) and ``n``."""
_BEFORE = "before"


@dataclass(frozen=True)
class Result:
    """A cell and what became of it.

    Attributes:
        cell: The cell.
        files: What its run wrote; ``None`` unless it is done.
        status: ``done``, ``failed`` or ``missing``.
        error: Why it failed.
        seconds: Wall-clock time of its run.
        source: The folder of another experiment that it was copied from.
    """

    cell: Cell
    files: Files | None = None
    status: str = "missing"
    error: str | None = None
    seconds: float | None = None
    source: str | None = None


def check_tables(layouts: Sequence[Layout], claim: Claim, cells: Sequence[Cell]) -> None:
    """Checks that tables and claim name what there is.

    Raises:
        InputError: If a value is none, the paper's numbers do not fit the table, or the claim names no cell.
    """
    for layout in layouts:
        for name in layout.values:
            value_of(name)
        width = len(_columns(layout, cells)) * len(layout.values)
        labels = [label for label, _ in (*_before_rows(layout, cells), *_rows(layout, cells))]
        for label, numbers in (layout.paper or {}).items():
            if label not in labels or len(numbers) != width:
                msg = (
                    f"expected the paper's numbers of {layout.title!r} as {width} for each of {', '.join(labels)}, got "
                    f"{len(numbers)} for {label}; correct them."
                )
                raise InputError(msg)
    if claim.value is None:
        return
    value_of(claim.value)
    axes = _axes(cells)
    for where in itertools.chain(*claim.pairs):
        if not where or not set(where) <= set(axes) or not any(_is_at(cell, where) for cell in cells):
            msg = f"expected the claim to name cells of the experiment, got {dict(where)}; correct it."
            raise InputError(msg)


def build_table(layout: Layout, results: Sequence[Result]) -> dict[str, Any]:
    """A table as ``experiment.json`` has it: ``title``, ``note``, ``columns`` and ``rows``."""
    cells = [result.cell for result in results]
    columns = _columns(layout, cells)
    values = [value_of(name) for name in layout.values]
    headings = [f"{label} {value.heading}".strip() for label, _ in columns for value in values]
    rows: list[dict[str, Any]] = []

    def numbers(where: Mapping[str, Any], when: When) -> list[Number | None]:
        found = []
        for _, column in columns:
            at = [r for r in results if r.files is not None and _is_at(r.cell, {**where, **column})]
            if when == "before":  # of all data and seeds once, whatever was then done to the model
                at = list({_asked(r.cell): r for r in reversed(at)}.values())
            for value in values:
                known = [] if when == "before" and value.editing else [value.read(r.files, when) for r in at if r.files]
                found.append(_spread([number for number in known if _finite(number)]))
        return found

    for label, where in _before_rows(layout, cells):
        rows.append({"label": label, "values": numbers(where, "before"), "paper": _paper(layout, label)})
    for label, where in _rows(layout, cells):
        rows.append({"label": label, "values": numbers(where, "after"), "paper": _paper(layout, label)})
    return {"title": layout.title, "note": layout.note, "columns": headings, "rows": rows}


def unmeasured(layouts: Sequence[Layout], claim: Claim, results: Sequence[Result]) -> list[str]:
    """The values that tables and claim name and no finished cell has: not measured, or misspelt."""
    made = [result.files for result in results if result.files is not None]
    named = dict.fromkeys(
        [value for layout in layouts for value in layout.values] + ([claim.value] if claim.value else [])
    )
    return [name for name in named if made and all(value_of(name).read(files, "after") is None for files in made)]


def check_claim(claim: Claim, results: Sequence[Result]) -> list[dict[str, Any]]:
    """The claim's direction, wherever both sides have been made: at each value of the axes that it does not name.

    Returns:
        For each such place ``where``, the two means (``higher``, ``lower``), over how many seeds (``n``), and whether
        the first is higher (``holds``).
    """
    if claim.value is None:
        return []
    read, cells = value_of(claim.value).read, [r.cell for r in results]
    found = []
    for pair, place in [(sides, p) for sides in claim.pairs for p in _points(_open(sides, cells), cells)]:
        sides = []
        for side in pair:
            at = [r for r in results if r.files is not None and _is_at(r.cell, {**side, **place})]
            sides.append({r.cell.seed: v for r in at if r.files and _finite(v := read(r.files, "after"))})
        seeds = sides[0].keys() & sides[1].keys()
        if not seeds:
            continue
        high, low = (statistics.fmean(side[seed] for seed in seeds) for side in sides)
        where = cell_label(list(place), place)
        if len(claim.pairs) > 1:
            where = ", ".join(filter(None, (where, " over ".join(cell_label(list(side), side) for side in pair))))
        found.append({"where": where, "higher": high, "lower": low, "n": len(seeds), "holds": high > low})
    return found


def _open(pair: Iterable[Mapping[str, Any]], cells: Sequence[Cell]) -> list[str]:
    """The axes that two sides of a claim do not name, but for the seed."""
    named = {"seed"}.union(*pair)
    return [axis for axis in _axes(cells) if axis not in named]


def claim_text(claim: Claim, checks: Sequence[Mapping[str, Any]]) -> str:
    """The claim, and in how many places its direction holds here."""
    if not checks:
        return claim.text
    holds = [check for check in checks if check["holds"]]
    not_at = ", ".join(check["where"] or "the cells" for check in checks if not check["holds"])
    return f"{claim.text} Here it holds in {len(holds)} of {len(checks)}{f' (not {not_at})' if not_at else ''}."


def table_markdown(layout: Layout, table: Mapping[str, Any]) -> str:
    """A table as Markdown, the paper's numbers in rows of their own below ours."""
    header, rows = _cells(layout, table)
    note = f"\n\n{table['note']}" if table["note"] else ""
    return f"## {table['title']}\n\n{markdown_table(header, rows, left=header[:1])}{note}"


def table_latex(layout: Layout, table: Mapping[str, Any]) -> str:
    """The same as LaTeX, without its note."""
    header, rows = _cells(layout, table)
    return latex_table(table["title"], header, rows, left=header[:1])


def _cells(layout: Layout, table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the paper's numbers in rows of their own below ours."""
    header = ["", *table["columns"]]
    forms = [value_of(name).form for name in layout.values]
    forms *= len(table["columns"]) // max(1, len(forms))
    rows = []
    for row in table["rows"]:
        rows.append([row["label"], *_texts(row, table, forms)])
        if row["paper"] is not None:
            paper = [shown(n, form) for n, form in zip(row["paper"], forms, strict=True)]
            rows.append([f"{row['label']}, paper", *paper])
    return header, rows


def show_table(layout: Layout, table: Mapping[str, Any]) -> None:
    """Prints a table."""
    header = ["", *table["columns"]]
    forms = [value_of(name).form for name in layout.values] * (len(table["columns"]) // len(layout.values))
    rows = [[row["label"], *_texts(row, table, forms)] for row in table["rows"]]
    print_table(table["title"], header, rows, left=header[:1])


def tables_csv(tables: Sequence[Mapping[str, Any]]) -> str:
    """All tables, a line for each number; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", "mean", "sd", "n", "paper"])
    for table in tables:
        for row in table["rows"]:
            paper = row["paper"] or [None] * len(table["columns"])
            for column, number, published in zip(table["columns"], row["values"], paper, strict=True):
                known = number or {"mean": None, "sd": None, "n": 0}
                writer.writerow(
                    [table["title"], row["label"], column, known["mean"], known["sd"], known["n"], published]
                )
    return text.getvalue()


def _finite(number: float | None) -> TypeGuard[float]:
    return number is not None and math.isfinite(number)


def _spread(numbers: Sequence[float]) -> Number | None:
    if not numbers:
        return None
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "sd": sd, "n": len(numbers)}


def _text(number: Number | None, form: str, most: int = 0) -> str:
    """A number as tables show it; how many seeds it is of where others are of more."""
    if number is None:
        return shown(None)
    text = with_deviation(number["mean"], number["sd"], form)
    return text if number["n"] >= most else f"{text} (n = {number['n']})"


def _texts(row: Mapping[str, Any], table: Mapping[str, Any], forms: Sequence[str]) -> list[str]:
    most = max((n["n"] for other in table["rows"] for n in other["values"] if n is not None), default=0)
    most = 0 if row["label"] == _BEFORE or row["label"].endswith(f", {_BEFORE}") else most
    return [_text(number, form, most) for number, form in zip(row["values"], forms, strict=True)]


def _paper(layout: Layout, label: str) -> list[float | None] | None:
    numbers = (layout.paper or {}).get(label)
    return None if numbers is None else list(numbers)


def _axes(cells: Sequence[Cell]) -> list[str]:
    return [*AXES, *(f"{SET}{path}" for path in (cells[0].values if cells else ()))]


def _points(axes: Sequence[str], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The values of some axes, all with all, in their order."""
    values: list[list[Any]] = []
    for axis in axes:
        found: list[Any] = []
        for cell in cells:
            if not any(_equal(cell.on(axis), value) for value in found):
                found.append(cell.on(axis))
        values.append(found)
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def _asked(cell: Cell) -> str:
    """What the unedited model was asked: equal where cells differ in how they edit alone."""
    editing = tuple(f"{group}." for group in ("method", "targets", "preserved"))
    return f"{cell.shares_data} {[value for path, value in cell.values.items() if not path.startswith(editing)]}"


def _is_at(cell: Cell, where: Mapping[str, Any]) -> bool:
    return all(_equal(cell.on(axis), value) for axis, value in where.items())


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of an axis are one: Python takes 1 for True."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def cell_label(axes: Sequence[str], point: Mapping[str, Any]) -> str:
    """A point on some axes as tables and figures call it."""
    parts = [
        f"{short(axis)} = {value_text(point[axis])}" if axis.startswith(SET) else str(point[axis]) for axis in axes
    ]
    return ", ".join(parts)


def _rows(layout: Layout, cells: Sequence[Cell]) -> list[tuple[str, dict[str, Any]]]:
    return [(cell_label(layout.rows, point) or "all", point) for point in _points(layout.rows, cells)]


def _before_rows(layout: Layout, cells: Sequence[Cell]) -> list[tuple[str, dict[str, Any]]]:
    """Of the unedited model, where the table wants it: a row for each data set, if those are told apart by rows."""
    if not layout.before:
        return []
    points = _points([axis for axis in layout.rows if axis == "data"], cells)
    return [(f"{point['data']}, {_BEFORE}" if len(points) > 1 else _BEFORE, point) for point in points]


def _columns(layout: Layout, cells: Sequence[Cell]) -> list[tuple[str, dict[str, Any]]]:
    points = _points(layout.columns, cells)
    return [(cell_label(layout.columns, point) if len(points) > 1 or layout.columns else "", point) for point in points]
