"""CounterFact and multi-CounterFact, and AKEW's, which has an unstructured text to each edit."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from aeplus.data.formats.fields import Record, Target, missing, objects, placed, tested, text, texts, written
from aeplus.data.formats.plain import string_of, true_answer
from aeplus.edits import SLOT, EditRequest, Probe

NAME = "CounterFact (requested_rewrite)"
IGNORED = frozenset(
    [
        "pararel_idx",
        "relation_id",
        "attribute_prompts",
        "id",
        "fact_new",
        "fact_true",
        "prompt_full",
        "question",
        "subject_id",
        "answer_GPT",
        "time_new",
        "time_true",
    ]
)


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return isinstance(record.get("requested_rewrite"), Mapping)


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a record. Its neighborhood asks for other subjects whose true answer is the same.

    Args:
        record: ``requested_rewrite``, and optionally ``paraphrase_prompts``, ``neighborhood_prompts``,
            ``generation_prompts``.
        target: ``text`` takes AKEW's unstructured text as the answer.

    Raises:
        InputError: If a field cannot be used.
    """
    edit = rewrite(record["requested_rewrite"], target)
    return [
        replace(
            edit,
            rephrase=texts(record, "paraphrase_prompts"),
            neighborhood=tuple(Probe(prompt, edit.target_true) for prompt in texts(record, "neighborhood_prompts")),
            generation=texts(record, "generation_prompts"),
        )
    ]


def rewrite(fields: Record, target: Target = "answers") -> EditRequest:
    """The edit that a ``requested_rewrite`` describes, without tests.

    Args:
        fields: ``prompt`` (with ``{}``), ``subject``, ``target_new`` and optionally ``target_true``: strings, or
            objects with the string under ``str``. AKEW adds ``fact_new_uns`` and ``unsfact_triplets_GPT``.
        target: ``text`` takes ``fact_new_uns`` as the answer, and the triplets as the axis ``unstructured``.

    Raises:
        InputError: If a field cannot be used.
    """
    prompt, subject = placed(written(fields, "prompt"), text(fields, "subject"), "prompt")
    if target == "text":
        return EditRequest(prompt, subject, written(fields, "fact_new_uns"), axes=tuple(_triplets(fields)))
    new, true = string_of(fields, "target_new"), true_answer(fields, "target_true")
    return EditRequest(prompt, subject, new, target_true=true, attribute=_attribute(fields))


def _attribute(fields: Record) -> str:
    """The relation and the new answer as Wikidata names them; empty where one of them is not named."""
    answer = fields.get("target_new")
    names = (fields.get("relation_id"), answer.get("id") if isinstance(answer, Mapping) else None)
    return " ".join(map(str, names)) if all(isinstance(name, str) and name for name in names) else ""


def _triplets(fields: Record) -> Iterator[Probe]:
    """The facts that AKEW's unstructured text states."""
    for triplet in objects(fields, "unsfact_triplets_GPT"):
        with tested(fields):
            prompt, answer = written(triplet, "prompt"), triplet.get("target")
            subject = "" if missing(triplet.get("subject")) else text(triplet, "subject")
            yield Probe(prompt.replace(SLOT, subject), string_of({"target": answer}, "target"), (), "unstructured")
