"""The rules that choose a batch's candidate, on scores given by hand."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aeplus.callbacks import SmoothingStop
from aeplus.errors import InputError
from aeplus.methods.method import switch_choices
from aeplus.methods.registry import Selections
from aeplus.run.selection import (
    EDITED,
    MEASURED,
    SELECTIONS,
    Best,
    Converge,
    Highest,
    Rule,
    Selection,
    SelectionOptions,
    seen,
)


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
        ([80, 79, 78, 77, 76], (0, 4)),  # small losses do not add up, and the worst so far is no tie
        ([78, 80, 79, 77, 76], (2, 5)),  # a tie that is not the worst wins over the best
        ([73.9, 73.9, 72.2, 72.2, 72.2], (1, 4)),  # of two equal ones the less smoothed; never a joint worst
        ([80.0, 79.5, 79.5, 79.5], (0, 4)),
        ([80, 70, 80, 70, 80], (4, 5)),  # patience counts candidates in a row
        ([80, math.nan, 90], (0, 2)),
        ([math.nan], (None, 1)),
        ([math.nan, 80, 70], (1, 3)),  # nothing was kept yet: the less smoothed ones are tried
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
    seen = scores[:taken]
    assert taken == len(scores) or all(score < max(seen) - tie for score in seen[-patience:])
    assert max(seen) - min(seen) < 1e-2 or scores[kept] > min(seen)  # a joint worst never wins


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([80, 90, 90.2, 99, 99], (2, 3)), ([10, 10, 99], (1, 2)), ([10, 20, 30], (2, 3)), ([10, math.nan, 10], (2, 3))],
)
def test_converge(scores: list[float], expected: tuple[int, int]) -> None:
    assert chosen(Converge(min_delta=0.5), scores) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([80, 90, 90, 70], (1, 4)),  # a tie goes to the most smoothed
        ([50, 50, 50], (0, 3)),
        ([90, 70, 60, 50, 40, 91], (5, 6)),  # however many lower ones come between
        ([math.nan, 10, math.nan], (1, 3)),
        ([math.nan], (None, 1)),
    ],
)
def test_highest(scores: list[float], expected: tuple[int | None, int]) -> None:
    assert chosen(Highest(), scores) == expected


def test_what_a_rule_sees() -> None:
    summary = {"efficacy": 100.0, "generalization": 50.0, "specificity": 10.0, "score": 53.3, "probability": None}
    assert seen(summary, "score") == 53.3
    assert seen(summary, "probability") is None
    assert seen(summary, EDITED) == 75.0
    assert seen({**summary, "generalization": None}, EDITED) == 100.0
    assert seen({**summary, "efficacy": None, "generalization": None}, EDITED) is None


def test_the_rules_by_name() -> None:
    assert [type(rule.make()) for rule in SELECTIONS.values()] == [Best, Converge, Highest]
    assert [type(SelectionOptions(name)()) for name in SELECTIONS] == [Best, Converge, Highest]
    watched = {name: rule.watched for name, rule in SELECTIONS.items()}
    assert watched == {"best": "probability", "converge": "score", "highest": "efficacy+generalization"}
    assert set(watched.values()) <= set(MEASURED)
    assert list(get_args(Selections)) == switch_choices()["selection"] == list(SELECTIONS)


def test_a_further_rule_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTIONS, "mine", Rule(Converge, "specificity", ("min_delta",)))
    options = SelectionOptions("mine", min_delta=5.0)
    assert options.watched == "specificity"
    assert chosen(options(), [80, 84, 99]) == (1, 2)
    assert SmoothingStop("mine").selection == "mine"  # type: ignore[arg-type]


def test_the_default_takes_the_best_of_scores_that_differ_at_all() -> None:
    assert chosen(SELECTIONS["best"].make(), [60.0, 61.0, 61.2, 61.1, 60.9]) == (2, 5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Best(patience=0), "expected patience of at least 1 and a tie of at least 0, got patience=0 and tie=0"),
        (lambda: Best(tie=-1.0), "got patience=2 and tie=-1"),
        (lambda: SelectionOptions("last"), "a selection out of best, converge, highest, got 'last'; choose one of"),
        (lambda: Converge(-0.1), "expected a min_delta of at least 0, got -0.1"),
    ],
)
def test_bad_settings(make: type, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
