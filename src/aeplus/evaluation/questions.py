"""Test prompts as tokenized questions, and the scores of edits on them, together and one by one."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from aeplus.edits import EditRequest
from aeplus.metrics.success import ASPECTS, Score
from aeplus.models.decoder import Decoder
from aeplus.models.predict import predict
from aeplus.models.tokens import TokenRow, encode

Success = dict[str, float | None]
"""Efficacy, Generalization, Specificity and Score of one edit, in percent; ``None`` where it has no prompt."""


class PromptItem(NamedTuple):
    """A test prompt.

    Attributes:
        aspect: What it measures: ``efficacy``, ``generalization``, ``specificity`` or the name of an axis.
        prompt: The complete prompt.
        answer: The answer expected; ``None`` for the unedited model's.
        aliases: Other answers that count as right.
        edit: The number of its edit in the stream, from 0; prompts of one edit are resampled together.
    """

    aspect: str
    prompt: str
    answer: str | None
    aliases: tuple[str, ...] = ()
    edit: int = -1


class Baseline:
    """What the unedited model answers to prompts whose right answer nobody has given.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        prompts: All prompts of which this will be asked.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, prompts: Iterable[str]) -> None:
        texts = sorted(set(prompts))
        answers = predict(decoder, encode(tokenizer, texts, limit=decoder.context_length))
        self._answers = dict(zip(texts, answers, strict=True))

    def __getitem__(self, prompt: str) -> tuple[int, ...]:
        """The token the unedited model says next."""
        return self._answers[prompt]


class Question:
    """A tokenized prompt: a row for each accepted answer, with the tokens expected in it.

    Attributes:
        item: The test prompt.
        rows: Prompt and answer as tokens, the first answer first.
        expected: The answer's tokens in each row.
    """

    __slots__ = ("expected", "item", "rows")

    def __init__(self, item: PromptItem, rows: tuple[TokenRow, ...], expected: tuple[tuple[int, ...], ...]) -> None:
        self.item, self.rows, self.expected = item, rows, expected


def questions(
    tokenizer: Any,
    items: Sequence[tuple[str, str, str | None] | PromptItem],
    baseline: Baseline | Mapping[str, tuple[int, ...]],
    limit: int | None = None,
) -> list[Question]:
    """Tokenizes test prompts, or plain (aspect, prompt, answer); an answer of ``None`` is taken from the baseline."""
    asked = [item if isinstance(item, PromptItem) else PromptItem(*item) for item in items]
    answers = [(item.answer, *item.aliases) if item.answer else (None,) for item in asked]
    prompts = [item.prompt for item, accepted in zip(asked, answers, strict=True) for _ in accepted]
    rows = iter(encode(tokenizer, prompts, [text for accepted in answers for text in accepted], limit=limit))
    made = []
    for item, accepted in zip(asked, answers, strict=True):
        own = tuple(next(rows) for _ in accepted)
        made.append(Question(item, own, tuple(row.answer_ids or baseline[item.prompt] for row in own)))
    return made


def latest_numbered(requests: Sequence[EditRequest]) -> list[tuple[int, EditRequest]]:
    """The edits without those whose fact is edited again later, each with its number in the sequence, from 0."""
    return list({request.fact_key: (number, request) for number, request in enumerate(requests)}.values())


def edit_items(requests: Sequence[EditRequest], dropped: frozenset[str] = frozenset()) -> list[PromptItem]:
    """The test prompts of some edits, but for those that test axes.

    An edit whose fact is edited again later in the sequence is no longer expected to hold, and is left out.

    Args:
        requests: The edits, in order.
        dropped: Test prompts that the validation set happens to hold, and that must not count.
    """
    items: list[PromptItem] = []
    for number, edit in latest_numbered(requests):
        new = (edit.target_new, edit.aliases, number)
        items.append(PromptItem("efficacy", edit.question, *new))
        items += [PromptItem("generalization", text, *new) for text in edit.rephrase if text not in dropped]
        kept = (probe for probe in edit.neighborhood if probe.prompt not in dropped)
        items += [PromptItem("specificity", probe.prompt, probe.answer, probe.aliases, number) for probe in kept]
    return items


def axis_items(
    requests: Sequence[EditRequest], reached: int, dropped: frozenset[str] = frozenset()
) -> list[PromptItem]:
    """The test prompts of axes that the first edits make answerable.

    Questions of a case test its edits together, so they wait until all of them are made, and go when one of them is
    edited again.

    Args:
        requests: The stream.
        reached: How many of its edits are made.
        dropped: Test prompts that must not count.
    """
    current = latest_numbered(requests[:reached])
    numbers = {number for number, _ in current}
    open_cases = {edit.case for number, edit in enumerate(requests) if edit.case and number not in numbers}
    return [
        PromptItem(probe.axis or "other", probe.prompt, probe.answer, probe.aliases, number)
        for number, edit in current
        if edit.case not in open_cases
        for probe in edit.axes
        if probe.prompt not in dropped
    ]


class AnswerPair(NamedTuple):
    """A prompt with two answers, as tokens.

    Attributes:
        wanted: The prompt with the answer that should be the likelier.
        other: The prompt with the other.
        edit: The number of its edit in the stream.
    """

    wanted: TokenRow
    other: TokenRow
    edit: int


def answer_pairs(
    tokenizer: Any,
    requests: Sequence[EditRequest],
    dropped: frozenset[str] = frozenset(),
    limit: int | None = None,
) -> dict[str, list[AnswerPair]]:
    """For each aspect the test prompts with the new and the true answer; see :mod:`aeplus.metrics.magnitude`.

    Edits without ``target_true`` have none, and neighbourhood prompts without an answer are left out.

    Args:
        tokenizer: The tokenizer.
        requests: The edits, in order.
        dropped: Test prompts that must not count.
        limit: The model's context length in tokens.
    """
    texts: dict[str, list[tuple[str, str, str, int]]] = {aspect: [] for aspect in ASPECTS}
    for number, edit in latest_numbered(requests):
        if edit.target_true is None:
            continue
        new, true = edit.target_new, edit.target_true
        texts["efficacy"].append((edit.question, new, true, number))
        texts["generalization"] += [(p, new, true, number) for p in edit.rephrase if p not in dropped]
        kept = (probe for probe in edit.neighborhood if probe.answer and probe.prompt not in dropped)
        texts["specificity"] += [(probe.prompt, str(probe.answer), new, number) for probe in kept]
    pairs = {}
    for aspect, asked in texts.items():
        prompts = [prompt for prompt, *_ in asked]
        wanted = encode(tokenizer, prompts, [text for _, text, _, _ in asked], limit=limit)
        other = encode(tokenizer, prompts, [text for _, _, text, _ in asked], limit=limit)
        numbers = [number for *_, number in asked]
        pairs[aspect] = [AnswerPair(*pair) for pair in zip(wanted, other, numbers, strict=True)]
    return pairs


def rows_of(
    asked: Sequence[Question], predictions: Mapping[TokenRow, tuple[int, ...]]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[int], list[int]]:
    """What the metrics' ``update`` takes: predicted and expected tokens, edit and prompt of every row."""
    places = [(number, index) for number, question in enumerate(asked) for index in range(len(question.rows))]
    return (
        [predictions[asked[number].rows[index]] for number, index in places],
        [asked[number].expected[index] for number, index in places],
        [asked[number].item.edit for number, _ in places],
        [number for number, _ in places],
    )


def predictions_of(
    decoder: Decoder, asked: Iterable[Question], batch_tokens: int = 1024
) -> dict[TokenRow, tuple[int, ...]]:
    """What the model answers in every row of some questions."""
    rows = [row for question in asked for row in question.rows]
    return dict(zip(rows, predict(decoder, rows, batch_tokens), strict=True))


def fill(score: Score, asked: Sequence[Question], predictions: Mapping[TokenRow, tuple[int, ...]]) -> Score:
    """Counts some questions, each under its aspect, in a Score, and gives it back."""
    for aspect in ASPECTS:
        if chosen := [question for question in asked if question.item.aspect == aspect]:
            score.update(aspect, *rows_of(chosen, predictions))
    return score


def evaluate(decoder: Decoder, asked: Sequence[Question]) -> Score:
    """The Score (with its three parts) over some questions."""
    return fill(Score().to(decoder.device), asked, predictions_of(decoder, asked))


def edit_success(
    decoder: Decoder,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    baseline: Baseline,
    dropped: frozenset[str] = frozenset(),
) -> list[Success]:
    """Measures each edit on its own test prompts; all prompts run together.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        requests: The edits; also those whose fact is edited again later.
        baseline: What the unedited model answers.
        dropped: Test prompts that must not count.
    """
    asked = [
        questions(tokenizer, edit_items([request], dropped), baseline, decoder.context_length) for request in requests
    ]
    predictions = predictions_of(decoder, chain.from_iterable(asked))
    return [fill(Score(), mine, predictions).summary() for mine in asked]
