"""The run on Lightning: a step is a sequential batch, an epoch a smoothing iteration of the batch at the cursor.

``training_step`` puts a candidate into the model, validation scores it, and at the end of the epoch the session decides
whether the batch is committed. Everything that a run does is in :mod:`aeplus.run.session`.
"""

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from aeplus.data.datamodule import EditDataModule
from aeplus.edits import EditRequest
from aeplus.errors import InputError, require_seed
from aeplus.methods.method import Method
from aeplus.models.loading import DeviceMap, DType, load_named
from aeplus.models.placing import is_spread
from aeplus.models.sharding import shard_layers
from aeplus.preserved.corpus import require_corpus
from aeplus.preserved.statistics import PreservedOptions
from aeplus.run import notices
from aeplus.run.committed.chain import HEADER, Chain
from aeplus.run.committed.entries import plain_edit
from aeplus.run.committed.store import Store
from aeplus.run.hooks import EditCallback, opened_session
from aeplus.run.resume import NOTES, Resume, notes_of, seal
from aeplus.run.selection import EDITED, SELECTIONS, SelectionOptions, logged, seen
from aeplus.run.session import EditSession
from aeplus.targets.cache import TargetCache
from aeplus.targets.optimizer import TargetOptions
from aeplus.trainer import ShardedStrategy, check_trainer, end_at_sigterm, ranks_of
from aeplus.utils.paths import expanded, locked
from aeplus.utils.progress import BarProgress, Progress


class EditModule(LightningModule):
    """Edits a language model, batch after batch.

    Args:
        model: A hub id (``gpt2-xl``), a folder, a ``.gguf`` file or ``smollm2-135m``.
        layers: Decoder layers to edit, ascending; a method may take the first and the last only.
        method: The composition of the update; see ``configs/method``. Where nothing names one, ``aeplus fit`` takes
            that of ``configs/method/alphaedit_plus.yaml``; the defaults of its fields are those of a composition of
            one's own.
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
        journal: Folder of the journal, which every committed batch is written to. If it has one, the run goes on from
            its edits: they are put into the model first, and not made again where the data begin with them. By default
            ``journal`` in the folder of a run that writes checkpoints.
        device_map: How the layers are divided among the devices of this process: ``auto``, another rule of
            transformers, or a device for each module. By default the whole model is on the trainer's device.

    Attributes:
        session: The run, from :meth:`configure_model` on.
        monitor: The logged value that candidates are chosen by.
        uncounted: How many of the session's batches a journal held before the first step of the run.
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
        journal: str | None = None,
        device_map: DeviceMap | None = None,
    ) -> None:
        super().__init__()
        require_seed(seed, "model.seed")
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
            "revision": revision,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
            "site": site,
            "device_map": device_map,
        }
        self.monitor = f"validation/{SELECTIONS[method.selection].watched}"
        self.uncounted = 0
        self._journal = journal
        self._writing = ExitStack()  # the journal, while the run lasts
        self.language_model: Any = None
        self.tokenizer: Any = None
        # Lightning counts steps by optimizer steps; this parameter lets it count batches.
        self.clock = nn.Parameter(torch.zeros(()))
        self._shared: dict[str, Any] = {}
        self._resume: Resume | None = None
        self._stays = False

    def attach(
        self,
        model: Any,
        tokenizer: Any,
        target_cache: TargetCache | None = None,
        unedited_cache: dict[tuple[Hashable, ...], Any] | None = None,
        preserve: Sequence[EditRequest] = (),
    ) -> "EditModule":
        """Takes a loaded model, which is edited in place, and what runs of it share; see :class:`EditSession`.

        Raises:
            InputError: If a run of another model has begun.
        """
        if hasattr(self, "session") and model is not self.session.model:
            msg = "expected the model that this run began with, got another; make a new EditModule for it."
            raise InputError(msg)
        self.language_model, self.tokenizer = model, tokenizer
        self._shared = {"target_cache": target_cache, "unedited_cache": unedited_cache, "preserve": preserve}
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters, as plain values; the method is called by its :attr:`~Method.label`."""
        plain = {n: asdict(v) if n in ("method", "targets", "preserved") else v for n, v in self.options.items()}
        plain["method"]["name"] = self.options["method"].label
        return plain

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
        if self._trainer is not None and self._fitting:  # what only measures needs no statistics
            require_corpus(options["preserved"].corpus)
        if self.language_model is None:
            self.language_model, self.tokenizer = load_named(options)
        if not hasattr(self, "session"):
            ranks = ranks_of(self._trainer)
            if ranks.sharded and options["targets"].precision != "full":
                msg = (
                    f"expected targets.precision full with trainer.strategy fsdp2, got {options['targets'].precision}, "
                    "which copies layers; leave it out."
                )
                raise InputError(msg)
            with torch.device("cpu"):  # Lightning makes every new tensor on its device here; a session says where
                self.session = EditSession(
                    self.language_model,
                    self.tokenizer,
                    layers=options["layers"],
                    method=options["method"],
                    targets=options["targets"],
                    preserved=options["preserved"],
                    edited_dtype=options["edited_dtype"],
                    site=options["site"],
                    seed=options["seed"],
                    name=options["model"],
                    notify=self._notify,
                    progress=BarProgress() if ranks.leads else Progress(),
                    ranks=ranks,
                    **self._shared,
                )
            if ranks.sharded:
                strategy = cast(ShardedStrategy, self.trainer.strategy)
                shard_layers(self.session.decoder, self.session.sites, strategy.mesh)

    def configure_callbacks(self) -> list[Callback]:
        """Whatever ends the run, no candidate is left in the model.

        Lightning asks before it waits for other processes, so the trainer is checked here.

        Raises:
            InputError: If the trainer cannot edit.
        """
        check_trainer(self.trainer)
        if self.options["device_map"] is not None and cast(Any, self.trainer).num_devices > 1:
            msg = (
                f"expected one process for model.device_map, which divides the layers among its devices, got "
                f"{cast(Any, self.trainer).num_devices}; set trainer.devices: 1."
            )
            raise InputError(msg)
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, _Rollback) for callback in callbacks):
            callbacks.insert(0, _Rollback())  # what is returned would come last, after any that raises
        return [_Closing()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that changes nothing: it counts batches."""
        return torch.optim.SGD([self.clock], lr=0.0)

    def setup(self, stage: str) -> None:
        """A run begins, and Lightning will move the module to the CPU once, at its end."""
        self._stays = True

    def cpu(self) -> "EditModule":
        """Leaves the model on its device at the end of a run: what comes then measures and saves it.

        Called by anyone else, it moves the module to the CPU.
        """
        if self._stays:
            self._stays = False
            return self
        return super().cpu()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What moves and casts; a model whose layers lie on several devices stays as it is."""
        return super()._apply(fn, recurse and not is_spread(self.language_model))

    def train(self, mode: bool = True) -> "EditModule":
        """Leaves the language model in evaluation mode: dropout has no place in editing."""
        super().train(mode)
        if self.language_model is not None:
            self.language_model.eval()
        return self

    def on_fit_start(self) -> None:
        """Reads the statistics, measures the unedited model, then takes up a checkpoint's or a journal's edits."""
        folder = self._journal_folder()
        taken_up, resume = self._take_up_journal(), self._resume
        if taken_up and resume is not None:
            self.uncounted = len(resume.entries)
        if folder is not None:
            self._check_free(folder, resume)
        self._prepare()
        if folder is not None:
            facts = [plain_edit(fact) for fact in self._shared.get("preserve", ())]
            select = self.session.select
            chosen = asdict(select) if isinstance(select, SelectionOptions) else None
            settings = {**self._all_settings, "preserve": facts, "selection": chosen}
            self._writing.enter_context(self.session.recording.keep(folder, settings, resume))
        if self._data.exhausted:
            self.trainer.should_stop = True  # a finished run was resumed

    def _journal_folder(self) -> Path | None:
        trainer = cast(Any, self.trainer)
        if trainer.fast_dev_run:  # which leaves nothing
            return None
        if self._journal is not None:
            return expanded(self._journal)
        return Path(trainer.log_dir or trainer.default_root_dir) / "journal" if trainer.checkpoint_callbacks else None

    def _check_free(self, folder: Path, resume: Resume | None) -> None:
        """A journal can be written, which is found out before the work."""
        leads = ranks_of(self._trainer).leads
        if resume is None:
            Chain.check_new(folder)
        elif (folder / HEADER).is_file() and leads:
            with locked(folder, "the journal"):
                pass
        if resume is not None and (later := resume.left_behind(folder)) and leads:
            notices.left_behind(folder, sum(len(record.content["edits"]) for record in later))

    def _take_up_journal(self) -> bool:
        """Goes on from the edits of the journal that was asked for, unless a checkpoint's are taken up."""
        if self._resume is not None or self._journal is None:
            return False
        folder = expanded(self._journal)
        if not self._fitting and not (folder / HEADER).is_file():
            folder /= "journal"  # of a run's folder
        if not (folder / HEADER).is_file():
            return False
        self._resume = Resume(Store.open(folder))
        take = self._data.follow if self._fitting else self._data.include
        take(self._resume.requests, self._resume.undone)
        return True

    def on_train_start(self) -> None:
        """Lightning has set its handlers of signals, which do not suit several processes."""
        if not self.session.decoder.ranks.alone:
            end_at_sigterm()

    def on_validation_start(self) -> None:
        """The same before ``validate``, without the statistics.

        Raises:
            InputError: If there is no journal where one was asked for.
        """
        if not self._fitting and not self._take_up_journal() and self._journal is not None and self._resume is None:
            msg = f"expected a journal in {self._journal} to measure, got none; give a run's folder, or its journal."
            raise InputError(msg)
        self._prepare()

    def teardown(self, stage: str) -> None:
        """Closes the journal."""
        self._writing.close()

    def forget(self) -> None:
        """Takes what this run has committed out of its journal, if it keeps one: the model does not have it any more.

        If that cannot be written, a warning says which entries are left.
        """
        self._writing.close()
        if (session := opened_session(self)) is not None:
            session.recording.forget()

    def training_step(self, requests: list[EditRequest], batch_idx: int) -> None:
        """One smoothing iteration: a candidate into the model."""
        if not self.session.in_batch:
            # Not when a checkpoint from inside a batch is resumed.
            if self.global_step == len(self.session.entries) - self.uncounted:
                cast(Any, self.optimizers()).step()
            self.session.begin(self._data.validation_items)
        self.session.candidate()

    def validation_step(self, items: list[Any], batch_idx: int) -> None:
        """Scores the candidate (or, under ``validate``, the model) on the validation set."""
        if not self._fitting:  # Lightning has fetched them before on_validation_start, where the edits were read
            items = self._data.validation_items()
        summary = self.session.validate(items)
        named = {**summary, EDITED: seen(summary, EDITED)} if self.monitor == f"validation/{EDITED}" else summary
        values = {f"validation/{name}": value for name, value in named.items() if value is not None}
        if not self._fitting:
            edits = self.session.measuring.score(self._data.requests).summary()
            values |= {f"edits/{name}": value for name, value in edits.items() if value is not None}
        self.log_dict(values, batch_size=1, on_step=False, on_epoch=True, logger=not self._fitting)

    def on_train_epoch_end(self) -> None:
        """Commits the batch if its candidate is chosen, and ends the run with the stream.

        Lightning calls this before the callbacks that monitor, so that a checkpoint holds the batch.
        """
        session = self.session
        validated = session.in_batch and session.batch.scores[session.iteration]
        if session.settle(logged(self.trainer.callback_metrics, self.monitor) if validated else None):
            session.commit()
        if self._data.exhausted:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Removes what is not committed, where max_epochs or max_time ended the run inside a batch."""
        self.session.rollback()

    def _prepare(self) -> None:
        if self._resume is not None:
            self._resume.check_cursor(self._data.cursor)
        self.session.prepare(self._data, editing=self._fitting, resume=self._resume)
        self._resume = None

    def _notify(self, hook: str, *arguments: Any) -> None:
        for callback in cast(Any, self.trainer).callbacks:
            if isinstance(callback, EditCallback):
                getattr(callback, hook)(self.trainer, self, *arguments)

    # ---- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Nothing: a checkpoint points at the journal, which holds the edits."""
        return {}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Nothing: :meth:`on_load_checkpoint` has taken the edits, which wait until the model has been measured."""
        return nn.modules.module._IncompatibleKeys([], [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Points at the journal and seals what a run is resumed from."""
        checkpoint[NOTES] = notes_of(
            self.session.recording.journal, self.session.recording.run, self._data.cursor, self._all_settings
        )
        checkpoint[NOTES]["uncounted"] = self.uncounted
        checkpoint[NOTES]["seal"] = seal(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is one of aeplus, and reports where the settings differ."""
        path = Path(str(self.trainer.ckpt_path))
        self._resume = Resume.from_checkpoint(checkpoint, path, self._all_settings)
        if uncounted := checkpoint[NOTES].get("uncounted", 0):  # the data do not begin with those
            self.uncounted = uncounted
            self._data.follow(self._resume.requests)


class _Rollback(Callback):
    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if (session := opened_session(pl_module)) is not None:
            session.rollback()


class _Closing(Callback):
    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        pl_module._writing.close()
