"""What is found prompt by prompt: the lines of ``prompts.jsonl``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aeplus.edits import EditRequest
from aeplus.evaluation.questions import AnswerPair, PromptItem, Question, is_right
from aeplus.metrics.success import token_match
from aeplus.models.predict import AnswerScore
from aeplus.models.tokens import TokenRow

FILE = "prompts.jsonl"

Found = dict[PromptItem, dict[str, Any]]
"""What protocols found of prompts beside their answers, each in an entry of its own."""


@dataclass(frozen=True)
class PromptRecord:
    """What a model answered to a test prompt.

    Attributes:
        item: The prompt.
        id: What the source calls its edit.
        found: ``strict``, ``tokens`` and log-probabilities, where it was asked for its answer; and an entry for each
            protocol that found more.
    """

    item: PromptItem
    id: str
    found: dict[str, Any]


def prompt_records(
    requests: Sequence[EditRequest],
    questions: Sequence[Question],
    pairs: Mapping[str, Sequence[AnswerPair]],
    answers: Mapping[TokenRow, AnswerScore],
    more: Found,
) -> list[PromptRecord]:
    """The record of each prompt that was asked.

    Args:
        requests: The stream of edits.
        questions: The prompts that were asked for their answers.
        pairs: Those with two answers, by aspect.
        answers: What the model answered to the rows of both.
        more: What else was found, also of other prompts.
    """
    others = {(aspect, pair.edit, pair.target): pair.other for aspect, part in pairs.items() for pair in part}
    predictions = {row: answer.predicted for row, answer in answers.items()}
    records = []
    for question in questions:
        item, row = question.item, question.rows[0]
        shares = token_match([predictions[row] for row in question.rows], question.expected)
        found: dict[str, Any] = {
            "strict": is_right(question, predictions),
            "tokens": round(float(shares.max()), 6),
            "log_prob": answers[row].log_prob if row.answer_ids else None,
        }
        if pairs:
            other = others.get((item.aspect, item.edit, row))
            found["log_prob_other"] = None if other is None else answers[other].log_prob
        records.append((item, {**found, **more.get(item, {})}))
    asked = {question.item for question in questions}
    records += [(item, dict(found)) for item, found in more.items() if item not in asked]
    return [PromptRecord(item, requests[item.edit].id, found) for item, found in records]


def record_lines(before: Sequence[PromptRecord], after: Sequence[PromptRecord]) -> Iterator[dict[str, Any]]:
    """The lines of :data:`FILE`: the same prompts, asked of the unedited and of the edited model."""
    for was, now in zip(before, after, strict=True):
        item = was.item
        answers = [] if item.answer is None else [item.answer, *item.aliases]
        about = {"edit": item.edit + 1, "id": was.id, "aspect": item.aspect, "way": item.way}
        yield {**about, "prompt": item.prompt, "answers": answers, "before": was.found, "after": now.found}
