import math

import pytest
import torch

from aeplus.errors import InputError
from aeplus.functional import conflict, prior_weights
from aeplus.functional.conflict import _BLOCK


def randn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def test_against_a_loop() -> None:
    keys, others = randn(7, 4), randn(7, 5, seed=1)
    expected = [max(abs(cosine(k, other)) for other in others.T) for k in keys.T]
    torch.testing.assert_close(conflict(keys, others), torch.tensor(expected).double())


def test_prior_weights_against_a_loop() -> None:
    prior, keys = randn(7, 5), randn(7, 4, seed=1)
    expected = [1 - max(abs(cosine(p, k)) for k in keys.T) for p in prior.T]
    torch.testing.assert_close(prior_weights(prior, keys), torch.tensor(expected).double())


def test_opposite_and_equal_keys_conflict_alike() -> None:
    keys = randn(5, 3)
    torch.testing.assert_close(conflict(keys, -2 * keys), torch.ones(3).double())
    assert (prior_weights(keys, 3 * keys) < 1e-12).all()
    assert (prior_weights(keys, 3 * keys) >= 0).all()


def test_nothing_to_conflict_with() -> None:
    keys, none = randn(5, 3), randn(5, 0)
    assert conflict(keys, none).tolist() == [0, 0, 0]
    assert conflict(none, keys).shape == (0,)
    assert prior_weights(none, keys).shape == (0,)
    assert prior_weights(keys, none).tolist() == [1, 1, 1]


def test_a_zero_key_has_no_conflict() -> None:
    keys = torch.zeros(5, 1)
    assert conflict(keys, randn(5, 3).float()).tolist() == [0]


def test_blocks_join() -> None:
    keys, others = randn(3, 6), randn(3, 2 * _BLOCK + 10, seed=1)
    unit = torch.nn.functional.normalize
    whole = (unit(keys, dim=0).T @ unit(others, dim=0)).abs().amax(1)
    torch.testing.assert_close(conflict(keys, others), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    keys, others = randn(9, 4).to(dtype), randn(9, 5, seed=1).to(dtype)
    exact = conflict(keys.double(), others.double())
    assert conflict(keys, others).dtype == prior_weights(keys, others).dtype == dtype
    torch.testing.assert_close(conflict(keys, others).double(), exact, rtol=0, atol=4e-3)
    torch.testing.assert_close(prior_weights(keys, others).double(), 1 - exact, rtol=0, atol=4e-3)


def test_large_half_precision_keys_do_not_overflow() -> None:
    keys = torch.full((64, 1), 1e4, dtype=torch.float16)
    assert conflict(keys, keys).tolist() == [1]


def test_error_texts() -> None:
    with pytest.raises(InputError, match=r"others of shape \[5, any\], got \[4, 2\]; pass one key"):
        conflict(torch.ones(5, 2), torch.ones(4, 2))
    with pytest.raises(InputError, match=r"keys of shape \[any, any\], got \[5\]"):
        conflict(torch.ones(5), torch.ones(5, 2))
    with pytest.raises(InputError, match=r"keys of shape \[5, any\], got \[4, 2\]; pass one new key"):
        prior_weights(torch.ones(5, 2), torch.ones(4, 2))
