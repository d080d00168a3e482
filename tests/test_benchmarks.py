"""The benchmark of a model's phases runs at toy size; what it measures there says nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads((tmp_path / "tiny.json").read_text())
    phases = {"fixed", "statistics", "targets", "keys", "solve", "validate", "other"}
    assert set(written["seconds"]) == set(written["floor"]) == phases
    assert all(written["floor"][phase] > 0 for phase in phases - {"other"})
    assert written["peak_bytes"] > written["weight_bytes"] > 0
    assert "plain optimizer" in done.stdout
    assert "aten::" in (tmp_path / "step.txt").read_text()
