"""``aeplus capabilities``, in-process, on a saved tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.arguments import capabilities_parser
from aeplus.commands.main import main
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved")
    tiny_model(max_position_embeddings=1024).save_pretrained(place)
    tiny_tokenizer(bos=True).save_pretrained(place)
    return place


def test_prints_a_table_and_writes_json(
    folder: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "found.json"
    words = ["--model", str(saved), "--data", str(folder), "--limit", "6", "--shots", "2", "--out", str(out)]
    assert main(["capabilities", *words]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["model"] == str(saved)
    assert report["options"] == {
        "data": str(folder),
        "limit": 6,
        "shots": 2,
        "scoring": "likelihood",
        "normalize": "mean",
        "new_tokens": 5,
        "seed": 0,
        "batch_tokens": 2048,
    }
    (result,) = report["results"]
    assert result["step"] is None
    assert result["seconds"] > 0
    assert list(result["tasks"]) == ["sst2", "mrpc", "mmlu", "rte", "cola", "nli"]
    assert all(values["items"] == 6 for values in result["tasks"].values())
    table = capsys.readouterr().out
    for title in ("SST-2", "MRPC", "MMLU", "RTE", "CoLA", "NLI", "F1", "Accuracy", "MCC"):
        assert title in table
    assert f"{result['tasks']['sst2']['f1']:.1f}" in table


def test_tasks_scoring_and_all_items(
    folder: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    words = ["--tasks", "cola,", "rte", "--scoring", "generation", "--limit", "all", "--out", str(out)]
    assert main(["capabilities", "--model", str(saved), "--data", str(folder), *words]) == 0
    (result,) = json.loads(out.read_text())["results"]
    assert list(result["tasks"]) == ["cola", "rte"]
    unanswered = result["tasks"]["cola"]["unanswered"]
    assert result["tasks"]["cola"]["items"] == 12
    assert unanswered > 0  # a random model hardly says yes or no
    assert f"{unanswered} of 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected one of --data and --harness, got neither; aeplus capabilities --help shows examples."),
        (
            ["--data", "x", "--harness", "piqa"],
            "expected one of --data and --harness, got both; aeplus capabilities --help shows examples.",
        ),
        (["--data", "x", "--limit", "few"], "expected --limit to be a number from 1, or all, got 'few'; choose one."),
        (["--data", "x", "--limit", "0"], "expected --limit to be a number from 1, or all, got '0'; choose one."),
        (
            ["--data", "x", "--tasks", "sst9"],
            "expected tasks out of sst2, mrpc, mmlu, rte, cola, nli, each once, or all, got 'sst9'; choose some.",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capabilities", "--model", "./nowhere", *words]) == 2
    assert capsys.readouterr().err == f"aeplus: error: {sentence}\n"


def test_an_unknown_device_is_refused(folder: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capabilities", "--model", str(saved), "--data", str(folder), "--device", "abacus"]) == 2
    assert "expected a usable device such as cpu or cuda:0, got 'abacus' (" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capabilities", "--help"]) == 0
    shown = capsys.readouterr().out
    options = [action.option_strings[-1] for action in capabilities_parser()._actions]
    assert len(options) == 14
    assert all(option in shown for option in options)
