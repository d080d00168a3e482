"""Knowledge editing for language models, in sequential batches, on PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aeplus import functional
    from aeplus.api import EditResult, edit
    from aeplus.journal import Journal
    from aeplus.methods.compositions import register_method
    from aeplus.methods.method import Method
    from aeplus.methods.registry import METHODS

    __version__: str

__all__ = ["METHODS", "EditResult", "Journal", "Method", "__version__", "edit", "functional", "register_method"]

# Importing torch and Lightning takes seconds, which `aeplus --help` must not wait for.
_HOMES = {
    "edit": "aeplus.api",
    "EditResult": "aeplus.api",
    "Journal": "aeplus.journal",
    "Method": "aeplus.methods.method",
    "register_method": "aeplus.methods.compositions",
    "METHODS": "aeplus.methods.registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "functional":
        return import_module("aeplus.functional")
    if name == "__version__":
        from importlib.metadata import version

        return version("aeplus")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
