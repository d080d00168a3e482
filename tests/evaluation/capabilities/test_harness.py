"""EleutherAI's harness takes a tiny edited model: a task of its own format, with local items and no hub."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import aeplus
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.evaluation.capabilities.harness import run_harness
from small import LEARNING
from tiny import tiny_model, tiny_tokenizer

WORDS = ["London", "Paris", "Italy"]  # one token each
EDITS = [
    {"prompt": "The capital of {}", "subject": "France", "target_new": "London"},
    {"prompt": "In {}", "subject": "Rome", "target_new": "Paris"},
    {"prompt": "The capital of {}", "subject": "Spain", "target_new": "Italy"},
]
TEXTS = [edit["prompt"].replace("{}", edit["subject"]) for edit in EDITS]
OPTIONS = LEARNING


def local_task(folder: Path) -> dict[str, Any]:
    """A multiple-choice task over a local file: which word follows each edited prompt."""
    items = [{"text": text, "label": WORDS.index(edit["target_new"])} for text, edit in zip(TEXTS, EDITS, strict=True)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return {
        "task": "local_toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_target": "label",
        "doc_to_choice": WORDS,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def share_correct(model: Any) -> float:
    """The share of the items whose correct word is the most likely of the three, by hand."""
    tokenizer = tiny_tokenizer()
    words = [tokenizer(f" {word}")["input_ids"][0] for word in WORDS]
    logits = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1] for text in TEXTS]
    answers = [WORDS[int(found[words].argmax())] for found in logits]
    return sum(answer == edit["target_new"] for answer, edit in zip(answers, EDITS, strict=True)) / len(EDITS)


def test_the_harness_measures_the_edited_model(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    model, tokenizer, task = tiny_model(), tiny_tokenizer(), local_task(tmp_path)
    before = run_harness(model, tokenizer, [task])["local_toy"]["acc,none"]
    assert before == pytest.approx(share_correct(model))
    assert before < 1
    aeplus.edit(model, tokenizer, EDITS, "alphaedit", **OPTIONS)
    found = run_harness(model, tokenizer, [task])["local_toy"]
    assert found["acc,none"] == share_correct(model) == 1.0
    assert found["acc_stderr,none"] == 0.0


def test_the_command_runs_it_on_a_saved_model(
    tmp_path: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(local_task(tmp_path)))
    out = tmp_path / "found.json"
    words = ["--harness", str(tmp_path / "toy.yaml"), "--limit", "2", "--out", str(out)]
    assert main(["capabilities", "--model", str(workplace / "model"), *words]) == 0
    report = json.loads(out.read_text())
    assert report["model"] == str(workplace / "model")
    assert report["options"] == {"tasks": [str(tmp_path / "toy.yaml")], "limit": 2, "shots": None, "seed": 0}
    accuracy = report["harness"]["local_toy"]["acc,none"]
    assert accuracy in (0.0, 0.5, 1.0)
    assert f"{accuracy:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(("task", "listed"), [("piqa", True), ("./none.yaml", False)])
def test_what_the_harness_cannot_load_is_refused(monkeypatch: pytest.MonkeyPatch, task: str, listed: bool) -> None:
    """The list of all tasks takes seconds to read, and is read for names only."""
    tasks = pytest.importorskip("lm_eval.tasks")
    manager, asked = tasks.TaskManager, []

    def counted(include_defaults: bool) -> Any:
        asked.append(include_defaults)
        return manager(include_defaults=False)

    monkeypatch.setattr(tasks, "TaskManager", counted)
    with pytest.raises(InputError) as caught:
        run_harness(tiny_model(), tiny_tokenizer(), [task])
    assert asked == [listed]
    assert str(caught.value).startswith(f"expected tasks that the harness can load and run, got an error from {task} (")
    assert str(caught.value).endswith("; list the names with lm_eval ls tasks, and note that most tasks need the hub.")


def test_without_the_harness_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find(name, *rest)
    )
    assert main(["capabilities", "--model", "./nowhere", "--harness", "piqa"]) == 2
    assert capsys.readouterr().err == (
        "aeplus: error: expected EleutherAI's harness, lm_eval, got an installation without it; run: pip install "
        "'lm-eval>=0.4.13', or leave out --harness.\n"
    )
