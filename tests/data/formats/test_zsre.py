"""ZsRE and AlphaSet."""

import json
from pathlib import Path
from typing import Any

import pytest

from aeplus.data.datamodule import EditDataModule
from aeplus.data.formats import parse_record
from aeplus.edits import EditRequest, Probe
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
    assert edit.neighborhood == (Probe("nq question: who sang it?", "Judy"),)  # as the published loaders ask
    assert parse_record(ZSRE, "alt")[0].target_new == "English"


def test_the_two_protocols(tmp_path: Path) -> None:
    """Published: prefix and a further question mark, every rephrasing. Plain: the question, one answer for each."""
    asked = {**ZSRE, "loc": "nq question: Who sang it?"}
    again = {
        **ZSRE,
        "src": "The language of Parken is?",
        "answers": ["Thai"],
        "rephrase": "what language is Parken's name in? ",
    }
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([asked, again]))

    def read(**options: str) -> list[EditRequest]:
        return EditDataModule(str(path), **options).read()  # type: ignore[arg-type]

    published, plain = read(), read(protocol="plain")
    assert published == read(protocol="published")
    assert [edit.neighborhood[0].prompt for edit in published] == [
        "nq question: Who sang it??",
        "nq question: who sang it?",
    ]
    assert [len(edit.rephrase) for edit in published] == [1, 1]
    assert [edit.neighborhood[0].prompt for edit in plain] == ["Who sang it?", "who sang it"]
    assert [len(edit.rephrase) for edit in plain] == [0, 1]
    with pytest.raises(InputError, match=r"expected data\.protocol published or plain, got 'own'"):
        read(protocol="own")


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
