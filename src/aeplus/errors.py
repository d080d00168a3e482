"""Exceptions, and checks that groups of options share."""

from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_type_hints

_WORDS: dict[type, tuple[str, type]] = {
    float: ("a number", Real),
    int: ("a whole number", Integral),
    bool: ("true or false", bool),
    str: ("a text", str),
}


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence that says what was expected, what it got and what to do about it. The command
    line prints it without a traceback and ends with status 2.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, as clusters and containers send it. What is committed is kept, as after Ctrl-C; the status is 143."""


def require_types(options: Any, group: str) -> None:
    """Every field of a dataclass that is a number, a flag or a text is one; optional ones may be ``None``.

    Raises:
        InputError: If one is not; the message calls it ``group.name``.
    """
    for name, hint in get_type_hints(type(options)).items():
        value, kinds = getattr(options, name), get_args(hint) or (hint,)
        if value is None and NoneType in kinds:
            continue
        kind = next((kind for kind in kinds if kind in _WORDS), None)
        if kind is None:
            continue
        word, accepted = _WORDS[kind]
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            msg = f"expected {group}.{name} to be {word}, got {value!r}; correct it."
            raise InputError(msg)


def require_seed(seed: object, name: str) -> None:
    """A seed is a whole number of 63 bits, which every generator takes.

    Raises:
        InputError: If it is not; the message calls it ``name``.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        msg = f"expected {name} to be a whole number from 0 to 2^63 - 1, got {seed!r}; choose another seed."
        raise InputError(msg)


def require_count(count: object, name: str, least: int = 0) -> None:
    """A count is a whole number of at least some number.

    Raises:
        InputError: If it is not; the message calls it ``name``.
    """
    if isinstance(count, bool) or not isinstance(count, Integral):
        msg = f"expected {name} to be a whole number, got {count!r}; correct it."
        raise InputError(msg)
    if int(count) < least:
        msg = f"expected {name} to be at least {least}, got {count}; choose a larger number."
        raise InputError(msg)


def require_positive(options: Any, group: str, *names: str) -> None:
    """Every named option is above 0.

    Raises:
        InputError: If one is not; the message calls it ``group.name``.
    """
    for name in names:
        if not getattr(options, name) > 0:
            msg = f"expected {group}.{name} above 0, got {getattr(options, name)}; choose a positive number."
            raise InputError(msg)


def require_not_negative(options: Any, group: str, *names: str) -> None:
    """Every named option that is set is 0 or more.

    Raises:
        InputError: If one is not; the message calls it ``group.name``.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= 0:
            msg = f"expected {group}.{name} of 0 or more, got {value}; choose another number."
            raise InputError(msg)
