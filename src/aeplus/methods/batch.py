"""One sequential batch: built from requests, its candidates, and the way back.

Every candidate starts from the weights that the batch found. Until one is committed, :meth:`BatchEdit.rollback`
leaves the model exactly as it was.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from aeplus.edits import EditRequest
from aeplus.functional import LowRankUpdate
from aeplus.methods.closed_form import Choose, ClosedForm, Proposal
from aeplus.methods.gradient import GradientEditor, sample_previous
from aeplus.methods.measured import LayerEdit
from aeplus.methods.registry import Part
from aeplus.methods.treatments import prepared
from aeplus.models.decoder import Decoder
from aeplus.models.sites import EditSite, Snapshot
from aeplus.models.variants import Variants
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import BatchRows, batch_rows
from aeplus.utils.ranks import Ranks

if TYPE_CHECKING:
    from aeplus.methods.method import Method
    from aeplus.targets.cache import TargetCache


class Editor(Protocol):
    """What proposes edits of a batch; see :class:`~aeplus.methods.closed_form.ClosedForm`."""

    iterations: int
    residual_norms: Tensor
    converged: Tensor
    steps: Tensor

    def propose(self, iteration: int) -> list[LayerEdit]:
        """Edits the model, which is as the batch found it, and reports how."""

    def propose_all(self) -> list[Proposal] | None:
        """The edits of all iterations, without editing the model; ``None`` where they have to come one by one."""


class Candidate:
    """One smoothing iteration's edit of all layers.

    Args:
        iteration: ``t``; 0 is the most smoothed.
        edits: One edit per site, or a proposal that measures them when they are asked for.
    """

    def __init__(self, iteration: int, edits: Sequence[LayerEdit] | Proposal) -> None:
        self.iteration, self._edits = iteration, edits

    @property
    def layers(self) -> list[LayerEdit]:
        """One edit per site."""
        return self._edits.edits if isinstance(self._edits, Proposal) else list(self._edits)

    @property
    def updates(self) -> list[LowRankUpdate]:
        """The update of each site."""
        return self._edits.updates if isinstance(self._edits, Proposal) else [edit.update for edit in self._edits]

    def agreed(self, ranks: Ranks) -> "Candidate":
        """The same on every process, to the last bit, whatever device each has solved it on: that of process 0.

        Args:
            ranks: The processes that have solved it.
        """
        if ranks.alone:
            return self
        edits = []
        for edit in self.layers:
            update = edit.update
            mask = None if update.mask is None else ranks.first_tensor(update.mask)
            factors = LowRankUpdate(ranks.first_tensor(update.left), ranks.first_tensor(update.right), mask)
            edits.append(replace(edit, update=factors, keys=ranks.first_tensor(edit.keys)))
        return Candidate(self.iteration, edits)


class BatchEdit:
    """The edit of one batch, up to its commit.

    Args:
        snapshot: The edited weights as the batch finds them.
        editor: What proposes its edits.
        shared_keys: The edits that have one key, each group by their numbers in the batch.
        parallel: Find all candidates in one pass where that can be done; otherwise one after the other.

    Attributes:
        current: The candidate that the model holds.
        scores: What validation made of each candidate, by its iteration; empty where there is no validation.
        seconds: What proposing took.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        editor: Editor,
        shared_keys: Sequence[Sequence[int]] = (),
        parallel: bool = False,
    ) -> None:
        self.snapshot, self.editor, self.shared_keys = snapshot, editor, shared_keys
        self._parallel = parallel
        self._found: list[Proposal] | None = None  # of all candidates
        self.current: Candidate | None = None
        self.scores: dict[int, dict[str, float | None]] = {}
        self.seconds = 0.0
        self._kept: Candidate | None = None

    @property
    def iterations(self) -> int:
        """How many candidates there can be."""
        return self.editor.iterations

    @property
    def chosen(self) -> Candidate:
        """The candidate to commit: the kept one, or the present one if none was kept."""
        chosen = self._kept or self.current
        assert chosen is not None
        return chosen

    def keep(self) -> None:
        """Remembers the present candidate as the one to commit."""
        self._kept = self.current

    @torch.no_grad()
    def candidate(self, iteration: int) -> Candidate:
        """Edits the model, from the batch's starting weights.

        Raises:
            InputError: If a residual is not finite; the model is then as the batch found it.
        """
        began = time.perf_counter()
        self.rollback()
        try:
            if self._parallel and iteration == 0:
                self._found = self.editor.propose_all()
            if self._found is not None:
                candidate = Candidate(iteration, self._found[iteration])
                self._add(candidate)
            else:
                candidate = Candidate(iteration, self.editor.propose(iteration))
        except BaseException:
            self.rollback()
            raise
        self.seconds += time.perf_counter() - began
        self.current, self.scores[iteration] = candidate, {}
        return self.current

    @torch.no_grad()
    def final(self) -> Candidate:
        """The candidate to commit, in the model.

        Where all were found in one pass it is found once more by itself, so that what is committed is bit for bit what
        it would be had they come one by one.
        """
        if self._found is None:
            return self.chosen
        began, iteration = time.perf_counter(), self.chosen.iteration
        self.rollback()
        try:
            self.current = self._kept = Candidate(iteration, self.editor.propose(iteration))
        except BaseException:
            self.rollback()
            raise
        self._found = None
        self.seconds += time.perf_counter() - began
        return self.current

    @property
    def iteration(self) -> int:
        """The iteration of the candidate that the model holds, from 0; -1 before the first."""
        return len(self.scores) - 1

    @contextmanager
    def variants(self) -> Iterator[Variants | None]:
        """All candidates as variants of the model, which is within the block as the batch found it.

        ``None``, and the model as it is, where the candidates are found one after the other.
        """
        if self._found is None or self.current is None:
            yield None
            return
        self.rollback()
        try:
            yield Variants(self.snapshot.sites, [proposal.updates for proposal in self._found])
        finally:
            self._add(self.current)

    def rollback(self) -> None:
        """Puts back the weights that the batch found."""
        self.snapshot.restore()

    @torch.no_grad()
    def apply(self, candidate: Candidate) -> None:
        """Sets the model to a candidate made before."""
        self.rollback()
        self._add(candidate)

    def _add(self, candidate: Candidate) -> None:
        for site, update in zip(self.snapshot.sites, candidate.updates, strict=True):
            site.add(update)


class BatchBuilder:
    """Makes the edit of each batch of a run.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers, unedited still.
        method: The composition.
        options: How targets are learned.
        statistics: Preserved knowledge of each site, where its weight is: no batch is to move a matrix ``[d, d]``.
        contexts: Prefixes of the prompts; the first is empty.
        seed: Seed of the sample of previous edits (KDE).
        progress: Called with (step, steps, edits converged) after each gradient step.
        cache: Where targets are kept that other runs need too.
        energies: ``tr(W C Wᵀ)`` of each site's unedited weight, if they are known.

    Attributes:
        learning_seconds: What learning took for the batch built last. Targets from the cache count as if learned here.
        spared_seconds: How much of that the cache has spared.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        sites: Sequence[EditSite],
        method: "Method",
        options: TargetOptions,
        statistics: Sequence[LayerStatistics],
        contexts: Sequence[str],
        seed: int,
        progress: Callable[[int, int, int], None],
        cache: "TargetCache | None" = None,
        energies: Sequence[float] | None = None,
    ) -> None:
        self._decoder, self._tokenizer, self._sites, self._method = decoder, tokenizer, sites, method
        self._options, self._statistics, self._contexts, self._seed = options, statistics, contexts, seed
        self._progress, self._cache, self._energies = progress, cache, energies
        self.learning_seconds = self.spared_seconds = 0.0
        self._prepared = prepared(method, sites)  # the weights are unedited still

    def build(
        self,
        requests: Sequence[EditRequest],
        edited: Sequence[EditRequest],
        prior_keys: Sequence[Sequence[Tensor]],
        removed: Sequence[LowRankUpdate | None] | None = None,
        choose: Choose | None = None,
    ) -> BatchEdit:
        """The edit of some requests, with the model as it is now.

        Args:
            requests: The batch.
            edited: All edits committed before.
            prior_keys: For each site the keys of every previous batch, ``[d, n]`` each.
            removed: For each site what the treatment has added to the last batch's update, where it is fed back.
            choose: Chooses the candidate of each layer, where every layer has its own.

        Raises:
            InputError: If a prompt is too long, or something is not finite; the model is then as before.
        """
        self.learning_seconds = self.spared_seconds = 0.0
        rows, snapshot = self._rows(requests, self._contexts), Snapshot(self._sites)
        batch = Batch(requests, edited, rows, snapshot, prior_keys, removed, choose)
        editor = UPDATES[self._method.update].run(self, batch)
        return BatchEdit(snapshot, editor, rows.shared_keys, self._method.smoothing_mode == "parallel")

    def closed_form(self, batch: "Batch") -> Editor:
        """The closed form, with targets learned or taken from the cache."""
        return ClosedForm(
            *(self._decoder, batch.snapshot, batch.rows, self._method, self._statistics, batch.prior_keys),
            lambda layer: self._find_targets(batch.rows, layer),
            rewritten_by(batch.edited, batch.requests),
            self._prepared,
            batch.removed,
            batch.choose,
            None if batch.edited else self._energies,
            self._options.chunk_tokens,
        )

    def gradient(self, batch: "Batch") -> Editor:
        """Gradient steps on the batch and a sample of previous edits."""
        began = time.perf_counter()
        count, seed = self._method.gradient.samples, self._seed + len(batch.edited)
        sample = sample_previous(batch.edited, batch.requests, count, seed)
        previous = self._rows(sample, [""]) if sample else None
        parts = (self._decoder, batch.snapshot, batch.rows, previous, self._method, self._statistics, batch.prior_keys)
        editor = GradientEditor(*parts, self._progress, self._options.chunk_tokens)
        self.learning_seconds = time.perf_counter() - began
        return editor

    def _rows(self, requests: Sequence[EditRequest], contexts: Sequence[str]) -> BatchRows:
        return batch_rows(self._tokenizer, requests, contexts, self._decoder.context_length)

    def _find_targets(self, rows: BatchRows, layer: int) -> Targets:
        began = time.perf_counter()
        arguments = (self._decoder, rows, layer, self._options, self._progress)
        if self._cache is None:
            targets = find_targets(*arguments)
            seconds = time.perf_counter() - began
        else:
            targets, seconds = self._cache.find(*arguments)
        self.learning_seconds += seconds
        self.spared_seconds += seconds - (time.perf_counter() - began)
        return targets


def rewritten_by(edited: Sequence[EditRequest], requests: Sequence[EditRequest]) -> Tensor:
    """Which previous edits are of a fact that some new ones edit again, ``[m]``."""
    facts = {request.fact_key for request in requests}
    return torch.tensor([request.fact_key in facts for request in edited], dtype=torch.bool)


@dataclass(frozen=True)
class Batch:
    """What an update is made from.

    Attributes:
        requests: The batch's edits.
        edited: All edits committed before.
        rows: The batch's token rows.
        snapshot: The edited weights as the batch finds them.
        prior_keys: For each site the keys of every previous batch, ``[d, n]`` each.
        removed: For each site what the treatment has added to the last batch's update, where it is fed back.
        choose: Chooses the candidate of each layer, where every layer has its own.
    """

    requests: Sequence[EditRequest]
    edited: Sequence[EditRequest]
    rows: BatchRows
    snapshot: Snapshot
    prior_keys: Sequence[Sequence[Tensor]]
    removed: Sequence[LowRankUpdate | None] | None = None
    choose: Choose | None = None


UPDATES: dict[str, Part[Callable[[BatchBuilder, Batch], Editor]]] = {
    "closed_form": Part(BatchBuilder.closed_form, traits=("closed_form",)),
    "gradient": Part(BatchBuilder.gradient, ("gradient",)),
}
"""``method.update``: what proposes a batch's edits. A ``closed_form`` takes targets, filter, P̃ and Λp."""
