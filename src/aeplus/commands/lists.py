"""Lists as the command line takes them: items separated by commas or whitespace."""

import re

from aeplus.errors import InputError


def split_list(text: str) -> list[str]:
    """The items of a list; empty ones are dropped.

    Example:
        >>> split_list("alphaedit, memit blue")
        ['alphaedit', 'memit', 'blue']
    """
    return [item for item in re.split(r"[\s,]+", text) if item]


def parse_layers(text: str, option: str) -> list[int]:
    """The layers that an option lists, brackets or not.

    Args:
        text: The list, such as ``4,5,6`` or ``[4, 5, 6]``.
        option: The option's name, for the message.

    Raises:
        InputError: If an item is not a whole number, or there is none.
    """
    layers = split_list(re.sub(r"[\[\]]", " ", text))
    if not layers or not all(layer.isdecimal() for layer in layers):
        msg = f"expected layers after {option}, got {text!r}; write for example {option} 4,5,6,7,8."
        raise InputError(msg)
    return [int(layer) for layer in layers]
