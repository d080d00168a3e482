"""What is written: each set as plain JSON Lines, and a card with the averages and histograms of what was measured."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from aeplus.commands.alphaset.build import ConflictSet
from aeplus.edits import EditRequest
from aeplus.utils.paths import whole_file
from aeplus.utils.tables import console

QUANTITIES = {"conflict_preserved": "s(k, K0)", "conflict_prior": "s(k, Kp)", "residual_norm": "‖r‖"}
GROUPS = ("conflict", "fill", "all")
"""Records with conflict, all others, and both."""
_BINS = 20
_DIGITS = 4


def measured_values(conflict_set: ConflictSet) -> dict[str, list[float]]:
    """For each quantity its value of every record."""
    residuals = [record.residual_norm for record in conflict_set.records]
    values = (conflict_set.conflict_preserved, conflict_set.conflict_prior, residuals)
    return {name: [round(v, _DIGITS) for v in part] for name, part in zip(QUANTITIES, values, strict=True)}


def set_card(conflict_set: ConflictSet, longest: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A set's card.

    Args:
        conflict_set: The set.
        longest: The largest ‖r‖ of all sets, so that their histograms can be compared.
        settings: How the sets were made.
    """
    parts = [record.part for record in conflict_set.records]
    groups = {
        "conflict": [i for i, part in enumerate(parts) if part == "conflict"],
        "fill": [i for i, part in enumerate(parts) if part != "conflict"],
        "all": list(range(len(parts))),
    }
    values = measured_values(conflict_set)
    averages = {g: {n: _mean([v[i] for i in places]) for n, v in values.items()} for g, places in groups.items()}
    tops = {"conflict_preserved": 1.0, "conflict_prior": 1.0, "residual_norm": longest}
    histograms = {
        name: {
            "edges": [round(tops[name] * b / _BINS, _DIGITS) for b in range(_BINS + 1)],
            **{g: _counts([v[i] for i in places], tops[name]) for g, places in groups.items()},
        }
        for name, v in values.items()
    }
    return {
        "set": conflict_set.name,
        "records": len(parts),
        "parts": {part: parts.count(part) for part in ("conflict", "prior", "fill")},
        "averages": averages,
        "histograms": histograms,
        **settings,
    }


def write_sets(sets: Sequence[ConflictSet], folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes ``alphaset1.jsonl`` with ``alphaset1.card.json``, and so on, and ``card.json`` on all of them.

    Args:
        sets: The sets.
        folder: Where to write.
        settings: How the sets were made.

    Returns:
        The contents of ``card.json``.

    Raises:
        InputError: If a file cannot be written.
    """
    longest = max(value for s in sets for value in measured_values(s)["residual_norm"]) or 1.0
    averages = {}
    for conflict_set in sets:
        card = set_card(conflict_set, longest, settings)
        averages[conflict_set.name] = card["averages"]
        numbers = [
            dict(zip(QUANTITIES, v, strict=True)) for v in zip(*measured_values(conflict_set).values(), strict=True)
        ]
        lines = [
            {**plain_record(record.request), "part": record.part, **measured}
            for record, measured in zip(conflict_set.records, numbers, strict=True)
        ]
        with whole_file(folder / f"{conflict_set.name}.jsonl") as scratch:
            scratch.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        _write_json(folder / f"{conflict_set.name}.card.json", card)
    overall = {"averages": averages, **settings}
    _write_json(folder / "card.json", overall)
    return overall


def print_averages(averages: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints the averages as a table: a line for each set, with conflict / fill / all."""
    table = Table("set", title=f"Averages ({' / '.join(GROUPS)})", title_justify="left")
    for name in QUANTITIES.values():
        table.add_column(name, justify="right")
    for name, groups in averages.items():
        table.add_row(name, *(" / ".join(f"{groups[g][q]:.3f}" for g in GROUPS) for q in QUANTITIES))
    console().print(table)


def plain_record(request: EditRequest) -> dict[str, Any]:
    """An edit as a plain record that the readers load; what is empty is left out."""

    def kept(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if value not in ("", None, (), [])}

    fields = asdict(request)
    for name in ("neighborhood", "axes"):
        fields[name] = [kept(probe) for probe in fields[name]]
    return kept(fields)


def records_digest(requests: Sequence[EditRequest]) -> str:
    """A digest of some records as they were read, 32 hexadecimal digits; the same for a file and a copy elsewhere."""
    text = json.dumps([asdict(request) for request in requests], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), _DIGITS)


def _counts(values: Sequence[float], top: float) -> list[int]:
    """How many values lie in each of equally wide bins from 0 to ``top``."""
    counts = [0] * _BINS
    for value in values:
        counts[min(int(value / top * _BINS), _BINS - 1)] += 1
    return counts


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    lists = re.sub(r"\[[\d.,\s]*\]", lambda found: " ".join(found[0].split()), text)  # one line for a list of numbers
    with whole_file(path) as scratch:
        scratch.write_text(lists + "\n", "utf-8")
