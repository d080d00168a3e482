"""A method is a composition of parts. The switches say which parts it has, the numbers how they are set.

Methods set switches (``configs/method``), models set numbers (``configs/model``), so any method composes with any
model and an ablation is one switch.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from aeplus.errors import InputError, require_not_negative, require_positive
from aeplus.functional.filters import FilterKind

_SWITCHES = ("update", "sites", "targets", "filter", "relax", "prior", "treatment", "selection", "threshold_kind")


@dataclass(frozen=True)
class GradientOptions:
    """How weights are learnt by gradient, orthogonal to earlier edits (KDE). All of these choices are ours.

    Attributes:
        steps: Most gradient steps of the first stage, on the batch's edits alone.
        replay_steps: Most gradient steps of the second stage, on the batch and a sample of earlier edits.
        samples: How many earlier edits the second stage checks at each batch.
        learning_rate: Adam's learning rate.
        positions: Where weights learn: at ``all`` tokens of a prompt, or at the ``subject``'s last one only, which is
            where the closed forms edit. The update acts at every token either way.
        contexts: Behind how many of the sampled prefixes an edit is learnt, beside its bare prompt.
        stop_loss: A stage ends when every edit's loss is below this.
        energy: The basis grows by the leading left singular vectors of the batch's keys, without what it holds
            already, up to this share of their squared norm.
        weight_decay: Adam's decoupled weight decay of the update.
    """

    steps: int = 25
    replay_steps: int = 10
    samples: int = 10
    learning_rate: float = 5e-4
    positions: Literal["all", "subject"] = "all"
    contexts: int = 2
    stop_loss: float = 0.05
    energy: float = 0.95
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "method.gradient", "steps", "learning_rate", "stop_loss")
        require_not_negative(self, "method.gradient", "replay_steps", "samples", "contexts", "weight_decay")
        if self.positions not in ("all", "subject"):
            msg = f"method.gradient.positions must be all or subject, but {self.positions!r} came; choose one of these."
            raise InputError(msg)
        if not 0 < self.energy <= 1:
            msg = f"method.gradient.energy must be above 0 and at most 1, but {self.energy} came; 0.95 is the default."
            raise InputError(msg)


@dataclass(frozen=True)
class Method:
    """How updates are computed.

    Attributes:
        name: What reports call it.
        update: ``closed_form``, or ``gradient``: learnt step by step, orthogonal to earlier edits (KDE).
        sites: Which of ``model.layers`` are edited: ``all``, or the first and the last (``ends``, BLUE).
        targets: ``last``: one target at the last edited layer, its residual divided by the layers left (MEMIT).
            ``own``: each layer has its own, learnt when the layers below are written, and takes all of its residual
            (BLUE).
        filter: ``null_space``: only directions that preserved keys hardly use (AlphaEdit). ``covariance``: all
            directions, dear in proportion to their use (MEMIT). ``soft``: between the two, ``λ / (λ + α σ)``.
        relax: The search for the relaxation P̃ of the projector (AlphaEdit+): ``none``, ``paper`` (Algorithm 1, which
            only ε ends) or ``bounded`` (``max_rank``, ``max_leakage`` and ``max_growth`` end it too).
        prior: Weights of earlier edits: ``none`` (not remembered), ``equal`` (AlphaEdit) or ``conflict``
            (``1 − s``, AlphaEdit+).
        smooth: Approach the targets of very inconsistent edits step by step (AlphaEdit+).
        selection: Which smoothing candidate is committed: ``best`` on the validation set, ties to the least smoothed,
            or ``converge``, the first whose score has settled (Algorithm 1, line 19).
        treatment: What is done to an update afterwards: ``none``; ``sparsify``: only the entries with the largest
            relative change stay (RECT); ``restrain``: singular values of the sum of all updates above the largest of
            the unedited weight are brought down, after the last batch (PRUNE).
        threshold: Where the null space ends, in the unit of ``threshold_kind``.
        threshold_kind: ``absolute`` (an eigenvalue of C), ``energy`` (share of the trace) or ``dimensions``
            (share of the dimensions).
        alpha: Weight of C against the new keys, for the filters ``covariance`` and ``soft``.
        ridge: λ.
        own_ridge: λ where each layer has its own target (``targets: own``), if another.
        prior_strength: β, the weight of all earlier edits.
        epsilon: ε: an eigenvector joins P̃ if the objective falls by more than this.
        relative: Whether ε is a share of the objective rather than an absolute number.
        max_rank: Most eigenvectors in P̃.
        max_leakage: Largest ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` that P̃ may lead to on the residuals of its search, which are
            those of the first smoothing iteration; later ones can leak up to four times as much.
        max_growth: The same bound as a multiple of what the update leaks without P̃, at least 1. It means the same for
            any model, so it is the one that is set.
        smoothing_steps: T: smoothing iterations run from 0 to at most T.
        smoothing_share: Share of a batch's edits to smooth, those with the largest residuals.
        smoothing_threshold: τ_r: smooth edits whose residual norm is above this, instead of a share.
        keep_share: Share of an update's entries that ``sparsify`` keeps.
        restrain_base: Base of the logarithm that ``restrain`` applies.
        restrain_every: Restrain after every so many batches too; 0 for the last only.
        double: Solve in float64 rather than float32.
        gradient: The numbers of ``update: gradient``.
    """

    name: str = "alphaedit_plus"
    update: Literal["closed_form", "gradient"] = "closed_form"
    sites: Literal["all", "ends"] = "all"
    targets: Literal["last", "own"] = "last"
    filter: Literal["null_space", "covariance", "soft"] = "null_space"
    relax: Literal["none", "bounded", "paper"] = "bounded"
    prior: Literal["none", "equal", "conflict"] = "conflict"
    smooth: bool = True
    selection: Literal["best", "converge"] = "best"
    treatment: Literal["none", "sparsify", "restrain"] = "none"
    threshold: float = 0.02
    threshold_kind: FilterKind = "absolute"
    alpha: float = 15000.0
    ridge: float = 10.0
    own_ridge: float | None = None
    prior_strength: float = 100.0
    epsilon: float = 3e-4
    relative: bool = False
    max_rank: int | None = None
    max_leakage: float | None = None
    max_growth: float | None = 1.05
    smoothing_steps: int = 10
    smoothing_share: float = 0.2
    smoothing_threshold: float | None = None
    keep_share: float = 0.4
    restrain_base: float = math.e
    restrain_every: int = 0
    double: bool = True
    gradient: GradientOptions = field(default_factory=GradientOptions)

    def __post_init__(self) -> None:
        require_positive(self, "method", "threshold", "alpha", "ridge", "smoothing_steps")
        require_not_negative(
            self,
            "method",
            *("prior_strength", "epsilon", "max_rank", "max_leakage", "smoothing_threshold", "restrain_every"),
        )
        for name in _SWITCHES:
            choices = get_args(get_type_hints(Method)[name])
            if getattr(self, name) not in choices:
                msg = f"method.{name} must be one of {', '.join(choices)}, but {getattr(self, name)!r} came."
                raise InputError(msg)
        self._check_ranges()
        self._check_composition()

    def _check_ranges(self) -> None:
        if not 0 <= self.smoothing_share <= 1:
            msg = (
                f"method.smoothing_share must lie between 0 and 1, but {self.smoothing_share} came; 0.2 is the paper's."
            )
            raise InputError(msg)
        if not 0 < self.keep_share <= 1:
            msg = f"method.keep_share must be above 0 and at most 1, but {self.keep_share} came; 0.4 is RECT's."
            raise InputError(msg)
        if self.max_growth is not None and not self.max_growth >= 1:
            msg = f"method.max_growth must be at least 1, but {self.max_growth} came; 2 lets P̃ double the leakage."
            raise InputError(msg)
        if not self.restrain_base > 1:
            msg = f"method.restrain_base must be above 1, but {self.restrain_base} came; PRUNE's is e."
            raise InputError(msg)
        if self.own_ridge is not None and not self.own_ridge > 0:
            msg = f"method.own_ridge must be above 0, but {self.own_ridge} came; leave it out to take method.ridge."
            raise InputError(msg)

    def _check_composition(self) -> None:
        if self.relax != "none" and self.filter != "null_space" and self.update == "closed_form":
            msg = f"method.relax widens a null space, but method.filter is {self.filter!r}; set relax: none."
            raise InputError(msg)
        if self.update == "gradient" and (self.relax, self.prior, self.smooth) != ("none", "none", False):
            msg = (
                "method.update: gradient has no closed form for P̃, Λp or smoothing to work on; set relax: none, "
                "prior: none and smooth: false."
            )
            raise InputError(msg)

    @property
    def solver_ridge(self) -> float:
        """λ of the linear system: MEMIT's filter holds its own."""
        if self.filter == "covariance":
            return 1.0
        return self.own_ridge if self.targets == "own" and self.own_ridge is not None else self.ridge


_PLAIN: dict[str, object] = {"relax": "none", "smooth": False}
_MEMIT: dict[str, object] = {**_PLAIN, "filter": "covariance", "prior": "none"}
_ALPHAEDIT: dict[str, object] = {**_PLAIN, "prior": "equal", "prior_strength": 1.0}
_PLUS: dict[str, object] = {"relax": "bounded", "prior": "conflict", "smooth": True}
_BLUE: dict[str, object] = {"sites": "ends", "targets": "own"}
METHODS: dict[str, dict[str, object]] = {
    "memit": _MEMIT,
    "memit_sequential": {**_MEMIT, "prior": "equal", "prior_strength": 1.0},
    "rect": {**_MEMIT, "treatment": "sparsify"},
    "prune": {**_MEMIT, "treatment": "restrain"},
    "kde": {**_PLAIN, "update": "gradient", "prior": "none"},
    "alphaedit": _ALPHAEDIT,
    "blue": {**_ALPHAEDIT, **_BLUE},
    "alphaedit_plus": _PLUS,
    "alphaedit_plus_paper": {**_PLUS, "relax": "paper", "selection": "converge"},
    "prune_plus": {**_PLUS, "treatment": "restrain"},
    "blue_plus": {**_PLUS, **_BLUE},
}
"""The switches of the named methods, as in ``configs/method``; what is not named is at its default."""


def method_switches(name: str) -> dict[str, object]:
    """Everything that makes a named method, as a ``configs/method`` file has it.

    Raises:
        InputError: If there is no such method.
    """
    if name not in METHODS:
        msg = f"expected a method out of {', '.join(sorted(METHODS))}, but {name!r} came; choose one of these."
        raise InputError(msg)
    defaults = Method()
    every = {switch: getattr(defaults, switch) for switch in (*_SWITCHES, "smooth") if switch != "threshold_kind"}
    return {"name": name, **every, **METHODS[name]}


def named_method(name: str, **numbers: Any) -> Method:
    """A method by name, with some numbers set.

    Raises:
        InputError: If there is no such method, or an unknown number.
    """
    return Method(**{**method_switches(name), **numbers})
