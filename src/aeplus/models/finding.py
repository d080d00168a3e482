"""Where a causal language model's text decoder, its layers and their MLPs' down-projections are.

Found by structure: the text decoder of a wrapper is below ``get_decoder()`` or belongs to the text config; a layer's
down-projection is the one projection to the hidden size outside whatever mixes tokens. A mixture of experts has many;
which of its weights to edit is a choice that only the user can make, by ``model.site``.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aeplus.errors import InputError

_ACTIVATION_MODULES = ("torch.nn.modules.activation", "transformers.activations")
_MLP = re.compile(r"mlp|ffn|feed_?forward", re.IGNORECASE)
# Parts of a layer that mix tokens, choose experts or change the stream beside the MLP.
_OTHER = re.compile(
    r"att|mixer|mamba|ssm|conv|lstm|rwkv|temporal|recurrent|router|expert|adapter|lora|altup|laurel|per_layer|memory",
    re.IGNORECASE,
)


def find_layers(model: Any) -> nn.ModuleList:
    """The text decoder's layers.

    Raises:
        InputError: If there is no such list; the message names the module lists that there are.
    """
    count = int(getattr(text_config(model), "num_hidden_layers", 0))
    for root in _roots(model):
        lists = [m for m in root.modules() if isinstance(m, nn.ModuleList) and len(m)]
        stacks = [m for m in lists if any(is_projection(p) for p in m[0].modules())]
        if chosen := [m for m in stacks if len(m) == count]:
            return chosen[0]
        # A decoder taken out of an encoder and decoder counts its layers under another name.
        if root is not model and len(stacks) == 1:
            return stacks[0]
    seen = ", ".join(f"{name} ({len(m)})" for name, m in model.named_modules() if isinstance(m, nn.ModuleList))
    if getattr(model.config, "quantization_config", None) is not None:
        msg = (
            f"expected layers with floating-point matrices in {type(model).__name__}, got a quantized model whose "
            "projections are not known; load the model in its original precision, without quantization_config."
        )
        raise InputError(msg)
    msg = (
        f"expected a list of {count} decoder layers in {type(model).__name__}, got the module lists {seen or 'none'}; "
        "use a decoder-only causal language model."
    )
    raise InputError(msg)


def text_config(model: Any) -> Any:
    """The config of the model's text decoder."""
    try:
        return model.config.get_text_config(decoder=True)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        msg = f"expected a model with one text decoder, got {type(model).__name__} ({reason}); take its language model."
        raise InputError(msg) from error


def _roots(model: Any) -> list[nn.Module]:
    """Where to look for the layers, in order: the text decoder's own module, then the whole model."""
    config = text_config(model)
    roots: list[nn.Module] = []
    if config is not model.config:
        roots += [m for m in model.modules() if m is not model and type(getattr(m, "config", None)) is type(config)]
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if isinstance(decoder, nn.Module) and decoder is not model:
        roots.append(decoder)
    return [*roots, model]


def is_projection(module: nn.Module) -> bool:
    """Whether a module maps vectors by a matrix, in whatever form it keeps it."""
    if isinstance(module, nn.Linear | Conv1D):
        return True
    return not list(module.children()) and _features(module) is not None


def fan(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a projection."""
    if (features := _features(module)) is not None:
        return features
    rows, columns = cast(Tensor, module.weight).shape  # Conv1D stores the transpose
    return rows, columns


def _features(module: nn.Module) -> tuple[int, int] | None:
    for names in (("in_features", "out_features"), ("infeatures", "outfeatures")):
        sizes = [getattr(module, name, None) for name in names]
        if all(isinstance(size, int) for size in sizes):
            return cast("tuple[int, int]", tuple(sizes))
    return None


def has_experts(layer: nn.Module) -> bool:
    """Whether a layer is a mixture of experts."""
    for name, module in layer.named_modules():
        own = list(module.parameters(recurse=False))
        if "expert" in name.lower() and own:
            return True
        # All experts in one tensor; convolutions and gates of recurrences have three dimensions too.
        if (
            any(p.ndim == 3 and p.shape[0] > 1 for p in own)
            and not isinstance(module, nn.Conv1d)
            and not _OTHER.search(name)
        ):
            return True
    return False


def down_projection(layer: nn.Module, config: Any) -> nn.Module | None:
    """A layer's down-projection; ``None`` where there is none, or no single one."""
    hidden = int(config.hidden_size)
    candidates: list[tuple[nn.Module, nn.Module]] = []
    for parent_name, parent in layer.named_modules():
        for name, child in parent.named_children():
            if is_projection(child) and fan(child)[1] == hidden and _in_mlp(f"{parent_name}.{name}", parent):
                candidates.append((parent, child))
    if not candidates:
        return None
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    tests: list[Any] = [
        lambda parent, child: fan(child)[0] == inner,
        lambda parent, child: fan(child)[0] != hidden,
        lambda parent, child: any(type(c).__module__ in _ACTIVATION_MODULES for c in parent.children()),
    ]
    for test in tests:
        kept = [pair for pair in candidates if test(*pair)]
        candidates = kept if len(candidates) > 1 and kept else candidates
    if len(candidates) > 1 or fan(candidates[0][1])[0] == hidden != inner:
        return None
    return candidates[0][1]


def _in_mlp(path: str, parent: nn.Module) -> bool:
    """Whether a projection of this path within a layer can belong to its MLP."""
    if "expert" in path.lower():
        return False
    return not _OTHER.search(path) or bool(_MLP.search(type(parent).__name__))


def named_sites(model: Any, layers: nn.ModuleList, site: str) -> dict[int, nn.Module]:
    """The modules that a pattern such as ``model.layers.{}.mlp.down_proj`` names, by layer.

    Raises:
        InputError: If the pattern has no ``{}``, or names no projection to the hidden size in any layer.
    """
    if site.count("{}") != 1:
        msg = f"expected model.site with one {{}} for the layer's number, got {site!r}; write model.layers.{{}}.mlp.x."
        raise InputError(msg)
    hidden = int(text_config(model).hidden_size)
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    found: dict[int, nn.Module] = {}
    for index, layer in enumerate(layers):
        module = modules.get(site.format(index).removesuffix(".weight"))
        inside = module is not None and any(m is module for m in layer.modules())
        if module is not None and inside and is_projection(module) and fan(module)[1] == hidden:
            found[index] = module
    if not found:
        first = next(name for name, module in modules.items() if module is layers[0])
        known = projections(layers[0], f"{first}.")
        msg = (
            f"expected model.site to name a projection to the hidden size {hidden} in some layer, got {site!r}, which "
            f"names none; take one of those of the first layer ({known}), with {{}} in place of its number."
        )
        raise InputError(msg)
    return found


def projections(layer: nn.Module, prefix: str = "") -> str:
    """A layer's projections with their inputs and outputs, for messages."""
    pairs = [(name, fan(m)) for name, m in layer.named_modules() if is_projection(m)]
    return ", ".join(f"{prefix}{name} {fan_in}→{fan_out}" for name, (fan_in, fan_out) in pairs) or "none"


def find_sites(model: Any, layers: nn.ModuleList) -> dict[int, nn.Module]:
    """The down-projection of every layer that has one.

    Raises:
        InputError: If the model is a mixture of experts, or no layer has a down-projection.
    """
    config = text_config(model)
    for index, layer in enumerate(layers):
        if has_experts(layer):
            msg = (
                f"expected layers with one MLP each, got a mixture of experts in layer {index} of "
                f"{type(model).__name__}, where what is written to one expert is read by some tokens only; name what "
                f"all tokens pass, a shared expert or a dense layer, with model.site ({_shared(model, layers)})."
            )
            raise InputError(msg)
    found = {index: down_projection(layer, config) for index, layer in enumerate(layers)}
    sites = {index: module for index, module in found.items() if module is not None}
    if not sites:
        msg = (
            f"expected one MLP down-projection to hidden size {config.hidden_size} per decoder layer, got "
            f"{_count(layers[0], config)} in {type(layers[0]).__name__} (projections: {projections(layers[0])}); "
            "name it with model.site, or choose another model."
        )
        raise InputError(msg)
    return sites


def _count(layer: nn.Module, config: Any) -> int:
    hidden = int(config.hidden_size)
    return sum(
        is_projection(child) and fan(child)[1] == hidden and _in_mlp(f"{path}.{name}", parent)
        for path, parent in layer.named_modules()
        for name, child in parent.named_children()
    )


def _shared(model: Any, layers: nn.ModuleList) -> str:
    """What every token passes in a mixture of experts: patterns for ``model.site``."""
    config = text_config(model)
    names = {id(module): name for name, module in model.named_modules()}
    patterns: list[str] = []
    for index, layer in enumerate(layers):
        dense = None if has_experts(layer) else down_projection(layer, config)
        always = [
            module
            for name, module in layer.named_modules()
            if "shared" in name.lower() and is_projection(module) and fan(module)[1] == int(config.hidden_size)
        ]
        for module in [*always, *([dense] if dense is not None else [])]:
            pattern = names[id(module)].replace(f".{index}.", ".{}.", 1)
            patterns += [pattern] if pattern not in patterns else []
    return ", ".join(patterns) or "this model has none; choose another"


def float_matrix(weight: Any) -> bool:
    """Whether a weight is a plain floating-point matrix, not codes, a shard or a packed form."""
    plain = isinstance(weight, Tensor) and type(weight.data) is Tensor
    return plain and weight.ndim == 2 and weight.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
