"""Drift: what editing does to held-out text and unrelated prompts."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.metrics.drift import NextTokenDivergence, TextPerplexity
from aeplus.metrics.mean import WHOLE
from aeplus.models.decoder import Decoder
from aeplus.models.predict import next_token_log_probs, score_answers
from aeplus.models.tokens import TokenRow, encode, token_ids

_WINDOW = 256  # maximum number of tokens read of a paragraph


def held_out_text(
    tokenizer: Any,
    paragraphs: Iterable[str],
    tokens: int,
    skip: int = 0,
    limit: int | None = None,
    source: str = "the corpus",
) -> tuple[list[str], list[TokenRow]]:
    """Takes paragraphs of a corpus that the statistics have not read.

    Args:
        tokenizer: The tokenizer.
        paragraphs: The corpus.
        tokens: About how many tokens to take.
        skip: Number of tokens at the beginning of the corpus that the statistics have read.
        limit: The model's context length in tokens.
        source: The name of the corpus in messages.

    Returns:
        The paragraphs, and a row for each: its first tokens, at most 256, all but the first as the answer.

    Raises:
        InputError: If nothing is left after the skipped tokens.
    """
    window = min(_WINDOW, limit or _WINDOW)
    texts: list[str] = []
    rows: list[TokenRow] = []
    passed, taken = 0, 0
    for paragraph in paragraphs:
        if taken >= tokens:
            break
        ids = token_ids(tokenizer, paragraph)
        if passed < skip:
            passed += len(ids)  # the paragraph in which the statistics stop is not held out
        elif len(ids) > 1:
            texts.append(paragraph)
            rows.append(TokenRow(tuple(ids[:window]), 1))
            taken += len(rows[-1].ids)
    if not rows:
        after = f" after the first {skip} tokens, which the statistics read," if skip else ""
        msg = f"expected held-out text{after} in {source}, got none; pass a text file as held_out."
        raise InputError(msg)
    return texts, rows


class DriftMeter:
    """Perplexity of held-out text and divergence on unrelated prompts, relative to the unedited model.

    Create it while the model is unedited: it asks the model at once.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        rows: Held-out text; see :func:`held_out_text`.
        prompts: Unrelated prompts; may be empty.
        batch_tokens: Tokens run at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        rows: Sequence[TokenRow],
        prompts: Sequence[str],
        batch_tokens: int = 1024,
    ) -> None:
        self._decoder, self._rows, self._batch_tokens = decoder, rows, batch_tokens
        texts = [row.ids[: decoder.context_length] for row in encode(tokenizer, prompts)]
        self._prompts = [TokenRow(ids, len(ids)) for ids in texts]
        self._unedited = self._log_probs()
        self._before = self._perplexity()

    def measure(self, samples: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """The drift of the model as it is now.

        Args:
            samples: Bootstrap samples for the interval of the divergence.
            confidence: The share of them within it.
            seed: Their seed.

        Returns:
            ``perplexity``, ``perplexity_before``, their ``ratio``, the held-out ``tokens``, and ``kl`` in nats.
        """
        perplexity = self._perplexity()
        divergence = NextTokenDivergence(**WHOLE)
        divergence.update(self._unedited, self._log_probs())
        return {
            "perplexity": perplexity,
            "perplexity_before": self._before,
            "ratio": perplexity / self._before,
            "tokens": sum(len(row.answer_ids) for row in self._rows),
            "kl": divergence.interval(samples, confidence, seed),
        }

    def _perplexity(self) -> float:
        metric = TextPerplexity(**WHOLE)
        scores = score_answers(self._decoder, self._rows, self._batch_tokens)
        metric.update([score.log_prob for score in scores], [len(row.answer_ids) for row in self._rows])
        return float(metric.compute())

    def _log_probs(self) -> Tensor:
        if not self._prompts:
            return torch.zeros(0, 1)
        return next_token_log_probs(self._decoder, self._prompts, self._batch_tokens)
