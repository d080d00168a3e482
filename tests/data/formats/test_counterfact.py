"""CounterFact and multi-CounterFact."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

REWRITE = {
    "prompt": "The mother tongue of {} is",
    "relation_id": "P103",
    "subject": "Ann",
    "target_new": {"str": "English", "id": "Q1860"},
    "target_true": {"str": "French", "id": "Q150"},
}
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": REWRITE,
    "paraphrase_prompts": ["Ann spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Léon is"],
    "attribute_prompts": [],
    "generation_prompts": ["Ann's mother tongue is", "Ann lives in"],
}


def test_record() -> None:
    assert parse_record(COUNTERFACT) == [
        EditRequest(
            "The mother tongue of {} is",
            "Ann",
            "English",
            rephrase=("Ann spoke the language",),
            neighborhood=(Probe("The mother tongue of Léon is", "French"),),
            generation=("Ann's mother tongue is", "Ann lives in"),
            target_true="French",
            attribute="P103 Q1860",
        )
    ]


def test_multi_counterfact_has_no_tests_and_plain_answers_are_answers() -> None:
    rewrite = {**REWRITE, "target_new": "English", "target_true": "French"}
    (edit,) = parse_record({"case_id": 1, "requested_rewrite": rewrite, "neighborhood_prompts": None})
    assert (edit.target_new, edit.target_true, edit.neighborhood) == ("English", "French", ())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subject": None}, "expected 'subject' to be a non-empty string, got None; fill it in."),
        ({"target_new": {"str": None}}, "expected 'target_new' to be a non-empty string, got None; fill it in."),
        ({"target_new": ["English"]}, "expected 'target_new' to be a non-empty string, got ['English']; fill it in."),
        (
            {"prompt": "The mother tongue is"},
            "expected 'prompt' to contain the subject 'Ann', got 'The mother tongue is';",
        ),
    ],
)
def test_damaged(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**COUNTERFACT, "requested_rewrite": {**REWRITE, **change}})
    assert str(caught.value).startswith(text)


def test_damaged_tests() -> None:
    with pytest.raises(InputError, match=r"^expected 'neighborhood_prompts' to be a string or a list of strings, got"):
        parse_record({**COUNTERFACT, "neighborhood_prompts": [{"prompt": "x"}]})
