"""Everything that is measured on a stream of edits, in few passes: each distinct row runs once."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from aeplus.data.validation import preserved_snippets
from aeplus.edits import EditRequest
from aeplus.errors import InputError, require_not_negative, require_positive
from aeplus.evaluation.drift import DriftMeter, held_out_text
from aeplus.evaluation.questions import (
    AnswerPair,
    Baseline,
    PromptItem,
    Question,
    answer_pairs,
    axis_items,
    edit_items,
    fill,
    latest_numbered,
    questions,
    rows_of,
)
from aeplus.metrics.magnitude import MagnitudeScore
from aeplus.metrics.mean import Interval
from aeplus.metrics.success import ASPECTS, AxisSuccess, Score, TokenAccuracy
from aeplus.metrics.text import (
    Consistency,
    Fluency,
    GenerationSuccess,
    References,
    corpus_references,
    read_references,
    require_sklearn,
)
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.models.predict import AnswerScore, score_answers
from aeplus.models.tokens import TokenRow, encode
from aeplus.preserved.corpus import read_texts

Protocol = Literal["strict", "tokens", "magnitude", "generation", "fluency", "axes", "drift"]


@dataclass(frozen=True)
class SuiteOptions:
    """What :class:`~aeplus.evaluation.suite.Suite` measures.

    Attributes:
        protocols: ``strict`` and ``tokens``: every answer token, or the share of them, is the top-1 prediction;
            ``magnitude``: CounterFact's own, which answer is likelier; ``generation``: the answer comes first in
            greedy text; ``fluency``: n-gram entropy, and consistency with reference texts; ``axes``: success axis by
            axis; ``drift``: perplexity of held-out text and divergence on unrelated prompts.
        generation_length: Tokens generated for ``generation``; at least as many as the longest answer has.
        fluency_length: Tokens generated for ``fluency``.
        references: Reference texts of consistency: a JSON object of answer to texts, or JSON Lines of ``target`` and
            ``text``. Without it, paragraphs of ``corpus`` that name the answer.
        corpus: Text as ``model.preserved.corpus`` takes it.
        skip_tokens: Tokens at the corpus' beginning that are not held out, as statistics have read them.
        held_out: Held-out text for ``drift``, of which nothing is skipped; without it ``corpus`` behind
            ``skip_tokens``.
        held_out_tokens: About how many tokens of it to take.
        drift_prompts: Unrelated prompts for ``drift``: beginnings of the held-out text's sentences.
        bootstrap_samples: Means drawn for each interval; 0 for no intervals.
        confidence: The share of them within the interval.
        seed: Seed of everything drawn here.
        batch_tokens: Tokens run at once.
    """

    protocols: tuple[Protocol, ...] = ("strict", "tokens", "magnitude", "generation", "axes")
    generation_length: int = 16
    fluency_length: int = 100
    references: str | None = None
    corpus: str | None = None
    skip_tokens: int = 0
    held_out: str | None = None
    held_out_tokens: int = 4000
    drift_prompts: int = 50
    bootstrap_samples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    batch_tokens: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", tuple(self.protocols))
        known = get_args(Protocol)
        if unknown := sorted(set(self.protocols) - set(known)):
            msg = f"expected protocols out of {', '.join(known)}, but {', '.join(unknown)} came; check the names."
            raise InputError(msg)
        require_positive(self, "evaluation", "generation_length", "fluency_length", "held_out_tokens", "batch_tokens")
        require_not_negative(self, "evaluation", "skip_tokens", "drift_prompts", "bootstrap_samples")
        if not 0 < self.confidence < 1:
            msg = f"evaluation.confidence must lie between 0 and 1, but {self.confidence} came; 0.95 is usual."
            raise InputError(msg)

    @property
    def sampling(self) -> tuple[int, float, int]:
        """What an interval takes: samples, confidence, seed."""
        return self.bootstrap_samples, self.confidence, self.seed


Predictions = Mapping[TokenRow, tuple[int, ...]]


class Suite:
    """Measures a model on the test prompts of edits. Make it while the model is unedited: it asks it at once.

    Args:
        decoder: The unedited model, which is edited later.
        tokenizer: Its tokenizer.
        requests: The stream of edits.
        dropped: Prompts that must not count, as the validation set holds them.
        options: What to measure.

    Raises:
        InputError: If a text cannot be read, ``drift`` has none, or ``fluency`` wants scikit-learn and it is missing.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        dropped: frozenset[str] = frozenset(),
        options: SuiteOptions = SuiteOptions(),
    ) -> None:
        self.decoder, self.tokenizer, self.options = decoder, tokenizer, options
        self.requests, self.dropped = list(requests), dropped
        probes = (probe for request in requests for probe in (*request.neighborhood, *request.axes))
        self._baseline = Baseline(decoder, tokenizer, [p.prompt for p in probes if p.answer is None])
        self._references = self._read_references() if "fluency" in options.protocols else References()
        self._drift = self._drift_meter() if "drift" in options.protocols else None

    def measure(self, edited: int | None = None) -> dict[str, Any]:
        """Measures the model as it is now.

        Args:
            edited: How many edits, from the first, to ask about; all by default. Those whose fact a later one among
                them edits again do not count.

        Returns:
            The number of ``edits`` that count, and an entry per protocol, of plain values; see ``docs/metrics.md``.
            Shares are ``{"value", "low", "high", "count"}`` in percent. What cannot be measured, or is not finite,
            is ``None``.
        """
        reached = len(self.requests) if edited is None else edited
        requests, chosen = self.requests[:reached], self.options.protocols
        items = edit_items(requests, self.dropped)
        asked = self._questions(items if {"strict", "tokens"} & set(chosen) else [])
        axes = self._questions(axis_items(self.requests, reached, self.dropped) if "axes" in chosen else [])
        pairs: dict[str, list[AnswerPair]] = {}
        if "magnitude" in chosen:
            pairs = answer_pairs(self.tokenizer, requests, self.dropped, self.decoder.context_length)
        answers = self._ask([*asked, *axes], pairs)
        predictions = {row: answer.predicted for row, answer in answers.items()}
        found: dict[str, Any] = {"edits": len(latest_numbered(requests))}
        if "strict" in chosen:
            found["strict"] = self._score(Score(), asked, predictions)
        if "tokens" in chosen:
            found["tokens"] = self._score(Score(TokenAccuracy), asked, predictions)
        if "magnitude" in chosen:
            found["magnitude"] = self._magnitude(requests, pairs, answers)
        if "generation" in chosen:
            found["generation"] = measure_generation(self.decoder, self.tokenizer, items, self.options)
        if "fluency" in chosen:
            texts = requests, self._references, self.options, self.dropped
            found["fluency"] = measure_fluency(self.decoder, self.tokenizer, *texts)
        if "axes" in chosen:
            found["axes"] = self._axes(axes, predictions)
        if self._drift is not None:
            found["drift"] = self._drift.measure(*self.options.sampling)
        return {name: _plain(value) for name, value in found.items()}

    def _questions(self, items: Sequence[PromptItem]) -> list[Question]:
        return questions(self.tokenizer, items, self._baseline, self.decoder.context_length)

    def _ask(self, asked: Sequence[Question], pairs: Mapping[str, Sequence[AnswerPair]]) -> dict[TokenRow, AnswerScore]:
        rows = [row for question in asked for row in question.rows]
        rows += [row for part in pairs.values() for pair in part for row in (pair.wanted, pair.other)]
        return dict(zip(rows, score_answers(self.decoder, rows, self.options.batch_tokens), strict=True))

    # ---- what is made of the answers

    def _score(self, score: Score, asked: Sequence[Question], predictions: Predictions) -> dict[str, Any]:
        fill(score, asked, predictions)
        return {**score.intervals(*self.options.sampling), "score": score.summary()["score"]}

    def _axes(self, asked: Sequence[Question], predictions: Predictions) -> dict[str, Interval]:
        metric = AxisSuccess(sorted({question.item.aspect for question in asked}))
        for axis in metric.axes:
            metric.update(axis, *rows_of([q for q in asked if q.item.aspect == axis], predictions))
        return metric.intervals(*self.options.sampling)

    def _magnitude(
        self,
        requests: Sequence[EditRequest],
        pairs: Mapping[str, Sequence[AnswerPair]],
        answers: Mapping[TokenRow, AnswerScore],
    ) -> dict[str, Any]:
        metric = MagnitudeScore()
        for aspect, part in pairs.items():
            wanted = torch.tensor([answers[pair.wanted].log_prob for pair in part])
            other = torch.tensor([answers[pair.other].log_prob for pair in part])
            metric.update(aspect, wanted, other, [pair.edit for pair in part])
        intervals = metric.intervals(*self.options.sampling)
        left_out = sum(edit.target_true is None for _, edit in latest_numbered(requests))
        return {**intervals, "score": metric.score(intervals), "left_out": left_out}

    # ---- texts

    def _read_references(self) -> References:
        require_sklearn()
        options = self.options
        if options.references is not None:
            return read_references(Path(options.references))
        if options.corpus is not None:
            return corpus_references(read_texts(options.corpus), [request.target_new for request in self.requests])
        return References()

    def _drift_meter(self) -> DriftMeter:
        options, limit = self.options, self.decoder.context_length
        source, skip = (options.held_out, 0) if options.held_out is not None else (options.corpus, options.skip_tokens)
        if source is None:
            msg = "drift needs held-out text, but neither held_out nor corpus is given; name a text file as held_out."
            raise InputError(msg)
        texts, rows = held_out_text(self.tokenizer, read_texts(source), options.held_out_tokens, skip, limit, source)
        beginnings = preserved_snippets(texts, options.drift_prompts, options.seed)
        prompts = [probe.prompt for probe in beginnings if probe.prompt not in self.dropped]
        return DriftMeter(self.decoder, self.tokenizer, rows, prompts, options.batch_tokens)


def _plain(value: Any) -> Any:
    """The same without numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measure_generation(
    decoder: Decoder, tokenizer: Any, items: Sequence[PromptItem], options: SuiteOptions
) -> dict[str, Any]:
    """How often greedy text begins with an accepted answer, for each aspect, and the mean of the aspects.

    Prompts without a known answer are left out.
    """
    known = [item for item in items if item.answer is not None]
    answers = [(str(item.answer), *item.aliases) for item in known]
    spoken = sorted({f" {text}" for accepted in answers for text in accepted})
    longest = max((len(row.ids) for row in encode(tokenizer, spoken)), default=0)
    length = max(options.generation_length, longest)
    texts = generate(decoder, tokenizer, [item.prompt for item in known], length, options.batch_tokens)
    found: dict[str, Any] = {}
    for aspect in ASPECTS:
        metric = GenerationSuccess()
        rows = [row for row in zip(known, texts, answers, strict=True) if row[0].aspect == aspect]
        metric.update([text for _, text, _ in rows], [a for *_, a in rows], [item.edit for item, *_ in rows])
        found[aspect] = metric.interval(*options.sampling)
    values = [part["value"] for part in found.values() if part["value"] is not None]
    return {**found, "score": sum(values) / len(values) if values else None}


def measure_fluency(
    decoder: Decoder,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    references: References,
    options: SuiteOptions,
    dropped: frozenset[str] = frozenset(),
) -> dict[str, Interval]:
    """The entropy of text that goes on from the generation prompts, and its likeness to the references.

    As in ROME's code the prompt is part of the text, and all texts of an edit are compared with its references at
    once. An edit without generation prompts goes on from its own prompt.
    """
    edits = latest_numbered(requests)
    prompts = [
        (prompt, number)
        for number, edit in edits
        for prompt in (edit.generation or (edit.question,))
        if prompt not in dropped
    ]
    asked, numbers = [prompt for prompt, _ in prompts], [number for _, number in prompts]
    spoken = generate(decoder, tokenizer, asked, options.fluency_length, options.batch_tokens)
    by_edit: dict[int, list[str]] = defaultdict(list)
    for number, prompt, text in zip(numbers, asked, spoken, strict=True):
        by_edit[number].append(f"{prompt} {text}")
    entropy = Fluency()
    for number, texts in by_edit.items():
        entropy.update(texts, [number] * len(texts))
    consistency: Interval = {"value": None, "low": None, "high": None, "count": 0}
    named = [(n, references[edit.target_new]) for n, edit in edits if n in by_edit]
    known = [(n, text) for n, text in named if text is not None]
    if known:
        metric = Consistency(references.documents)
        metric.update([" ".join(by_edit[n]) for n, _ in known], [text for _, text in known], [n for n, _ in known])
        consistency = metric.interval(*options.sampling)
    return {"entropy": entropy.interval(*options.sampling), "consistency": consistency}
