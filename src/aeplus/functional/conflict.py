"""Conflict between keys: the largest |cosine| of each with others, and the weights of previous edits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from aeplus.functional._checks import check_shape, working_dtype

_BLOCK = 8192  # keys compared at a time: bounds the table of cosines


@torch.no_grad()
def nearest(keys: Tensor, others: Tensor, own: bool = False) -> tuple[Tensor, Tensor]:
    """The largest |cosine| of each key with others, `s_i = max_j |cos(k_i, k'_j)|` (Eq. 3), and the index of that key.

    Args:
        keys: `[d, n]`.
        others: `[d, m]`; may be empty.
        own: `others` are the same keys: each is compared with the others only.

    Returns:
        `s` between 0 and 1, `[n]`, in the dtype of `keys`, and indices `[n]` into the others; 0 and -1 where there
        is no other key.

    Raises:
        InputError: If `keys` and `others` do not have the same number of rows.
    """
    check_shape("keys", keys, (None, None), "one key per column, [d, n]")
    check_shape("others", others, (keys.shape[0], None), "one key of the same d inputs per column, [d, m]")
    dtype = working_dtype(keys, others)
    unit = torch.nn.functional.normalize(keys.to(dtype), dim=0)
    best, index = unit.new_zeros(keys.shape[1]), torch.full((keys.shape[1],), -1, device=keys.device)
    start = 0
    for block in others.split(_BLOCK, dim=1):
        width = block.shape[1]
        if not width:
            continue
        cosines = (unit.T @ torch.nn.functional.normalize(block.to(dtype), dim=0)).abs()  # [n, block]
        if own:
            inside = torch.arange(start, min(start + width, keys.shape[1]), device=keys.device)
            cosines[inside, inside - start] = -1
        closest, column = cosines.max(1)
        better = (closest > best) | ((index < 0) & (closest >= 0))
        best, index = torch.where(better, closest, best), torch.where(better, column + start, index)
        start += width
    return best.clamp(max=1).to(keys.dtype), index  # rounding can exceed 1


def conflict(keys: Tensor, others: Tensor) -> Tensor:
    """The largest |cosine| of each key with any of the others, `s_i = max_j |cos(k_i, k'_j)|` (Eq. 3).

    Args:
        keys: `[d, n]`.
        others: `[d, m]`; may be empty.

    Returns:
        `s` between 0 and 1, `[n]`, in the dtype of `keys`; 0 without others, and for a key that is 0.

    Raises:
        InputError: If `keys` and `others` do not have the same number of rows.
    """
    return nearest(keys, others)[0]


@torch.no_grad()
def mutual_conflict(keys: Tensor, blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """`conflict` of new keys with earlier ones and of the earlier with the new ones, by one product with each block.

    Computed in the dtype of the blocks, in float32 at least.

    Args:
        keys: New keys, `[d, n]`.
        blocks: The earlier keys in parts, `[d, m_i]` each; may be empty.

    Returns:
        `s` of each new key, `[n]`, and of each earlier one, `[m]`, between 0 and 1; 0 without others, and for a key
        that is 0.

    Raises:
        InputError: If the keys do not have the same number of rows.
    """
    check_shape("keys", keys, (None, None), "one key per column, [d, n]")
    unit, ours, theirs = None, keys.new_zeros(keys.shape[1]), []
    for block in blocks:
        check_shape("a block", block, (keys.shape[0], None), "one key of the same d inputs per column, [d, m]")
        if unit is None or unit.dtype != working_dtype(block):
            unit = torch.nn.functional.normalize(keys.to(working_dtype(block)), dim=0)
        lengths = torch.linalg.vector_norm(block, dim=0, dtype=unit.dtype).clamp(min=torch.finfo(unit.dtype).tiny)
        cosines = (unit.T @ block.to(unit.dtype)).abs_().div_(lengths)  # [n, m_i]
        if cosines.numel():
            ours = torch.maximum(ours, cosines.amax(1).to(ours.dtype))
            theirs.append(cosines.amax(0))
        else:
            theirs.append(lengths.new_zeros(block.shape[1]))
    return ours.clamp(max=1), torch.cat(theirs).clamp(max=1) if theirs else keys.new_zeros(0)


def prior_weights(prior_keys: Tensor, keys: Tensor) -> Tensor:
    """The diagonal of `Λp`: a previous edit counts less the more a new one conflicts with it (Eq. 3 and 7).

    Args:
        prior_keys: Keys of previous edits `Kp`, `[d, m]`.
        keys: New keys `K1`, `[d, n]`.

    Returns:
        `1 - max_i |cos(kp_j, k1_i)|`, between 0 and 1, `[m]`, in the dtype of `prior_keys`.

    Raises:
        InputError: If the two do not have the same number of rows.
    """
    check_shape("prior_keys", prior_keys, (None, None), "one previous key per column, [d, m]")
    check_shape("keys", keys, (prior_keys.shape[0], None), "one new key of the same d inputs per column, [d, n]")
    wide = prior_keys.to(working_dtype(prior_keys, keys))
    return (1 - conflict(wide, keys)).to(prior_keys.dtype)
