"""How large the sets are, and what is said where there is too little."""

import re

import pytest

from aeplus.commands.alphaset.answers import Sizes, Supply
from aeplus.errors import InputError


def test_sizes_of_table_5() -> None:
    assert str(Sizes()) == "200 + 800, 200 + 800, 300 + 1200"
    assert Sizes().edits == 3100
    assert Sizes.scaled(1.0) == Sizes()
    assert str(Sizes.scaled(0.05)) == "10 + 40, 10 + 40, 15 + 60"
    assert str(Sizes.scaled(0.0001)) == "1 + 1, 1 + 1, 1 + 1"
    assert Sizes.parse(" 2+8,3 + 9, 4+10") == Sizes((2, 3, 4), (8, 9, 10))


@pytest.mark.parametrize("text", ["", "20+80", "2+8,2+8", "2+8,2+8,3+x", "2+8,2+8,3+9,4+9", "2-8,2+8,3+9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match=r"expected three sizes \(conflict \+ fill\), got .*; write"):
        Sizes.parse(text)


@pytest.mark.parametrize("text", ["0+8,2+8,3+9", "2+0,2+8,3+9", "2+8,9+8,3+9"])
def test_sizes_that_make_no_sets(text: str) -> None:
    with pytest.raises(InputError, match="in the second set no more with conflict than without"):
        Sizes.parse(text)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1000.0, float("nan")])
def test_what_is_no_scale(scale: float) -> None:
    with pytest.raises(InputError, match="expected a scale above 0 and up to 100"):
        Sizes.scaled(scale)


@pytest.mark.parametrize(
    "supply", [Supply(499, 450, 200), Supply(4000, 450, 17), Supply(4000, 31, 300), Supply(3099, 999, 999)]
)
def test_the_reported_scale_works_and_the_next_does_not(supply: Supply) -> None:
    with pytest.raises(InputError) as error:
        supply.check(Sizes())
    assert f"got {supply.edits}, {supply.priors} and {supply.facts}; provide more" in str(error.value)
    told = re.search(r"--scale ([\d.]+), the largest", str(error.value))
    assert told is not None
    supply.check(Sizes.scaled(float(told[1])))
    with pytest.raises(InputError):
        supply.check(Sizes.scaled(float(told[1]) + 0.001))


def test_too_little_for_any_scale() -> None:
    with pytest.raises(InputError, match=r"got 3, 1 and 1; provide more\.$"):
        Supply(3, 1, 1).check(Sizes())
