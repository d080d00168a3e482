"""MQuAKE."""

from typing import Any

import pytest

from aeplus.data.formats import parse_record
from aeplus.data.readers import requests_from_records
from aeplus.edits import EditRequest, Probe, broken_cases, still_holding
from aeplus.errors import InputError
from aeplus.evaluation.questions import axis_items

CITIZEN = {
    "prompt": "{} is a citizen of",
    "relation_id": "P27",
    "target_new": {"str": "Peru", "id": "Q419"},
    "target_true": {"str": "Chile", "id": "Q298"},
    "subject": "Ann",
    "question": "What is the country of citizenship of Ann?",
}
CAPITAL = {
    "prompt": "The capital of {} is",
    "relation_id": "P36",
    "target_new": {"str": "Rome", "id": "Q220"},
    "target_true": {"str": "Lima", "id": "Q2868"},
    "subject": "Peru",
    "question": "What is the capital of Peru?",
}
MQUAKE = {
    "case_id": 0,
    "requested_rewrite": [CITIZEN, CAPITAL],
    "questions": ["What is the capital of Ann's country?", "Which city governs the country of Ann?"],
    "answer": "Santiago",
    "answer_alias": [],
    "new_answer": "Rome",
    "new_answer_alias": ["Roma", "Eternal City"],
    "single_hops": [{"question": "?", "cloze": "old", "answer": "old", "answer_alias": []}],
    "new_single_hops": [
        {"question": "What country?", "cloze": "Ann is a citizen of", "answer": "Peru", "answer_alias": ["PE"]},
        {"question": "What is the capital of Peru?", "answer": "Rome", "answer_alias": ["Roma"]},
    ],
    "orig": {"triples": [["Q1", "P27", "Q298"]]},
}
AXES = (
    Probe("What is the capital of Ann's country?", "Rome", ("Roma", "Eternal City"), "multi_hop"),
    Probe("Which city governs the country of Ann?", "Rome", ("Roma", "Eternal City"), "multi_hop"),
    Probe("Ann is a citizen of", "Peru", ("PE",), "single_hop"),
    Probe("What is the capital of Peru?", "Rome", ("Roma",), "single_hop"),
)


def test_several_edits_of_one_case_and_the_questions_with_the_last() -> None:
    first, second = requests_from_records([MQUAKE])
    assert first == EditRequest(
        "{} is a citizen of",
        "Ann",
        "Peru",
        rephrase=("What is the country of citizenship of Ann?",),
        aliases=("PE",),
        target_true="Chile",
        case="0",
        id="0/1",
        attribute="P27 Q419",
    )
    assert (second.subject, second.target_new, second.aliases) == ("Peru", "Rome", ("Roma",))
    assert (second.case, second.id, second.axes) == ("0", "0/2", AXES)


def test_one_edit_is_a_case_too_and_a_number_stands_in_for_a_name() -> None:
    (alone,) = requests_from_records([{**MQUAKE, "requested_rewrite": [CAPITAL]}])
    assert (alone.case, alone.id, alone.axes) == ("0", "0", AXES)
    nameless = {name: value for name, value in MQUAKE.items() if name != "case_id"}
    assert [edit.case for edit in requests_from_records([nameless, nameless])] == ["1", "1", "2", "2"]


def test_questions_hold_as_long_as_all_edits_of_the_case_do() -> None:
    other = {**MQUAKE, "case_id": 1, "requested_rewrite": [CAPITAL], "questions": []}
    again = requests_from_records([MQUAKE, other])  # the same edit, made again for another case
    assert still_holding(again) == [True, True, True]
    assert broken_cases(again) == set()
    changed = requests_from_records(
        [MQUAKE, {**other, "requested_rewrite": [{**CITIZEN, "target_new": {"str": "Oz"}}]}]
    )
    assert [edit.id for edit in changed] == ["0/1", "0/2", "1"]
    assert still_holding(changed) == [False, True, True]
    assert broken_cases(changed) == {"0"}


def test_cases_of_one_number_stay_apart() -> None:
    """The second case is not complete and loses a fact, which is nothing to the first."""
    other = {
        **MQUAKE,
        "requested_rewrite": [{**CITIZEN, "subject": "Bob"}, {**CAPITAL, "subject": "Oz"}],
        "questions": ["Which city governs the country of Bob?"],
        "new_single_hops": [],
    }
    plain = {"prompt": CITIZEN["prompt"], "subject": "Bob", "target_new": "Ix", "case": "c"}
    stream = requests_from_records([MQUAKE, other, plain, {**plain, "subject": "Eve"}])
    assert [edit.case for edit in stream] == ["0", "0", "0#2", "0#2", "c", "c"]
    for reached in (2, 3, 6):
        assert {item.prompt for item in axis_items(stream, reached)} == {probe.prompt for probe in AXES}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"requested_rewrite": []},
            "expected 'requested_rewrite' to contain at least one edit, got []; fill it in or leave",
        ),
        ({"requested_rewrite": ["x"]}, "expected 'requested_rewrite' to be a list of objects, got ['x']; correct it."),
        (
            {"requested_rewrite": [CITIZEN, {**CAPITAL, "subject": None}]},
            "rewrite 2: expected 'subject' to be a non-empty string, got None; fill it in.",
        ),
        (
            {"requested_rewrite": [{**CITIZEN, "target_new": {"str": ""}}]},
            "rewrite 1: expected 'target_new' to be a non-empty string, got ''; fill it in.",
        ),
        (
            {"requested_rewrite": [{**CITIZEN, "prompt": "{} and {} live in"}]},
            "rewrite 1: expected 'prompt' to contain one {} in place of the subject, got 2 in '{} and {} live in';",
        ),
        (
            {"requested_rewrite": [{**CITIZEN, "prompt": "lives in"}]},
            "rewrite 1: expected 'prompt' to contain the subject 'Ann', got 'lives in'; correct either.",
        ),
        ({"new_answer": None}, "expected 'new_answer' to be a non-empty string, got None; fill it in."),
        ({"questions": 3}, "expected 'questions' to be a string or a list of strings, got 3; correct it."),
        (
            {"new_single_hops": [{"answer": "x"}]},
            "expected cloze or question of 'new_single_hops' to be a non-empty string",
        ),
        ({"new_single_hops": [{"cloze": "x"}]}, "expected answer of 'new_single_hops' to be a non-empty string, got"),
    ],
)
def test_damaged(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record({**MQUAKE, **change})
    assert str(caught.value).startswith(text)


def test_braces_in_a_subject() -> None:
    (edit,) = parse_record({**MQUAKE, "requested_rewrite": [{**CITIZEN, "subject": "{}"}]})
    assert edit.question == "{} is a citizen of"
