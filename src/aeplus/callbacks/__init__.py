"""Callbacks: when smoothing stops, and everything that watches, writes and shows."""

from aeplus.callbacks.capabilities import CapabilitiesWriter
from aeplus.callbacks.checkpoint import EditCheckpoint
from aeplus.callbacks.evaluation import EvaluationWriter
from aeplus.callbacks.figures import FigureWriter
from aeplus.callbacks.generations import GenerationWriter
from aeplus.callbacks.logging import MetricsWriter
from aeplus.callbacks.progress import EditProgressBar
from aeplus.callbacks.report import JournalWriter
from aeplus.callbacks.smoothing import SmoothingStop
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback

__all__ = [
    "BatchCommit",
    "CapabilitiesWriter",
    "EditCallback",
    "EditCheckpoint",
    "EditProgressBar",
    "EvaluationWriter",
    "FigureWriter",
    "GenerationWriter",
    "JournalWriter",
    "MetricsWriter",
    "SmoothingStop",
]
