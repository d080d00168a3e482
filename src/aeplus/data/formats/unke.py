"""UnKE: a question whose answer is a whole text. It names no subject, so the edit is made where the question ends."""

from collections.abc import Iterator

from aeplus.data.formats.fields import Record, Target, answer, missing, tested, texts, written
from aeplus.edits import SLOT, EditRequest, Probe
from aeplus.errors import InputError

NAME = "UnKE (question, para_question, answer)"
IGNORED = frozenset(("sub_answer_distill", "type"))


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return {"question", "answer"} <= record.keys() and bool(record.keys() & {"para_question", "sub_question"})


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record: its subject is the whole question.

    Args:
        record: ``question``, ``answer``, and optionally ``para_question`` (the rephrasing) and ``sub_question`` with
            ``sub_answer``, lists of equal length (the axis ``detail``).
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    question = written(record, "question").rstrip(" ")
    new = answer(record, "answer")
    return [EditRequest(SLOT, question, new, texts(record, "para_question"), axes=tuple(_details(record)))]


def _details(record: Record) -> Iterator[Probe]:
    asked, told = (record.get(name) for name in ("sub_question", "sub_answer"))
    asked, told = (
        [] if missing(part) else part if isinstance(part, list | tuple) else [part] for part in (asked, told)
    )
    if len(asked) != len(told):
        with tested(record):
            msg = f"expected as many 'sub_answer' as 'sub_question', got {len(told)} and {len(asked)}; correct either."
            raise InputError(msg)
    for prompt, right in zip(asked, told, strict=False):
        if not missing(prompt) and not missing(right):
            with tested(record):
                question = written({"sub_question": prompt}, "sub_question")
                yield Probe(question, answer({"sub_answer": right}, "sub_answer"), (), "detail")
