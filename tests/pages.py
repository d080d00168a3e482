"""What a page of HTML shows: its tables and texts, its tags and what it would load."""

from html.parser import HTMLParser
from pathlib import Path

_VOID = ("meta", "link", "br", "wbr", "img", "input", "hr")


class Shown(HTMLParser):
    """A page.

    Attributes:
        tables: Each table's rows, as texts; a second line of a cell follows a ``|``.
        text: Everything that is shown.
        tags: The names of all elements.
        addresses: What ``src`` and ``href`` name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.text, self.tags, self.addresses = "", list[str](), list[str]()
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "small":
            self.tables[-1][-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    def table(self, *header: str) -> list[list[str]]:
        """The rows of the table whose header begins so."""
        (found,) = [table for table in self.tables if tuple(table[0][: len(header)]) == header]
        return found[1:]
