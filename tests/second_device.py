"""A second device on a machine that has only a CPU, and models whose layers lie on both.

torch's lazy tensors are on a device of their own: what is computed there has its values, and what mixes it with the CPU
is an error, as it is between GPUs.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

SECOND = "lazy:0"


def start_second_device() -> None:
    """Makes :data:`SECOND` a device that torch computes on; skips a test where this torch has none."""
    try:
        from torch._lazy import ts_backend

        if not _LIBRARY:  # once in a process
            ts_backend.init()
            _complete()
        torch.ones(1, device=SECOND).tolist()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no second device: {error}")


_LIBRARY: list[torch.library.Library] = []


def _complete() -> None:
    """Gives lazy tensors what they lack: parts of one lie on the CPU otherwise."""
    _LIBRARY.append(torch.library.Library("aten", "IMPL", "Lazy"))
    slices, select = torch.ops.aten.slice_copy.Tensor, torch.ops.aten.select_copy.int

    def split_with_sizes(tensor: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
        ends = list(accumulate(sizes))
        return [slices(tensor, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def split(tensor: Tensor, size: int, dim: int = 0) -> list[Tensor]:
        return [slices(tensor, dim, i, i + size) for i in range(0, max(tensor.shape[dim], 1), size)]

    def unbind(tensor: Tensor, dim: int = 0) -> list[Tensor]:
        return [select(tensor, dim, i) for i in range(tensor.shape[dim])]

    for name, function in (
        ("split_with_sizes_copy", split_with_sizes),
        ("split_copy.Tensor", split),
        ("unbind_copy.int", unbind),
    ):
        _LIBRARY[0].impl(name, function)


def device_map(model: Any, first: int) -> dict[str, str]:
    """Layers from ``first`` on, and what follows them, on the second device; all else on the CPU."""
    head = "cpu" if model.config.tie_word_embeddings else SECOND  # a tied head is where the embeddings are
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": SECOND, "lm_head": head}
    for layer in range(model.config.num_hidden_layers):
        places[f"model.layers.{layer}"] = SECOND if layer >= first else "cpu"
    return places


def spread(model: Any, first: int) -> Any:
    """A Llama-like model divided as transformers divides it; see :func:`device_map`."""
    from accelerate import dispatch_model

    places, skipped = device_map(model, first), getattr(model, "_skip_keys_device_placement", None)
    model = dispatch_model(model, places, main_device="cpu", force_hooks=True, skip_keys=skipped)
    for layer in model.model.layers[first:]:
        layer.register_forward_hook(lambda *_: torch._lazy.mark_step())  # compute now: nothing is computed twice
    return model
