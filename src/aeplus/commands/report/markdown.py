"""A report as Markdown: the same texts, escaped for it and for the HTML within it; figures are links to their files."""

import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from aeplus.commands.report.document import Block, Cell, Code, Document, Facts, Paragraph, Picture, Table
from aeplus.utils.tables import markdown_table


def markdown_page(document: Document, folder: Path) -> str:
    """The page.

    Args:
        document: The report.
        folder: Where it will lie; links to figures start there.
    """
    several = len(document.parts) > 1
    lines = [f"# {plain(document.title)}", *(f"**{plain(remark)}**" for remark in document.remarks)]
    for part in document.parts:
        lines += [f"## {plain(part.title)}"] if several else []
        lines += [plain(part.lead)] if part.lead else []
        lines.append(f"State: {plain(part.state)}.")
        for section in part.sections:
            lines.append(f"{'###' if several else '##'} {plain(section.title)}")
            for block in section.blocks:
                lines += _block(block, folder)
    return "\n\n".join([*lines, plain(document.made)]) + "\n"


def plain(text: str) -> str:
    """A text in one line that Markdown shows as it is: neither its own characters nor HTML mean anything."""
    return re.sub(r"([\\`*_\[\]~#])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _block(block: Block, folder: Path) -> Iterator[str]:
    if isinstance(block, Table):
        if block.title:
            yield f"**{plain(block.title)}**"
        header = [plain(name) for name in block.header]
        rows = [[_cell(cell) for cell in row] + [""] * (len(header) - len(row)) for row in block.rows]
        yield markdown_table(header, rows, left=header[: block.left])
        if block.note:
            yield plain(block.note)
    elif isinstance(block, Facts):
        yield "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in block.pairs)
    elif isinstance(block, Paragraph):
        yield f"**{plain(block.text)}**" if block.kind == "warning" else plain(block.text)
    elif isinstance(block, Picture):
        yield _picture(block, folder)
    elif isinstance(block, Code) and not block.folded:  # a folded file lies where the command says
        yield from _code(block)
    # A headline has nothing that the table below it has not.


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return plain(cell)
    return f"{plain(cell.text)} ({plain(cell.more)})" if cell.more else plain(cell.text)


def _picture(picture: Picture, folder: Path) -> str:
    if picture.path is None:
        return f"{plain(picture.title)}: drawn in the HTML page."
    path = quote(Path(os.path.relpath(picture.path, folder)).as_posix())
    return f"![{plain(picture.title)}]({path})"


def _code(block: Code) -> Iterator[str]:
    longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    if block.title:
        yield plain(block.title) + ":"
    yield f"{fence}bash\n{block.text.rstrip()}\n{fence}"
