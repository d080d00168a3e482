"""Anchored targets against the formula, with the MLP's output read by a plain forward pass."""

from dataclasses import replace

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.tokens import encode
from aeplus.targets.anchor import anchor_length, mlp_outputs
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from families import CONFIGS, random_model
from tiny import tiny_model, tiny_tokenizer

LAYER = 1
CONTEXTS = ["", "You. "]
OPTIONS = TargetOptions(steps=5, clamp=3.0, contexts=1)
EDITS = [
    EditRequest("The capital of {} is", "France", "Rome"),
    EditRequest("{} speaks", "London", "French in Italy"),
    EditRequest("{} speaks", "London", "one"),  # the key of the one before: one joint target
    EditRequest("In {}", "Paris the city", "one"),
]


def outputs_one_by_one(decoder: Decoder) -> torch.Tensor:
    """v0 ``[edits, o]`` by whole forward passes, one prompt at a time."""
    site, found = decoder.sites[LAYER], []
    handle = site.module.register_forward_hook(lambda _, args, output: found.append(output.flatten(0, -2)))
    marks = []
    for edit in EDITS:
        (row,) = encode(tiny_tokenizer(), [edit.question], marks=[edit.subject_end])
        marks.append(row.mark)
        with torch.no_grad():
            decoder.model(torch.tensor([row.ids]))
    handle.remove()
    return torch.stack([output[mark] for output, mark in zip(found, marks, strict=True)])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])  # OPT hands its MLP all tokens in one row
def test_against_the_formula(kind: str) -> None:
    decoder = Decoder(random_model(kind, CONFIGS[kind]))
    rows = batch_rows(tiny_tokenizer(), EDITS, CONTEXTS)
    free = find_targets(decoder, rows, LAYER, OPTIONS)
    v0 = outputs_one_by_one(decoder).T.double()
    assert torch.allclose(mlp_outputs(decoder, rows, LAYER).T.double(), v0, atol=1e-5)
    h0 = free.initial.double()
    star = v0 + (free.values.double() - h0)
    lengths = star.norm(dim=0)
    rho = float(lengths.min() + lengths.max()) / 4  # the longest is an outlier
    assert float(lengths.min()) < 2 * rho < float(lengths.max())
    expected = torch.stack(
        [
            h0[:, i] if lengths[i] > 2 * rho else (h0 - v0)[:, i] + rho * star[:, i] / lengths[i]
            for i in range(len(EDITS))
        ],
        1,
    )
    found = find_targets(decoder, rows, LAYER, replace(OPTIONS, norm="anchor", anchor={LAYER: rho, 3: 1.0}))
    assert torch.allclose(found.values.double(), expected, atol=1e-4)
    assert torch.equal(found.initial, free.initial)
    assert torch.equal(found.values[:, 1], found.values[:, 2])
    kept = lengths <= 2 * rho
    assert torch.allclose((v0 + found.values - h0).norm(dim=0)[kept], torch.full_like(lengths, rho)[kept], rtol=1e-4)


def test_the_anchor_is_the_mean_without_the_longest() -> None:
    lengths = torch.arange(1.0, 41.0)
    assert anchor_length(lengths.flip(0)) == float(lengths[:38].mean())
    assert anchor_length(torch.tensor([3.0])) == 3.0


def test_a_layer_that_normalizes_its_output_is_refused() -> None:
    decoder = Decoder(tiny_model("gemma2", attention="eager"))
    rows = batch_rows(tiny_tokenizer(), EDITS[:1], CONTEXTS)
    with pytest.raises(InputError, match=r"stream as it is for targets\.norm anchor, got layer 1, which does not; use"):
        find_targets(decoder, rows, LAYER, replace(OPTIONS, norm="anchor", anchor={LAYER: 1.0}))


def test_a_layer_without_an_anchor() -> None:
    rows = batch_rows(tiny_tokenizer(), EDITS[:1], CONTEXTS)
    with pytest.raises(InputError, match=r"anchor to have layer 1, at which targets are learned, got \{2: 1\.0\}; add"):
        find_targets(Decoder(tiny_model("gpt2")), rows, LAYER, replace(OPTIONS, norm="anchor", anchor={2: 1.0}))


@pytest.mark.parametrize("value", [{}, {1: 0.0}, {1: float("nan")}, {1: float("inf")}, {"a": 1.0}, 3.0])
def test_bad_anchors(value: object) -> None:
    with pytest.raises(InputError, match=r"expected targets\.anchor to have a length above 0 for each layer, got"):
        TargetOptions(anchor=value)  # type: ignore[arg-type]


def test_options() -> None:
    assert TargetOptions(anchor={"4": 2}).anchor == {4: 2.0}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"expected targets\.anchor with targets\.norm anchor, got none; write"):
        TargetOptions(norm="anchor")
    with pytest.raises(InputError, match=r"expected targets\.norm free or anchor, got 'long'; choose one of these\."):
        TargetOptions(norm="long")  # type: ignore[arg-type]
