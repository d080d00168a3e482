"""Tiny random models of many families, and how far an edit of them gets to its target."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aeplus.edits import EditRequest
from aeplus.functional import Spectrum
from aeplus.methods.closed_form import ClosedForm
from aeplus.methods.method import named_method
from aeplus.models.decoder import Decoder, EditSite, Snapshot
from aeplus.models.replay import response_of
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import batch_rows
from tiny import _COMMON, _GPT, _GROUPED, VOCABULARY, tiny_tokenizer

REQUESTS = [
    EditRequest("The capital of {} is", "France", "Rome"),
    EditRequest("{} speaks", "London", "French in Italy"),
    EditRequest("In {}", "Paris the city", "one"),
]
OPTIONS = TargetOptions(steps=10, learning_rate=0.5, clamp=0.75, contexts=0, kl_factor=0.0)
_HEADS = {**_COMMON, **_GROUPED, "head_dim": 8}
NORMALIZING: dict[str, dict[str, Any]] = {
    "gemma2": _HEADS,
    "gemma3_text": _HEADS,
    "gemma4_text": {
        **_HEADS,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
    },
    "glm4": _HEADS,
    "olmo2": _HEADS,
    "olmo3": _HEADS,
    "exaone4": _HEADS,
}
SCALING: dict[str, dict[str, Any]] = {"granite": {**_HEADS, "residual_multiplier": 0.22, "logits_scaling": 3.0}}
PLAIN: dict[str, dict[str, Any]] = {"llama": _HEADS, "gpt2": _GPT}


def random_model(kind: str, config: dict[str, Any], seed: int = 0) -> Any:
    """A random model with weights large enough to tell prompts apart, and gains that differ from 1."""
    torch.manual_seed(seed)
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
    assert bool((way > 1e-3 * wanted.initial.norm(dim=0)).all())
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
