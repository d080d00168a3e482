"""The rules that choose a batch's candidate, on scores given by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.run.selection import SELECTIONS, Best, Converge, Selection


def chosen(rule: Selection, scores: list[float]) -> tuple[int | None, int]:
    """The candidate kept last, and how many scores were taken."""
    kept = None
    for index, score in enumerate(scores):
        decision = rule.observe(score)
        kept = index if decision.keep else kept
        if decision.done:
            return kept, index + 1
    return kept, len(scores)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([80, 90, 95, 96, 97], (4, 5)),  # rises to the end
        ([80, 80, 80, 80, 80], (4, 5)),  # ties go to the least smoothed
        ([80, 90, 70, 60, 99], (1, 4)),  # patience 2 ends the search
        ([80, 79, 78, 77, 76], (1, 4)),  # small losses are ties with the best, but do not add up
        ([80, 70, 80, 70, 80], (4, 5)),  # patience counts candidates in a row
        ([80, math.nan, 90], (0, 2)),
        ([math.nan], (None, 1)),
    ],
)
def test_best(scores: list[float], expected: tuple[int | None, int]) -> None:
    assert chosen(Best(tie=1.0, patience=2), scores) == expected


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 5), st.integers(1, 4))
def test_what_best_keeps_is_within_a_tie_of_the_best_it_has_seen(
    scores: list[float], tie: float, patience: int
) -> None:
    kept, taken = chosen(Best(tie, patience), scores)
    assert kept is not None
    assert scores[kept] >= max(scores[: kept + 1]) - tie - 1e-2
    assert taken == len(scores) or taken - 1 - kept == patience


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([80, 90, 90.2, 99, 99], (2, 3)), ([10, 10, 99], (1, 2)), ([10, 20, 30], (2, 3)), ([10, math.nan, 10], (2, 3))],
)
def test_converge(scores: list[float], expected: tuple[int, int]) -> None:
    assert chosen(Converge(min_delta=0.5), scores) == expected


def test_the_rules_by_name() -> None:
    assert [type(make()) for make in SELECTIONS.values()] == [Best, Converge]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Best(patience=0), "expected patience of at least 1 and a tie of at least 0, got patience=0 and tie=2"),
        (lambda: Best(tie=-1.0), "got patience=2 and tie=-1"),
        (lambda: Converge(-0.1), "expected a min_delta of at least 0, got -0.1"),
    ],
)
def test_bad_settings(make: type, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
