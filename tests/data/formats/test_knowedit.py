"""KnowEdit."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
from aeplus.data.formats.fields import Notes
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

KNOWEDIT = {
    "subject": "Ann",
    "prompt": "The place of death of Ann is",
    "target_new": "Oslo",
    "ground_truth": ["Rome"],
    "rephrase": "Ann died in",
    "portability": {
        "Reasoning": [
            {"prompt": "The country where Ann died is", "ground_truth": [["Norway", "Kingdom of Norway"]]},
            {"prompt": "The continent where Ann died is", "ground_truth": "Europe"},
        ],
        "Logical_Generalization": [{"prompt": "Is Ann alive?", "ground_truth": [["no"], ["false"], ["no", ""]]}],
        "Subject_Aliasing": [{"prompt": "The place of death of Ann B. is", "ground_truth": [[]]}],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The father of Ann is", "ground_truth": ["Bob"]},
            {"prompt": "The mother of Ann is", "ground_truth": []},
        ],
        "Forgetfulness": None,
    },
}


def test_record() -> None:
    assert parse_record(KNOWEDIT) == [
        EditRequest(
            "The place of death of {} is",
            "Ann",
            "Oslo",
            rephrase=("Ann died in",),
            neighborhood=(Probe("The father of Ann is"), Probe("The mother of Ann is")),
            axes=(
                Probe("The country where Ann died is", "Norway", ("Kingdom of Norway",), "portability/Reasoning"),
                Probe("The continent where Ann died is", "Europe", (), "portability/Reasoning"),
                Probe("Is Ann alive?", "no", ("false",), "portability/Logical_Generalization"),
                Probe("The father of Ann is", "Bob", (), "locality/Relation_Specificity"),
            ),
            target_true="Rome",
        )
    ]


def test_the_form_that_easyedit_hands_on() -> None:
    axes = {"Reasoning": {"prompt": ["Ann died in", "Ann's grave is in"], "ground_truth": ["Norway", ["Oslo", "Kria"]]}}
    (edit,) = parse_record({**KNOWEDIT, "portability": axes, "locality": {}})
    assert edit.axes == (
        Probe("Ann died in", "Norway", (), "portability/Reasoning"),
        Probe("Ann's grave is in", "Oslo", ("Kria",), "portability/Reasoning"),
    )


def test_prompts_may_be_listed() -> None:
    def asked(**test: Any) -> list[tuple[str, tuple[str, ...]]]:
        (edit,) = parse_record({**KNOWEDIT, "portability": {"Reasoning": [test]}, "locality": None})
        return [(probe.prompt, probe.answers) for probe in edit.axes]

    truth = [["Norway", "Norge"], ["NO"], []]
    assert asked(prompt=["Ann died in"], ground_truth=truth) == [("Ann died in", ("Norway", "Norge", "NO"))]
    two = ["Ann died in", "Ann rests in"]
    assert asked(prompt=two, ground_truth=truth[:2]) == [(two[0], ("Norway", "Norge")), (two[1], ("NO",))]
    assert asked(prompt=two, ground_truth="Norway") == [(prompt, ("Norway",)) for prompt in two]
    assert asked(prompt=two, ground_truth=[]) == []


def test_several_prompts_with_another_number_of_answers_are_refused() -> None:
    """Otherwise each would count as right what is an answer to another."""
    test = {"prompt": ["Ann died in", "Ann rests in"], "ground_truth": ["Norway", "Oslo", "Rome"]}
    record = {**KNOWEDIT, "portability": {"Reasoning": test}, "locality": {"F": [test, {"prompt": "Bob is"}]}}
    with pytest.raises(InputError) as caught:
        parse_record(record)
    assert str(caught.value) == (
        "expected 'ground_truth' to have the answers for each 'prompt', got 3 for 2; correct either."
    )
    notes = Notes(lenient=True)
    (edit,) = parse_record(record, notes=notes)
    assert (edit.axes, edit.neighborhood, len(notes.dropped)) == ((), (Probe("Bob is"),), 2)


def test_zsre_and_wikibio_of_knowedit() -> None:
    zsre = {"subject": "Ann", "prompt": "Who is Ann?", "target_new": "a poet", "rephrase_prompt": "What is Ann?"}
    (edit,) = parse_record({**zsre, "locality": {}})
    assert edit.rephrase == ("What is Ann?",)
    wikibio = {"text": "This is about ann lee. She wrote.", "concept": "ann lee", "labels": "She sang.", "locality": {}}
    (edit,) = parse_record(wikibio)
    assert edit == EditRequest("This is about {}. She wrote.", "ann lee", "She sang.")


def test_a_plain_record_stays_plain() -> None:
    record = {"prompt": "{} is", "subject": "Ann", "target_new": "Bob", "ground_truth": "x", "neighborhood": ["Eve is"]}
    assert parse_record(record)[0].neighborhood == (Probe("Eve is"),)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subject": None}, "expected 'subject' to be a non-empty string, got None; fill it in."),
        ({"target_new": ""}, "expected 'target_new' to be a non-empty string, got ''; fill it in."),
        ({"target_new": ["Oslo"]}, "expected 'target_new' to be a non-empty string, got ['Oslo']; fill it in."),
        (
            {"prompt": "She died in"},
            "expected 'prompt' to contain the subject 'Ann', got 'She died in'; correct either.",
        ),
        (
            {"prompt": "Ann and {} and {}"},
            "the record: expected 'prompt' to contain one {} in place of the subject, got",
        ),
        (
            {"ground_truth": {"a": 1}},
            "expected 'ground_truth' to contain strings or lists of strings, got {'a': 1}; correct it",
        ),
        (
            {"portability": ["x"]},
            "expected 'portability' to be an object with a list of prompts for each kind, got ['x'];",
        ),
        (
            {"locality": {"Forgetfulness": ["x"]}},
            "expected 'Forgetfulness' to be a list of objects, got ['x']; correct it",
        ),
        ({"locality": {"F": [{"ground_truth": "x"}]}}, "expected 'prompt' to be a non-empty string, got None; fill"),
        (
            {"portability": {"R": [{"prompt": "x", "ground_truth": [[{"a": 3}]]}]}},
            "expected 'ground_truth' to contain strings or lists",
        ),
    ],
)
def test_damaged(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**KNOWEDIT, **change})
    assert str(caught.value).startswith(text)


def test_a_subject_with_braces_that_occurs_twice() -> None:
    (edit,) = parse_record({**KNOWEDIT, "subject": "{A}", "prompt": "The heir of {A} or of {A} is"})
    assert edit.prompt == "The heir of {A} or of {} is"
    assert edit.question == "The heir of {A} or of {A} is"
