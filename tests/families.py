"""Tiny random models of many families, and how far an edit of them gets to its target.

Run as a script it writes the table of families into docs/models.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import Spectrum
from aeplus.methods.closed_form import ClosedForm
from aeplus.methods.compositions import named_method
from aeplus.models.decoder import Decoder
from aeplus.models.replay import Replay, freezes_prefix, response_of
from aeplus.models.sites import EditSite, Snapshot
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import batch_rows
from aeplus.utils.tables import markdown_table
from tiny import _COMMON, _GPT, _GROUPED, VOCABULARY, tiny_tokenizer

REQUESTS = [
    EditRequest("The capital of {} is", "France", "Rome"),
    EditRequest("{} speaks", "London", "French in Italy"),
    EditRequest("In {}", "Paris the city", "one"),
]
OPTIONS = TargetOptions(steps=10, learning_rate=0.5, clamp=0.75, contexts=0, kl_factor=0.0)
_HEADS: dict[str, Any] = {**_COMMON, **_GROUPED, "head_dim": 8}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT = {  # multi-head latent attention
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 48,
    "n_group": 1,
    "topk_group": 1,
}
_ENCODED = {  # the decoder of an encoder and decoder, alone
    "d_model": 32,
    "decoder_layers": 4,
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 4,
    "encoder_layers": 2,
    "encoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
# What families need beside the common sizes.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "ctrl": {"dff": 64, "n_embd": 32, "n_layer": 4, "n_head": 4},
    "deepseek_v3": {**_LATENT, **_EXPERTS, "first_k_dense_replace": 2},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64, "mlp_multipliers": [0.8, 0.5], "lm_head_multiplier": 0.3},
    "gemma3n_text": {
        **_PER_LAYER,
        "num_kv_shared_layers": 0,
        "intermediate_size": [64] * 4,
        "layer_types": ["full_attention"] * 4,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {**_PER_LAYER, "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_heads": 4},
    "granite": {"residual_multiplier": 0.22, "logits_scaling": 3.0},
    "granite_swa": {"residual_multiplier": 0.22, "logits_scaling": 3.0},
    "granitemoehybrid": {
        **_MAMBA,
        "num_local_experts": 0,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 64,
        "residual_multiplier": 0.22,
    },
    "jamba": {"num_experts": 1, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "lfm3": {"layer_types": ["conv", "full_attention"] * 2},
    "minicpm3": {**_LATENT, "scale_emb": 2, "dim_model_base": 8, "scale_depth": 1.4},
    "moshi": {"ffn_dim": 128},
    "nemotron_h": {
        "layers_block_type": ["mamba", "mlp", "attention", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "qwen3_5_text": _LINEAR,
    "qwen3_next": {
        **_LINEAR,
        **_EXPERTS,
        "mlp_only_layers": [0, 1, 2, 3],
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "recurrent_gemma": {
        "intermediate_size": 128,
        "lru_width": 32,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 32},
    "xglm": {"ffn_dim": 64},
    "youtu": _LATENT,
    "bart": _ENCODED,
    "mbart": _ENCODED,
    "pegasus": _ENCODED,
    "trocr": {**_ENCODED, "hidden_size": 32},
}
_GPTS = ("gpt2", "gptj", "gpt_bigcode", "codegen", "openai-gpt")
_MIXTURES = (  # noqa: SIM905 - a list of one word a line would be long
    "afmoe aria_text cohere2_moe deepseek_v2 deepseek_v3 ernie4_5_moe exaone_moe flex_olmo gpt_oss granitemoe "
    "granitemoeshared hunyuan_v1_moe jetmoe llama4_text minimax minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe"
).split()
_OTHERS = (  # noqa: SIM905
    "apertus arcee bamba bart bert biogpt bitnet bloom cohere cohere2 ctrl cwm diffllama doge ernie4_5 exaone exaone4 "
    "falcon falcon_h1 falcon_mamba gemma gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text glm glm4 "
    "gpt_neo gpt_neox gpt_neox_japanese granite granite_swa granitemoehybrid helium hunyuan_v1_dense hyperclovax "
    "internlm3 jais2 jamba lfm2 lfm3 llama mamba mbart minicpm3 ministral ministral3 mistral modernbert-decoder moshi "
    "mpt nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid opt pegasus persimmon phi phi3 qwen2 qwen3 "
    "qwen3_5_text qwen3_next recurrent_gemma rwkv seed_oss smollm3 stablelm starcoder2 trocr vaultgemma xglm youtu "
    "bert-generation"
).split()


def _config(kind: str) -> dict[str, Any]:
    if kind in _GPTS:
        return {**_GPT, **({"rotary_dim": 4} if kind in ("gptj", "codegen") else {})}
    config = {**_HEADS, **(_EXPERTS if kind in _MIXTURES else {}), **_OWN.get(kind, {})}
    return {name: value for name, value in config.items() if (kind, name) != ("falcon", "head_dim")}


CONFIGS = {kind: _config(kind) for kind in sorted([*_GPTS, *_MIXTURES, *_OTHERS])}
NORMALIZING = ("gemma2", "gemma3_text", "gemma4_text", "glm4", "olmo2", "olmo3", "exaone4")
SCALING = ("granite",)
PLAIN = ("llama", "gpt2")


def random_model(kind: str, config: dict[str, Any], seed: int = 0) -> Any:
    """A random model with weights large enough to tell prompts apart, and gains that differ from 1."""
    torch.manual_seed(seed)
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            elif "norm" in name and name.endswith("weight"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def way_left(decoder: Decoder, layers: Sequence[int], options: TargetOptions = OPTIONS) -> float:
    """The largest share of the way from v0 to v* that is left after an edit of some layers with λ → 0.

    Read from whole forward passes at the subjects' last tokens, after the last edited layer.
    """
    decoder.check()
    sites = decoder.select(list(layers))
    for site in sites:
        response_of(decoder, site)
    rows = batch_rows(tiny_tokenizer(), REQUESTS, [""])
    targets: dict[int, Targets] = {}

    def find(layer: int) -> Targets:
        targets[layer] = find_targets(decoder, rows, layer, options)
        return targets[layer]

    with Snapshot(sites) as snapshot:
        method = named_method("alphaedit", ridge=1e-15, double=True)
        none = [torch.zeros(site.weight.shape[1], 0) for site in sites]
        editor = ClosedForm(decoder, snapshot, rows, method, [_unprotected(site) for site in sites], none, find)
        editor.propose(editor.iterations - 1)
        wanted = targets[layers[-1]]
        reached = torch.stack([state_at(decoder, row.ids[: row.mark + 1], layers[-1]) for row in rows.prompts], 1)
    way = (wanted.values - wanted.initial).norm(dim=0)
    assert bool((way > 0).all())
    return float(((wanted.values - reached).norm(dim=0) / way).max())


def state_at(decoder: Decoder, ids: Sequence[int], layer: int) -> torch.Tensor:
    """The stream after a layer at a row's last token, ``[o]``."""
    seen: list[torch.Tensor] = []

    def read(_: Any, __: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple | list) else output)[0, -1])

    handle = decoder.layers[layer].register_forward_hook(read)
    try:
        decoder.forward(torch.tensor([list(ids)]))
    finally:
        handle.remove()
    return seen[0].float()


def _unprotected(site: EditSite) -> LayerStatistics:
    """Statistics of text that uses no direction: AlphaEdit's null space is the whole space, but for one dimension."""
    d = site.weight.shape[1]
    values = torch.zeros(d)
    values[-1] = 1.0
    return LayerStatistics(Spectrum(values, torch.eye(d)), torch.eye(d)[:, :4], 100)


@dataclass(frozen=True)
class FamilyRow:
    """What an edit of a tiny random model of a family came to.

    Attributes:
        kind: The model's type, as in its config.
        site: The down-projection found in the first layer that has one.
        joins: How its output joins the stream: added, scaled or normalized.
        rows: Whether a prefix is run once (``prefix``) or every row whole (``whole``).
        replay: Largest difference of a replayed logit from the model's own, relative to the largest logit.
        left: Share of the way to v* that is left with λ → 0.
        verdict: ``edited``, or why it is refused.
    """

    kind: str
    site: str
    joins: str
    rows: str
    replay: float | None
    left: float | None
    verdict: str

    def cells(self) -> list[str]:
        """The row as the table shows it; numbers as the bound that they are below."""
        return [self.kind, self.site, self.joins, self.rows, _below(self.replay), _below(self.left), self.verdict]


HEADER = ["family", "site", "output is", "rows", "replay error", "way left", "verdict"]
_BOUNDS = (1e-4, 1e-3, 1e-2, 0.05)


def _below(value: float | None) -> str:
    if value is None:
        return ""
    return next((f"< {bound:g}" for bound in _BOUNDS if value < bound), f"{value:.2f}")


def family_row(kind: str) -> FamilyRow:
    """Edits a tiny random model of a family to its target."""
    model = random_model(kind, CONFIGS[kind])
    try:
        decoder = Decoder(model)
        # Above the last layer nothing carries a change on to the tokens behind the subject.
        layers = [site.layer for site in decoder.sites if site.layer < len(decoder.layers) - 1][:2]
        left = way_left(decoder, layers)
    except InputError as error:
        return FamilyRow(kind, "", "", "", None, None, f"refused: {_reason(str(error))}")
    response = decoder.responses[layers[-1]]
    joins = "added" if response.plain else "normalized" if response.norm is not None else "scaled"
    site = decoder.sites[0].name.removesuffix(".weight").replace(f".{layers[0]}.", ".{}.", 1)
    rows = "prefix" if freezes_prefix(decoder) else "whole"
    return FamilyRow(kind, f"`{site}`", joins, rows, replay_error(decoder, layers[0]), left, "edited")


def _reason(message: str) -> str:
    """What a message says that it got, without the names of layers and classes."""
    known = {
        "a mixture of experts": "a mixture of experts, unless `model.site` names what all tokens pass",
        "whose tokens see later ones": "tokens see later ones",
        "to be its head's, scaled or capped": "a head with layers of its own",
        "one residual stream": "several streams beside each other",
        "one MLP down-projection": "no MLP",
        "does something else with it": "the MLP's output is gated by other tokens or channels",
    }
    return next((reason for part, reason in known.items() if part in message), message)


def replay_error(decoder: Decoder, first: int) -> float:
    """The largest difference of replayed logits from the model's own, relative to the largest logit."""
    rows = [[7, 8, 9], [11] * 7, list(range(20, 32))]
    suffix = [2, 3, 4] if freezes_prefix(decoder) else [len(row) for row in rows]
    replay = Replay(decoder, rows, first, suffix)
    logits = decoder.logits(replay.run(replay.hidden, first, len(decoder.layers)))
    errors = []
    for i, (row, n) in enumerate(zip(rows, suffix, strict=True)):
        own = decoder.model(torch.tensor([row])).logits[0, -n:]
        errors.append(float((logits[i, :n] - own).abs().max() / own.abs().max()))
    return max(errors)


def families_table(rows: Sequence[FamilyRow]) -> str:
    """The table of docs/models.md."""
    return markdown_table(HEADER, [row.cells() for row in rows], left=HEADER)


def main() -> None:
    """Writes the table into docs/models.md: ``PYTHONPATH=src:tests python tests/families.py``."""
    page = Path(__file__).parents[1] / "docs" / "models.md"
    before, after = page.read_text(encoding="utf-8").split(START)
    rows = []
    for kind in CONFIGS:
        rows.append(family_row(kind))
        print(*rows[-1].cells(), sep=" | ", flush=True)
    table = f"{START}\n{families_table(rows)}\n{END}"
    page.write_text(before + table + after.split(END)[1], encoding="utf-8")


START, END = "<!-- families: written by tests/families.py -->", "<!-- families: end -->"

if __name__ == "__main__":
    main()
