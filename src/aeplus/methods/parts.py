"""The parts that a method chooses from for each layer: which layers, the filter, its relaxation, the prior.

A part is an entry of one of the tables :data:`SITES`, :data:`FILTERS`, :data:`RELAXATIONS` and :data:`PRIORS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.errors import InputError
from aeplus.methods.registry import Part, with_trait
from aeplus.preserved.statistics import Kept

if TYPE_CHECKING:
    from aeplus.methods.method import Method

SITES: dict[str, Part[Callable[[list[int]], list[int]]]] = {
    "all": Part(lambda layers: layers),
    "ends": Part(lambda layers: sorted({layers[0], layers[-1]}) if layers else []),
}
"""``method.sites``: which of the layers are edited."""

_MIXED = ("threshold", "threshold_kind", "alpha", "ridge")


def null_space(method: "Method", spectrum: fn.Spectrum) -> Tensor:
    """Which eigenvectors the method's threshold has in the null space: 1 or 0, ``[d]``.

    Raises:
        InputError: If the threshold leaves no null space or no constraint.
    """
    return fn.null_space_filter(spectrum, method.threshold, kind=method.threshold_kind)


def _mixed(method: "Method", spectrum: fn.Spectrum, make: Callable[..., Tensor]) -> Tensor:
    """A filter with both a null space and a price."""
    return make(spectrum, method.threshold, method.alpha, method.solver_ridge, kind=method.threshold_kind)


FILTERS: dict[str, Part[Callable[["Method", fn.Spectrum], Tensor]]] = {
    "null_space": Part(
        null_space,
        ("threshold", "threshold_kind", "ridge"),
        ("projector", "even"),
    ),
    "covariance": Part(lambda method, spectrum: fn.ridge_filter(spectrum, method.alpha), ("alpha",)),
    "soft": Part(
        lambda method, spectrum: fn.soft_filter(spectrum, method.alpha, method.solver_ridge), ("alpha", "ridge")
    ),
    "null_soft": Part(lambda method, spectrum: _mixed(method, spectrum, fn.null_soft_filter), _MIXED, ("projector",)),
    "priced": Part(lambda method, spectrum: _mixed(method, spectrum, fn.priced_filter), _MIXED, ("even",)),
}
"""``method.filter``: the spectral filter ``f [d]`` before any relaxation. Without ``ridge`` it holds its own λ. With
``threshold`` it has a null space; a ``projector`` is 0 outside of it, so that P̃ can widen it, an ``even`` one is 1 on
all of it."""


@dataclass(frozen=True)
class Relaxed:
    """A filter that has been widened by P̃.

    Attributes:
        filter: The spectral filter, with the eigenvectors that joined it, ``[d]``.
        directions: Further directions Q, so that ``P̃`` holds ``Q Qᵀ``, ``[d, r]``; ``None`` for no others.
    """

    filter: Tensor
    directions: Tensor | None = None


@dataclass(frozen=True)
class Widening:
    """What P̃ is found from: the first residual ``[o, n]`` and keys ``[d, n]`` of a batch at a layer.

    Attributes:
        residual: ``R``.
        keys: ``K1``.
        spectrum: Spectrum of C.
        base: The filter to widen, ``[d]``.
        weight: Gives ``W [o, d]``.
        energy: Gives ``tr(W C Wᵀ)``.
        priors: Previous keys with their weights, as the solver takes them.
        outside: Gives the keys' coordinates where the filter is 0, ``[s, n]``.
    """

    residual: Tensor
    keys: Tensor
    spectrum: fn.Spectrum
    base: Tensor
    weight: Callable[[], Tensor]
    energy: Callable[[], Tensor]
    priors: dict[str, Any]
    outside: Callable[[], Tensor]


def _searched(method: "Method", found: Widening, **bounds: Any) -> Relaxed:
    """Eigenvectors of C, by ascending eigenvalue, while they pay (Algorithm 1)."""
    bounds["weight"] = found.weight() if bounds.get("max_leakage") is not None else None
    widened, _ = fn.relax_filter(
        found.residual,
        found.keys,
        found.spectrum,
        found.base,
        method.solver_ridge,
        method.epsilon,
        relative=method.relative,
        search_block=method.search_block,
        **found.priors,
        **bounds,
    )
    return Relaxed(widened)


def _bounded(method: "Method", found: Widening) -> Relaxed:
    bounds = {name: getattr(method, name) for name in ("max_rank", "max_leakage", "max_growth")}
    return _searched(method, found, **bounds)


def _aligned(method: "Method", found: Widening) -> Relaxed:
    """A direction for each edit whose key lies mostly outside the null space."""
    problem, power = (found.keys, found.spectrum, found.base), method.aligned_power
    outside = found.outside()
    floor: float | Tensor | None = method.aligned_floor
    if floor is None:
        bound: dict[str, Any] = {}
        if method.aligned_leakage is not None:
            most = method.aligned_leakage * found.energy()
            bound = {"residual_norms": found.residual.norm(dim=0), "max_leakage": most}
        floor = fn.aligned_floor(*problem, method.solver_ridge, method.aligned_left, power, **bound, outside=outside)
    return Relaxed(found.base, fn.aligned_basis(*problem, method.aligned_share, power, floor, outside))


_SEARCH = ("epsilon", "relative", "search_block", "search_unsmoothed")

RELAXATIONS: dict[str, Part[Callable[["Method", Widening], Relaxed] | None]] = {
    "none": Part(None),
    "aligned": Part(
        _aligned,
        (
            "aligned_share",
            "aligned_left",
            "aligned_power",
            "aligned_floor",
            "aligned_leakage",
            "facts_leakage",
            "search_unsmoothed",
        ),
    ),
    "bounded": Part(_bounded, (*_SEARCH, "max_rank", "max_leakage", "max_growth")),
    "paper": Part(_searched, _SEARCH),
}
"""``method.relax``: how the filter is widened by P̃; ``None`` for not at all."""


@dataclass(frozen=True)
class Earlier:
    """Previous edits as a prior sees them.

    Attributes:
        conflict: Finds the largest |cosine| of each with the batch's keys, s(kp, K1), ``[m]``.
        rewritten: Which of them are of a fact that the batch edits again, ``[m]``.
    """

    conflict: Callable[[], Tensor]
    rewritten: Tensor


@dataclass(frozen=True)
class Prior:
    """How previous edits are kept.

    Attributes:
        weigh: Their weights ``Λp [m]``; ``None`` where they are not part of the system.
        forbids: Updates must be 0 on their keys, instead of being penalized there.
        by_fact: The weights ask which facts are edited again.
    """

    weigh: Callable[[Earlier], Tensor] | None = None
    forbids: bool = False
    by_fact: bool = False


_STRENGTH = ("prior_strength", "prior_by_place")

PRIORS: dict[str, Part[Prior]] = {
    "none": Part(Prior()),
    "equal": Part(Prior(lambda earlier: torch.ones_like(earlier.rewritten, dtype=torch.float32)), _STRENGTH),
    "conflict": Part(Prior(lambda earlier: 1 - earlier.conflict()), _STRENGTH),
    "resolve": Part(Prior(lambda earlier: (~earlier.rewritten).float(), by_fact=True), _STRENGTH),
    "hard": Part(Prior(forbids=True)),
}
"""``method.prior``: the weights ``Λp [m]`` of previous edits, or that they forbid directions."""


def base_filter(method: "Method", spectrum: fn.Spectrum) -> Tensor:
    """The filter ``[d]`` before any relaxation.

    Raises:
        InputError: If the threshold leaves no null space or no constraint.
    """
    return FILTERS[method.filter].run(method, spectrum)


def kept_eigenvectors(method: "Method", keep: str) -> Kept | None:
    """Which eigenvectors of preserved knowledge a run of a method holds; ``None`` for all.

    Args:
        method: The composition.
        keep: ``all``, or ``outside`` its null space.

    Raises:
        InputError: If the method needs more than those outside.
    """
    if keep == "all":
        return None
    if not method.closed_form or "even" not in FILTERS[method.filter].traits:
        got = f"filter: {method.filter}" if method.closed_form else f"update: {method.update}"
        even = " or ".join(with_trait(FILTERS, "even"))
        msg = (
            f"expected filter {even} for preserved.keep: outside, got {got}, which needs the "
            "eigenvectors inside the null space too; set keep: all."
        )
        raise InputError(msg)

    def count(spectrum: fn.Spectrum) -> int:
        return int((null_space(method, spectrum) == 0).sum())

    return Kept(f"outside_{method.threshold!r}_{method.threshold_kind}", count)
