"""The option that a continuation names."""

import re
from collections.abc import Sequence

from aeplus.capabilities.metrics import NO_OPTION


def first_named(text: str, options: Sequence[str]) -> int:
    """Index of the option that a text names first, as a whole word, or :data:`NO_OPTION`.

    Upper and lower case are the same, but for options of one letter: "a" is a word.

    Example:
        >>> first_named("no, or yes", ["Yes", "No"])
        1
        >>> first_named("nothing", ["Yes", "No"])
        -1
    """
    found = []
    for index, option in enumerate(options):
        flags = re.IGNORECASE if len(option) > 1 else 0
        if match := re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, flags):
            found.append((match.start(), -len(option), index))  # of two at one place, the longer
    return min(found)[-1] if found else NO_OPTION
