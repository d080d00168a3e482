"""What a trainer of Lightning may be set to for editing, and which of its exits and messages stay."""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

from lightning import Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from aeplus.errors import InputError, Terminated
from aeplus.utils.ranks import Ranks

_TORCHRUN = "TORCHELASTIC_RUN_ID"
_LAUNCHER = "AEPLUS_LAUNCHER"  # the process that has started this one
_GRACE = 4.0  # seconds that the first process has to report what has happened on all
_PATIENCE = 60.0  # seconds that a process which was lost has to end

# Option of the trainer → its value without effect, and why another has none here, or a wrong one.
_FIXED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "a batch is edited as a whole"),
    "gradient_clip_val": (None, "targets have a clamp of their own, model.targets.clamp"),
    "barebones": (False, "without validation and callbacks nothing would be chosen or written"),
    "val_check_interval": (1.0, "every candidate is validated once"),
    "overfit_batches": (0.0, "the data say which edits are made"),
    "precision": ("32-true", "model.dtype chooses the dtype of the weights"),
}


class ShardedStrategy(ModelParallelStrategy):
    """``trainer.strategy: fsdp2``: the decoder layers are sharded among the processes.

    :class:`~aeplus.module.EditModule` shards them. Checkpoints are those of every other run, one file that points at
    the journal, rather than the shards of a model.
    """

    strategy_name = "fsdp2"

    @property
    def mesh(self) -> DeviceMesh:
        """All processes, in one dimension."""
        return init_device_mesh(self.root_device.type, (self.world_size,))

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """A checkpoint is read before the run begins, as elsewhere: its edits are put in there."""
        return False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What the module saves of itself."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The state of what counts batches."""
        return dict(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """The same, from a checkpoint."""
        SingleDeviceStrategy.load_optimizer_state_dict(cast(Any, self), checkpoint)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes one file, by process 0."""
        SingleDeviceStrategy.save_checkpoint(cast(Any, self), checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads it, on every process."""
        return SingleDeviceStrategy.load_checkpoint(cast(Any, self), checkpoint_path, weights_only)


if ShardedStrategy.strategy_name not in StrategyRegistry:
    StrategyRegistry.register(ShardedStrategy.strategy_name, ShardedStrategy, description="sharded decoder layers")


def check_trainer(trainer: Any) -> None:
    """One process for each device, all of one machine, and none of the options that belong to training.

    Raises:
        InputError: If the trainer has others.
    """
    if trainer.num_nodes > 1:
        msg = f"expected a trainer on one machine, got {trainer.num_nodes}; set trainer.num_nodes: 1."
        raise InputError(msg)
    if trainer.num_devices > 1:
        _check_strategy(trainer.strategy)
    require_processes(trainer.num_devices)
    for name, (plain, why) in _FIXED.items():
        value = getattr(trainer, name, plain)
        if value != plain and not (name == "gradient_clip_val" and value == 0):
            msg = f"expected trainer.{name} {plain}, got {value}, as {why}; leave it out."
            raise InputError(msg)


def _check_strategy(strategy: Any) -> None:
    """Processes that each hold the whole model, or a part of every layer, started as commands of their own."""
    if isinstance(strategy, ShardedStrategy):
        return
    if not isinstance(strategy, DDPStrategy):
        msg = (
            f"expected trainer.strategy ddp for several devices, or fsdp2 for a model larger than one, got "
            f"{type(strategy).__name__}; set one of these, or trainer.devices: 1."
        )
        raise InputError(msg)
    if strategy._start_method != "popen":
        msg = (
            f"expected trainer.strategy ddp for several devices, got one that starts processes by "
            f"{strategy._start_method}, from which no edited model comes back; set ddp."
        )
        raise InputError(msg)


def ranks_of(trainer: Any | None) -> Ranks:
    """The processes of a trainer's run, once it has begun; none but this one where there is no trainer."""
    if trainer is None or trainer.world_size == 1:
        return Ranks()
    return Ranks.of_group(sharded=isinstance(trainer.strategy, ShardedStrategy))


@contextmanager
def accepted(kind: type[Exception] = MisconfigurationException) -> Iterator[None]:
    """Reports what Lightning itself refuses within the block in a sentence.

    Args:
        kind: Its exceptions; where a trainer is made, it can raise anything.

    Raises:
        InputError: In place of them.
    """
    try:
        yield
    except InputError:
        raise
    except kind as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"expected trainer options that Lightning accepts here, got an error ({reason}); correct them."
        raise InputError(msg) from error


def require_processes(devices: int = 1) -> None:
    """A launcher that starts more processes than work together would have each edit the same model.

    Args:
        devices: How many work together. Lightning starts them itself, or ``torchrun`` does.

    Raises:
        InputError: If ``torchrun`` has started another number of processes, or ``srun`` several.
    """
    for marker, count, launcher, expected in (
        (_TORCHRUN, "WORLD_SIZE", "torchrun --nproc-per-node", devices),
        ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "srun --ntasks", 1),
    ):
        number = os.environ.get(count, "1")
        if marker not in os.environ or not number.isdecimal() or int(number) == expected:
            continue
        needed = "one process" if expected == 1 else f"{expected} processes for trainer.devices {devices}"
        what = ", each of which would edit the same model" if devices == 1 else ""
        msg = f"expected {needed}, got {number}{what}; start it by {launcher} {expected}."
        raise InputError(msg)


def forget_other_launchers() -> None:
    """Leaves out what a launcher has put into the environment for other processes than this one.

    Lightning would wait for processes that nobody has started. For a process of a command's own, whose environment no
    caller uses.
    """
    if _TORCHRUN in os.environ or os.environ.get(_LAUNCHER) == str(os.getppid()):
        return
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    os.environ[_LAUNCHER] = str(os.getpid())  # what Lightning starts inherits it


def end_at_sigterm() -> None:
    """Makes SIGTERM an exception, as Ctrl-C is, until the run ends.

    Where there are several processes, Lightning's own handler tells the others of it, from within whatever they
    exchange at that moment, and all would wait for ever.

    Raises:
        Terminated: When it comes.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def ended_together(trainer: Any) -> Iterator[None]:
    """Whatever ends the block on one process of a run ends all, and is reported where it has happened.

    A process that waits for another cannot be interrupted, so it is killed, as Lightning does it. The process that has
    started the others ends them; one of the others gives it the time to report first what has happened on all.

    Raises:
        SystemExit: If another process has ended, with its status; it has reported why.
    """
    try:
        yield
    except BaseException as error:
        if trainer.world_size == 1:
            raise
        started = getattr(trainer.strategy.launcher, "procs", [])
        lost = _lost_another(error)
        if not started:
            time.sleep(_PATIENCE if lost else _GRACE)  # whoever has started it ends it meanwhile
            print(file=sys.stderr)  # below the first process's progress
            raise
        failed = _status_of_failed(started) if lost else None
        trainer.strategy.launcher.kill(signal.SIGKILL)
        if failed is not None:
            raise SystemExit(failed) from None
        raise


def _lost_another(error: BaseException) -> bool:
    """Whether an error says that another process has gone, which has its own reason."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _status_of_failed(started: Sequence[Any]) -> int | None:
    """The status of a process that has failed; one that was lost is on its way out."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        for process in started:
            if status := process.poll():
                return int(status)
        time.sleep(0.05)
    return None


def alone_in_cluster(plugins: Any = None) -> list[Any]:
    """Plugins of a trainer whose processes, if it is not the only one, are started by Lightning or torchrun.

    A job of several tasks, or what a launcher has left in the environment, says nothing of a process that was started
    by itself; Lightning would take it for one of several, refuse its devices, or keep it from writing files.

    Args:
        plugins: Those that were asked for, one or several; a cluster environment among them stays.
    """
    chosen = [] if plugins is None else list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    if any(isinstance(plugin, ClusterEnvironment) for plugin in chosen):
        return chosen
    cast(Any, rank_zero_only).rank = 0  # read from the environment when Lightning was imported; DDP sets its own
    return [*chosen, LightningEnvironment()]


_LOGGERS = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")
_ABOUT_TRAINING = (
    "when logging on epoch level in distributed setting",
    "does not have many workers",
    "isinstance\\(treespec",
    "The dirpath has changed",
    "in eval mode at the start",
    "LightningCLI's args parameter",
)


def silence_lightning() -> None:
    """Leaves out what Lightning reports about training, which this is not."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _ABOUT_TRAINING:
        warnings.filterwarnings("ignore", message=f".*{text}")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """The same within the block; afterwards loggers and filters are as before."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        silence_lightning()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Makes the exit with which a trainer answers Ctrl-C or SIGTERM within the block an exception again.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        Terminated: After SIGTERM.
    """
    try:
        yield
    except SystemExit as stop:
        # Until Lightning's own handler is there, that of the command line raises what Lightning takes for Ctrl-C.
        if trainer.received_sigterm or isinstance(stop.__context__, Terminated):
            raise Terminated from stop
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise
