"""Keys of earlier edits: kept side by side, and a batch's update from more of them than there are inputs."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aeplus.functional import Spectrum, extend_basis, weighted_moment
from aeplus.methods import earlier as earlier_module
from aeplus.methods.compositions import named_method
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.layer import LayerSolver
from aeplus.preserved.statistics import LayerStatistics
from counting import Operations

D, OUT, N = 24, 10, 4
CPU = torch.device("cpu")
NUMBERS: dict[str, Any] = {
    "ridge": 0.5,
    "threshold": 0.6,
    "threshold_kind": "dimensions",
    "prior_strength": 3.0,
}


def randn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def batches(count: int) -> list[Tensor]:
    return [randn(D, N, seed=100 + i) for i in range(count)]


def statistics(scale: float = 1.0) -> LayerStatistics:
    keys = randn(D, 300, seed=7).double() * scale
    keys *= torch.linspace(0.1, 2, D).double()[:, None]
    return LayerStatistics(Spectrum.from_covariance(keys @ keys.T / 300), keys[:, :50], 300)


def test_keys_lie_side_by_side_and_stay_where_they_are() -> None:
    parts = [randn(D, n, seed=n) for n in (3, 300, 1, 200, 5000, 2)]
    earlier = EarlierKeys()
    views = []
    for part in parts:
        earlier.append(part)
        views.append(earlier[-1])
    assert len(earlier) == 6
    assert earlier.columns == 5506
    for view, own, part in zip(views, earlier, parts, strict=True):
        assert torch.equal(own, part)
        assert view.data_ptr() == own.data_ptr()
    assert torch.equal(torch.cat(list(earlier.blocks()), 1), torch.cat(parts, 1))
    joined = earlier.joined(torch.empty(2, D, dtype=torch.float64))
    assert joined.dtype == torch.float64
    assert torch.equal(joined, torch.cat(parts, 1).double())
    assert EarlierKeys().joined(torch.empty(2, D)).shape == (D, 0)


def test_what_is_folded_takes_in_each_batch_once() -> None:
    earlier, taken = EarlierKeys(batches(3)), []

    def step(state: int, keys: Tensor) -> int:
        taken.append(keys)
        return state + keys.shape[1]

    assert earlier.fold("count", lambda: 0, step) == 3 * N
    earlier.append(randn(D, N))
    assert earlier.fold("count", lambda: 0, step) == 4 * N
    assert len(taken) == 4


def test_a_fold_that_fails_begins_anew() -> None:
    earlier = EarlierKeys(batches(3))
    first = earlier.moment(torch.float64).clone()
    for number in (3, 4):
        earlier.append(randn(D, N, seed=number))
    last = earlier[4]

    def failing(state: Tensor, keys: Tensor) -> Tensor:
        if keys is last:
            raise MemoryError
        return state.add_(keys.double() @ keys.double().T)

    with pytest.raises(MemoryError):
        earlier.fold(("moment", torch.float64), lambda: first, failing)
    keys = torch.cat(list(earlier), 1).double()
    torch.testing.assert_close(earlier.moment(torch.float64), keys @ keys.T)


def test_moment_and_factor_follow_the_keys() -> None:
    earlier = EarlierKeys(batches(2))
    for extra in range(9):
        keys = torch.cat(list(earlier.blocks()), 1).double()
        torch.testing.assert_close(earlier.moment(torch.float64), keys @ keys.T)
        factor = earlier.factor(torch.float64)
        assert factor.shape[1] <= D
        torch.testing.assert_close(factor @ factor.T, keys @ keys.T)
        earlier.append(randn(D, N, seed=extra))


def test_a_resumed_run_finds_the_same_bits() -> None:
    parts = batches(30)
    followed, resumed = EarlierKeys(parts[:7]), EarlierKeys(parts)
    followed.moment(torch.float64)
    for keys in parts[7:]:
        followed.append(keys)
        followed.moment(torch.float64)
    assert torch.equal(followed.moment(torch.float64), resumed.moment(torch.float64))
    weights = torch.rand(30 * N).double()
    found, again = (weighted_moment(k.blocks(), weights, k.moment(torch.float64)) for k in (followed, resumed))
    assert torch.equal(found, again)


def test_conflicts_are_found_once_for_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    from aeplus import functional as fn

    earlier, calls, found = EarlierKeys(batches(3)), [], fn.mutual_conflict

    def count(*arguments: Any) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return found(*arguments)

    monkeypatch.setattr(fn, "mutual_conflict", count)
    keys = randn(D, N)
    first = earlier.nearest(keys)
    assert earlier.nearest(keys.clone())[1] is first[1]
    assert len(calls) == 1
    earlier.nearest(2 * keys)
    earlier.append(keys)
    assert float(earlier.nearest(2 * keys)[0].min()) == pytest.approx(1)
    assert len(calls) == 3


PARTS: list[dict[str, Any]] = [
    {"prior": "equal", "relax": "none"},
    {"prior": "conflict", "relax": "none"},
    {"prior": "resolve", "relax": "none"},
    {"prior": "none", "relax": "none"},
    {"prior": "conflict", "relax": "aligned"},
    {"prior": "conflict", "relax": "bounded", "max_growth": 3.0},
    {"prior": "equal", "relax": "paper"},
    {"prior": "equal", "relax": "none", "filter": "covariance", "alpha": 2.0},
    {"prior": "conflict", "relax": "none", "filter": "soft", "alpha": 2.0},
]


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(str(v) for v in parts.values()))
def test_many_earlier_keys_give_the_update_of_the_system_with_all_of_them(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = named_method("alphaedit_plus", **{**NUMBERS, **parts, "smooth": False})
    weight, residual, keys = randn(OUT, D, seed=1), randn(OUT, N, seed=2), randn(D, N, seed=3)
    earlier = EarlierKeys(batches(20))  # 80 keys of 24 inputs
    rewritten = torch.arange(80) % 9 == 0
    arguments = (0, method, statistics(), weight, earlier, rewritten)
    solver, plain = LayerSolver(*arguments), LayerSolver(*arguments)
    assert solver._many
    plain._many = False
    for scale in (1.0, 0.5):  # the second candidate finds what the first left
        found, expected = solver.solve(residual, scale * keys), plain.solve(residual, scale * keys)
        assert (found.dense() - expected.dense()).norm() <= 1e-6 * expected.dense().norm()
        ours, theirs = (s.report(found, residual, scale * keys) for s in (solver, plain))
        assert ours.as_dict() == pytest.approx(theirs.as_dict(), rel=1e-5)


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(str(v) for v in parts.values()))
def test_products_of_earlier_keys_that_are_kept_give_the_same_update(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier_module, "_CAST", 3)
    monkeypatch.setattr(sys.modules["aeplus.functional._system"], "_COLUMNS", 3)
    method = named_method("alphaedit_plus", **{**NUMBERS, **parts, "smooth": False})
    weight, residual, keys = randn(OUT, D, seed=1), randn(OUT, N, seed=2), randn(D, N, seed=3)
    stats, earlier = statistics(), EarlierKeys()
    for number in range(2):
        earlier.append(randn(D, N, seed=100 + number))
        solver, plain = (LayerSolver(0, method, stats, weight, earlier) for _ in range(2))
        plain._support = 0
        found, expected = (s.solve(residual, keys).dense() for s in (solver, plain))
        assert (found - expected).norm() <= 1e-12 * expected.norm()
    kept = "gram" in earlier._folds
    assert kept == (method.prior in ("equal", "conflict", "resolve") and method.relax in ("none", "aligned"))


def test_products_are_those_of_all_keys_and_of_the_filter_asked_for() -> None:
    stats, f = statistics(), torch.rand(D).double()
    earlier = EarlierKeys(batches(2))
    for number in range(6):
        keys = torch.cat(list(earlier), 1).double()
        U = stats.spectrum.vectors
        found = earlier.gram(stats.spectrum, f)
        torch.testing.assert_close(found, keys.T @ U @ f.diag() @ U.T @ keys)
        assert torch.equal(EarlierKeys(list(earlier)).gram(stats.spectrum, f), found)  # as a resumed run finds it
        earlier.append(randn(D, 1 + number, seed=number))
        f = f if number != 3 else 1 - f


def test_below_d_keys_a_batch_costs_no_product_of_all_keys_with_each_other() -> None:
    """Operations of products and bytes held grow as the number of earlier keys, not as its square."""
    d, n = 512, 2
    keys = randn(d, 600, seed=7)
    stats = LayerStatistics(Spectrum.from_covariance(keys @ keys.T / 600), keys[:, :20], 600)
    weight, residual, new = randn(OUT, d, seed=1), randn(OUT, n, seed=2), randn(d, n, seed=3)
    for prior in ("equal", "conflict"):
        method = named_method("alphaedit_plus", **{**NUMBERS, "threshold": 0.9, "prior": prior, "relax": "none"})
        flops, converted = [], []
        for count in (100, 200, 400):
            earlier = EarlierKeys([randn(d, count, seed=8)])
            LayerSolver(0, method, stats, weight, earlier).solve(residual, new)  # as the batches before have done
            solver = LayerSolver(0, method, stats, weight, earlier)
            with Operations() as operations:
                solver.report(solver.solve(residual, new), residual, new)
            flops.append(operations.flops)
            converted.append(operations.converted)
        first, second = flops[1] - flops[0], flops[2] - flops[1]
        assert second < 2.1 * first
        assert flops[2] < 2 * OUT * d * d + 2 * n * d * (2 * d + 5 * 400)  # the first is the weight's energy
        assert converted[2] - converted[1] <= 8 * d * 200 * 4


def test_hard_priors_of_many_keys() -> None:
    method = named_method("alphaedit_plus", **{**NUMBERS, "prior": "hard", "relax": "none", "smooth": False})
    weight, residual, keys = randn(OUT, D, seed=1), randn(OUT, N, seed=2), randn(D, N, seed=3)
    few = (4 * randn(D, 5, seed=4)).round()  # whole numbers, so that 32 keys stay in five directions
    earlier = EarlierKeys([few @ (4 * randn(5, N, seed=10 + i)).round() for i in range(8)])
    solver, plain = (LayerSolver(0, method, statistics(), weight, earlier) for _ in range(2))
    assert solver._many
    plain._many = False
    update = solver.solve(residual, keys).dense()
    assert update.norm() > 1e-3
    assert (update @ few.double()).norm() < 1e-8 * update.norm()
    assert (update - plain.solve(residual, keys).dense()).norm() < 1e-8 * update.norm()


@pytest.mark.parametrize("many", [False, True])
def test_hard_priors_forbid_a_key_that_recurs_once(many: bool) -> None:
    """Computed anew in float32 it differs by rounding, which is no direction."""
    method = named_method("alphaedit_plus", **{**NUMBERS, "prior": "hard", "relax": "none", "smooth": False})
    key = randn(D, 1, seed=4).float()
    noisy = [key * (1 + 3e-7 * torch.randn(D, 1, generator=torch.Generator().manual_seed(i))) for i in range(30)]
    solver = LayerSolver(0, method, statistics(), randn(OUT, D, seed=1), EarlierKeys(noisy))
    solver._many = many
    solver.solve(randn(OUT, N, seed=2), randn(D, N, seed=3))
    assert solver._taken is not None
    assert solver._taken.shape[1] == 1


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor made, and how often matrices were factorized."""

    def __init__(self) -> None:
        super().__init__()
        self.entries, self.factorizations = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.name()
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.entries = max(self.entries, tensor.numel())
        self.factorizations += any(f"linalg_{word}" in name for word in ("cholesky_ex", "eigh", "svd", "qr"))
        return made


def cost(method: str, count: int, **parts: Any) -> Largest:
    made = named_method(method, **{**NUMBERS, **parts})
    weight, residual, keys = randn(OUT, D, seed=1), randn(OUT, N, seed=2), randn(D, N, seed=3)
    earlier, stats = EarlierKeys(batches(count)), statistics()
    LayerSolver(0, made, stats, weight, earlier).solve(residual, keys)  # as the batches before have done
    earlier.append(randn(D, N, seed=9))
    solver = LayerSolver(0, made, stats, weight, earlier)
    with Largest() as seen:
        solver.report(solver.solve(residual, 2 * keys), residual, 2 * keys)
    return seen


def test_equal_priors_cost_the_same_however_many_they_are() -> None:
    few, many = (cost("alphaedit", count) for count in (10, 300))
    assert few.factorizations == many.factorizations == 1
    # beyond a cosine and a weight of each there is nothing whose size depends on their number
    assert many.entries <= max(few.entries, 301 * N * N)


def test_conflicts_cost_a_factorization_and_no_square_of_the_number_of_keys() -> None:
    few, many = (cost("alphaedit_plus", count, relax="none", smooth=False) for count in (10, 300))
    assert few.factorizations == many.factorizations == 1
    assert many.entries <= 301 * N * D  # a copy of the keys at most; a few thousand at a time where there are more


@pytest.mark.parametrize("parts", [{"relax": "none", "prior": "equal"}, {"relax": "aligned", "prior": "conflict"}])
def test_no_batch_makes_a_matrix_of_the_size_of_the_eigenbasis(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the eigenbasis, in float32, a block is cast at a time; what is solved in float64 has the batch's size."""
    for module in ("spectrum", "leakage"):
        monkeypatch.setattr(sys.modules[f"aeplus.functional.{module}"], "_BLOCK", 8)
    size = 96
    keys = randn(size, 300, seed=7)
    spectrum = Spectrum.from_covariance(keys @ keys.T / 300)
    stats = LayerStatistics(spectrum, keys[:, :20], 300)
    method = named_method("alphaedit_plus", **{**NUMBERS, "threshold": 0.9, **parts, "smooth": False})
    weight, residual, new = randn(OUT, size, seed=1), randn(OUT, N, seed=2), randn(size, N, seed=3)
    earlier = EarlierKeys([randn(size, N, seed=4)])
    with Largest() as seen:
        solver = LayerSolver(0, method, stats, weight, earlier)
        solver.report(solver.solve(residual, new), residual, new)
    assert solver.statistics.spectrum.vectors is spectrum.vectors
    assert seen.entries < size * size / 4


def test_the_basis_of_learned_edits_grows_by_each_batch_once() -> None:
    earlier = EarlierKeys(batches(3))
    expected = torch.empty(D, 0).double()
    for keys in earlier:
        expected = extend_basis(expected, keys, 0.9)
    found = earlier.fold(
        "basis", lambda: torch.empty(D, 0).double(), lambda basis, keys: extend_basis(basis, keys, 0.9)
    )
    assert torch.equal(found, expected)
    assert EarlierKeys.of(earlier, CPU) is earlier
    assert torch.equal(EarlierKeys.of(earlier[0], CPU)[0], earlier[0])
