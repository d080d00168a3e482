"""Targets of all layers from one optimization at the first, against plain passes of the whole model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from aeplus.functional import Spectrum
from aeplus.methods.batch import BatchEdit
from aeplus.methods.closed_form import ClosedForm
from aeplus.methods.compositions import named_method
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.optimizer import Targets
from aeplus.targets.rows import BatchRows, batch_rows
from tiny import tiny_model, tiny_tokenizer

from .test_batch import NUMBERS, REQUESTS

LAYERS = [0, 1, 2]
CONTEXTS = ["", "You. ", "The man is. "]


def mean(rows: Tensor) -> Tensor:
    """Bare prompts weigh a half, [n * c, o] to [o, n]."""
    parts = rows.reshape(-1, len(CONTEXTS), rows.shape[1])
    return ((parts[:, 0] + parts[:, 1:].mean(1)) / 2).T


@torch.no_grad()
def plain_states(decoder: Decoder, rows: BatchRows, delta: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """The layers' outputs and their down-projections' inputs at each subject's last token, one row at a time."""
    outputs: list[list[Tensor]] = [[] for _ in LAYERS]
    inputs: list[list[Tensor]] = [[] for _ in LAYERS]
    for number, row in enumerate(rows.prompts):
        handles = []
        for index, layer in enumerate(LAYERS):

            def leave(_: Any, __: Any, output: Any, index: int = index, number: int = number) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                if index == 0 and delta is not None:
                    hidden = hidden.clone()
                    hidden[0, -1] += delta[:, number // len(CONTEXTS)]
                outputs[index].append(hidden[0, -1].clone())
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            def enter(_: Any, args: Any, index: int = index) -> None:
                inputs[index].append(args[0][0, -1].clone())

            handles.append(decoder.layers[layer].register_forward_hook(leave))
            handles.append(decoder.sites[layer].module.register_forward_pre_hook(enter))
        decoder.model(input_ids=torch.tensor([row.ids[: row.mark + 1]]), use_cache=False)
        for handle in handles:
            handle.remove()
    return [mean(torch.stack(part)) for part in outputs], [mean(torch.stack(part)) for part in inputs]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("smooth", [False, True])
def test_forward_targets_and_edits_are_those_of_plain_passes(kind: str, smooth: bool) -> None:
    decoder = Decoder(tiny_model(kind).double())
    sites = decoder.select(LAYERS)
    rows = batch_rows(tiny_tokenizer(), REQUESTS, CONTEXTS)
    generator = torch.Generator().manual_seed(0)
    o, d = sites[0].weight.shape
    delta = torch.randn(o, len(REQUESTS), generator=generator, dtype=torch.float64)
    delta *= torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0], dtype=torch.float64)
    done, asked = torch.ones(5, dtype=torch.bool), []

    def find(layer: int) -> Targets:
        asked.append(layer)
        return Targets(delta, torch.zeros_like(delta), torch.zeros(5), torch.zeros(5), done)

    sample = torch.randn(d, 200, generator=generator, dtype=torch.float64)
    statistics = LayerStatistics(Spectrum.from_covariance(sample @ sample.T / 200), sample[:, :50], 200)
    method = named_method("alphaedit", **NUMBERS, targets="forward", own_ridge=0.3, smooth=smooth, smoothing_steps=2)
    priors = [torch.zeros(d, 0) for _ in sites]
    reached, initial = plain_states(decoder, rows, delta)[0], plain_states(decoder, rows, None)[0]
    snapshot = Snapshot(sites)
    batch = BatchEdit(snapshot, ClosedForm(decoder, snapshot, rows, method, [statistics] * 3, priors, find))
    assert asked == [LAYERS[0]]  # one optimization
    edits = batch.candidate(0).layers
    batch.rollback()
    P = statistics.spectrum.vectors[:, : round(0.5 * d)]
    P = P @ P.T
    for index, edit in enumerate(edits):
        values, keys = (states[index] for states in plain_states(decoder, rows, None))
        wanted = reached[index].clone()
        if smooth:  # V^t = m + ½ (h⁰ − m) for the largest residual
            wanted[:, 4] = (wanted + initial[index])[:, 4] / 2
        inner = keys @ keys.T @ P + 0.3 * torch.eye(d, dtype=torch.float64)
        expected = (wanted - values) @ keys.T @ P @ torch.linalg.inv(inner)
        assert (edit.update.dense() - expected).norm() / expected.norm() < 1e-6
        sites[index].weight.add_(expected)
