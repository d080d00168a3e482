"""The mean of one value per prompt, with a percentile bootstrap interval that resamples whole edits."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

_AT_ONCE = 4_000_000  # indices drawn at once, 32 MB


def _nobody() -> bool:
    return False


WHOLE: dict[str, Any] = {"distributed_available_fn": _nobody}
"""Options of a metric that sees everything on every rank, and must not be summed up over the ranks once more."""


def bootstrap(
    values: Tensor, groups: Tensor, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a mean (Efron, 1979), by drawing groups with replacement.

    Prompts of one edit succeed or fail together, so they are drawn together: resampling them one by one would
    understate the uncertainty of the mean.

    Args:
        values: One value per prompt, ``[n]``, with ``n ≥ 1``.
        groups: The edit of each prompt, ``[n]``.
        samples: Number of means to draw.
        confidence: The share of the means that lies within the interval.
        seed: Seed of the drawing; the global random state is unchanged.

    Returns:
        The lower and the upper end, in the unit of ``values``.

    Example:
        >>> bootstrap(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0, 0, 1]))
        (1.0, 1.0)
    """
    members = groups.cpu().unique(return_inverse=True)[1]
    count = int(members.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, members, values.detach().cpu().double())
    sizes = torch.bincount(members, minlength=count).double()
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, samples, step := max(1, _AT_ONCE // count)):
        drawn = torch.randint(count, (min(step, samples - start), count), generator=generator)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


Average = Literal["prompts", "edits"]
"""What a mean is over: all prompts alike, or the means of each edit's own prompts."""
Sampling = tuple[int, float, int] | tuple[int, float, int, Average]
"""The arguments of an interval: samples, confidence, seed, and what the mean is over."""
Interval = dict[str, float | None]
"""``value``, ``low``, ``high`` and ``count``: a mean, the ends of its bootstrap interval and the number of prompts."""


class PromptMean(Metric):
    """The mean of one value per prompt, times :attr:`scale`; NaN without any prompt.

    The states are concatenated over the ranks. A subclass computes the values in its ``update`` and passes them to
    :meth:`record`.

    Attributes:
        scale: Factor of the mean; 100 for shares, which are in percent.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False
    scale = 1.0
    values: list[Tensor]
    edits: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Both in float32, as torchmetrics gathers empty float tensors from a rank without any prompt.
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("edits", [], dist_reduce_fx="cat")

    def record(self, values: Tensor, edits: Sequence[int] | None = None, prompts: Sequence[int] | None = None) -> None:
        """Adds values.

        Args:
            values: One per row, ``[b]``.
            edits: The index of each row's edit, the same on every rank; without it every prompt is its own group.
            prompts: The index of each row's prompt, where prompts have several rows, one per accepted answer: the
                best value counts. Without it every row is a prompt.
        """
        values = values.detach().to(self.device, torch.float32)
        owners = torch.full(values.shape, -1.0) if edits is None else torch.tensor(edits, dtype=torch.float32)
        owners = owners.to(self.device)
        if prompts is not None:
            values, owners = best_answers(values, owners, torch.tensor(prompts, device=self.device))
        self.values.append(values)
        self.edits.append(owners)

    def compute(self) -> Tensor:
        """The mean so far."""
        values = self._state(self.values)
        return self.scale * values.sum() / len(values)

    def interval(
        self, samples: int = 1000, confidence: float = 0.95, seed: int = 0, average: Average = "prompts"
    ) -> Interval:
        """The mean as plain values, with its bootstrap interval; ``None`` where there is no prompt.

        Args:
            samples: Number of means to draw; 0 for no interval.
            confidence: The share of them within the interval.
            seed: Seed of the drawing.
            average: ``edits`` for the mean of the edits' means; ``count`` is the number of prompts either way.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            values, edits = self._state(self.values).cpu().double(), self._state(self.edits).cpu()
        count = len(values)
        if count:  # a prompt without an edit is an edit of its own
            edits = torch.where(edits < 0, torch.arange(count) + edits.max().clamp_min(0) + 1, edits)
        if average == "edits":
            values, edits = edit_means(values, edits)
        value = self.scale * float(values.mean()) if count else None
        low, high = None, None
        if samples and count:
            low, high = bootstrap(values, edits, samples, confidence, seed)
            low, high = self.scale * low, self.scale * high
        return {"value": value, "low": low, "high": high, "count": count}

    def hits(self) -> dict[str, list[float]]:
        """By edit: ``edits``, their indices; ``hits``, the sum of the values of each; ``prompts``, its number."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            values, edits = self._state(self.values).cpu().double(), self._state(self.edits).cpu().long()
        names, places = edits.unique(return_inverse=True)
        sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, places, values)
        return {"edits": names.tolist(), "hits": sums.tolist(), "prompts": torch.bincount(places).tolist()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the value, or given values as a curve; returns figure and axes."""
        return self._plot(val, ax)

    def _state(self, state: list[Tensor] | Tensor) -> Tensor:
        if isinstance(state, list) and not state:
            return torch.zeros(0, device=self.device)
        return dim_zero_cat(state)


class Share(PromptMean):
    """The share of prompts, in percent."""

    scale = 100.0
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0


def edit_means(values: Tensor, edits: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each edit's values, ``[e]``, and the edits, ascending.

    Args:
        values: One per prompt, ``[n]``.
        edits: The edit of each prompt, ``[n]``.

    Example:
        >>> edit_means(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]), torch.tensor([3, 3, 3, 3, 4]))[0].tolist()
        [0.0, 1.0]
    """
    names, members = edits.unique(return_inverse=True)
    sums = values.new_zeros(len(names)).index_add_(0, members, values)
    return sums / torch.bincount(members, minlength=len(names)), names


def best_answers(values: Tensor, edits: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The best value of each prompt's rows.

    Args:
        values: One per row, ``[b]``.
        edits: The edit of each row, ``[b]``; the same for all rows of a prompt.
        prompts: The prompt of each row, ``[b]``.

    Returns:
        The values and the edits of the prompts, ``[p]`` each, in the order of their indices.

    Example:
        >>> best_answers(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([7, 7, 8]), torch.tensor([0, 0, 1]))[0].tolist()
        [1.0, 0.0]
    """
    names, members = prompts.unique(return_inverse=True)
    best = values.new_full(names.shape, -torch.inf).scatter_reduce_(0, members, values, "amax")
    return best, edits.new_zeros(names.shape).scatter_(0, members, edits)
