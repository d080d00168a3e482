"""Which key a key is most like, and in which order edits are worth a look.

Notation: ``n`` edits, ``m`` other keys, ``d`` inputs of a layer, ``l`` layers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aeplus.models.sites import at_least_float32

_BLOCK = 8192  # keys compared at a time: bounds the table of cosines


@torch.no_grad()
def nearest(keys: Tensor, others: Tensor, own: bool = False) -> tuple[Tensor, Tensor]:
    """The key among others that each key is most like, ``s = max_j |cos(k, k'_j)|`` (Eq. 3) with its place.

    Args:
        keys: ``[d, n]``.
        others: ``[d, m]``.
        own: ``others`` are the same keys: each is compared with the others only.

    Returns:
        ``s`` ``[n]``, and places ``[n]`` among the others; 0 and -1 where there is none to compare with.
    """
    keys = torch.nn.functional.normalize(at_least_float32(keys), dim=0)
    best, place = keys.new_zeros(keys.shape[1]), torch.full((keys.shape[1],), -1, device=keys.device)
    start = 0
    for block in others.split(_BLOCK, dim=1):
        width = block.shape[1]
        if not width:
            continue
        cosines = (keys.T @ torch.nn.functional.normalize(block.to(keys), dim=0)).abs()
        if own:
            inside = torch.arange(start, min(start + width, keys.shape[1]), device=keys.device)
            cosines[inside, inside - start] = -1
        found, where = cosines.max(1)
        better = (found > best) | ((place < 0) & (found >= 0))
        best, place = torch.where(better, found, best), torch.where(better, where + start, place)
        start += width
    return best.clamp(max=1), place


def conflict_order(*columns: Sequence[float | None]) -> list[int]:
    """The places of edits, the most conflicting first: by the mean of their ranks in every column.

    The quantities have scales of their own, and ranks have one. What is ``None`` has no rank; equal values share one.
    """
    count = len(columns[0])
    total, known = np.zeros(count), np.zeros(count)
    for column in columns:
        values = np.array([np.nan if value is None else value for value in column], dtype=float)
        there = np.isfinite(values)
        ordered = np.sort(values[there])
        ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
        total[there] += ranks[there] / max(len(ordered), 1)
        known[there] += 1
    mean = total / np.maximum(known, 1)
    return sorted(range(count), key=lambda i: (-mean[i], i))
