"""Everything that is measured on a stream of edits, in few passes: each distinct row runs once."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aeplus.data.request import EditRequest
from aeplus.data.validation import preserved_snippets
from aeplus.errors import InputError
from aeplus.knowledge.corpus import read_texts
from aeplus.metrics.axes import AxisSuccess
from aeplus.metrics.consistency import References, corpus_references, read_references, require_sklearn
from aeplus.metrics.drift import DriftMeter, held_out_text
from aeplus.metrics.evaluate import (
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
from aeplus.metrics.free_text import measure_fluency, measure_generation
from aeplus.metrics.magnitude import MagnitudeScore
from aeplus.metrics.mean import Interval
from aeplus.metrics.options import SuiteOptions
from aeplus.metrics.predict import AnswerScore, score_answers
from aeplus.metrics.success import Score, TokenAccuracy
from aeplus.models.sites import Decoder
from aeplus.models.tokens import TokenRow

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
        options: SuiteOptions = SuiteOptions(),  # noqa: B008 - frozen
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
