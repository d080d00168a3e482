"""KDE through a whole stream: against plain steps, what it keeps out of, and which earlier edits it checks."""

from typing import Any

import pytest
import torch
from torch import Tensor

import aeplus
from aeplus import functional as fn
from aeplus.callbacks import EditCallback
from aeplus.data.readers import requests_from_records
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.methods import batch as builder
from aeplus.methods.gradient import sample_previous
from aeplus.methods.method import GradientOptions
from aeplus.models.decoder import Decoder
from aeplus.targets.rows import batch_rows, sample_contexts
from small import SMALL, records
from tiny import tiny_model, tiny_tokenizer

from .plain_model import PlainModel
from .test_gradient import plain_updates

OPTIONS: dict[str, Any] = {**SMALL, "batch_size": 3}
GRADIENT = GradientOptions(steps=4, replay_steps=2, samples=2, learning_rate=1e-2, contexts=1, energy=0.9)


class Batches(EditCallback):
    """Keeps what was committed."""

    def __init__(self) -> None:
        self.layers: list[Any] = []

    def on_batch_committed(self, trainer: Any, module: Any, commit: Any) -> None:
        """Keeps it."""
        self.layers.append(commit.candidate.layers)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_updates_keep_out_of_the_basis_of_all_earlier_batches(kind: str) -> None:
    batches = Batches()
    aeplus.edit(tiny_model(kind), tiny_tokenizer(), records(), "kde", gradient=GRADIENT, callbacks=[batches], **OPTIONS)
    assert len(batches.layers) == 3
    for layer in range(2):
        basis = torch.zeros(batches.layers[0][layer].keys.shape[0], 0, dtype=torch.float64)
        for index, batch in enumerate(batches.layers):
            update = batch[layer].update.dense().double()
            assert (update @ basis).norm() <= 1e-5 * update.norm()
            assert update.norm() > 0
            assert (basis.shape[1] > 0) == (index > 0)
            basis = fn.extend_basis(basis, batch[layer].keys, GRADIENT.energy)


def test_every_batch_but_the_first_checks_a_sample_of_earlier_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    whole = builder.GradientEditor

    def editor(*args: Any) -> Any:
        checked.append(0 if args[3] is None else args[3].edits)
        return whole(*args)

    monkeypatch.setattr(builder, "GradientEditor", editor)
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), records(), "kde", gradient=GRADIENT, **OPTIONS)
    assert checked == [0, 2, 2]


def test_only_edits_that_still_hold_are_sampled() -> None:
    def request(subject: str, target: str) -> EditRequest:
        return EditRequest("The capital of {} is", subject, target)

    old = [request("France", "Rome"), request("Spain", "Oslo"), request("Italy", "Paris"), request("Spain", "Bern")]
    sample = sample_previous(old, [request("Italy", "Rome")], 10, 0)
    assert sorted((r.subject, r.target_new) for r in sample) == [("France", "Rome"), ("Spain", "Bern")]
    assert len(sample_previous(old, [], 2, 0)) == 2
    assert sample_previous(old, [], 2, 3) == sample_previous(old, [], 2, 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"positions": "last"}, "expected method.gradient.positions all or subject, got 'last'; choose one"),
        ({"energy": 0.0}, "expected method.gradient.energy above 0 and at most 1, got 0.0; 0.95 is the default"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        GradientOptions(**options)


def longer_basis(basis: Tensor, keys: Tensor) -> Tensor:
    """The leading left singular vectors of ``(I − M Mᵀ) K1``, up to the share of the energy."""
    rest = (torch.eye(len(basis)).double() - basis @ basis.T) @ keys
    directions, values, _ = torch.linalg.svd(rest)
    shares = values.square().cumsum(0) / values.square().sum()
    return torch.cat([basis, directions[:, : int((shares < GRADIENT.energy).sum()) + 1]], 1)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_parity_with_plain_steps_over_three_batches(kind: str) -> None:
    layers, batch_size = [1, 2], OPTIONS["batch_size"]
    edited, model = tiny_model(kind).double(), tiny_model(kind).double()
    aeplus.edit(edited, tiny_tokenizer(), records(), "kde", gradient=GRADIENT, **OPTIONS)

    decoder, plain = Decoder(model), PlainModel(model, kind)
    sites, requests = decoder.select(layers), requests_from_records(records())
    contexts = sample_contexts(model, tiny_tokenizer(), OPTIONS["contexts"], OPTIONS["context_length"], 0)
    bases = [torch.zeros(site.weight.shape[1], 0).double() for site in sites]
    start = [plain.weight(layer) for layer in layers]
    for first in range(0, len(requests), batch_size):
        batch = requests[first : first + batch_size]
        sample = sample_previous(requests[:first], batch, GRADIENT.samples, first)
        rows = batch_rows(tiny_tokenizer(), batch, contexts)
        earlier = batch_rows(tiny_tokenizer(), sample, [""]) if sample else None
        updates, _ = plain_updates(decoder, sites, rows, earlier, bases, GRADIENT)
        for layer, update in zip(layers, updates, strict=True):
            plain.write(layer, plain.weight(layer) + update)
        bases = [longer_basis(m, plain.keys(rows, layer)) for m, layer in zip(bases, layers, strict=True)]
    for layer, before in zip(layers, start, strict=True):
        error = (PlainModel(edited, kind).weight(layer) - plain.weight(layer)).norm()
        print(f"parity kde {kind} {float(error / (plain.weight(layer) - before).norm()):.1e}")
        assert error <= 1e-9 * (plain.weight(layer) - before).norm()
        assert error <= 1e-6 * plain.weight(layer).norm()
