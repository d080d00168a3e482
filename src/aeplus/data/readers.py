"""Reads edits: from local files or the hub, in any of the accepted formats, told apart by their content.

Where records come from is in :mod:`aeplus.data.sources`, what they look like in :mod:`aeplus.data.formats`.
"""

import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from aeplus.data.formats import parse_record
from aeplus.data.formats.fields import Target
from aeplus.data.sources import read_records
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError


def read_requests(
    source: str | Path, limit: int | None = None, target: Target = "answers", skip_unusable: bool = False
) -> list[EditRequest]:
    """Read the edits of a file or of a data set on the hub.

    Args:
        source: A file or a hub id; see :func:`~aeplus.data.sources.read_records`.
        limit: How many records to read, from the first; ``None`` reads all. A record may give several edits.
        target: In ZsRE and AlphaSet records, where the new answer stands: the first of ``answers`` (as in
            ROME, MEMIT and AlphaEdit) or ``alt`` (as in EasyEdit). Other formats have only one.
        skip_unusable: See :func:`read_stream`.

    Raises:
        InputError: If the source cannot be read or a record cannot be used.
    """
    if limit is not None and limit < 1:
        msg = f"'limit' must be at least 1, or none for all records, but is {limit}; give a larger number."
        raise InputError(msg)
    return [edit for edits in read_stream([source], 0, limit, target, skip_unusable) for edit in edits]


def read_stream(
    sources: Sequence[str | Path],
    start: int = 0,
    stop: int | None = None,
    target: Target = "answers",
    skip_unusable: bool = False,
) -> list[list[EditRequest]]:
    """Read several sources in a row, record by record.

    Args:
        sources: Files or hub ids.
        start: How many records, counted over all sources, to pass over without a look at what they hold.
        stop: Before which record to stop, counted likewise; ``None`` reads to the end.
        target: See :func:`read_requests`.
        skip_unusable: Leave out records that cannot be used, and warn how many and of what kind, instead of refusing
            them all.

    Returns:
        For each record its edits, at least one.

    Raises:
        InputError: If a source cannot be read, or a record cannot be used.
    """
    numbered = (
        # Cases of several sources may have the same number.
        _Numbered(str(source), number, record, f"{place}:" if len(sources) > 1 else "")
        for place, source in enumerate(sources, start=1)
        for number, record in enumerate(read_records(source), start=1)
    )
    return list(_parsed(islice(numbered, start, stop), target, skip_unusable))


def requests_from_records(
    records: Iterable[Any], source: str = "the edits", target: Target = "answers"
) -> list[EditRequest]:
    """Turn records, of any accepted format, into edits.

    Args:
        records: The records as JSON gives them.
        source: What messages call the records' origin.
        target: See :func:`read_requests`.

    Raises:
        InputError: If a record cannot be used; the message gives its number, from 1.
    """
    numbered = (_Numbered(source, number, record) for number, record in enumerate(records, start=1))
    return [edit for edits in _parsed(numbered, target, skip_unusable=False) for edit in edits]


class _Numbered(NamedTuple):
    source: str
    number: int
    record: Any
    prefix: str = ""


def _parsed(numbered: Iterable[_Numbered], target: Target, skip_unusable: bool) -> Iterator[list[EditRequest]]:
    if target not in ("answers", "alt"):
        msg = f"'target' must be 'answers' or 'alt', but is {target!r}; choose one of them."
        raise InputError(msg)
    refused: list[str] = []
    used = 0
    for source, number, record, prefix in numbered:
        try:
            edits = parse_record(record, target)
        except InputError as error:
            refused.append(f"{source}, record {number}: {str(error).removeprefix('the record: ')}")
            if not skip_unusable:
                raise InputError(refused[0]) from None
            continue
        used += 1
        name = str(next((record[key] for key in ("id", "case_id") if record.get(key) is not None), number))
        several = len(edits) > 1
        cases = [edit.case or (name if several else "") for edit in edits]
        yield [
            replace(edit, id=f"{name}/{place}" if several else name, case=case and prefix + case)
            for place, (edit, case) in enumerate(zip(edits, cases, strict=True), start=1)
        ]
    if refused and not used:
        raise InputError(refused[0])
    if refused:
        msg = f"{len(refused)} of {used + len(refused)} records cannot be used and are left out, first {refused[0]}"
        warnings.warn(msg, stacklevel=2)


def fill_neighborhoods(
    requests: Sequence[EditRequest], pool: Sequence[EditRequest], count: int, seed: int
) -> list[EditRequest]:
    """Give each edit without a neighbourhood prompts of the pool's other records with the same template.

    The pool's targets are counterfactual, so what the unedited model answers is the right answer. No subject
    that is edited anywhere in ``requests`` serves as a neighbour.

    Args:
        requests: The edits; those that have a neighbourhood keep it.
        pool: Records to take prompts from, such as the rest of the file; it may hold the edits too.
        count: How many neighbours an edit gets at most; with no record of its form it gets none.
        seed: Which of them are drawn. An edit's draw does not depend on its place in the stream.

    Raises:
        InputError: If ``count`` is negative.
    """
    if count < 0:
        msg = f"The number of neighbours must be 0 or more, but is {count}; give a larger number."
        raise InputError(msg)
    edited = {request.subject.casefold() for request in requests}
    by_template: dict[str, dict[str, None]] = {}  # a dict for its order: sets of texts change with every run
    for record in pool:
        if record.subject.casefold() not in edited:
            by_template.setdefault(record.prompt, {})[record.question] = None

    def drawn(request: EditRequest) -> tuple[Probe, ...]:
        questions = list(by_template.get(request.prompt, ()))
        chance = random.Random(f"{seed} {request.question}")
        return tuple(Probe(text) for text in chance.sample(questions, min(count, len(questions))))

    return [request if request.neighborhood else replace(request, neighborhood=drawn(request)) for request in requests]
