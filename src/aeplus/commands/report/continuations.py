"""The continuations of an experiment, read from the pages that ``aeplus cases`` writes."""

import re
from collections.abc import Sequence
from pathlib import Path

from aeplus.commands.report.document import Table
from aeplus.commands.report.gather import inside
from aeplus.errors import InputError
from aeplus.utils.jsonl import read_utf8

_CELLS = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\([\\`*_\[\]<>~#&|])")


def continuation_tables(folder: Path, names: Sequence[str]) -> list[Table]:
    """A table for each edit that the pages show: a row for the unedited model and each method, a column for a prompt.

    Args:
        folder: The experiment's folder.
        names: Its pages, relative to the folder; with several, titles say which.

    Raises:
        InputError: If a page is missing, lies elsewhere or is none of ``aeplus cases``.
    """
    tables = []
    for name in names:
        path = inside(folder, name)
        _, *edits = re.split(r"(?m)^## ", read_utf8(path, "a page of continuations"))
        if not edits:
            msg = f"expected a page of aeplus cases in {path}, got one without edits; make the experiment again."
            raise InputError(msg)
        for edit in edits:
            title, *rest = (line for line in edit.splitlines() if line.strip())
            note, lines = "".join(line for line in rest if line[0] != "|"), [line for line in rest if line[0] == "|"]
            if len(lines) < 3 or len({len(_CELLS.split(line)) for line in lines}) > 1:
                msg = f"expected a table for every edit in {path}, got another text; make the experiment again."
                raise InputError(msg)
            header, _, *asked = ([_plain(cell) for cell in _CELLS.split(line)[1:-1]] for line in lines)
            models = list(zip(header, *asked, strict=True))[2:]  # a row for each, so that a phone shows the answers
            columns = ["", *(f"{kind}: {prompt}" for kind, prompt, *_ in asked)]
            of = f"{path.stem}, " if len(names) > 1 else ""
            tables.append(Table(of + _plain(title), columns, models, left=len(columns), note=_plain(note)))
    return tables


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text).strip()
