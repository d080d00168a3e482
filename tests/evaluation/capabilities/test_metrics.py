"""F1, accuracy and Matthews' correlation, by hand and against scikit-learn."""

import random
import warnings

import pytest

from aeplus.evaluation.capabilities.measure import task_metrics
from aeplus.evaluation.capabilities.tasks import METRICS, NO_OPTION


def metrics(predicted: list[int], classes: list[int], options: int = 2) -> dict[str, float]:
    return task_metrics(predicted, classes, options, METRICS)


def test_a_case_by_hand() -> None:
    # Class 1: tp 2, fp 1, fn 1, F1 2/3, weight 3/4. Class 0: tp 0, fp 1, fn 1, F1 0.
    found = metrics([1, 1, 0, 1], [1, 1, 1, 0])
    assert found["accuracy"] == pytest.approx(50.0)
    assert found["f1"] == pytest.approx(100 * 3 / 4 * 2 / 3)
    assert found["mcc"] == pytest.approx(100 * (2 * 0 - 1 * 1) / (3 * 3 * 1 * 1) ** 0.5)


def test_answers_without_an_option_are_wrong() -> None:
    # Class 1: tp 1, fn 1, F1 2/3; class 0: tp 1, fn 1, F1 2/3.
    found = metrics([1, NO_OPTION, 0, NO_OPTION], [1, 1, 0, 0])
    assert found["accuracy"] == pytest.approx(50.0)
    assert found["f1"] == pytest.approx(100 * 2 / 3)
    assert metrics([NO_OPTION] * 3, [0, 1, 1]) == {"f1": 0.0, "accuracy": 0.0, "mcc": 0.0}


@pytest.mark.parametrize("answer", [0, 1])
def test_one_answer_for_all_has_no_correlation(answer: int) -> None:
    assert metrics([answer] * 4, [0, 1, 1, 0])["mcc"] == 0.0
    assert metrics([answer] * 4, [answer] * 4) == {"f1": 100.0, "accuracy": 100.0, "mcc": 0.0}


def test_right_and_wrong_throughout() -> None:
    assert metrics([0, 1, 1], [0, 1, 1]) == pytest.approx({"f1": 100.0, "accuracy": 100.0, "mcc": 100.0})
    assert metrics([1, 0, 0], [0, 1, 1]) == pytest.approx({"f1": 0.0, "accuracy": 0.0, "mcc": -100.0})


@pytest.mark.parametrize("options", [2, 3, 4])
@pytest.mark.parametrize("unanswered", [False, True])
def test_agrees_with_scikit_learn(options: int, unanswered: bool) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = random.Random(options)
    for size in (1, 2, 7, 100):
        for _ in range(20):
            classes = [draw.randrange(options) for _ in range(size)]
            answers = [draw.randrange(-1 if unanswered else 0, options) for _ in range(size)]
            found = metrics(answers, classes, options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # classes that nobody answered
                f1 = sklearn.f1_score(classes, answers, average="weighted", zero_division=0)
                mcc = sklearn.matthews_corrcoef(classes, answers)
                accuracy = sklearn.accuracy_score(classes, answers)
            assert found["f1"] == pytest.approx(100 * f1, abs=1e-3)
            assert found["mcc"] == pytest.approx(100 * mcc, abs=1e-3)
            assert found["accuracy"] == pytest.approx(100 * accuracy, abs=1e-3)


def test_only_what_is_asked_for_is_reported() -> None:
    assert list(task_metrics([0, 1], [0, 1], 2, ("f1", "accuracy"))) == ["f1", "accuracy"]
