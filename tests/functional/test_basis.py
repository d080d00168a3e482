import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.functional import extend_basis, project_out

SEEDS = st.integers(0, 2**20)
ENERGIES = st.sampled_from([0.3, 0.6, 0.95, 0.9999, 1.0])


def randn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(d: int, r: int, seed: int = 1) -> torch.Tensor:
    return torch.linalg.qr(randn(d, r, seed=seed)).Q


def error(basis: torch.Tensor) -> float:
    """How far a basis is from orthonormal."""
    gram = basis.double().T @ basis.double()
    return float((gram - torch.eye(len(gram))).abs().max()) if gram.numel() else 0.0


@settings(deadline=None, max_examples=60)
@given(d=st.integers(1, 12), share=st.floats(0, 1), n=st.integers(0, 16), energy=ENERGIES, seed=SEEDS)
def test_the_fewest_directions_that_reach_the_share(d: int, share: float, n: int, energy: float, seed: int) -> None:
    r = round(share * d)
    basis, keys = orthonormal(d, r, seed + 1), randn(d, n, seed=seed) * randn(1, n, seed=seed + 2)
    extended = extend_basis(basis, keys, energy)
    assert error(extended) < 1e-12
    assert torch.equal(extended[:, :r], basis)
    added = extended[:, r:]
    outside = torch.eye(d).double() - basis @ basis.T
    left, values, _ = torch.linalg.svd(outside @ keys)
    if n == 0 or r == d:
        assert not added.shape[1]
        return
    total = float(values.square().sum())
    for fewer in range(added.shape[1]):
        assert float(values[:fewer].square().sum()) < energy * total
    assert float((added.T @ keys).square().sum()) >= energy * total * (1 - 1e-12)  # what they hold reaches it
    expected = left[:, : added.shape[1]]
    assert (added @ added.T - expected @ expected.T).abs().max() < 1e-6


@settings(deadline=None, max_examples=30)
@given(d=st.integers(1, 12), share=st.floats(0, 1), n=st.integers(1, 30), seed=SEEDS)
def test_nothing_is_added_for_keys_that_are_held(d: int, share: float, n: int, seed: int) -> None:
    basis = orthonormal(d, round(share * d), seed + 1)
    keys = 1e3 * basis @ randn(basis.shape[1], n, seed=seed)
    for dtype in (torch.float32, torch.float64):
        assert extend_basis(basis.to(dtype), keys.to(dtype), 1.0).shape == basis.shape


def test_a_full_space_stays_and_keys_fill_it() -> None:
    full = extend_basis(torch.empty(6, 0).double(), randn(6, 40), 1.0)
    assert full.shape == (6, 6)
    assert error(full) < 1e-12
    assert torch.equal(extend_basis(full, randn(6, 3, seed=1), 1.0), full)


def test_what_comes_back_is_not_what_went_in() -> None:
    basis = orthonormal(5, 2)
    extend_basis(basis, torch.empty(5, 0).double(), 0.9)[0, 0] = 7
    assert error(basis) < 1e-12


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_stays_orthonormal_over_many_batches_of_nearly_held_keys(dtype: torch.dtype, close: float) -> None:
    d, n = 600, 30
    basis = torch.empty(d, 0, dtype=dtype)
    for batch in range(8):
        # singular values over four orders of magnitude, in keys of one length; half of them are all but held
        keys = randn(d, n, seed=batch) * torch.logspace(0, -4, n) @ orthonormal(n, n, batch)
        if batch:
            held = basis.double() @ randn(basis.shape[1], n // 2, seed=batch)
            keys[:, : n // 2] = held + 1e-3 * keys[:, : n // 2]
        basis = extend_basis(basis, keys.to(dtype), 1.0)
    assert basis.shape[1] > 4 * n
    assert error(basis) < close


def test_stays_orthonormal_in_as_many_dimensions_as_large_models_have() -> None:
    keys = torch.randn(16384, 64, generator=torch.Generator().manual_seed(0))
    assert error(extend_basis(torch.empty(16384, 0), keys, 1.0)) < 1e-6


def test_never_more_columns_than_dimensions() -> None:
    rough = 1.01 * orthonormal(4, 3)  # as half precision may make it: some of it seems to lie outside of it
    assert extend_basis(rough, randn(4, 9), 1.0).shape == (4, 4)
    assert extend_basis(1.01 * orthonormal(4, 4), randn(4, 9), 1.0).shape == (4, 4)


def test_directions_as_small_as_rounding_are_not_added() -> None:
    keys = torch.diag(torch.tensor([1.0, 1e-3, 1e-9])).double()
    none = torch.empty(3, 0)
    assert extend_basis(none.double(), keys, 1.0).shape == (3, 3)
    assert extend_basis(none, keys.float(), 1.0).shape == (3, 2)
    assert extend_basis(none.double(), keys.float(), 1.0).shape == (3, 2)  # the keys' rounding is what counts
    assert extend_basis(none, keys.bfloat16(), 1.0).shape == (3, 1)
    assert extend_basis(none, torch.zeros(3, 2), 1.0).shape == (3, 0)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_scale_of_keys_does_not_count(scale: float) -> None:
    keys = randn(9, 5).float()
    assert extend_basis(torch.empty(9, 0), keys * scale, 0.8).shape == extend_basis(torch.empty(9, 0), keys, 0.8).shape


@settings(deadline=None, max_examples=40)
@given(o=st.integers(0, 5), d=st.integers(1, 12), share=st.floats(0, 1), seed=SEEDS)
def test_projected_is_orthogonal_and_projected_again_the_same(o: int, d: int, share: float, seed: int) -> None:
    matrix, basis = randn(o, d, seed=seed), orthonormal(d, round(share * d), seed + 1)
    rest = project_out(matrix, basis)
    # orthogonal, the same when projected again, and no more taken out than that
    assert torch.allclose(rest @ basis, torch.zeros(()).double(), atol=1e-13)
    torch.testing.assert_close(project_out(rest, basis), rest, rtol=0, atol=1e-13)
    torch.testing.assert_close((matrix - rest) @ basis @ basis.T, matrix - rest, rtol=0, atol=1e-13)
    if not basis.shape[1]:
        assert torch.equal(rest, matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    basis, keys, matrix = orthonormal(9, 3).to(dtype), randn(9, 2).to(dtype), randn(4, 9, seed=2).to(dtype)
    extended = extend_basis(basis, keys, 1.0)
    assert extended.dtype == project_out(matrix, basis).dtype == dtype
    assert error(extended) < 10 * torch.finfo(dtype).eps
    exact = project_out(matrix.double(), basis.double())
    torch.testing.assert_close(project_out(matrix, basis.double()).double(), exact, rtol=4e-3, atol=1e-6)
    assert extend_basis(basis, keys.double(), 1.0).dtype == dtype


def test_error_texts() -> None:
    basis, keys = torch.eye(5)[:, :2], torch.ones(5, 3)
    with pytest.raises(InputError, match=r"basis of shape \[any, any\], got \[5\]; pass orthonormal"):
        extend_basis(torch.ones(5), keys, 0.9)
    with pytest.raises(InputError, match=r"keys of shape \[5, any\], got \[4, 3\]; pass one key of the"):
        extend_basis(basis, torch.ones(4, 3), 0.9)
    with pytest.raises(InputError, match=r"keys in floating point, got torch.int64"):
        extend_basis(basis, keys.long(), 0.9)
    with pytest.raises(InputError, match="finite keys, got 3 of 15 entries NaN"):
        extend_basis(basis, torch.where(torch.arange(5)[:, None] == 1, torch.nan, keys), 0.9)
    for energy in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match=f"energy above 0 and at most 1, got {energy}; pass 0.95"):
            extend_basis(basis, keys, energy)
    for wrong in (2 * basis, torch.eye(5)[:, [0, 1, 2, 3, 4, 0]], basis * torch.nan):
        text = f"basis with at most d = 5 orthonormal columns, got {wrong.shape[1]} columns that are not; pass what"
        with pytest.raises(InputError, match=text):
            extend_basis(wrong, keys, 0.9)
    with pytest.raises(InputError, match=r"matrix of shape \[any, any\], got \[5\]; pass one row per"):
        project_out(torch.ones(5), basis)
    with pytest.raises(InputError, match=r"basis of shape \[4, any\], got \[5, 2\]; pass orthonormal"):
        project_out(torch.ones(3, 4), basis)
