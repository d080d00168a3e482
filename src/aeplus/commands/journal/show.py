"""``aeplus log``, ``aeplus show`` and ``aeplus verify``."""

import json
from argparse import Namespace
from typing import Any

from aeplus.journal import Journal, LogLine
from aeplus.journal.base import load_base
from aeplus.utils.tables import Row, counted, print_line, print_table

_HEADER = ["entry", "time (UTC)", "what", "edits", "in the model", "Score on validation", "kB"]


def log(options: Namespace) -> int:
    """Prints a line for every record."""
    journal = Journal.open(options.journal)
    lines = journal.log()
    header = journal.chain.header
    held = sum(line.active for line in lines)
    title = f"{counted(held, 'edit')} of {header['model']['model']} at layers {', '.join(map(str, header['layers']))}"
    rows = [Row(_cells(line), style=None if line.active or line.kind == "undo" else "dim") for line in lines]
    print_table(title, _HEADER, rows, left=_HEADER[1:3])
    if options.edits:
        rows = [Row(cells) for line in lines if line.kind != "undo" for cells in _edits(journal, line.number)]
        print_table("Edits", ["entry", "edit", "prompt", "target", ""], rows, left=["prompt", "target", ""])
    return 0


def show(options: Namespace) -> int:
    """Prints one record.

    Raises:
        InputError: If there is no such record.
    """
    journal = Journal.open(options.journal)
    content = journal.show(options.entry)
    if options.json:
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return 0
    kind = content["kind"]
    print_line(f"entry {options.entry}, {kind}, {content['time']}, aeplus {content['aeplus']}", style="bold")
    if kind == "undo":
        out = "; ".join(f"entry {n}: {counted(len(edits), 'edit')}" for n, edits in content["takes"].items())
        print_line(f"took out by {content['mode']}: {out}")
        if content["by"]:
            print_line(f"solved again: entries {', '.join(map(str, content['by']))}")
    else:
        settings, report = content["settings"]["model"], content["report"]
        print_line(f"method {settings['method']['name']}, seed {settings['seed']}, layers {content['layers']}")
        rows = [Row(cells[1:]) for cells in _edits(journal, options.entry)]
        print_table("Edits", ["edit", "prompt", "target", ""], rows, left=["prompt", "target", ""])
        names = ("conflict_preserved", "conflict_prior", "residual_norm", "rank", "leakage", "validation_score")
        print_table("Measured", ["", "value"], [[name, _number(report.get(name))] for name in names], left=[""])
    for name, value in content.get("weights", {}).get("after", {}).items():
        print_line(f"{name} afterwards: {value}", style="dim")
    print_line(f"previous: {content['previous']}", style="dim")
    print_line(f"digest: {content['digest']}", style="dim")
    return 0


def verify(options: Namespace) -> int:
    """Checks everything.

    Raises:
        InputError: If a record is damaged, or the model is another.
    """
    journal = Journal.open(options.journal)
    journal.verify()
    count = len(journal.chain.records)
    print_line(f"{journal.folder}: whole, {count} {'entry' if count == 1 else 'entries'}")
    if options.model is not None:
        model, _ = load_base(journal.chain, options.model)
        journal.verify(model)
        print_line(f"{options.model}: the model that the journal was made with, unedited")
    return 0


def _cells(line: LogLine) -> list[str]:
    what = {"batch": line.method, "undo": "undo", "replayed": f"{line.method}, solved again"}[line.kind]
    count = f"−{line.edits}" if line.kind == "undo" else str(line.edits)
    time = line.time.removesuffix("+00:00").replace("T", " ")
    active = "" if line.kind == "undo" else str(line.active)
    return [str(line.number), time, what, count, active, _number(line.score), f"{line.bytes / 1000:.1f}"]


def _edits(journal: Journal, number: int) -> list[list[str]]:
    content = journal.show(number)
    active = {record.number: dropped for record, dropped in journal.active}
    rows = []
    for index, edit in enumerate(content["edits"]):
        out = number not in active or index in active[number]
        prompt = edit["prompt"].replace("{}", edit["subject"])
        rows.append([str(number), str(index + 1), prompt, edit["target_new"], "taken out" if out else ""])
    return rows


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
