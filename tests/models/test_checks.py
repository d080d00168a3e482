"""Models and tokenizers that are unfit for editing are refused in a sentence, before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import aeplus
from aeplus.errors import InputError
from aeplus.models.checks import check_model, check_tokenizer, check_weight
from aeplus.models.decoder import Decoder
from aeplus.models.loading import edited_weights, load_model, save_model
from small import SMALL, records
from tiny import tiny_model, tiny_tokenizer


class _Codes(nn.Linear):
    """Eight bits per weight, as bitsandbytes keeps them: the module multiplies by other numbers than it holds."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.step = linear.weight.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight / self.step).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.step)


class _Packed(nn.Module):
    """Four bits per weight in a buffer of another name, as GPTQ and AWQ keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", torch.zeros(linear.in_features // 8, linear.out_features, dtype=torch.int32))
        self.matrix = linear.weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.matrix)


class _Eight(nn.Linear):
    """Eight-bit floating point beside its scales."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter((linear.weight * 64).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float() / 64)


class _Half(nn.Linear):
    """A shard: half of the inputs' weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.whole = linear.weight.detach()
        self.weight = nn.Parameter(linear.weight[:, : linear.in_features // 2].clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.whole)


class _Scaled(nn.Linear):
    """A floating-point matrix of the right shape that the module scales, or adds an adapter to."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(linear.weight.detach() / 8, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return 8 * nn.functional.linear(x, self.weight)


def with_down(kind: type[Any]) -> Any:
    """A tiny Llama whose down-projections are of another kind; its logits are about the same."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj = kind(layer.mlp.down_proj)
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            _Codes,
            r"a floating-point matrix \[32, 64\] in model\.layers\.1\.mlp\.down_proj\.weight, got torch\.int8 \[32, ",
        ),
        (_Packed, r"a floating-point matrix \[32, 64\] in .*, got no such weight of a _Packed, which holds codes"),
        (_Eight, r"a floating-point matrix .* got torch\.float8_e4m3fn \[32, 64\] of a _Eight"),
        (_Half, r"a floating-point matrix \[32, 64\] in .*, got torch\.float32 \[32, 32\] of a _Half"),
        (_Scaled, r"to be what its layer multiplies by, got other outputs from the _Scaled"),
    ],
)
def test_weights_that_are_not_what_is_multiplied_by(kind: type[Any], text: str) -> None:
    model = with_down(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=f"expected {text if kind is not _Scaled else '.*' + text}") as caught:
        aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)
    assert "load the model in its original precision, without quantization_config" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordinary_weights_pass(kind: str, dtype: torch.dtype) -> None:
    model = tiny_model(kind).to(dtype)
    for _, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(1.0)  # biases larger than the weights
    for site in Decoder(model).sites:
        check_weight(site.module, site.name)


class _Adapter(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)


@pytest.mark.parametrize("where", ["wrapper", "loaded", "module"])
def test_adapters(where: str) -> None:
    model = tiny_model("llama")
    if where == "wrapper":
        model.peft_config = {"default": None}
    elif where == "loaded":
        model._hf_peft_config_loaded = True
    else:
        model.model.layers[0].self_attn.q_proj = _Adapter(model.model.layers[0].self_attn.q_proj)
    text = (
        r"expected a model without adapters, got LlamaForCausalLM .* merge them first, by model\.merge_and_unload\(\)"
    )
    with pytest.raises(InputError, match=text):
        aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)


def test_adapter_folder(tmp_path: Path) -> None:
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"expected a whole model in .*, got an adapter .* merge_and_unload"):
        load_model(str(tmp_path / "model"))


def test_split_models() -> None:
    model = tiny_model("llama")
    model._tp_size = 2
    with pytest.raises(InputError, match="expected whole weights, got a model split by tensor parallelism"):
        check_model(model)
    model = tiny_model("llama")
    model.model.layers[3].to("meta")
    with pytest.raises(InputError, match=r"expected every weight on a device, got 9 that are not \(model.layers.3"):
        aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)


def test_a_tokenizer_larger_than_the_embedding() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    check_tokenizer(tokenizer, model)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(320 - len(tokenizer) + 5)])
    text = (
        r"expected token ids below the 320 rows of the model's embedding, got a tokenizer with ids up to 324; load the"
    )
    with pytest.raises(InputError, match=text):
        aeplus.edit(model, tokenizer, records(), **SMALL)


def test_a_saved_folder_is_compared_with_what_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    sites = Decoder(model).select([1, 2])
    save_model(model, tokenizer, tmp_path / "whole", edited_weights(sites))
    original = {name: value.clone() for name, value in model.state_dict().items()}
    sites[0].weight.add_(0.01)
    saving = type(model).save_pretrained
    # As models do that save their quantized or unmerged weights.
    monkeypatch.setattr(
        type(model), "save_pretrained", lambda self, folder, **_: saving(self, folder, state_dict=dict(original))
    )
    text = r"expected the saved model to hold the edited weights, got other values for model\.layers\.1\.mlp\.down_proj"
    with pytest.raises(InputError, match=text):
        save_model(model, tokenizer, tmp_path / "other", edited_weights(sites))
    assert not (tmp_path / "other").exists()


def _pruned(model: Any) -> None:
    torch.nn.utils.prune.l1_unstructured(model.model.layers[1].mlp.down_proj, "weight", amount=0.1)


def _parametrized(model: Any) -> None:
    parametrize.register_parametrization(model.model.layers[1].mlp.down_proj, "weight", torch.nn.Identity())


def _expanded(model: Any) -> None:
    weight = model.model.layers[1].mlp.down_proj.weight
    weight.data = weight.data[:1].expand(weight.shape)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            _pruned,
            r"down_proj\.weight to be a parameter, got one that the Linear computes, as pruned",
        ),
        (_parametrized, "to be a parameter, got one that the ParametrizedLinear computes"),
        (_expanded, "to be a weight that can be written, got one whose entries share their memory; copy it"),
    ],
)
def test_weights_that_would_not_keep_an_edit(change: Callable[[Any], None], text: str) -> None:
    model = tiny_model("llama")
    change(model)
    with pytest.raises(InputError, match=text):
        Decoder(model).select([1])


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = tiny_model("llama")
    with pytest.raises(InputError, match=r"can be written, got one made in torch\.inference_mode; copy it"):
        Decoder(model).select([1])


def test_two_layers_in_one_memory() -> None:
    model = tiny_model("llama")
    first, second = (model.model.layers[layer].mlp.down_proj for layer in (1, 2))
    second.weight = torch.nn.Parameter(first.weight.data, requires_grad=False)
    with pytest.raises(InputError, match="got layer 1's, which are layer 2's too; choose other layers"):
        Decoder(model).select([1])


def test_masks_that_are_no_tensors() -> None:
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(InputError, match=r"got flex_attention; call model\.set_attn_implementation\('sdpa'\)"):
        check_model(model)
