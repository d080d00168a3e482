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
        ({"subject": ""}, "'subject' must be a text that is not empty, but is ''; fill it in."),
        ({"src": "Who?"}, "'src' must hold the subject 'Parken', but is 'Who?'; correct either."),
        ({"src": "Is {} Parken?"}, "'src' may not hold {}, which marks the subject's place, but is 'Is {} Parken?';"),
        ({"answers": []}, "'answers' must be a text that is not empty, but is []; fill it in."),
        ({"answers": None}, "'answers' must be a text that is not empty, but is None; fill it in."),
        ({"answers": 7}, "'answers' must be a text or a list of texts, but is 7; correct it."),
        ({"rephrase": {}}, None),
        ({"rephrase": {"a": 1}}, "'rephrase' must be a text or a list of texts, but is {'a': 1}; correct it."),
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
    with pytest.raises(InputError, match=r"^'subject' must be a text that is not empty, but is None"):
        parse_record({"src": "Who?", "answers": ["Ann"]})
