"""What a trainer of Lightning may be set to for editing, and which of its exits and messages stay."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from lightning import Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from aeplus.errors import InputError, Terminated

# Option of the trainer → its value without effect, and why another has none here, or a wrong one.
_FIXED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "a batch is edited as a whole"),
    "gradient_clip_val": (None, "targets have a clamp of their own, model.targets.clamp"),
    "barebones": (False, "without validation and callbacks nothing would be chosen or written"),
    "val_check_interval": (1.0, "every candidate is validated once"),
    "overfit_batches": (0.0, "the data say which edits are made"),
    "precision": ("32-true", "model.dtype chooses the dtype of the weights"),
}


def check_trainer(trainer: Any) -> None:
    """One process on one device, and none of the options that belong to training.

    Raises:
        InputError: If the trainer has others.
    """
    devices = trainer.num_devices * trainer.num_nodes
    if devices > 1:
        msg = f"expected a trainer with one device, got {devices}; set trainer.devices: 1 and trainer.num_nodes: 1."
        raise InputError(msg)
    require_one_process()
    for name, (plain, why) in _FIXED.items():
        value = getattr(trainer, name, plain)
        if value != plain and not (name == "gradient_clip_val" and value == 0):
            msg = f"expected trainer.{name} {plain}, got {value}, as {why}; leave it out."
            raise InputError(msg)


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


def require_one_process() -> None:
    """A launcher that starts several processes would have each edit the same model.

    Raises:
        InputError: If ``torchrun`` or ``srun`` has started several.
    """
    for marker, count, launcher in (
        ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "torchrun --nproc-per-node 1"),
        ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "srun --ntasks 1"),
    ):
        number = os.environ.get(count, "1")
        if marker in os.environ and number.isdecimal() and int(number) > 1:
            msg = (
                f"expected one process, got {number}, each of which would edit the same model; start it by {launcher}."
            )
            raise InputError(msg)


def alone_in_cluster(plugins: Any = None) -> list[Any]:
    """Plugins of a trainer whose process is no other's: whatever a cluster has set, it is the only one.

    A job of several tasks, or what a launcher has left in the environment, says nothing of a process that was started
    by itself; Lightning would take it for one of several, refuse its devices, or keep it from writing files.

    Args:
        plugins: Those that were asked for, one or several; a cluster environment among them stays.
    """
    chosen = [] if plugins is None else list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    if any(isinstance(plugin, ClusterEnvironment) for plugin in chosen):
        return chosen
    cast(Any, rank_zero_only).rank = 0  # read from the environment when Lightning was imported
    return [*chosen, LightningEnvironment()]


_LOGGERS = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")
_ABOUT_TRAINING = (
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
