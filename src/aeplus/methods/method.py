"""A method is a composition of parts. The switches say which parts it has, the numbers how they are set.

Methods set switches (``configs/method``), models set numbers (``configs/model``), so any method composes with any
model and an ablation is one switch.
"""

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from aeplus.errors import InputError
from aeplus.functional.filters import FilterKind
from aeplus.options import require_not_negative, require_positive


@dataclass(frozen=True)
class Method:
    """How updates are computed.

    Attributes:
        name: What reports call it.
        filter: ``null_space``: only directions that preserved keys hardly use (AlphaEdit). ``covariance``: all
            directions, dear in proportion to their use (MEMIT).
        relax: Search for the relaxation P̃ of the projector (AlphaEdit+).
        prior: Weights of earlier edits: ``none`` (not remembered), ``equal`` (AlphaEdit) or ``conflict``
            (``1 − s``, AlphaEdit+).
        smooth: Approach the targets of very inconsistent edits step by step (AlphaEdit+).
        threshold: Where the null space ends, in the unit of ``threshold_kind``.
        threshold_kind: ``absolute`` (an eigenvalue of C), ``energy`` (share of the trace) or ``dimensions``
            (share of the dimensions).
        alpha: Weight of C against the new keys, for the filter ``covariance``.
        ridge: λ.
        prior_strength: β, the weight of all earlier edits.
        epsilon: ε: an eigenvector joins P̃ if the objective falls by more than this.
        relative: Whether ε is a share of the objective rather than an absolute number.
        max_rank: Most eigenvectors in P̃.
        max_leakage: Largest ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` that P̃ may lead to on the residuals of its search, which are
            those of the first smoothing iteration; later ones can leak up to four times as much.
        smoothing_steps: T: smoothing iterations run from 0 to at most T.
        smoothing_share: Share of a batch's edits to smooth, those with the largest residuals.
        smoothing_threshold: τ_r: smooth edits whose residual norm is above this, instead of a share.
        double: Solve in float64 rather than float32.
    """

    name: str = "alphaedit_plus"
    filter: Literal["null_space", "covariance"] = "null_space"
    relax: bool = True
    prior: Literal["none", "equal", "conflict"] = "conflict"
    smooth: bool = True
    threshold: float = 0.02
    threshold_kind: FilterKind = "absolute"
    alpha: float = 15000.0
    ridge: float = 10.0
    prior_strength: float = 100.0
    epsilon: float = 3e-4
    relative: bool = False
    max_rank: int | None = None
    max_leakage: float | None = None
    smoothing_steps: int = 10
    smoothing_share: float = 0.2
    smoothing_threshold: float | None = None
    double: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "method", "threshold", "alpha", "ridge", "smoothing_steps")
        require_not_negative(
            self, "method", "prior_strength", "epsilon", "max_rank", "max_leakage", "smoothing_threshold"
        )
        for name in ("filter", "prior", "threshold_kind"):
            choices = get_args(get_type_hints(Method)[name])
            if getattr(self, name) not in choices:
                msg = f"method.{name} must be one of {', '.join(choices)}, but {getattr(self, name)!r} came."
                raise InputError(msg)
        if not 0 <= self.smoothing_share <= 1:
            msg = (
                f"method.smoothing_share must lie between 0 and 1, but {self.smoothing_share} came; 0.2 is the paper's."
            )
            raise InputError(msg)
        if self.relax and self.filter != "null_space":
            msg = "method.relax widens a null space, but method.filter is 'covariance'; set relax: false."
            raise InputError(msg)


PLAIN = {"relax": False, "prior": "equal", "smooth": False}
METHODS: dict[str, dict[str, object]] = {
    "alphaedit": {"name": "alphaedit", "filter": "null_space", **PLAIN},
    "alphaedit_plus": {
        "name": "alphaedit_plus",
        "filter": "null_space",
        "relax": True,
        "prior": "conflict",
        "smooth": True,
    },
}
"""The switches of the named methods, as in ``configs/method``."""


def named_method(name: str, **numbers: object) -> Method:
    """A method by name, with some numbers set.

    Raises:
        InputError: If there is no such method, or an unknown number.
    """
    if name not in METHODS:
        msg = f"expected a method out of {', '.join(sorted(METHODS))}, but {name!r} came; choose one of these."
        raise InputError(msg)
    return Method(**{**METHODS[name], **numbers})  # type: ignore[arg-type]
