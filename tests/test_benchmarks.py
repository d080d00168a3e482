"""The benchmark of a model's phases runs at toy size; what it measures there says nothing."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import big_model
from aeplus.methods.batch import BatchEdit
from aeplus.methods.closed_form import Proposal
from small import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("method", ["alphaedit", "alphaedit_plus"])
def test_big_model_writes_what_it_promises(method: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "big_model", "--shapes", "tiny", "--edits", "4", "--batch", "2"]
    command += [
        "--tokens",
        "2000",
        "--steps",
        "3",
        "--method",
        method,
        "--keep",
        "outside",
        "--journal",
        "--plus",
        "last",
    ]
    command += ["--reference", "1", "--profile", str(tmp_path / "step.txt"), "--json", str(tmp_path / "tiny.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads((tmp_path / "tiny.json").read_text())
    phases = {"fixed", "statistics", "targets", "keys", "solve", "validate", "other"}
    assert set(written["seconds"]) == set(written["floor"]) == phases
    assert all(written["floor"][phase] > 0 for phase in phases - {"other"})
    assert written["peak_bytes"] > written["weight_bytes"] > 0
    assert "plain optimizer" in done.stdout
    assert "aten::" in (tmp_path / "step.txt").read_text()


def test_what_is_committed_is_timed_as_solving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found once more by itself, where all candidates were found in one pass."""
    ticks = itertools.count()
    monkeypatch.setattr(big_model, "now", lambda: float(next(ticks)))
    editor: Any = SimpleNamespace(propose_all=lambda: [Proposal([])], propose=lambda iteration: [])
    snapshot: Any = SimpleNamespace(sites=[], restore=lambda: None)
    clock = big_model.Clock()
    with clock.watching():
        batch = BatchEdit(snapshot, editor, parallel=True)
        batch.candidate(0)
        assert clock.seconds["solve"] == 1.0
        batch.final()
    assert clock.seconds["solve"] == 2.0
    assert clock.counts["candidate"] == 1
