"""A report as one HTML page: no script, nothing that is loaded from elsewhere, every text escaped."""

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from aeplus.commands.report.document import (
    Block,
    Cell,
    Code,
    Document,
    Facts,
    Headline,
    Paragraph,
    Part,
    Picture,
    Section,
    Table,
)
from aeplus.commands.report.style import CSS

# A browser that reads this loads and runs nothing, whatever a run's files hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def html_page(document: Document) -> str:
    """The page.

    Args:
        document: The report.
    """
    several = len(document.parts) > 1
    body = [f"<h1>{escape(document.title)}</h1>"]
    if not several:
        body += _beginning(document.parts[0])
    body += [f'<p class="warning">{escape(remark)}</p>' for remark in document.remarks]
    body.append(_contents(document.parts))
    for number, part in enumerate(document.parts, start=1):
        if several:
            body += [f'<h2 id="part-{number}">{escape(part.title)}</h2>', *_beginning(part)]
        for place, section in enumerate(part.sections, start=1):
            body += _section(section, f"s-{number}-{place}", "h3" if several else "h2")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(document.title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            f"<footer>{escape(document.made)}</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _beginning(part: Part) -> Iterator[str]:
    if part.lead:
        yield f'<p class="lead">{escape(part.lead)}</p>'
    yield f'<p class="{"state" if part.state == "complete" else "state open"}">{escape(part.state)}</p>'


def _contents(parts: Sequence[Part]) -> str:
    entries = []
    for number, part in enumerate(parts, start=1):
        if len(parts) > 1:
            entries.append(f'<li class="part"><a href="#part-{number}">{escape(part.title)}</a></li>')
        entries += [
            f'<li><a href="#s-{number}-{place}">{escape(section.title)}</a></li>'
            for place, section in enumerate(part.sections, start=1)
        ]
    return f'<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>'


def _section(section: Section, name: str, heading: str) -> Iterator[str]:
    yield f'<section aria-labelledby="{name}">'
    yield f'<{heading} id="{name}">{escape(section.title)}</{heading}>'
    for pictures, blocks in groupby(section.blocks, lambda block: isinstance(block, Picture)):
        shown = [_block(block) for block in blocks]
        yield "\n".join(['<div class="figures">', *shown, "</div>"] if pictures else shown)
    yield "</section>"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Facts):
        return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in block.pairs)}</dl>"
    if isinstance(block, Paragraph):
        return f'<p class="{escape(block.kind)}">{escape(block.text)}</p>'
    if isinstance(block, Picture):
        data = base64.b64encode(block.content).decode()
        # As an image, so that whatever an SVG holds neither runs nor loads anything.
        image = f'<img alt="{escape(block.title)}" src="data:{block.kind};base64,{data}">'
        pane = f'<div class="pane"{_FOCUS if block.wide else ""}>{image}</div>'
        kind = ' class="wide"' if block.wide else ""
        return f"<figure{kind}>{pane}<figcaption>{escape(block.title)}</figcaption></figure>"
    if isinstance(block, Headline):
        numbers = (
            f"<div><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(more)}</span></div>"
            for name, value, more in block.numbers
        )
        return f'<div class="headline">{"".join(numbers)}</div>'
    return _code(block)


_BREAK = re.compile(r"([_:/,=]+)(?=[^\s_:/,=])")  # where a long name may go on in the next line
_LONG = 40  # characters, above which a column is wide
_FOCUS = ' tabindex="0"'  # so that the keyboard can scroll it


def _code(block: Code) -> str:
    if block.folded:
        return f"<details><summary>{escape(block.title)}</summary><pre>{escape(block.text)}</pre></details>"
    title = f"<p>{escape(block.title)}</p>" if block.title else ""
    return f'{title}<pre class="command">{escape(block.text)}</pre>'


def _table(table: Table) -> str:
    kinds = ["text" if index < table.left else "number" for index in range(len(table.header))]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in zip(table.header, kinds, strict=True)
    )
    rows = "\n".join(f"<tr>{''.join(_row(row, kinds))}</tr>" for row in table.rows)
    title = f"<h4>{escape(table.title)}</h4>" if table.title and not table.folded else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    label = escape(table.title or "table")
    whole = (
        f'<div class="table">{title}<div class="scroll" role="group" aria-label="{label}"{_FOCUS}>'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{note}</div>"
    )
    return f"<details><summary>{label}</summary>{whole}</details>" if table.folded else whole


def _row(row: Sequence[str | Cell], kinds: Sequence[str]) -> Iterator[str]:
    for index, (cell, kind) in enumerate(zip(row, kinds, strict=False)):
        text, more = (cell.text, cell.more) if isinstance(cell, Cell) else (cell, "")
        small = f"<small>{escape(more)}</small>" if more else ""
        if index == 0:
            yield f'<th scope="row">{_breakable(text)}{small}</th>'
        elif index == len(row) - 1 and len(row) < len(kinds):
            yield f'<td class="text error" colspan="{len(kinds) - index}">{escape(text)}{small}</td>'
        else:
            long = " long" if kind == "text" and len(text) > _LONG else ""
            yield f'<td class="{kind}{long}">{_breakable(text) if kind == "text" else escape(text)}{small}</td>'


def _breakable(text: str) -> str:
    return _BREAK.sub(r"\1<wbr>", escape(text))
