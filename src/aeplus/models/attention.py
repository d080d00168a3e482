"""Attention of short rows: a few tokens of each row behind the keys and values of a prefix, there and back.

Notation: ``r`` rows, ``h`` heads, ``g`` heads of keys and values, ``t`` tokens, ``s`` tokens attended to, ``c`` width
of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_KIND = "sdpa"
_FAR = -1e30  # added to scores of what is not attended to: their share is 0
_MOST_SCORES = 2**14  # of a head and row: what is kept of them for the way back stays small beside keys and values
# What models hand to every kind of attention, and this one has no use for: it is in the mask.
_IN_THE_MASK = {"is_causal", "sliding_window", "position_ids", "cache_position", "use_cache", "output_attentions"}

Attention = Callable[..., tuple[Tensor, Tensor | None]]


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Attention without cuDNN's kernels, where others are allowed: they are planned anew for every shape of rows."""
    backends = torch.backends.cuda
    before = backends.cudnn_sdp_enabled()
    if backends.mem_efficient_sdp_enabled() and backends.math_sdp_enabled():
        backends.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        backends.enable_cudnn_sdp(before)


@contextmanager
def grouped_attention() -> Iterator[None]:
    """Within the block, models whose attention is torch's (``sdpa``) run short rows as a few matrix products.

    Fused kernels run whole tiles for five tokens, and with a mask they take the keys and values of a group once for
    every head, and keep them: 124 rows of 5 tokens behind 15, with 32 heads of 128 in 8 groups, take 0.83 ms there and
    back on an H200 (cuDNN's 0.48), and 0.15 as products. What is not understood, such as biases of positions, runs as
    usual.
    """
    own = ALL_ATTENTION_FUNCTIONS[_KIND]
    if isinstance(own, partial) and own.func is _attention:  # in another block's
        yield
        return
    ALL_ATTENTION_FUNCTIONS[_KIND] = partial(_attention, own)
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[_KIND]
        if ALL_ATTENTION_FUNCTIONS.get(_KIND) is not own:  # the library's own is found again by itself
            ALL_ATTENTION_FUNCTIONS[_KIND] = own


def _attention(
    own: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """The interface of transformers: queries ``[r, h, t, c]``, keys and values ``[r, g, s, c]``, all in one dtype."""
    known = all(name in _IN_THE_MASK or given is None for name, given in more.items())
    if attention_mask is None and query.shape[2] == 1:  # a single token attends to all before it
        attention_mask = query.new_ones(1, 1, 1, 1, dtype=torch.bool)
    if attention_mask is None or dropout or not known or not _fits(query, key, value, attention_mask):
        return own(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return short_attention(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None


def _fits(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> bool:
    (rows, heads, tokens, width), (of, groups, attended, _) = query.shape, key.shape
    scores = rows, heads, tokens, attended
    return (
        key.shape == (rows, groups, attended, width)
        and value.shape[:3] == key.shape[:3]
        and of == rows
        and heads % groups == 0
        and query.dtype == key.dtype == value.dtype
        and tokens * attended <= _MOST_SCORES
        and mask.ndim == 4
        and all(has in (1, wants) for has, wants in zip(mask.shape, scores, strict=True))
        and mask.dtype in (torch.bool, query.dtype)
    )


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention by matrix products, the heads of a group as rows of one: ``softmax(scale · q kᵀ + mask) v``.

    Args:
        query: ``[r, h, t, c]``.
        key: ``[r, g, s, c]``, ``g`` a divisor of ``h``.
        value: ``[r, g, s, v]``.
        mask: What is attended to, or what is added to the scores, ``[r or 1, h or 1, t or 1, s]``.
        scale: Factor of the scores.

    Returns:
        ``[r, h, t, v]``.
    """
    (rows, heads, tokens, width), (groups, attended) = query.shape, key.shape[1:3]
    share = heads // groups
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.promote_types(query.dtype, torch.float32)).masked_fill(~mask, _FAR)
    mask = mask[:, :, None] if mask.shape[1] == 1 else mask.unflatten(1, (groups, share))
    found: Tensor = _Short.apply(
        query.reshape(rows * groups, share * tokens, width),
        key.reshape(rows * groups, attended, width),
        value.reshape(rows * groups, attended, -1),
        mask,
        (rows, groups, share, tokens, attended),
        scale,
    )
    return found.view(rows, heads, tokens, -1)


class _Short(torch.autograd.Function):
    """``softmax(scale · q kᵀ + mask) v`` of matrices, scores in float32 at least; what goes back stays as short."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, shape: tuple[int, ...], scale: float
    ) -> Tensor:
        scores = torch.add(mask, _product(query, key.mT).view(shape), alpha=scale)
        shares = scores.softmax(-1).flatten(0, 1).flatten(1, 2)
        ctx.save_for_backward(query, key, value, shares)
        ctx.scale = scale
        return shares.to(value.dtype) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, shares = ctx.saved_tensors
        (back,) = gradients
        toward = _product(back, value.mT)
        scores = torch.ops.aten._softmax_backward_data(toward, shares, -1, shares.dtype).to(query.dtype)
        nothing = query.new_empty(1, 1, 1)
        return (
            torch.baddbmm(nothing, scores, key, beta=0, alpha=ctx.scale) if ctx.needs_input_grad[0] else None,
            torch.baddbmm(nothing, scores.mT, query, beta=0, alpha=ctx.scale) if ctx.needs_input_grad[1] else None,
            shares.to(value.dtype).mT @ back if ctx.needs_input_grad[2] else None,
            *(None, None, None),
        )


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A batch of products, in float32 where the factors are less precise."""
    if left.dtype not in (torch.bfloat16, torch.float16):
        return left @ right
    if left.is_cuda and hasattr(torch.ops.aten.bmm, "dtype"):  # from torch 2.8 on
        return cast(Tensor, torch.ops.aten.bmm.dtype(left, right, torch.float32))
    return left.float() @ right.float()
