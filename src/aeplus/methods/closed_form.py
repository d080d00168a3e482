"""The closed-form edit of a batch: its smoothing candidates, layer after layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.errors import InputError
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.layer import LayerSolver, stored
from aeplus.methods.layer_targets import TARGETS, Find, LayerTarget, Learning
from aeplus.methods.measured import LayerEdit
from aeplus.methods.treatments import TREATMENTS
from aeplus.models.costs import tokens_ahead
from aeplus.models.decoder import Decoder
from aeplus.models.sites import EditSite, Snapshot
from aeplus.models.variants import Variants, variant_parts
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import Targets
from aeplus.targets.rows import BatchRows

if TYPE_CHECKING:
    from aeplus.methods.method import Method

_TOKENS = 8192  # that run side by side; more on a GPU with the memory for it
_MOST_TOKENS = 24576  # for an 8B model what a step of the targets takes; more would save nothing but launches
_ENOUGH = 0.05  # share of the way that may be left where layers that normalize share it


@dataclass(frozen=True)
class Solved:
    """One layer's update, with what it was solved from.

    Attributes:
        solver: The layer's solver.
        update: The update.
        residual: Its residual ``[o, n]``.
        keys: The edits' keys ``[d, n]``.
        made: The same, 0 for edits that are not made.
    """

    solver: LayerSolver
    update: fn.LowRankUpdate
    residual: Tensor
    keys: Tensor
    made: Tensor

    def measured(self) -> LayerEdit:
        """The edit with its report, for which the solver solves it once more."""
        self.solver.solve(self.residual, self.made)
        return LayerEdit(self.update, self.keys, self.solver.report(self.update, self.residual, self.keys))


class Proposal:
    """The edits of one iteration, measured only when they are asked for.

    Args:
        solved: One for each site.
    """

    def __init__(self, solved: Sequence[Solved]) -> None:
        self._solved = solved

    @property
    def updates(self) -> list[fn.LowRankUpdate]:
        """The update of each site."""
        return [layer.update for layer in self._solved]

    @cached_property
    def edits(self) -> list[LayerEdit]:
        """The edit of each site, with what was measured."""
        return [layer.measured() for layer in self._solved]


Choose = Callable[[int, Callable[[int], object]], int]
"""Which of a layer's candidates is taken, given how many there are and what puts one into the model; the first is put
first, as it finds P̃."""


class ClosedForm:
    """Proposes closed-form edits of a batch.

    An edit whose fact a later one of the batch gives another answer is not made: its key is there, for those who undo,
    but is 0 in what is solved.

    Args:
        decoder: The model as the batch finds it.
        snapshot: Its edited weights, and with them the sites.
        rows: The batch's token rows.
        method: The composition.
        statistics: Preserved knowledge of each site.
        prior_keys: Keys of previous edits of each site, ``[d, m]`` or those of each batch.
        find: Learns targets at the output of a layer, with the model's present weights.
        rewritten: Which previous edits are of a fact that the batch edits again, ``[m]``; none by default.
        prepared: What the treatment made of each site's unedited weight.
        removed: For each site what the treatment has added to the last batch's update, where it is fed back.
        choose: Chooses the candidate of each layer, where every layer has its own (``selection_scope: layer``).
        energies: ``tr(W C Wᵀ)`` of each site's weight, if they are known.
        chunk_tokens: ``targets.chunk_tokens``, by which keys are read in parts.

    Attributes:
        iterations: How many candidates of all layers there can be: ``T + 1`` smoothing iterations, or 1 if nothing is
            smoothed or every layer chooses by itself.
        residual_norms: ``‖r‖`` at the last edited layer, ``[n]``.
        converged: Which targets came below the stopping loss (at every layer that has its own), ``[n]``.
        steps: Mean gradient steps of an edit in each optimization of targets, in their order, ``[1]`` or one for each
            layer.
    """

    def __init__(
        self,
        decoder: Decoder,
        snapshot: Snapshot,
        rows: BatchRows,
        method: "Method",
        statistics: Sequence[LayerStatistics],
        prior_keys: Sequence[EarlierKeys | Sequence[Tensor] | Tensor],
        find: Find,
        rewritten: Tensor | None = None,
        prepared: Sequence[Any] | None = None,
        removed: Sequence[fn.LowRankUpdate | None] | None = None,
        choose: Choose | None = None,
        energies: Sequence[float] | None = None,
        chunk_tokens: int = 4096,
    ) -> None:
        self._choose = choose
        self._snapshot, self._sites, self._method = snapshot, snapshot.sites, method
        self._reader = KeyReader(decoder, rows, self._sites, chunk_tokens)
        if method.by_layer and self._reader.curved(self._sites):
            msg = (
                "expected layers whose MLP output is added to the stream for method.selection_scope layer, got layers "
                "that normalize it; set selection_scope: batch."
            )
            raise InputError(msg)
        back = removed or [None] * len(self._sites)
        known = [None] * len(self._sites) if energies is None else list(energies)
        self._solvers = [
            LayerSolver(
                *(site.layer, method, stats, snapshot.weights[i], prior_keys[i], rewritten, back[i], i + 1), known[i]
            )
            for i, (site, stats) in enumerate(zip(self._sites, statistics, strict=True))
        ]
        self._prepared = prepared or [None] * len(self._sites)
        holds = [edit not in rows.superseded for edit in range(rows.edits)]
        self._made = None if all(holds) else torch.tensor(holds, device=self._reader.device)
        steps: list[Tensor] = []

        def aims(layer: int) -> Targets:
            found = find(layer)
            exact = torch.float32 if found.steps.device.type == "mps" else torch.float64
            steps.append(found.steps.to(exact).mean().to(self._reader.device))
            return self._aims(found)

        with snapshot:
            learn = Learning(aims, self._write, self._reader)
            self._targets = TARGETS[method.targets].run(method, self._sites, learn)
        several = not method.by_layer and any(target.smooths for target in self._targets)
        self.iterations = method.smoothing_steps + 1 if several else 1
        self.residual_norms, self.steps = self._targets[-1].norms, torch.stack(steps)
        self.converged = torch.stack([target.targets.converged for target in self._targets]).all(0)

    def _aims(self, found: Targets) -> Targets:
        """Targets where the reader is; an edit that is not made stays where it is."""
        targets = found.to(self._reader.device)
        return replace(targets, values=self._wanted(targets.values, targets.initial))

    def _wanted(self, values: Tensor, present: Tensor) -> Tensor:
        """Where the stream should get to, ``[o, n]``: edits that are not made stay where they are at present."""
        return values if self._made is None else torch.where(self._made, values, present)

    def _of_made(self, columns: Tensor) -> Tensor:
        """Keys or residuals, one in each column, 0 for edits that are not made."""
        return columns if self._made is None else columns * self._made.to(columns.device)

    def _residual(
        self, sharing: Sequence[EditSite], wanted: Tensor, values: Tensor, *, together: bool = True
    ) -> Tensor:
        """What the first of the sites has to put out in addition, ``[o, n]``, 0 for edits that are not made.

        Args:
            sharing: The sites that share what is lacking.
            wanted: Where the stream after the last of them should get to, ``[o, n]``.
            values: Where it is, ``[o, n]``.
            together: As for :meth:`_edit_layers`.
        """
        # Nothing is planned for edits that are not made, wherever those of the layers below have led them.
        wanted = self._wanted(wanted, values)
        return self._of_made(self._reader.change(sharing, wanted, values, together=together))

    def _write(self, index: int, target: LayerTarget) -> None:
        site, solver = self._sites[index], self._solvers[index]
        keys, values = self._reader.read(site, site)
        first, last = (self._residual([site], target.values_at(t), values) for t in (0, self._method.smoothing_steps))
        keys = self._of_made(keys)
        # P̃ belongs to the first iteration (Algorithm 1)
        solver.search(last if self._method.search_unsmoothed else first, keys)
        site.add(stored(solver.solve(last, keys), site.weight))

    @torch.no_grad()
    def propose(self, iteration: int) -> list[LayerEdit]:
        """Edits the model with the targets of smoothing iteration ``t``; it must be as the batch found it.

        Where every layer chooses by itself there is one proposal, and ``t`` says nothing.

        Raises:
            InputError: If a residual is not finite.
        """
        if self._method.by_layer:
            return self._edit_by_layer()
        edits, left = self._edit_layers(iteration)
        if left > _ENOUGH:  # layers that normalize hand the last one what it may not reach
            self._snapshot.restore()
            alone, less = self._edit_layers(iteration, together=False)
            if less < left / 2:
                edits = alone
            else:
                self._snapshot.restore()
                for site, edit in zip(self._sites, edits, strict=True):
                    site.add(edit.update)
        if (
            TREATMENTS[self._method.treatment].run.each is not None
        ):  # the layers above were edited on top of whole updates, as RECT does
            self._snapshot.restore()
            for site, edit in zip(self._sites, edits, strict=True):
                site.add(edit.update)
        return edits

    @torch.no_grad()
    def propose_all(self) -> list["Proposal"] | None:
        """The edits of every smoothing iteration, all in one pass; the model is left as the batch found it.

        Iterations differ by updates of low rank, so the rows run side by side, each with ``W x + A (B x)``.

        Returns:
            One proposal for each iteration, equal to what :meth:`propose` gives but for rounding; ``None`` where they
            cannot run like that: there is only one, updates are treated, or layers normalize what they put out.

        Raises:
            InputError: If a residual is not finite.
        """
        if self.iterations == 1 or TREATMENTS[self._method.treatment].run.each is not None:
            return None
        if self._reader.curved(self._sites):
            return None
        self._reader.restart()
        target = self._targets[0]
        first = self._reader.read(self._sites[0], target.at, every=target.every)  # nothing below is edited yet
        at_once = tokens_ahead(self._reader.decoder, _TOKENS, _MOST_TOKENS)
        parts = variant_parts(self.iterations, self._reader.tokens, at_once)
        return [proposal for part in parts for proposal in self._edit_beside(part, first)]

    def _edit_beside(self, iterations: range, first: tuple[Tensor, Tensor]) -> list["Proposal"]:
        """The edits of some iterations, whose rows run side by side.

        Args:
            iterations: The iterations.
            first: Keys and values of the first site.
        """
        wide: KeyReader | None = None
        solved: list[list[Solved]] = [[] for _ in iterations]
        for i, (site, solver, target) in enumerate(zip(self._sites, self._solvers, self._targets, strict=True)):
            read = [first] * len(iterations)
            if i > 0:
                wide = wide or self._reader.beside(len(iterations))
                below = Variants(self._sites[:i], [[layer.update for layer in own] for own in solved])
                read = wide.read_each(site, target.at, below, every=target.every)
            sharing = self._sites[i : i + target.parts]
            for own, iteration, one in zip(solved, iterations, read, strict=True):
                own.append(self._solve(solver, sharing, target, iteration, one))
        return [Proposal(own) for own in solved]

    def _solve(
        self,
        solver: LayerSolver,
        sharing: Sequence[EditSite],
        target: LayerTarget,
        iteration: int,
        read: tuple[Tensor, Tensor],
        *,
        together: bool = True,
    ) -> Solved:
        """The update of a layer for a smoothing iteration, of which the first finds P̃.

        Args:
            solver: Its solver.
            sharing: The sites that share what is lacking; the first is edited.
            target: Its target.
            iteration: The smoothing iteration ``t``.
            read: Its keys ``[d, n]`` and the present values ``[o, n]``.
            together: As for :meth:`_edit_layers`.
        """
        keys, values = read
        made = self._of_made(keys)
        if self._method.search_unsmoothed:
            whole = self._residual(sharing, target.targets.values, values, together=together)
            solver.search(whole, made)
        residual = self._residual(sharing, target.values_at(iteration), values, together=together)
        return Solved(solver, stored(solver.solve(residual, made), sharing[0].weight), residual, keys, made)

    def _edit_by_layer(self) -> list[LayerEdit]:
        """Edits the layers from below to above, each with the candidate that is chosen for it alone."""
        assert self._choose is not None
        self._reader.restart()
        edits: list[LayerEdit] = []
        for i, (site, solver, target) in enumerate(zip(self._sites, self._solvers, self._targets, strict=True)):
            read = self._reader.read(site, target.at)
            wanted, sharing = self._wanted(target.targets.values, read[1]), self._sites[i : i + target.parts]
            own = target.starting(read[1], wanted)
            put = partial(self._put, Snapshot([site]), partial(self._solve, solver, sharing, own, read=read))
            chosen = self._choose(self._method.smoothing_steps + 1 if own.smooths else 1, put)
            edits.append(put(chosen).measured())
        return edits

    @staticmethod
    def _put(before: Snapshot, solve: Callable[[int], Solved], iteration: int) -> Solved:
        """Puts a layer's candidate into the model, in place of another."""
        before.restore()
        solved = solve(iteration)
        before.sites[0].add(solved.update)
        return solved

    def _edit_layers(self, iteration: int, *, together: bool = True) -> tuple[list[LayerEdit], float]:
        """Edits the layers from below to above.

        Args:
            iteration: The smoothing iteration ``t``.
            together: Whether layers that normalize what they put out share the way; otherwise the last goes all of it.

        Returns:
            The edits, and where layers that share the way normalize, the largest share of it that is left of an edit
            that is made; else 0. Processes that run the model together get the same.
        """
        self._reader.restart()
        edits: list[LayerEdit] = []
        starts: list[Tensor] = []
        treat = TREATMENTS[self._method.treatment].run.each
        for i, (site, solver, target) in enumerate(zip(self._sites, self._solvers, self._targets, strict=True)):
            keys, values = self._reader.read(site, target.at, every=target.every)
            starts.append(values)
            sharing, read = self._sites[i : i + target.parts], (keys, values)
            solved = self._solve(solver, sharing, target, iteration, read, together=together)
            update = solved.update
            site.add(update)
            if treat is not None:
                update = treat(self._method, update, solver.stored_weight, self._prepared[i])
            edits.append(LayerEdit(update, keys, solver.report(update, solved.residual, keys)))
        first = self._targets[0]
        if first.parts == 1 or not self._reader.curved(self._sites):
            return edits, 0.0
        left = self._of_made(self._reader.left(first.at, first.values_at(iteration), starts[0]))
        return edits, self._reader.decoder.ranks.together(float(left.max()))
