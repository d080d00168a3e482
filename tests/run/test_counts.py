"""What a batch costs, counted: passes, tokens, layers, factorizations, bytes that are made or converted.

The bounds are what it takes today; they keep what has been gained.
"""

import gc
import warnings
from dataclasses import dataclass
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.functional.leakage import preserved_energy, update_energy
from aeplus.functional.spectrum import Spectrum
from aeplus.methods import gradient, layer, measured
from aeplus.methods.compositions import named_method
from aeplus.methods.layer import LayerSolver, stored
from aeplus.methods.treatments import TREATMENTS
from aeplus.models.decoder import Decoder
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.run.session import EditSession
from aeplus.targets import optimizer
from aeplus.targets.optimizer import TargetOptions
from counting import Operations, counted_tokens
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

LAYERS, FIRST, LAST = 6, 1, 2
EDITS, STEPS, SMOOTHING = 4, 9, 5


@dataclass
class Counts:
    """Of one phase: operators, the tokens that ran through each layer, and how often the last one ran."""

    operations: Operations
    tokens: list[int]
    passes: int


def prepared(method: str, edits: int = EDITS, **options: Any) -> tuple[EditSession, EditDataModule]:
    """A session before its first batch, and its edits."""
    model = tiny_model("llama", num_hidden_layers=LAYERS)
    numbers = {name: LEARNING[name] for name in ("ridge", "prior_strength", "threshold", "threshold_kind")}
    session = EditSession(
        *(model, tiny_tokenizer(), [FIRST, LAST], named_method(method, **numbers, **options)),
        TargetOptions(steps=STEPS, contexts=1, context_length=4, stop_loss=0.0),
        PreservedOptions(corpus=LEARNING["corpus"], tokens=600, window=32),
    )
    data = EditDataModule(batch_size=edits, preserved_count=2, snippet_corpus=LEARNING["corpus"])
    data.attach(requests_from_records(records() + records()[:1])).setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session.prepare(data)
    return session, data


def phases(method: str, edits: int = EDITS, **options: Any) -> tuple[dict[str, Counts], EditSession]:
    """The second batch of a run, phase by phase: targets, candidates, validation."""
    session, data = prepared(method, edits, **options)
    session.edit_batch(data.validation_items)
    found: dict[str, Counts] = {}
    layers = Decoder(session.model).layers

    def count(phase: str, run: Any) -> None:
        ran: list[int] = []
        handle = layers[-1].register_forward_hook(lambda *_: ran.append(1))
        with Operations() as operations, counted_tokens(layers) as tokens:
            run()
        handle.remove()
        if phase in found:
            before = found[phase]
            before.operations.waits += operations.waits
            before.operations.factorizations += operations.factorizations
            before.passes += len(ran)
            before.tokens = [a + b for a, b in zip(before.tokens, tokens, strict=True)]
        else:
            found[phase] = Counts(operations, tokens, len(ran))

    count("targets", session.begin)
    for _ in range(session.batch.iterations):
        count("candidates", session.candidate)
        count("validation", lambda: session.validate(data.validation_items()))
    count("commit", session.commit)
    return found, session


@pytest.fixture(scope="module")
def plain() -> dict[str, Counts]:
    return phases("alphaedit")[0]


def test_each_step_of_targets_runs_the_layers_above_only(plain: dict[str, Counts]) -> None:
    tokens = plain["targets"].tokens
    below, above = tokens[:FIRST], tokens[LAST + 1 :]
    # Recording: every row once, for targets to the top and for keys to the last edited layer.
    assert max(below) <= 380
    # The recording for targets, a check, and nine steps of twelve rows from the subject's last token on.
    assert len(set(above)) == 1
    assert above[0] <= 348


def test_targets_wait_for_the_device_once_a_step(plain: dict[str, Counts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimizer._CHECK_EVERY, "cpu", 4)
    waits = plain["targets"].operations.waits
    seldom = phases("alphaedit")[0]["targets"].operations.waits
    assert waits["tolist"] - seldom["tolist"] == STEPS - 3  # steps 4, 8 and the last
    assert sum(seldom.values()) < 40


def test_keys_are_read_in_the_edited_layers_only(plain: dict[str, Counts]) -> None:
    tokens = plain["candidates"].tokens
    assert tokens[:FIRST] == [0] * FIRST
    assert tokens[LAST + 1 :] == [0] * (LAYERS - LAST - 1)
    assert max(tokens) > 0


def test_a_layer_is_factorized_once_a_candidate(plain: dict[str, Counts]) -> None:
    assert plain["candidates"].operations.factorizations == {"linalg_cholesky_ex": 2}
    for phase in ("targets", "validation", "commit"):
        assert not plain[phase].operations.factorizations


def test_a_validation_is_one_pass(plain: dict[str, Counts]) -> None:
    tokens = plain["validation"].tokens
    assert len(set(tokens)) == 1
    assert plain["validation"].passes == 1
    waits = plain["validation"].operations.waits
    assert waits["tolist"] <= 4


def test_smoothing_runs_all_candidates_together() -> None:
    options = {"smooth": True, "smoothing_steps": SMOOTHING}
    (one, session), (many, _) = (
        phases("alphaedit_plus", smoothing_mode=m, **options) for m in ("parallel", "sequential")
    )
    assert session.report.batches[-1]["smoothing_iterations"] == SMOOTHING + 1
    # The same tokens are scored, with less padding, in few passes, with the first candidate.
    assert max(one["validation"].tokens) <= max(many["validation"].tokens)
    assert one["validation"].operations.waits["tolist"] <= 4
    assert many["validation"].operations.waits["tolist"] >= 2 * (SMOOTHING + 1)
    # The first edited layer is read once for all of them.
    assert one["candidates"].tokens[FIRST] < many["candidates"].tokens[FIRST]
    assert one["candidates"].tokens[LAST] <= many["candidates"].tokens[LAST]
    # Once for all candidates at the first layer, whose keys they share, and once for each above; the committed one is
    # found by itself at the end.
    assert one["candidates"].operations.factorizations == {"linalg_cholesky_ex": 1 + SMOOTHING + 1}
    assert one["commit"].operations.factorizations == {"linalg_cholesky_ex": 2}
    assert many["commit"].operations.factorizations == {}


def test_what_a_batch_sends_to_the_device_grows_with_its_tokens_only(plain: dict[str, Counts]) -> None:
    fewer = phases("alphaedit", edits=EDITS // 2)[0]
    for phase in ("targets", "validation"):
        sent, less = (found[phase].operations.created for found in (plain, fewer))
        tokens, others = (max(found[phase].tokens) for found in (plain, fewer))
        assert tokens > others
        assert sent / less < 1.02 * tokens / others
    assert plain["candidates"].operations.created == fewer["candidates"].operations.created
    for counts in plain.values():  # token ids, masks and positions
        assert counts.operations.created <= 20 * max(counts.tokens)


D, OUT, N = 2048, 256, 4


@pytest.fixture(scope="module")
def large() -> tuple[LayerStatistics, Tensor, Tensor, Tensor]:
    """Statistics, of which float32 eigenvectors as a file has them, a weight, a residual and keys."""
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(D, D))[0]
    statistics = LayerStatistics(Spectrum(torch.rand(D).pow(4).sort().values, vectors), torch.randn(D, 8), 1)
    return statistics, torch.randn(OUT, D).bfloat16(), torch.randn(OUT, N), torch.randn(D, N)


def solver_of(large: tuple[LayerStatistics, Tensor, Tensor, Tensor], method: str, **options: Any) -> LayerSolver:
    numbers = {"threshold": 0.9, "threshold_kind": "dimensions"} if method != "memit" else {}
    return LayerSolver(0, named_method(method, **numbers, **options), large[0], large[1], [])


def test_no_eigenvectors_are_cast_for_the_energy_of_a_weight(large: tuple[Any, ...]) -> None:
    with Operations() as operations:
        solver = solver_of(large, "alphaedit")
        energy = solver.energy
    exact = preserved_energy(solver.weight, solver.statistics.spectrum)
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy, exact, rtol=1e-5, atol=0)
    assert operations.converted < 4 * OUT * D * 1.1  # the weight


@pytest.mark.parametrize("method", ["alphaedit", "alphaedit_plus", "memit"])
def test_no_eigenvectors_are_cast_for_a_report(large: tuple[Any, ...], method: str) -> None:
    _, weight, residual, keys = large
    with Operations() as made:
        solver = solver_of(large, method, **({"aligned_share": 1.0} if method == "alphaedit_plus" else {}))
    assert made.converted < 8 * D * D / 100
    update = stored(solver.solve(residual, keys), weight)
    energy = solver.energy
    with Operations() as operations:
        report = solver.report(update, residual, keys)
    assert operations.converted < 8 * D * D / 100
    spectrum = solver.statistics.spectrum
    exact = update_energy(update.to(torch.float64), spectrum) / energy
    assert report.leakage == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize(("method", "share"), [("alphaedit", 0.11), ("memit", 1.01)])
def test_each_eigenvector_is_cast_once_for_a_solve(large: tuple[Any, ...], method: str, share: float) -> None:
    solver = solver_of(large, method)
    with Operations() as operations:
        solver.solve(*large[2:])
    assert operations.converted < 8 * D * D * share


@pytest.mark.parametrize("method", ["alphaedit", "alphaedit_plus", "memit", "rect", "blue"])
def test_nothing_of_a_layers_size_is_copied_for_a_solve(large: tuple[Any, ...], method: str) -> None:
    solver = solver_of(large, method, **({"aligned_share": 1.0} if method == "alphaedit_plus" else {}))
    with Operations() as operations:
        update = solver.solve(*large[2:])
    assert 0 < operations.copied < 4 * N * D * 2  # the keys twice, in float32
    update = stored(update, large[1])
    assert solver.energy > 0
    with Operations() as operations:
        solver.report(update, *large[2:])
    assert operations.copied < 4 * N * D * 3


def test_of_weights_a_batch_copies_the_edited_ones_four_times(plain: dict[str, Counts]) -> None:
    """The snapshot, restored after the targets and before the candidate, and the candidate's own; all of two layers."""
    weights = {
        tuple(parameter.shape)
        for name, parameter in tiny_model("llama", num_hidden_layers=LAYERS).named_parameters()
        if parameter.ndim == 2
    }
    edited = tuple(tiny_model("llama").model.layers[FIRST].mlp.down_proj.weight.shape)
    copies = {phase: counts.operations.shapes for phase, counts in plain.items()}
    assert {phase: shapes[edited] for phase, shapes in copies.items()} == {
        "targets": 4,
        "candidates": 4,
        "validation": 0,
        "commit": 0,
    }
    assert not [shape for shapes in copies.values() for shape in shapes if shape in weights - {edited}]


@pytest.mark.parametrize("removed", [False, True])
def test_another_residual_of_the_same_keys_needs_no_solve(large: tuple[Any, ...], removed: bool) -> None:
    statistics, weight, residual, keys = large
    method = named_method("alphaedit_plus", threshold=0.9, threshold_kind="dimensions")
    back = LowRankUpdate(torch.randn(OUT, 2), 1e-3 * torch.randn(2, D)) if removed else None
    solver, other = (LayerSolver(0, method, statistics, weight, [keys[:, :2]], removed=back) for _ in range(2))
    for one in (solver, other):
        one.solve(residual, keys)
    with Operations() as operations:
        found = solver.solve(2 * residual, keys)
    assert not operations.factorizations
    assert operations.converted < 8 * D * D / 100
    expected = other.solve(2 * residual, keys.clone())
    assert torch.equal(found.left, expected.left)
    assert torch.equal(found.right, expected.right)
    with pytest.raises(InputError, match="finite residual"):
        solver.solve(residual / 0, keys)


def test_the_default_finds_what_of_a_key_lies_outside_once(large: tuple[Any, ...]) -> None:
    """Once for P̃ and the solve; little more is read from the device than without P̃."""
    _, _, residual, keys = large
    outside = 2 * N * D * D // 10  # a product of the keys with the tenth of the eigenvectors outside
    few = {"aligned_share": 1.0, "aligned_leakage": None}
    solver, plain = solver_of(large, "alphaedit_plus", **few), solver_of(large, "alphaedit")
    with Operations() as without:
        plain.solve(residual, keys)
    assert without.flops < 2.2 * outside  # U_oᵀ K and back
    with Operations() as first:
        solver.solve(residual, keys)
    assert first.flops < 3.7 * outside  # and Q back, and the grid of c
    assert sum(first.waits.values()) <= sum(without.waits.values()) + 12
    with Operations() as again:
        solver.solve(2 * residual, keys)
    assert not again.flops


def test_a_sparsified_update_is_measured_in_float32(large: tuple[Any, ...]) -> None:
    """RECT's weight comes in its own dtype, and its update meets the eigenvectors in theirs."""
    _, weight, residual, keys = large
    solver = solver_of(large, "rect", filter="null_space")
    treat = TREATMENTS[solver.method.treatment].run.each
    update = stored(solver.solve(residual, keys), weight)
    energy = solver.energy
    assert treat is not None
    with Operations() as operations:
        treated = treat(solver.method, update, solver.stored_weight, None)
        report = solver.report(treated, residual, keys)
    assert operations.converted < 4 * OUT * D * 1.1 + 8 * D * D / 100  # the weight
    exact = update_energy(treated.to(torch.float64), solver.statistics.spectrum) / energy
    assert report.leakage == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize(("method", "layers"), [("alphaedit", 0), ("kde", 2)])
def test_what_the_unedited_weights_put_out_is_found_once(
    method: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the meter of the run's leakage; after the first batch by each layer."""
    found: list[torch.dtype] = []
    original = measured.weight_energy

    def note(statistics: LayerStatistics, weight: Tensor) -> Tensor:
        found.append(statistics.spectrum.vectors.dtype)
        return original(statistics, weight)

    for module in (layer, gradient):
        monkeypatch.setattr(module, "weight_energy", note)
    session, data = prepared(method)
    session.edit_batch(data.validation_items)
    assert found == [torch.float32] * layers
    first = session.report.batches[0]["layers"]
    session.edit_batch(data.validation_items)
    assert len(found) == layers + 2
    again, data = prepared(method)
    assert again._editing is not None
    again._editing.builder._energies = None
    again.edit_batch(data.validation_items)
    assert again.report.batches[0]["layers"] == first


def test_what_was_kept_beside_earlier_keys_goes_with_the_run() -> None:
    session, data = prepared("alphaedit")
    for _ in range(2):
        session.edit_batch(data.validation_items)
    earlier, vectors = session.entries.keys(session.sites[0]), ref(session.statistics[0].spectrum.vectors)
    assert earlier.columns
    assert earlier._folds
    session.release()
    gc.collect()
    assert vectors() is None
    assert not earlier._folds
