"""The plain format."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
from aeplus.data.formats.fields import Notes
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

PLAIN = {"prompt": "The capital of {} is", "subject": "Oz", "target_new": "Rome"}


def test_every_field() -> None:
    record = {
        **PLAIN,
        "target_new": " Rome ",
        "rephrase": "Oz is governed from",
        "neighborhood": ["The capital of Peru is", {"prompt": "The capital of Chile is", "answer": "Santiago"}],
        "axes": [{"prompt": "Oz lies in", "answer": "Italy", "aliases": ["Italia"], "axis": "reasoning"}],
        "generation": ["Oz is known for", ""],
        "aliases": ["Roma"],
        "target_true": "Emerald City",
        "fact": "capital of Oz",
        "case": "oz",
        "comment": "ignored",
    }
    assert parse_record(record) == [
        EditRequest(
            "The capital of {} is",
            "Oz",
            "Rome",
            rephrase=("Oz is governed from",),
            neighborhood=(Probe("The capital of Peru is"), Probe("The capital of Chile is", "Santiago")),
            axes=(Probe("Oz lies in", "Italy", ("Italia",), "reasoning"),),
            generation=("Oz is known for",),
            aliases=("Roma",),
            target_true="Emerald City",
            fact="capital of Oz",
            case="oz",
        )
    ]


@pytest.mark.parametrize(
    ("prompt", "subject", "question"),
    [
        ("The capital of Oz is ", "Oz", "The capital of Oz is"),
        ("Oz near Oz is", "Oz", "Oz near Oz is"),
        ("What does f({}) return? It is", "f({})", "What does f({}) return? It is"),
        ("{} returns", "f({})", "f({}) returns"),
    ],
)
def test_complete_prompts_and_braces(prompt: str, subject: str, question: str) -> None:
    (edit,) = parse_record({**PLAIN, "prompt": prompt, "subject": subject})
    assert edit.question == question
    assert edit.question[: edit.subject_end].endswith(subject)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subject": None}, "expected 'subject' to be a non-empty string, got None; fill it in."),
        ({"target_new": " "}, "expected 'target_new' to be a non-empty string, got ' '; fill it in."),
        ({"prompt": 3}, "expected 'prompt' to be a non-empty string, got 3; fill it in."),
        ({"prompt": "Who?"}, "expected 'prompt' to contain the subject 'Oz', got 'Who?'; correct either."),
        ({"prompt": "{} and {}"}, "the record: expected 'prompt' to contain one {} in place of the subject, got 2"),
        ({"rephrase": 3}, "expected 'rephrase' to be a string or a list of strings, got 3; correct it."),
        ({"neighborhood": [3]}, "expected 'neighborhood' to list strings or objects with prompt and answer, got 3;"),
        ({"neighborhood": 3}, "expected 'neighborhood' to list strings or objects with prompt and answer, got 3;"),
        ({"axes": [{"answer": "x"}]}, "expected prompt of 'axes' to be a non-empty string, got None; fill it in."),
    ],
)
def test_damaged(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**PLAIN, **change})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    "more",
    [
        {"question": "Who rules Oz?", "object": "Ann"},
        {"update": "Who rules Oz?", "ans": "Ann"},
        {"question": "Who rules Oz?", "answer": "Ann", "para_question": "Who is Oz's ruler?"},
        {"src": "Who rules Oz?", "answers": ["Ann"]},
        {"text": "Oz is ruled.", "concept": "Oz", "labels": "Ann"},
        {"requested_rewrite": {"prompt": "{} is ruled by", "subject": "Oz", "target_new": {"str": "Ann"}}},
        {"edit": {"prompt": "The ruler of Oz is Ann."}},
    ],
)
def test_further_columns_make_no_other_edit(more: dict[str, Any]) -> None:
    notes = Notes()
    assert parse_record({**PLAIN, **more}, notes=notes) == [EditRequest("The capital of {} is", "Oz", "Rome")]
    assert more.keys() <= notes.unread.keys()
    (edit,) = parse_record({**PLAIN, **more, "locality": {"F": [{"prompt": "Ix is"}]}})
    assert (edit.target_new, edit.neighborhood) == ("Rome", (Probe("Ix is"),))


def test_without_a_subject() -> None:
    with pytest.raises(InputError, match=r"^expected 'subject' to be a non-empty string"):
        parse_record({"prompt": "The capital of Oz is", "target_new": "Rome"})


def test_other_records() -> None:
    formats = (
        "CounterFact (requested_rewrite), MQuAKE (requested_rewrite as a list), RippleEdits (edit), ZsRE or AlphaSet "
        "(src, subject, answers or alt), WikiBigEdit (update, subject, ans), HalluEditBench (question, subject, "
        "object), UnKE (question, para_question, answer), KnowEdit (prompt, subject, target_new, portability or "
        "locality), QAEdit (prompt, subject, target) or plain (prompt, subject, target_new)"
    )
    for record, text in (
        ({"prompt": "x", "answer": "y"}, f"the fields of a format, {formats}, got prompt, answer; rename"),
        ({}, f"the fields of a format, {formats}, got no fields; rename its fields."),
        (5, f"an object with the fields of a format, {formats}, got 5; correct it."),
    ):
        with pytest.raises(InputError) as caught:
            parse_record(record)
        assert str(caught.value).startswith(f"expected {text}")
