"""aeplus from Python: :func:`edit`, its options and its result."""

from aeplus.api.editing import edit
from aeplus.api.options import EditOptions
from aeplus.api.result import EditResult

__all__ = ["EditOptions", "EditResult", "edit"]
