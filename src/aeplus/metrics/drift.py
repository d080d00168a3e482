"""Drift: what editing does to text and prompts that have nothing to do with the edits."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from aeplus.errors import InputError
from aeplus.metrics.mean import PromptMean
from aeplus.metrics.predict import next_token_log_probs, score_answers
from aeplus.models.sites import Decoder
from aeplus.models.tokens import TokenRow, encode

_WINDOW = 256  # tokens of a paragraph that are read


def kl_divergence(reference: Tensor, present: Tensor) -> Tensor:
    """``KL(reference ‖ present)`` of next-token distributions, in nats.

    Args:
        reference: Log-probabilities of the unedited model, ``[b, vocabulary]``.
        present: Those of the edited one.

    Returns:
        Divergences ``[b]``, 0 or more.

    Example:
        >>> even, skewed = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(float(kl_divergence(even, skewed)), 4)
        0.1438
    """
    terms = reference.exp() * (reference - present)
    return torch.where(reference.isneginf(), 0.0, terms).sum(-1)  # 0 log 0 = 0


class NextTokenDivergence(PromptMean):
    """Mean over prompts of ``KL(unedited ‖ edited)`` of the next-token distribution, in nats.

    Example:
        >>> metric = NextTokenDivergence()
        >>> even = torch.tensor([[0.5, 0.5]]).log()
        >>> metric.update(even, even)
        >>> float(metric.compute())
        0.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def update(self, reference: Tensor, present: Tensor) -> None:
        """Counts prompts by log-probabilities ``[b, vocabulary]`` of the unedited and of the present model."""
        self.record(kl_divergence(reference, present))


class TextPerplexity(Metric):
    """Perplexity of text: ``exp`` of the mean negative log-probability of its tokens.

    From log-probabilities, so that an unlikely token does not make it infinite. States are sums.

    Example:
        >>> metric = TextPerplexity()
        >>> metric.update([-1.0, -2.0], [3, 1])
        >>> round(float(metric.compute()), 4)
        3.4903
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 1.0
    surprise: Tensor
    tokens: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("surprise", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, log_probs: Sequence[float], tokens: Sequence[int]) -> None:
        """Counts texts: the mean log-probability in nats and the number of each one's tokens."""
        sizes = torch.tensor(tokens, device=self.device)
        self.surprise -= (torch.tensor(log_probs, dtype=torch.float32, device=self.device) * sizes).sum()
        self.tokens += sizes.sum()

    def compute(self) -> Tensor:
        """The perplexity so far."""
        return (self.surprise / self.tokens).exp()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the value, or given values as a curve; returns figure and axes."""
        return self._plot(val, ax)


def held_out_text(
    tokenizer: Any,
    paragraphs: Iterable[str],
    tokens: int,
    skip: int = 0,
    limit: int | None = None,
    source: str = "the corpus",
) -> tuple[list[str], list[TokenRow]]:
    """Takes paragraphs of a corpus that its statistics have not read.

    Args:
        tokenizer: The tokenizer.
        paragraphs: The corpus.
        tokens: About how many tokens to take.
        skip: How many tokens at the corpus' beginning the statistics read.
        limit: The model's context length in tokens.
        source: What a message calls the corpus.

    Returns:
        The paragraphs, and of each the first tokens, at most 256, as a row whose every token but the first is an
        answer.

    Raises:
        InputError: If nothing is left behind the skipped tokens.
    """
    window = min(_WINDOW, limit or _WINDOW)
    texts: list[str] = []
    rows: list[TokenRow] = []
    passed, taken = 0, 0
    for paragraph in paragraphs:
        if taken >= tokens:
            break
        ids = tokenizer(paragraph, truncation=False)["input_ids"]
        if passed < skip:
            passed += len(ids)  # the paragraph in which the statistics stop is theirs
        elif len(ids) > 1:
            texts.append(paragraph)
            rows.append(TokenRow(tuple(ids[:window]), 1))
            taken += len(rows[-1].ids)
    if not rows:
        behind = f" behind the first {skip} tokens, which the statistics read," if skip else ""
        msg = f"expected held-out text{behind} in {source}, but there is none; name a text file as held_out."
        raise InputError(msg)
    return texts, rows


class DriftMeter:
    """Perplexity of held-out text and divergence on unrelated prompts, against the model as it is now, unedited.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        rows: Held-out text; see :func:`held_out_text`.
        prompts: Unrelated prompts; may be none.
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
            samples: Bootstrap samples of the divergence's interval.
            confidence: The share of them within it.
            seed: Their seed.

        Returns:
            ``perplexity``, ``perplexity_before``, their ``ratio``, the held-out ``tokens``, and ``kl`` in nats.
        """
        perplexity = self._perplexity()
        divergence = NextTokenDivergence()
        divergence.update(self._unedited, self._log_probs())
        return {
            "perplexity": perplexity,
            "perplexity_before": self._before,
            "ratio": perplexity / self._before,
            "tokens": sum(len(row.answer_ids) for row in self._rows),
            "kl": divergence.interval(samples, confidence, seed),
        }

    def _perplexity(self) -> float:
        metric = TextPerplexity()
        scores = score_answers(self._decoder, self._rows, self._batch_tokens)
        metric.update([score.log_prob for score in scores], [len(row.answer_ids) for row in self._rows])
        return float(metric.compute())

    def _log_probs(self) -> Tensor:
        if not self._prompts:
            return torch.zeros(0, 1)
        return next_token_log_probs(self._decoder, self._prompts, self._batch_tokens)
