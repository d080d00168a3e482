"""ZsRE as published with MEND, and AlphaSet."""

from collections.abc import Sequence
from dataclasses import replace

from aeplus.data.formats.fields import Record, Target, optional, slotted, text, texts
from aeplus.edits import EditRequest, Probe, normal, same_answer

NAME = "ZsRE or AlphaSet (src, subject, answers or alt)"

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
    subject = text(record, "subject")
    answer = optional(record, target)
    loc = (optional(record, "loc") or "").strip()
    return [
        EditRequest(
            prompt=slotted(text(record, "src"), subject, "src"),
            subject=subject,
            target_new=text({target: answer or record.get(target)}, target),
            rephrase=texts(record, "rephrase"),
            neighborhood=(Probe(f"{loc}?", optional(record, "loc_ans")),) if loc else (),
        )
    ]


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
