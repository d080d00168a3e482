"""Runs killed at random moments end, resumed, with the weights of one that nobody killed (benchmarks/kills.py)."""

import os
import subprocess
import sys

import pytest

from small import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("method", ["alphaedit_plus", "rect"])
def test_killed_runs_end_with_the_weights_of_one_that_was_not(method: str) -> None:
    command = [sys.executable, "-m", "benchmarks", "kills", "--kills", "8", "--method", method]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "8 kills" in done.stdout
