from typing import Literal

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForSequenceClassification
from transformers.cache_utils import DynamicCache

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.models.tokens import pad
from tiny import CONFIGS, tiny_model


@pytest.mark.parametrize("kind", CONFIGS)
def test_sites_are_the_down_projections(kind: str) -> None:
    model = tiny_model(kind, attention="eager")
    decoder = Decoder(model)
    inner = CONFIGS[kind].get("intermediate_size", 4 * 32)
    assert [site.layer for site in decoder.sites] == [0, 1, 2, 3]
    state = model.state_dict()
    for site in decoder.sites:
        assert site.weight.shape == (32, inner)
        assert site.weight.data_ptr() == state[site.name].data_ptr()
    assert type(decoder.final_norm) is not nn.Identity


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_weight_is_what_the_layer_multiplies_with(kind: str) -> None:
    """Conv1D stores the transpose; the site's view hides that."""
    site = Decoder(tiny_model(kind)).sites[1]
    x = torch.randn(5, site.weight.shape[1])
    bias = getattr(site.module, "bias", None)
    torch.testing.assert_close(site.module(x), x @ site.weight.T + (0 if bias is None else bias))


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_the_models_own(kind: str) -> None:
    model = tiny_model(kind, attention="eager")
    decoder = Decoder(model)
    ids = torch.tensor([[5, 6, 7]])
    hidden = decoder.backbone(input_ids=ids).last_hidden_state
    torch.testing.assert_close(decoder.readout(hidden), model(input_ids=ids).logits)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_have_the_states_of_single_rows(kind: str, side: Literal["left", "right"]) -> None:
    decoder = Decoder(tiny_model(kind, attention="eager"))
    rows = [[5, 6, 7, 8], [9, 10]]
    hidden = decoder.forward(*pad(rows, side), positions=side == "left")
    for row, states in zip(rows, hidden, strict=True):
        kept = states[-len(row) :] if side == "left" else states[: len(row)]
        torch.testing.assert_close(kept, decoder.forward(torch.tensor([row]))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_rows_continue_a_cache(kind: str) -> None:
    decoder = Decoder(tiny_model(kind))
    ids, mask = pad([list(range(20, 27)), [9, 10, 11]], "left")
    whole = decoder.forward(ids, mask, positions=True)
    cache = DynamicCache()
    first = decoder.forward(ids[:, :5], mask[:, :5], positions=True, cache=cache)
    rest = decoder.forward(ids[:, 5:], mask, positions=True, cache=cache)
    torch.testing.assert_close(torch.cat([first, rest], 1)[mask > 0], whole[mask > 0], rtol=1e-4, atol=1e-5)


def test_positions_stay_within_a_learned_table() -> None:
    """Whole rows that are as long as the context, beside padding that would count on."""
    decoder = Decoder(tiny_model("gpt2"))
    ids = torch.arange(130)[None] % 300
    assert decoder.forward(ids, torch.ones_like(ids), positions=True).shape == (1, 130, 32)


@pytest.mark.parametrize(("kind", "name"), [("mpt", "max_seq_len"), ("gpt2", "n_positions"), ("llama", None)])
def test_the_context_length_whatever_the_config_calls_it(kind: str, name: str | None) -> None:
    small = {"mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2}, "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2}}
    sizes = small.get(kind, {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4})
    config = AutoConfig.for_model(kind, vocab_size=320, **sizes, **{name or "max_position_embeddings": 48})
    assert Decoder(AutoModelForCausalLM.from_config(config)).context_length == 48


def test_a_classifier_has_no_head() -> None:
    model = LlamaForSequenceClassification(tiny_model("llama").config)
    with pytest.raises(InputError) as caught:
        Decoder(model).check()
    expected = "expected a model that predicts tokens, got LlamaForSequenceClassification, without a head; load"
    assert str(caught.value) == f"{expected} AutoModelForCausalLM."


def test_logits_beyond_the_dtype() -> None:
    model = tiny_model("llama").half()
    model.lm_head.weight.mul_(1e4).clamp_(-6e4, 6e4)
    with pytest.raises(InputError) as caught:
        Decoder(model).check()
    expected = "expected finite logits, got NaN or infinity from LlamaForCausalLM in float16; use model.dtype float32"
    assert str(caught.value) == f"{expected} or bfloat16."


def test_model_without_mlp_lists_what_was_found() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(InputError, match=r"got 0 in LlamaDecoderLayer \(projections: self_attn\.q_proj 32→32"):
        Decoder(model)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([], "expected distinct, ascending layers, got \\[\\]"),
        ([2, 1], "expected distinct, ascending layers, got \\[2, 1\\]"),
        ([1, 4], "expected layers from 0 to 3 for this model, got \\[1, 4\\]"),
        ([-1, 2], "expected layers from 0 to 3"),
    ],
)
def test_bad_layers(layers: list[int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Decoder(tiny_model()).select(layers)


def test_a_snapshot_gives_back_weights_dtypes_and_hooks_however_its_block_ends() -> None:
    model = tiny_model("gpt2").bfloat16()
    sites = Decoder(model).select([1, 2])
    ids = torch.arange(8)[None]
    before, expected = [site.weight.clone() for site in sites], model(ids).logits

    def edit() -> None:
        with Snapshot(sites):
            sites[0].upcast()
            for site in sites:
                site.weight.mul_(1.01)
            assert not torch.equal(model(ids).logits, expected)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit()
    for site, weight in zip(sites, before, strict=True):
        assert site.weight.dtype == torch.bfloat16
        assert torch.equal(site.weight, weight)
    assert torch.equal(model(ids).logits, expected)
