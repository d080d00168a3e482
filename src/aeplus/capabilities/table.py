"""The tasks' metrics in the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from aeplus.capabilities.tasks import METRICS, TASKS
from aeplus.tables import console

_TITLES = {"f1": "F1", "accuracy": "Accuracy", "mcc": "MCC"}
_WARNINGS = ("unanswered", "shortened")

Measured = Mapping[str, Mapping[str, float]]


def print_capabilities(states: Sequence[tuple[str, Measured]]) -> None:
    """Prints the metrics of each state of the model, one column each.

    Args:
        states: What each state is called (``before``), and what
            :func:`~aeplus.capabilities.measure.measure_capabilities` found.
    """
    table = Table(title="General capabilities (F1 and accuracy in %, MCC times 100)", title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for name, _ in states:
        table.add_column(name, justify="right")
    for task, values in states[0][1].items():
        shown = [metric for metric in METRICS if metric in values]
        for metric in shown:
            cells = (f"{measured[task][metric]:.1f}" for _, measured in states)
            heading = TASKS[task].title if metric == shown[0] else ""
            table.add_row(heading, _TITLES[metric], *cells, end_section=metric == shown[-1])
        for count in _WARNINGS:
            if any(measured[task][count] for _, measured in states):
                cells = (f"{measured[task][count]:.0f} of {measured[task]['items']:.0f}" for _, measured in states)
                table.add_row("", count, *cells, style="dim", end_section=True)
    console().print(table)


def print_harness(results: Measured) -> None:
    """Prints what the harness found: each metric with its standard error."""
    table = Table("task", "metric", title="Tasks of the harness", title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("standard error", justify="right")
    for task, values in results.items():
        for metric, value in values.items():
            if "_stderr" not in metric and "," in metric:
                error = values.get(metric.replace(",", "_stderr,"))
                table.add_row(task, metric.split(",")[0], f"{value:.4f}", "–" if error is None else f"{error:.4f}")
    console().print(table)
