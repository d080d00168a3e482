"""From sources to edits: numbers, names and cases of records, several sources in a row, records that cannot be used."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aeplus.data.formats import FORMATS
from aeplus.data.readers import read_requests, read_stream, requests_from_records
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"

PLAIN = {"prompt": "The capital of {} is", "subject": "Oz", "target_new": "Rome"}
CASE = {"requested_rewrite": [PLAIN, {**PLAIN, "subject": "Ix"}]}


def write(folder: Path, content: Any, name: str = "edits.dat") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def message(folder: Path, content: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_requests(write(folder, content), **options)
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(str(folder), "DIR")


def test_plain_record_with_every_field(tmp_path: Path) -> None:
    record = {
        **PLAIN,
        "target_new": " Rome ",
        "rephrase": "Oz is governed from",
        "neighborhood": [
            "The capital of Peru is",
            {"prompt": "The capital of Chile is", "answer": "Santiago"},
        ],
        "target_true": "Emerald City",
        "id": "oz",
        "fact": "capital of Oz",
        "comment": "ignored",
    }
    assert read_requests(write(tmp_path, [record])) == [
        EditRequest(
            "The capital of {} is",
            "Oz",
            "Rome",
            ("Oz is governed from",),
            (Probe("The capital of Peru is"), Probe("The capital of Chile is", "Santiago")),
            target_true="Emerald City",
            fact="capital of Oz",
            id="oz",
        )
    ]


def test_records_are_called_by_name_or_number(tmp_path: Path) -> None:
    records = [PLAIN, {**PLAIN, "id": "x"}, {**PLAIN, "case_id": 0}, CASE, {**CASE, "case_id": "c"}]
    requests = read_requests(write(tmp_path, records))
    assert [request.id for request in requests] == ["1", "x", "0", "4/1", "4/2", "c/1", "c/2"]
    assert [request.case for request in requests] == ["", "", "", "4", "4", "c", "c"]
    assert [request.id for request in read_requests(write(tmp_path, records), limit=4)] == ["1", "x", "0", "4/1", "4/2"]


def test_several_sources_in_a_row(tmp_path: Path) -> None:
    first = write(tmp_path, [{**PLAIN, "subject": name} for name in "AB"], "first.json")
    second = write(tmp_path, [CASE, {**PLAIN, "subject": "C"}], "second.json")
    stream = read_stream([first, second, second])
    assert [[edit.subject for edit in edits] for edits in stream] == [
        *(["A"], ["B"]),
        *(["Oz", "Ix"], ["C"]),
        *(["Oz", "Ix"], ["C"]),
    ]
    assert [edits[0].case for edits in stream] == ["", "", "2:1", "", "3:1", ""]  # cases of several files stay apart
    assert [edits[0].subject for edits in read_stream([first, second], 1, 3)] == ["B", "Oz"]
    assert read_stream([first], 2) == []
    with pytest.raises(InputError, match=r"second\.json, record 2: expected 'subject' to be a non-empty string"):
        read_stream([first, write(tmp_path, [PLAIN, {**PLAIN, "subject": ""}], "second.json")])


def test_records_before_the_start_need_not_be_usable(tmp_path: Path) -> None:
    path = write(tmp_path, [{"damaged": 1}, PLAIN])
    assert [edit.id for edits in read_stream([path], 1) for edit in edits] == ["2"]


def test_unusable_records_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, [{**PLAIN, "target_new": ""}, PLAIN, 5, {**PLAIN, "id": "last"}])
    with pytest.warns(
        UserWarning, match="2 of 4 records cannot be used and are left out, first .*edits.dat, record 1: "
    ):
        requests = read_requests(path, skip_unusable=True)
    assert [request.id for request in requests] == ["2", "last"]
    with pytest.warns(UserWarning, match="1 of 2 records cannot"):
        assert len(read_requests(path, limit=2, skip_unusable=True)) == 1
    nothing = message(tmp_path, [{**PLAIN, "target_new": ""}], skip_unusable=True)
    assert nothing == "DIR/edits.dat, record 1: expected 'target_new' to be a non-empty string, got ''; fill it in."


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "expected at least one record in DIR/edits.dat, got none; check the file or the data set."),
        (
            [PLAIN, {"prompt": "x", "answer": "y"}],
            "DIR/edits.dat, record 2: expected the fields of a format, CounterFact (requested_rewrite), ",
        ),
        ([PLAIN, 5], "DIR/edits.dat, record 2: expected an object with the fields of a format, "),
        (
            [{**PLAIN, "prompt": "{} and {}"}],
            "DIR/edits.dat, record 1: expected 'prompt' to contain one {} in place of the subject, got 2 in '{} an",
        ),
        (
            [{"requested_rewrite": [PLAIN, {**PLAIN, "prompt": "{} and {}"}]}],
            "DIR/edits.dat, record 1: rewrite 2: expected 'prompt' to contain one {} in place of the subject, got",
        ),
    ],
)
def test_error_texts(tmp_path: Path, content: Any, text: str) -> None:
    assert message(tmp_path, content).startswith(text)


def test_values_of_numpy_and_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    texts = np.array(["Oz, was", "Oz! is"], dtype=object)
    record = {
        **PLAIN,
        "target_new": np.int64(1969),
        "rephrase": texts,
        "openings": np.array([], dtype=object),
        "statements": pandas.NA,
        "neighborhood": np.array([{"prompt": "Ix is", "answer": np.array(["Rome", pandas.NA], dtype=object)}]),
        "target_true": pandas.NaT,
        "id": np.int64(7),
        "case_id": pandas.NA,
    }
    assert requests_from_records([record]) == [
        EditRequest(
            PLAIN["prompt"], "Oz", "1969", ("Oz, was", "Oz! is"), (Probe("Ix is", "Rome"),), target_true=None, id="7"
        )
    ]
    case = {"requested_rewrite": np.array(CASE["requested_rewrite"]), "case_id": pandas.NA}
    assert [edit.id for edit in requests_from_records([case])] == ["1/1", "1/2"]
    with pytest.raises(
        InputError, match=r"^the edits, record 1: expected 'target_new' to be a non-empty string, got <NA>"
    ):
        requests_from_records([{**PLAIN, "target_new": pandas.NA}])
    with pytest.raises(InputError, match="record 1: expected 'subject' to be a non-empty string, got 3; fill it in"):
        requests_from_records([{**PLAIN, "subject": np.int64(3)}])


def test_nesting_without_end() -> None:
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(InputError, match="record 1: expected fields nested a few levels deep, got one of hundreds"):
        requests_from_records([{**PLAIN, "rephrase": deep}])


def test_numbers_as_texts_are_kept_with_a_warning(tmp_path: Path) -> None:
    """Version 3.0 is not version 3, and a text does not tell what a table program made of 1969."""
    text = "prompt,subject,target_new,target_true\n{} is,Oz,1969.0,\n{} is,Ix,3.05,2.0\n"
    with pytest.warns(UserWarning, match="kept") as said:
        first, second = read_requests(write(tmp_path, text, "edits.csv"))
    assert [str(warning.message).replace(str(tmp_path), "DIR") for warning in said] == [
        "answers that end in .0 are kept as they are written, first '1969.0' in DIR/edits.csv, record 1; write a whole "
        "number without it"
    ]
    assert (first.target_new, second.target_new, second.target_true) == ("1969.0", "3.05", "2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (edit,) = requests_from_records([{**PLAIN, "target_new": 1969.0, "rephrase": "Oz 2.0 is"}])
    assert edit.target_new == "1969"


def test_errors_of_options(tmp_path: Path) -> None:
    assert message(tmp_path, [PLAIN], limit=0).startswith("expected 'limit' of at least 1")
    assert message(tmp_path, [PLAIN], target="pred").startswith("expected 'target' to be 'answers' or 'alt'")
    with pytest.raises(InputError, match=r"^the edits, record 1: expected 'subject' to be a non-empty string"):
        requests_from_records([{**PLAIN, "subject": None}])


def test_the_documented_records() -> None:
    blocks = (ROOT / "docs" / "data.md").read_text("utf-8").split("```json\n")[1:]
    records = [json.loads(block.split("```", 1)[0]) for block in blocks]
    used = {next(form for form in FORMATS if form.recognizes(record)) for record in records}
    assert used == set(FORMATS)
    requests = requests_from_records(records)
    assert len(requests) == len(records) + 1  # MQuAKE's gives two
    tested = [request for request in requests if request.rephrase or request.axes]
    assert len(tested) == len(requests) - 1  # all but the plain one


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not here")
def test_shared_samples() -> None:
    assert len(read_requests(SHARED / "counterfact_edits.jsonl")) == 499
    for name in ("K0", "KP", "KI"):
        for target in ("answers", "alt"):
            requests = read_requests(SHARED / f"alphaset_{name}_sample.json", target=target)  # type: ignore[arg-type]
            assert len(requests) == 6
            assert all(request.subject in request.question for request in requests)
            assert all(request.rephrase and request.neighborhood[0].answer for request in requests)
            assert all(request.neighborhood[0].prompt.startswith("nq question: ") for request in requests)
