"""The report before a run, in the terminal."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from aeplus.analysis.finding import Finding
from aeplus.tables import console


def print_findings(findings: Sequence[Finding], rows: int, title: str) -> None:
    """Prints the first findings; they should come the most conflicting first.

    Args:
        findings: All of them, in order.
        rows: How many to print.
        title: What stands above the table.
    """
    table = Table(title=escape(title), title_justify="left", show_lines=True)
    for name, justify in (("edit", "right"), ("prompt → target, answer now", "left"), ("s(K0), text", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for name in ("s(Kp), edit", "s in batch, edit", "‖r‖"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remarks", overflow="fold")
    for finding in findings[:rows]:
        table.add_row(*(escape(cell) for cell in _row(finding)), style="bold" if finding.contradictions else None)
    place = console()
    place.print(table)
    if len(findings) > rows:
        place.print(f"{len(findings) - rows} more edits stand in the files", style="dim")


def _row(f: Finding) -> list[str]:
    residual = "–" if f.residual is None else f"{f.residual:.3g}{' smoothed' if f.smoothed else ''}"
    return [
        str(f.edit),
        f"{f.prompt} → {f.target}\nnow: {_short(f.answer, 40)}",
        f"{f.s_K0:.3f}\n{_short(f.nearest_K0, 40, end=True)}",
        f"{f.s_Kp:.3f}" + ("" if f.nearest_Kp is None else f", {f.nearest_Kp}"),
        f"{f.s_batch:.3f}" + ("" if f.nearest_batch is None else f", {f.nearest_batch}"),
        residual,
        "; ".join(f.remarks()),
    ]


def _short(text: str, length: int, end: bool = False) -> str:
    """At most so many characters of a text in one line, its beginning or its end."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    return "…" + text[-length:] if end else text[:length] + "…"
