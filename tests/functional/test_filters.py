import pytest
import torch

from aeplus.errors import InputError
from aeplus.functional import Spectrum, null_space_filter, ridge_filter, soft_filter, solve_update


def spectrum(*values: float, dtype: torch.dtype = torch.float64) -> Spectrum:
    return Spectrum(torch.tensor(values, dtype=dtype), torch.eye(len(values), dtype=dtype))


def test_absolute_threshold_is_strict() -> None:
    result = null_space_filter(spectrum(0.1, 0.2, 0.3, 0.4), 0.3)
    assert result.tolist() == [1, 1, 0, 0]


def test_energy_is_the_largest_set_strictly_below_the_share() -> None:
    S = spectrum(1, 1, 2, 4)  # cumulative shares 1/8, 1/4, 1/2, 1
    assert null_space_filter(S, 0.5, kind="energy").tolist() == [1, 1, 0, 0]
    assert null_space_filter(S, 0.51, kind="energy").tolist() == [1, 1, 1, 0]
    with pytest.raises(InputError, match="leaves no null space"):
        null_space_filter(S, 0.1, kind="energy")


@pytest.mark.parametrize(("share", "count"), [(0.1, 10), (0.29, 29), (0.57, 57), (0.9, 90)])
def test_dimensions_is_a_share_of_the_eigenvectors(share: float, count: int) -> None:
    S = spectrum(*[float(i) for i in range(100)])
    result = null_space_filter(S, share, kind="dimensions")
    assert result.sum() == count
    assert result[:count].all()


def test_ridge_is_the_inverse_and_finite_on_a_singular_spectrum() -> None:
    torch.testing.assert_close(ridge_filter(spectrum(0.5, 2.0), 4.0), torch.tensor([0.5, 0.125]).double())
    singular = ridge_filter(spectrum(0.0, 1e-30, 2.0), 1.0)
    assert torch.isfinite(singular).all()
    assert singular[0] == singular[1] > 1e14
    computed = Spectrum(singular.new_tensor([0.0, 1e-30, 2.0]), torch.eye(3))  # in float32: the vectors are still
    assert 1e6 < float(ridge_filter(computed, 1.0)[0]) < 1e7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    S = spectrum(0.25, 0.5, 1.0, dtype=dtype)
    for kind in ("absolute", "energy", "dimensions"):
        assert null_space_filter(S, 0.5, kind=kind).dtype == dtype
    assert ridge_filter(S, 2.0).dtype == dtype
    assert ridge_filter(S, 2.0).tolist() == [2.0, 1.0, 0.5]


def test_error_texts() -> None:
    S = spectrum(0.25, 0.5, 1.0)
    with pytest.raises(
        InputError,
        match=r"threshold of 0\.1 \(absolute\) that leaves no null space .*smallest of the 3 .*: 0\.25\); raise",
    ):
        null_space_filter(S, 0.1)
    with pytest.raises(InputError, match="leaves no null space"):
        null_space_filter(S, float("nan"))
    with pytest.raises(InputError, match=r"leaves no constraint .*largest of the 3 eigenvalues: 1\); lower"):
        null_space_filter(S, 2.0)
    with pytest.raises(InputError, match=r"\(dimensions\) that leaves no null"):
        null_space_filter(S, 0.1, kind="dimensions")
    with pytest.raises(InputError, match="leaves no constraint"):
        null_space_filter(S, 0.9, kind="dimensions")
    with pytest.raises(InputError, match=r"a share between 0 and 1 .* of kind 'energy', got 1\.5"):
        null_space_filter(S, 1.5, kind="energy")
    with pytest.raises(InputError, match="kind 'absolute', 'energy' or 'dimensions', got 'rank'"):
        null_space_filter(S, 0.3, kind="rank")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alpha above 0 and finite, got 0"):
        ridge_filter(S, 0)
    with pytest.raises(InputError, match="a positive eigenvalue for ridge_filter, got only 0"):
        ridge_filter(spectrum(0.0, 0.0), 1.0)


def test_soft_filter_is_memit_with_a_ridge() -> None:
    """``Δ = R K1ᵀ (K1 K1ᵀ + λ I + α C)⁻¹``."""
    generator = torch.Generator().manual_seed(0)
    text, keys, residual = (
        torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((6, 40), (6, 3), (4, 3))
    )
    covariance = text @ text.T / 40
    spectrum = Spectrum.from_covariance(covariance)
    update = solve_update(residual, keys, spectrum, soft_filter(spectrum, 7.0, 0.3), 0.3).dense()
    dense = residual @ keys.T @ torch.linalg.inv(keys @ keys.T + 0.3 * torch.eye(6) + 7.0 * covariance)
    torch.testing.assert_close(update, dense)
