"""Which modules are found in unusual models: hybrids, mixtures of experts, wrappers with a vision tower."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D

import aeplus
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.replay import Replay, freezes_prefix
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import find_targets
from aeplus.targets.rows import batch_rows
from families import CONFIGS, OPTIONS, REQUESTS, random_model, state_at, way_left
from small import LEARNING, SMALL, records
from tiny import tiny_tokenizer

RECURRENT = ["qwen3_5_text", "qwen3_next", "falcon_h1", "jamba", "bamba", "lfm2", "recurrent_gemma"]


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_models_run_whole_rows(kind: str) -> None:
    decoder = Decoder(random_model(kind, CONFIGS[kind]))
    assert not freezes_prefix(decoder)
    rows = batch_rows(tiny_tokenizer(), REQUESTS, ["", "The man is. "])
    found = find_targets(decoder, rows, 1, OPTIONS)
    keys, values = KeyReader(decoder, rows, decoder.select([1])).read(decoder.site(1), decoder.site(1))
    for edit, row in enumerate(rows.prompts[::2]):
        state = state_at(decoder, row.ids[: row.mark + 1], 1)
        torch.testing.assert_close(found.initial[:, edit], state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[:, edit], state, rtol=1e-4, atol=1e-5)
    assert keys.shape == (decoder.site(1).weight.shape[1], 3)
    assert way_left(decoder, (1, 2)) <= 0.05


@pytest.mark.parametrize("kind", RECURRENT)
def test_whole_rows_repeat_the_models_logits(kind: str) -> None:
    model = random_model(kind, CONFIGS[kind])
    decoder = Decoder(model)
    rows = [[7, 8, 9], [11] * 7, list(range(20, 32))]
    replay = Replay(decoder, rows, 1, [len(row) for row in rows])
    logits = decoder.logits(replay.run(replay.hidden, 1, len(decoder.layers)))
    for i, row in enumerate(rows):
        expected = model(torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits[i, : len(row)], expected, rtol=1e-3, atol=1e-4)


def test_a_hybrid_is_edited() -> None:
    model = random_model("qwen3_5_text", CONFIGS["qwen3_5_text"])
    result = aeplus.edit(model, tiny_tokenizer(), records()[:3], "alphaedit", **{**LEARNING, "layers": [1]})
    assert result.metrics["after"]["efficacy"] > result.metrics["before"]["efficacy"]


def rounding_otherwise(model: Any) -> Any:
    """In bfloat16, with products that are rounded otherwise for rows of another number, as on a GPU."""
    model = model.bfloat16()

    def rounded(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(output.shape[0] * 1000 + output.shape[1])
        return output * (1 + 2**-8 * (2 * torch.rand(output.shape, generator=generator) - 1)).to(output)

    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_hook(rounded)
    return model


def test_rounding_in_half_precision_does_not_thaw_a_prefix() -> None:
    deep = {**CONFIGS["llama"], "num_hidden_layers": 24}
    assert freezes_prefix(Decoder(rounding_otherwise(random_model("llama", deep))))
    assert not freezes_prefix(Decoder(rounding_otherwise(random_model("openai-gpt", CONFIGS["openai-gpt"]))))


def test_padding_on_the_left_counts_in_models_without_positions() -> None:
    """A frozen prefix of unequal rows has other positions there, as GPT's rows have."""
    assert not freezes_prefix(Decoder(random_model("openai-gpt", CONFIGS["openai-gpt"])))
    assert freezes_prefix(Decoder(random_model("llama", CONFIGS["llama"])))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("opt", "model.decoder.layers.2.fc2"),
        ("bloom", "transformer.h.2.mlp.dense_4h_to_h"),
        ("lfm2", "model.layers.2.feed_forward.w2"),
        ("jamba", "model.layers.2.feed_forward.down_proj"),
        ("recurrent_gemma", "model.layers.2.mlp_block.down_proj"),
    ],
)
def test_mlps_without_a_known_activation(kind: str, name: str) -> None:
    assert Decoder(random_model(kind, CONFIGS[kind])).site(2).name == f"{name}.weight"


def test_layers_without_an_mlp_are_left_out() -> None:
    decoder = Decoder(random_model("nemotron_h", CONFIGS["nemotron_h"]))
    assert [site.layer for site in decoder.sites] == [1, 3]
    text = (
        r"expected layers with a down-projection to edit \(1, 3\), got \[2\], a NemotronHBlock without; choose others"
    )
    with pytest.raises(InputError, match=text):
        decoder.select([1, 2])
    assert decoder.site(3).layer == 3


def test_a_model_without_mlps_says_so() -> None:
    with pytest.raises(InputError, match=r"got 0 in MambaBlock \(projections: mixer\.in_proj 32→128, .* model\.site"):
        Decoder(random_model("mamba", CONFIGS["mamba"]))


MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3", "olmoe"]


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_of_experts_have_one_answer(kind: str) -> None:
    model = random_model(kind, CONFIGS[kind])
    text = rf"expected layers with one MLP each, got a mixture of experts in layer \d of {type(model).__name__}, where"
    with pytest.raises(InputError, match=text):
        Decoder(model)
    assert Decoder(model, editable=False).sites == []


def test_the_message_names_what_all_tokens_pass() -> None:
    with pytest.raises(InputError, match=r"with model\.site \(model\.layers\.\{\}\.mlp\.shared_expert\.down_proj\)\."):
        Decoder(random_model("qwen2_moe", CONFIGS["qwen2_moe"]))
    with pytest.raises(InputError, match=r"with model\.site \(this model has none; choose another\)\."):
        Decoder(random_model("mixtral", CONFIGS["mixtral"]))


@pytest.mark.parametrize(
    ("kind", "site", "layers"),
    [
        ("qwen2_moe", "model.layers.{}.mlp.shared_expert.down_proj", [0, 1, 2, 3]),  # behind a gate
        ("llama4_text", "model.layers.{}.feed_forward.shared_expert.down_proj", [0, 1, 2, 3]),
        ("deepseek_v3", "model.layers.{}.mlp.down_proj.weight", [0, 1]),  # the dense layers
    ],
)
def test_a_shared_expert_or_a_dense_layer_by_choice(kind: str, site: str, layers: list[int]) -> None:
    decoder = Decoder(random_model(kind, CONFIGS[kind]), site)
    assert [s.layer for s in decoder.sites] == layers
    assert way_left(decoder, layers[:2]) <= 0.05


@pytest.mark.parametrize(
    ("site", "text"),
    [
        ("model.layers.mlp.down_proj", r"expected model\.site with one \{\} for the layer's number, got"),
        (
            "model.layers.{}.mlp.up_proj",
            r"expected model\.site to name a projection to the hidden size 32 in some layer",
        ),
        (
            "model.layers.{}.nothing",
            r"take one of those of the first layer \(model\.layers\.0\.self_attn\.q_proj 32→32",
        ),
    ],
)
def test_sites_that_name_nothing(site: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        aeplus.edit(random_model("llama", CONFIGS["llama"]), tiny_tokenizer(), records(), site=site, **SMALL)


def test_edit_takes_a_site() -> None:
    model = random_model("qwen2_moe", CONFIGS["qwen2_moe"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    aeplus.edit(
        model,
        tiny_tokenizer(),
        records()[:2],
        "alphaedit",
        site="model.layers.{}.mlp.shared_expert.down_proj",
        **{**LEARNING, "layers": [1]},
    )
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["model.layers.1.mlp.shared_expert.down_proj.weight"]


def wrapper(kind: str, **text: Any) -> Any:
    """A tiny model for images and text whose vision tower is as deep and as wide as its text decoder."""
    config = AutoConfig.for_model(kind)
    vision = {
        "model_type": config.vision_config.model_type,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
    }
    decoder = {**CONFIGS["llama"], **text, "model_type": config.get_text_config().model_type}
    config = AutoConfig.for_model(kind, text_config=decoder, vision_config=vision)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.ndim > 1 else 1.0)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("llava", "model.language_model"), ("gemma3", "model.language_model"), ("idefics3", "model.text_model")],
)
def test_the_text_decoder_of_a_wrapper(kind: str, prefix: str) -> None:
    decoder = Decoder(wrapper(kind))
    assert [site.name for site in decoder.sites] == [f"{prefix}.layers.{i}.mlp.down_proj.weight" for i in range(4)]
    assert way_left(decoder, (1, 2)) <= 0.05


def test_models_that_see_later_tokens() -> None:
    decoder = Decoder(random_model("bert-generation", CONFIGS["llama"]))
    with pytest.raises(InputError, match=r"expected a causal model, got BertGenerationDecoder, whose tokens see later"):
        decoder.check()


def test_several_streams_are_refused() -> None:
    model = random_model("gemma3n_text", CONFIGS["gemma3n_text"])
    with pytest.raises(InputError, match=r"expected one residual stream .* got one of shape \[4, 1, 8, 32\]"):
        aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)


@pytest.mark.parametrize("kind", ["falcon_h1", "cohere", "granite", "minicpm3", "gemma2"])
def test_logits_are_scaled_as_the_model_does(kind: str) -> None:
    model = random_model(kind, CONFIGS[kind])
    decoder = Decoder(model)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(decoder.readout(decoder.forward(ids)), model(ids).logits, rtol=1e-3, atol=1e-4)


def test_logits_that_are_made_otherwise_are_refused() -> None:
    model = random_model("llama", CONFIGS["llama"])
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits + 1.0))
    with pytest.raises(InputError, match="expected the logits of LlamaForCausalLM to be its head's, scaled or capped"):
        Decoder(model).check()
