"""A report before it is HTML or Markdown: parts, sections and what they hold, as plain texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a second, smaller line.

    Attributes:
        text: What it says.
        more: What stands below it: an interval, the paper's number.
    """

    text: str
    more: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        title: Its title.
        header: The columns' names.
        rows: Its cells; rows may be shorter than the header, where the last cell spans the rest.
        left: How many columns, from the first, hold text; the others are numbers.
        note: What its columns are.
        folded: Whether a page shows it only when asked for.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph.

    Attributes:
        text: What it says.
        kind: ``plain``, ``quiet`` for a remark, or ``warning`` for what a reader must not miss.
    """

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        title: What it shows.
        content: The file.
        kind: ``image/svg+xml`` or ``image/png``.
        path: Where it lies; ``None`` if it was drawn for the report.
        wide: Whether it takes the whole width.
    """

    title: str
    content: bytes
    kind: str
    path: Path | None = None
    wide: bool = False


@dataclass(frozen=True)
class Code:
    """Commands, or a file.

    Attributes:
        text: The lines.
        title: What stands above them.
        folded: Whether they are shown only when asked for.
    """

    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Headline:
    """The numbers to see first: name, value and what it was before."""

    numbers: Sequence[tuple[str, str, str]]


Block = Table | Facts | Paragraph | Picture | Code | Headline


@dataclass
class Section:
    """A section of a part."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Part:
    """What is said of one run, one comparison or one experiment.

    Attributes:
        title: Its title.
        lead: A sentence or two below it.
        sections: Its sections.
        state: ``complete``, or what is missing.
    """

    title: str
    lead: str
    sections: list[Section]
    state: str = "complete"


@dataclass
class Document:
    """A report.

    Attributes:
        parts: Its parts.
        remarks: What is said of all of them.
        made: How it was made.
    """

    parts: list[Part]
    remarks: list[str] = field(default_factory=list)
    made: str = ""

    @property
    def title(self) -> str:
        """Its only part's, or what kind of page it is."""
        return self.parts[0].title if len(self.parts) == 1 else f"Report of {len(self.parts)} parts"
