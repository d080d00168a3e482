"""The table at the end of a run."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from aeplus.report import RunReport

_NAMES = ("efficacy", "generalization", "specificity", "score")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def print_summary(report: RunReport, folder: Path, model: Path | None) -> None:
    """Prints Efficacy, Generalization, Specificity and Score before and after, and where everything lies."""
    console = Console()
    table = Table(title=f"{report.edits} edits of {report.model} by {report.method} (%)", title_justify="left")
    table.add_column("")
    for name in _NAMES:
        table.add_column(name.capitalize(), justify="right")
    table.add_row("before", *(_percent(report.before[name]) for name in _NAMES))
    table.add_row("after", *(_percent(report.after[name]) for name in _NAMES), style="bold")
    console.print(table)
    console.print(
        f"{report.seconds['total']:.0f} s, {report.seconds['statistics']:.0f} s of it statistics", style="dim"
    )
    for what, place in (("metrics", folder / "metrics.json"), ("edited model", model)):
        if place is not None:
            console.print(f"{what}: {place}", soft_wrap=True)
    console.print(f"TensorBoard: tensorboard --logdir {folder}", soft_wrap=True)


def print_validation(metrics: dict[str, Tensor]) -> None:
    """Prints what ``validate`` measured: on the validation set, and on all the edits' test prompts."""
    table = Table(title="Measured (%)", title_justify="left")
    table.add_column("")
    for name in _NAMES:
        table.add_column(name.capitalize(), justify="right")
    for what in ("validation", "edits"):
        values = (metrics.get(f"{what}/{name}") for name in _NAMES)
        table.add_row(what, *(_percent(None if value is None else float(value)) for value in values))
    Console().print(table)
