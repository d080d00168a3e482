"""The contents of metrics.json."""

import json
from pathlib import Path

import pytest
import torch

from aeplus.run.report import RunReport, environment, machine, print_summary


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    report = RunReport("memit", "tiny", 0, leakage=float("inf"))
    report.batches.append({"edits": 2, "layers": [{"sigma_max": float("nan"), "rank": 1}]})
    report.measures["after"] = {"fluency": {"entropy": 0.5, "consistency": float("-inf")}}
    report.write(tmp_path / "metrics.json")
    written = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert written["leakage"] is None
    assert written["batches"] == [{"edits": 2, "layers": [{"sigma_max": None, "rank": 1}]}]
    assert written["measures"]["after"] == {"fluency": {"entropy": 0.5, "consistency": None}}


def test_a_report_that_an_editor_has_saved_is_replaced(tmp_path: Path) -> None:
    report, path = RunReport("memit", "tiny", 0), tmp_path / "metrics.json"
    report.write(path)
    path.write_text(path.read_text("utf-8") + " ", "utf-8")
    report.write(path)
    assert json.loads(path.read_text("utf-8"))["method"] == "memit"


@pytest.mark.parametrize(
    ("edits", "done", "earlier", "title"),
    [
        (7, 7, 0, "7 edits of tiny by memit (%)"),
        (7, 3, 0, "3 of 7 edits of tiny by memit (%)"),
        (9, 9, 7, "2 new edits of tiny by memit, with 7 of the journal (%)"),
        (9, 8, 7, "1 of 2 new edits of tiny by memit, with 7 of the journal (%)"),
        (9, 9, 9, "nothing to do: 9 of 9 edits of tiny are in the journal (%)"),
    ],
)
def test_the_end_tells_new_edits_from_those_of_the_journal(
    edits: int, done: int, earlier: int, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = RunReport("memit", "tiny", 0, edits=edits, edits_done=done)
    print_summary(report, Path("run"), None, earlier=earlier, journal=Path("run/a b"))
    said = " ".join(capsys.readouterr().out.split())
    assert title in said
    assert "journal: run/a b; a model of it: aeplus export 'run/a b' --format huggingface --out FOLDER" in said


@pytest.mark.parametrize(("threads", "said"), [(1, "1 thread"), (2, "2 threads")])
def test_a_tables_note_names_the_machine_as_the_metrics_do(
    threads: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    known, note = environment(torch.device("cpu")), machine(torch.device("cpu"))
    assert known["device"].startswith("cpu (")
    assert note == f"{known['CPU cores']} CPU cores, {said}, torch {known['torch']}, {known['device']}"
