"""Two runs on the same edits compared: the difference of their Scores, with a paired bootstrap interval."""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from aeplus.metrics.mean import Interval

Hits = Mapping[str, Mapping[str, Sequence[float]]]
"""By aspect: ``edits``, their indices; ``hits``, the prompts answered right of each; ``prompts``, how many it has."""

_AT_ONCE = 4_000_000  # numbers drawn at once


def score_difference(
    ours: Sequence[Hits],
    theirs: Sequence[Hits],
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    edits: Sequence[Hashable] | None = None,
) -> Interval:
    """How much higher one method's Score is than another's, with a percentile interval (Efron, 1979), in points.

    Both methods have made the same runs, one per seed. Edits are drawn with replacement within each run, the same for
    both, since the two succeed and fail on the same edits together, and the same for runs of the same edits, which are
    no further evidence on other edits; a Score is the mean of the aspects, and the mean over the runs is compared.

    Args:
        ours: Each run's hits, see :meth:`~aeplus.metrics.success.Score.hits`.
        theirs: The other method's, run by run.
        edits: What the edits of each run are called, the same where they are the same; by default each run has its own.
        samples: Number of differences to draw.
        confidence: The share of them within the interval.
        seed: Seed of the drawing; the global random state is unchanged.

    Returns:
        ``value``, ``low``, ``high``, and ``count``, the edits drawn from, those of several runs once.

    Raises:
        ValueError: If the two have other runs, or runs of other prompts.

    Example:
        >>> better = {"efficacy": {"edits": [0, 1], "hits": [1, 1], "prompts": [1, 1]}}
        >>> worse = {"efficacy": {"edits": [0, 1], "hits": [0, 0], "prompts": [1, 1]}}
        >>> score_difference([better], [worse])
        {'value': 100.0, 'low': 100.0, 'high': 100.0, 'count': 2}
    """
    value, drawn, counts = 0.0, torch.zeros(samples, dtype=torch.float64), {}
    names = list(range(len(ours))) if edits is None else list(edits)
    places_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    for own, other, name in zip(ours, theirs, names, strict=True):
        hits, other_hits, prompts = _matrices(own, other)  # [aspects, edits]
        there = prompts.shape[1]
        weights = torch.ones(1, there, dtype=torch.float64)
        value += float(_score(hits, prompts, weights) - _score(other_hits, prompts, weights)) / len(ours)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + places_of[name])
        for start in range(0, samples, step := max(1, _AT_ONCE // there)):
            size = min(step, samples - start)
            places = torch.randint(there, (size, there), generator=generator)
            weights = torch.zeros(size, there, dtype=torch.float64)
            weights.scatter_add_(1, places, torch.ones(size, there, dtype=torch.float64))
            difference = _score(hits, prompts, weights) - _score(other_hits, prompts, weights)
            drawn[start : start + size] += difference / len(ours)
        counts[name] = there
    tail = (1 - confidence) / 2
    low, high = drawn.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return {"value": value, "low": low, "high": high, "count": sum(counts.values())}


def _matrices(own: Hits, other: Hits) -> tuple[Tensor, Tensor, Tensor]:
    asked = [{name: (tuple(of["edits"]), tuple(of["prompts"])) for name, of in run.items()} for run in (own, other)]
    if asked[0] != asked[1]:
        msg = "expected two runs on the same prompts, got others; compare runs of the same edits."
        raise ValueError(msg)
    names = sorted({edit for of in own.values() for edit in of["edits"]})
    place = {edit: i for i, edit in enumerate(names)}

    def matrix(run: Hits, what: str) -> Tensor:
        values = torch.zeros(len(run), len(names), dtype=torch.float64)
        for row, aspect in zip(values, own, strict=True):  # both in one order
            of = run[aspect]
            row[[place[edit] for edit in of["edits"]]] = torch.tensor(of[what], dtype=torch.float64)
        return values

    return matrix(own, "hits"), matrix(other, "hits"), matrix(own, "prompts")


def _score(hits: Tensor, prompts: Tensor, weights: Tensor) -> Tensor:
    """The mean over the aspects, in percent, where each edit counts ``weights [s, n]`` times; ``[s]``.

    An aspect of which no prompt is drawn is left out of the mean.
    """
    asked = weights @ prompts.T  # [s, aspects]
    shares = (weights @ hits.T) / asked.clamp(min=1)
    known = asked > 0
    return 100 * (shares * known).sum(1) / known.sum(1)
