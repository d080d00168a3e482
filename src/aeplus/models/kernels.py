"""Kernels for short rows on a GPU, where a pass waits for launches and memory rather than for arithmetic."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SAME = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # share of the output: rounding


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Attention without cuDNN's kernels, where others are allowed, for passes that do not go back.

    cuDNN plans anew for every shape, and edits come in many; torch's own kernels take no longer. On the way back they
    do: 0.56 ms rather than 0.24 for 124 and 152 rows of 5 tokens behind 15, with 32 heads of 128 on an H200.
    """
    backends = torch.backends.cuda
    before = backends.cudnn_sdp_enabled()
    if backends.mem_efficient_sdp_enabled() and backends.math_sdp_enabled():
        backends.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        backends.enable_cudnn_sdp(before)


class FusedNorms:
    """The RMS norms of some modules, each run as one kernel there and one back while a block lasts.

    Written out in a model, as most do, a norm is eight launches and keeps three copies of its input in float32. A norm
    takes part if, tried once, it gives what :func:`torch.nn.functional.rms_norm` gives but for rounding.

    Args:
        modules: What is searched for norms.
        kinds: Devices on which they are fused; elsewhere nothing is gained.
    """

    def __init__(self, modules: Iterable[nn.Module], kinds: Sequence[str] = ("cuda",)) -> None:
        tried: dict[tuple[type, torch.dtype], bool] = {}
        self.norms: list[nn.Module] = []
        for norm in (norm for module in modules for norm in module.modules()):
            if (weight := _weight_of(norm)) is None or weight.device.type not in kinds:
                continue
            kind = type(norm), weight.dtype
            if kind not in tried:
                tried[kind] = _is_one(norm, weight)
            if tried[kind]:
                self.norms.append(norm)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the norms are fused."""
        with ExitStack() as stack:
            for norm in self.norms:
                # In front of the class's own method, which is found again once it is gone.
                norm.__dict__["forward"] = partial(_fused, norm)
                stack.callback(norm.__dict__.pop, "forward")
            yield


def _weight_of(module: nn.Module) -> Tensor | None:
    """The weight of what may be an RMS norm: it has no other, and nobody has put another ``forward`` in front of it."""
    named = dict(module.named_parameters())
    if list(named) != ["weight"] or isinstance(module, nn.LayerNorm) or "forward" in vars(module):
        return None
    weight = named["weight"]
    return weight if weight.ndim == 1 and weight.dtype in _SAME and _epsilon(module) is not None else None


def _epsilon(norm: nn.Module) -> float | None:
    return next((e for name in ("variance_epsilon", "eps") if isinstance(e := getattr(norm, name, None), float)), None)


def _fused(norm: nn.Module, states: Tensor) -> Tensor:
    weight = cast(Tensor, norm.weight)
    if states.dtype != weight.dtype:  # then there is no one kernel, and it was not tried
        return cast(Tensor, type(norm).forward(norm, states))
    return F.rms_norm(states, weight.shape, weight, _epsilon(norm))


@torch.no_grad()
def _is_one(norm: nn.Module, weight: Tensor) -> bool:
    states = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).reshape(2, -1).to(weight.dtype)
    try:
        own = norm(states)
    except (TypeError, RuntimeError):  # one that takes something else
        return False
    if not isinstance(own, Tensor) or own.shape != states.shape or own.dtype != states.dtype:
        return False
    fused = _fused(norm, states)
    return bool((own.float() - fused.float()).norm() <= _SAME[weight.dtype] * own.float().norm())
