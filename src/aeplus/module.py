"""The stream of edits as a LightningModule.

A step is a sequential batch and an epoch a smoothing iteration of the batch at the cursor. ``training_step`` puts
a candidate into the model, validation scores it, and :class:`~aeplus.callbacks.smoothing.SmoothingStop` decides
whether the batch goes on or is committed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from aeplus.data.datamodule import EditDataModule, Item
from aeplus.edits import EditRequest
from aeplus.evaluation.questions import Baseline, edit_items, evaluate, questions
from aeplus.methods.batch import BatchBuilder, BatchEdit
from aeplus.methods.layer import base_filter
from aeplus.methods.method import Method
from aeplus.methods.treatments import Restraint
from aeplus.metrics.success import Score
from aeplus.models.decoder import Decoder
from aeplus.models.loading import DType, load_model
from aeplus.preserved.statistics import PreservedOptions, load_or_collect
from aeplus.run.checkpoint import NOTES, Resume
from aeplus.run.hooks import BatchCommit, EditCallback
from aeplus.run.journal import Entry, Journal, plain_edit
from aeplus.run.report import RunReport, batch_report
from aeplus.run.session import LeakageMeter, check_trainer, check_weights
from aeplus.targets.optimizer import TargetOptions
from aeplus.targets.rows import sample_contexts
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.progress import BarProgress

if TYPE_CHECKING:
    from aeplus.targets.cache import TargetCache

T = TypeVar("T")


@contextmanager
def ctrl_c(trainer: Trainer) -> Iterator[None]:
    """Makes the exit with which a trainer answers Ctrl-C within the block a ``KeyboardInterrupt`` again."""
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise


class EditModule(LightningModule):
    """Edits a language model, batch after batch.

    Args:
        model: A hub id (``gpt2-xl``), a folder, a ``.gguf`` file or ``smollm2-135m``.
        layers: Decoder layers to edit, ascending; a method may take the first and the last only.
        method: The composition of the update; see ``configs/method``.
        targets: How targets are learnt.
        preserved: Where preserved knowledge comes from.
        dtype: Dtype of the weights; ``auto`` takes the checkpoint's.
        edited_dtype: ``float32`` keeps the edited weights in float32 whatever the others have: half precision rounds
            small updates away. ``same`` leaves them as they are.
        revision: Branch, tag or commit of a hub model.
        seed: Seed of the sampled contexts.

    Attributes:
        report: What the run has measured so far.
        journal: The committed batches.
        target_cache: Where targets are kept that other runs need too; none by default.
        unedited_cache: Where runs of one model keep what they find out about it unedited; none by default.
    """

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
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the edits, not the model
        self.layers, self.method, self.target_options, self.preserved = layers, method, targets, preserved
        self.dtype_name, self.edited_dtype, self.revision, self.seed = dtype, edited_dtype, revision, seed
        self.target_cache: TargetCache | None = None
        self.unedited_cache: dict[tuple[Any, ...], Any] | None = None
        self.language_model: Any = None
        self.tokenizer: Any = None
        self.model_name = model
        # Lightning counts steps by optimizer steps; this parameter lets it count batches.
        self.clock = nn.Parameter(torch.zeros(()))
        self.journal = Journal()
        self._resume: Resume | None = None
        self.report = RunReport(method=method.name, model=model, seed=seed)
        self._prepared = False
        self._batch: BatchEdit | None = None
        self._validation = Score()

    def attach(self, model: Any, tokenizer: Any) -> "EditModule":
        """Takes a loaded model instead of loading one; it is edited in place."""
        self.language_model, self.tokenizer = model, tokenizer
        return self

    # ---- what is known of the run

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters, as plain values."""
        return {
            "model": self.model_name,
            "layers": list(self.layers),
            "method": asdict(self.method),
            "targets": asdict(self.target_options),
            "preserved": asdict(self.preserved),
            "dtype": self.dtype_name,
            "edited_dtype": self.edited_dtype,
            "seed": self.seed,
        }

    @property
    def data(self) -> EditDataModule:
        """The stream."""
        return cast(EditDataModule, cast(Any, self.trainer).datamodule)

    @property
    def batch(self) -> BatchEdit:
        """The batch being edited."""
        assert self._batch is not None
        return self._batch

    @property
    def _fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    # ---- Lightning's hooks

    def configure_model(self) -> None:
        """Loads the model, once."""
        if self.language_model is None:
            self.language_model, self.tokenizer = load_model(self.model_name, self.dtype_name, self.revision)
        self.language_model.requires_grad_(False).eval()
        self.decoder = Decoder(self.language_model)
        ends = sorted({self.layers[0], self.layers[-1]}) if self.layers else []
        self.sites = self.decoder.select(ends if self.method.sites == "ends" else self.layers)
        if self.edited_dtype == "float32":
            for site in self.sites:
                site.widen()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that changes nothing: it counts batches."""
        return torch.optim.SGD([self.clock], lr=0.0)

    def configure_callbacks(self) -> list[Callback]:
        """The smoothing stop, without which no batch would ever be committed, unless the user set one."""
        from aeplus.callbacks.smoothing import SmoothingStop

        set_already = any(isinstance(c, SmoothingStop) for c in cast(Any, self.trainer).callbacks)
        return [] if set_already else [SmoothingStop()]

    def train(self, mode: bool = True) -> "EditModule":
        """Leaves the language model in evaluation mode: dropout has no place in editing."""
        super().train(mode)
        if self.language_model is not None:
            self.language_model.eval()
        return self

    def on_fit_start(self) -> None:
        """Reads the statistics, measures the unedited model, then takes up a checkpoint's edits."""
        self.prepare()

    def on_validation_start(self) -> None:
        """The same before ``validate``."""
        self.prepare()

    def training_step(self, requests: list[EditRequest], batch_idx: int) -> None:
        """One smoothing iteration: a candidate into the model."""
        if self._batch is None:
            if self.global_step == len(self.journal.entries):  # not when a checkpoint from inside a batch is resumed
                cast(Any, self.optimizers()).step()
            self._begin(requests)
        candidate = self.batch.candidate(len(self.batch.scores))
        self.notify("on_candidate", candidate.iteration, self.batch.iterations)

    def validation_step(self, items: list[Item], batch_idx: int) -> None:
        """Scores the candidate (or, under ``validate``, the model) on the validation set."""
        began = time.perf_counter()
        asked = questions(self.tokenizer, items, self.baseline, self.decoder.context_length)
        self._validation = evaluate(self.decoder, asked)
        self._seconds["validate"] += time.perf_counter() - began

    def on_validation_epoch_end(self) -> None:
        """Logs the score that the smoothing stop watches."""
        summary = self._validation.summary()
        if self._batch is not None:
            self.batch.scores[self.iteration] = summary
        values = {f"validation/{name}": value for name, value in summary.items() if value is not None}
        if not self._fitting:
            done = self.evaluate_edits(self.data.requests)
            values |= {f"edits/{name}": value for name, value in done.items() if value is not None}
        self.log_dict(values, batch_size=1, logger=not self._fitting)

    def on_train_end(self) -> None:
        """Takes back what is not committed, where max_epochs or max_time ended the run inside a batch."""
        self.rollback()

    # ---- preparing

    def prepare(self) -> None:
        """Everything that needs the unedited model; then the edits of a checkpoint are put in."""
        if self._prepared:
            return
        check_trainer(self.trainer)
        check_weights(self.sites)
        self.fingerprint = weights_fingerprint(self.language_model)
        if self._resume is not None:
            self._resume.check(self.model_name, self.fingerprint, [s.layer for s in self.sites], self.data.requests)
        began = time.perf_counter()
        options = self.target_options
        if self._fitting:
            self.statistics = load_or_collect(
                self.decoder, self.tokenizer, self.sites, self.preserved, BarProgress(), self.fingerprint
            )
            if self.method.update == "closed_form":
                for statistics in self.statistics:
                    base_filter(self.method, statistics.spectrum)  # a bad threshold is told before the work, not after
            self._restraint = Restraint(self.method, self.sites)
            self._meter = LeakageMeter(self.sites, self.statistics)
            contexts = self._once(
                ("contexts", options.contexts, options.context_length, self.seed),
                lambda: sample_contexts(
                    self.language_model, self.tokenizer, options.contexts, options.context_length, self.seed
                ),
            )
            self._builder = BatchBuilder(
                *(self.decoder, self.tokenizer, self.sites, self.method, options, self.statistics, contexts, self.seed),
                progress=lambda *numbers: self.notify("on_targets_step", *numbers),
                cache=self.target_cache,
            )
        self.report.seconds["statistics"] = time.perf_counter() - began
        data = self.data
        self.report.edits = len(data.requests)
        probes = [probe for request in data.requests for probe in request.neighborhood]
        unanswered = [probe.prompt for probe in (*probes, *data.validation.preserved) if probe.answer is None]
        self.baseline = self._once(
            ("baseline", *unanswered), lambda: Baseline(self.decoder, self.tokenizer, unanswered)
        )
        items = edit_items(data.requests, data.overlap)
        self.report.record("before", self._once(("before", *items), lambda: self.score_edits(data.requests)))
        self.notify("on_unedited_model")
        self._reset_seconds()
        if self._resume is not None:
            self.journal, self._resume = self._resume.journal, None
            self.journal.apply(self.sites)
            self.report.batches = [entry.report for entry in self.journal.entries]
        if self._fitting and data.exhausted:
            self.trainer.should_stop = True  # a finished run was resumed
        self._prepared = True

    def _once(self, what: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What depends on the unedited model only: made once, where runs share it."""
        if self.unedited_cache is None:
            return make()
        key = (self.fingerprint, *what)
        if key not in self.unedited_cache:
            self.unedited_cache[key] = make()
        return cast("T", self.unedited_cache[key])

    def evaluate_edits(self, requests: list[EditRequest]) -> dict[str, float | None]:
        """Efficacy, Generalization, Specificity and Score of some edits on their test prompts, in percent."""
        return self.score_edits(requests).summary()

    def score_edits(self, requests: list[EditRequest]) -> Score:
        """The same as a metric, which knows its intervals too."""
        items = edit_items(requests, self.data.overlap)
        asked = questions(self.tokenizer, items, self.baseline, self.decoder.context_length)
        return evaluate(self.decoder, asked)

    def leakage(self) -> float | None:
        """``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of all committed updates together, mean over the layers."""
        return self._meter.measure(self.journal)

    # ---- a batch, from its first candidate to its commit

    def _begin(self, requests: list[EditRequest]) -> None:
        self._reset_seconds()
        self._batch = self._builder.build(requests, self.data.edited, self.journal)
        self._seconds["targets"] = self._builder.learning_seconds

    @property
    def iteration(self) -> int:
        """The smoothing iteration that the model holds, from 0; -1 between batches."""
        return len(self._batch.scores) - 1 if self._batch is not None else -1

    def commit(self) -> None:
        """Makes the kept candidate (the present one, if none was kept) part of the model and the journal."""
        batch, data = self.batch, self.data
        chosen, requests = batch.chosen, data.current
        if self._restraint.due(len(self.journal.entries) + 1, last=data.cursor + len(requests) >= len(data.requests)):
            chosen = self._restraint.restrain(self.journal, chosen)
        if chosen is not batch.current:
            batch.apply(chosen)
        self._seconds["solve"] = batch.seconds
        # Targets that another run had found already count as if this one had.
        self._seconds["total"] = time.perf_counter() - self._began + self._builder.spared_seconds
        norms = batch.editor.residual_norms.tolist()
        validation = batch.scores[chosen.iteration]
        layers = [edit.report for edit in chosen.layers]
        report = batch_report(len(requests), layers, norms, len(batch.scores), validation.get("score"), self._seconds)
        self.journal.entries.append(
            Entry(
                [plain_edit(request) for request in requests],
                {e.report.layer: e.update for e in chosen.layers},
                {e.report.layer: e.keys for e in chosen.layers},
                report,
            )
        )
        self.report.batches.append(report)
        index, converged = len(self.journal.entries) - 1, int(batch.editor.converged.sum())
        commit = BatchCommit(index, requests, chosen, report, norms, validation, converged)
        self._batch = None
        data.cursor += len(requests)
        self.notify("on_batch_committed", commit)

    def rollback(self) -> None:
        """Takes back a candidate that was not committed."""
        if self._batch is not None:
            self._batch.rollback()
            self._batch = None

    def notify(self, hook: str, *args: Any) -> None:
        """Calls a hook of :class:`EditCallback` on every callback that has it."""
        for callback in cast(Any, self.trainer).callbacks:
            if isinstance(callback, EditCallback):
                getattr(callback, hook)(self.trainer, self, *args)

    def _reset_seconds(self) -> None:
        self._seconds = {"targets": 0.0, "solve": 0.0, "validate": 0.0, "total": 0.0}
        self._began = time.perf_counter()

    # ---- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The committed updates as factors, with their keys; not the model."""
        return (self._resume or self).journal.tensors()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Nothing: :meth:`on_load_checkpoint` has taken the edits, which wait until the model has been measured."""
        return nn.modules.module._IncompatibleKeys([], [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what identifies the model and the settings."""
        checkpoint[NOTES] = {
            "fingerprint": self.fingerprint,
            "settings": {"model": self.settings, "data": self.data.settings},
            "batches": self.journal.notes(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is one of ours, and says where the settings differ."""
        self._resume = Resume(checkpoint, {"model": self.settings, "data": self.data.settings})
