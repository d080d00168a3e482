import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aeplus.errors import InputError
from aeplus.functional import Spectrum


def covariance(d: int = 6, keys: int = 40, seed: int = 0) -> torch.Tensor:
    k = torch.randn(d, keys, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return k @ k.T / keys


def test_rebuilds_the_covariance() -> None:
    C = covariance()
    spectrum = Spectrum.from_covariance(C)
    assert spectrum.dimension == 6
    assert (spectrum.values.diff() >= 0).all()
    torch.testing.assert_close(spectrum.vectors @ spectrum.values.diag() @ spectrum.vectors.T, C)


def test_no_negative_eigenvalue_is_left_of_a_singular_covariance() -> None:
    spectrum = Spectrum.from_covariance(covariance(keys=2))
    assert (spectrum.values >= 0).all()
    assert (spectrum.values[:4] < 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    C = covariance()
    spectrum = Spectrum.from_covariance(C.to(dtype))
    assert spectrum.values.dtype == spectrum.vectors.dtype == dtype
    exact = torch.linalg.eigvalsh(C)
    torch.testing.assert_close(spectrum.values.double(), exact, rtol=0.05, atol=0.02)


def test_to_casts_both() -> None:
    spectrum = Spectrum.from_covariance(covariance()).to(torch.float32)
    assert spectrum.values.dtype == spectrum.vectors.dtype == torch.float32


def test_slight_asymmetry_is_averaged_away() -> None:
    C = covariance()
    skew = torch.zeros_like(C)
    skew[0, 1] = 1e-6
    spectrum = Spectrum.from_covariance(C + skew)
    expected = torch.linalg.eigvalsh(C + (skew + skew.T) / 2)
    torch.testing.assert_close(spectrum.values, expected, rtol=1e-12, atol=0)


def test_error_texts() -> None:
    C = covariance()
    with pytest.raises(InputError, match=r"square matrix \[d, d\], got \[6, 5\]; pass the mean of k kᵀ"):
        Spectrum.from_covariance(C[:, :5])
    with pytest.raises(InputError, match=r"covariance in floating point, got torch\.int64; convert it first"):
        Spectrum.from_covariance(C.long())
    broken = C.clone()
    broken[2, 3] = float("nan")
    with pytest.raises(InputError, match=r"finite covariance, got 1 of 36 entries NaN or infinite"):
        Spectrum.from_covariance(broken)
    with pytest.raises(InputError, match=r"symmetric covariance, got entries that differ .* pass the mean of k kᵀ, or"):
        Spectrum.from_covariance(C.triu())
    with pytest.raises(InputError, match="covariance without negative eigenvalues, got a smallest one of"):
        Spectrum.from_covariance(-C)
    with pytest.raises(InputError, match=r"got values \[6\] and vectors \[6, 7\]; pass eigenvectors"):
        Spectrum(torch.ones(6), torch.ones(6, 7))


@pytest.mark.parametrize("mask", ["head", "scattered", "none", "all"])
def test_coordinates_and_combinations_by_blocks(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["aeplus.functional.spectrum"], "_BLOCK", 3)
    vectors = torch.linalg.qr(torch.randn(11, 11)).Q
    chosen = {"head": torch.arange(11) < 7, "scattered": torch.arange(11) % 2 == 0}.get(
        mask, torch.full((11,), mask == "all")
    )
    spectrum, columns = Spectrum(torch.rand(11).sort().values, vectors), torch.randn(11, 4, dtype=torch.float64)
    inside = vectors[:, chosen].double()
    found = spectrum.coordinates(chosen, columns)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, inside.T @ columns)
    torch.testing.assert_close(spectrum.combine(chosen, found), inside @ found)


class Made(TorchDispatchMode):
    """The operators that make so many bytes or more, none of them an argument's."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.operators = least, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            {t.untyped_storage().data_ptr(): t.nbytes for t in tree_leaves(of) if isinstance(t, torch.Tensor)}
            for of in ((args, kwargs), result)
        )
        if any(place not in given and size >= self.least for place, size in made.items()):
            self.operators.append(func.overloadpacket.__name__)
        return result


def test_a_symmetric_matrix_is_decomposed_as_it_is() -> None:
    d = 1500
    keys = torch.randn(d, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lower = (keys @ keys.T).tril()
    covariance = lower + lower.tril(-1).T
    with Made(8 * d * d) as made:
        found = Spectrum.from_covariance(covariance)
    assert made.operators == ["_linalg_eigh"]  # the eigenvectors
    torch.testing.assert_close(found.vectors * found.values @ found.vectors.T, covariance)
