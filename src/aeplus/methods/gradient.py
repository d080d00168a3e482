"""Updates learned by gradient, orthogonal to what previous edits use (KDE).

Every gradient of an edited weight is projected, ``g ← g − g M Mᵀ``, ``M`` an orthonormal basis of the keys of
previous edits, so that the update does not act on them. Two stages: first the batch's edits alone, then the batch
together with those of a sample of previous edits that are no longer answered.

The update is ``Δ = D (I − M Mᵀ)`` with a free ``D``, learned by Adam from projected gradients. Adam rescales each
entry, so its steps leave the orthogonal space; the projection after it makes ``Δ`` exactly orthogonal all the
same. Nothing depends on what it takes out of ``D``, which is therefore projected in place and held once.

Layers below the first edited one run once; logits are computed where an answer is predicted and nowhere else.

Notation: ``n`` edits of the batch, ``m`` sampled previous ones, ``o`` and ``d`` outputs and inputs of an edited
weight, ``r`` columns of a basis, ``p`` predicted positions.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from aeplus import functional as fn
from aeplus.edits import EditRequest, still_holding
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, project_out
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.layer import solving_dtype, stored
from aeplus.methods.measured import LayerEdit, measure, weight_energy
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.sites import EditSite, Snapshot
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.keys import KeyReader
from aeplus.targets.packing import Bundle, bundle_rows, token_rows
from aeplus.targets.rows import BatchRows

if TYPE_CHECKING:
    from aeplus.methods.method import GradientOptions, Method


@dataclass(frozen=True)
class GradientEdit:
    """What gradient steps led to.

    Attributes:
        updates: One per site, in float32 at least.
        loss: Loss of each edit with the updates, ``[n]``.
        steps: Gradient steps taken, both stages together.
        converged: Which edits' loss is below the stopping loss, ``[n]``.
    """

    updates: list[LowRankUpdate]
    loss: Tensor
    steps: int
    converged: Tensor


def learn_updates(
    decoder: Decoder,
    sites: list[EditSite],
    rows: BatchRows,
    previous: BatchRows | None,
    bases: list[Tensor],
    options: "GradientOptions",
    progress: Callable[[int, int, int], None] | None = None,
) -> GradientEdit:
    """Learns the updates of a batch of edits; the model is afterwards as it was, whatever happens.

    The loss of an edit is the mean, over its bare prompt and the first ``options.contexts`` contexts, of the mean
    negative log-likelihood of the answer's tokens. In the first stage an edit counts while its loss is not below
    ``options.stop_loss``. In the second, all edits of the batch count, and a previous one from the step on at
    which its loss is first not below. A stage ends when all losses are below. An edit whose fact a later one of the
    batch gives another answer is not learned.

    Args:
        decoder: The model as the batch finds it, in evaluation mode.
        sites: The edited layers, ascending.
        rows: The batch's token rows.
        previous: Token rows of a sample of previous edits, of which the bare prompts are used; ``None`` for no
            second stage.
        bases: For each site an orthonormal basis of the space to keep out of, ``[d, r]``.
        options: How to learn.
        progress: Called with (steps done, maximum, edits learned) whenever losses are known. Steps that a stage
            which ends early leaves out count as done in the next.

    Raises:
        InputError: If the model's forward pass cannot be replayed, a loss is not finite, or a basis does not fit.
    """
    n, stop = rows.edits, options.stop_loss
    more = previous if options.replay_steps and previous is not None and previous.edits else None
    most = options.steps + (options.replay_steps if more is not None else 0)

    def report(step: int, losses: list[float]) -> None:
        if progress is not None:
            progress(step, most, sum(value < stop for value in losses[:n]))

    with _borrowed(sites) as snapshot:
        packed = enumerate(token_rows(rows, options.contexts))
        learned = [own for edit, own in packed if edit not in rows.superseded]  # the others' losses are 0
        bundles = bundle_rows(decoder, learned, sites[0].layer)
        bundles[0].parts[0].replay.check()
        learner = _Learner(decoder, snapshot, bases, options, report)
        loss = learner.stage(bundles, n, options.steps)
        if more is not None:
            bundles += bundle_rows(decoder, token_rows(more, 0, n), sites[0].layer)
            always = torch.arange(n + more.edits, device=loss.device) < n
            loss = learner.stage(bundles, len(always), options.replay_steps, always, options.steps)[:n]
    # Adam's steps have full rank: the update is its own right factor, after a left one that does nothing.
    updates = [LowRankUpdate(torch.eye(len(d), dtype=d.dtype, device=d.device), d) for d in learner.deltas]
    return GradientEdit(updates, loss, learner.steps, loss < stop)


@contextmanager
def _borrowed(sites: Sequence[EditSite]) -> Iterator[Snapshot]:
    """The sites' weights require gradients within the block, and are as before when it ends."""
    snapshot = Snapshot(sites)
    parameters = [cast(Tensor, site.module.weight) for site in sites]
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield snapshot
    finally:
        snapshot.restore()
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


@contextmanager
def _learning_at(sites: Sequence[EditSite], mark: Tensor) -> Iterator[None]:
    """Only one token of each row ``[rows]`` gives the sites' weights a gradient; what they put out stays the same."""

    def at_mark(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # The same with the weight cut off from its gradient; the input keeps its own, for the sites below.
        weight, bias = cast(Tensor, module.weight).detach(), cast("Tensor | None", module.bias)
        still = F.linear(args[0], weight.T if isinstance(module, Conv1D) else weight, bias)
        # Some layers hand their MLP all tokens in one row.
        tokens = output.numel() // output.shape[-1] // len(mark)
        here = torch.arange(tokens, device=output.device) == mark.to(output.device)[:, None]
        return torch.where(here.reshape(output.shape[:-1])[..., None], output, still.to(output.dtype))

    handles = [site.module.register_forward_hook(at_mark) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _losses(decoder: Decoder, bundle: Bundle, edits: int, learning: Sequence[EditSite] = ()) -> Tensor:
    """The loss of each edit in the bundle, 0 for others, ``[edits]``; some sites learn at the subjects only."""
    places = []
    for part in bundle.parts:
        with _learning_at(learning, part.mark):
            hidden = part.replay.run(part.replay.hidden, part.replay.first, len(decoder.layers))
        places.append(hidden[part.row, part.column])
    logits = at_least_float32(decoder.logits(torch.cat(places)))  # [p, vocabulary]
    nll = (
        F.cross_entropy(logits, bundle.target.to(logits.device), reduction="none").to(bundle.terms.device)
        / bundle.terms
    )
    return nll.new_zeros(edits).index_add(0, bundle.edit, nll)


class _Learner:
    """The updates while they are learned; the model's weights are always the start's plus these, rounded.

    Args:
        decoder: The model.
        snapshot: Its edited weights as the batch found them.
        bases: For each site an orthonormal basis, ``[d, r]``.
        options: How to learn.
        report: Called with (steps done, losses) whenever losses are known.

    Attributes:
        deltas: For each site the update, ``[o, d]``.
        steps: Gradient steps taken.
    """

    def __init__(
        self,
        decoder: Decoder,
        snapshot: Snapshot,
        bases: Sequence[Tensor],
        options: "GradientOptions",
        report: Callable[[int, list[float]], None],
    ) -> None:
        self.deltas = [torch.zeros_like(at_least_float32(weight)) for weight in snapshot.weights]
        self.steps = 0
        self._decoder, self._sites, self._start = decoder, snapshot.sites, snapshot.weights
        self._bases = [basis.to(delta) for basis, delta in zip(bases, self.deltas, strict=True)]
        self._options, self._report = options, report

    def stage(
        self, bundles: list[Bundle], edits: int, steps: int, always: Tensor | None = None, before: int = 0
    ) -> Tensor:
        """Learns until all losses are below the stopping loss, for at most this many steps.

        Args:
            bundles: What is learned.
            edits: How many edits that is.
            steps: Maximum number of steps.
            always: Which edits count whatever its loss, ``[edits]``; an edit joins when its loss is not below. By
                default none does, and an edit counts while its loss is not below.
            before: Steps to report as done before.

        Returns:
            The losses with the updates as they are now, ``[edits]``.

        Raises:
            InputError: If a loss is not finite.
        """
        options = self._options
        adam = torch.optim.AdamW(self.deltas, lr=options.learning_rate, weight_decay=options.weight_decay)
        for step in range(steps + 1):
            loss, gradients = self._evaluate(bundles, edits, always, gradient=step < steps)
            losses = self._decoder.ranks.together(loss.tolist())  # the one round trip to the host
            if not all(math.isfinite(value) for value in losses):
                msg = (
                    "expected a finite loss, got NaN or infinity for some edit; use a smaller "
                    "method.gradient.learning_rate, or model.dtype float32 or bfloat16."
                )
                raise InputError(msg)
            self._report(before + step, losses)
            if step == steps or all(value < options.stop_loss for value in losses):
                break
            if always is not None:
                always = always | (loss >= options.stop_loss)
            self._step(adam, gradients)
        return loss

    def _evaluate(
        self, bundles: list[Bundle], edits: int, always: Tensor | None, *, gradient: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The losses ``[edits]``, and the gradients of the sum of those that count, one ``[o, d]`` per site."""
        parameters = [cast(Tensor, site.module.weight) for site in self._sites]
        gradients = [torch.zeros_like(delta) for delta in self.deltas] if gradient else []
        losses = []
        marked = self._sites if gradient and self._options.positions == "subject" else ()
        with torch.set_grad_enabled(gradient):
            for bundle in bundles:
                loss = _losses(self._decoder, bundle, edits, marked)
                losses.append(loss.detach())
                if gradient:
                    counts = losses[-1] >= self._options.stop_loss
                    counts = counts if always is None else counts | always
                    parts = torch.autograd.grad(torch.where(counts, loss, 0.0).sum(), parameters)
                    for site, total, part in zip(self._sites, gradients, parts, strict=True):
                        total += part.T if isinstance(site.module, Conv1D) else part
        return torch.stack(losses).sum(0), gradients

    @torch.no_grad()
    def _step(self, adam: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
        for weight, delta, basis, gradient in zip(self._start, self.deltas, self._bases, gradients, strict=True):
            delta.grad = _without_rounding(project_out(gradient, basis), gradient, weight.dtype)
        adam.step()
        for site, start, delta, basis in zip(self._sites, self._start, self.deltas, self._bases, strict=True):
            delta.grad = None
            delta.copy_(project_out(delta, basis))
            site.weight.copy_(start + delta)
        self.steps += 1


def _without_rounding(projected: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A projected gradient ``[o, d]`` without rows that are but the rounding of the whole gradient.

    Adam makes full steps of a gradient however small it is: where the basis holds all keys of a row, it would
    walk at random.
    """
    rounding = max(4 * torch.finfo(dtype).eps, 100 * torch.finfo(gradient.dtype).eps)
    significant = projected.norm(dim=1, keepdim=True) > rounding * gradient.norm(dim=1, keepdim=True)
    return torch.where(significant, projected, 0.0)


def sample_previous(
    edited: Sequence[EditRequest], requests: Sequence[EditRequest], count: int, seed: int
) -> list[EditRequest]:
    """Up to ``count`` previous edits to which neither a later one nor this batch gives another answer."""
    again = {request.fact_key for request in requests}
    kept = zip(edited, still_holding(edited), strict=True)
    holding = [request for request, holds in kept if holds and request.fact_key not in again]
    return random.Random(seed).sample(holding, min(count, len(holding)))


class GradientEditor:
    """Proposes the one edit of a batch that gradient steps lead to.

    Args:
        decoder: The model as the batch finds it.
        snapshot: Its edited weights, and with them the sites.
        rows: The batch's token rows.
        previous: Rows of a sample of previous edits, bare prompts only; ``None`` if there is none.
        method: The composition.
        statistics: Preserved knowledge of each site, by which leakage and conflict are measured.
        prior_keys: For each site the keys of every previous batch, ``[d, n]`` each: they span its basis.
        progress: Called with (step, steps, edits learned) after each step.
        chunk_tokens: ``targets.chunk_tokens``, by which keys are read in parts.

    Attributes:
        iterations: 1.
        residual_norms: Zeros: there are no targets, ``[n]``.
        converged: Which edits were learned, ``[n]``.
        steps: The gradient steps of the batch, ``[1]``.
    """

    iterations = 1

    def __init__(
        self,
        decoder: Decoder,
        snapshot: Snapshot,
        rows: BatchRows,
        previous: BatchRows | None,
        method: "Method",
        statistics: Sequence[LayerStatistics],
        prior_keys: Sequence[Sequence[Tensor]],
        progress: Callable[[int, int, int], None] | None = None,
        chunk_tokens: int = 4096,
    ) -> None:
        self._decoder, self._snapshot, self._rows, self._method = decoder, snapshot, rows, method
        self._statistics, self._chunk_tokens = statistics, chunk_tokens
        bases = []
        self._earlier = [
            EarlierKeys.of(batches, weight.device) for weight, batches in zip(snapshot.weights, prior_keys, strict=True)
        ]
        energy = method.gradient.energy
        for weight, earlier in zip(snapshot.weights, self._earlier, strict=True):
            dtype = solving_dtype(method, weight)
            none = weight.new_zeros(weight.shape[1], 0, dtype=dtype)
            extend = partial(fn.extend_basis, energy=energy)
            bases.append(earlier.fold(("basis", energy, dtype), partial(none.clone), extend))
        self._edit = learn_updates(decoder, snapshot.sites, rows, previous, bases, method.gradient, progress)
        self.converged = self._edit.converged
        self.steps = torch.tensor([float(self._edit.steps)])
        self.residual_norms = torch.zeros_like(self._edit.loss)

    def propose_all(self) -> None:
        """Nothing: there is one iteration."""

    @torch.no_grad()
    def propose(self, iteration: int) -> list[LayerEdit]:
        """Edits the model, which must be as the batch found it; keys are read when all layers are edited."""
        sites = self._snapshot.sites
        updates = [stored(u, site.weight) for u, site in zip(self._edit.updates, sites, strict=True)]
        for site, update in zip(sites, updates, strict=True):
            site.add(update)
        reader = KeyReader(self._decoder, self._rows, sites, self._chunk_tokens)
        edits = []
        for i, (site, update) in enumerate(zip(sites, updates, strict=True)):
            keys, _ = reader.read(site, sites[-1])
            dtype = solving_dtype(self._method, site.weight)
            weight = self._snapshot.weights[i]
            prior = fn.mutual_conflict(keys.to(weight.device, dtype), self._earlier[i].blocks())[0]
            statistics = self._statistics[i].to(weight.device, dtype)
            energy = weight_energy(statistics, weight).to(dtype)
            nothing = energy.new_zeros(weight.shape[0], keys.shape[1])
            edits.append(LayerEdit(update, keys, measure(site.layer, statistics, energy, prior, update, nothing, keys)))
        return edits
