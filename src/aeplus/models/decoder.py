"""Finding the edit sites of a decoder by looking at the model, not at its name.

An edit site is the down-projection of a decoder layer's MLP: a ``Linear`` or ``Conv1D`` that maps the
intermediate size ``d`` to the hidden size ``o`` and sits beside an activation function.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate

# The hooks of widened modules; sites come and go with every look at a model.
_WIDENED: WeakKeyDictionary[nn.Module, tuple[RemovableHandle, ...]] = WeakKeyDictionary()
_ACTIVATION_HOMES = ("torch.nn.modules.activation", "transformers.activations")


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

    def widen(self) -> None:
        """Keeps a weight of half precision in float32 until :meth:`narrow`; inputs and outputs stay as they are."""
        if self.weight.dtype not in (torch.float16, torch.bfloat16):
            return
        narrow = self.weight.dtype
        self.module.float()
        _WIDENED[self.module] = (
            self.module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:])),
            self.module.register_forward_hook(lambda _, args, output: output.to(narrow)),
        )

    def narrow(self, dtype: torch.dtype) -> None:
        """Takes :meth:`widen` back: the weight has the dtype it had."""
        for handle in _WIDENED.pop(self.module, ()):
            handle.remove()
        self.module.to(dtype)

    @torch.no_grad()
    def add(self, update: LowRankUpdate) -> None:
        """Adds an update in place; the sum is rounded to the weight's dtype once."""
        weight = self.weight
        delta = update.to(weight.device).dense()
        weight.copy_(weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta)


class Snapshot:
    """The weights of some sites as they are now, and the way back; as a context it goes back at the end.

    Args:
        sites: The edited layers.
    """

    def __init__(self, sites: Sequence[EditSite]) -> None:
        self.sites = list(sites)
        self.weights = [site.weight.detach().clone() for site in sites]

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the sites the weights of the snapshot, bit for bit, and their dtype if they were widened since."""
        for site, weight in zip(self.sites, self.weights, strict=True):
            if site.weight.dtype != weight.dtype:
                site.narrow(weight.dtype)
            site.weight.copy_(weight)


class Decoder:
    """A causal language model taken apart: decoder layers, edit sites, final norm and head.

    Args:
        model: Any Hugging Face causal language model.

    Raises:
        InputError: If the model has no stack of decoder layers with an MLP down-projection each; the message
            lists what was found.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config.get_text_config()
        self.layers = _decoder_layers(model, int(self.config.num_hidden_layers))
        self.backbone = _parent(model, self.layers)
        self.final_norm = _final_norm(self.backbone, self.layers)
        self.head: nn.Module = model.get_output_embeddings()
        names = {id(module): name for name, module in model.named_modules()}
        self.sites: list[EditSite] = []
        for index, layer in enumerate(self.layers):
            module = _down_projection(layer, self.config)
            self.sites.append(EditSite(index, f"{names[id(module)]}.weight", module))

    @property
    def device(self) -> torch.device:
        """Where the embeddings live, and so where token ids must go."""
        return cast(torch.device, self.model.get_input_embeddings().weight.device)

    @property
    def context_length(self) -> int | None:
        """The most tokens the model takes at once, if its config says so."""
        value = getattr(self.config, "max_position_embeddings", None)
        return int(value) if value else None

    def select(self, layers: Sequence[int]) -> list[EditSite]:
        """The sites of the given layers.

        Raises:
            InputError: If ``layers`` is empty, unsorted, holds doubles or is out of range.
        """
        count = len(self.layers)
        if not layers or list(layers) != sorted(set(layers)):
            msg = f"layers must be distinct and ascending, but {list(layers)} came; write for example [4, 5, 6]."
            raise InputError(msg)
        if layers[0] < 0 or layers[-1] >= count:
            msg = f"layers must lie between 0 and {count - 1} for this model, but {list(layers)} came; choose others."
            raise InputError(msg)
        return [self.sites[layer] for layer in layers]

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: hidden states ``[..., o]`` after the last layer to logits ``[..., vocabulary]``."""
        return self.readout(self.final_norm(hidden))

    def readout(self, normed: Tensor) -> Tensor:
        """The head: the backbone's output ``[..., o]``, behind the final norm, to logits ``[..., vocabulary]``."""
        logits = cast(Tensor, self.head(normed))
        # What some architectures do between head and loss (Granite divides, Cohere multiplies, Gemma 2 caps).
        if (scale := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / scale
        if (scale := getattr(self.config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32; what is wider stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _decoder_layers(model: nn.Module, count: int) -> nn.ModuleList:
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    found = [m for _, m in lists if len(m) == count and any(_is_projection(p) for p in m[0].modules())]
    if not found:
        seen = ", ".join(f"{name} ({len(m)})" for name, m in lists) or "none"
        msg = (
            f"expected a list of {count} decoder layers in {type(model).__name__}, but its module lists are: {seen}; "
            "use a decoder-only causal language model."
        )
        raise InputError(msg)
    return found[0]


def _parent(model: nn.Module, child: nn.Module) -> nn.Module:
    return next(m for m in model.modules() if any(c is child for c in m.children()))


def _final_norm(backbone: nn.Module, layers: nn.Module) -> nn.Module:
    """The normalisation behind the layers (identity where there is none)."""
    after = False
    for child in backbone.children():
        if after and "norm" in type(child).__name__.lower():
            return child
        after = after or child is layers
    return nn.Identity()


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _fan(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a ``Linear`` or ``Conv1D``."""
    rows, columns = cast(Tensor, module.weight).shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _mlp_candidates(layer: nn.Module, hidden: int) -> Iterator[nn.Module]:
    for parent in layer.modules():
        children = list(parent.children())
        # An MLP is what holds an activation beside its projections; attention holds none.
        if any(type(c).__module__ in _ACTIVATION_HOMES for c in children):
            yield from (c for c in children if _is_projection(c) and _fan(c)[1] == hidden)


def _down_projection(layer: nn.Module, config: Any) -> nn.Module:
    hidden = int(config.hidden_size)
    candidates = list(_mlp_candidates(layer, hidden))
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    exact = [c for c in candidates if _fan(c)[0] == inner]
    candidates = exact if len(candidates) > 1 and exact else candidates
    if len(candidates) != 1:
        seen = ", ".join(f"{name} {_fan(m)[0]}→{_fan(m)[1]}" for name, m in layer.named_modules() if _is_projection(m))
        msg = (
            f"expected one MLP down-projection to hidden size {hidden} per decoder layer, but {type(layer).__name__} "
            f"has {len(candidates)}; its projections are: {seen or 'none'}. Mixtures of experts cannot be edited."
        )
        raise InputError(msg)
    return candidates[0]
