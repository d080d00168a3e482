"""The three sets, from candidates that are measured once each."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from aeplus.commands.alphaset.answers import Change, Material, Sizes, rewritten
from aeplus.commands.alphaset.measure import (
    Space,
    chosen_keys,
    conflict_among,
    pair_conflict,
    preserved_conflict,
    prior_conflict,
)
from aeplus.commands.stream_keys import Keys, Measurer
from aeplus.data.paraphrase import Rewriter
from aeplus.edits import EditRequest
from aeplus.errors import InputError

T = TypeVar("T")
_CHOICE = 2  # rewritten facts tried for each one taken


@dataclass(frozen=True)
class Record:
    """A record of a set.

    Attributes:
        request: The edit.
        part: ``conflict``, ``prior`` (an edit that a later record of AlphaSet2 rewrites) or ``fill``.
        keys: Its key at every edited layer, ``[d]`` each.
        residual_norm: ‖r‖.
    """

    request: EditRequest
    part: str
    keys: tuple[Tensor, ...]
    residual_norm: float


@dataclass(frozen=True)
class ConflictSet:
    """A set in its order, with the measurements of each record.

    Attributes:
        name: ``alphaset1``, ``alphaset2`` or ``alphaset3``.
        records: The records.
        conflict_preserved: s(k, K0) of each.
        conflict_prior: s(k, Kp) of each with all records before it.
        free: ‖P k‖ / ‖k‖ of each, where C is known.
    """

    name: str
    records: list[Record]
    conflict_preserved: list[float]
    conflict_prior: list[float]
    free: list[float] | None = None


class SetBuilder:
    """Makes AlphaSet1, 2 and 3.

    Args:
        material: What to make them of.
        measurer: Measures it on the model.
        rewriter: Paraphrases it.
        seed: Seed of every choice.
        candidates: Number of edits to measure, for the largest ‖r‖ and for fill with little conflict; at least as many
            as the sets take. ``None`` for one and a half times that.

    Attributes:
        measured: Number of edits measured.
    """

    def __init__(
        self, material: Material, measurer: Measurer, rewriter: Rewriter, seed: int = 0, candidates: int | None = None
    ) -> None:
        self._material, self._measurer, self._rewriter = material, measurer, rewriter
        self._candidates, self._rng = candidates, random.Random(seed)
        self.measured = 0
        self._space: Space | None = None

    def build(self, sizes: Sizes, space: Space | None = None) -> list[ConflictSet]:
        """The three sets.

        Args:
            sizes: Their sizes.
            space: Statistics of ordinary text, whose keys are preserved knowledge too; the K0 facts enter its C.

        Raises:
            InputError: If there is too little to make them of, or a prompt is too long for the model.
        """
        self._material.supply.check(sizes)
        preserved = self._measurer.keys(self._material.facts, "K0")
        if space is not None:
            space = space.with_facts(preserved)
            preserved = space.keys
        self._space = space
        first = self._against_facts(sizes.conflict[0], preserved)
        priors, rewrites = self._against_priors(sizes.conflict[1])
        largest, fill = self._largest(sizes, {record.request.question for record in priors}, preserved)
        one, two, three = _distributed(fill, (sizes.fill[0], sizes.fill[1] - len(priors), sizes.fill[2]))
        orders = (
            self._shuffled(first + one),
            self._sequence(priors, rewrites, self._shuffled(two)),
            self._shuffled(largest + three),
        )
        return [self._measured(f"alphaset{number}", order, preserved) for number, order in enumerate(orders, 1)]

    def _tried(self, changes: list[Change], count: int, own_tests: bool, label: str) -> list[Change]:
        """Some changes in other words, more than are taken.

        Raises:
            InputError: If too few pass the checks.
        """
        order = self._shuffled(changes)
        first, rest = order[: _CHOICE * count], order[_CHOICE * count :]
        done = rewritten(first, self._rewriter, own_tests, self._measurer.progress)
        if len(done) < count:  # the checks refused too many
            done += rewritten(rest, self._rewriter, own_tests, self._measurer.progress)
        if len(done) < count:
            msg = (
                f"expected {count} {label} with a rewriting that passes the checks, got {len(done)} out of "
                f"{len(changes)}; provide more, or choose smaller sizes."
            )
            raise InputError(msg)
        return done

    def _against_facts(self, count: int, preserved: Keys) -> list[Record]:
        """Preserved facts with other answers: those nearest to K0."""
        changes = self._tried(self._material.fact_changes, count, True, "K0 facts")
        done = [replace(new, id=f"{new.id}-changed") for _, new in changes]
        keys = self._measurer.keys(done, "rewritten K0 facts")
        chosen = _largest(preserved_conflict(keys, preserved), count)
        return self._records([done[i] for i in chosen], "conflict", chosen_keys(keys, chosen), "rewritten K0 facts")

    def _against_priors(self, count: int) -> tuple[list[Record], list[Record]]:
        """Edits, and the same facts with other answers: the pairs nearest to each other."""
        pairs = self._tried(self._material.prior_changes, count, False, "edits")
        names = [old.fact or " | ".join(old.fact_key) for old, _ in pairs]
        olds = [replace(old, fact=name) for (old, _), name in zip(pairs, names, strict=True)]
        news = [replace(new, fact=name, id=f"{new.id}-again") for (_, new), name in zip(pairs, names, strict=True)]
        old_keys, new_keys = (self._measurer.keys(part, "edits and their rewrites") for part in (olds, news))
        chosen = _largest(pair_conflict(new_keys, old_keys), count)
        return (
            self._records([olds[i] for i in chosen], "prior", chosen_keys(old_keys, chosen), "edits"),
            self._records([news[i] for i in chosen], "conflict", chosen_keys(new_keys, chosen), "rewritten edits"),
        )

    def _largest(self, sizes: Sizes, used: set[str], preserved: Keys) -> tuple[list[Record], list[Record]]:
        """From a sample of the pool the edits with the largest ‖r‖ and, for fill, others with the smallest s."""
        pool = self._shuffled([edit for edit in self._material.pool if edit.question not in used])
        needed = sizes.edits - len(used)
        candidates = needed * 3 // 2 if self._candidates is None else self._candidates
        tried = pool[: max(needed, candidates)]
        self.measured = len(tried)
        norms = self._measurer.residuals(tried, "candidates")
        top = _largest(norms, sizes.conflict[2])
        keys = self._measurer.keys(tried, "candidates")
        conflicts = [max(pair) for pair in zip(preserved_conflict(keys, preserved), conflict_among(keys), strict=True)]
        rest = [i for i in range(len(tried)) if i not in set(top)]
        mild = _largest([-conflicts[i] for i in rest], needed - len(top))
        chosen = [*top, *(rest[index] for index in sorted(mild))]  # in random order again, as they were drawn
        records = [
            Record(tried[i], "conflict" if n < len(top) else "fill", tuple(k[:, i] for k in keys), norms[i])
            for n, i in enumerate(chosen)
        ]
        return records[: len(top)], records[len(top) :]

    def _records(self, requests: list[EditRequest], part: str, keys: Keys, label: str) -> list[Record]:
        norms = self._measurer.residuals(requests, label)
        return [Record(r, part, tuple(k[:, i] for k in keys), norms[i]) for i, r in enumerate(requests)]

    def _shuffled(self, items: list[T]) -> list[T]:
        return self._rng.sample(items, len(items))

    def _sequence(self, priors: list[Record], rewrites: list[Record], fill: list[Record]) -> list[Record]:
        """The edits that are rewritten in the first half, their rewrites in the second; fill in both."""
        half = max(0, (len(priors) + len(rewrites) + len(fill)) // 2 - len(priors))
        return self._shuffled(priors + fill[:half]) + self._shuffled(rewrites + fill[half:])

    def _measured(self, name: str, records: list[Record], preserved: Keys) -> ConflictSet:
        keys = [torch.stack(layer, 1) for layer in zip(*(record.keys for record in records), strict=True)]
        free = None if self._space is None else self._space.free(keys)
        return ConflictSet(name, records, preserved_conflict(keys, preserved), prior_conflict(keys), free)


def _largest(values: Sequence[float], count: int) -> list[int]:
    """The indices of the largest values, the largest first."""
    return sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]


def _distributed(fill: list[Record], sizes: tuple[int, ...]) -> list[list[Record]]:
    """Fill for sets of some sizes, distributed by ascending ‖r‖ so that residual norms are balanced."""
    parts: list[list[Record]] = [[] for _ in sizes]
    for record in sorted(fill, key=lambda record: record.residual_norm):
        emptiest = min(range(len(sizes)), key=lambda i: (len(parts[i]) + 0.5) / sizes[i] if sizes[i] else math.inf)
        parts[emptiest].append(record)
    return parts
