"""A causal language model's parts and edit sites, detected from its structure, not from its name.

An edit site is the down-projection of a decoder layer's MLP: a ``Linear`` or ``Conv1D`` that maps the
intermediate size ``d`` to the hidden size ``o``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from aeplus.errors import InputError
from aeplus.models.attention import without_cudnn_attention
from aeplus.models.checks import check_weight
from aeplus.models.finding import find_layers, find_sites, named_sites, text_config
from aeplus.models.placing import placed_call
from aeplus.models.response import Response
from aeplus.models.sites import EditSite
from aeplus.utils.ranks import Ranks
from aeplus.utils.shards import local

_PROBE_TOKENS = 8
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")  # what configs call it


@dataclass
class Tried:
    """What :mod:`aeplus.models.replay` and :mod:`aeplus.models.kernels` have found out about a model by trying.

    Attributes:
        freezes_prefix: Whether later tokens can be run from the keys and values of a prefix.
        row_groups: By whether there is such a prefix, how many entries each row has in what a layer is called with.
        fused: By a module's class or a function, dtype and kind of device, whether its kernel gives what it does.
        recorded: By thread, device and dtype, where passes have run and can be recorded at once.
    """

    freezes_prefix: bool | None = None
    row_groups: dict[bool, dict[int, list[int | None]]] = field(default_factory=dict)
    fused: dict[tuple[Any, torch.dtype, str], bool] = field(default_factory=dict)
    recorded: set[tuple[int, torch.device, torch.dtype]] = field(default_factory=set)


_TRIED: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Tried]] = WeakKeyDictionary()


class Decoder:
    """A causal language model and its parts: decoder layers, edit sites, final norm and head.

    Args:
        model: Any Hugging Face causal language model.
        site: The module to edit where inspection does not find it, such as ``model.layers.{}.mlp.down_proj``, with
            ``{}`` in place of the layer's number.
        editable: Whether there must be something to edit; otherwise the model is only run, and has no sites.
        ranks: The processes that have this model too and share what it is asked; by default it is asked alone.

    Attributes:
        sites: The edit sites, ascending; of every layer, but for models in which only some layers have an MLP.
        responses, tried: What :mod:`aeplus.models.replay` has found out by trying.

    Raises:
        InputError: If the model has no stack of decoder layers, no layer has one MLP down-projection, or it is a
            mixture of experts and no site is named; the message lists its module lists or projections.
    """

    def __init__(
        self, model: Any, site: str | None = None, *, editable: bool = True, ranks: Ranks | None = None
    ) -> None:
        self.model = model
        self.ranks = ranks or Ranks()
        self.config = text_config(model)
        self.layers = find_layers(model)
        self.backbone = _backbone(model, self.layers)
        self.head: nn.Module = model.get_output_embeddings()
        names = {id(module): name for name, module in model.named_modules()}
        found: dict[int, nn.Module] = {}
        if editable:
            found = find_sites(model, self.layers) if site is None else named_sites(model, self.layers, site)
        self.sites = [EditSite(layer, f"{names[id(module)]}.weight", module) for layer, module in found.items()]
        self.responses: dict[int, Response] = {}

    @property
    def tried(self) -> "Tried":
        """What its forward pass does, whatever its weights are; remembered for the model, in its present dtype."""
        dtype = self.model.get_input_embeddings().weight.dtype
        return _TRIED.setdefault(self.model, {}).setdefault((dtype, self.config._attn_implementation), Tried())

    @cached_property
    def after(self) -> list[nn.Module]:
        """What runs between the last layer and the head: the final norm, and a projection in some models."""
        return _after_layers(self)

    @cached_property
    def final_norm(self) -> nn.Module:
        """The same as one module; the identity where there is nothing."""
        return self.after[0] if len(self.after) == 1 else nn.Sequential(*self.after)

    @property
    def probe(self) -> Tensor:
        """A row of some token ids, ``[1, tokens]``, to try the model on."""
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        return torch.tensor([[(5 + 3 * i) % vocabulary for i in range(_PROBE_TOKENS)]])

    def site(self, layer: int) -> EditSite:
        """The site of a layer.

        Raises:
            InputError: If the layer has none.
        """
        return self.select([layer])[0]

    @torch.no_grad()
    def check(self) -> None:
        """Tries the model on a few tokens: it runs on token ids alone, is causal, and its logits its head's and finite.

        Raises:
            InputError: If that is not so.
        """
        ids, name = self.probe, type(self.model).__name__
        try:
            whole = self.forward(ids)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            msg = f"expected {name} to run on token ids alone, got an error from it ({reason}); choose another model."
            raise InputError(msg) from error
        first = self.forward(ids[:, :-2])
        limit = 1e-2 * float(whole.abs().max())
        if bool(torch.isfinite(whole).all()) and not torch.allclose(whole[:, :-2], first, rtol=1e-2, atol=limit):
            msg = f"expected a causal model, got {name}, whose tokens see later ones; set is_decoder in its config."
            raise InputError(msg)
        _ = self.scale
        if not bool(torch.isfinite(self.readout(whole)).all()):
            dtype = str(whole.dtype).removeprefix("torch.")
            how = "use model.dtype float32 or bfloat16" if whole.dtype == torch.float16 else "choose another model"
            msg = f"expected finite logits, got NaN or infinity from {name} in {dtype}; {how}."
            raise InputError(msg)

    @property
    def device(self) -> torch.device:
        """The device of the embeddings, and so of the token ids."""
        return cast(torch.device, self.model.get_input_embeddings().weight.device)

    @property
    def context_length(self) -> int | None:
        """Maximum number of tokens of one row, if the model's config says so."""
        values = (getattr(self.config, name, None) for name in _CONTEXT)
        return next((int(value) for value in values if value), None)

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
        known = {site.layer: site for site in self.sites}
        if missing := [layer for layer in layers if layer not in known]:
            msg = (
                f"expected layers with a down-projection to edit ({', '.join(map(str, known))}), got {missing}, a "
                f"{type(self.layers[missing[0]]).__name__} without; choose others."
            )
            raise InputError(msg)
        for layer in layers:
            check_weight(known[layer].module, known[layer].name)
            weight, rest = known[layer].module.weight, [site for site in self.sites if site.layer != layer]
            if others := [site.layer for site in rest if _is_same(getattr(site.module, "weight", None), weight)]:
                msg = (
                    f"expected weights of their own to edit, got layer {layer}'s, which are layer {others[0]}'s too; "
                    "choose other layers."
                )
                raise InputError(msg)
        return [known[layer] for layer in layers]

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
        with without_cudnn_attention():
            output = self.backbone(input_ids=ids.to(self.device), use_cache=cache is not None, **extra)
        return cast(Tensor, output.last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: hidden states ``[..., o]`` after the last layer to logits ``[..., vocabulary]``."""
        return self.readout(placed_call(self.final_norm, hidden))

    def readout(self, normed: Tensor) -> Tensor:
        """The head: the backbone's output ``[..., o]``, after the final norm, to logits ``[..., vocabulary]``."""
        logits = self._named_scales(placed_call(self.head, normed))
        return logits if self.scale == 1.0 else logits * self.scale

    def _named_scales(self, logits: Tensor) -> Tensor:
        """What some architectures do between head and loss (Granite divides, Cohere multiplies, Gemma 2 caps)."""
        if (scale := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / scale
        for name in ("logit_scale", "lm_head_multiplier"):
            if (scale := getattr(self.config, name, None)) is not None:
                logits = logits * scale
        for name in ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap"):
            if (cap := getattr(self.config, name, None)) is not None:
                logits = torch.tanh(logits / cap) * cap
        return logits

    @cached_property
    @torch.no_grad()
    def scale(self) -> float:
        """What else the model multiplies its logits by, measured: 1 for nearly all.

        Raises:
            InputError: If it has no head, or its logits are not a multiple of what the head makes of the last layer's
                output.
        """
        ids = self.probe.to(self.device)
        answered = self.model(input_ids=ids, use_cache=False)
        if not hasattr(answered, "logits") or self.head is None:  # or those of a classifier
            kind = type(self.model).__name__
            msg = f"expected a model that predicts tokens, got {kind}, without a head; load AutoModelForCausalLM."
            raise InputError(msg)
        own = at_least_float32(answered.logits)
        try:
            logits = self._named_scales(placed_call(self.head, self.forward(ids))).to(own.device)
        except (RuntimeError, TypeError):  # a head that is fed by another layer
            logits = None
        if not bool(torch.isfinite(own).all()):
            return 1.0  # reported by check
        tolerance, scale, found = 1e-3, 1.0, torch.zeros_like(own)
        if logits is not None:
            tolerance = 2e-2 if logits.dtype in (torch.float16, torch.bfloat16) else 1e-3
            found = at_least_float32(logits)
            scale = float((own * found).sum() / found.pow(2).sum())
        if not float((own - scale * found).norm()) <= tolerance * float(own.norm()):
            msg = (
                f"expected the logits of {type(self.model).__name__} to be its head's, scaled or capped, got others; "
                "choose another model, as what it does between its last layer and its logits is not supported."
            )
            raise InputError(msg)
        return 1.0 if abs(scale - 1) <= tolerance else scale


def _is_same(one: Any, other: Any) -> bool:
    """Whether two weights are one, as one parameter or as two that lie in the same memory."""
    if not isinstance(one, Tensor) or one is other:
        return one is other
    at, there = (local(tensor) for tensor in (one, other))
    return at.shape == there.shape and at.device == there.device and at.data_ptr() == there.data_ptr() != 0


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32; wider dtypes stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _backbone(model: nn.Module, layers: nn.Module) -> nn.Module:
    """The innermost module around the layers that takes token ids."""
    around = [m for m in model.modules() if m is not model and any(child is layers for child in m.modules())]
    return next((m for m in reversed(around) if "input_ids" in signature(m.forward).parameters), model)


@torch.no_grad()
def _after_layers(decoder: Decoder) -> list[nn.Module]:
    """The backbone's own modules that its forward pass calls after the last layer, if they make its output."""
    called: list[nn.Module] = []
    states: list[Tensor] = []
    inside = {id(m) for m in decoder.layers.modules()}

    def note(module: nn.Module, _: Any, __: Any) -> None:
        if states and id(module) not in inside:
            called.append(module)

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple | list) else output)

    around = [m for m in decoder.backbone.modules() if any(child is decoder.layers for child in m.modules())]
    children = [child for module in around for child in module.children() if all(child is not m for m in around)]
    handles = [child.register_forward_hook(note) for child in children if child is not decoder.layers]
    handles.append(decoder.layers[-1].register_forward_hook(leave))
    try:
        expected = decoder.forward(decoder.probe)
    finally:
        for handle in handles:
            handle.remove()
    found = states[-1]
    for module in called:
        found = placed_call(module, found)
    found = found.to(expected.device)
    close = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-2, atol=1e-3, equal_nan=True)
    return called if close else []
