"""The smoothing stop sets the rule that a run chooses its candidates by."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from aeplus.callbacks import SmoothingStop
from aeplus.errors import InputError
from aeplus.run.selection import Best, Converge


def module(selection: str = "best") -> Any:
    """What the callback sees of the module."""
    session = SimpleNamespace(method=SimpleNamespace(selection=selection), select=None, monitor=None)
    return SimpleNamespace(session=session, monitor="validation/score")


def rule(stop: SmoothingStop, selection: str = "best") -> Any:
    run = module(selection)
    stop.on_fit_start(SimpleNamespace(), run)  # type: ignore[arg-type]
    return run.session.select()


def test_the_method_says_which_unless_the_callback_does() -> None:
    assert isinstance(SmoothingStop(), EarlyStopping)
    assert isinstance(rule(SmoothingStop()), Best)
    assert isinstance(rule(SmoothingStop(), "converge"), Converge)
    assert isinstance(rule(SmoothingStop("best"), "converge"), Best)


@pytest.mark.parametrize(
    ("selection", "watched"),
    [("best", "probability"), ("converge", "score"), ("highest", "efficacy+generalization")],
)
def test_the_best_is_found_by_probabilities_and_algorithm_1_compares_hits(selection: str, watched: str) -> None:
    run = module("converge" if selection == "best" else "best")
    SmoothingStop(selection).on_fit_start(SimpleNamespace(), run)  # type: ignore[arg-type]
    assert run.monitor == f"validation/{watched}"
    assert run.session.monitor == watched


def test_its_numbers_reach_the_rule_and_each_batch_starts_anew() -> None:
    run = module()
    stop = SmoothingStop(tie=0.0, patience=1, monitor="validation/efficacy")
    stop.on_fit_start(SimpleNamespace(), run)  # type: ignore[arg-type]
    assert run.monitor == "validation/efficacy"
    for _ in range(2):
        best = run.session.select()
        assert [best.observe(score).done for score in (90.0, 89.0)] == [False, True]
    converge = rule(SmoothingStop("converge", min_delta=5.0))
    assert [converge.observe(score).done for score in (80.0, 84.0)] == [False, True]


def test_verbose_logs_each_decision(caplog: pytest.LogCaptureFixture) -> None:
    best = rule(SmoothingStop(verbose=True))
    with caplog.at_level(logging.INFO):
        best.observe(80.0)
        best.observe(70.0)
    assert [record.getMessage() for record in caplog.records] == [
        "smoothing 0: score 80.00, keep True, done False",
        "smoothing 1: score 70.00, keep False, done False",
    ]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"patience": 0}, r"expected patience of at least 1 and a tie of at least 0, got patience=0 and tie=0.0"),
        ({"min_delta": -1.0}, "expected a min_delta of at least 0, got -1.0"),
        (
            {"selection": "last"},
            "expected SmoothingStop's selection out of best, converge, highest, got 'last'; choose one of these",
        ),
    ],
)
def test_bad_settings(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        SmoothingStop(**settings)
