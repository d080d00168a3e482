"""Knowledge editing for language models, in sequential batches, on PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aeplus.api import EditResult, edit

__all__ = ["EditResult", "edit"]


def __getattr__(name: str) -> Any:
    # Importing torch and Lightning takes seconds, which `aeplus --help` must not wait for.
    if name in __all__:
        from aeplus import api

        return getattr(api, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
