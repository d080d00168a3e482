"""The files: each set as JSON Lines, and a card with averages and histograms of the measurements."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aeplus.commands.alphaset.build import ConflictSet
from aeplus.data.formats.plain import as_record
from aeplus.edits import EditRequest
from aeplus.utils.jsonl import write_jsonl
from aeplus.utils.paths import whole_file
from aeplus.utils.tables import print_table

QUANTITIES = {"conflict_preserved": "s(k, K0)", "conflict_prior": "s(k, Kp)", "residual_norm": "‖r‖"}
FREE = {"free": "‖P k‖ / ‖k‖"}
"""A further quantity, where C is known."""
GROUPS = ("conflict", "fill", "all")
"""Records with conflict, all others, and both."""
_BINS = 20
_DIGITS = 4


def measured_values(conflict_set: ConflictSet) -> dict[str, list[float]]:
    """For each quantity that was measured its values, one per record."""
    values = {
        "conflict_preserved": conflict_set.conflict_preserved,
        "conflict_prior": conflict_set.conflict_prior,
        "residual_norm": [record.residual_norm for record in conflict_set.records],
        **({} if conflict_set.free is None else {"free": conflict_set.free}),
    }
    return {name: [round(v, _DIGITS) for v in part] for name, part in values.items()}


def set_card(conflict_set: ConflictSet, longest: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A set's card.

    Args:
        conflict_set: The set.
        longest: The largest ‖r‖ of all sets, so that their histograms are comparable.
        settings: How the sets were made.
    """
    parts = [record.part for record in conflict_set.records]
    groups = {
        "conflict": [i for i, part in enumerate(parts) if part == "conflict"],
        "fill": [i for i, part in enumerate(parts) if part != "conflict"],
        "all": list(range(len(parts))),
    }
    values = measured_values(conflict_set)
    averages = {g: {n: _mean([v[i] for i in members]) for n, v in values.items()} for g, members in groups.items()}
    tops = {"conflict_preserved": 1.0, "conflict_prior": 1.0, "residual_norm": longest, "free": 1.0}
    histograms = {
        name: {
            "edges": [round(tops[name] * b / _BINS, _DIGITS) for b in range(_BINS + 1)],
            **{g: _counts([v[i] for i in members], tops[name]) for g, members in groups.items()},
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


K0_FILE = "k0.jsonl"
"""The K0 facts, for ``model.preserved.facts``."""
SET_FILES = (*(f"alphaset{n}{ending}" for n in (1, 2, 3) for ending in (".jsonl", ".card.json")), "card.json", K0_FILE)
"""What :func:`write_sets` writes."""


def write_sets(
    sets: Sequence[ConflictSet], facts: Sequence[EditRequest], folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes ``alphaset1.jsonl`` with ``alphaset1.card.json``, and so on, ``card.json`` on all of them, and K0.

    Args:
        sets: The sets.
        facts: The K0 facts.
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
        measured = measured_values(conflict_set)
        numbers = [dict(zip(measured, v, strict=True)) for v in zip(*measured.values(), strict=True)]
        lines = [
            {**as_record(record.request), "part": record.part, **own}
            for record, own in zip(conflict_set.records, numbers, strict=True)
        ]
        write_jsonl(folder / f"{conflict_set.name}.jsonl", lines)
        _write_card(folder / f"{conflict_set.name}.card.json", card)
    write_jsonl(folder / K0_FILE, [as_record(fact.without_tests()) for fact in facts])
    overall = {"averages": averages, **settings}
    _write_card(folder / "card.json", overall)
    return overall


def print_averages(averages: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints the averages as a table: a row per set, with conflict / fill / all."""
    measured = {**QUANTITIES, **(FREE if all("free" in groups["all"] for groups in averages.values()) else {})}
    rows = [
        [name, *(" / ".join(f"{groups[g][q]:.3f}" for g in GROUPS) for q in measured)]
        for name, groups in averages.items()
    ]
    print_table(f"Averages ({' / '.join(GROUPS)})", ["set", *measured.values()], rows, left=("set",))


def records_digest(requests: Sequence[EditRequest]) -> str:
    """A digest of some records, 32 hexadecimal digits; it does not depend on where their file is."""
    text = json.dumps([_digested(request) for request in requests], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digested(request: EditRequest) -> dict[str, Any]:
    fields = asdict(request)
    # Later than the digests of sets that exist.
    added = {
        "join": "auto",
        "turns": (),
        "context_at": 0,
        "asked": "",
        "openings": (),
        "statements": (),
        "attribute": "",
    }
    return {name: value for name, value in fields.items() if name not in added or value != added[name]}


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), _DIGITS)


def _counts(values: Sequence[float], top: float) -> list[int]:
    """The number of values in each of equally wide bins from 0 to ``top``."""
    counts = [0] * _BINS
    for value in values:
        counts[min(int(value / top * _BINS), _BINS - 1)] += 1
    return counts


def _write_card(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with each list of numbers on one line."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    text = re.sub(r"\[[\d.,\s]*\]", lambda match: " ".join(match[0].split()), text)
    with whole_file(path) as scratch:
        scratch.write_text(text + "\n", "utf-8")
