"""RippleEdits."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
from aeplus.data.formats.ripple import AXES
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError


def query(prompt: str, *answers: tuple[str, ...]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": aliases} for value, *aliases in answers],
        "query_type": "regular",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_ids": ["Q2"],
        "phrase": None,
    }


def case(*queries: dict[str, Any]) -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": "OR", "condition_queries": [query("unused", ("x",))]}


MOTHER = "The name of the mother of Ann is"
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann is Syria.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q858",
        "original_fact": {"prompt": "The name of the country of citizenship of Ann is Peru.", "target_id": "Q419"},
    },
    "Relation_Specificity": [case(query(MOTHER, ("Eve", "Eva"))), case(query(MOTHER, ("Eve", "Eva")))],
    "Logical_Generalization": [case(query("Ann speaks", ("Arabic", "ar"), ("Kurdish",)), query("Is Ann", ("x",)))],
    "Subject_Aliasing": [case(query("The name of the country of citizenship of Ann B. is", ("Syria", "SYR", "Syria")))],
    "Compositionality_I": [case(query("The capital of Ann's country is", ("Damascus",)))],
    "Compositionality_II": [case(query("Nobody is"))],
    "Forgetfulness": [case(query("The country of Ann, which is not Syria, is", ("Peru",)))],
}


def test_record() -> None:
    assert parse_record(RIPPLE) == [
        EditRequest(
            "The name of the country of citizenship of {} is",
            "Ann",
            "Syria",
            neighborhood=(Probe(MOTHER), Probe("The country of Ann, which is not Syria, is")),
            axes=(
                Probe(MOTHER, "Eve", ("Eva",), "Relation_Specificity"),
                Probe("Ann speaks", "Arabic", ("ar", "Kurdish"), "Logical_Generalization"),
                Probe("Is Ann", "x", (), "Logical_Generalization"),
                Probe("The name of the country of citizenship of Ann B. is", "Syria", ("SYR",), "Subject_Aliasing"),
                Probe("The capital of Ann's country is", "Damascus", (), "Compositionality_I"),
                Probe("The country of Ann, which is not Syria, is", "Peru", (), "Forgetfulness"),
            ),
            aliases=("SYR",),
            target_true="Peru",
        )
    ]


def test_recent_has_no_original_fact_and_older_files_other_names() -> None:
    edit = {name: value for name, value in RIPPLE["edit"].items() if name != "original_fact"}
    (recent,) = parse_record({**RIPPLE, "edit": edit})
    assert (recent.subject, recent.target_new, recent.target_true) == ("Ann", "Syria", None)
    older = {name: value for name, value in RIPPLE.items() if name != "Relation_Specificity"}
    older |= {"edit": {**edit, "previous_fact": RIPPLE["edit"]["original_fact"]}}
    older["Relation_Specifity"] = RIPPLE["Relation_Specificity"]
    assert parse_record(older) == parse_record(RIPPLE)


def test_aliases_of_the_target_are_those_of_the_same_question() -> None:
    namesake = {"Logical_Generalization": [case(query("Ann's favourite book is", ("Syria", "Syria: a History")))]}
    assert parse_record({**RIPPLE, **namesake})[0].aliases == ("SYR",)


def test_no_test_is_needed_to_find_the_edit() -> None:
    assert parse_record({"edit": RIPPLE["edit"]}) == [
        EditRequest("The name of the country of citizenship of {} is", "Ann", "Syria", target_true="Peru")
    ]
    other = {axis: [case(query("The name of the country of citizenship of Bob is", ("x",)))] for axis in AXES}
    (edit,) = parse_record({**RIPPLE, **other})
    assert edit.without_tests() == parse_record(RIPPLE)[0].without_tests()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompt": None}, "expected prompt of 'edit' to be a non-empty string, got None; fill it in."),
        ({"prompt": "Ann is from Syria."}, "expected 'prompt' to be a statement in RippleEdits' wording, such as"),
        (
            {"prompt": "The name of the country of citizenship of Ann is ."},
            "expected 'prompt' to be a statement in Ripple",
        ),
        (
            {"prompt": "The gender of Ann is x."},
            "expected 'prompt' and the original fact's to be equal up to the answer",
        ),
        ({"original_fact": "Peru"}, "expected 'original_fact' to be an object with a prompt, got 'Peru'; correct or"),
        (
            {"original_fact": {"prompt": 3}},
            "expected prompt of 'original_fact' to be a non-empty string, got 3; fill",
        ),
    ],
)
def test_damaged_edits(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**RIPPLE, "edit": {**RIPPLE["edit"], **change}})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        ("x", "expected 'Forgetfulness' to be a list of objects, got 'x'; correct it."),
        ([{"test_queries": [3]}], "expected 'test_queries' to be a list of objects, got [3]; correct it."),
        ([{"test_queries": [{"answers": []}]}], "expected prompt of 'Forgetfulness' to be a non-empty string, got"),
        ([case({"prompt": "x", "answers": ["y"]})], "expected 'answers' to be a list of objects, got ['y']; correct"),
        (
            [case({"prompt": "x", "answers": [{"value": {"a": 3}}]})],
            "expected 'value' to contain strings or lists of strings, got {'a': 3}",
        ),
    ],
)
def test_damaged_axes(axis: Any, text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**RIPPLE, "Forgetfulness": axis})
    assert str(caught.value).startswith(text)


def test_braces_in_the_subject() -> None:
    (edit,) = parse_record({"edit": {"prompt": "The gender of {} of {Ann} is female."}})
    assert (edit.prompt, edit.subject) == ("The gender of {} is", "{} of {Ann}")
    assert edit.question == "The gender of {} of {Ann} is"
