"""Numbers that a callback cannot use are refused where it is made, not within the run."""

from typing import Any

import pytest

from aeplus.callbacks import EditCheckpoint, GenerationWriter, MetricsWriter
from aeplus.errors import InputError


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (EditCheckpoint, {"every_n_batches": 0}, "EditCheckpoint.every_n_batches above 0, got 0; choose a positive"),
        (EditCheckpoint, {"every_n_batches": -2}, "EditCheckpoint.every_n_batches above 0, got -2; choose a positive"),
        (GenerationWriter, {"length": 0}, "GenerationWriter.length above 0, got 0; choose a positive"),
        (GenerationWriter, {"count": -1}, "GenerationWriter.count of 0 or more, got -1; choose another"),
        (GenerationWriter, {"every": -1}, "GenerationWriter.every of 0 or more, got -1; choose another"),
        (MetricsWriter, {"evaluate_every": -1}, "MetricsWriter.evaluate_every of 0 or more, got -1; choose another"),
    ],
)
def test_numbers_out_of_range(kind: type[Any], options: dict[str, int], text: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**options)
    assert str(caught.value) == f"expected {text} number."
