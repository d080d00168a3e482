"""Test prompts as tokenized questions, and the scores of edits on them, together and one by one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from aeplus.edits import EditRequest, broken_cases, still_holding
from aeplus.metrics.mean import WHOLE
from aeplus.metrics.success import ASPECTS, PARTS, Score, exact_match
from aeplus.models.decoder import Decoder
from aeplus.models.predict import AnswerScore, predict, score_answers, score_variants
from aeplus.models.tokens import TokenRow, encode
from aeplus.models.variants import Variants

Success = dict[str, float | None]
"""Efficacy, Generalization, Specificity and Score in percent, ``None`` where there is no prompt; and their parts."""
Predictions = Mapping[TokenRow, tuple[int, ...]]
"""The top-1 tokens of each row's answer."""


class PromptItem(NamedTuple):
    """A test prompt.

    Attributes:
        aspect: What it measures: ``efficacy``, ``generalization``, ``specificity`` or the name of an axis.
        prompt: The complete prompt.
        answer: The expected answer; ``None`` for the unedited model's.
        aliases: Other answers that count as right.
        edit: The index of its edit in the stream; prompts of one edit are resampled together.
        join: How the prompt and an answer are joined; see :func:`aeplus.texts.separator`.
        way: The way in which the aspect is asked, one of its :data:`~aeplus.metrics.success.WAYS`, where it has some.
    """

    aspect: str
    prompt: str
    answer: str | None
    aliases: tuple[str, ...] = ()
    edit: int = -1
    join: str = "auto"
    way: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What it counts in: its aspect, and the way of asking."""
        return (self.aspect, f"{self.aspect}_{self.way}") if self.way else (self.aspect,)


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


class AnswerPair(NamedTuple):
    """A prompt with two answers, as tokens.

    Attributes:
        target: The prompt with the answer that should be more likely.
        other: The prompt with the other answer.
        edit: The index of its edit in the stream.
    """

    target: TokenRow
    other: TokenRow
    edit: int


class Baseline:
    """What the unedited model answers to prompts without a known answer.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        asked: All prompts that will be looked up, each with how it and an answer are joined.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, asked: Iterable[tuple[str, str]]) -> None:
        pairs = sorted(set(asked))
        texts, joins = [text for text, _ in pairs], [join for _, join in pairs]
        answers = predict(decoder, encode(tokenizer, texts, limit=decoder.context_length, joins=joins))
        self._answers = dict(zip(pairs, answers, strict=True))

    def __getitem__(self, asked: tuple[str, str]) -> tuple[int, ...]:
        """The unedited model's next token."""
        return self._answers[asked]


# ---- from edits to test prompts


def holding_numbered(requests: Sequence[EditRequest]) -> list[tuple[int, EditRequest]]:
    """The edits that still hold, each with its index in the stream; see :func:`aeplus.edits.still_holding`."""
    return [pair for pair, holds in zip(enumerate(requests), still_holding(requests), strict=True) if holds]


def edit_items(requests: Sequence[EditRequest], dropped: frozenset[str] = frozenset()) -> list[PromptItem]:
    """The test prompts of edits, except those that test axes.

    Edits superseded by a later edit of the same fact are excluded.

    Args:
        requests: The edits, in order.
        dropped: Test prompts that are also in the validation set and must not count.
    """
    items: list[PromptItem] = []
    for number, edit in holding_numbered(requests):
        new = (edit.target_new, edit.aliases, number, edit.join)
        items.append(PromptItem("efficacy", edit.question, *new))
        ways = (("openings", edit.openings), ("statements", edit.statements), ("rephrasing", edit.rephrase))
        asked = [(way, text) for way, texts in ways for text in texts if text not in dropped]
        items += [PromptItem("generalization", text, *new, way) for way, text in asked]
        for probe in edit.neighborhood:
            if probe.prompt not in dropped:
                way = "same_subject" if edit.is_subject_of(probe.prompt) else "other_subjects"
                about = probe.answer, probe.aliases, number, edit.join
                items.append(PromptItem("specificity", probe.prompt, *about, way))
    return items


def axis_items(
    requests: Sequence[EditRequest], reached: int, dropped: frozenset[str] = frozenset()
) -> list[PromptItem]:
    """The test prompts of axes that the first edits make answerable.

    Questions of a case test its edits together: they count once all of them are made, and while all of them hold.

    Args:
        requests: The stream.
        reached: How many of its edits are made.
        dropped: Test prompts that must not count.
    """
    made = requests[:reached]
    incomplete = {edit.case for edit in requests[reached:] if edit.case} | broken_cases(made)
    return [
        PromptItem(probe.axis or "other", probe.prompt, probe.answer, probe.aliases, number, edit.join)
        for number, edit in holding_numbered(made)
        if edit.case not in incomplete
        for probe in edit.axes
        if probe.prompt not in dropped
    ]


# ---- from test prompts to tokens


def tokenize_items(
    tokenizer: Any,
    items: Sequence[tuple[str, str, str | None] | PromptItem],
    baseline: Baseline | Mapping[tuple[str, str], tuple[int, ...]],
    limit: int | None = None,
) -> list[Question]:
    """Tokenizes test prompts.

    Args:
        tokenizer: The tokenizer.
        items: The test prompts, or plain (aspect, prompt, answer).
        baseline: The unedited model's answers, for items whose answer is ``None``.
        limit: The model's context length in tokens.
    """
    prompts = [item if isinstance(item, PromptItem) else PromptItem(*item) for item in items]
    answers = [(item.answer, *item.aliases) if item.answer else (None,) for item in prompts]
    pairs = [(item, text) for item, accepted in zip(prompts, answers, strict=True) for text in accepted]
    texts, joins = [item.prompt for item, _ in pairs], [item.join for item, _ in pairs]
    rows = iter(encode(tokenizer, texts, [text for _, text in pairs], limit=limit, joins=joins))
    questions = []
    for item, accepted in zip(prompts, answers, strict=True):
        own = tuple(next(rows) for _ in accepted)
        expected = tuple(row.answer_ids or baseline[item.prompt, item.join] for row in own)
        questions.append(Question(item, own, expected))
    return questions


def answer_pairs(
    tokenizer: Any,
    requests: Sequence[EditRequest],
    dropped: frozenset[str] = frozenset(),
    limit: int | None = None,
) -> dict[str, list[AnswerPair]]:
    """For each aspect the test prompts with the new and the true answer; see :mod:`aeplus.metrics.magnitude`.

    Edits without ``target_true`` have none, and neighborhood prompts without an answer are left out.

    Args:
        tokenizer: The tokenizer.
        requests: The edits, in order.
        dropped: Test prompts that must not count.
        limit: The model's context length in tokens.
    """
    texts: dict[str, list[tuple[str, str, str, int, str]]] = {aspect: [] for aspect in ASPECTS}
    for number, edit in holding_numbered(requests):
        if edit.target_true is None:
            continue
        new, true = edit.target_new, edit.target_true
        texts["efficacy"].append((edit.question, new, true, number, edit.join))
        texts["generalization"] += [(p, new, true, number, edit.join) for p in edit.paraphrases if p not in dropped]
        kept = (probe for probe in edit.neighborhood if probe.answer and probe.prompt not in dropped)
        texts["specificity"] += [(probe.prompt, str(probe.answer), new, number, edit.join) for probe in kept]
    pairs = {}
    for aspect, part in texts.items():
        prompts, news, others, numbers, joins = map(list, zip(*part, strict=True)) if part else ([],) * 5
        target = encode(tokenizer, prompts, news, limit=limit, joins=joins)
        other = encode(tokenizer, prompts, others, limit=limit, joins=joins)
        pairs[aspect] = [AnswerPair(*pair) for pair in zip(target, other, numbers, strict=True)]
    return pairs


# ---- from predictions to scores


def predict_all(
    decoder: Decoder, questions: Iterable[Question], batch_tokens: int = 1024
) -> dict[TokenRow, tuple[int, ...]]:
    """The top-1 predictions of the rows of all questions, each distinct row run once."""
    rows = [row for question in questions for row in question.rows]
    return dict(zip(rows, predict(decoder, rows, batch_tokens), strict=True))


def metric_inputs(
    questions: Sequence[Question], predictions: Predictions
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[int], list[int]]:
    """The arguments of the metrics' ``update``: predicted and expected tokens, edit and prompt of every row."""
    rows = [(number, question, i) for number, question in enumerate(questions) for i in range(len(question.rows))]
    return (
        [predictions[question.rows[i]] for _, question, i in rows],
        [question.expected[i] for _, question, i in rows],
        [question.item.edit for _, question, _ in rows],
        [number for number, _, _ in rows],
    )


def is_right(question: Question, predictions: Predictions) -> bool:
    """Whether every token of an accepted answer is the top-1 prediction."""
    return bool(exact_match([predictions[row] for row in question.rows], question.expected).any())


def update_score(score: Score, questions: Sequence[Question], predictions: Predictions) -> Score:
    """Counts questions, each under its aspect and its way of asking, in a Score, and returns it."""
    for name in (*ASPECTS, *PARTS):
        if part := [question for question in questions if name in question.item.names]:
            score.update(name, *metric_inputs(part, predictions))
    return score


def evaluate(decoder: Decoder, questions: Sequence[Question]) -> Score:
    """The Score (with its three parts) over some questions."""
    return update_score(Score(**WHOLE), questions, predict_all(decoder, questions))


def grade(decoder: Decoder, questions: Sequence[Question], batch_tokens: int = 1024) -> Success:
    """The Score's summary with a finer one beside it, ``probability``, from the same forward passes.

    A few dozen prompts tell two candidates apart by top-1 hits only where a hit is gained or lost. ``probability`` is
    the probability of the expected answer (``exp`` of the mean log-probability of its tokens; of the most likely one
    where several are accepted), averaged over the prompts of each aspect and then over the aspects, in percent.

    Args:
        decoder: The model.
        questions: The questions; an answer that is the unedited model's is graded as any other.
        batch_tokens: Tokens run at once.

    Returns:
        Efficacy, Generalization, Specificity, Score and probability; ``None`` where there is no prompt.
    """
    rows = _graded_rows(questions)
    return _summary(questions, dict(zip(rows, score_answers(decoder, list(rows.values()), batch_tokens), strict=True)))


def grade_variants(
    decoder: Decoder, questions: Sequence[Question], variants: Variants, batch_tokens: int | None = None
) -> list[Success]:
    """What :func:`grade` says of each of several variants of the model, from one pass.

    Args:
        decoder: The model.
        questions: The questions.
        variants: What the variants add to the weights as they are.
        batch_tokens: Tokens run at once, those of all variants together; by default as many as
            :func:`~aeplus.models.predict.score_variants` takes.
    """
    rows = _graded_rows(questions)
    scores = score_variants(decoder, list(rows.values()), variants, batch_tokens)
    return [_summary(questions, dict(zip(rows, own, strict=True))) for own in scores]


def _graded_rows(questions: Iterable[Question]) -> dict[TokenRow, TokenRow]:
    """The rows of the questions, with the expected answer where a row has none."""
    return {
        row: row if row.answer_ids else replace(row, ids=(*row.ids, *expected))
        for question in questions
        for row, expected in zip(question.rows, question.expected, strict=True)
    }


def _summary(questions: Sequence[Question], found: Mapping[TokenRow, AnswerScore]) -> Success:
    predictions = {row: score.predicted for row, score in found.items()}
    summary = update_score(Score(**WHOLE), questions, predictions).summary()
    return {**summary, "probability": _probability(questions, found)}


def _probability(questions: Sequence[Question], found: Mapping[TokenRow, AnswerScore]) -> float | None:
    """The mean over the aspects of the mean probability of the expected answers, in percent."""
    shares: dict[str, list[float]] = {}
    for question in questions:
        best = max(found[row].log_prob for row in question.rows)
        shares.setdefault(question.item.aspect, []).append(math.exp(best))
    means = [sum(values) / len(values) for values in shares.values()]
    return 100 * sum(means) / len(means) if means else None


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
        requests: The edits, including superseded ones.
        baseline: What the unedited model answers.
        dropped: Test prompts that must not count.
    """
    limit = decoder.context_length
    by_edit = [tokenize_items(tokenizer, edit_items([edit], dropped), baseline, limit) for edit in requests]
    predictions = predict_all(decoder, chain.from_iterable(by_edit))
    return [update_score(Score(**WHOLE), own, predictions).summary() for own in by_edit]
