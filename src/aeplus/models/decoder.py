"""A causal language model's parts and edit sites, detected from its structure, not from its name.

An edit site is the down-projection of a decoder layer's MLP: a ``Linear`` or ``Conv1D`` that maps the
intermediate size ``d`` to the hidden size ``o`` and sits beside an activation function.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.models.response import Response

# The hooks of upcast modules, which outlive the sites: each Decoder of a model makes sites of its own.
_UPCAST: WeakKeyDictionary[nn.Module, tuple[RemovableHandle, ...]] = WeakKeyDictionary()
_ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")


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
            self.module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:])),
            self.module.register_forward_hook(lambda _, args, output: output.to(original)),
        )

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


class Snapshot:
    """A copy of the weights of some sites, to restore; as a context manager it restores them at the end.

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
        """Restores the weights bit for bit, and their dtype if they were upcast since."""
        for site, weight in zip(self.sites, self.weights, strict=True):
            if site.weight.dtype != weight.dtype:
                site.restore_dtype(weight.dtype)
            site.weight.copy_(weight)


class Decoder:
    """A causal language model and its parts: decoder layers, edit sites, final norm and head.

    Args:
        model: Any Hugging Face causal language model.

    Raises:
        InputError: If the model has no stack of decoder layers with an MLP down-projection each; the message
            lists its module lists or projections.
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
        self.responses: dict[int, Response] = {}
        for index, layer in enumerate(self.layers):
            module = _down_projection(layer, self.config)
            self.sites.append(EditSite(index, f"{names[id(module)]}.weight", module))

    @property
    def device(self) -> torch.device:
        """The device of the embeddings, and so of the token ids."""
        return cast(torch.device, self.model.get_input_embeddings().weight.device)

    @property
    def context_length(self) -> int | None:
        """Maximum number of tokens of one row, if the model's config says so."""
        value = getattr(self.config, "max_position_embeddings", None)
        return int(value) if value else None

    def select(self, layers: Sequence[int]) -> list[EditSite]:
        """The sites of the given layers.

        Raises:
            InputError: If ``layers`` is empty, unsorted, holds duplicates or is out of range.
        """
        count = len(self.layers)
        if not layers or list(layers) != sorted(set(layers)):
            msg = f"expected distinct, ascending layers, got {list(layers)}; write for example [4, 5, 6]."
            raise InputError(msg)
        if layers[0] < 0 or layers[-1] >= count:
            msg = f"expected layers from 0 to {count - 1} for this model, got {list(layers)}; choose others."
            raise InputError(msg)
        return [self.sites[layer] for layer in layers]

    def forward(self, ids: Tensor, mask: Tensor | None = None, *, positions: bool = False, cache: Any = None) -> Tensor:
        """Runs the backbone once: everything but the head.

        Args:
            ids: Token ids ``[b, t]``, on any device.
            mask: Attention mask ``[b, c + t]``, 1 at tokens and 0 at padding, over the ``c`` cached columns too;
                ``None`` if all are tokens.
            positions: Count each token's position along the mask, which rows padded on the left and rows that
                continue a cache need; otherwise the model numbers the columns itself. Architectures without
                ``position_ids`` do that anyway.
            cache: Keys and values of ``c`` columns, extended in place; ``None`` for no cache. It is passed under the
                name that the architecture gives it, ``cache`` or ``past_key_values``.

        Returns:
            Hidden states after the final norm, ``[b, t, o]``; :meth:`readout` makes logits of them.
        """
        known = signature(self.backbone.forward).parameters
        extra: dict[str, Any] = {}
        if mask is not None:
            extra["attention_mask"] = mask = mask.to(self.device)
            if positions and "position_ids" in known:
                # Padding on the right counts on, and must not leave a learned position table.
                last = None if self.context_length is None else self.context_length - 1
                extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0, max=last)[:, -ids.shape[1] :]
        if cache is not None:
            extra["cache" if "cache" in known else "past_key_values"] = cache  # renamed in later transformers
        output = self.backbone(input_ids=ids.to(self.device), use_cache=cache is not None, **extra)
        return cast(Tensor, output.last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: hidden states ``[..., o]`` after the last layer to logits ``[..., vocabulary]``."""
        return self.readout(self.final_norm(hidden))

    def readout(self, normed: Tensor) -> Tensor:
        """The head: the backbone's output ``[..., o]``, after the final norm, to logits ``[..., vocabulary]``."""
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
    """Half precision as float32; wider dtypes stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _decoder_layers(model: nn.Module, count: int) -> nn.ModuleList:
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    stacks = [m for _, m in lists if len(m) == count and any(_is_projection(p) for p in m[0].modules())]
    if not stacks:
        seen = ", ".join(f"{name} ({len(m)})" for name, m in lists) or "none"
        msg = (
            f"expected a list of {count} decoder layers in {type(model).__name__}, got the module lists {seen}; "
            "use a decoder-only causal language model."
        )
        raise InputError(msg)
    return stacks[0]


def _parent(model: nn.Module, child: nn.Module) -> nn.Module:
    return next(m for m in model.modules() if any(c is child for c in m.children()))


def _final_norm(backbone: nn.Module, layers: nn.Module) -> nn.Module:
    """The normalization after the layers (identity where there is none)."""
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
        # An MLP holds an activation beside its projections; attention holds none.
        if any(type(c).__module__ in _ACTIVATION_MODULES for c in children):
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
            f"expected one MLP down-projection to hidden size {hidden} per decoder layer, got {len(candidates)} in "
            f"{type(layer).__name__} (projections: {seen or 'none'}); choose another model, as mixtures of experts "
            "cannot be edited."
        )
        raise InputError(msg)
    return candidates[0]
