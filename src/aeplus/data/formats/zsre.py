"""ZsRE as published with MEND, and AlphaSet."""

from collections.abc import Iterator

from aeplus.data.formats.fields import (
    Record,
    Target,
    answer,
    answers,
    missing,
    objects,
    optional,
    placed,
    tested,
    text,
    texts,
    written,
)
from aeplus.edits import EditRequest, Probe

NAME = "ZsRE or AlphaSet (src, subject, answers or alt)"

IGNORED = frozenset(("pred", "cond", "answers", "alt", "Recalled Relation", "Recalls Relation"))
_LOC_PREFIX = "nq question: "


def recognizes(record: Record) -> bool:
    """Whether a record has this format. A missing subject or answer is reported when it is parsed."""
    return "src" in record


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    ``loc`` is used as it is, without the prefix of its source. (ROME's reader appends a question mark to it; most of
    AlphaSet's questions have one already.)

    Args:
        record: ``src``, ``subject``, ``answers`` or ``alt``, and optionally ``rephrase``, ``loc``, ``loc_ans``.
        target: The field of the new answer: the first of ``answers``, or ``alt``.

    Raises:
        InputError: If a field cannot be used.
    """
    field = "alt" if target == "alt" else "answers"
    prompt, subject = placed(written(record, "src"), text(record, "subject"), "src", slots=False)
    new = next(iter(answers(record, field)), None)
    loc = (optional(record, "loc") or "").removeprefix(_LOC_PREFIX).strip()
    return [
        EditRequest(
            prompt=prompt,
            subject=subject,
            target_new=new or answer(record, field),
            rephrase=texts(record, "rephrase"),
            neighborhood=(Probe(loc, optional(record, "loc_ans")),) if loc else (),
            axes=tuple(_portability(record)),
        )
    ]


def _portability(record: Record) -> Iterator[Probe]:
    """EasyEdit's questions on what follows from an edit."""
    for test in objects(record, "portability"):
        with tested(record):
            if not missing(test.get("New Question")):
                right = answers(test, "New Answer")
                if right:
                    yield Probe(written(test, "New Question"), right[0], right[1:], "portability")
