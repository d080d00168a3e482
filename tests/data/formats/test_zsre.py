"""ZsRE and AlphaSet."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
from aeplus.edits import Probe
from aeplus.errors import InputError

ZSRE = {
    "subject": "Parken",
    "src": "In which language is Parken named?",
    "pred": "Danish",
    "rephrase": "What language is Parken's name in?",
    "alt": "English",
    "answers": ["Danish", "danish"],
    "loc": "nq question: who sang it",
    "loc_ans": "Judy",
    "cond": "Danish >> English || In which language is Parken named?",
}


def test_record() -> None:
    (edit,) = parse_record(ZSRE)
    assert edit.prompt == "In which language is {} named?"
    assert (edit.subject, edit.target_new) == ("Parken", "Danish")
    assert edit.rephrase == ("What language is Parken's name in?",)
    assert edit.neighborhood == (Probe("who sang it", "Judy"),)
    assert parse_record(ZSRE, "alt")[0].target_new == "English"


@pytest.mark.parametrize(
    ("src", "subject", "prompt"),
    [
        ("Was Paris in Paris?", "Paris", "Was Paris in {}?"),  # the last of several
        ("What does {x} mean in C?", "C", "What does {x} mean in {}?"),
        ("What does f({}) return?", "f({})", "What does {} return?"),
        ("What is {} for?", "{}", "What is {} for?"),
    ],
)
def test_the_subject_becomes_the_slot(src: str, subject: str, prompt: str) -> None:
    (edit,) = parse_record({**ZSRE, "src": src, "subject": subject})
    assert edit.prompt == prompt
    assert edit.question == src


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subject": ""}, "expected 'subject' to be a non-empty string, got ''; fill it in."),
        ({"src": "Who?"}, "expected 'src' to contain the subject 'Parken', got 'Who?'; correct either."),
        (
            {"src": "Is {} Parken?"},
            "expected 'src' without {}, which marks the subject's position, got 'Is {} Parken?';",
        ),
        ({"answers": []}, "expected 'answers' to be a non-empty string, got []; fill it in."),
        ({"answers": None}, "expected 'answers' to be a non-empty string, got None; fill it in."),
        ({"answers": {"a": 7}}, "expected 'answers' to contain strings or lists of strings, got {'a': 7}; correct it."),
        ({"rephrase": {}}, None),
        ({"rephrase": {"a": 1}}, "expected 'rephrase' to be a string or a list of strings, got {'a': 1}; correct it."),
    ],
)
def test_damaged(change: dict[str, Any], text: str | None) -> None:
    if text is None:  # nothing at all is no rephrasing
        assert parse_record({**ZSRE, **change})[0].rephrase == ()
        return
    with pytest.raises(InputError) as caught:
        parse_record({**ZSRE, **change})
    assert str(caught.value).startswith(text)


def test_without_a_subject() -> None:
    with pytest.raises(InputError, match=r"^expected 'subject' to be a non-empty string, got None"):
        parse_record({"src": "Who?", "answers": ["Ann"]})
