"""ZsRE as MEND published it, and AlphaSet."""

from aeplus.data.formats.fields import Record, Target, optional, slotted, text, texts
from aeplus.edits import EditRequest, Probe

NAME = "ZsRE or AlphaSet (src, subject, answers or alt)"

_LOC_PREFIX = "nq question: "


def recognises(record: Record) -> bool:
    """Whether a record has this format. A missing subject or answer is told by name when it is parsed."""
    return "src" in record


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    ``loc`` is taken as it stands, without the prefix of its source. (ROME's reader appends a question mark
    to it; AlphaSet's questions mostly have theirs already.)

    Args:
        record: ``src``, ``subject``, ``answers`` or ``alt``, and by choice ``rephrase``, ``loc``, ``loc_ans``.
        target: Where the new answer stands: the first of ``answers``, or ``alt``.

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
