"""From sources to edits: records of any format, numbered and named, and neighborhoods from other records.

Sources are in :mod:`aeplus.data.sources`, formats in :mod:`aeplus.data.formats`.
"""

import random
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

from aeplus.data.formats import parse_record
from aeplus.data.formats.fields import Notes, Target, missing, number_text
from aeplus.data.sources import read_records
from aeplus.edits import EditRequest, Probe, held_out_prompts, normal
from aeplus.errors import InputError
from aeplus.texts import check_join

_NAMED = 12  # fields that a warning names
_DECIMAL = re.compile(r"-?\d+\.0")


def read_requests(
    source: str | Path,
    limit: int | None = None,
    target: Target = "answers",
    skip_unusable: bool = False,
    join: str = "auto",
) -> list[EditRequest]:
    """Reads the edits of a file or of a data set on the hub.

    Args:
        source: A file or a hub id; see :func:`~aeplus.data.sources.read_records`.
        limit: Maximum number of records, from the first; ``None`` reads all. A record may make several edits.
        target: In ZsRE and AlphaSet records, the field of the new answer: the first of ``answers`` (as in
            ROME, MEMIT and AlphaEdit) or ``alt`` (as in EasyEdit); in AKEW's, ``text`` is the unstructured text. Other
            formats have only one.
        skip_unusable: See :func:`read_stream`.
        join: How prompt and answer are joined where a record's field ``join`` does not say; see
            :func:`aeplus.texts.separator`.

    Raises:
        InputError: If the source cannot be read or a record cannot be used.
    """
    if limit is not None and limit < 1:
        msg = f"expected 'limit' of at least 1, or none for all records, got {limit}; give a larger number."
        raise InputError(msg)
    return [edit for edits in read_stream([source], 0, limit, target, skip_unusable, join) for edit in edits]


def read_stream(
    sources: Sequence[str | Path],
    start: int = 0,
    stop: int | None = None,
    target: Target = "answers",
    skip_unusable: bool = False,
    join: str = "auto",
) -> list[list[EditRequest]]:
    """Reads several sources in a row, record by record.

    Args:
        sources: Files or hub ids.
        start: Number of records, counted over all sources, to skip without parsing them.
        stop: The record to stop before, counted likewise; ``None`` reads to the end.
        target: See :func:`read_requests`.
        skip_unusable: Leave out records that cannot be used, with a warning that gives their number and the first
            reason, instead of refusing the source. A test prompt that cannot be used is left out alone, and counted.
        join: See :func:`read_requests`.

    Returns:
        For each record its edits, at least one.

    Raises:
        InputError: If a source cannot be read, or a record cannot be used.
    """
    numbered = (
        # Cases of several sources may have the same number.
        _Numbered(str(source), number, record, f"{index}:" if len(sources) > 1 else "")
        for index, source in enumerate(sources, start=1)
        for number, record in enumerate(read_records(source), start=1)
    )
    return list(_parsed(islice(numbered, start, stop), target, skip_unusable, join))


def requests_from_records(
    records: Iterable[Any],
    source: str = "the edits",
    target: Target = "answers",
    join: str = "auto",
    skip_unusable: bool = False,
) -> list[EditRequest]:
    """Turns records, of any format, into edits.

    Args:
        records: The records as read from JSON.
        source: What messages call their source.
        target: See :func:`read_requests`.
        join: See :func:`read_requests`.
        skip_unusable: See :func:`read_requests`.

    Raises:
        InputError: If a record cannot be used; the message gives its number, from 1.
    """
    numbered = (_Numbered(source, number, record) for number, record in enumerate(records, start=1))
    return [edit for edits in _parsed(numbered, target, skip_unusable, join) for edit in edits]


class _Numbered(NamedTuple):
    """A record with its source, its number there, from 1, and the prefix of its case."""

    source: str
    number: int
    record: Any
    prefix: str = ""


def _parsed(
    numbered: Iterable[_Numbered], target: Target, skip_unusable: bool, join: str
) -> Iterator[list[EditRequest]]:
    if target not in get_args(Target):
        msg = f"expected 'target' to be 'answers' or 'alt', got {target!r}; choose one of them, or 'text' for AKEW."
        raise InputError(msg)
    check_join(join, "data.join")
    refused: list[str] = []
    dropped: list[str] = []
    decimals: list[str] = []
    unread: dict[str, None] = {}
    taken: set[str] = set()
    used = tests = 0
    for source, number, record, prefix in numbered:
        notes = Notes(skip_unusable)
        try:
            edits = parse_record(record, target, join, notes)
        except InputError as error:
            refused.append(f"{source}, record {number}: {str(error).removeprefix('the record: ')}")
            if not skip_unusable:
                raise InputError(refused[0]) from None
            continue
        used += 1
        unread.update(notes.unread)
        dropped += [f"{source}, record {number}: {reason}" for reason in notes.dropped]
        found = [answer for edit in edits for answer in _answers(edit) if _DECIMAL.fullmatch(answer)]
        decimals += [f"{answer!r} in {source}, record {number}" for answer in found]
        tests += sum(1 for edit in edits for _ in held_out_prompts([edit]))
        known = (record[key] for key in ("id", "case_id") if not missing(record.get(key)))
        name = str(number_text(next(known, number)))
        several = len(edits) > 1
        case = edits[0].case or (name if several else "")
        if case and prefix + case in taken and missing(record.get("case")):  # plain records may share a case
            case = f"{case}#{number}"
        taken.add(prefix + case)
        yield [
            replace(edit, id=f"{name}/{position}" if several else name, case=case and prefix + case)
            for position, edit in enumerate(edits, start=1)
        ]
    if refused and not used:
        raise InputError(refused[0])
    if refused:
        msg = f"{len(refused)} of {used + len(refused)} records cannot be used and are left out, first {refused[0]}"
        warnings.warn(msg, stacklevel=2)
    if dropped:
        msg = f"{len(dropped)} test prompts cannot be used and are left out, first {dropped[0]}"
        warnings.warn(msg if tests else f"{msg}; no test prompt is left", stacklevel=2)
    if decimals:  # a table program may have made it of 1969, but the text does not tell
        msg = (
            f"answers that end in .0 are kept as they are written, first {decimals[0]}; write a whole number without it"
        )
        warnings.warn(msg, stacklevel=2)
    if unread:
        shown = [name or "(without a name)" for name in list(unread)[:_NAMED]]
        names = f"{', '.join(shown)}{', …' if len(unread) > _NAMED else ''}"
        nothing = "" if tests else "; the edits have no test prompts, so only Efficacy will be measured"
        msg = f"fields of the records that nobody reads: {names}{nothing}"
        warnings.warn(msg, stacklevel=2)


def _answers(edit: EditRequest) -> Iterator[str]:
    yield from (edit.target_new, *edit.aliases, edit.target_true or "")
    for probe in (*edit.neighborhood, *edit.axes):
        yield from probe.answers


def fill_neighborhoods(
    requests: Sequence[EditRequest], pool: Sequence[EditRequest], count: int, seed: int
) -> list[EditRequest]:
    """Gives each edit without a neighborhood prompts of other records with the same template.

    The pool's targets are counterfactual, so the unedited model's answer is the correct one. No subject that is edited
    anywhere in ``requests`` serves as a neighbor.

    Args:
        requests: The edits; those that have a neighborhood keep it.
        pool: Records to take prompts from, such as the rest of the file; it may contain the edits too.
        count: Maximum number of neighbors of an edit; without records of its template it gets none.
        seed: Seed of the draw, which does not depend on the edit's position in the stream.

    Raises:
        InputError: If ``count`` is negative.
    """
    if count < 0:
        msg = f"expected 0 or more neighbors, got {count}; give a larger number."
        raise InputError(msg)
    edited = {normal(request.subject) for request in requests}
    by_template: dict[str, dict[str, None]] = {}  # a dict for its order: that of a set of strings varies by process
    for record in pool:
        if normal(record.subject) not in edited:
            by_template.setdefault(record.prompt, {})[record.question] = None

    def drawn(request: EditRequest) -> tuple[Probe, ...]:
        questions = list(by_template.get(request.prompt, ()))
        rng = random.Random(f"{seed} {request.question}")
        return tuple(Probe(text) for text in rng.sample(questions, min(count, len(questions))))

    return [request if request.neighborhood else replace(request, neighborhood=drawn(request)) for request in requests]
