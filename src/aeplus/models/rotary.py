"""Rotary positions of queries and keys as one kernel each way, for short rows on a GPU (RoFormer, arXiv:2104.09864).

Written out in a model they are ten launches there and some sixteen back for a layer.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"
"""What transformers' modeling files call it; their layers find it by this name."""

_OWN = "aeplus_stands_for"  # a function in front of a model's has the model's as this attribute

Rotary = Callable[..., tuple[Tensor, Tensor]]


def rotary_of(module: nn.Module) -> tuple[ModuleType, Rotary] | None:
    """The file that a module's class stands in and its function for rotary positions, where it has one to replace."""
    home = sys.modules.get(type(module).__module__)
    own = getattr(home, NAME, None)
    own = getattr(own, _OWN, own)  # in another's block
    if home is None or not inspect.isfunction(own) or not type(module).__module__.startswith("transformers."):
        return None
    return (home, own) if list(inspect.signature(own).parameters)[:4] == ["q", "k", "cos", "sin"] else None


def turned_by(own: Rotary) -> Rotary:
    """What a function for rotary positions gives, by one kernel for the queries and one for the keys.

    Args:
        own: The function; it is called for what is none of queries and keys ``[r, h, t, c]`` of one dtype with as many
            cosines and sines, ``[r or 1, t, c]``.
    """

    @functools.wraps(own)
    def rotary(
        q: Tensor,
        k: Tensor | None = None,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        *more: Any,
        **named: Any,
    ) -> tuple[Tensor, Tensor]:
        if k is None or cos is None or sin is None:
            return own(q, k, cos, sin, *more, **named)
        if any(value not in (None, 1) for value in (*more, *named.values())) or not _fits(q, k, cos, sin):
            return own(q, k, cos, sin, *more, **named)
        return turned(q, cos, sin), turned(k, cos, sin)

    setattr(rotary, _OWN, own)
    return cast(Rotary, rotary)


def _fits(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    rows, tokens, width = q.shape[0], q.shape[2] if q.ndim == 4 else 0, q.shape[-1]
    return (
        q.ndim == k.ndim == 4
        and width % 2 == 0
        and (k.shape[0], *k.shape[2:]) == (rows, tokens, width)
        and cos.shape == sin.shape
        and tuple(cos.shape) in ((rows, tokens, width), (1, tokens, width))
        and q.dtype == k.dtype == cos.dtype == sin.dtype
        and not (q.is_cuda and q.dtype == torch.float64)  # the kernel computes in float32
        and not (cos.requires_grad or sin.requires_grad)
    )


def turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``states · cos + (-b, a) · sin``, where the states' halves are a and b.

    Args:
        states: ``[r, h, t, c]``.
        cos: ``[r or 1, t, c]``.
        sin: As ``cos``.
    """
    return cast(Tensor, _Turned.apply(states, cos[:, None], sin[:, None]))


class _Turned(torch.autograd.Function):
    """Keeps nothing but the cosines and sines, which are there anyway."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        (a, b), (ca, cb), (sa, sb) = (t.chunk(2, -1) for t in (states, cos, sin))
        if states.is_cuda:
            there, _ = _compiled()
            halves = cos.unflatten(-1, (2, -1)), sin.unflatten(-1, (2, -1))
            return there(_twice(a), _twice(b), *halves, _second(states)).flatten(-2)
        return torch.cat([a * ca - b * sa, b * cb + a * sb], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        (back,) = gradients
        (a, b), (ca, cb), (sa, sb) = (t.chunk(2, -1) for t in (back, cos, sin))
        if back.is_cuda:
            _, again = _compiled()
            found = again(_twice(a), _twice(b), cos.unflatten(-1, (2, -1)), _twice(sa), _twice(sb), _second(back))
            return found.flatten(-2), None, None
        return torch.cat([a * ca + b * sb, b * cb - a * sa], -1), None, None


def _twice(half: Tensor) -> Tensor:
    """A half for both halves, ``[…, 2, c/2]``, without a copy."""
    return half.unsqueeze(-2).expand(*half.shape[:-1], 2, half.shape[-1])


def _second(like: Tensor) -> Tensor:
    """``[2, 1]``: whether it is the second half."""
    return _halves(like.device, like.dtype)


@functools.cache
def _halves(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor([[0.0], [1.0]], device=device, dtype=dtype)


@functools.cache
def _compiled() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Both ways as kernels that torch compiles on the GPU (https://docs.pytorch.org/docs/stable/cuda.html#jiterator)."""
    there = """template <typename T> T turned(T a, T b, T cos, T sin, T second) {
        float x = static_cast<float>(a), y = static_cast<float>(b);
        float c = static_cast<float>(cos), s = static_cast<float>(sin);
        return static_cast<T>(static_cast<float>(second) > 0.5f ? y * c + x * s : x * c - y * s);
    }"""
    back = """template <typename T> T turned_back(T a, T b, T cos, T first_sin, T second_sin, T second) {
        float x = static_cast<float>(a), y = static_cast<float>(b), c = static_cast<float>(cos);
        float s = static_cast<float>(first_sin), t = static_cast<float>(second_sin);
        return static_cast<T>(static_cast<float>(second) > 0.5f ? y * c - x * s : x * c + y * t);
    }"""
    compiler = torch.cuda.jiterator
    return compiler._create_jit_fn(there), compiler._create_jit_fn(back)
