"""Starts the command in processes of its own, and compares the runs that they make."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aeplus.commands.main import main

ROOT = Path(__file__).parents[1]
CALLBACKS = [
    *(f"--trainer.callbacks+=aeplus.callbacks.{name}" for name in ("EvaluationWriter", "FigureWriter")),
    "--trainer.callbacks.figures=[score]",
]
FOUR = ["--data.limit=4"]  # a batch of three and one of one: neither is divided evenly
ALONE = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_PORT", "AEPLUS_LAUNCHER")


def begin(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Starts the command in a folder with a cache of its own, and in a group of processes of its own."""
    inherited = {name: value for name, value in os.environ.items() if name not in ALONE}
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    own = {"PYTHONPATH": paths, "AEPLUS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, "-m", "aeplus", *arguments]
    files = {name: (folder / f"{name}.txt").open("w") for name in ("stdout", "stderr")}
    return subprocess.Popen(command, cwd=folder, env=inherited | own, text=True, start_new_session=True, **files)


def end(process: subprocess.Popen[str]) -> int:
    """The status of a command that ends within three minutes; no process of its group is left."""
    try:
        return process.wait(180)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def start(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    status = end(begin(folder, *arguments, launcher=launcher))
    said = [(folder / f"{name}.txt").read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, status, *said)


def run_of(folder: Path) -> Path:
    """The last run of a folder."""
    return max(folder.glob("lightning_logs/edits/*"), key=lambda run: int(run.name.removeprefix("version_")))


def updates(folder: Path) -> dict[str, Tensor]:
    """The sum of all updates of each layer."""
    total: dict[str, Tensor] = {}
    for file in sorted((run_of(folder) / "journal").glob("*.safetensors")):
        tensors = load_file(file)
        for name in (name.removesuffix(".left") for name in tensors if name.endswith(".left")):
            total[name] = total.get(name, torch.zeros(())) + tensors[f"{name}.left"] @ tensors[f"{name}.right"]
    return total


def metrics(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run_of(folder) / "metrics.json").read_text())
    return read


def assert_equal_runs(one: Path, several: Path) -> None:
    first, second = metrics(one), metrics(several)
    for name in ("before", "after", "intervals", "hits", "measures", "edits_done"):
        assert first[name] == second[name], name
    for a, b in zip(first["batches"], second["batches"], strict=True):
        for name in ("validation_score", "committed_iteration", "smoothing_iterations", "rank"):
            assert a[name] == b[name], name
    assert_near(updates(several), updates(one))


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Float32's rounding apart, in the norm: products of other shapes are rounded otherwise."""
    assert expected.keys() == found.keys()
    for layer, update in expected.items():
        assert float((found[layer] - update).norm()) <= 1e-5 * float(update.norm()), layer


def run_alone(workplace: Path, folder: Path) -> Path:
    """A run of one process, in this one."""
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("AEPLUS_CACHE", str(folder / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["fit", f"--config={workplace}/tiny.yaml", *FOUR, *CALLBACKS]) == 0
    finally:
        torch.set_num_threads(threads)
        patch.undo()
    return folder


def witness(folder: Path, **arguments: Any) -> str:
    given = json.dumps({"folder": str(folder), **arguments})
    return f'--trainer.callbacks+={{"class_path": "witness.Witness", "init_args": {given}}}'
