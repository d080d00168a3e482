"""Items from files and the hub: their fields and labels, the shuffle, and what is refused."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from aeplus.errors import InputError
from aeplus.evaluation.capabilities.items import load_tasks, read_items
from aeplus.evaluation.capabilities.tasks import TASKS, CapabilityOptions, tasks_named

SHARED = Path(__file__).parents[4] / "shared" / "data"
PAIR = {"sentence1": "P.", "sentence2": "Q."}
QUESTION = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 0}
EMPTY = "to be a non-empty string, got"


def write(folder: Path, name: str, *records: Any) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


@pytest.mark.parametrize(
    ("name", "record", "prompt", "answer"),
    [
        ("sst2", {"sentence": " so bad . ", "label": 0}, "Review : so bad .\nSentiment :", "negative"),
        ("sst2", {"sentence": "good", "label": 1}, "Review : good\nSentiment :", "positive"),
        (
            "mrpc",
            {"sentence1": "A b.", "sentence2": "B a.", "label": 1},
            "Are the sentences paraphrases of each other.\nSentence 1: A b.\nSentence 2: B a.\nAnswer:",
            "Yes",
        ),
        (
            "mmlu",
            {"question": "Which {}?", "choices": ["w", "x{0}", "y", "z"], "answer": 2, "subject": "art"},
            "Question: Which {}?\n(A) w\n(B) x{0}\n(C) y\n(D) z\nAnswer:",
            "C",
        ),
        ("rte", {**PAIR, "label": 0}, "P.\nquestion: Q. True or False?\nanswer:", "True"),
        ("rte", {**PAIR, "label": 1}, "P.\nquestion: Q. True or False?\nanswer:", "False"),
        (
            "cola",
            {"sentence": "I reads.", "label": 0},
            "Is this sentence linguistically acceptable?\nSentence: I reads.\nAnswer:",
            "No",
        ),
        (
            "nli",
            {**PAIR, "label": "entailment"},
            "P. entails the Q. True or False? Answer:",
            "True",
        ),
        (
            "nli",
            {**PAIR, "label": "not_entailment"},
            "P. entails the Q. True or False? Answer:",
            "False",
        ),
    ],
)
def test_prompts_and_labels_of_the_published_records(
    tmp_path: Path, name: str, record: dict[str, Any], prompt: str, answer: str
) -> None:
    write(tmp_path, name, record)
    (item,) = read_items(TASKS[name], tmp_path)
    assert TASKS[name].prompt(item.fields) == prompt
    assert TASKS[name].options[item.label] == answer


def test_a_json_array_is_read_too(tmp_path: Path) -> None:
    records = [{"sentence": "One.", "label": 0}, {"sentence": "Two.", "label": 1}]
    (tmp_path / "cola.json").write_text(json.dumps(records, indent=1))
    items = read_items(TASKS["cola"], tmp_path)
    assert [(item.fields["sentence"], item.label) for item in items] == [("One.", 0), ("Two.", 1)]
    assert items[1].source == f"{tmp_path}/cola.json, item 2"


def test_lines_may_hold_line_separators_and_be_blank(tmp_path: Path) -> None:
    (tmp_path / "cola.jsonl").write_text('{"sentence": "A\u2028b", "label": 0}\n\n{"sentence": "C", "label": 1}\n')
    items = read_items(TASKS["cola"], tmp_path)
    assert [item.source.rsplit(", ")[-1] for item in items] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("name", "record", "sentence"),
    [
        ("sst2", {"label": 0}, f"expected 'sentence' {EMPTY} None; fill it in."),
        ("sst2", {"sentence": "  ", "label": 0}, f"expected 'sentence' {EMPTY} '  '; fill it in."),
        ("rte", {**PAIR, "sentence2": 5, "label": 0}, f"expected 'sentence2' {EMPTY} 5; fill it in."),
        ("mrpc", {**PAIR, "label": -1}, "expected 'label' to be 0 or 1, got -1; correct it."),
        ("mrpc", PAIR, "expected 'label' to be 0 or 1, got None; correct it."),
        ("mrpc", {**PAIR, "label": True}, "expected 'label' to be 0 or 1, got True; correct it."),
        (
            "nli",
            {**PAIR, "label": "neutral"},
            "expected 'label' to be 1, 'not_entailment', 0 or 'entailment', got 'neutral'; correct it.",
        ),
        (
            "mmlu",
            {**QUESTION, "answer": 4},
            "expected 'answer' to be 0, 'A', 1, 'B', 2, 'C', 3 or 'D', got 4; correct it.",
        ),
        (
            "mmlu",
            {**QUESTION, "choices": ["a", "b", "c"]},
            "expected 'choices' to be a list of 4 non-empty strings, got ['a', 'b', 'c']; correct it.",
        ),
        ("cola", ["x"], "expected an object with the fields of cola, got ['x']; correct it."),
    ],
)
def test_a_damaged_item_is_named_by_file_line_and_field(tmp_path: Path, name: str, record: Any, sentence: str) -> None:
    good = {"cola": {"sentence": "x", "label": 0}, "sst2": {"sentence": "x", "label": 0}, "mmlu": QUESTION}
    path = write(tmp_path, name, good.get(name, {**PAIR, "label": 0}), record)
    with pytest.raises(InputError) as caught:
        read_items(TASKS[name], tmp_path)
    assert str(caught.value) == f"{path}, line 2: {sentence}"


def test_what_is_no_json_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "sst2", {"sentence": "x", "label": 0}, '{"sentence": "y", "label"')
    with pytest.raises(
        InputError, match=r"expected a JSON array or JSON Lines, got something that is not JSON in line 2 of"
    ) as caught:
        read_items(TASKS["sst2"], tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_cut_in_a_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sst2.jsonl").write_bytes('{"sentence": "é'.encode()[:-1])
    with pytest.raises(InputError, match=r"expected UTF-8 text in .*sst2\.jsonl, got an unexpected end"):
        read_items(TASKS["sst2"], tmp_path)


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sst2.jsonl").write_text(text)
    with pytest.raises(InputError) as caught:
        read_items(TASKS["sst2"], tmp_path)
    assert str(caught.value) == f"expected items of sst2 in {tmp_path}/sst2.jsonl, got none; add at least one."


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_tasks("all", tmp_path, CapabilityOptions())
    assert str(caught.value) == (
        f"expected sst2.jsonl or sst2.json in {tmp_path}, got neither; add one or leave out the task sst2."
    )
    with pytest.raises(InputError) as caught:
        load_tasks("all", tmp_path / "none", CapabilityOptions())
    assert str(caught.value) == (
        f"expected a folder with a file <task>.jsonl for each task, or 'hub', got {tmp_path}/none; check the path."
    )


@pytest.mark.parametrize("names", ["", "sst2,sst3", "sst2 sst2", "all,sst2"])
def test_unknown_and_doubled_names_are_refused(names: str) -> None:
    with pytest.raises(InputError, match="expected tasks out of sst2, mrpc, mmlu, rte, cola, nli, each once, or all"):
        tasks_named(names)
    assert [task.name for task in tasks_named("cola, sst2")] == ["cola", "sst2"]


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_is_asked_for_each_tasks_own_data_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[tuple[Any, ...]] = []
    record = {**QUESTION} if name == "mmlu" else {**PAIR, "sentence": "x", "label": 1}

    def load_dataset(path: str, config: str, split: str) -> list[dict[str, Any]]:
        asked.append((path, config, split))
        return [record, record]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items = read_items(TASKS[name], "hub")
    expected = {
        "mmlu": ("cais/mmlu", "all", "test"),
        "nli": ("nyu-mll/glue", "rte", "train"),
    }.get(name, ("nyu-mll/glue", name, "validation"))
    assert asked == [expected]
    assert len(items) == 2
    assert items[1].source == f"{expected[0]} ({expected[1]}, {expected[2]}), item 2"


def test_what_the_hub_says_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        message = "no route\nto host."
        raise ConnectionError(message)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as caught:
        read_items(TASKS["sst2"], "hub")
    assert str(caught.value) == (
        "expected the data set nyu-mll/glue (sst2, validation) for sst2 on the hub or in the cache, got an error "
        "(no route to host); check the connection, or pass a folder of files."
    )


def test_examples_are_never_scored_and_stay_when_the_limit_grows(folder: Path) -> None:
    def chosen(limit: int | None, shots: int, seed: int = 0) -> tuple[list[str], list[str]]:
        (items,) = load_tasks("sst2", folder, CapabilityOptions(limit=limit, shots=shots, seed=seed))
        return [item.source for item in items.scored], [item.source for item in items.shots]

    every, none = chosen(None, 0)
    assert len(every) == 12
    assert not none
    assert every != sorted(every)  # shuffled
    assert chosen(4, 0) == (every[:4], [])
    few, shots = chosen(4, 3)
    more, same = chosen(8, 3)
    assert shots == same
    assert more[:4] == few
    assert not set(more) & set(shots)
    assert len(chosen(100, 3)[0]) == 9
    assert chosen(4, 3) == (few, shots)  # the same again
    assert chosen(4, 3, seed=1) != (few, shots)


def test_an_item_that_repeats_an_example_is_not_scored(tmp_path: Path) -> None:
    write(tmp_path, "cola", *[{"sentence": f"Text {i % 3}.", "label": 1} for i in range(12)])
    (items,) = load_tasks("cola", tmp_path, CapabilityOptions(limit=None, shots=1))
    assert len(items.scored) == 8  # three of the other eleven have the example's text
    assert items.shots[0].fields not in [item.fields for item in items.scored]


def test_too_many_examples_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="besides 12 examples, got 12 items in all; add items or use"):
        load_tasks("sst2", folder, CapabilityOptions(shots=12))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("limit", 0, "expected capabilities.limit above 0, got 0; choose a positive number."),
        ("shots", -1, "expected capabilities.shots of 0 or more, got -1; choose another number."),
        (
            "scoring",
            "guess",
            "expected capabilities.scoring to be likelihood or generation, got 'guess'; choose one of them.",
        ),
        ("normalize", "max", "expected capabilities.normalize to be mean or sum, got 'max'; choose one of them."),
        ("batch_tokens", 0, "expected capabilities.batch_tokens above 0, got 0; choose a positive number."),
    ],
)
def test_options_are_checked(field: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        CapabilityOptions(**{field: value})
    assert str(caught.value) == sentence


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_published_items_load() -> None:
    tasks = load_tasks("all", SHARED, CapabilityOptions(shots=2))
    assert [len(items.scored) for items in tasks] == [100] * 6
    for items in tasks:
        assert {item.label for item in items.scored} == set(range(len(items.task.options)))
