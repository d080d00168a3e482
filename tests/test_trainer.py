"""What a trainer is refused for, before anything else is done."""

import os
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.module import EditModule
from aeplus.trainer import alone_in_cluster, check_trainer, forget_other_launchers, require_processes


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{**quiet, **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"num_nodes": 2},
            "expected a trainer on one machine, got 2; set trainer.num_nodes: 1.",
        ),
        (
            {"devices": 2, "strategy": "ddp_spawn"},
            "expected trainer.strategy ddp for several devices, got one that starts processes by spawn, from which no",
        ),
        (
            {"devices": 2, "strategy": ModelParallelStrategy()},
            "expected trainer.strategy ddp for several devices, or fsdp2 for a model larger than one, got Model",
        ),
        (
            {"accumulate_grad_batches": 2},
            "expected trainer.accumulate_grad_batches 1, got 2, as a batch is edited as a",
        ),
        ({"gradient_clip_val": 1.0}, r"expected trainer.gradient_clip_val None, got 1.0, as targets have a clamp of"),
        ({"val_check_interval": 0.5}, r"expected trainer.val_check_interval 1.0, got 0.5, as every candidate is"),
        ({"overfit_batches": 1}, "expected trainer.overfit_batches 0.0, got 1, as the data say which edits are made"),
        ({"precision": "bf16-mixed"}, r"expected trainer.precision 32-true, got bf16-mixed, as model.dtype chooses"),
    ],
)
def test_trainers_that_cannot_edit_are_refused_before_they_wait_for_others(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    module = EditModule("nowhere", [0])
    made = trainer(tmp_path, **options)
    module.trainer = made
    with pytest.raises(InputError, match=text):
        module.configure_callbacks()


def test_a_plain_trainer_is_accepted(tmp_path: Path) -> None:
    check_trainer(trainer(tmp_path))
    check_trainer(trainer(tmp_path, gradient_clip_val=0))


def test_several_devices_are_accepted_with_a_process_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = trainer(tmp_path, devices=2)
    check_trainer(pair)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_trainer(pair)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"expected 2 processes for trainer.devices 2, got 3; start it by torchrun"):
        check_trainer(pair)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(InputError, match=r"expected one process, got 2; start it by srun --ntasks 1."):
        check_trainer(pair)


def test_variables_of_another_launcher_start_nothing_and_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE")
    monkeypatch.delenv("AEPLUS_LAUNCHER", raising=False)
    for name in names:
        monkeypatch.setenv(name, "1")
    forget_other_launchers()
    assert not os.environ.keys() & set(names)
    assert os.environ["AEPLUS_LAUNCHER"] == str(os.getpid())
    for marker, value in (("AEPLUS_LAUNCHER", str(os.getppid())), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(marker, value)
        monkeypatch.setenv("LOCAL_RANK", "1")
        forget_other_launchers()
        assert os.environ["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"},
            "expected one process, got 2, .* start it by torchrun --nproc",
        ),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, "expected one process, got 4, .* start it by srun --nt"),
    ],
)
def test_a_launcher_of_several_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], text: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=text):
        require_processes()
    for name in variables:
        monkeypatch.setenv(name, "1")
    require_processes()


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "x"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "1"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "1"},
    ],
)
def test_a_job_of_several_tasks_does_not_change_what_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as read when Lightning is imported
    require_processes()
    made = trainer(tmp_path, plugins=alone_in_cluster())
    check_trainer(made)
    assert (made.world_size, made.global_rank, made.is_global_zero) == (1, 0, True)
    assert rank_zero_only.rank == 0


def test_the_command_line_runs_alone_in_a_cluster(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "x"}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", f"--config={workplace}/tiny.yaml", "--data.limit=3"]) == 0
    assert list(tmp_path.glob("lightning_logs/edits/*/metrics.json"))


def test_a_cluster_environment_that_is_asked_for_stays() -> None:
    environment, other = SLURMEnvironment(auto_requeue=False), object()
    assert alone_in_cluster([other, environment]) == [other, environment]
    assert alone_in_cluster(environment) == [environment]
    assert alone_in_cluster(other)[0] is other


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (
            "--trainer.strategy=nosuch",
            "expected trainer options that Lightning accepts here, got an error (You selected",
        ),
        ("--trainer.barebones=true", "expected trainer options that Lightning accepts here, got an error (`Trainer("),
        (
            f"--trainer.callbacks=[{', '.join(['{class_path: aeplus.callbacks.SmoothingStop}'] * 2)}]",
            "got an error (Found more than one stateful callback of type `SmoothingStop`",
        ),
    ],
)
def test_what_lightning_refuses_is_a_sentence(
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", f"--config={workplace}/tiny.yaml", option]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_refused_run_leaves_no_folder(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "no slot", "subject": "x", "target_new": "y"}\n')
    for option in ("--data.path=bad.jsonl", "--model.layers=[99]", "--model.method.threshold=0"):
        assert main(["fit", f"--config={workplace}/tiny.yaml", option]) == 2
        assert not (tmp_path / "lightning_logs").exists(), capsys.readouterr().err
    (tmp_path / "lightning_logs").mkdir()  # somebody else's
    assert main(["fit", f"--config={workplace}/tiny.yaml", "--data.path=bad.jsonl"]) == 2
    assert not list((tmp_path / "lightning_logs").iterdir())
