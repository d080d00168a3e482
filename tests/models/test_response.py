"""What an output of a down-projection does to the stream is measured, and edits get to their targets through it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aeplus
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.replay import Replay, response_of
from aeplus.models.response import Steering, changed
from aeplus.targets.optimizer import find_targets
from aeplus.targets.rows import batch_rows
from counting import counted_calls
from families import CONFIGS, NORMALIZING, OPTIONS, PLAIN, REQUESTS, SCALING, random_model, way_left
from small import SMALL, records
from tiny import tiny_tokenizer

ALL = (*PLAIN, *SCALING, *NORMALIZING)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [(kind, (1, 2)) for kind in ALL] + [(kind, some) for kind in ("granite", "gemma2") for some in ((2,), (0, 1, 2))],
)
def test_edits_get_to_their_targets(kind: str, layers: tuple[int, ...]) -> None:
    assert way_left(Decoder(random_model(kind, CONFIGS[kind])), layers) <= (1e-3 if kind in PLAIN else 0.05)


@pytest.mark.parametrize("kind", ALL)
def test_the_measured_response_is_that_of_the_layer(kind: str) -> None:
    decoder = Decoder(random_model(kind, CONFIGS[kind]))
    response = response_of(decoder, decoder.sites[1])
    assert response.plain == (kind in PLAIN)
    assert (response.norm is not None) == (kind in NORMALIZING)
    assert response.bent == (kind == "gemma4_text")
    assert response_of(decoder, decoder.sites[1]) is response
    if kind in SCALING:
        assert response.scale is not None
        torch.testing.assert_close(response.scale, torch.full((32,), 0.22), rtol=1e-4, atol=0)
    if response.norm is not None:
        x = torch.randn(5, 32)
        unit = x / x.pow(2).mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(response.norm.module(x), response.norm.gain * unit, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_layers_are_refused_as_such(whole: bool) -> None:
    model = random_model("llama", CONFIGS["llama"])
    for number, layer in enumerate(model.model.layers):
        if whole:
            model.model.layers[number] = torch.compile(layer, backend="eager")
        else:
            layer.mlp.compile(backend="eager")
    decoder = Decoder(model)
    with pytest.raises(InputError) as caught:
        response_of(decoder, decoder.sites[1])
    assert "got some that torch.compile has compiled, in which model.layers.1." in str(caught.value)
    assert str(caught.value).endswith(" is not seen to run; edit the model first, and compile it afterwards.")


class _Scaled(nn.Module):
    """A module whose output is multiplied by a number per channel, as by LayerScale."""

    def __init__(self, module: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.module, self.scale = module, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) * self.scale


def test_a_scale_per_channel_is_measured_and_divided_by() -> None:
    model = random_model("llama", CONFIGS["llama"])
    scales = [0.1 + torch.rand(32) for _ in range(4)]
    for layer, scale in zip(model.model.layers, scales, strict=True):
        layer.mlp = _Scaled(layer.mlp, scale)
    decoder = Decoder(model)
    measured = response_of(decoder, decoder.sites[2]).scale
    assert measured is not None
    torch.testing.assert_close(measured, scales[2], rtol=1e-3, atol=1e-4)
    assert way_left(decoder, (1, 2)) <= 1e-3


class _Sum(nn.Module):
    """Normalizes the sum of the stream and the MLP's output, as GPT and OPT 350M do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.after = layer, nn.LayerNorm(32)
        with torch.no_grad():
            self.after.weight.copy_(torch.rand(32) + 0.5)
            self.after.bias.copy_(torch.randn(32))

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.after(self.layer(hidden, *args, **kwargs))


def test_a_layernorm_of_the_sum_is_solved_too() -> None:
    model = random_model("llama", CONFIGS["llama"])
    model.model.layers = nn.ModuleList(_Sum(layer) for layer in model.model.layers).requires_grad_(False)
    decoder = Decoder(model)
    norm = response_of(decoder, decoder.sites[1]).norm
    assert norm is not None
    assert norm.centered
    assert way_left(decoder, (2,)) <= 0.05
    assert way_left(decoder, (1, 2)) <= 0.05


class _Gated(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.module(x))


def test_a_layer_that_cannot_be_solved_is_refused_before_the_work() -> None:
    model = random_model("llama", CONFIGS["llama"])
    for layer in model.model.layers:
        layer.mlp = _Gated(layer.mlp)
    text = (
        r"expected the output of model\.layers\.1\.mlp\.module\.down_proj\.weight of LlamaForCausalLM to join the "
        "residual stream as it is, scaled or normalized, got a LlamaDecoderLayer that does something else with it;"
    )
    with pytest.raises(InputError, match=text):
        aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)


def test_targets_are_what_the_layer_can_put_out() -> None:
    decoder = Decoder(random_model("gemma2", CONFIGS["gemma2"]))
    rows = batch_rows(tiny_tokenizer(), REQUESTS, ["", "You. "])
    found = find_targets(decoder, rows, 1, OPTIONS)
    bare = [row.ids[: row.mark + 1] for row in rows.prompts[::2]]
    replay = Replay(decoder, bare, 1, [len(row) for row in bare])
    column = torch.tensor([len(row) - 1 for row in bare])
    steering = replay.steer(replay.hidden, decoder.sites[1], column)
    torch.testing.assert_close(steering.nearest(found.values.T), found.values.T, rtol=1e-3, atol=1e-3)
    change = steering.change_for(found.values.T)
    reached = steering.moved(change)[torch.arange(3), column]
    torch.testing.assert_close(reached, found.values.T, rtol=1e-3, atol=1e-3)
    length = (found.values - found.initial).norm(dim=0)
    assert bool((length <= OPTIONS.clamp * found.initial.norm(dim=0) * 1.01).all())
    free = find_targets(decoder, rows, 1, OPTIONS, reachable=False)
    assert (steering.nearest(free.values.T) - free.values.T).norm() > 0.1 * (free.values - free.initial).norm()


def test_a_token_that_is_there_already_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(random_model("gemma4_text", CONFIGS["gemma4_text"]))  # whose stream is bent
    wanted = find_targets(decoder, batch_rows(tiny_tokenizer(), REQUESTS, [""]), 1, OPTIONS).values.T
    bare = [row.ids[: row.mark + 1] for row in batch_rows(tiny_tokenizer(), REQUESTS, [""]).prompts]
    runs, found = counted_calls(monkeypatch, Steering, "moved"), []
    for rows in ([0, 1, 2], [0, 2]):
        ids = [bare[row] for row in rows]
        replay = Replay(decoder, ids, 1, [len(row) for row in ids])
        steering = replay.steer(replay.hidden, decoder.sites[1], torch.tensor([len(row) - 1 for row in ids]))
        aims = wanted[rows].clone()
        if 1 in rows:
            aims[1] = steering.values[1] * (1 + 1e-6)
        runs[0] = 0
        found.append((steering.change_for(aims)[[0, -1]], runs[0]))
    (change, beside), (alone, expected) = found
    assert beside == expected < 20
    torch.testing.assert_close(change, alone, rtol=1e-3, atol=1e-4)


def test_a_change_of_some_tokens_leaves_the_others() -> None:
    module = nn.Linear(3, 2)
    x = torch.randn(2, 4, 3)
    change = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with changed(module, change, torch.tensor([3, 1])):
        moved = module(x) - nn.functional.linear(x, module.weight, module.bias)
        flat = module(x.flatten(0, 1))  # as layers do that flatten their tokens
        torch.testing.assert_close(flat.unflatten(0, (2, 4)), module(x))
    expected = torch.zeros(2, 4, 2)
    expected[0, 3], expected[1, 1] = change[0], change[1]
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(module(x), nn.functional.linear(x, module.weight, module.bias))


@pytest.mark.parametrize("kind", ["granite", "gemma2"])
def test_half_precision_is_measured_too(kind: str) -> None:
    whole = Decoder(random_model(kind, CONFIGS[kind]))
    half = Decoder(random_model(kind, CONFIGS[kind]).bfloat16())
    expected, found = response_of(whole, whole.sites[1]), response_of(half, half.sites[1])
    assert (expected.scale is None) == (found.scale is None)
    if expected.scale is not None and found.scale is not None:
        torch.testing.assert_close(found.scale, expected.scale, rtol=1e-2, atol=0)
    if expected.norm is not None:
        assert found.norm is not None
        torch.testing.assert_close(found.norm.gain, expected.norm.gain, rtol=2e-2, atol=1e-2)
