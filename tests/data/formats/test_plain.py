"""The plain format."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
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
        ({"subject": None}, "'subject' must be a text that is not empty, but is None; fill it in."),
        ({"target_new": " "}, "'target_new' must be a text that is not empty, but is ' '; fill it in."),
        ({"prompt": 3}, "'prompt' must be a text that is not empty, but is 3; fill it in."),
        ({"prompt": "Who?"}, "'prompt' must hold the subject 'Oz', but is 'Who?'; correct either."),
        ({"prompt": "{} and {}"}, "the record: 'prompt' must hold one {} where the subject stands, but '{} and {}'"),
        ({"rephrase": 3}, "'rephrase' must be a text or a list of texts, but is 3; correct it."),
        ({"neighborhood": [3]}, "'neighborhood' must list texts or objects with prompt and answer, but holds 3;"),
        ({"neighborhood": 3}, "'neighborhood' must list texts or objects with prompt and answer, but holds 3;"),
        ({"axes": [{"answer": "x"}]}, "prompt of 'axes' must be a text that is not empty, but is None; fill it in."),
    ],
)
def test_damaged(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**PLAIN, **change})
    assert str(caught.value).startswith(text)


def test_without_a_subject() -> None:
    with pytest.raises(InputError, match=r"^'subject' must be a text"):
        parse_record({"prompt": "The capital of Oz is", "target_new": "Rome"})


def test_other_records() -> None:
    formats = (
        "CounterFact (requested_rewrite), MQuAKE (requested_rewrite as a list), RippleEdits (edit), ZsRE or AlphaSet "
        "(src, subject, answers or alt), KnowEdit (prompt, subject, target_new, portability or locality) or plain "
        "(prompt, subject, target_new)"
    )
    for record, came in (
        ({"prompt": "x", "answer": "y"}, f"the fields of a format, {formats}, but it has prompt, answer; rename"),
        ({}, f"the fields of a format, {formats}, but it has no fields; rename its fields."),
        (5, f"an object with the fields of a format, {formats}, but it is 5; correct it."),
    ):
        with pytest.raises(InputError) as caught:
            parse_record(record)
        assert str(caught.value).startswith(f"expected {came}")
