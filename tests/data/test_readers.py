"""Readers: every format from a small record, every error by its text."""

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from aeplus.data.readers import read_requests, requests_from_records
from aeplus.data.request import EditRequest, Probe
from aeplus.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"

PLAIN = {"prompt": "The capital of {} is", "subject": "Oz", "target_new": "Rome"}
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
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Ann",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["Ann spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Léon is"],
    "attribute_prompts": [],
}


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
            "Emerald City",
            fact="capital of Oz",
            id="oz",
        )
    ]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_form_of_the_file_is_told_by_its_content(tmp_path: Path, lines: bool, zipped: bool) -> None:
    records = [PLAIN, {**PLAIN, "subject": "Ix\u2028"}, {**PLAIN, "subject": "Ap"}]
    text = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in records) if lines else json.dumps(records)
    data = ("\ufeff" + text).encode()
    path = tmp_path / "edits.bin"
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert [r.subject for r in read_requests(path)] == ["Oz", "Ix", "Ap"]
    assert [r.id for r in read_requests(path, limit=2)] == ["1", "2"]


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    assert read_requests(write(tmp_path, json.dumps(PLAIN, indent=2)))[0].subject == "Oz"


def test_lines_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    assert len(read_requests(write(tmp_path, json.dumps(PLAIN) + "\n{damaged"), limit=1)) == 1


def test_zsre(tmp_path: Path) -> None:
    path = write(tmp_path, [ZSRE])
    (request,) = read_requests(path)
    assert request.prompt == "In which language is {} named?"
    assert (request.subject, request.target_new) == ("Parken", "Danish")
    assert request.rephrase == ("What language is Parken's name in?",)
    assert request.neighborhood == (Probe("who sang it", "Judy"),)
    assert read_requests(path, target="alt")[0].target_new == "English"


def test_counterfact(tmp_path: Path) -> None:
    (request,) = read_requests(write(tmp_path, [COUNTERFACT]))
    assert request == EditRequest(
        "The mother tongue of {} is",
        "Ann",
        "English",
        ("Ann spoke the language",),
        (Probe("The mother tongue of Léon is", "French"),),
        "French",
        id="7",
    )


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
    (request,) = requests_from_records([{**ZSRE, "src": src, "subject": subject}])
    assert request.prompt == prompt
    assert request.question == src


def test_a_complete_prompt_is_a_plain_prompt_too() -> None:
    (request,) = requests_from_records([{**PLAIN, "prompt": "The capital of Oz is "}])
    assert request.prompt == PLAIN["prompt"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "Expected edits, but DIR/edits.dat is empty; give a file with at least one record."),
        ("[]", "Expected edits, but DIR/edits.dat holds no records; give a source with at least one."),
        (
            json.dumps(PLAIN) + "\nhello",
            "Expected a JSON array or JSON Lines, but line 2 of DIR/edits.dat is not JSON (Expecting value); "
            "correct it.",
        ),
        (
            "[\n1,\n]",
            "Expected a JSON array or JSON Lines, but line 3 of DIR/edits.dat is not JSON (",
        ),
        (
            [PLAIN, {"prompt": "x", "answer": "y"}],
            "DIR/edits.dat, record 2: expected the fields of a format, CounterFact (requested_rewrite), "
            "ZsRE (src, subject, answers or alt) or plain (prompt, subject, target_new), "
            "but it has prompt, answer; rename its fields.",
        ),
        ([PLAIN, 5], "DIR/edits.dat, record 2: expected an object with the fields of a format, "),
        (
            [{**PLAIN, "target_new": " "}],
            "DIR/edits.dat, record 1: 'target_new' must be a text that is not empty, but is ' '; fill it in.",
        ),
        (
            [{**ZSRE, "answers": []}],
            "DIR/edits.dat, record 1: 'answers' must be a text that is not empty, but is []; fill it in.",
        ),
        (
            [PLAIN, {**ZSRE, "src": "Who?"}],
            "DIR/edits.dat, record 2: 'src' must hold the subject 'Parken', but is 'Who?'; correct either.",
        ),
        (
            [{**ZSRE, "src": "Is {} Parken?"}],
            "DIR/edits.dat, record 1: 'src' may not hold {}, which marks the subject's place, but is "
            "'Is {} Parken?'; reword it.",
        ),
        (
            [{**PLAIN, "prompt": "{} and {}"}],
            "DIR/edits.dat, record 1: 'prompt' must hold one {} where the subject stands, but '{} and {}' holds 2;",
        ),
        (
            [{**PLAIN, "prompt": "Who?"}],
            "DIR/edits.dat, record 1: 'prompt' must hold the subject 'Oz', but is 'Who?'; correct either.",
        ),
        (
            [{**PLAIN, "rephrase": 3}],
            "DIR/edits.dat, record 1: 'rephrase' must be a text or a list of texts, but is 3; correct it.",
        ),
        (
            [{**PLAIN, "neighborhood": [3]}],
            "DIR/edits.dat, record 1: 'neighborhood' must list texts or objects with prompt and answer, "
            "but holds 3; correct it.",
        ),
        (
            [{"requested_rewrite": {**PLAIN, "target_new": {"str": None}}}],
            "DIR/edits.dat, record 1: 'target_new' must be a text that is not empty, but is None; fill",
        ),
    ],
)
def test_error_texts(tmp_path: Path, content: Any, text: str) -> None:
    assert message(tmp_path, content).startswith(text)


def test_errors_of_options_and_paths(tmp_path: Path) -> None:
    assert message(tmp_path, [PLAIN], limit=0).startswith("'limit' must be at least 1")
    assert message(tmp_path, [PLAIN], target="pred").startswith("'target' must be 'answers' or 'alt'")
    with pytest.raises(InputError, match=r"^Expected a file of edits, but .* is a folder; give the path"):
        read_requests(tmp_path)
    for missing in (tmp_path / "none.json", "none.jsonl", "data/none.jsonl"):
        with pytest.raises(InputError, match=r"^Expected a file of edits, but .* does not exist; check"):
            read_requests(missing)


def test_damaged_bytes(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(gzip.compress(json.dumps([PLAIN] * 50).encode())[:-9])
    with pytest.raises(InputError, match=r"^Expected a whole gzip file, but .* is damaged"):
        read_requests(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match=r"^Expected UTF-8 text, but .* is not \(invalid start byte at byte 0\)"):
        read_requests(path)


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        if split == "none":
            reason = "Unknown split\n'none'."
            raise ValueError(reason)
        return [COUNTERFACT, COUNTERFACT]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert len(read_requests("some/data", limit=1)) == 1
    assert len(read_requests("some/data:test")) == 2
    assert asked == [("some/data", "train"), ("some/data", "test")]
    with pytest.raises(InputError, match=r"no file 'some/data' .*\(Unknown split 'none'\); check the name"):
        read_requests("some/data:none")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not here")
def test_shared_samples() -> None:
    assert len(read_requests(SHARED / "counterfact_edits.jsonl")) == 499
    for name in ("K0", "KP", "KI"):
        requests = read_requests(SHARED / f"alphaset_{name}_sample.json")
        assert len(requests) == 6
        assert all(request.subject in request.question for request in requests)
