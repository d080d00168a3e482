"""The weights that are edited: added to, kept in float32, and given back bit for bit; and the modes of the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate

# The hooks of upcast modules, which outlive the sites: each Decoder of a model makes sites of its own.
_UPCAST: WeakKeyDictionary[nn.Module, tuple[RemovableHandle, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class EditSite:
    """The down-projection of one decoder layer.

    Attributes:
        layer: Index of the decoder layer.
        name: Qualified name of the weight in the model, as in its ``state_dict``.
        module: The ``Linear`` or ``Conv1D``.
    """

    layer: int
    name: str
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        """The weight as ``W [o, d]``; ``Conv1D`` stores the transpose, of which this is a view."""
        weight = cast(Tensor, self.module.weight)
        return weight.T if isinstance(self.module, Conv1D) else weight

    def upcast(self) -> None:
        """Keeps a half-precision weight in float32 until :meth:`restore_dtype`; outputs keep the original dtype."""
        if self.weight.dtype not in (torch.float16, torch.bfloat16):
            return
        original = self.weight.dtype
        self.module.float()
        _UPCAST[self.module] = (
            self.module.register_forward_pre_hook(_as_weight),
            self.module.register_forward_hook(partial(_lowered, original)),
        )

    @property
    def is_upcast(self) -> bool:
        """Whether it is kept in float32 by :meth:`upcast`."""
        return self.module in _UPCAST

    def restore_dtype(self, dtype: torch.dtype) -> None:
        """Undoes :meth:`upcast`.

        Args:
            dtype: The weight's original dtype.
        """
        for handle in _UPCAST.pop(self.module, ()):
            handle.remove()
        self.module.to(dtype)

    @torch.no_grad()
    def add(self, update: LowRankUpdate) -> None:
        """Adds an update in place; the sum is rounded to the weight's dtype once."""
        weight = self.weight
        delta = update.to(weight.device).dense()
        weight.copy_(weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta)


def _as_weight(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0].to(module.weight.dtype), *args[1:])


def _lowered(dtype: torch.dtype, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.to(dtype)


class Snapshot:
    """A copy of the weights of some sites, to restore; as a context manager it restores them at the end.

    Args:
        sites: The edited layers.
    """

    def __init__(self, sites: Sequence[EditSite]) -> None:
        self.sites = list(sites)
        self.weights = [site.weight.detach().clone() for site in sites]
        self._upcast = [site.is_upcast for site in sites]

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Restores the weights bit for bit, and their dtype if they were upcast since."""
        for site, weight, is_upcast in zip(self.sites, self.weights, self._upcast, strict=True):
            if site.weight.dtype != weight.dtype or site.is_upcast != is_upcast:
                site.restore_dtype(weight.dtype)
            site.weight.copy_(weight)

    def check(self) -> None:
        """The model has not been cast since.

        Raises:
            InputError: If it has: other layers would be in another dtype than those restored.
        """
        for site, weight in zip(self.sites, self.weights, strict=True):
            if site.weight.dtype != weight.dtype and not site.is_upcast:
                was, now = (str(dtype).removeprefix("torch.") for dtype in (weight.dtype, site.weight.dtype))
                msg = f"expected the model in {was}, as it was before the edit, got {now}; cast it back first."
                raise InputError(msg)


@contextmanager
def kept_modes(model: Any) -> Iterator[None]:
    """When the block ends, each module trains or not, and each parameter requires a gradient or not, as before."""
    training = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, flag in gradients:
            parameter.requires_grad_(flag)
