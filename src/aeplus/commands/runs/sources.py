"""The source files of the user's own that a run's result depends on: those of callbacks, and of parts from outside."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from aeplus.methods.method import TABLES
from aeplus.utils.fingerprint import path_stamp

_VERSIONED = ("aeplus", "lightning", "torch")  # whose versions count already


def own_sources(settings: Mapping[str, Any]) -> list[list[Any]]:
    """The files, by name and content, that define the callbacks and the chosen parts, but for those of packages.

    What these files import in turn is not among them.

    Args:
        settings: A run's configuration.
    """
    callbacks = list(_callbacks(settings["trainer"].get("callbacks")))  # first, as their modules register parts
    files = {_source(own) for own in (*callbacks, *_parts(settings["model"]["method"]))}
    return sorted(stamp for file in files if file is not None and (stamp := path_stamp(file)) is not None)


def _callbacks(given: Any) -> Iterator[Any]:
    """The classes of callbacks; a process of several may not have imported them yet."""
    for callback in given if isinstance(given, list | tuple) else [given]:
        name = callback.get("class_path") if isinstance(callback, Mapping) else None
        module, _, own = (name or "").rpartition(".")
        try:
            yield getattr(import_module(module), own)
        except (ImportError, AttributeError, ValueError):  # what is none is refused where it is used
            continue


def _parts(method: Mapping[str, Any]) -> Iterator[Any]:
    """What the method's parts run: a function, or what has some for its fields, as priors and treatments."""
    for switch, table in TABLES.items():
        if (part := table.get(method.get(switch, ""))) is not None:
            groups = is_dataclass(part.run) and not isinstance(part.run, type)
            yield from [part.run, *([getattr(part.run, field.name) for field in fields(part.run)] if groups else ())]


def _source(own: Any) -> Path | None:
    """The file that defines a class or a function; ``None`` for those of packages whose versions count."""
    while isinstance(own, partial):
        own = own.func
    own = own if inspect.isclass(own) or inspect.isfunction(own) else type(own)
    if own.__module__.partition(".")[0] in _VERSIONED:
        return None
    try:
        file = inspect.getsourcefile(own)
    except (TypeError, OSError):  # built in, or typed into a prompt
        return None
    return None if file is None else Path(file)
