"""A batch's candidates on a real forward pass, against the dense formulas and the way back."""

from functools import partial
from typing import Any

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import Spectrum, prior_weights
from aeplus.methods import closed_form
from aeplus.methods.batch import BatchEdit
from aeplus.methods.closed_form import ClosedForm
from aeplus.methods.compositions import named_method
from aeplus.methods.method import Method
from aeplus.models.costs import tokens_ahead
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import Targets
from aeplus.targets.rows import batch_rows
from tiny import tiny_model, tiny_tokenizer

REQUESTS = [EditRequest("The capital of {}", s, "Paris") for s in ("France", "Rome", "Spain", "Oslo", "Peru")]
NUMBERS: dict[str, Any] = {"ridge": 0.1, "threshold": 0.5, "threshold_kind": "dimensions", "prior_strength": 1.0}

BY_LAYER = {"smooth": True, "selection_scope": "layer", "targets": "last", "smoothing_mode": "sequential"}


def make(kind: str, method: Method) -> tuple[Decoder, Any, Targets]:
    decoder = Decoder(tiny_model(kind, attention="eager" if kind == "gemma2" else "sdpa"))
    sites = decoder.select([1, 2])
    d = sites[0].weight.shape[1]
    rows = batch_rows(tiny_tokenizer(), REQUESTS, ["", "You. "])
    _, current = KeyReader(decoder, rows, sites).read(sites[0], sites[-1])
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(current.shape, generator=generator) * torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0])
    done = torch.ones(5, dtype=torch.bool)
    targets = Targets(current + shift, current, torch.zeros(5), torch.zeros(5), done)
    keys = torch.randn(d, 200, generator=generator, dtype=torch.float64)
    statistics = LayerStatistics(Spectrum.from_covariance(keys @ keys.T / 200), keys[:, :50], 200)
    priors = [torch.randn(d, 3, generator=generator) for _ in sites]
    snapshot = Snapshot(sites)
    editor = ClosedForm(decoder, snapshot, rows, method, [statistics, statistics], priors, lambda _: targets)
    return decoder, BatchEdit(snapshot, editor), targets


def weights(decoder: Decoder) -> list[torch.Tensor]:
    return [site.weight.clone() for site in decoder.sites]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_candidates_start_from_the_batchs_weights_and_can_be_taken_back(kind: str) -> None:
    decoder, batch, _ = make(kind, named_method("alphaedit_plus", **NUMBERS, smooth=True, smoothing_steps=2))
    start = weights(decoder)
    first = batch.candidate(0)
    after_first = weights(decoder)
    batch.candidate(2)
    after_last = weights(decoder)
    assert not torch.equal(after_first[1], after_last[1])
    batch.apply(first)  # what `best` does when the last candidate is not the best
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), after_first, strict=True))
    batch.candidate(2)
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), after_last, strict=True))
    batch.rollback()
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), start, strict=True))


@pytest.mark.parametrize(("prior", "equal"), [("none", False), ("equal", True), ("conflict", False)])
def test_the_report_tells_the_weights_of_earlier_edits(prior: str, equal: bool) -> None:
    numbers = {**NUMBERS, "prior": prior, "relax": "none", "smooth": False}
    _, batch, _ = make("llama", named_method("alphaedit_plus", **numbers))
    for edit, solver in zip(batch.candidate(0).layers, batch.editor._solvers, strict=True):
        weights = torch.ones(3) if equal else prior_weights(solver.prior_keys, edit.keys.double())
        assert edit.report.prior_weight_norm == pytest.approx(0.0 if prior == "none" else float(weights.norm()))
        if prior == "none":
            assert solver._weights is None
        else:
            torch.testing.assert_close(solver._weights, weights.double())


def test_only_very_inconsistent_edits_are_smoothed() -> None:
    _, batch, targets = make("llama", named_method("alphaedit_plus", **NUMBERS, smooth=True, smoothing_steps=4))
    assert batch.iterations == 5
    target = batch.editor._targets[0]
    half, full = target.values_at(0), target.values_at(4)
    torch.testing.assert_close(full, targets.values)
    torch.testing.assert_close(half[:, :4], targets.values[:, :4])
    torch.testing.assert_close(half[:, 4], (targets.values + targets.initial)[:, 4] / 2)


def test_residuals_are_spread_over_the_layers_left() -> None:
    """Layer by layer against the dense formula, keys and values read again after each layer."""
    decoder, batch, targets = make("llama", named_method("alphaedit", **NUMBERS))
    candidate = batch.candidate(0)
    edits = [(edit.update.dense(), edit.keys) for edit in candidate.layers]
    batch.rollback()
    rows = batch_rows(tiny_tokenizer(), REQUESTS, ["", "You. "])
    sites = decoder.select([1, 2])
    reader = KeyReader(decoder, rows, sites)
    for left, (site, (update, keys)) in zip((2, 1), zip(sites, edits, strict=True), strict=True):
        read, values = reader.read(site, sites[-1])
        torch.testing.assert_close(read, keys)
        residual = ((targets.values - values) / left).double()
        solver = batch.editor._solvers[2 - left]
        basis = solver.statistics.spectrum.vectors[:, solver._base == 1]
        p, k, kp = basis @ basis.T, keys.double(), solver.prior_keys
        inner = k @ k.T @ p + kp @ kp.T @ p + 0.1 * torch.eye(len(p), dtype=torch.float64)
        dense = residual @ k.T @ p @ torch.linalg.inv(inner)
        assert (update - dense).norm() / dense.norm() < 1e-5
        site.weight.add_(update)


def test_nan_residual_takes_everything_back() -> None:
    decoder, batch, targets = make("llama", named_method("alphaedit", **NUMBERS))
    start = weights(decoder)
    targets.values[0, 0] = torch.nan
    with pytest.raises(InputError, match="residual"):
        batch.candidate(0)
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), start, strict=True))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (
            {"prior": "conflcit"},
            "expected method.prior out of none, equal, conflict, resolve, hard, got 'conflcit'; choose one of these",
        ),
        (
            {"filter": "x"},
            "expected method.filter out of null_space, covariance, soft, null_soft, priced, got 'x'; choose one of",
        ),
        (
            {"filter": "soft"},
            "expected filter null_space or null_soft for method.relax to widen, got 'soft'; set relax: none",
        ),
        ({"keep_share": 0.0}, "expected method.keep_share above 0 and at most 1, got 0.0"),
        ({"restrain_base": 1.0}, "expected method.restrain_base above 1, got 1.0"),
        ({"own_ridge": -1.0}, "expected method.own_ridge above 0, got -1.0"),
        ({"update": "gradient"}, "expected no P̃, Λp or smoothing with method.update: gradient"),
        ({"feedback": True}, "expected treatment: sparsify, or restrain with restrain_every of at least 1, for method"),
        ({"max_rank": -1}, "expected method.max_rank of 0 or more, got -1"),
        ({"search_block": 0}, "expected method.search_block above 0, got 0; choose a positive number"),
        ({"selection": "last"}, "expected method.selection out of best, converge, highest, got 'last'"),
        ({"selection_scope": "edit"}, "expected method.selection_scope out of batch, layer, got 'edit'"),
        (
            {"smooth": True, "selection_scope": "layer"},
            "expected smoothing_mode: sequential for method.selection_scope: layer, whose candidates come one after "
            "the other, got parallel; set smoothing_mode: sequential.",
        ),
        (
            {**BY_LAYER, "targets": "own"},
            "expected targets: last for method.selection_scope: layer, which edits every layer toward one target, got "
            "own; set selection_scope: batch.",
        ),
        (
            {**BY_LAYER, "sites": "ends"},
            "expected sites: all for method.selection_scope: layer, which goes from each layer to the next, got ends; "
            "set selection_scope: batch.",
        ),
        (
            {**BY_LAYER, "treatment": "sparsify"},
            "expected treatment: none or restrain for method.selection_scope: layer, which scores updates as solved, "
            "got sparsify; set selection_scope: batch.",
        ),
        ({"ridge": 0.0}, "expected method.ridge above 0, got 0.0; choose a positive number"),
        ({"smoothing_share": 2.0}, "expected method.smoothing_share between 0 and 1, got 2.0"),
    ],
)
def test_bad_methods(numbers: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        named_method("alphaedit_plus", **numbers)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("targets", ["last", "own", "forward"])
def test_candidates_found_in_one_pass_are_those_found_one_by_one(
    kind: str, targets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = named_method("alphaedit_plus", **NUMBERS, smooth=True, smoothing_steps=4, targets=targets)
    decoder, batch, _ = make(kind, method)
    together = BatchEdit(batch.snapshot, batch.editor, parallel=True)
    start = weights(decoder)
    for at_once in (10**6, 100):  # all candidates side by side, and a few at a time
        monkeypatch.setattr(closed_form, "_TOKENS", at_once)
        for iteration in (0, 1, 4):
            expected = batch.candidate(iteration)
            edited = weights(decoder)
            found = together.candidate(iteration)
            for one, two in zip(weights(decoder), edited, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
            for one, two in zip(found.layers, expected.layers, strict=True):
                torch.testing.assert_close(one.keys, two.keys, rtol=1e-4, atol=1e-5)
                assert one.report.as_dict() == pytest.approx(two.report.as_dict(), rel=1e-3, abs=1e-6)
    together.rollback()
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), start, strict=True))


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("llama", {"treatment": "sparsify"}), ("gemma2", {}), ("llama", {"smooth": False})],
)
def test_where_one_pass_will_not_do_candidates_come_one_by_one(kind: str, numbers: dict[str, Any]) -> None:
    decoder, batch, _ = make(
        kind, named_method("alphaedit_plus", **NUMBERS, **{"smooth": True, "smoothing_steps": 2, **numbers})
    )
    assert batch.editor.propose_all() is None
    together = BatchEdit(batch.snapshot, batch.editor, parallel=True)
    together.candidate(0)
    with together.variants() as variants:
        assert variants is None
    edited = weights(decoder)
    batch.candidate(0)
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), edited, strict=True))


def test_while_all_candidates_are_scored_the_model_is_as_the_batch_found_it() -> None:
    decoder, batch, _ = make("llama", named_method("alphaedit_plus", **NUMBERS, smooth=True, smoothing_steps=2))
    together, start = BatchEdit(batch.snapshot, batch.editor, parallel=True), weights(decoder)
    together.candidate(0)
    edited = weights(decoder)
    with together.variants() as variants:
        assert variants is not None
        assert len(variants) == 3
        assert all(torch.equal(a, b) for a, b in zip(weights(decoder), start, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(decoder), edited, strict=True))


def test_the_first_layer_is_read_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batch, _ = make("llama", named_method("alphaedit_plus", **NUMBERS, smooth=True, smoothing_steps=4))
    monkeypatch.setattr(closed_form, "_TOKENS", 2 * batch.editor._reader.tokens)  # two candidates at a time
    read: list[int] = []
    original = KeyReader.read

    def note(reader: KeyReader, site: Any, at: Any, **options: Any) -> Any:
        read.append(site.layer)
        return original(reader, site, at, **options)

    monkeypatch.setattr(KeyReader, "read", note)
    assert len(batch.editor.propose_all()) == 5
    assert read.count(1) == 1
    assert read.count(2) == 3


@pytest.mark.parametrize(("free", "parts"), [(None, 11), (2**36, 6), (2**25, 11)])
def test_all_candidates_of_a_hundred_edits_run_in_as_few_passes_as_memory_is_for(
    free: int | None, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, batch, _ = make("llama", named_method("alphaedit_plus", **NUMBERS, smooth=True, smoothing_steps=10))
    asked: list[range] = []
    monkeypatch.setattr(ClosedForm, "_edit_beside", lambda editor, part, first: asked.append(part) or [])
    ask = None if free is None else lambda _: free
    monkeypatch.setattr(closed_form, "tokens_ahead", partial(tokens_ahead, free=ask))
    monkeypatch.setattr(KeyReader, "tokens", property(lambda _: 100 * 6 * 17))
    batch.editor.propose_all()
    assert len(asked) == parts
