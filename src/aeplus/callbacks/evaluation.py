"""Further metrics along the stream, by every protocol, and retention of previous batches.

The scores before and after, which every run has, are measured by :mod:`aeplus.run.session`.
"""

import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from aeplus.callbacks.report import JournalWriter, run_folder
from aeplus.errors import require_count
from aeplus.evaluation.questions import PromptItem, holding_numbered, metric_inputs, predict_all, tokenize_items
from aeplus.evaluation.records import FILE, PromptRecord, record_lines
from aeplus.evaluation.suite import Suite, SuiteOptions
from aeplus.metrics.mean import WHOLE
from aeplus.metrics.retention import Retention, packed_rows, retention_curve, success_matrix, unpacked_rows
from aeplus.metrics.success import exact_match
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, came_late, goes_on, session_of
from aeplus.run.session import EditSession
from aeplus.utils.jsonl import write_jsonl
from aeplus.utils.paths import check_output


class EvaluationWriter(EditCallback):
    """Measures the edits by every chosen protocol, into ``metrics.json`` under ``measures`` and to the loggers.

    Measured are the unedited model, the model after every N batches (on the edits so far) and the last one.
    Nothing in the run depends on it. A checkpoint holds what was measured so far; a run resumed from one that was
    written without this callback says so, and leaves the rows of retention that nobody measured empty. A finished run
    that is resumed is measured once more at its end, by the protocols of then.

    With ``records`` it also writes ``prompts.jsonl`` into the run's folder at the end: a line for each test prompt,
    with what the unedited and the edited model answered.

    Args:
        every: Measure after every N batches too; 0 for the start and the end only.
        retention: Ask previous edits again after each batch.
        retention_sample: How many of them at most, drawn anew for each batch, so that a batch after thousands of edits
            costs as much as an early one; the last batch's own edits are asked beside them.
        **options: The fields of :class:`~aeplus.evaluation.suite.SuiteOptions`. ``corpus`` and ``skip_tokens`` are
            those of ``model.preserved`` unless given. Where a chat template is used, and no protocols are given,
            ``contains`` is added to the usual ones: a chat answers in a sentence.
    """

    def __init__(self, every: int = 0, retention: bool = True, retention_sample: int = 1000, **options: Any) -> None:
        require_count(every, "EvaluationWriter's every")
        require_count(retention_sample, "EvaluationWriter's retention_sample")
        self.every, self.retention, self.retention_sample = every, retention, retention_sample
        self.options = SuiteOptions(**options)
        self._chosen = "protocols" in options
        self._clear()

    def _clear(self) -> None:
        self._suite: Suite | None = None
        self._before: list[PromptRecord] = []
        self._retention: Retention | None = None
        self._saved: dict[str, Any] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._measured: str | None = None  # the step whose measures are of this run, not of a checkpoint's

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets a previous run; says that nothing is measured where no model is edited.

        It makes sure that nothing of the user's is in the way.
        """
        if not goes_on(pl_module):
            self._clear()
        if stage == "fit" and self.options.records:
            folder = run_folder(trainer)
            if trainer.is_global_zero:
                check_output(folder / FILE, "the run")
        if stage == "validate":
            warnings.warn(
                "EvaluationWriter measures while a model is edited and does nothing in validate; to measure a finished "
                "run by other protocols resume it: aeplus fit --ckpt_path FILE with those protocols",
                stacklevel=2,
            )

    def on_unedited_model(self, trainer: Trainer, module: EditingModule) -> None:
        """Measures the unedited model."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        session = module.session
        options, data, preserved = self.options, session.data, session.preserved
        if options.corpus is None:
            options = replace(options, corpus=preserved.corpus, skip_tokens=preserved.tokens)
        if not self._chosen and any(request.asked for request in data.requests):
            options = replace(options, protocols=(*options.protocols, "contains"))
        dropped = data.overlap | {probe.prompt for probe in data.validation.preserved}
        self._suite = Suite(session.decoder, session.tokenizer, data.requests, dropped, options)
        self._batches = dict(self._saved.get("batches", {}))
        session.report.measures = {"before": self._suite.measure(), "batches": self._batches}
        self._before = self._suite.prompts
        self._publish(trainer, session, session.report.measures["before"], 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up what a checkpoint's run has measured."""
        if self._suite is None:
            came_late(self, "measures nothing")
            return
        self._take_up(session_of(pl_module))

    def _take_up(self, session: EditSession) -> None:
        if not self.retention or self._retention is not None:
            return
        done = len(session.entries)
        self._retention = Retention(done + session.data.batches, **WHOLE)
        for name in ("hits", "total") if "hits" in self._saved else ():
            saved = self._saved[name] if self._saved[name].dim() == 2 else unpacked_rows(self._saved[name])
            known = min(done, len(saved))
            getattr(self._retention, name)[:known, :known] = saved[:known, :known]
        empty = [row + 1 for row in range(done) if not bool(self._retention.total[row].any())]
        if empty:
            warnings.warn(
                f"the checkpoint holds no retention after batches {', '.join(map(str, empty))}, as it was written "
                "without EvaluationWriter; those rows stay empty",
                stacklevel=2,
            )

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Asks previous edits again, and measures after every N batches."""
        if self._suite is None:
            return
        session = module.session
        step = commit.index + 1
        values: dict[str, Any] = {}
        if self._retention is not None:
            self._ask_again(session, commit.index)
            whole = len(self._retention.hits) <= _MATRIX
            session.report.measures["retention"] = _table(self._retention, whole=whole)
            values["retention"] = session.report.measures["retention"]["mean"][commit.index]
        if self.every and step % self.every == 0:
            self._batches[str(step)] = self._suite.measure(session.data.cursor)
            self._measured = str(step)
            values |= self._batches[str(step)]
        if values:  # retention alone is written with the next batch: the file holds all of them
            self._publish(trainer, session, values, step, write=str(step) in self._batches)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the edited model on all edits."""
        session = session_of(pl_module)
        if self._suite is None:
            return
        self._take_up(session)  # a finished run that is resumed never starts
        step = len(session.entries)
        last = self._batches[str(step)] if session.data.exhausted and self._measured == str(step) else None
        session.report.measures["after"] = last or self._suite.measure()
        if self.options.records and trainer.is_global_zero:
            write_jsonl(run_folder(trainer) / FILE, record_lines(self._before, self._suite.prompts))
        if self._retention is not None:
            session.report.measures["retention"] = _table(self._retention)
        self._publish(trainer, session, {} if last else session.report.measures["after"], step)

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, for a checkpoint."""
        if self._retention is None:
            return {"batches": self._batches}
        hits, total = packed_rows(self._retention.hits), packed_rows(self._retention.total)
        return {"batches": self._batches, "hits": hits, "total": total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what the checkpoint's run measured until the run resumes."""
        self._saved = state_dict

    def _ask_again(self, session: EditSession, index: int) -> None:
        """Strict success on edits so far to which no later one gives another answer, of earlier batches on a sample."""
        batch_of = [b for b, entry in enumerate(session.entries) for _ in entry.edits]
        current = holding_numbered(session.data.edited)
        earlier = [number for number, _ in current if batch_of[number] < index]
        if len(earlier) > self.retention_sample:
            drawn = set(random.Random(f"{session.seed} {index}").sample(earlier, self.retention_sample))
            current = [(number, edit) for number, edit in current if number in drawn or batch_of[number] == index]
        items = [PromptItem("", edit.question, edit.target_new, edit.aliases, n, edit.join) for n, edit in current]
        asked = tokenize_items(session.tokenizer, items, {}, session.decoder.context_length)
        predictions = predict_all(session.decoder, asked, self.options.batch_tokens)
        predicted, expected, numbers, _ = metric_inputs(asked, predictions)
        right = dict.fromkeys(numbers, False)
        for number, match in zip(numbers, exact_match(predicted, expected).tolist(), strict=True):
            right[number] = right[number] or match
        assert self._retention is not None
        self._retention.update(index, [batch_of[number] for number in right], list(right.values()))

    @staticmethod
    def _publish(
        trainer: Trainer, session: EditSession, values: dict[str, Any], step: int, *, write: bool = True
    ) -> None:
        scalars = {f"evaluation/{name}": value for name, value in _scalars(values)}
        for logger in trainer.loggers if scalars else ():
            logger.log_metrics(scalars, step=step)
        for callback in cast(Any, trainer).callbacks if write else ():
            if isinstance(callback, JournalWriter):  # which may have written before this was measured
                callback.write(trainer, session)


_MATRIX = 100  # batches; the matrix of more is left out before the end, as every batch writes what there is


def _table(retention: Retention, *, whole: bool = True) -> dict[str, Any]:
    """Retention as plain values, ``None`` where nothing was asked; without the matrix unless it is to be whole."""

    def known(values: Tensor) -> list[float | None]:
        return [value if value == value else None for value in values.tolist()]  # NaN differs from itself

    matrix = success_matrix(retention.hits.double(), retention.total)
    table: dict[str, Any] = {"matrix": [known(row) for row in matrix]} if whole else {}
    return {**table, "mean": known(retention_curve(matrix))}


def _scalars(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number but the intervals' ends and counts, with a path for its name."""
    for name, value in values.items():
        if isinstance(value, dict):
            if "value" in value and "low" in value:
                value = value["value"]
            else:
                yield from _scalars(value, f"{prefix}{name}/")
                continue
        if value is not None:
            yield f"{prefix}{name}", float(value)
