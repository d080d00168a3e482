"""Drift: what editing does to text and prompts unrelated to the edits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from aeplus.metrics.mean import PromptMean


def kl_divergence(reference: Tensor, current: Tensor) -> Tensor:
    """``KL(reference ‖ current)`` of next-token distributions, in nats.

    Args:
        reference: Log-probabilities of the unedited model, ``[b, vocabulary]``.
        current: Those of the edited model, ``[b, vocabulary]``.

    Returns:
        Divergences ``[b]``, 0 or more.

    Example:
        >>> even, skewed = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(float(kl_divergence(even, skewed)), 4)
        0.1438
    """
    terms = reference.exp() * (reference - current)
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

    def update(self, reference: Tensor, current: Tensor) -> None:
        """Counts prompts by log-probabilities ``[b, vocabulary]`` of the unedited and of the current model."""
        self.record(kl_divergence(reference, current))


class TextPerplexity(Metric):
    """Perplexity of text: ``exp`` of the mean negative log-probability of its tokens.

    Computed from log-probabilities, so that an unlikely token does not make it infinite. States are sums.

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
