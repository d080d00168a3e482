"""The first option named is the answer."""

import pytest

from aeplus.evaluation.capabilities.measure import first_named

YES_NO = ("No", "Yes")


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [
        (" Yes", YES_NO, 1),
        (" yes, not no", YES_NO, 1),
        ("NO.\nYes", YES_NO, 0),
        (" nothing, I know", YES_NO, -1),  # "no" inside of words
        ("", YES_NO, -1),
        (" (B) and A", ("A", "B", "C", "D"), 1),
        (" a C", ("A", "B", "C", "D"), 2),  # "a" is a word, not an option
        (" Apple", ("A", "B", "C", "D"), -1),
        ("not good", ("not", "not good"), 1),  # the longer of two at one position
    ],
)
def test_the_first_option_named_is_the_answer(text: str, options: tuple[str, ...], answer: int) -> None:
    assert first_named(text, options) == answer
