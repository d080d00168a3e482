"""Everything that is measured on a stream of edits, in few forward passes: each distinct row runs once."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from aeplus.data.validation import preserved_snippets
from aeplus.edits import EditRequest
from aeplus.errors import InputError, require_not_negative, require_positive, require_types
from aeplus.evaluation.drift import DriftMeter, held_out_text
from aeplus.evaluation.free_text import measure_fluency, measure_generation
from aeplus.evaluation.questions import (
    AnswerPair,
    Baseline,
    Predictions,
    PromptItem,
    Question,
    answer_pairs,
    axis_items,
    edit_items,
    holding_numbered,
    is_right,
    metric_inputs,
    tokenize_items,
    update_score,
)
from aeplus.evaluation.records import Found, PromptRecord, prompt_records
from aeplus.evaluation.references import References, corpus_references, read_references
from aeplus.evaluation.unchanged import Unchanged, unchanged_items
from aeplus.metrics.magnitude import MagnitudeScore
from aeplus.metrics.mean import WHOLE, Average, Interval
from aeplus.metrics.success import AxisSuccess, CaseSuccess, Score, TokenAccuracy, TopOneSuccess
from aeplus.metrics.text import require_sklearn
from aeplus.models.decoder import Decoder
from aeplus.models.predict import AnswerScore, score_answers
from aeplus.models.tokens import TokenRow
from aeplus.preserved.corpus import read_texts

Protocol = Literal["strict", "tokens", "magnitude", "generation", "contains", "fluency", "axes", "unchanged", "drift"]

_OF_CASES: dict[str, tuple[str, Callable[[Iterable[bool]], bool]]] = {
    "multi_hop_any": ("multi_hop", any),
    "single_hop_all": ("single_hop", all),
}
"""Axes that count whole cases: of which axis any or all questions have to be right (MQuAKE)."""


@dataclass(frozen=True)
class SuiteOptions:
    """What :class:`~aeplus.evaluation.suite.Suite` measures.

    Attributes:
        protocols: ``strict`` and ``tokens``: every answer token, or the share of them, is the top-1 prediction;
            ``magnitude``: CounterFact's own, which answer is more likely; ``generation``: the answer comes first in
            greedy text; ``contains``: it is named anywhere in it, for questions that a chat answers in a sentence;
            ``fluency``: n-gram entropy, and consistency with reference texts; ``axes``: success axis by
            axis, with ``tokens`` also by tokens; ``unchanged``: the share of tokens that neighborhood prompts keep from
            the unedited model; ``drift``: perplexity of held-out text and divergence on unrelated prompts.
        generation_length: Tokens generated for ``generation``; at least as many as the longest answer has.
        contains_length: The same for ``contains``.
        fluency_length: Tokens generated for ``fluency``.
        fluency_total: Whether these are the prompt's tokens and the new ones together, and nothing ends a text before,
            as in ROME's code.
        fluency_top_k: Each of them is drawn out of the so many likeliest; 1 takes the likeliest, ROME's code 5.
        references: Reference texts of consistency: ROME's ``attribute_snippets.json``, a JSON object of answer to
            texts, or JSON Lines of ``target`` and ``text``. Without it, paragraphs of ``corpus`` that name the answer.
        corpus: Text as ``model.preserved.corpus`` takes it.
        skip_tokens: Tokens at the beginning of the corpus that are not held out, as statistics have read them.
        held_out: Held-out text for ``drift``, of which nothing is skipped; without it ``corpus`` after
            ``skip_tokens``.
        held_out_tokens: About how many tokens of it to take.
        drift_prompts: Unrelated prompts for ``drift``: beginnings of the held-out text's sentences.
        bootstrap_samples: Means drawn for each interval; 0 for no intervals.
        confidence: The share of them within the interval.
        seed: Seed of everything drawn.
        batch_tokens: Tokens run at once.
        records: Keep what every prompt got, in :attr:`Suite.prompts`; those of ``strict`` are then asked for their
            answers, whatever the protocols.
        average: What values are means over: all ``prompts`` alike, or ``edits``, each with the mean of its own prompts,
            as in EasyEdit's and MEMIT's summaries.

    Raises:
        InputError: If a number is out of range or a protocol unknown.
    """

    protocols: tuple[Protocol, ...] = ("strict", "tokens", "magnitude", "generation", "axes")
    generation_length: int = 16
    contains_length: int = 20
    fluency_length: int = 100
    fluency_top_k: int = 1
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
    records: bool = False
    average: Average = "prompts"
    fluency_total: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", tuple(self.protocols))
        known = get_args(Protocol)
        if unknown := sorted(set(self.protocols) - set(known)):
            msg = f"expected protocols out of {', '.join(known)}, got {', '.join(unknown)}; check the names."
            raise InputError(msg)
        require_types(self, "evaluation")
        lengths = ("generation_length", "contains_length", "fluency_length", "fluency_top_k")
        require_positive(self, "evaluation", *lengths, "held_out_tokens", "batch_tokens")
        require_not_negative(self, "evaluation", "skip_tokens", "drift_prompts", "bootstrap_samples")
        if self.average not in get_args(Average):
            msg = f"expected evaluation.average prompts or edits, got {self.average!r}; choose one of these."
            raise InputError(msg)
        if not 0 < self.confidence < 1:
            msg = f"expected evaluation.confidence between 0 and 1, got {self.confidence}; choose one such as 0.95."
            raise InputError(msg)

    @property
    def sampling(self) -> tuple[int, float, int, Average]:
        """The arguments of an interval: samples, confidence, seed, and what its mean is over."""
        return self.bootstrap_samples, self.confidence, self.seed, self.average


class Suite:
    """Measures a model on the test prompts of edits.

    Create it while the model is unedited: it asks the model at once.

    Args:
        decoder: The unedited model, which is edited later.
        tokenizer: Its tokenizer.
        requests: The stream of edits.
        dropped: Prompts that must not count, as they are in the validation set.
        options: What to measure.

    Attributes:
        prompts: With ``records``, what the last measurement found prompt by prompt.

    Raises:
        InputError: If a text cannot be read, ``drift`` has none, or ``fluency`` lacks scikit-learn.
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
        self.prompts: list[PromptRecord] = []
        unanswered = [
            (probe.prompt, request.join)
            for request in requests
            for probe in (*request.neighborhood, *request.axes)
            if probe.answer is None
        ]
        self._baseline = Baseline(decoder, tokenizer, unanswered)
        self._unchanged: Unchanged | None = None
        if "unchanged" in options.protocols:
            self._unchanged = Unchanged(decoder, tokenizer, self.requests, self._baseline, options.batch_tokens)
        self._references = self._read_references() if "fluency" in options.protocols else References()
        self._drift = self._drift_meter() if "drift" in options.protocols else None

    def measure(self, edited: int | None = None) -> dict[str, Any]:
        """Measures the model as it is now.

        Args:
            edited: How many edits, from the first, are made and measured; all by default. Those superseded by a
                later one among them are excluded.

        Returns:
            The number of ``edits`` that count, and an entry per protocol, of plain values; see ``docs/metrics.md``.
            Shares are ``{"value", "low", "high", "count"}`` in percent. What cannot be measured, or is not finite,
            is ``None``.
        """
        options, reached = self.options, len(self.requests) if edited is None else edited
        requests, protocols = self.requests[:reached], options.protocols
        items = edit_items(requests, self.dropped)
        questions = self._tokenize(items if options.records or {"strict", "tokens"} & set(protocols) else [])
        axes = self._tokenize(axis_items(self.requests, reached, self.dropped) if "axes" in protocols else [])
        kept = self._tokenize(unchanged_items(requests, self.dropped) if self._unchanged is not None else [])
        pairs: dict[str, list[AnswerPair]] = {}
        if "magnitude" in protocols:
            pairs = answer_pairs(self.tokenizer, requests, self.dropped, self.decoder.context_length)
        answers = self._score_rows([*questions, *axes, *kept], pairs)
        predictions = {row: answer.predicted for row, answer in answers.items()}
        results: dict[str, Any] = {"edits": len(holding_numbered(requests))}
        if "strict" in protocols:
            results["strict"] = self._success(Score(**WHOLE), questions, predictions)
        if "tokens" in protocols:
            results["tokens"] = self._success(Score(TokenAccuracy, **WHOLE), questions, predictions)
        if "magnitude" in protocols:
            results["magnitude"] = self._magnitude(requests, pairs, answers)
        shared = options.batch_tokens, options.sampling
        found: Found = {}
        lengths = {"generation": options.generation_length, "contains": options.contains_length}
        for name in sorted(lengths.keys() & set(protocols)):
            text = self.decoder, self.tokenizer, items, lengths[name]
            results[name] = measure_generation(*text, *shared, name, found)
        if "fluency" in protocols:
            results["fluency"] = self._fluency(requests, found)
        if "axes" in protocols:
            results["axes"] = {**self._axes(axes, predictions), **self._cases(axes, predictions)}
            if "tokens" in protocols:
                results["axes_tokens"] = self._axes(axes, predictions, TokenAccuracy)
        if self._unchanged is not None:
            results["unchanged"] = self._unchanged.measure(kept, predictions, options.sampling, found)
        if self._drift is not None:
            results["drift"] = self._drift.measure(*options.sampling[:3])
        if options.records:
            records = prompt_records(requests, [*questions, *axes], pairs, answers, found)
            self.prompts = [replace(record, found=_without_non_finite(record.found)) for record in records]
        return {name: _without_non_finite(value) for name, value in results.items()}

    # ---- prompts and predictions

    def _tokenize(self, items: Sequence[PromptItem]) -> list[Question]:
        return tokenize_items(self.tokenizer, items, self._baseline, self.decoder.context_length)

    def _score_rows(
        self, questions: Sequence[Question], pairs: Mapping[str, Sequence[AnswerPair]]
    ) -> dict[TokenRow, AnswerScore]:
        rows = [row for question in questions for row in question.rows]
        rows += [row for part in pairs.values() for pair in part for row in (pair.target, pair.other)]
        return dict(zip(rows, score_answers(self.decoder, rows, self.options.batch_tokens), strict=True))

    # ---- metrics

    def _success(self, score: Score, questions: Sequence[Question], predictions: Predictions) -> dict[str, Any]:
        update_score(score, questions, predictions)
        intervals = score.intervals(*self.options.sampling)
        return {**intervals, "score": score.mean(intervals)}

    def _axes(
        self, questions: Sequence[Question], predictions: Predictions, part: type[TopOneSuccess] = TopOneSuccess
    ) -> dict[str, Interval]:
        metric = AxisSuccess(sorted({question.item.aspect for question in questions}), part, **WHOLE)
        for axis in metric.axes:
            metric.update(axis, *metric_inputs([q for q in questions if q.item.aspect == axis], predictions))
        return metric.intervals(*self.options.sampling)

    def _cases(self, questions: Sequence[Question], predictions: Predictions) -> dict[str, Interval]:
        """The axes that count whole cases, where questions belong to some."""
        found = {}
        for name, (axis, join) in _OF_CASES.items():
            case_of = {q: self.requests[q.item.edit].case for q in questions if q.item.aspect == axis}
            own = [question for question, case in case_of.items() if case]
            if own:
                right = [is_right(question, predictions) for question in own]
                metric = CaseSuccess(join, **WHOLE)
                metric.update(right, [case_of[question] for question in own], [q.item.edit for q in own])
                found[name] = metric.interval(*self.options.sampling)
        return found

    def _magnitude(
        self,
        requests: Sequence[EditRequest],
        pairs: Mapping[str, Sequence[AnswerPair]],
        answers: Mapping[TokenRow, AnswerScore],
    ) -> dict[str, Any]:
        metric = MagnitudeScore(**WHOLE)
        for aspect, part in pairs.items():
            target = torch.tensor([answers[pair.target].log_prob for pair in part])
            other = torch.tensor([answers[pair.other].log_prob for pair in part])
            metric.update(aspect, target, other, [pair.edit for pair in part])
        intervals = metric.intervals(*self.options.sampling)
        left_out = sum(edit.target_true is None for _, edit in holding_numbered(requests))
        return {**intervals, "score": metric.score(intervals), "left_out": left_out}

    # ---- texts

    def _fluency(self, requests: Sequence[EditRequest], found: Found) -> dict[str, Interval]:
        options = self.options
        return measure_fluency(
            self.decoder,
            self.tokenizer,
            requests,
            self._references,
            options.fluency_length,
            options.batch_tokens,
            options.sampling,
            self.dropped,
            options.fluency_top_k,
            found,
            options.fluency_total,
        )

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
            msg = "expected held-out text for drift, got neither held_out nor corpus; pass a text file as held_out."
            raise InputError(msg)
        texts, rows = held_out_text(self.tokenizer, read_texts(source), options.held_out_tokens, skip, limit, source)
        beginnings = preserved_snippets(texts, options.drift_prompts, options.seed)
        prompts = [probe.prompt for probe in beginnings if probe.prompt not in self.dropped]
        return DriftMeter(self.decoder, self.tokenizer, rows, prompts, options.batch_tokens)


def _without_non_finite(value: Any) -> Any:
    """The value with ``None`` for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _without_non_finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
