"""How sure a mean is: percentile bootstrap intervals that draw whole edits."""

import torch
from torch import Tensor

_AT_ONCE = 4_000_000  # indices drawn at once, 32 MB


def bootstrap(
    values: Tensor, groups: Tensor, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a mean (Efron, 1979), by drawing groups with replacement.

    Prompts of one edit succeed or fail together, so they are drawn together: resampling them one by one would call
    the mean surer than it is.

    Args:
        values: One value per prompt, ``[n]``, with ``n ≥ 1``.
        groups: The edit of each prompt, ``[n]``.
        samples: How many means to draw.
        confidence: The share of the means that lies within the interval.
        seed: Seed of the drawing; the global random state is not touched.

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
