"""The tables of a comparison: Markdown, CSV, terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from aeplus.commands.runs.outcome import Outcome
from aeplus.metrics.success import PARTS, SCORES
from aeplus.utils.paths import whole_file
from aeplus.utils.tables import Row, latex_table, markdown_table, print_table, spread, with_notes

TABLES = ("compare.md", "compare.csv", "compare.tex")
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, header and rows."""
HEADER = ["method", *(name.capitalize() for name in SCORES), "editing time [s]", "leakage"]
LEGEND = (
    "Scores in percent; with several seeds, mean ± sample standard deviation. Editing time: targets, solving and "
    "validation, without statistics, loading and evaluation; targets computed by another run count as if computed "
    "again. Leakage: tr(Δ C Δᵀ) / tr(W C Wᵀ) of all edits together, mean over the layers."
)
_SHORT = ["method", "Eff", "Gen", "Spe", "Score", "time [s]", "leakage"]  # for the terminal
_CSV_HEADER = ["method", "seed", *SCORES, "editing_seconds", "leakage", "error"]


def table_rows(outcomes: Sequence[Outcome], methods: Sequence[str], seeds: int) -> list[list[str]]:
    """The rows below :data:`HEADER`: the unedited model, the methods that ran, and a row for each failed run.

    Args:
        outcomes: The outcomes of the runs so far.
        methods: Labels in the order of the rows.
        seeds: The number of seeds.
    """
    good = [outcome for outcome in outcomes if outcome.error is None]
    first = {outcome.seed: outcome for outcome in reversed(good)}  # every method begins with the same model
    rows = [["before", *_scores([o.before for o in first.values()]), "–", "–"]]
    for method in methods:
        runs = [outcome for outcome in good if outcome.method == method]
        if runs:
            part = "" if len(runs) == seeds else f" ({len(runs)} of {seeds} seeds)"
            editing = spread((o.editing_seconds for o in runs), ".1f")
            leakage = spread((o.leakage for o in runs), ".2g")
            rows.append([method + part, *_scores([o.after for o in runs]), editing, leakage])
    for outcome in outcomes:
        if outcome.error is not None:
            rows.append([f"{outcome.method}, seed {outcome.seed}", f"failed: {outcome.error}", *[""] * 5])
    return rows


def markdown(rows: Sequence[Sequence[str]], notes: Mapping[str, str]) -> str:
    """The table as Markdown, its legend, and notes below it."""
    table = markdown_table(HEADER, rows, left=HEADER[:1])
    return with_notes(table, LEGEND, (f"{name}: {value}" for name, value in notes.items()))


def tidy_csv(outcomes: Sequence[Outcome]) -> str:
    """A line per run, failed ones too; unknown values are empty.

    Last come the ways of asking that were asked, and what ``EvaluationWriter`` measured.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ways = [name for name in PARTS if any(o.after.get(name) is not None for o in outcomes)]
    measures = list(dict.fromkeys(name for o in outcomes for name in o.measures))
    writer.writerow([*_CSV_HEADER, *ways, *measures])
    for o in outcomes:
        scores = [o.after[name] for name in SCORES]
        parts = [*(o.after.get(name) for name in ways), *(o.measures.get(name) for name in measures)]
        writer.writerow([o.method, o.seed, *scores, o.editing_seconds, o.leakage, o.error, *parts])
    return text.getvalue()


def write_tables(
    out: Path,
    rows: Sequence[Sequence[str]],
    outcomes: Sequence[Outcome],
    notes: Mapping[str, str],
    more: str = "",
    others: Sequence[Table] = (),
) -> None:
    """Writes ``compare.md``, with ``more`` at its end, ``compare.csv``, and ``compare.tex``, with other tables.

    Raises:
        InputError: If they cannot be written.
    """
    tables = [("Comparison", HEADER, rows), *(table for table in others if table[2])]
    tex = "\n".join(latex_table(title, header, cells, left=header[:1]) for title, header, cells in tables)
    for name, text in zip(TABLES, (markdown(rows, notes) + more, tidy_csv(outcomes), tex), strict=True):
        with whole_file(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")


def print_outcomes(rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints the rows as a table; the errors of failed runs are printed below it."""
    failed = [row for row in rows if not row[-1]]
    shown = [Row(row if row[-1] else [row[0], "failed"]) for row in rows]
    print_table(title, _SHORT, shown, left=_SHORT[:1], failures=(f"{row[0]} {row[1]}" for row in failed))


def _scores(percentages: Sequence[Mapping[str, float | None]]) -> list[str]:
    return [spread((p[name] for p in percentages), ".1f") for name in SCORES]
