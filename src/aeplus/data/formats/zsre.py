"""ZsRE as published with MEND, and AlphaSet."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

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
from aeplus.edits import EditRequest, Probe, normal, same_answer

NAME = "ZsRE or AlphaSet (src, subject, answers or alt)"

IGNORED = frozenset(("pred", "cond", "answers", "alt", "Recalled Relation", "Recalls Relation"))
_LOC_PREFIX = "nq question: "


def recognizes(record: Record) -> bool:
    """Whether a record has this format. A missing subject or answer is reported when it is parsed."""
    return "src" in record


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    ``loc`` is asked as the published loaders of both data sets do (ROME's, MEMIT's, AlphaEdit's, AlphaEdit+'s): with
    the prefix ``nq question:`` and a question mark behind it, whether or not it has one. :func:`ask_plainly` undoes
    that.

    Args:
        record: ``src``, ``subject``, ``answers`` or ``alt``, and optionally ``rephrase``, ``loc``, ``loc_ans``.
        target: The field of the new answer: the first of ``answers``, or ``alt``.

    Raises:
        InputError: If a field cannot be used.
    """
    field = "alt" if target == "alt" else "answers"
    prompt, subject = placed(written(record, "src"), text(record, "subject"), "src", slots=False)
    new = next(iter(answers(record, field)), None)
    loc = (optional(record, "loc") or "").strip()
    return [
        EditRequest(
            prompt=prompt,
            subject=subject,
            target_new=new or answer(record, field),
            rephrase=texts(record, "rephrase"),
            neighborhood=(Probe(f"{loc}?", optional(record, "loc_ans")),) if loc else (),
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


def ask_plainly(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The same edits with questions that are only what they say: the protocol ``plain``.

    A neighborhood prompt loses the loaders' prefix and question mark, and a rephrasing that a later edit shares and
    gives another answer (AlphaSet2's pairs) is no test of the earlier one.
    """
    last = {normal(text): edit.target_new for edit in requests for text in edit.rephrase}
    return [
        replace(
            edit,
            rephrase=tuple(text for text in edit.rephrase if same_answer(last[normal(text)], edit.target_new)),
            neighborhood=tuple(replace(probe, prompt=_plain(probe.prompt)) for probe in edit.neighborhood),
        )
        for edit in requests
    ]


def _plain(prompt: str) -> str:
    if not prompt.startswith(_LOC_PREFIX):
        return prompt
    return prompt.removeprefix(_LOC_PREFIX).removesuffix("?").strip()
