"""The nearest output of a normalization, against brute force and against the normalizations themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aeplus.functional import nearest_normalized


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
