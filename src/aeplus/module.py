"""The run on Lightning: a step is a sequential batch, an epoch a smoothing iteration of the batch at the cursor.

``training_step`` puts a candidate into the model, validation scores it, and at the end of the epoch the session decides
whether the batch is committed. Everything that a run does is in :mod:`aeplus.run.session`.
"""

import logging
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from aeplus.data.datamodule import EditDataModule
from aeplus.edits import EditRequest
from aeplus.errors import InputError, Terminated
from aeplus.methods.method import Method
from aeplus.models.loading import DType, load_model
from aeplus.preserved.statistics import PreservedOptions
from aeplus.run.hooks import EditCallback, opened_session
from aeplus.run.resume import NOTES, Resume
from aeplus.run.session import EditSession
from aeplus.targets.cache import TargetCache
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.progress import BarProgress


class EditModule(LightningModule):
    """Edits a language model, batch after batch.

    Args:
        model: A hub id (``gpt2-xl``), a folder, a ``.gguf`` file or ``smollm2-135m``.
        layers: Decoder layers to edit, ascending; a method may take the first and the last only.
        method: The composition of the update; see ``configs/method``.
        targets: How targets are learned.
        preserved: Where preserved knowledge comes from.
        dtype: Dtype of the weights; ``auto`` takes the checkpoint's.
        edited_dtype: ``float32`` keeps the edited weights in float32 whatever the others have: in half precision small
            updates can be lost to rounding. ``same`` leaves them as they are.
        revision: Branch, tag or commit of a hub model.
        seed: Seed of the sampled contexts.
        site: The module to edit where inspection does not find it, or a mixture of experts leaves a choice, such as
            ``model.layers.{}.mlp.shared_expert.down_proj`` with ``{}`` in place of the layer's number.
        trust_remote_code: Run the Python code that the model's folder brings along; otherwise such a model is refused.

    Attributes:
        session: The run, from :meth:`configure_model` on.
        monitor: The logged value that candidates are chosen by.
    """

    session: EditSession

    def __init__(
        self,
        model: str,
        layers: list[int],
        method: Method = Method(),  # noqa: B008 - frozen
        targets: TargetOptions = TargetOptions(),  # noqa: B008
        preserved: PreservedOptions = PreservedOptions(),  # noqa: B008
        dtype: DType = "auto",
        edited_dtype: Literal["same", "float32"] = "same",
        revision: str | None = None,
        seed: int = 0,
        site: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the edits, not the model
        self.options: dict[str, Any] = {
            "model": model,
            "layers": list(layers),
            "method": method,
            "targets": targets,
            "preserved": preserved,
            "dtype": dtype,
            "edited_dtype": edited_dtype,
            "seed": seed,
            "site": site,
        }
        self.monitor = "validation/score"
        self._loading = (dtype, revision, trust_remote_code)
        self.language_model: Any = None
        self.tokenizer: Any = None
        # Lightning counts steps by optimizer steps; this parameter lets it count batches.
        self.clock = nn.Parameter(torch.zeros(()))
        self._shared: dict[str, Any] = {}
        self._resume: Resume | None = None

    def attach(
        self,
        model: Any,
        tokenizer: Any,
        target_cache: TargetCache | None = None,
        unedited_cache: dict[tuple[Hashable, ...], Any] | None = None,
    ) -> "EditModule":
        """Takes a loaded model, which is edited in place, and what runs of it share; see :class:`EditSession`.

        Raises:
            InputError: If a run of another model has begun.
        """
        if hasattr(self, "session") and model is not self.session.model:
            msg = "expected the model that this run began with, got another; make a new EditModule for it."
            raise InputError(msg)
        self.language_model, self.tokenizer = model, tokenizer
        self._shared = {"target_cache": target_cache, "unedited_cache": unedited_cache}
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters, as plain values."""
        return {n: asdict(v) if n in ("method", "targets", "preserved") else v for n, v in self.options.items()}

    @property
    def _all_settings(self) -> dict[str, Any]:
        return {"model": self.settings, "data": self._data.settings}

    @property
    def _data(self) -> EditDataModule:
        return cast(EditDataModule, cast(Any, self.trainer).datamodule)

    @property
    def _fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    # ---- Lightning's hooks

    def configure_model(self) -> None:
        """Loads the model, once, and opens the session."""
        options = self.options
        if self.language_model is None:
            self.language_model, self.tokenizer = load_model(options["model"], *self._loading)
        if not hasattr(self, "session"):
            self.session = EditSession(
                *(self.language_model, self.tokenizer, options["layers"]),
                *(options["method"], options["targets"], options["preserved"]),
                edited_dtype=options["edited_dtype"],
                site=options["site"],
                seed=options["seed"],
                name=options["model"],
                notify=self._notify,
                progress=BarProgress(),
                **self._shared,
            )

    def configure_callbacks(self) -> list[Callback]:
        """Whatever ends the run, no candidate is left in the model."""
        return [_Rollback()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that changes nothing: it counts batches."""
        return torch.optim.SGD([self.clock], lr=0.0)

    def train(self, mode: bool = True) -> "EditModule":
        """Leaves the language model in evaluation mode: dropout has no place in editing."""
        super().train(mode)
        if self.language_model is not None:
            self.language_model.eval()
        return self

    def on_fit_start(self) -> None:
        """Reads the statistics, measures the unedited model, then takes up a checkpoint's edits."""
        self._prepare()
        if self._data.exhausted:
            self.trainer.should_stop = True  # a finished run was resumed

    def on_validation_start(self) -> None:
        """The same before ``validate``, without the statistics."""
        self._prepare()

    def training_step(self, requests: list[EditRequest], batch_idx: int) -> None:
        """One smoothing iteration: a candidate into the model."""
        if not self.session.in_batch:
            # Not when a checkpoint from inside a batch is resumed.
            if self.global_step == len(self.session.journal.entries):
                cast(Any, self.optimizers()).step()
            self.session.begin()
        self.session.candidate()

    def validation_step(self, items: list[Any], batch_idx: int) -> None:
        """Scores the candidate (or, under ``validate``, the model) on the validation set."""
        summary = self.session.validate(items)
        values = {f"validation/{name}": value for name, value in summary.items() if value is not None}
        if not self._fitting:
            edits = self.session.score(self._data.requests).summary()
            values |= {f"edits/{name}": value for name, value in edits.items() if value is not None}
        self.log_dict(values, batch_size=1, on_step=False, on_epoch=True, logger=not self._fitting)

    def on_train_epoch_end(self) -> None:
        """Commits the batch if its candidate is chosen, and ends the run with the stream.

        Lightning calls this before the callbacks that monitor, so that a checkpoint holds the batch.
        """
        session = self.session
        validated = session.in_batch and session.batch.scores[session.iteration]
        score = self.trainer.callback_metrics.get(self.monitor) if validated else None
        if session.settle(None if score is None else float(score)):
            session.commit()
        if self._data.exhausted:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Removes what is not committed, where max_epochs or max_time ended the run inside a batch."""
        self.session.rollback()

    def _prepare(self) -> None:
        check_trainer(self.trainer)
        self.session.prepare(self._data, editing=self._fitting, resume=self._resume)
        self._resume = None

    def _notify(self, hook: str, *arguments: Any) -> None:
        for callback in cast(Any, self.trainer).callbacks:
            if isinstance(callback, EditCallback):
                getattr(callback, hook)(self.trainer, self, *arguments)

    # ---- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The committed updates as factors, with their keys; not the model."""
        source = self._resume or opened_session(self)
        return source.journal.tensors() if source is not None else {}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Nothing: :meth:`on_load_checkpoint` has taken the edits, which wait until the model has been measured."""
        return nn.modules.module._IncompatibleKeys([], [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what identifies the model and the settings."""
        session = self.session
        checkpoint[NOTES] = {
            "fingerprint": session.fingerprint,
            "settings": self._all_settings,
            "batches": session.journal.notes(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is one of aeplus, and reports where the settings differ."""
        self._resume = Resume(checkpoint, self._all_settings)


class _Rollback(Callback):
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if (session := opened_session(pl_module)) is not None:
            session.rollback()


def check_trainer(trainer: Any) -> None:
    """One device, and no autocast that would round an update.

    Raises:
        InputError: If the trainer has several devices or another precision.
    """
    if trainer.world_size > 1:
        msg = f"expected a trainer with one device, got {trainer.world_size}; set trainer.devices: 1."
        raise InputError(msg)
    if trainer.precision != "32-true":
        msg = (
            f"expected trainer.precision 32-true, got {trainer.precision}; choose the weights' dtype by model.dtype "
            "instead."
        )
        raise InputError(msg)


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
        if trainer.received_sigterm:
            raise Terminated from stop
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise
