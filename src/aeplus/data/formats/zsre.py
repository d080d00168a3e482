"""ZsRE as published with MEND, and AlphaSet."""

from aeplus.data.formats.fields import Record, Target, optional, slotted, text, texts
from aeplus.edits import EditRequest, Probe

NAME = "ZsRE or AlphaSet (src, subject, answers or alt)"

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
    subject = text(record, "subject")
    answer = optional(record, target)
    loc = (optional(record, "loc") or "").removeprefix(_LOC_PREFIX).strip()
    return [
        EditRequest(
            prompt=slotted(text(record, "src"), subject, "src"),
            subject=subject,
            target_new=text({target: answer or record.get(target)}, target),
            rephrase=texts(record, "rephrase"),
            neighborhood=(Probe(loc, optional(record, "loc_ans")),) if loc else (),
        )
    ]
