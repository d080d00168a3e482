"""The run as a plain object: batches of edits, each with its candidates, from the first to what is measured at the end.

    data = EditDataModule("edits.jsonl")
    data.setup("fit")
    session = EditSession(model, tokenizer, [4, 5, 6, 7, 8], named_method("alphaedit_plus"))
    session.prepare(data)
    while not data.exhausted:
        session.edit_batch(data.validation_items)
    session.finish()

:class:`~aeplus.module.EditModule` drives one from Lightning's hooks. Nothing here knows of a training loop.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.methods.batch import BatchBuilder, BatchEdit, Candidate
from aeplus.methods.method import Method
from aeplus.methods.parts import base_filter
from aeplus.methods.treatments import Restraint, added_last
from aeplus.models.sites import Snapshot
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.run import notices
from aeplus.run.batches import BatchCommit, Stream
from aeplus.run.by_layer import Items, LayerChoice
from aeplus.run.committed.entries import Entries, Entry
from aeplus.run.editable import EditableModel
from aeplus.run.measuring import Asked, Measuring
from aeplus.run.preservation import LeakageMeter
from aeplus.run.recording import Recording
from aeplus.run.report import RunReport
from aeplus.run.selection import SELECTIONS, Selection, SelectionOptions, seen
from aeplus.run.under_way import UnderWay
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.progress import Progress
from aeplus.utils.ranks import Ranks
from aeplus.utils.signals import uninterrupted

if TYPE_CHECKING:
    from aeplus.run.resume import Resume
    from aeplus.targets.cache import TargetCache


@dataclass(frozen=True)
class _Editing:
    """What editing needs beside the model."""

    builder: BatchBuilder
    statistics: list[LayerStatistics]
    restraint: Restraint
    meter: LeakageMeter


class EditSession(EditableModel):
    """Edits a loaded model in place, batch after batch.

    Args:
        model: As the other arguments that are not named here, see :class:`~aeplus.run.editable.EditableModel`.
        name: What reports call the model.
        notify: Called with the name of a hook of :class:`~aeplus.run.hooks.EditCallback` and its arguments.
        target_cache: Where targets are kept that other runs need too; none by default.
        ranks: The processes that make this run together, each with the same model; by default there is no other. Every
            method is then called by all of them.

    Attributes:
        entries: The committed batches.
        resumed: How many of them the run began with.
        measuring: Asks the model what the run reports.
        recording: Writes the others to a journal, where one is kept.
        report: What the run has measured so far.
        select: Makes the rule that chooses each batch's candidate; by default that of ``method.selection``.
        monitor: What :meth:`validate` found that the rule should see; see :func:`~aeplus.run.selection.seen`.

    Raises:
        InputError: As :class:`~aeplus.run.editable.EditableModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layers: Sequence[int],
        method: Method,
        targets: TargetOptions = TargetOptions(),  # noqa: B008 - frozen
        preserved: PreservedOptions = PreservedOptions(),  # noqa: B008
        *,
        edited_dtype: Literal["same", "float32"] = "same",
        site: str | None = None,
        seed: int = 0,
        name: str = "model",
        notify: Callable[..., None] = lambda hook, *arguments: None,
        progress: Progress | None = None,
        preserve: Sequence[EditRequest] = (),
        target_cache: "TargetCache | None" = None,
        unedited_cache: dict[tuple[Hashable, ...], Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        notices.departures(method)
        super().__init__(
            *(model, tokenizer, layers, method, targets, preserved),
            edited_dtype=edited_dtype,
            site=site,
            seed=seed,
            progress=progress,
            preserve=preserve,
            unedited_cache=unedited_cache,
            ranks=ranks,
        )
        self.entries = Entries()
        self.resumed = 0
        self.report = RunReport(method=method.label, model=name, seed=seed)
        self.select: Callable[[], Selection] = SelectionOptions(method.selection)
        self.monitor = SELECTIONS[method.selection].watched
        self.recording = Recording(self.unedited, self.sites, self.decoder.ranks)
        self.measuring = Measuring(self.decoder, self._reading)
        self._notify, self._target_cache = notify, target_cache
        self._data: Stream | None = None
        self._editing: _Editing | None = None
        self._batch: UnderWay | None = None
        self._prepared = self._finished = self._said_alone = False

    @property
    def data(self) -> Stream:
        """The edits.

        Raises:
            InputError: If the session is not prepared.
        """
        if self._data is None:
            msg = "expected a session that is prepared, got one that is not; call prepare(data) first."
            raise InputError(msg)
        return self._data

    @property
    def has_data(self) -> bool:
        """Whether the session has its edits."""
        return self._data is not None

    @property
    def ready(self) -> bool:
        """Whether the session is prepared for editing."""
        return self._editing is not None

    @property
    def statistics(self) -> list[LayerStatistics]:
        """Statistics of preserved knowledge for each edited layer.

        Raises:
            InputError: If the session is not prepared for editing.
        """
        return self._prepared_for_editing().statistics

    def _prepared_for_editing(self) -> _Editing:
        if self._editing is None:
            msg = "expected a session that is prepared for editing, got one that is not; call prepare(data) first."
            raise InputError(msg)
        return self._editing

    # ---- preparing

    def prepare(self, data: Stream, *, editing: bool = True, resume: "Resume | None" = None) -> None:
        """Everything that needs the unedited model, once; then the edits of a checkpoint are put in.

        Args:
            data: The edits.
            editing: Whether batches will be edited, rather than the model be measured only.
            resume: A checkpoint's edits.

        Raises:
            InputError: If there are no edits, or others than before; the weights are not finite, or should be unedited
                and are not; the stream does not follow the edited layers' outputs; the checkpoint does not fit the
                model or the edits; or the preserved text or the method's threshold cannot be used.
        """
        if self._prepared:
            self._check_again(data, unedited=resume is not None or (editing and self._editing is None))
        else:
            if not data.requests:
                msg = 'expected edits, got none; call setup("fit") of the data first.'
                raise InputError(msg)
            self.unedited.check(self.sites)
            if editing and not data.exhausted:
                notices.possible_rewrites(self.method, data.requests, len(data.current), data.cursor)
        self._reading.adapt(data, self.contexts() if editing else ("",), self.preserved.corpus, editing=editing)
        self._data = data
        if resume is not None:
            layers, names = [site.layer for site in self.sites], [site.name for site in self.sites]
            model = self.report.model, self.unedited.fingerprint
            resume.check(*model, layers, data.requests, names, self._edited_dtype)
        begins = editing and self._editing is None
        if begins:
            began = time.perf_counter()
            self._editing = self._read_preserved()
            self.report.seconds["statistics"] = time.perf_counter() - began
        if not self._prepared:
            before = self.measuring.begin(data, self.unedited)
            self.report.edits = len(data.requests)
            self.report.record("before", before)
        if begins or not self._prepared:  # those who watch editing need to hear of it, whatever was measured before
            self._notify("on_unedited_model")
        if resume is not None:
            entries, snapshot = Entries(resume.entries), Snapshot(self.sites)
            try:
                entries.apply(self.sites)
            except BaseException:
                snapshot.restore()
                raise
            self.entries, self.resumed = entries, len(entries)
            self.report.batches = [entry.report for entry in self.entries]
            self.report.seconds["earlier"] = sum(batch["seconds"]["total"] for batch in self.report.batches)
            self.report.edits_done = data.cursor
        self._prepared = True

    def _check_again(self, data: Stream, *, unedited: bool) -> None:
        if data is not self.data:
            msg = "expected the edits that this run began with, got others; make a new EditModule, or EditSession."
            raise InputError(msg)
        if unedited and self.entries:
            msg = (
                f"expected an unedited model, got one with {len(self.entries)} batches of this run; load it "
                "anew for a new EditModule, or EditSession."
            )
            raise InputError(msg)

    def _read_preserved(self) -> _Editing:
        options = self.target_options
        contexts = self.contexts()
        statistics = self.load_statistics(contexts)
        if self.method.closed_form:
            for layer in statistics:
                base_filter(self.method, layer.spectrum)  # a bad threshold is reported before the work
        named = self.preserved.facts or self._preserve
        method = self.method.beside_facts() if named else self.method
        restraint, meter = Restraint(self.method, self.sites, self.unedited.once), LeakageMeter(self.sites, statistics)
        builder = BatchBuilder(
            *(self.decoder, self.tokenizer, self.sites, method, options, statistics, contexts, self.seed),
            progress=lambda *numbers: self._notify("on_targets_step", *numbers),
            cache=self._target_cache,
            energies=meter.energies,
        )
        return _Editing(builder, statistics, restraint, meter)

    # ---- a batch, from its first candidate to its commit

    @property
    def batch(self) -> BatchEdit:
        """The batch being edited.

        Raises:
            InputError: If there is none.
        """
        return self._under_way().edit

    def _under_way(self) -> UnderWay:
        if self._batch is None:
            msg = "expected a batch under way, got none; call begin() first."
            raise InputError(msg)
        return self._batch

    @property
    def iteration(self) -> int:
        """The smoothing iteration that the model holds, from 0; -1 between batches."""
        return self.batch.iteration if self.in_batch else -1

    @property
    def in_batch(self) -> bool:
        """Whether a batch is under way."""
        return self._batch is not None

    def begin(self, items: Items | None = None) -> None:
        """Builds the edit of the batch at the cursor; the model is as before.

        Args:
            items: Gives the validation prompts, which a method that chooses layer by layer needs meanwhile.

        Raises:
            InputError: If a prompt is too long, something is not finite, there is nothing to edit, another batch is
                under way, or such a method gets no validation prompts.
        """
        builder = self._prepared_for_editing().builder
        if self.in_batch:
            msg = (
                f"expected no batch under way, got one at iteration {self.iteration}; commit it or roll it back first."
            )
            raise InputError(msg)
        if self.data.exhausted:
            msg = "expected a batch to edit, got the end of the edits; end the run when data.exhausted (no min_epochs)."
            raise InputError(msg)
        batch = UnderWay(self.select())
        if self.method.by_layer:
            grade, spend = self.measuring.grade, batch.spend_validating
            batch.choice = LayerChoice(items, self.select, grade, self.monitor, spend)
        if len(self.data.current) == 1 and not self._said_alone:
            notices.not_smoothed(self.method)
            self._said_alone = True
        prior_keys = [self.entries.keys(site) for site in self.sites]
        removed = None
        if self.method.feedback:
            earlier = [(self.entries.updates(site), self.entries.keys(site)) for site in self.sites]
            removed = [added_last(self.method, updates, updates.ranks, keys) for updates, keys in earlier]
        edit = builder.build(self.data.current, self.data.edited, prior_keys, removed, batch.choice)
        if self.method.closed_form:
            joint = self.target_options.joint
            notices.shared_keys(edit.shared_keys, self.data.current, self.data.cursor, joint=joint)
        batch.built(edit, builder.learning_seconds)
        self._batch = batch

    def edit_batch(self, items: Items) -> BatchCommit:
        """Edits the batch at the cursor, from its first candidate to its commit, for those without a loop of their own.

        Args:
            items: Gives the validation prompts, once for each candidate.

        Raises:
            InputError: As :meth:`begin` and :meth:`candidate` do.
        """
        self.begin(items)
        done = False
        while not done:
            self.candidate()
            done = self.settle(seen(self.validate(items()), self.monitor))
        return self.commit()

    def candidate(self) -> Candidate:
        """Puts the batch's next candidate into the model.

        Raises:
            InputError: If a residual is not finite; the model is then as the batch found it.
        """
        candidate = self.batch.candidate(len(self.batch.scores))
        self._notify("on_candidate", candidate.iteration, self.batch.iterations)
        return candidate

    def validate(self, items: Sequence[Asked]) -> dict[str, float | None]:
        """Scores the model (and the present candidate, in a batch) on validation prompts, in percent.

        Args:
            items: The prompts; a plain (aspect, prompt, answer) is joined by ``auto``.

        Returns:
            Efficacy, Generalization, Specificity, Score and ``probability``; see
            :func:`~aeplus.evaluation.questions.grade`.

        Raises:
            InputError: If the session is not prepared.
        """
        _ = self.data
        began = time.perf_counter()
        summary = self.measuring.grade(items, self.batch if self.in_batch else None)
        if self._batch is not None:
            self._batch.scored(summary, time.perf_counter() - began)
        return summary

    def settle(self, score: float | None) -> bool:
        """Hands the present candidate's score to the selection; whether the batch is ready to be committed.

        Args:
            score: What :attr:`monitor` names, in percent; ``None`` where it was not validated: there is nothing to
                choose by, and the batch ends after its last candidate, which is committed unless an earlier one was
                kept.

        Raises:
            InputError: If the batch has no candidate yet.
        """
        return self._under_way().settle(score)

    def commit(self) -> BatchCommit:
        """Makes the kept candidate (the present one, if none was kept) part of the model and the journal.

        Raises:
            InputError: If the batch has no candidate yet.
        """
        under_way, data, editing = self._under_way(), self.data, self._prepared_for_editing()
        under_way.check_candidate()
        batch, requests = under_way.edit, data.current
        chosen = batch.final()
        if editing.restraint.due(len(self.entries) + 1, last=data.cursor + len(requests) >= len(data.requests)):
            updates = {site.layer: self.entries.updates(site) for site in self.sites}
            chosen = Candidate(chosen.iteration, editing.restraint.restrain(updates, chosen.layers))
        chosen = chosen.agreed(self.decoder.ranks)
        if chosen is not batch.current:
            batch.apply(chosen)
        report = under_way.report(len(requests), chosen, editing.builder.spared_seconds)
        entry = Entry.of(requests, chosen.layers, report)
        norms, converged = batch.editor.residual_norms.tolist(), int(batch.editor.converged.sum())
        validation = batch.scores[chosen.iteration]
        with uninterrupted():  # what the journal has, the model has
            self.entries.append(self.recording.append(entry).packed())
            self.report.batches.append(report)
            self._batch, self._finished = None, False
            data.cursor += len(requests)
            self.report.edits_done = data.cursor
        commit = BatchCommit(len(self.entries) - 1, requests, chosen, report, norms, validation, converged)
        self._notify("on_batch_committed", commit)
        return commit

    def rollback(self) -> None:
        """Removes a candidate that was not committed; between batches it does nothing."""
        if self._batch is not None:
            self._batch.edit.rollback()
            self._batch = None

    def finish(self) -> RunReport:
        """Measures all edits on the model as it is now: ``after`` and the leakage. A second call measures nothing.

        Whoever reports a run calls it: ``aeplus.edit``, and for ``fit`` and ``compare`` the callback ``JournalWriter``.

        Raises:
            InputError: If the session is not prepared.
        """
        if not self._finished:
            self.rollback()
            self.report.record("after", self.measuring.score(self.data.requests))
            if self._editing is not None:
                ranks, meter = self.decoder.ranks, self._editing.meter  # one reads the journal
                self.report.leakage = ranks.first(meter.measure(self.entries) if ranks.leads else None)
            self._finished = True
        return self.report

    def release(self) -> None:
        """Lets go of what editing needed beside the model, at once: Lightning's objects refer to each other in circles.

        Nothing can be edited or measured afterwards; report and entries stay.
        """
        self._editing = self._batch = None
        self.entries.release()
