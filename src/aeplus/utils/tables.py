"""Tables as Markdown and in the terminal. Texts of users and models are printed as they are, brackets included."""

import math
import os
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Row:
    """A row of a table in the terminal; missing cells at its end are empty.

    Attributes:
        cells: Its texts.
        style: A style of rich for the whole row, such as ``bold`` or ``dim``.
        end_section: Whether a line is drawn below it.
    """

    cells: Sequence[str]
    style: str | None = None
    end_section: bool = False


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """That nobody reads on (``| head``) ends the printing, not the run, as rich would."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def counted(number: int, thing: str) -> str:
    """A number of things, such as ``1 edit`` or ``2 edits``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def shown(value: float | None, form: str = ".1f") -> str:
    """A number as tables show it; a dash where there is none."""
    return "–" if value is None else format(value, form)


def with_deviation(mean: float, deviation: float | None, form: str) -> str:
    """A mean with its standard deviation, where there is one: ``95.0 ± 7.1``."""
    return format(mean, form) if deviation is None else f"{mean:{form}} ± {deviation:{form}}"


def spread(values: Iterable[float | None], form: str) -> str:
    """Mean ± sample standard deviation of the known values, or the only one; a dash if there is none.

    Of values that are not finite only their number is told.
    """
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    if not finite:
        return "not finite" if known else shown(None)
    text = with_deviation(statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, form)
    return text if len(finite) == len(known) else f"{text} ({len(finite)} of {len(known)} finite)"


def console() -> Console:
    """The terminal; output to a file, which has no margin, is wide."""
    terminal = _Terminal()
    return terminal if terminal.is_terminal else _Terminal(width=200)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str] | Row],
    left: Sequence[str] = (),
    *,
    no_wrap: Sequence[str] = (),
    show_lines: bool = False,
    failures: Iterable[str] = (),
) -> None:
    """Prints a table.

    Args:
        title: Its title.
        header: The columns' names.
        rows: The cells; a :class:`Row` where one has a style.
        left: Names of the left-aligned columns; the others are numbers and aligned right.
        no_wrap: Names of the columns whose cells are not wrapped.
        show_lines: Whether a line is drawn below every row.
        failures: Sentences to print below the table, in red.
    """
    table = Table(title=Text(title, "table.title"), title_justify="left", show_lines=show_lines)
    for name in header:
        justify = "left" if name in left else "right"
        table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=name in no_wrap)  # type: ignore[arg-type]
    for row in rows:
        row = row if isinstance(row, Row) else Row(row)
        table.add_row(*map(Text, row.cells), style=row.style, end_section=row.end_section)
    console().print(table)
    for sentence in failures:
        print_line(sentence, "red")


def print_line(text: str, style: str | None = None) -> None:
    """Prints a line of text as it is, never wrapped, so that paths can be copied."""
    console().print(Text(text), style=style, soft_wrap=True)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> str:
    """A table as Markdown, without a line break at its end.

    Args:
        header: The columns' names.
        rows: The cells.
        left: Names of the left-aligned columns; the others are numbers and aligned right.
    """
    rule = ["---" if name in left else "---:" for name in header]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in (header, rule, *rows))


def latex_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> str:
    """A table as a ``tabular`` of LaTeX with the lines of its package ``booktabs``; a line break at its end.

    Args:
        title: Its title, a comment above it.
        header: The columns' names.
        rows: The cells.
        left: Names of the left-aligned columns; the others are numbers and aligned right.
    """
    columns = "".join("l" if name in left else "r" for name in header)
    head, *lines = (" & ".join(map(_tex, line)) + r" \\" for line in (header, *rows))
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([f"% {' '.join(title.split())}", *body, r"\end{tabular}"]) + "\n"


def with_notes(table: str, legend: str, notes: Iterable[str] = ()) -> str:
    """A Markdown table as a file: followed by what its columns are, and a list of notes."""
    return "\n".join([table, "", legend, "", *(f"- {note}" for note in notes)]) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[*"},  # which the end of a line before would take for its own
}
_TEX |= {"P\u0303": r"$\tilde{P}$", "±": r"$\pm$", "–": "--", "‖": r"$\|$", "×": r"$\times$", "σ": r"$\sigma$"}
_TEX |= {"Λ": r"$\Lambda$", "λ": r"$\lambda$", "τ": r"$\tau$", "β": r"$\beta$", "ε": r"$\epsilon$"}
_SIGNS = re.compile("|".join(map(re.escape, _TEX)))


def _tex(text: str) -> str:
    return _SIGNS.sub(lambda sign: _TEX[sign[0]], text.replace("\n", " "))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
