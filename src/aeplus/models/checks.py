"""What makes a model or a tokenizer unfit for editing, said before any work."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aeplus.errors import InputError
from aeplus.models.finding import fan, float_matrix
from aeplus.utils.shards import is_sharded

_TEXT = "The capital of France is Paris."
_PLAIN = "load the model in its original precision, without quantization_config (or dequantize it first)"


def check_model(model: Any) -> None:
    """The model is whole: every weight is on a device, with no adapters beside it, and its masks can be replayed.

    Layers may lie on several devices, as ``device_map`` of transformers places them.

    Raises:
        InputError: If it is not.
    """
    adapters = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False) or adapters:
        msg = (
            f"expected a model without adapters, got {type(model).__name__} with some beside its weights; merge them "
            "first, by model.merge_and_unload() of peft, and edit what that returns."
        )
        raise InputError(msg)
    if (getattr(model, "_tp_size", None) or 1) > 1:
        msg = "expected whole weights, got a model split by tensor parallelism; load it without tp_plan."
        raise InputError(msg)
    if is_sharded(model):
        msg = "expected whole weights, got shards of them; load the model whole, and set trainer.strategy fsdp2."
        raise InputError(msg)
    if getattr(getattr(model, "config", None), "_attn_implementation", None) == "flex_attention":
        msg = (
            "expected attention whose masks are tensors, of which rows can be chosen, got flex_attention; call "
            "model.set_attn_implementation('sdpa'), which gives the same outputs."
        )
        raise InputError(msg)
    absent = [name for name, parameter in model.named_parameters() if parameter.device.type == "meta"]
    if absent:
        msg = (
            f"expected every weight on a device, got {len(absent)} that are not ({absent[0]}), as where device_map "
            "leaves layers to the CPU's memory or a disk; use devices that hold the whole model, or a narrower dtype."
        )
        raise InputError(msg)


def check_tokenizer(tokenizer: Any, model: Any) -> None:
    """The tokenizer reads text, and every token of it has a row in the embedding.

    Raises:
        InputError: If it does not, or one has not.
    """
    try:
        read = list(tokenizer(_TEXT, add_special_tokens=False)["input_ids"])
        vocabulary = dict(tokenizer.get_vocab())
    except Exception as error:  # a damaged one can raise anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        msg = f"expected a tokenizer that reads text, got an error ({reason}); load the one that belongs to the model."
        raise InputError(msg) from error
    if not read:
        msg = f"expected tokens of {_TEXT!r}, got none; load the tokenizer that belongs to the model."
        raise InputError(msg)
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(vocabulary.values(), default=0)
    if largest >= rows:
        msg = (
            f"expected token ids below the {rows} rows of the model's embedding, got a tokenizer with ids up to "
            f"{largest}; load the tokenizer that belongs to the model, or call model.resize_token_embeddings first."
        )
        raise InputError(msg)


@torch.no_grad()
def check_weight(module: nn.Module, name: str) -> None:
    """A down-projection multiplies by its weight, a floating-point ``[o, d]``, which is tried out.

    Args:
        module: The down-projection.
        name: Its weight's name.

    Raises:
        InputError: If it does something else, as modules do that keep codes, shards or parts of the weight.
    """
    weight, kind = getattr(module, "weight", None), type(module).__name__
    if isinstance(weight, Tensor) and "weight" not in module._parameters:
        msg = (
            f"expected {name} to be a parameter, got one that the {kind} computes, as pruned, parametrized or "
            "normalized weights are; make it one first (by prune.remove or parametrize.remove_parametrizations)."
        )
        raise InputError(msg)
    if isinstance(weight, Tensor) and (weight.is_inference() or 0 in weight.stride()):
        got = "one made in torch.inference_mode" if weight.is_inference() else "one whose entries share their memory"
        msg = f"expected {name} to be a weight that can be written, got {got}; copy it: module.weight.data.clone()."
        raise InputError(msg)
    inputs, outputs = fan(module)
    shape = (inputs, outputs) if isinstance(module, Conv1D) else (outputs, inputs)
    if not float_matrix(weight) or tuple(cast(Tensor, weight).shape) != shape:
        got = f"{weight.dtype} {list(weight.shape)}" if isinstance(weight, Tensor) else "no such weight"
        got += (
            "" if not isinstance(weight, Tensor) or type(weight.data) is Tensor else f" ({type(weight.data).__name__})"
        )
        msg = (
            f"expected a floating-point matrix [{shape[0]}, {shape[1]}] in {name}, got {got} of a {kind}, which holds "
            f"codes, a part or a packed form of it; {_PLAIN}."
        )
        raise InputError(msg)
    matrix = cast(Tensor, weight)
    if not bool(torch.isfinite(matrix).all()):
        msg = f"expected finite weights, got NaN or infinity in {name}; load another checkpoint."
        raise InputError(msg)
    matrix = matrix.T if isinstance(module, Conv1D) else matrix
    generator = torch.Generator().manual_seed(0)
    # Unit vectors in the first rows, which codes would round; then a mixture of all inputs.
    chosen = torch.randperm(inputs, generator=generator)[:7]
    probe = torch.randn(8, inputs, generator=generator)
    probe[:7] = nn.functional.one_hot(chosen, inputs).float()
    probe = (16 * probe).to(matrix)  # beside a bias
    try:
        output = module(probe)
        found = (output - module(torch.zeros_like(probe))).to(torch.float32)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        msg = f"expected {name} to be multiplied with its inputs, got an error from the {kind} ({reason}); {_PLAIN}."
        raise InputError(msg) from error
    expected = probe.to(torch.float32) @ matrix.to(torch.float32).T
    tolerance = 1e-3 if output.dtype in (torch.float32, torch.float64) else 5e-2
    same = found.shape == expected.shape
    if not same or not bool(((found - expected).norm(dim=1) <= tolerance * expected.norm(dim=1) + 1e-6).all()):
        msg = (
            f"expected {name} to be what its layer multiplies by, got other outputs from the {kind}, as of a "
            f"quantized, scaled or adapted weight; {_PLAIN}, and merge what is added to it."
        )
        raise InputError(msg)
