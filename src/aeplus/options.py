"""Checks that the groups of options have in common."""

from typing import Any

from aeplus.errors import InputError


def require_positive(options: Any, group: str, *names: str) -> None:
    """Every named option is above 0.

    Raises:
        InputError: If one is not; the message calls it ``group.name``.
    """
    for name in names:
        if not getattr(options, name) > 0:
            msg = f"{group}.{name} must be above 0, but {getattr(options, name)} came; choose a positive number."
            raise InputError(msg)


def require_not_negative(options: Any, group: str, *names: str) -> None:
    """Every named option that is set is 0 or more.

    Raises:
        InputError: If one is not; the message calls it ``group.name``.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= 0:
            msg = f"{group}.{name} must not be negative, but {value} came; choose 0 or more."
            raise InputError(msg)
