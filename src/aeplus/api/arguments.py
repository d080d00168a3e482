"""What a call of :func:`aeplus.edit` is given: checked before anything is done, and one call for a model at a time."""

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral
from os import PathLike
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from lightning import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from aeplus.errors import InputError
from aeplus.methods.method import Method

_EDITING: "WeakSet[nn.Module]" = WeakSet()
_TURN = threading.Lock()
_ONE = threading.RLock()  # random generators, filters of warnings and Lightning's settings are the process's


def check_call(
    model: Any,
    tokenizer: Any,
    edits: Any,
    method: Any,
    layers: Any,
    site: Any,
    callbacks: Any,
    journal: Any,
    preserve: Any,
) -> None:
    """Every argument is of its kind, and torch makes tensors where it does by itself.

    Raises:
        InputError: If not; the message names what is not.
    """
    if (default := torch.get_default_device()).type != "cpu":  # where generators of the CPU draw nothing
        _refuse("torch's default device", "the CPU", str(default), "call torch.set_default_device('cpu') before")
    if torch.is_inference_mode_enabled():  # what it makes cannot be written to afterwards
        _refuse("torch.inference_mode", "off", "on", "edit outside of it")
    if not isinstance(model, nn.Module) or not hasattr(model, "get_input_embeddings"):
        _refuse("model", "a causal language model of transformers", model, "load it first")
    if not hasattr(tokenizer, "get_vocab"):
        _refuse("tokenizer", "the model's tokenizer", tokenizer, "load it with AutoTokenizer")
    for name, records in (("edits", edits), ("preserve", preserve)):
        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
            _refuse(name, "a list of records", records, "give [{'prompt': …, 'subject': …, 'target_new': …}]")
    if not isinstance(method, str | PathLike | Method):
        _refuse("method", "a name, a path or a Method", method, "see aeplus.METHODS")
    if layers is not None and not _whole_numbers(layers):
        _refuse("layers", "a list of whole numbers", layers, "write for example [4, 5, 6]")
    if site is not None and not isinstance(site, str):
        _refuse("site", "a module's name with {} for the layer", site, "see docs/models.md")
    if isinstance(callbacks, str | Mapping) or not isinstance(callbacks, Sequence):
        _refuse("callbacks", "a list of callbacks of Lightning", callbacks, "give [callback]")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            _refuse("callbacks", "callbacks of Lightning", callback, "make an instance of one")
        if isinstance(callback, Checkpoint) and journal is None:
            what = "a folder, with a callback that writes checkpoints, which point at the journal"
            _refuse("journal", what, journal, "give one, or leave the callback out")
    if journal is not None and not isinstance(journal, str | PathLike):
        _refuse("journal", "the path of a folder", journal, "give a text or a Path")


def check_names(options: Iterable[str], known: Iterable[str], parameters: Iterable[str]) -> None:
    """Every option is known.

    Args:
        options: Those that are given.
        known: Those that there are.
        parameters: The other arguments, which may be meant.

    Raises:
        InputError: If one is not.
    """
    unknown, names = sorted(set(options).difference(known)), sorted({*known, *parameters} - {"options"})
    if not unknown:
        return
    close = {name: get_close_matches(name, names, n=1) for name in unknown}
    said = ", ".join(f"{name} (did you mean {found[0]}?)" if found else name for name, found in close.items())
    what = "aeplus.edit" if all(close.values()) else f"aeplus.edit out of {', '.join(names)}"
    msg = f"expected arguments of {what}, got {said}; check the names."
    raise InputError(msg)


def called_once(options: dict[str, Any], *, protected: bool) -> dict[str, Any]:
    """Options with one name each: ``validation_facts`` as the data call it, ``preserved``.

    Args:
        options: What a call is given.
        protected: Whether it is given facts that must survive.

    Raises:
        InputError: If both names are given.
    """
    if "validation_facts" in options:
        if "preserved" in options:
            msg = "expected validation_facts or preserved, which are the same, got both; leave preserved out."
            raise InputError(msg)
        return {"preserved" if name == "validation_facts" else name: value for name, value in options.items()}
    if options.get("preserved") is not None and not protected and options.get("facts") is None:
        warnings.warn(
            "the facts of preserved only score Specificity on the validation set, and nothing protects them; to "
            "protect them, give facts (a file) or preserve (records), else call the option validation_facts",
            stacklevel=3,
        )
    return options


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Keeps other threads from editing a model while the block runs; they wait with other models.

    Raises:
        InputError: If another call is editing it.
    """
    with _TURN:
        if model in _EDITING:
            msg = (
                "expected a model that no other call edits, got one that another thread is editing, or the call that "
                "this is a callback of; wait for its end."
            )
            raise InputError(msg)
        _EDITING.add(model)
    try:
        with _ONE:
            yield
    finally:
        with _TURN:
            _EDITING.discard(model)


def _whole_numbers(layers: Any) -> bool:
    if isinstance(layers, str | bytes | Mapping) or not isinstance(layers, Sequence):
        return False
    return all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in layers)


def _refuse(name: str, what: str, value: Any, how: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"a {type(value).__name__}"
    msg = f"expected {name} to be {what}, got {shown}; {how}."
    raise InputError(msg)
