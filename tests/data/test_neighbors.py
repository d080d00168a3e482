"""Neighborhoods drawn from other records."""

import pytest

from aeplus.data.readers import fill_neighborhoods
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

POOL = [EditRequest("The capital of {} is", name, "Rome") for name in "ABCDEFGH"]
OTHER = EditRequest("{} was born in", "Ann", "Rome")


def test_neighbors_have_the_form_and_other_subjects() -> None:
    edits = [POOL[0], EditRequest("The capital of {} is", "b", "Rome"), OTHER]
    filled = fill_neighborhoods(edits, [*POOL, *POOL], 4, seed=0)
    for request in filled[:2]:
        prompts = [probe.prompt for probe in request.neighborhood]
        assert len(set(prompts)) == len(prompts) == 4
        assert set(prompts) <= {f"The capital of {name} is" for name in "CDEFGH"}  # B is b, written otherwise
        assert all(probe.answer is None for probe in request.neighborhood)
    assert filled[2] is not None
    assert filled[2].neighborhood == ()
    assert len(fill_neighborhoods(edits, POOL, 99, seed=0)[0].neighborhood) == 6


def test_a_draw_depends_on_the_seed_and_not_on_the_place() -> None:
    edits = [POOL[0], POOL[1]]
    filled = fill_neighborhoods(edits, POOL, 3, seed=1)
    assert filled == fill_neighborhoods(edits, POOL, 3, seed=1)
    assert filled == fill_neighborhoods(edits[::-1], POOL, 3, seed=1)[::-1]
    assert any(filled != fill_neighborhoods(edits, POOL, 3, seed=seed) for seed in range(2, 6))


def test_a_neighborhood_of_its_own_is_kept() -> None:
    own = EditRequest("The capital of {} is", "A", "Rome", neighborhood=(Probe("Two and two is"),))
    assert fill_neighborhoods([own], POOL, 3, seed=0) == [own]


def test_negative_count() -> None:
    with pytest.raises(InputError, match="expected 0 or more neighbors, got -1"):
        fill_neighborhoods(POOL, POOL, -1, seed=0)
