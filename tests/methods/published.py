"""The published pipelines, batch after batch, layer after layer: what the whole package is compared with.

Token rows, sampled contexts, targets and statistics are the package's (other tests prove those); everything else
stands here, in ``formulas.py`` and in ``plain_model.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.preserved.statistics import PreservedOptions
from aeplus.preserved.stored import load_or_collect
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import BatchRows, batch_rows, sample_contexts
from aeplus.utils.progress import Progress

from . import formulas
from .plain_model import PlainModel


@dataclass(frozen=True)
class Numbers:
    """The numbers of all methods, under the package's names."""

    alpha: float
    ridge: float
    own_ridge: float
    prior_strength: float
    threshold: float
    epsilon: float
    smoothing_steps: int
    smoothing_share: float
    keep_share: float
    restrain_base: float
    restrain_every: int
    growth: float | None = None
    aligned: tuple[float, int, float] | None = None
    main_energy: float = 0.5
    main_strength: float = 0.5
    block: int | None = None
    unsmoothed: bool = False
    smooth: bool = True
    bound: float = 0.0


class Published:
    """One model on its way through the batches.

    Args:
        plain: The model, in float64 and unedited; it is edited in place.
        tokenizer: Its tokenizer.
        layers: ``model.layers``.
        numbers: The methods' numbers; ``threshold`` is a share of the dimensions, ``epsilon`` absolute;
            ``growth`` bounds the leakage of P̃; ``aligned`` are share, power and floor of an aligned P̃; with ``block``
            P̃ is searched as in the published code, ε a share; edits with ``‖r‖`` above ``bound`` are smoothed there;
            ``unsmoothed`` does it in BLUE+ for the targets themselves; without ``smooth`` AlphaEdit+ has only
            the iteration given.
        targets: How targets are learned.
        preserved: Where ``C`` comes from.
        seed: Seed of the contexts.

    Attributes:
        accepted: How many eigenvectors (or edits) each search for P̃ accepted, of how many.
    """

    def __init__(
        self,
        plain: PlainModel,
        tokenizer: Any,
        layers: Sequence[int],
        numbers: Numbers,
        targets: TargetOptions,
        preserved: PreservedOptions,
        seed: int = 0,
    ) -> None:
        self.plain, self._layers, self.numbers = plain, layers, numbers
        self._tokenizer, self._target_options = tokenizer, targets
        self._decoder = Decoder(plain.model)
        sites = self._decoder.select(list(layers))
        statistics = load_or_collect(self._decoder, tokenizer, sites, preserved, Progress())
        self._eigenvalues = {n: s.spectrum.values.double() for n, s in zip(layers, statistics, strict=True)}
        self._eigenvectors = {n: s.spectrum.vectors.double() for n, s in zip(layers, statistics, strict=True)}
        self._contexts = sample_contexts(plain.model, tokenizer, targets.contexts, targets.context_length, seed)
        self._unedited = {layer: plain.weight(layer) for layer in layers}
        self._earlier = {n: torch.zeros(w.shape[1], 0, dtype=w.dtype) for n, w in self._unedited.items()}
        self.accepted: list[tuple[int, int]] = []
        self._errors: dict[int, Tensor] = {}

    def run(self, method: str, requests: Sequence[EditRequest], batch_size: int, committed: Sequence[Any]) -> None:
        """Edits all batches; ``committed`` tells the iteration that each of them (or of its layers) ended with."""
        edit_batch = getattr(self, method)
        starts = range(0, len(requests), batch_size)
        for done, start in enumerate(starts, 1):
            batch = requests[start : start + batch_size]
            rows = batch_rows(self._tokenizer, batch, self._contexts, self._decoder.context_length)
            facts = {request.fact_key for request in batch}
            self._resolves = False
            self._again = torch.tensor([request.fact_key in facts for request in requests[:start]], dtype=torch.bool)
            edit_batch(rows, committed[done - 1])
            every = self.numbers.restrain_every
            if method in ("prune", "prune_plus") and (done == len(starts) or (every and done % every == 0)):
                self._restrain()

    # ---- the methods: one batch of each

    def memit(self, rows: BatchRows, _: int) -> None:
        """All layers in turn, without memory."""
        self._spread(rows, self._find(rows, self._layers[-1]), self._memit_update)

    def memit_sequential(self, rows: BatchRows, _: int) -> None:
        """The same with the earlier edits held in place."""
        self._remember(self._spread(rows, self._find(rows, self._layers[-1]), self._memit_update))

    def rect(self, rows: BatchRows, _: int) -> None:
        """MEMIT, of which only the largest relative changes stay."""
        before = {layer: self.plain.weight(layer) for layer in self._layers}
        self.memit(rows, 0)
        for layer, weight in before.items():
            delta = self.plain.weight(layer) - weight
            self.plain.write(layer, weight + formulas.sparsified(delta, weight, self.numbers.keep_share))

    def _take_back(self, rows: BatchRows) -> tuple[dict[int, Tensor], dict[int, Tensor], Any]:
        """MEMIT with memory whose right-hand side lacks the last error: weights before, systems and keys."""
        before = {layer: self.plain.weight(layer) for layer in self._layers}
        systems: dict[int, Tensor] = {}

        def update(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
            earlier, numbers = self._earlier[layer], self.numbers
            systems[layer] = numbers.alpha * self._covariance(layer) + keys @ keys.T + earlier @ earlier.T
            wanted = residual @ keys.T - self._errors.get(layer, torch.zeros_like(before[layer]))
            return wanted @ torch.linalg.inv(systems[layer])

        keys = self._spread(rows, self._find(rows, self._layers[-1]), update)
        return before, systems, keys

    def rect_feedback(self, rows: BatchRows, _: int) -> None:
        """RECT with memory, whose next right-hand side is ``R K1ᵀ − E``, ``E = (T(Δ) − Δ) M``, ``M`` its system."""
        before, systems, keys = self._take_back(rows)
        for layer, weight in before.items():
            delta = self.plain.weight(layer) - weight
            kept = formulas.sparsified(delta, weight, self.numbers.keep_share)
            self._errors[layer] = (kept - delta) @ systems[layer]
            self.plain.write(layer, weight + kept)
        self._remember(keys)

    def prune_feedback(self, rows: BatchRows, _: int) -> None:
        """The same with PRUNE's restraint of the sum after every batch."""
        _, systems, keys = self._take_back(rows)
        for layer, unedited in self._unedited.items():
            total = self.plain.weight(layer) - unedited
            kept = formulas.restrained(total, unedited, self.numbers.restrain_base)
            self._errors[layer] = (kept - total) @ systems[layer]
            self.plain.write(layer, unedited + kept)
        self._remember(keys)

    prune = memit

    def alphaedit(self, rows: BatchRows, _: int) -> None:
        """All layers in turn, within the null space of ``C``."""
        self._remember(self._spread(rows, self._find(rows, self._layers[-1]), self._alphaedit_update))

    def encore(self, rows: BatchRows, _: int) -> None:
        """Sequential MEMIT with a ridge."""

        def update(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
            numbers = self.numbers
            strengths = (numbers.alpha, numbers.ridge, numbers.prior_strength)
            return formulas.encore(residual, keys, self._covariance(layer), *strengths, self._earlier[layer])

        self._remember(self._spread(rows, self._find(rows, self._layers[-1]), update))

    def sphere(self, rows: BatchRows, _: int) -> None:
        """AlphaEdit, each update turned away from the main directions of the weight before the batch."""
        before = {layer: self.plain.weight(layer) for layer in self._layers}
        self.alphaedit(rows, 0)
        for layer, weight in before.items():
            delta, numbers = self.plain.weight(layer) - weight, (self.numbers.main_energy, self.numbers.main_strength)
            self.plain.write(layer, weight + formulas.sphere(delta, weight, *numbers))

    def revive(self, rows: BatchRows, _: int) -> None:
        """AlphaEdit, each update kept out of the leading singular vectors of the unedited weight."""
        before = {layer: self.plain.weight(layer) for layer in self._layers}
        self.alphaedit(rows, 0)
        for layer, weight in before.items():
            delta = self.plain.weight(layer) - weight
            self.plain.write(layer, weight + formulas.revive(delta, self._unedited[layer], self.numbers.main_energy))

    def hard(self, rows: BatchRows, _: int) -> None:
        """AlphaEdit, with updates that are 0 on the earlier keys."""

        def update(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
            null = self._eigenvectors[layer][:, : self._null(layer)]
            return formulas.hard(residual, keys, null @ null.T, self.numbers.ridge, self._earlier[layer])

        self._remember(self._spread(rows, self._find(rows, self._layers[-1]), update))

    def resolve(self, rows: BatchRows, _: int) -> None:
        """AlphaEdit, without memory of the facts that are edited again."""

        def update(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
            null, earlier = self._eigenvectors[layer][:, : self._null(layer)], self._earlier[layer]
            weights, beta = (~self._again).to(earlier), self.numbers.prior_strength
            return formulas.null_space(residual, keys, null @ null.T, self.numbers.ridge, beta, earlier, weights)

        self._remember(self._spread(rows, self._find(rows, self._layers[-1]), update))

    def memit_blue(self, rows: BatchRows, _: int) -> None:
        """BLUE's layers and targets with MEMIT's update."""
        keys = {}
        for layer in (self._layers[0], self._layers[-1]):
            target = self._find(rows, layer)
            keys[layer] = self.plain.keys(rows, layer)
            self._add(layer, self._memit_update(layer, keys[layer], target - self.plain.values(rows, layer)))
        self._remember(keys)

    def blue(self, rows: BatchRows, _: int) -> None:
        """The first and the last layer, each toward a target of its own that it reaches alone."""
        keys = {}
        for layer in (self._layers[0], self._layers[-1]):
            target = self._find(rows, layer)  # the lower layer is written already
            keys[layer] = self.plain.keys(rows, layer)
            residual = target - self.plain.values(rows, layer)
            self._add(layer, self._alphaedit_update(layer, keys[layer], residual, self.numbers.own_ridge))
        self._remember(keys)

    def alphaedit_plus_paper(self, rows: BatchRows, iteration: int) -> None:
        """Algorithm 1, up to the iteration that the run committed."""
        target, current = self._find(rows, self._layers[-1]), self.plain.values(rows, self._layers[-1])
        before = {layer: self.plain.weight(layer) for layer in self._layers}
        projectors: dict[int, Tensor] = {}

        def update(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
            return self._plus_update(layer, keys, residual, self.numbers.ridge, projectors)

        keys: dict[int, Tensor] = {}
        for t in sorted({0, iteration}):  # the first finds P_mod
            self._write(before)
            keys = self._spread(rows, self._smoothed(target, current, t), update)
        self._remember(keys)

    prune_plus = alphaedit_plus_paper

    def alphaedit_plus_published(self, rows: BatchRows, iterations: Sequence[int]) -> None:
        """The published code: layer after layer, each up to the iteration that was chosen for it."""
        target, numbers, keys = self._find(rows, self._layers[-1]), self.numbers, {}
        for i, layer in enumerate(self._layers):
            keys[layer], current = self.plain.keys(rows, layer), self.plain.values(rows, self._layers[-1])
            left, beta, earlier = len(self._layers) - i, numbers.prior_strength * (i + 1), self._earlier[layer]
            weights = formulas.conflict_weights(earlier, keys[layer])
            vectors, null = self._eigenvectors[layer], self._null(layer)
            searched = ((target - current) / left, keys[layer], vectors, null, numbers.ridge, numbers.epsilon, beta)
            assert numbers.block is not None
            projector, accepted = formulas.search_by_blocks(*searched, earlier, weights, numbers.block)
            self.accepted.append((accepted, len(vectors) - null))
            wanted = formulas.smoothed_above(target, current, iterations[i], numbers.smoothing_steps, numbers.bound)
            solved = ((wanted - current) / left, keys[layer], projector, numbers.ridge, beta, earlier, weights)
            self._add(layer, formulas.null_space(*solved))
        self._remember(keys)

    def alphaedit_plus_half(self, rows: BatchRows, iteration: int) -> None:
        """Its search and its β, but one iteration for all layers, and v0 and ``‖r‖`` of before the batch."""
        target, current = self._find(rows, self._layers[-1]), self.plain.values(rows, self._layers[-1])
        before = {layer: self.plain.weight(layer) for layer in self._layers}
        projectors: dict[int, Tensor] = {}

        def update(layer: int, keys: Tensor, residual: Tensor) -> Tensor:
            i, earlier, numbers = self._layers.index(layer), self._earlier[layer], self.numbers
            beta, weights = numbers.prior_strength * (i + 1), formulas.conflict_weights(earlier, keys)
            if layer not in projectors:
                lacking = (target - self.plain.values(rows, self._layers[-1])) / (len(self._layers) - i)
                vectors, null = self._eigenvectors[layer], self._null(layer)
                searched = (lacking, keys, vectors, null, numbers.ridge, numbers.epsilon, beta, earlier, weights)
                assert numbers.block is not None
                projectors[layer], accepted = formulas.search_by_blocks(*searched, numbers.block)
                self.accepted.append((accepted, len(vectors) - null))
            return formulas.null_space(residual, keys, projectors[layer], numbers.ridge, beta, earlier, weights)

        keys: dict[int, Tensor] = {}
        for t in sorted({0, iteration}):
            self._write(before)
            keys = self._spread(rows, self._smoothed(target, current, t), update)
        self._remember(keys)

    def blue_plus(self, rows: BatchRows, iteration: int) -> None:
        """BLUE with the three."""
        self._own_plus(rows, iteration, (self._layers[0], self._layers[-1]))

    def alphaedit_plus(self, rows: BatchRows, iteration: int) -> None:
        """AlphaEdit with the three, every layer toward a target of its own; earlier edits as for ``resolve``."""
        self._resolves = True
        self._own_plus(rows, iteration, self._layers)

    def _own_plus(self, rows: BatchRows, iteration: int, layers: Sequence[int]) -> None:
        """Each target is learned once, on top of the unsmoothed edits of the layers below."""
        ridge, last = self.numbers.own_ridge, self.numbers.smoothing_steps
        before = {layer: self.plain.weight(layer) for layer in layers}
        projectors: dict[int, Tensor] = {}
        targets: dict[int, Tensor] = {}
        current: dict[int, Tensor] = {}
        keys: dict[int, Tensor] = {}
        for layer in layers:
            targets[layer], current[layer] = self._find(rows, layer), self.plain.values(rows, layer)
            if layer == layers[-1]:
                break
            keys[layer] = self.plain.keys(rows, layer)
            for t in (
                (0, last) if self.numbers.smooth and not self.numbers.unsmoothed else (last,)
            ):  # the first finds P_mod
                residual = self._smoothed(targets[layer], current[layer], t) - current[layer]
                whole = self._plus_update(layer, keys[layer], residual, ridge, projectors)
            self._add(layer, whole)

        for t in sorted({0, iteration} if self.numbers.smooth else {iteration}):
            self._write(before)
            for layer in layers:
                keys[layer] = self.plain.keys(rows, layer)
                residual = self._smoothed(targets[layer], current[layer], t) - self.plain.values(rows, layer)
                if self.numbers.unsmoothed:
                    lacking = targets[layer] - self.plain.values(rows, layer)
                    self._plus_update(layer, keys[layer], lacking, ridge, projectors)  # finds P_mod, if none has
                self._add(layer, self._plus_update(layer, keys[layer], residual, ridge, projectors))
        self._remember(keys)

    # ---- their parts

    def _find(self, rows: BatchRows, layer: int) -> Tensor:
        """``v* [o, n]`` at a layer, with the present weights."""
        return find_targets(self._decoder, rows, layer, self._target_options).values

    def _spread(
        self, rows: BatchRows, wanted: Tensor, update: Callable[[int, Tensor, Tensor], Tensor]
    ) -> dict[int, Tensor]:
        """Each layer takes its share of what the last one still lacks; gives the keys they were edited by."""
        keys = {}
        for done, layer in enumerate(self._layers):
            keys[layer] = self.plain.keys(rows, layer)
            residual = (wanted - self.plain.values(rows, self._layers[-1])) / (len(self._layers) - done)
            self._add(layer, update(layer, keys[layer], residual))
        return keys

    def _memit_update(self, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        alpha, beta = self.numbers.alpha, self.numbers.prior_strength
        return formulas.memit(residual, keys, self._covariance(layer), alpha, beta, self._earlier[layer])

    def _alphaedit_update(self, layer: int, keys: Tensor, residual: Tensor, ridge: float | None = None) -> Tensor:
        null = self._eigenvectors[layer][:, : self._null(layer)]
        earlier, beta = self._earlier[layer], self.numbers.prior_strength
        equal = torch.ones(earlier.shape[1], dtype=earlier.dtype)
        return formulas.null_space(residual, keys, null @ null.T, ridge or self.numbers.ridge, beta, earlier, equal)

    def _plus_update(
        self, layer: int, keys: Tensor, residual: Tensor, ridge: float, projectors: dict[int, Tensor]
    ) -> Tensor:
        """With ``Λp``, and within ``P_mod``, which the layer's first residual of the batch finds."""
        earlier, beta, vectors = self._earlier[layer], self.numbers.prior_strength, self._eigenvectors[layer]
        weights = (~self._again).to(earlier) if self._resolves else formulas.conflict_weights(earlier, keys)
        if layer not in projectors and self.numbers.aligned is not None:
            null = self._null(layer)
            found = formulas.aligned(keys, self._covariance(layer), vectors, null, *self.numbers.aligned)
            projectors[layer], accepted = found
            self.accepted.append((accepted, keys.shape[1]))
        if layer not in projectors:
            null, epsilon = self._null(layer), self.numbers.epsilon
            most = (self._covariance(layer), self.numbers.growth)
            projectors[layer], accepted = formulas.search(
                residual, keys, vectors, null, ridge, epsilon, beta, earlier, weights, *most
            )
            self.accepted.append((accepted, len(vectors) - null))
        return formulas.null_space(residual, keys, projectors[layer], ridge, beta, earlier, weights)

    def _smoothed(self, target: Tensor, current: Tensor, t: int) -> Tensor:
        return formulas.smoothed(target, current, t, self.numbers.smoothing_steps, self.numbers.smoothing_share)

    def _covariance(self, layer: int) -> Tensor:
        """``C``."""
        vectors = self._eigenvectors[layer]
        return vectors @ torch.diag(self._eigenvalues[layer]) @ vectors.T

    def _null(self, layer: int) -> int:
        """Dimensions of the null space."""
        return round(self.numbers.threshold * len(self._eigenvalues[layer]))

    def _add(self, layer: int, delta: Tensor) -> None:
        self.plain.write(layer, self.plain.weight(layer) + delta)

    def _write(self, weights: dict[int, Tensor]) -> None:
        for layer, weight in weights.items():
            self.plain.write(layer, weight)

    def _remember(self, keys: dict[int, Tensor]) -> None:
        for layer, batch in keys.items():
            self._earlier[layer] = torch.cat([self._earlier[layer], batch], 1)

    def _restrain(self) -> None:
        for layer, unedited in self._unedited.items():
            total = self.plain.weight(layer) - unedited
            self.plain.write(layer, unedited + formulas.restrained(total, unedited, self.numbers.restrain_base))
