"""The nearest output of a normalization, against brute force and against the normalizations themselves."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aeplus.functional import lowest_multiplier, nearest_normalized
from counting import Operations


def normalized(x: Tensor, centered: bool) -> Tensor:
    x = x - x.mean(-1, keepdim=True) if centered else x
    return x / x.pow(2).mean(-1, keepdim=True).sqrt()


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_other_output_is_nearer(seed: int, o: int, n: int, centered: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = 3 * torch.randn(n, o, generator=generator, dtype=torch.float64)
    gain = torch.rand(o, generator=generator, dtype=torch.float64) + 0.2
    state = nearest_normalized(wanted, gain, centered=centered)
    torch.testing.assert_close(state.pow(2).mean(1), torch.ones(n, dtype=torch.float64))
    if centered:
        assert state.mean(1).abs().max() < 1e-8
    distance = (gain * state - wanted).norm(dim=1)
    # Other states: random ones, and random turns of the found one.
    noise = torch.randn(2000, n, o, generator=generator, dtype=torch.float64)
    others = torch.cat([noise, state + 0.05 * noise, state + 0.002 * noise])
    others = normalized(others, centered)
    assert ((gain * others - wanted).norm(dim=-1) >= distance - 1e-9).all()


@pytest.mark.parametrize("centered", [False, True])
def test_an_output_is_its_own_nearest(centered: bool) -> None:
    torch.manual_seed(0)
    gain = torch.randn(16, dtype=torch.float64)  # of both signs
    state = normalized(torch.randn(5, 16, dtype=torch.float64), centered)
    torch.testing.assert_close(nearest_normalized(gain * state, gain, centered=centered), state)


def nearest_by_bisection(wanted: Tensor, gain: Tensor) -> Tensor:
    """The state of one row, by the logarithm of the multiplier."""
    above, pulled = gain.square() - gain.square().min(), gain * wanted
    low, high = -200.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        long = (pulled / (above + torch.tensor(middle, dtype=torch.float64).exp())).norm() > gain.numel() ** 0.5
        low, high = (middle, high) if long else (low, middle)
    return pulled / (above + torch.tensor(high, dtype=torch.float64).exp())


@pytest.mark.parametrize("small", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_gains_near_0(small: float, share: float) -> None:
    """What is wanted lies inside the ellipsoid: the coordinates that cost nothing have the rest of the length."""
    torch.manual_seed(0)
    gain = (0.3 * torch.randn(300, dtype=torch.float64)).exp()
    gain[:3] = small
    wanted = share * gain * normalized(torch.randn(1, 300, dtype=torch.float64), centered=False)
    state, best = nearest_normalized(wanted, gain)[0], nearest_by_bisection(wanted[0], gain)
    torch.testing.assert_close(state.square().mean(), torch.ones((), dtype=torch.float64))
    assert (gain * state - wanted).norm() <= (gain * best - wanted).norm() * (1 + 1e-4)


def test_a_gain_of_0_has_the_rest_of_the_length() -> None:
    state = nearest_normalized(torch.tensor([[0.3, 0.2, 0.4]]).double(), torch.tensor([0.0, 2.0, 1.0]).double())
    torch.testing.assert_close(state, torch.tensor([[2.83**0.5, 0.1, 0.4]]).double())


@pytest.mark.parametrize("centered", [False, True])
def test_with_the_lower_end_known_nothing_is_read_from_the_device(centered: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    gain = torch.rand(30, generator=generator) + 0.2
    wanted, lowest = torch.randn(4, 30, generator=generator), lowest_multiplier(gain)
    with Operations() as operations:
        found = nearest_normalized(wanted, gain, centered=centered, lowest=lowest)
    assert not operations.waits
    assert torch.equal(found, nearest_normalized(wanted, gain, centered=centered))


def test_the_steps_of_rms_norm_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dozen of Newton's lead to where two hundred do."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    found = []
    for small in (1.0, 0.1, 1e-3, 1e-5):
        gain = (0.3 * randn(300)).exp()
        gain[:3] *= small
        for share in (0.1, 0.5, 0.9, 0.99, 1.0, 3.0):
            wanted = share * gain * normalized(randn(8, 300), centered=False)
            found.append((wanted, gain, nearest_normalized(wanted, gain)))
    monkeypatch.setitem(sys.modules["aeplus.functional.normalized"]._STEPS, False, 200)
    for wanted, gain, state in found:
        torch.testing.assert_close(state, nearest_normalized(wanted, gain), rtol=1e-9, atol=1e-9)
