"""What holds for every metric class: its examples run, and it can be drawn."""

import doctest
import importlib
import pkgutil
from typing import Any

import matplotlib
import pytest
import torch

from aeplus import metrics
from aeplus.metrics.drift import NextTokenDivergence, TextPerplexity
from aeplus.metrics.magnitude import MagnitudeScore, Preference, ProbabilityGap
from aeplus.metrics.success import AxisSuccess, Efficacy, Generalization, Score, Specificity, TokenAccuracy
from aeplus.metrics.text import Consistency, Fluency, GenerationSuccess

NAMES = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))
MATCH = ([[1], [2]], [[1], [1]])
LOGS = (torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0]))
DISTRIBUTIONS = (torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
FED: list[tuple[Any, tuple[Any, ...], float | None]] = [
    (Efficacy(), MATCH, 50.0),
    (Generalization(), MATCH, 50.0),
    (Specificity(), MATCH, 50.0),
    (TokenAccuracy(), MATCH, 50.0),
    (Score(), ("efficacy", *MATCH), 50.0),
    (AxisSuccess(["locality"]), ("locality", *MATCH), 50.0),
    (Preference(), LOGS, 50.0),
    (ProbabilityGap(), LOGS, 0.0),
    (MagnitudeScore(), ("efficacy", *LOGS), None),
    (GenerationSuccess(), (["Rome."], [["rome"]]), 100.0),
    (Fluency(), (["a b a b c"],), (1.5 * 2 / 3 + 1.584962500721156 * 4 / 3) / 2),
    (Consistency(["Rome is old", "Oslo"]), (["Rome is old"], ["Rome is old"]), 100.0),
    (NextTokenDivergence(), DISTRIBUTIONS, 0.14384),
    (TextPerplexity(), ([-1.0], [3]), 2.71828),
]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"aeplus.metrics.{name}")).failed == 0


@pytest.mark.parametrize(("metric", "data", "value"), FED, ids=lambda item: type(item).__name__)
def test_update_compute_plot_reset(metric: Any, data: tuple[Any, ...], value: float | None) -> None:
    matplotlib.use("Agg")
    metric.update(*data)
    found = metric.compute()
    found = found["locality"] if isinstance(found, dict) else found
    if value is not None:
        assert float(found) == pytest.approx(value, abs=1e-4)
    figure, ax = metric.plot()
    assert ax.get_ylabel() == type(metric).__name__
    drawn = [line.get_ydata()[0] for line in ax.lines]
    if value is not None:
        assert float(drawn[0]) == pytest.approx(value, abs=1e-4)
    matplotlib.pyplot.close(figure)
    metric.reset()
    metric.update(*data)
    again = metric.compute()
    again = again["locality"] if isinstance(again, dict) else again
    assert torch.equal(found.nan_to_num(-1), again.nan_to_num(-1))  # nothing is counted twice
    matplotlib.pyplot.close("all")
