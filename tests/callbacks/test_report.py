"""How often ``metrics.json`` is written while a run commits its batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aeplus.callbacks import report
from aeplus.commands.main import main
from aeplus.run.report import RunReport
from aeplus.run.session import EditSession


@pytest.fixture
def fit(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, list[int]]]:
    """Edits seven batches of one; gives the status and what each write of the file says is done."""
    monkeypatch.chdir(tmp_path)
    written: list[int] = []
    original = RunReport.write

    def write(self: RunReport, path: Path) -> None:
        written.append(self.edits_done)
        original(self, path)

    monkeypatch.setattr(RunReport, "write", write)
    words = ["fit", f"--config={workplace}/tiny.yaml", "--config=method/memit", "--model.targets.steps=1"]
    callbacks = "--trainer.callbacks=[{class_path: aeplus.callbacks.JournalWriter, init_args: {table: false}}]"
    return lambda: (main([*words, "--data.batch_size=1", callbacks]), written)


def test_the_file_is_written_every_few_seconds_and_at_the_end(
    fit: Callable[[], tuple[int, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_REST", (600.0, 0.0))
    assert fit() == (0, [1, 7])


def test_a_run_that_is_interrupted_writes_all_that_is_done(
    fit: Callable[[], tuple[int, list[int]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "_REST", (600.0, 0.0))
    original = EditSession.commit

    def commit(self: EditSession) -> Any:
        if len(self.entries) == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(EditSession, "commit", commit)
    assert fit() == (130, [1, 4])
    (metrics,) = tmp_path.rglob("metrics.json")
    assert len(json.loads(metrics.read_text())["batches"]) == 4
    assert "interrupted: 4 of 7 batches committed, 4 of 7 edits" in capsys.readouterr().err


def test_a_batch_that_takes_long_is_written(
    fit: Callable[[], tuple[int, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_REST", (0.0, 0.0))
    assert fit() == (0, [1, 2, 3, 4, 5, 6, 7, 7])
