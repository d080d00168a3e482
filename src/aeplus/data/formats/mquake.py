"""MQuAKE: several edits at once, and questions whose answer follows from all of them."""

from collections.abc import Iterator
from dataclasses import replace

from aeplus.data.formats import counterfact
from aeplus.data.formats.fields import Record, Target, answer, answers, missing, objects, tested, texts, written
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

NAME = "MQuAKE (requested_rewrite as a list)"
IGNORED = counterfact.IGNORED | frozenset(
    [
        "orig",
        "orig_triples",
        "new_triples",
        "new_triples_labeled",
        "triples",
        "triples_labeled",
        "edit_triples",
        "single_hops",
        "answer",
        "answer_alias",
        "answer_extended",
        "new_answer_extended",
        "split",
        "question_type",
        "phrase",
        "new_answer",
        "new_answer_alias",
    ]
)


def recognizes(record: Record) -> bool:
    """Whether a record has this format."""
    return isinstance(record.get("requested_rewrite"), list | tuple)


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edits of a record, which share its ``case``.

    The multi-hop ``questions`` (axis ``multi_hop``) and the single hops as edited (axis ``single_hop``; the prompt to
    complete where there is also a question) belong to the last edit: only after it are all of them made. An edit's own
    ``question`` is its rephrasing.

    Args:
        record: ``requested_rewrite``, and optionally ``questions`` with ``new_answer`` and ``new_answer_alias``, and
            ``new_single_hops`` with ``cloze`` or ``question``, ``answer`` and ``answer_alias``.
        target: ``text`` takes AKEW's unstructured texts as the answers.

    Raises:
        InputError: If a field cannot be used.
    """
    hops = list(_hops(record))
    aliases = {hop.answer: hop.aliases for hop in hops}
    case = record.get("case_id")
    edits = []
    for number, fields in enumerate(objects(record, "requested_rewrite"), start=1):
        try:
            edit = replace(
                counterfact.rewrite(fields, target),
                rephrase=texts(fields, "question"),
                case="" if case is None else str(case),
            )
        except InputError as error:
            msg = f"rewrite {number}: {str(error).removeprefix('the record: ')}"
            raise InputError(msg) from None
        edits.append(replace(edit, aliases=aliases.get(edit.target_new, ())))
    if not edits:
        msg = "expected 'requested_rewrite' to contain at least one edit, got []; fill it in or leave the record out."
        raise InputError(msg)
    edits[-1] = replace(edits[-1], axes=(*edits[-1].axes, *_questions(record), *hops))
    return edits


def _questions(record: Record) -> list[Probe]:
    questions = texts(record, "questions")
    if not questions:
        return []
    with tested(record):
        right = answer(record, "new_answer")
        return [Probe(question, right, answers(record, "new_answer_alias"), "multi_hop") for question in questions]
    return []


def _hops(record: Record) -> Iterator[Probe]:
    for hop in objects(record, "new_single_hops"):
        with tested(record):
            field = "question" if missing(hop.get("cloze")) else "cloze"
            prompt = written(hop, field, "cloze or question of 'new_single_hops'")
            right = answer(hop, "answer", "answer of 'new_single_hops'")
            yield Probe(prompt, right, answers(hop, "answer_alias"), "single_hop")
