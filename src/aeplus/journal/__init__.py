"""The journal of a model's edits, for those who keep one: what was edited, is it whole, apply it, take edits out."""

from aeplus.journal.journal import Journal, LogLine
from aeplus.journal.undo import Undone

__all__ = ["Journal", "LogLine", "Undone"]
