import importlib

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings

from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, leakage, solve_update, update_energy
from counting import Operations


@settings(deadline=None, max_examples=25)
@given(case=dense.cases())
def test_is_the_dense_ratio(case: dense.Case) -> None:
    update = solve_update(*case.problem, **case.prior)
    expected = dense.leakage(case, update.dense()) / dense.leakage(case, case.weight)
    torch.testing.assert_close(leakage(update, case.spectrum, case.weight), expected, rtol=1e-9, atol=1e-18)


def test_the_weight_itself_leaks_all() -> None:
    case = dense.make_case(0)
    update = LowRankUpdate(case.weight, torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(leakage(update, case.spectrum, case.weight), torch.tensor(1.0).double())


def test_an_update_of_full_rank_is_no_more_than_a_weight() -> None:
    case = dense.make_case(3)
    o, d = case.weight.shape
    update = LowRankUpdate(torch.eye(o, dtype=torch.float64), case.weight)
    with Operations() as operations:
        energy = update_energy(update, case.spectrum)
    assert operations.flops <= 2 * o * d * d + 2 * o * o * d
    torch.testing.assert_close(energy, dense.leakage(case, case.weight))


def test_blocks_join(monkeypatch: pytest.MonkeyPatch) -> None:
    case = dense.make_case(1)
    update = solve_update(*case.problem)
    whole = leakage(update, case.spectrum, case.weight)
    # by name: the package exports a function that hides the module
    monkeypatch.setattr(importlib.import_module("aeplus.functional.leakage"), "_BLOCK", 5)
    torch.testing.assert_close(leakage(update, case.spectrum, case.weight), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    case = dense.make_case(2)
    update = solve_update(*case.problem)
    low = LowRankUpdate(update.left.to(dtype), update.right.to(dtype))
    value = leakage(low, case.spectrum.to(dtype), case.weight.to(dtype))
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), leakage(update, case.spectrum, case.weight), rtol=0.03, atol=0)


def test_error_texts() -> None:
    case = dense.make_case(0)
    update = solve_update(*case.problem)
    with pytest.raises(InputError, match=r"weight of shape \[5, 16\], got \[16, 5\]; pass the edited"):
        leakage(update, case.spectrum, case.weight.T)
    with pytest.raises(InputError, match=r"update.right of shape \[any, 16\], got \[1, 3\]"):
        leakage(LowRankUpdate(torch.ones(5, 1), torch.ones(1, 3)), case.spectrum, case.weight)
