"""HalluEditBench: facts that a model states wrongly, in tables of questions with their answers."""

import re
from collections.abc import Iterator

from aeplus.data.formats.fields import Record, Target, answer, missing, placed, tested, text, texts, written
from aeplus.edits import EditRequest, Probe

NAME = "HalluEditBench (question, subject, object)"


class _Described(frozenset[str]):
    """The names of the columns that describe a fact, those of any model's own answer among them."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or re.match(r"(output|eval)_", str(name)) is not None


IGNORED = _Described(("topic", "relation", "multiple_choices", "Unnamed: 0"))


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return {"question", "subject", "object"} <= record.keys()


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record.

    The axes are ``yes_no``, ``multiple_choice`` (the answer is the letter), ``reversed`` (the subject) and ``2_hop`` to
    ``6_hop``.

    Args:
        record: ``question``, ``subject``, ``object``, and optionally ``paraphrased_question``, ``locality_question``,
            ``yes_question``, ``no_question``, ``multiple_choice_with_letters`` with ``multiple_choice_labels``,
            ``reversed_relation_question`` and ``question_2hop`` with ``answer_2hop`` and so on.
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    question = written(record, "question")
    prompt, subject = placed(question, text(record, "subject"), "question", slots=False)
    return [
        EditRequest(
            prompt,
            subject,
            answer(record, "object"),
            texts(record, "paraphrased_question"),
            tuple(map(Probe, texts(record, "locality_question"))),
            tuple(_axes(record, question, subject)),
        )
    ]


def _axes(record: Record, question: str, subject: str) -> Iterator[Probe]:
    for field, right in (("yes_question", "Yes"), ("no_question", "No")):
        yield from (Probe(prompt, right, (), "yes_no") for prompt in texts(record, field))
    if not missing(record.get("multiple_choice_with_letters")):
        with tested(record):
            choices = written(record, "multiple_choice_with_letters")
            yield Probe(
                f"{question} {choices}\nAnswer:", answer(record, "multiple_choice_labels"), (), "multiple_choice"
            )
    yield from (Probe(prompt, subject, (), "reversed") for prompt in texts(record, "reversed_relation_question"))
    for hops in range(2, 7):
        if not missing(record.get(f"question_{hops}hop")):
            with tested(record):
                right = answer(record, f"answer_{hops}hop")
                yield Probe(written(record, f"question_{hops}hop"), right, (), f"{hops}_hop")
