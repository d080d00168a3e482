"""Numbers that a callback cannot use are refused where it is made, not within the run."""

from typing import Any

import pytest

from aeplus.callbacks import (
    CapabilitiesWriter,
    EditCheckpoint,
    EvaluationWriter,
    FigureWriter,
    GenerationWriter,
    MetricsWriter,
)
from aeplus.errors import InputError


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (EditCheckpoint, {"every_n_batches": 0}, "EditCheckpoint's every_n_batches to be at least 1, got 0"),
        (EditCheckpoint, {"every_n_batches": -2}, "EditCheckpoint's every_n_batches to be at least 1, got -2"),
        (GenerationWriter, {"length": 0}, "GenerationWriter's length to be at least 1, got 0"),
        (GenerationWriter, {"count": -1}, "GenerationWriter's count to be at least 0, got -1"),
        (GenerationWriter, {"every": -1}, "GenerationWriter's every to be at least 0, got -1"),
        (MetricsWriter, {"evaluate_every": -1}, "MetricsWriter's evaluate_every to be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range(kind: type[Any], options: dict[str, int], text: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**options)
    assert str(caught.value) == f"expected {text}; choose a larger number."


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (CapabilitiesWriter, {"data": "here", "every": "x"}, "CapabilitiesWriter's every"),
        (CapabilitiesWriter, {"data": "here", "shots": 1.5}, "capabilities.shots"),
        (EditCheckpoint, {"every_n_batches": "x"}, "EditCheckpoint's every_n_batches"),
        (EvaluationWriter, {"every": 1.5}, "EvaluationWriter's every"),
        (EvaluationWriter, {"retention_sample": None}, "EvaluationWriter's retention_sample"),
        (EvaluationWriter, {"bootstrap_samples": "x"}, "evaluation.bootstrap_samples"),
        (FigureWriter, {"every": "x"}, "FigureWriter's every"),
        (FigureWriter, {"bins": 1.5}, "FigureWriter's bins"),
        (GenerationWriter, {"count": 1.5}, "GenerationWriter's count"),
        (GenerationWriter, {"every": "x"}, "GenerationWriter's every"),
        (MetricsWriter, {"evaluate_every": True}, "MetricsWriter's evaluate_every"),
    ],
)
def test_numbers_that_are_not_whole(kind: type[Any], options: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**options)
    (got,) = [value for option, value in options.items() if option != "data"]
    assert str(caught.value) == f"expected {name} to be a whole number, got {got!r}; correct it."
