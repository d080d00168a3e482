"""The report of ``aeplus inspect``: a table in the terminal, and one self-contained HTML page."""

import base64
import html
from collections.abc import Mapping, Sequence

from aeplus.commands.inspect.findings import Finding
from aeplus.utils.tables import Row, print_line, print_table

_HEADER = (
    "edit", "batch", "prompt", "target", "current answer", "s(k, K0)", "‖P k‖/‖k‖", "nearest preserved text",
    "s(k, Kp)", "nearest previous edit", "s in batch", "nearest in batch", "‖r‖", "smoothed", "remarks",
)  # fmt: skip
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { max-width: 60rem; } img { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem; } dd { margin: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { border: 1px solid #ccc; padding: .3rem .5rem; text-align: left; vertical-align: top; max-width: 22rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #eee; }
th button { all: unset; cursor: pointer; font-weight: bold; } th button:focus-visible { outline: 2px solid #1b4f72; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tr.contradiction td { background: #f6e3d7; } tr:target td { outline: 2px solid #1b4f72; }
"""
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const value = (row) => {
      const cell = row.cells[column];
      return cell.classList.contains("number") ? Number(cell.dataset.value || "-1") : cell.textContent;
    };
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      return (typeof x === "number" ? x - y : x.localeCompare(y)) * (down ? 1 : -1);
    });
    body.append(...rows);
  });
}
"""


def html_page(
    findings: Sequence[Finding], figures: Mapping[str, bytes], facts: Mapping[str, str], remarks: Sequence[str]
) -> str:
    """The page.

    Args:
        findings: One per edit, in the order of the rows.
        figures: PNGs by their titles.
        facts: Names and values for the head of the page.
        remarks: Remarks for the reader, a paragraph each.
    """
    images = [
        f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(image).decode()}">'
        for title, image in figures.items()
    ]
    about = [f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items()]
    head = "".join(f'<th scope="col"><button>{html.escape(name)}</button></th>' for name in _HEADER)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Inspection of edits</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            "<h1>Inspection of edits</h1>",
            f"<dl>{''.join(about)}</dl>",
            *(f"<p>{html.escape(remark)}</p>" for remark in remarks),
            *images,
            "<h2>Edits, the most conflicting first</h2>",
            f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>',
            *(_row(finding) for finding in findings),
            f"</tbody>\n</table></div>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _row(f: Finding) -> str:
    smoothed = "" if f.smoothed is None else "yes" if f.smoothed else "no"
    cells = [
        _number(f.edit, "d"),
        _number(f.batch, "d"),
        *(_text(text) for text in (f.prompt, f"{f.target} (at {f.place})" if f.place else f.target, f.answer)),
        _number(f.s_K0),
        _number(f.free),
        _text(f.nearest_K0),
        _number(f.s_Kp),
        _link(f.nearest_Kp),
        _number(f.s_batch),
        _link(f.nearest_batch),
        _number(f.residual, ".4g"),
        _text(smoothed),
        _text("; ".join(f.remarks())),
    ]
    kind = ' class="contradiction"' if f.contradictions else ""
    return f'<tr id="edit-{f.edit}"{kind}>{"".join(cells)}</tr>'


def _text(text: str) -> str:
    return f"<td>{html.escape(text)}</td>"


def _number(value: float | None, form: str = ".3f") -> str:
    known = "" if value is None else format(value, form)
    return f'<td class="number" data-value="{"" if value is None else value}">{known}</td>'


def _link(edit: int | None) -> str:
    """A cell that links to another edit's row."""
    known = "" if edit is None else f'<a href="#edit-{edit}">{edit}</a>'
    return f'<td class="number" data-value="{"" if edit is None else edit}">{known}</td>'


_COLUMNS = (
    "edit", "prompt → target, current answer", "s(K0), ‖Pk‖/‖k‖, text", "s(Kp), edit", "s in batch, edit", "‖r‖",
    "remarks",
)  # fmt: skip


def print_findings(findings: Sequence[Finding], rows: int, title: str) -> None:
    """Prints the first findings; they should be sorted with the most conflicting first.

    Args:
        findings: All of them, in order.
        rows: Number of rows to print.
        title: The table's title.
    """
    print_table(
        title,
        _COLUMNS,
        [Row(_cells(finding), "bold" if finding.contradictions else None) for finding in findings[:rows]],
        left=(_COLUMNS[1], _COLUMNS[2], _COLUMNS[6]),
        no_wrap=_COLUMNS[3:6],
        show_lines=True,
    )
    if len(findings) > rows:
        print_line(f"{len(findings) - rows} more edits in the files", "dim")


def _cells(f: Finding) -> list[str]:
    residual = "–" if f.residual is None else f"{f.residual:.3g}{' smoothed' if f.smoothed else ''}"
    return [
        str(f.edit),
        f"{f.prompt} → {f.target}\n{_edited(f)}now: {_short(f.answer, 40)}",
        f"{f.s_K0:.3f}{'' if f.free is None else f', {f.free:.2f}'}\n{_short(f.nearest_K0, 40, end=True)}",
        f"{f.s_Kp:.3f}" + ("" if f.nearest_Kp is None else f", {f.nearest_Kp}"),
        f"{f.s_batch:.3f}" + ("" if f.nearest_batch is None else f", {f.nearest_batch}"),
        residual,
        "; ".join(f.remarks()),
    ]


def _edited(f: Finding) -> str:
    """The line of the edited token and the target's tokens."""
    return f"at: {_short(f.place, 60)}\n" if f.place else ""


def _short(text: str, length: int, end: bool = False) -> str:
    """At most ``length`` characters of a text in one line, its beginning or its end."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    return "…" + text[-length:] if end else text[:length] + "…"
