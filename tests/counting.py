"""Counts what a small machine cannot time: products, factorizations, and where the host would wait for a device."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "baddbmm": (1, 2)}
_FACTORIZATIONS = ("linalg_cholesky_ex", "cholesky", "_linalg_eigh", "_linalg_svd", "linalg_lu_factor_ex", "linalg_qr")
_COPIES = ("clone", "copy_", "cat", "stack", "repeat", "constant_pad_nd")
_READING = ("tolist", "numpy", "cpu")  # of a tensor on the CPU these pass no operator


class Operations(TorchDispatchMode):
    """Counts operators within its ``with`` block.

    Attributes:
        flops: Operations of matrix products.
        waits: What makes the host wait for the device, by operator: values read, sizes that depend on values.
        created: Bytes of tensors made from Python values, which are sent to the device.
        converted: Bytes of tensors made by conversion to another dtype or device.
        copied: Bytes of tensors that hold what others hold: clones, tensors written over, tensors put together.
        shapes: How many of these have each shape.
        factorizations: Matrices factorized, by operator.
        calls: Every operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.created = self.converted = self.copied = 0
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.waits: Counter[str] = Counter()
        self.factorizations: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._patches = ExitStack()

    def __enter__(self) -> "Operations":
        for name in _READING:
            self._patches.enter_context(patch.object(Tensor, name, self._reading(name, getattr(Tensor, name))))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def _reading(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(tensor: Tensor, *args: Any) -> Any:
            self.waits[name] += 1
            return original(tensor, *args)

        return read

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if name in _PRODUCTS:
            left, right = (args[i] for i in _PRODUCTS[name])
            self.flops += 2 * left.numel() * right.shape[-1]
        elif name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.waits[name] += 1
        elif name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.waits["index by a mask"] += 1
        elif name == "lift_fresh":
            self.created += args[0].numel() * args[0].element_size()
        elif name == "_to_copy":
            self.converted += result.numel() * result.element_size()
        elif name in _COPIES:
            self.copied += result.numel() * result.element_size()
            self.shapes[tuple(result.shape)] += 1
        elif name in _FACTORIZATIONS:
            matrix = args[0]
            self.factorizations[name] += matrix[..., 0, 0].numel()
        return result


@contextmanager
def counted_tokens(layers: torch.nn.ModuleList) -> Iterator[list[int]]:
    """Within the block, how many tokens have run through each layer."""
    tokens = [0] * len(layers)

    def hook(index: int) -> Callable[..., None]:
        def count(_: Any, args: Any, kwargs: Any, __: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            tokens[index] += hidden.shape[0] * hidden.shape[1]

        return count

    handles = [layer.register_forward_hook(hook(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


def counted_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """From now on, how often a function of a module or a class has been called: the one number of the list."""
    calls, original = [0], getattr(owner, name)

    def called(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        return original(*args, **options)

    monkeypatch.setattr(owner, name, called)
    return calls
