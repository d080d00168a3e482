"""Every method, over three sequential batches, against its published pipeline written out densely.

Models are in float64, so that the two differ by rounding alone.
"""

import copy
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import aeplus
import aeplus.run.preservation
from aeplus.api import EditResult
from aeplus.callbacks import EditCallback
from aeplus.data.readers import requests_from_records
from aeplus.functional import Spectrum
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.preserved.stored import load_or_collect
from aeplus.targets.optimizer import TargetOptions
from small import records
from tiny import tiny_model, tiny_tokenizer

from . import formulas, published
from .plain_model import PlainModel

LAYERS = [0, 1, 2]
BATCH_SIZE = 3  # of seven edits: the last batch holds one
NUMBERS: dict[str, Any] = {
    "alpha": 1.0,
    "ridge": 0.1,
    "own_ridge": 0.3,
    "prior_strength": 2.0,
    "threshold": 0.5,
    "smoothing_steps": 3,
    "smoothing_share": 0.4,
    "keep_share": 0.4,
    "restrain_base": 10.0,
    "restrain_every": 0,
}
EPSILON = {"gpt2": 0.002, "llama": 0.01}  # where some eigenvectors are accepted and some are not
TARGETS = {"steps": 6, "learning_rate": 0.5, "clamp": 2.0, "contexts": 2, "context_length": 4}
SHARE = 5e-3  # of the objective, for each eigenvector of a block
GROWTH = 1.2
ALIGNED = {"aligned_power": 2, "aligned_floor": 0.3}
ALIGNED_SHARE = {"gpt2": 0.21, "llama": 0.6}  # where some edits count as conflicting and some do not
SEARCHED = {"relax": "paper", "selection": "converge"}
SWITCHES: dict[str, dict[str, Any]] = {
    "memit": {},
    "memit_sequential": {},
    "rect": {},
    "prune": {},
    "alphaedit": {},
    "blue": {},
    "memit_blue": {},
    "encore": {},
    "alphaedit_plus": {"smooth": True, "selection": "converge", **ALIGNED},
    "alphaedit_plus_paper": {},
    "prune_plus": SEARCHED,
    "blue_plus": SEARCHED,
}
PLUS = ("alphaedit_plus", "alphaedit_plus_paper", "prune_plus", "blue_plus")
CONV1D = ("memit", "alphaedit_plus", "blue_plus")
"""Methods that the quick tier edits GPT-2 by too."""
OFF = {"relax": "none", "prior": "equal", "smooth": False, "prior_strength": 1.0}


class Iterations(EditCallback):
    """Which smoothing iteration each batch, or each of its layers, was committed with."""

    def __init__(self) -> None:
        self.committed: list[Any] = []

    def on_batch_committed(self, trainer: Any, module: Any, commit: Any) -> None:
        by_layer = [chosen["iteration"] for chosen in commit.report.get("chosen", ())]
        self.committed.append(by_layer or commit.candidate.iteration)


@dataclass
class Run:
    """A model edited by the package, and what it was."""

    result: EditResult
    committed: list[Any]
    plain: PlainModel
    unedited: PlainModel

    def update(self, layer: int) -> Tensor:
        """``W_T − W_0``."""
        return self.plain.weight(layer) - self.unedited.weight(layer)


@cache
def unedited_model(kind: str) -> Any:
    """In float64; its down-projections are small, so that the sum of the edits has larger singular values."""
    model = tiny_model(kind).double()
    plain = PlainModel(model, kind)
    for layer in LAYERS:
        plain.write(layer, 0.3 * plain.weight(layer))
    return model


def model_of(kind: str) -> Any:
    """A copy to edit."""
    return copy.deepcopy(unedited_model(kind))


def stream(again: bool) -> list[dict[str, Any]]:
    """Seven edits; where asked, the last one is the first fact with another answer."""
    edits = records()
    return [*edits[:-1], {**edits[0], "target_new": "London"}] if again else edits


class Bench:
    """Runs methods by the package (each once) and by the reference."""

    def __init__(self, corpus: str) -> None:
        self.preserved: dict[str, Any] = {"corpus": corpus, "tokens": 1600, "window": 32}
        self._runs: dict[tuple[Any, ...], Run] = {}

    def edited(self, method: str, kind: str, **changes: Any) -> Run:
        """By ``aeplus.edit``."""
        known = (method, kind, *sorted(changes.items()))
        again = changes.pop("again", False)
        if known not in self._runs:
            model, seen = model_of(kind), Iterations()
            options = {**self.preserved, **TARGETS, **NUMBERS, "threshold_kind": "dimensions", "preserved_count": 0}
            options |= {
                "epsilon": EPSILON[kind],
                "aligned_share": ALIGNED_SHARE[kind],
                "layers": LAYERS,
                "batch_size": BATCH_SIZE,
                "callbacks": [seen],
            }
            switches = SWITCHES.get(method, {})
            if "relax" in changes:
                switches = {name: value for name, value in switches.items() if name not in ALIGNED}
            options |= switches | changes
            result = aeplus.edit(model, tiny_tokenizer(), stream(again), method, **options)
            plain, unedited = PlainModel(model, kind), PlainModel(unedited_model(kind), kind)
            self._runs[known] = Run(result, seen.committed, plain, unedited)
        return self._runs[known]

    def published(self, method: str, kind: str, committed: list[Any], **changes: Any) -> published.Published:
        """By the reference."""
        again = changes.pop("again", False)
        reference = published.Published(
            PlainModel(model_of(kind), kind),
            tiny_tokenizer(),
            LAYERS,
            published.Numbers(**{"epsilon": EPSILON[kind], **NUMBERS, **changes}),
            TargetOptions(**TARGETS),
            PreservedOptions(**self.preserved),
        )
        reference.run(method, requests_from_records(stream(again)), BATCH_SIZE, committed)
        return reference


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """On text so varied that C has full rank, for MEMIT's formula inverts it."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(1, 7))) for _ in range(900)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text(" ".join(words))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small lose more to waiting threads than they gain
    yield Bench(str(path))
    torch.set_num_threads(threads)


@pytest.fixture
def exact_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvectors orthonormal to float64: stored in float32, they would hide all other differences below 1e-7."""

    def load(*arguments: Any, **options: Any) -> list[LayerStatistics]:
        exact = []
        for stored in load_or_collect(*arguments, **options):
            q, r = torch.linalg.qr(stored.spectrum.vectors.double())
            spectrum = Spectrum(stored.spectrum.values.double(), q * r.diagonal().sign())
            exact.append(LayerStatistics(spectrum, stored.keys, stored.tokens))
        return exact

    monkeypatch.setattr(aeplus.run.preservation, "load_or_collect", load)
    monkeypatch.setattr(published, "load_or_collect", load)


def compare(run: Run, reference: published.Published, name: str, bound: float) -> None:
    """Edited weights and their updates agree, and nothing else has changed."""
    worst, changed = 0.0, set()
    for layer in LAYERS:
        expected, start = reference.plain.weight(layer), run.unedited.weight(layer)
        if torch.equal(expected, start):  # left alone by BLUE
            assert torch.equal(run.plain.weight(layer), start)
            continue
        error = (run.plain.weight(layer) - expected).norm()
        assert error <= min(bound, 1e-6) * expected.norm()
        worst = max(worst, float(error / (expected - start).norm()))
        changed.add(layer)
    print(f"parity {name} {worst:.1e}")
    assert worst <= bound
    before, after = run.unedited.model.state_dict(), run.plain.model.state_dict()
    names = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert names == {run.plain.name(layer) for layer in changed}


@pytest.mark.usefixtures("exact_basis")
def test_parity_of_the_default(bench: Bench) -> None:
    """It does not smooth: all targets are whole, as in the last smoothing iteration."""
    run = bench.edited("alphaedit_plus", "llama", again=True, smooth=False)
    assert run.committed == [0] * len(run.committed)
    numbers = {"aligned": (ALIGNED_SHARE["llama"], *ALIGNED.values()), "smooth": False, "again": True}
    whole = [NUMBERS["smoothing_steps"]] * len(run.committed)
    compare(run, bench.published("alphaedit_plus", "llama", whole, **numbers), "the default", 1e-9)


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(method, kind, marks=() if kind == "llama" or method in CONV1D else pytest.mark.slow)
        for method in SWITCHES
        for kind in ("gpt2", "llama")
    ],
)
def test_parity(bench: Bench, method: str, kind: str) -> None:
    changes = {"again": True} if method == "alphaedit_plus" else {}  # its weights differ for such edits only
    run = bench.edited(method, kind, **changes)
    aligned = {"aligned": (ALIGNED_SHARE[kind], *ALIGNED.values())} if method == "alphaedit_plus" else {}
    reference = bench.published(method, kind, run.committed, **aligned, **changes)
    compare(run, reference, f"{method} {kind}", 1e-9)
    if method in PLUS:  # the case is one that tells
        assert any(0 < accepted < candidates for accepted, candidates in reference.accepted)
        assert any(t > 0 for t in run.committed)
    for layer in run.result.updates[0]:
        updates = [batch[layer] for batch in run.result.updates]
        torch.testing.assert_close(sum(u.dense() for u in updates), run.update(layer), rtol=0, atol=1e-12)
        assert all(u.left.dtype == torch.float64 for u in updates)


PARTS: dict[str, dict[str, Any]] = {
    "sphere": {"treatment": "sphere", "main_energy": 0.4, "main_strength": 0.7},
    "revive": {"treatment": "revive", "main_energy": 0.3},
    "hard": {"prior": "hard"},
    "resolve": {"prior": "resolve"},
}


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("part", PARTS)
def test_parity_of_parts_in_alphaedit(bench: Bench, part: str) -> None:
    changes = PARTS[part]
    run = bench.edited("alphaedit", "llama", again=True, **changes)
    numbers = {name: value for name, value in changes.items() if name.startswith("main")}
    compare(run, bench.published(part, "llama", run.committed, again=True, **numbers), f"{part} llama", 1e-9)
    plain = bench.edited("alphaedit", "llama", again=True)
    assert not torch.equal(run.plain.weight(LAYERS[-1]), plain.plain.weight(LAYERS[-1]))


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("method", ["rect", "prune"])
def test_parity_of_error_feedback(bench: Bench, method: str) -> None:
    changes: dict[str, Any] = {"prior": "equal", "prior_strength": 1.0}
    numbers = {"restrain_every": 1, "restrain_base": math.e} if method == "prune" else {}
    run = bench.edited(method, "llama", feedback=True, **changes, **numbers)
    reference = bench.published(f"{method}_feedback", "llama", run.committed, **numbers)
    compare(run, reference, f"{method} with feedback llama", 1e-9)
    plain = bench.edited(method, "llama", **changes, **numbers)
    assert not torch.equal(run.plain.weight(LAYERS[-1]), plain.plain.weight(LAYERS[-1]))


@pytest.mark.usefixtures("exact_basis")
def test_parity_of_the_search_that_a_growth_of_the_leakage_bounds(bench: Bench) -> None:
    run = bench.edited("alphaedit_plus", "llama", relax="bounded", max_growth=GROWTH)
    reference = bench.published("alphaedit_plus", "llama", run.committed, growth=GROWTH)
    compare(run, reference, "bounded llama", 1e-9)
    assert any(0 < accepted < candidates for accepted, candidates in reference.accepted)


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_parity_of_the_published_code(bench: Bench, kind: str) -> None:
    numbers: dict[str, Any] = {"epsilon": SHARE, "search_block": 5, "smoothing_threshold": 2.0}
    run = bench.edited("alphaedit_plus_published", kind, **numbers, selection="best")  # by probabilities, which differ
    reference = bench.published("alphaedit_plus_published", kind, run.committed, epsilon=SHARE, block=5, bound=2.0)
    compare(run, reference, f"alphaedit_plus_published {kind}", 1e-9)
    assert any(0 < accepted < candidates for accepted, candidates in reference.accepted)
    assert len({t for batch in run.committed for t in batch}) > 1


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_parity_of_its_switches_in_algorithm_1(bench: Bench, kind: str, mode: str) -> None:
    numbers: dict[str, Any] = {"epsilon": SHARE, "search_block": 5, "relative": True, "search_unsmoothed": True}
    run = bench.edited("alphaedit_plus_paper", kind, **numbers, prior_by_place=True, smoothing_mode=mode)
    reference = bench.published("alphaedit_plus_half", kind, run.committed, epsilon=SHARE, block=5)
    compare(run, reference, f"alphaedit_plus_half {kind}", 1e-9)
    assert any(0 < accepted < candidates for accepted, candidates in reference.accepted)
    assert any(t > 0 for t in run.committed)


@pytest.mark.usefixtures("exact_basis")
def test_parity_of_an_unsmoothed_search_for_targets_of_its_own(bench: Bench) -> None:
    run = bench.edited("blue_plus", "llama", search_unsmoothed=True)
    compare(run, bench.published("blue_plus", "llama", run.committed, unsmoothed=True), "blue_plus, unsmoothed", 1e-9)
    smoothed = bench.edited("blue_plus", "llama")
    assert not torch.equal(run.plain.weight(LAYERS[0]), smoothed.plain.weight(LAYERS[0]))


@pytest.mark.parametrize("method", ["memit", "alphaedit_plus_paper"])
def test_parity_with_statistics_as_they_are_stored(bench: Bench, method: str) -> None:
    run = bench.edited(method, "llama", seed=0)  # not the runs with the exact basis
    compare(run, bench.published(method, "llama", run.committed), f"{method} llama, float32 basis", 1e-6)


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("method", ["prune", "prune_plus"])
def test_parity_of_restraint_between_batches(bench: Bench, method: str) -> None:
    for every in (1, 2):
        changes = {"restrain_every": every, "restrain_base": math.e}
        run = bench.edited(method, "llama", **changes)
        name = f"{method} llama, every {every} batches"
        compare(run, bench.published(method, "llama", run.committed, **changes), name, 1e-9)


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_prune_restrains_the_singular_values_of_memit(bench: Bench, kind: str) -> None:
    """Only those above the largest of the unedited weight, by their logarithm, and none upwards."""
    prune, memit = bench.edited("prune", kind), bench.edited("memit", kind)
    for layer in LAYERS:
        bound = torch.linalg.svdvals(prune.unedited.weight(layer))[0]
        values = torch.linalg.svdvals(memit.update(layer))
        expected = formulas.restrained_values(values, bound, NUMBERS["restrain_base"])
        torch.testing.assert_close(torch.linalg.svdvals(prune.update(layer)), expected.sort(descending=True).values)
        assert bool((expected < values).any())
        assert bool(((values > bound) & (expected == values)).any())


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rect_keeps_a_share_of_each_batchs_update(bench: Bench, kind: str) -> None:
    for batch in bench.edited("rect", kind).result.updates:
        for update in batch.values():
            delta = update.dense()
            assert abs(int((delta != 0).sum()) - NUMBERS["keep_share"] * delta.numel()) <= 1
            assert update.mask is not None
            assert update.mask.shape == delta.shape
            assert update.mask.dtype == torch.bool


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize("method", ["blue", "blue_plus"])
def test_blue_edits_the_first_and_the_last_layer(bench: Bench, method: str) -> None:
    run = bench.edited(method, "llama")
    assert [set(batch) for batch in run.result.updates] == [{LAYERS[0], LAYERS[-1]}] * 3
    assert [bool(run.update(layer).any()) for layer in LAYERS] == [True, False, True]


@pytest.mark.usefixtures("exact_basis")
@pytest.mark.parametrize(
    ("plus", "method", "treatment"),
    [("alphaedit_plus", "alphaedit", "none"), ("blue_plus", "blue", "none"), ("prune_plus", "alphaedit", "restrain")],
)
def test_a_plus_method_with_everything_off_is_the_plain_one(
    bench: Bench, plus: str, method: str, treatment: str
) -> None:
    targets = {"targets": "last"} if plus == "alphaedit_plus" else {}
    off = bench.edited(plus, "llama", **OFF, **targets)
    plain = bench.edited(method, "llama", treatment=treatment, prior_strength=1.0)
    for name, tensor in plain.plain.model.state_dict().items():
        assert torch.equal(off.plain.model.state_dict()[name], tensor), name


@pytest.mark.usefixtures("exact_basis")
def test_prune_plus_with_prunes_switches_is_prune(bench: Bench) -> None:
    off = bench.edited("prune_plus", "llama", **{**OFF, "filter": "covariance", "prior": "none"})
    for name, tensor in bench.edited("prune", "llama").plain.model.state_dict().items():
        assert torch.equal(off.plain.model.state_dict()[name], tensor), name
