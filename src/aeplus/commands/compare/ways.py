"""The second table of a comparison: success by the way in which it was asked, where there were several ways."""

from collections.abc import Mapping, Sequence

from aeplus.commands.runs.outcome import Outcome
from aeplus.metrics.success import WAYS
from aeplus.utils.tables import markdown_table, print_table, spread

TITLE = "By the way of asking (%)"
_LABELS = {"generalization": "Gen", "specificity": "Spe"}


def ways_asked(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """For each aspect the ways in which a finished run asked it."""
    return {
        aspect: [way for way in ways if any(o.after.get(f"{aspect}_{way}") is not None for o in outcomes)]
        for aspect, ways in WAYS.items()
    }


def ways_table(outcomes: Sequence[Outcome], methods: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the unedited model and the methods that ran; no rows where every aspect was asked in one way.

    Args:
        outcomes: The outcomes of the runs so far.
        methods: Labels in the order of the rows.
    """
    good = [outcome for outcome in outcomes if outcome.error is None]
    asked = {aspect: ways for aspect, ways in ways_asked(good).items() if len(ways) > 1}
    names = [(aspect, way) for aspect, ways in asked.items() for way in ways]
    header = ["method", *(f"{_LABELS[aspect]}, {way.replace('_', ' ')}" for aspect, way in names)]
    if not names:
        return header, []

    def row(label: str, percentages: Sequence[Mapping[str, float | None]]) -> list[str]:
        return [label, *(spread((p.get(f"{aspect}_{way}") for p in percentages), ".1f") for aspect, way in names)]

    first = {outcome.seed: outcome for outcome in reversed(good)}
    rows = [row("before", [o.before for o in first.values()])]
    for method in methods:
        if runs := [outcome for outcome in good if outcome.method == method]:
            rows.append(row(method, [o.after for o in runs]))
    return header, rows


def ways_note(outcomes: Sequence[Outcome]) -> str:
    """How Generalization and Specificity were asked, in a line."""
    known = {aspect: ways for aspect, ways in ways_asked([o for o in outcomes if o.error is None]).items() if ways}
    return "; ".join(f"{aspect}: {', '.join(ways).replace('_', ' ')}" for aspect, ways in known.items())


def ways_markdown(outcomes: Sequence[Outcome], methods: Sequence[str]) -> str:
    """The table as Markdown, with a line break before and after; nothing where there is none."""
    header, rows = ways_table(outcomes, methods)
    return f"\n{TITLE}:\n\n{markdown_table(header, rows, left=header[:1])}\n" if rows else ""


def print_ways(outcomes: Sequence[Outcome], methods: Sequence[str]) -> None:
    """Prints the table, where there is one."""
    header, rows = ways_table(outcomes, methods)
    if rows:
        print_table(TITLE, header, rows, left=header[:1])
