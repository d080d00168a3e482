"""Statistics as they are collected, without the cache."""

from typing import Any

from aeplus.preserved.collection import collect_moments
from aeplus.preserved.statistics import LayerStatistics


def collect(*given: Any) -> list[LayerStatistics]:
    """What :func:`collect_moments` finds, decomposed."""
    return [moment.statistics() for moment in collect_moments(*given)]
