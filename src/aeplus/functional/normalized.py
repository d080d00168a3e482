"""The nearest output of a normalization: a projection onto an ellipsoid."""

import torch
from torch import Tensor

_STEPS = {False: 24, True: 32}  # by whether it is centered: without, more change nothing but the rounding
_NEARER = 1e-3  # part of the way down to the lower end of the multiplier, where nothing is known of it yet
_SHORT = 1e-6  # share of its length that a state may lack by rounding
_BISECTIONS = 60


def nearest_normalized(wanted: Tensor, gain: Tensor, *, centered: bool = False, lowest: float | None = None) -> Tensor:
    """The normalized states whose outputs behind a gain are nearest to wanted ones.

    RMSNorm and LayerNorm put out ``g ⊙ x̂`` with ``‖x̂‖² = o``. The nearest output to ``w`` is that of

        x̂ = (g ⊙ w − ν) / (g² + μ),

    where the multiplier ``μ`` makes ``‖x̂‖² = o`` and is found by Newton steps, as the norm falls with it, and ``ν``
    makes the mean 0 (LayerNorm) or is 0 (RMSNorm). ``μ`` is above minus the smallest eigenvalue of ``diag(g²)`` on the
    states that a normalization can put out: ``min g²``, or a larger one on those of mean 0. Where even the
    smallest ``μ`` leaves a state of RMSNorm too short, which takes a gain of 0, the coordinate of the smallest gain has
    the rest of its length. An output of the normalization is its own nearest.

    Args:
        wanted: ``w [n, o]``.
        gain: ``g [o]``.
        centered: Whether the normalization takes the mean off first.
        lowest: `lowest_multiplier` of the gain, if it is known: then nothing is read from the device.

    Returns:
        ``x̂ [n, o]`` with a mean square of 1, in the dtype of ``wanted``.

    Example:
        >>> nearest_normalized(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 1.0]))
        tensor([[0.8485, 1.1314]])
    """
    exact = torch.float32 if wanted.device.type == "mps" else torch.float64
    target, g = wanted.to(exact), gain.to(exact)
    size, tiny = g.numel() ** 0.5, torch.finfo(exact).tiny
    above = g.pow(2) - g.pow(2).min()
    pulled = g * target
    # m = μ + min g². At the upper end no state is longer than √o.
    high = pulled.norm(dim=1) / size + tiny
    end = 0.0 if not centered else lowest_multiplier(gain) if lowest is None else lowest
    low, m = torch.full_like(high, end), high
    for _ in range(_STEPS[centered]):
        weights = 1 / (above + m[:, None])
        x = pulled * weights
        total = weights.sum(1)
        if centered:
            x = x - weights * (x.sum(1) / total)[:, None]
        length = x.norm(dim=1)
        long = length > size
        low, high = torch.where(long, m, low), torch.where(long, high, m)
        # Newton's step for 1/‖x‖ = 1/√o, nearly linear in m (Moré and Sorensen, 1983); bisection beyond the ends.
        weighted = weights * x
        fall = (weighted * x).sum(1) - (weighted.sum(1).pow(2) / total if centered else 0)
        step = m + (length / size - 1) * length.pow(2) / fall.clamp(min=tiny)
        inside = (step > low) & (step < high) & torch.isfinite(step)
        between = torch.where(low > end, (low + high) / 2, end + _NEARER * (high - end))
        m = torch.where(inside, step, between)
    found = x * (size / length.clamp(min=tiny))[:, None]
    if not centered:
        at = above.argmin()[None]
        own = x.index_select(1, at)
        rest = (size**2 - length.square()[:, None] + own.square()).clamp(min=0).sqrt()
        filled = x.index_copy(1, at, torch.where(own < 0, -rest, rest))
        found = torch.where((length < (1 - _SHORT) * size)[:, None], filled, found)
    return found.to(wanted.dtype)


def lowest_multiplier(gain: Tensor) -> float:
    """The lower end of ``μ + min g²`` for states of mean 0, for :func:`nearest_normalized`; read from the device.

    It is where ``Σ 1 / (g² − min g² + m) = 0`` next below 0: ``min g²`` minus the smallest eigenvalue on such states.

    Args:
        gain: ``g [o]``.
    """
    square = gain.to(torch.float32 if gain.device.type == "mps" else torch.float64).pow(2)
    above = square - square.min()
    low, high = -float(above.sort().values[1]), 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if float((1 / (above + middle)).sum()) > 0 else (low, middle)
    return high
