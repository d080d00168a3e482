"""Checks of arguments, shared by the functions of this package."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aeplus.errors import InputError


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of `tensors`, and float32 at least: half precision loses too much in a solve."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not real floating point, with an `InputError`."""
    if not tensor.is_floating_point():
        message = f"expected {name} in floating point, got {tensor.dtype}; convert it first."
        raise InputError(message)


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity, with an `InputError` that counts them."""
    # a sum is finite only if every term is, so the common case allocates nothing
    if tensor.numel() and not bool(torch.isfinite(tensor.sum())):
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            message = (
                f"expected finite {name}, got {bad} of {tensor.numel()} entries NaN or infinite; "
                "check the weights and the hidden states it was computed from."
            )
            raise InputError(message)


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...], meaning: str) -> None:
    """Refuse a tensor of another shape; `None` in `expected` stands for any size.

    Args:
        name: The argument's name.
        tensor: The argument.
        expected: Its sizes.
        meaning: The shape in symbols and what it should hold, to end the sentence.

    Raises:
        InputError: If the number of dimensions or a size differs, or the dtype is not floating point.
    """
    check_floating(name, tensor)
    fits = tensor.dim() == len(expected) and all(
        target is None or target == size for target, size in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        message = f"expected {name} of shape [{sizes}], got {list(tensor.shape)}; pass {meaning}."
        raise InputError(message)


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    """Refuse NaN and negative numbers; zero and infinity too if `positive`."""
    fits = 0 < value < math.inf if positive else value >= 0
    if not fits:
        bounds = "above 0 and finite" if positive else "of at least 0"
        message = f"expected {name} {bounds}, got {value}; change {name}."
        raise InputError(message)
