"""Where layers normalize, edits that need no way or are not made have no say in how the others go theirs."""

from dataclasses import replace

import pytest
import torch

from aeplus.methods.closed_form import ClosedForm
from aeplus.methods.compositions import named_method
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.targets.optimizer import Targets, find_targets
from aeplus.targets.rows import batch_rows
from counting import counted_calls
from families import CONFIGS, OPTIONS, REQUESTS, _unprotected, random_model
from tiny import tiny_tokenizer

LAYERS = [1, 2]


def proposed(edits: list[int], monkeypatch: pytest.MonkeyPatch, *, made: bool = True) -> tuple[int, list[torch.Tensor]]:
    """How often a batch is solved, and its updates, if the second edit is there already or is not made."""
    decoder = Decoder(random_model("gemma2", CONFIGS["gemma2"]))
    sites = decoder.select(LAYERS)
    rows = batch_rows(tiny_tokenizer(), REQUESTS, [""])
    found = find_targets(decoder, rows, LAYERS[-1], replace(OPTIONS, clamp=0.2))
    if made:
        found.values[:, 1] = found.initial[:, 1]
    else:
        rows = replace(rows, superseded=frozenset([1]))
        found.initial[:, 1] *= 1.01  # as if it were read with other rounding
    solved = counted_calls(monkeypatch, ClosedForm, "_edit_layers")

    def find(_: int) -> Targets:
        columns = {name: getattr(found, name)[..., edits] for name in vars(found)}
        return Targets(**columns)

    with Snapshot(sites) as snapshot:
        none = [torch.zeros(site.weight.shape[1], 0) for site in sites]
        method = named_method("alphaedit", ridge=1e-15, double=True)
        preserved = [_unprotected(site) for site in sites]
        editor = ClosedForm(decoder, snapshot, rows.some(edits), method, preserved, none, find)
        updates = [edit.update.dense() for edit in editor.propose(0)]
    monkeypatch.undo()
    return solved[0], updates


@pytest.mark.parametrize("made", [True, False])
def test_the_batch_is_solved_once_as_without_such_an_edit(made: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    solved, updates = proposed([0, 1, 2], monkeypatch, made=made)
    alone, expected = proposed([0, 2], monkeypatch)
    assert solved == alone == 1
    if not made:
        for own, other in zip(updates, expected, strict=True):
            assert float((own - other).norm()) < 1e-2 * float(other.norm())
