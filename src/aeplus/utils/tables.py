"""Tables as Markdown, and where to print them."""

from collections.abc import Sequence

from rich.console import Console


def console() -> Console:
    """The terminal; a file, which has no margin to fit, is wide."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=200)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """A table as Markdown, without a line break at its end.

    Args:
        header: The columns' names.
        rows: The cells.
        left: Names of the columns that are text, and so begin at the left.
    """
    rule = ["---" if name in left else "---:" for name in header]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in (header, rule, *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
