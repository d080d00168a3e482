"""Files of other tools and of newer benchmarks."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aeplus.data.formats import parse_record
from aeplus.data.formats.fields import Notes
from aeplus.data.formats.plain import as_record
from aeplus.data.readers import read_requests, requests_from_records
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

EASYEDIT = {
    "case_id": 3,
    "prompt": "Ada Quill plays the",
    "subject": "Ada Quill",
    "target_new": "cello",
    "ground_truth": "harp",
    "rephrase_prompt": "The instrument of Ada Quill is the",
    "locality_prompt": "Ben Rook plays the",
    "locality_ground_truth": "flute",
}


def test_easyedit_counterfact() -> None:
    assert parse_record(EASYEDIT) == [
        EditRequest(
            "{} plays the",
            "Ada Quill",
            "cello",
            ("The instrument of Ada Quill is the",),
            (Probe("Ben Rook plays the", "flute"),),
            target_true="harp",
        )
    ]
    several = {"locality_prompt": ["A is", "B is"], "locality_ground_truth": [["x", "y"], 4]}
    assert parse_record({**EASYEDIT, **several})[0].neighborhood == (Probe("A is", "x", ("y",)), Probe("B is", "4"))
    without = {**EASYEDIT, "locality_ground_truth": None}
    assert parse_record(without)[0].neighborhood == (Probe("Ben Rook plays the"),)
    with pytest.raises(InputError, match="expected 'locality_ground_truth' to have an answer for each 'locality_promp"):
        parse_record({**EASYEDIT, **several, "locality_ground_truth": ["x"]})


def test_requests_of_memit() -> None:
    request = {"prompt": "{} lies in", "subject": "The Mill", "target_new": {"str": "Bern"}}
    assert parse_record(request) == [EditRequest("{} lies in", "The Mill", "Bern")]
    (edit,) = parse_record({**request, "target_true": {"str": "Oslo", "id": "Q1"}})
    assert edit.target_true == "Oslo"
    with pytest.raises(InputError, match="expected 'target_new' to be a non-empty string, got None; fill it in"):
        parse_record({**request, "target_new": {"id": "Q1"}})


def test_wikibigedit() -> None:
    record = {
        "tag": "new",
        "subject": "Ada Quill",
        "update": "Which club does Ada Quill play for?",
        "ans": "FC Bern",
        "rephrase": "Ada Quill is a player of which club?",
        "personas": "Yo, who does Ada Quill play for?",
        "loc": "Who leads FC Oslo?",
        "loc_ans": "Ben Rook",
        "mhop": "In which country is the club of Ada Quill?",
        "mhop_ans": "Switzerland",
    }
    (edit,) = parse_record(record)
    assert (edit.prompt, edit.target_new) == ("Which club does {} play for?", "FC Bern")
    assert edit.rephrase == (record["rephrase"],)
    assert edit.neighborhood == (Probe("Who leads FC Oslo?", "Ben Rook"),)
    assert [(p.axis, p.answer) for p in edit.axes] == [("persona", "FC Bern"), ("multi_hop", "Switzerland")]
    (bare,) = parse_record({**record, "mhop": None, "mhop_ans": float("nan"), "loc": "", "personas": None})
    assert (bare.axes, bare.neighborhood) == ((), ())


@pytest.mark.parametrize("wrap", [lambda pair: [pair], lambda pair: {"Relation": [pair]}, lambda pair: pair])
def test_qaedit(wrap: Any) -> None:
    record = {"prompt": "Who wrote the Quill?", "subject": "the Quill", "target": "Ada", "rephrase": "The Quill is by?"}
    (edit,) = parse_record({**record, "locality": wrap({"loc": "Who is Ben?", "loc_ans": "a king"})})
    assert edit.prompt == "Who wrote {}?"
    assert (edit.target_new, edit.rephrase) == ("Ada", ("The Quill is by?",))
    assert edit.neighborhood == (Probe("Who is Ben?", "a king"),)


@pytest.mark.parametrize(
    ("locality", "got"),
    [
        ([{"prompt": "Who is Ben?", "ground_truth": "a king"}], "{'prompt': 'Who is Ben?', 'ground_truth': 'a king'}"),
        ({"neighborhood": {"prompt": ["Who is Ben?"]}}, "{'prompt': ['Who is Ben?']}"),
        ({"neighborhood": "Who is Ben?"}, "'Who is Ben?'"),
        ("Who is Ben?", "'Who is Ben?'"),
    ],
)
def test_what_qaedit_does_not_say_is_not_left_out_silently(locality: Any, got: str) -> None:
    record = {"prompt": "Who wrote the Quill?", "subject": "the Quill", "target": "Ada", "locality": locality}
    with pytest.raises(InputError) as caught:
        parse_record(record)
    assert str(caught.value) == (
        f"expected 'locality' to be a list of objects with loc and loc_ans, got {got}; correct it."
    )
    notes = Notes(lenient=True)
    assert parse_record(record, notes=notes)[0].neighborhood == ()
    assert len(notes.dropped) == 1
    for nothing in ([], [{}], [None], {"neighborhood": []}, [{"loc": None}]):
        assert parse_record({**record, "locality": nothing})[0].neighborhood == ()


def test_halluedit() -> None:
    record = {
        "topic": "places", "subject": "Ada Hall", "relation": "architect", "object": "Ben Rook",
        "question": "Who is the architect of Ada Hall?", "output_llama": "Eve", "eval_llama": 0.0,
        "paraphrased_question": "Who designed Ada Hall?", "multiple_choice_with_letters": "A. Eve  B. Ben Rook",
        "multiple_choice_labels": "B", "yes_question": "Is Ben Rook its architect?", "no_question": "Is it Eve?",
        "locality_question": "Where is Ada Hall?", "reversed_relation_question": "What did Ben Rook build?",
        "question_2hop": "When was its architect born?", "answer_2hop": 1901.0, "question_3hop": "",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (edit,) = requests_from_records([record])
    assert (edit.prompt, edit.target_new) == ("Who is the architect of {}?", "Ben Rook")
    assert edit.neighborhood == (Probe("Where is Ada Hall?"),)
    assert [(probe.axis, probe.answer) for probe in edit.axes] == [
        ("yes_no", "Yes"), ("yes_no", "No"), ("multiple_choice", "B"), ("reversed", "Ada Hall"), ("2_hop", "1901")
    ]  # fmt: skip


def test_unke_is_edited_where_the_question_ends() -> None:
    record = {
        "question": "What is Ada known for?",
        "para_question": "Why is Ada known?",
        "answer": "Ada built mills.\nMany of them.",
        "sub_question": ["What did Ada build?", ""],
        "sub_answer": ["mills", ""],
    }
    (edit,) = parse_record(record)
    assert (edit.prompt, edit.subject, edit.target_new) == ("{}", record["question"], record["answer"])
    assert edit.axes == (Probe("What did Ada build?", "mills", (), "detail"),)
    with pytest.raises(
        InputError, match="expected as many 'sub_answer' as 'sub_question', got 1 and 2; correct either"
    ):
        parse_record({**record, "sub_answer": ["mills"]})


def test_akew() -> None:
    rewrite = {
        "prompt": "{} speaks", "subject": "Ada", "target_new": {"str": "Thai"}, "fact_new_uns": "Ada speaks Thai.",
        "unsfact_triplets_GPT": [{"subject": "Ada", "prompt": "The home of {} is", "target": "Siam"}],
    }  # fmt: skip
    for record in ({"requested_rewrite": rewrite}, {"requested_rewrite": [rewrite]}):
        (edit,) = parse_record(record)
        assert (edit.target_new, edit.axes) == ("Thai", ())
        (long,) = parse_record(record, "text")
        assert long.target_new == "Ada speaks Thai."
        assert long.axes == (Probe("The home of Ada is", "Siam", (), "unstructured"),)


@pytest.mark.parametrize(("number", "word"), [(1969, "1969"), (1969.0, "1969"), (2.5, "2.5"), (-3, "-3")])
def test_numbers_as_answers(number: float, word: str) -> None:
    hub = {"requested_rewrite": {"prompt": "{} is", "subject": "A", "target_new": {"str": number}}}
    for record in (
        {"prompt": "{} is", "subject": "A", "target_new": number},
        {"src": "A is", "subject": "A", "answers": [number]},
        {"update": "A is", "subject": "A", "ans": number},
        hub,
    ):
        assert parse_record(record)[0].target_new == word
    axes = [{"prompt": "x is", "answer": number, "aliases": [number]}]
    (edit,) = parse_record({"prompt": "{} is", "subject": "A", "target_new": "x", "axes": axes, "target_true": number})
    assert (edit.axes[0].answers, edit.target_true) == ((word, word), word)


@pytest.mark.parametrize("nothing", [None, "", " ", [], {}, float("nan"), [None, ""]])
def test_empty_cells_are_missing(nothing: Any) -> None:
    plain = {"prompt": "{} is", "subject": "A", "target_new": "x"}
    optional = ("rephrase", "neighborhood", "axes", "generation", "aliases", "target_true", "fact", "case", "join")
    assert parse_record({**plain, **dict.fromkeys(optional, nothing)}) == parse_record(plain)
    src = {"src": "A is", "subject": "A", "alt": "x"}
    assert parse_record({**src, "rephrase": nothing, "loc": nothing, "loc_ans": nothing}, "alt") == parse_record(
        src, "alt"
    )
    with pytest.raises(InputError, match="expected 'subject' to be a non-empty string"):
        parse_record({**plain, "subject": nothing})


def test_unread_fields_are_named_once() -> None:
    record = {**EASYEDIT, "rephraze": "x", "empty": None, "target_new": {"str": "cello", "hint": 3}}
    with pytest.warns(
        UserWarning, match=r"^fields of the records that nobody reads: rephraze, target_new\.hint$"
    ) as found:
        requests_from_records([record, record])
    assert len(found) == 1
    with pytest.warns(
        UserWarning, match="reads: tests; the edits have no test prompts, so only Efficacy will be measur"
    ):
        requests_from_records([{"prompt": "{} is", "subject": "A", "target_new": "x", "tests": ["y"]}])


def test_a_bad_test_prompt_loses_itself(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    plain = {"prompt": "{} is", "subject": "A", "target_new": "x"}
    bad = {**plain, "rephrase": ["A was", 5], "neighborhood": [{"answer": "y"}, "B is"], "axes": [7]}
    path.write_text(json.dumps([plain, bad]))
    with pytest.raises(InputError, match="record 2: expected 'rephrase' to be a string or a list of strings"):
        read_requests(path)
    with pytest.warns(
        UserWarning, match=r"^3 test prompts cannot be used and are left out, first .*record 2: expected 're"
    ):
        _, edit = read_requests(path, skip_unusable=True)
    assert (edit.rephrase, edit.neighborhood, edit.axes) == (("A was",), (Probe("B is"),), ())
    path.write_text(json.dumps([{**plain, "rephrase": 5}]))
    with pytest.warns(UserWarning, match="; no test prompt is left$"):
        read_requests(path, skip_unusable=True)


def test_a_slot_or_a_whole_word() -> None:
    plain = {"prompt": "Iranians live in Iran and the Iranian capital is", "subject": "Iran", "target_new": "x"}
    assert parse_record(plain)[0].prompt == "Iranians live in {} and the Iranian capital is"
    with pytest.raises(
        InputError, match=r"the subject 'Go' as a word, got 'Google is by', where it is a part of another"
    ):
        parse_record({**plain, "prompt": "Google is by", "subject": "Go"})
    assert parse_record({**plain, "prompt": "{}ogle is by", "subject": "Go"})[0].question == "Google is by"
    (edit,) = parse_record({**plain, "prompt": "Where does Beyonce\u0301 live?", "subject": "Beyonc\u00e9"})
    assert edit.question == "Where does Beyonce\u0301 live?"


_WORDS = st.text(st.sampled_from("ab {}.\n\t\u2028\u0085\u00a0é中🍎\"'"), max_size=8)


def _without_slot(text: str) -> str:
    while "{}" in text:  # one may come about as another goes
        text = text.replace("{}", "")
    return text


@settings(max_examples=150, deadline=None)
@example("", "{{}}", "", [], "auto")
@given(_WORDS, _WORDS, _WORDS, st.lists(_WORDS, max_size=2), st.sampled_from(["auto", "space", "none"]))
def test_records_written_and_read_again_are_the_same(
    before: str, after: str, answer: str, tests: list[str], join: str
) -> None:
    record = {
        "prompt": _without_slot(before) + "{}" + _without_slot(after),
        "subject": "Ann",
        "target_new": f"x{answer}",
        "rephrase": tests,
        "neighborhood": [{"prompt": text, "answer": answer or None} for text in tests if text.strip()],
        "join": join,
    }
    (edit,) = parse_record(record)
    (again,) = parse_record(json.loads(json.dumps(as_record(edit))))
    assert replace(again, id=edit.id) == edit
