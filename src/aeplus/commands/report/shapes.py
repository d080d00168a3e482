"""What a file of results has to look like: what differs is named by its place, in one sentence."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aeplus.errors import InputError

Check = Callable[[Any, str], None]
"""Takes a value and its place; raises :class:`Differs`."""


class Differs(Exception):
    """A value is not what it has to be.

    Args:
        place: Where it is, such as ``batches[2].seconds``.
        expected: What it has to be.
        value: What it is.
    """

    def __init__(self, place: str, expected: str, value: Any) -> None:
        super().__init__(place, expected)
        shown = repr(value)
        self.place, self.expected = place, expected
        self.shown = shown if len(shown) <= 60 else f"{shown[:60]}…"


def require(value: Any, check: Check, path: Path, remedy: str) -> None:
    """A file's value looks as it has to.

    Args:
        value: The value.
        check: How it has to look.
        path: The file.
        remedy: What to do about a damaged one.

    Raises:
        InputError: If it looks otherwise.
    """
    try:
        check(value, "")
    except Differs as error:
        place = f"{error.place} in {path}" if error.place else str(path)
        msg = f"expected {place} to be {error.expected}, got {error.shown}; {remedy}."
        raise InputError(msg) from error


def number(value: Any, place: str) -> None:
    """A finite number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if not known or abs(value) > 1e300:
        raise Differs(place, "a number", value)


def count(value: Any, place: str) -> None:
    """A whole number of 0 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise Differs(place, "a whole number of 0 or more", value)


def text(value: Any, place: str) -> None:
    """A text."""
    if not isinstance(value, str):
        raise Differs(place, "a text", value)


def anything(value: Any, place: str) -> None:
    """Whatever there is."""


def or_none(check: Check) -> Check:
    """The same, or nothing."""

    def checked(value: Any, place: str) -> None:
        if value is not None:
            check(value, place)

    return checked


def one_of(*values: str) -> Check:
    """One of some texts."""

    def checked(value: Any, place: str) -> None:
        if value not in values:
            raise Differs(place, f"one of {', '.join(values)}", value)

    return checked


def items(check: Check) -> Check:
    """A list."""

    def checked(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise Differs(place, "a list", value)
        for index, item in enumerate(value):
            check(item, f"{place}[{index}]")

    return checked


def mapping(check: Check) -> Check:
    """An object with any names."""

    def checked(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise Differs(place, "an object", value)
        for name, item in value.items():
            check(item, f"{place}.{name}".lstrip("."))

    return checked


def fields(checks: Mapping[str, Check], **optional: Check) -> Check:
    """An object with certain names; others are not looked at."""

    def checked(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise Differs(place, "an object", value)
        for name, check in checks.items():
            if name not in value:
                raise Differs(place, f"an object with {name}", sorted(value))
            check(value[name], f"{place}.{name}".lstrip("."))
        for name, check in optional.items():
            if value.get(name) is not None:
                check(value[name], f"{place}.{name}".lstrip("."))

    return checked
