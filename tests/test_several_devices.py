"""Several processes make one run: the result is that of one, one of them writes, and an error ends all."""

import json
import os
import subprocess
import sys
import time
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
PAIR = ["--trainer.strategy=ddp", "--trainer.devices=2"]
ALONE = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_PORT", "AEPLUS_LAUNCHER")


def start(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder with a cache of its own, within two minutes."""
    inherited = {name: value for name, value in os.environ.items() if name not in ALONE}
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    own = {"PYTHONPATH": paths, "AEPLUS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, "-m", "aeplus", *arguments]
    return subprocess.run(  # noqa: S603
        command, cwd=folder, env=inherited | own, capture_output=True, text=True, timeout=120, check=False
    )


def run_of(folder: Path) -> Path:
    (run,) = folder.glob("lightning_logs/edits/*")
    return run


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
    expected, found = updates(one), updates(several)
    assert expected.keys() == found.keys()
    for layer, update in expected.items():
        torch.testing.assert_close(found[layer], update, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def alone(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
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


def test_two_processes_make_the_run_of_one(workplace: Path, alone: Path, tmp_path: Path) -> None:
    witness = f'--trainer.callbacks+={{"class_path": "witness.Witness", "init_args": {{"folder": "{tmp_path}"}}}}'
    done = start(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *FOUR, *PAIR, *CALLBACKS, witness)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(alone, tmp_path)
    seen = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert seen[0] == seen[1]
    assert seen[0]["world"] == 2
    names = [
        {p.relative_to(run).as_posix() for p in run.rglob("*") if "tfevents" not in p.name}
        for run in map(run_of, (alone, tmp_path))
    ]
    assert names[0] == names[1]
    assert len(list(run_of(tmp_path).glob("events.out.tfevents.*"))) == 1
    assert done.stdout.count("metrics: ") == done.stdout.count("Generations") == 1
