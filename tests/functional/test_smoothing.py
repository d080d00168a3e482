import pytest
import torch

from aeplus.errors import InputError
from aeplus.functional import smoothing_coefficients, smoothing_threshold

NORMS = torch.tensor([1.0, 5.0, 3.0, 9.0], dtype=torch.float64)


def test_half_at_first_and_nothing_at_last() -> None:
    assert smoothing_coefficients(NORMS, 0, 4, 3.0).tolist() == [0, 0.5, 0, 0.5]
    assert smoothing_coefficients(NORMS, 4, 4, 3.0).tolist() == [0, 0, 0, 0]


def test_against_a_loop() -> None:
    for T in (1, 2, 5):
        for t in range(T + 1):
            expected = [(T - t) / (2 * T) if norm > 2.5 else 0.0 for norm in NORMS.tolist()]
            torch.testing.assert_close(smoothing_coefficients(NORMS, t, T, 2.5), torch.tensor(expected).double())


def test_threshold_is_the_eightieth_percentile() -> None:
    norms = torch.arange(11, dtype=torch.float64)
    threshold = smoothing_threshold(norms)
    assert threshold.shape == ()
    assert threshold == 8
    assert smoothing_coefficients(norms, 0, 3, threshold).tolist() == [0] * 9 + [0.5] * 2
    assert smoothing_threshold(norms, share=0.0) == 10
    assert smoothing_threshold(norms, share=0.5) == 5


def test_equal_norms_are_not_smoothed() -> None:
    norms = torch.full((10,), 3.0)
    assert not smoothing_coefficients(norms, 0, 5, smoothing_threshold(norms)).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    norms = NORMS.to(dtype)
    threshold = smoothing_threshold(norms)
    assert threshold.dtype == smoothing_coefficients(norms, 1, 4, threshold).dtype == dtype
    assert smoothing_coefficients(norms, 1, 4, 4.0).tolist() == [0, 0.375, 0, 0.375]


def test_error_texts() -> None:
    with pytest.raises(InputError, match="T of at least 1 smoothing iteration, got 0; raise T, or turn"):
        smoothing_coefficients(NORMS, 0, 0, 1.0)
    for t in (-1, 4):
        with pytest.raises(InputError, match=f"t between 0 and T = 3, got {t};"):
            smoothing_coefficients(NORMS, t, 3, 1.0)
    with pytest.raises(InputError, match=r"residual_norms of shape \[any\], got \[2, 2\]"):
        smoothing_coefficients(torch.ones(2, 2), 0, 3, 1.0)
    with pytest.raises(InputError, match="at least one edit in residual_norms, got none"):
        smoothing_threshold(torch.ones(0))
    with pytest.raises(InputError, match=r"share between 0 and 1, got 80; pass 0\.2"):
        smoothing_threshold(NORMS, share=80)
