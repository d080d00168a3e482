"""Several processes make one run: the result is that of one, one of them writes, and an error ends all."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from processes import (
    CALLBACKS,
    FOUR,
    assert_equal_runs,
    assert_near,
    begin,
    end,
    metrics,
    run_alone,
    run_of,
    start,
    updates,
    witness,
)

PAIR = ["--trainer.strategy=ddp", "--trainer.devices=2"]


@pytest.fixture(scope="module")
def alone(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return run_alone(workplace, tmp_path_factory.mktemp("alone"))


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


@pytest.mark.slow
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
def test_a_run_that_ends_early_says_so_once(workplace: Path, tmp_path: Path) -> None:
    done = start(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *FOUR, *PAIR, "--trainer.max_steps=1")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("expected to reach the end of the 4 edits, got 3, as something such as") == 1
    assert "Traceback" not in done.stderr


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
        assert_near(updates(folder), updates(alone))


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
    said = (tmp_path / "stderr.txt").read_text()
    assert re.search(r"interrupted: \d of 7 batches committed, \d of 7 edits; resume with aeplus fit --config", said)
