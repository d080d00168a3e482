"""Several processes make one run: the result is that of one, one of them writes, and an error ends all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
PAIR = ["--trainer.strategy=ddp", "--trainer.devices=2"]
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


def witness(folder: Path, **arguments: Any) -> str:
    given = json.dumps({"folder": str(folder), **arguments})
    return f'--trainer.callbacks+={{"class_path": "witness.Witness", "init_args": {given}}}'


def test_two_processes_make_the_run_of_one(workplace: Path, alone: Path, tmp_path: Path) -> None:
    done = start(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *FOUR, *PAIR, *CALLBACKS, witness(tmp_path))
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


def test_an_error_of_one_process_ends_all_with_its_own_text(workplace: Path, tmp_path: Path) -> None:
    failing = witness(tmp_path, failing=1)
    done = start(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *FOUR, *PAIR, failing)
    assert done.returncode != 0
    assert done.stderr.count("aeplus: error: expected process 1 to succeed, got a test; leave it out.\n") == 1
    assert "Traceback" not in done.stderr
    assert "1 of 2 batches committed" in done.stderr
    assert not list(tmp_path.glob("rank_*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["failing=0"], "aeplus: error: expected process 0 to succeed, got a test; leave it out.\n"),
        (["failing=1", "kind=bug"], "OSError: expected process 1 to succeed, got a test; leave it out.\n"),
        (["--model.layers=[99]"], "aeplus: error: expected layers from 0 to 2 for this model, got [99]; choose"),
    ],
)
def test_other_errors_end_all_and_are_said_once(workplace: Path, tmp_path: Path, options: list[str], text: str) -> None:
    given = dict(option.split("=") for option in options if option[0] != "-")
    if given:
        options = [witness(tmp_path, **{**given, "failing": int(given["failing"])})]
    done = start(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *FOUR, *PAIR, *options)
    assert done.returncode != 0
    assert done.stderr.count(text) == 1


@pytest.mark.slow
def test_torchrun_starts_the_processes_as_well(workplace: Path, alone: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    given = ["fit", f"--config={workplace}/tiny.yaml", *FOUR, *CALLBACKS, witness(tmp_path)]
    done = start(tmp_path, *given, *PAIR, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(alone, tmp_path)
    assert json.loads((tmp_path / "rank_1.json").read_text())["world"] == 2
    refused = start(tmp_path, *given, launcher=launcher)
    assert "expected one process, got 2, each of which would edit the same model" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rect", "prune", "encore", "kde", "blue_plus"])
def test_every_kind_of_update_is_the_same_on_both(workplace: Path, tmp_path: Path, method: str) -> None:
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    given = ["fit", f"--config={workplace}/tiny.yaml", f"--config=method/{method}", *FOUR]
    for folder, more in ((alone, []), (pair, [*PAIR, witness(pair)])):
        folder.mkdir()
        done = start(folder, *given, *more)
        assert done.returncode == 0, done.stderr
    assert_equal_runs(alone, pair)
    seen = [json.loads((pair / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_run_of_two_goes_on_from_one_and_one_from_two(workplace: Path, alone: Path, tmp_path: Path) -> None:
    given = ["fit", f"--config={workplace}/tiny.yaml", *CALLBACKS]
    for name, first, second in (("a", PAIR, []), ("b", [], PAIR)):
        (folder := tmp_path / name).mkdir()
        done = start(folder, *given, "--data.limit=3", *first)
        assert done.returncode == 0, done.stderr
        checkpoint = next(folder.glob("lightning_logs/edits/version_0/checkpoints/*.ckpt"))
        done = start(folder, *given, *FOUR, *second, f"--ckpt_path={checkpoint}")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(folder / "lightning_logs/edits/version_0")
        assert metrics(folder)["after"] == metrics(alone)["after"]
        for layer, update in updates(alone).items():
            torch.testing.assert_close(updates(folder)[layer], update, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_validate_measures_the_same(workplace: Path, tmp_path: Path) -> None:
    tables = [start(tmp_path, "validate", f"--config={workplace}/tiny.yaml", *more).stdout for more in ([], PAIR)]
    assert tables[0] == tables[1]
    assert "Measured" in tables[0]


@pytest.mark.slow
def test_several_runs_are_refused_on_several_devices(workplace: Path, tmp_path: Path) -> None:
    given = ["--methods", "memit", "--out", "out", f"--config={workplace}/tiny.yaml", *PAIR]
    done = start(tmp_path, "compare", *given)
    assert done.returncode == 2
    assert "expected one device for several runs, got 2; set trainer.devices: 1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send", "status"), [(signal.SIGINT, os.killpg, 130), (signal.SIGTERM, os.kill, 143)]
)
def test_a_signal_ends_all(
    workplace: Path, tmp_path: Path, number: int, send: Callable[[int, int], None], status: int
) -> None:
    long = ["--data.batch_size=1", "--model.targets.steps=400", "--model.targets.stop_loss=0"]
    process = begin(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *long, *PAIR)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("lightning_logs/edits/*/checkpoints/*.ckpt")) and time.monotonic() < until:
        time.sleep(0.1)
    send(process.pid, number)
    assert end(process) == status
    assert "batches committed; resume with --ckpt_path" in (tmp_path / "stderr.txt").read_text()
