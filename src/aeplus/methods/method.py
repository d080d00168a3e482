"""A method is a composition of parts. The switches say which parts it has, the numbers how they are set.

Methods set switches (``configs/method``), models set numbers (``configs/model``), so any method composes with any
model and an ablation is one switch.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from aeplus.errors import InputError, require_not_negative, require_positive, require_types
from aeplus.functional.filters import FilterKind
from aeplus.methods.batch import UPDATES
from aeplus.methods.checks import check_composition, check_ranges
from aeplus.methods.layer_targets import TARGETS
from aeplus.methods.parts import FILTERS, PRIORS, RELAXATIONS, SITES
from aeplus.methods.registry import METHODS, Part, Selections
from aeplus.methods.treatments import TREATMENTS

TABLES: dict[str, Mapping[str, Part[Any]]] = {
    "update": UPDATES,
    "sites": SITES,
    "targets": TARGETS,
    "filter": FILTERS,
    "relax": RELAXATIONS,
    "prior": PRIORS,
    "treatment": TREATMENTS,
}
"""The parts that each switch chooses from. A new part is one function and one entry of its table, with its traits."""

SWITCHES = (*TABLES, "selection", "smooth")
"""The fields that make a method; all others are numbers."""

_SMOOTHING = (
    *("smoothing_steps", "smoothing_share", "smoothing_threshold", "smoothing_mode"),
    *("selection", "selection_scope"),
)


@dataclass(frozen=True)
class GradientOptions:
    """How weights are learned by gradient, orthogonal to previous edits (KDE). All of these choices are ours.

    Attributes:
        steps: Maximum number of gradient steps in the first stage, on the batch's edits alone.
        replay_steps: Maximum number of gradient steps in the second stage, on the batch and a sample of previous edits.
        samples: Number of previous edits that the second stage checks at each batch.
        learning_rate: Adam's learning rate.
        positions: Where weights learn: at ``all`` tokens of a prompt, or only at the ``subject``'s last one, which is
            where the closed forms edit. The update acts at every token either way.
        contexts: Number of sampled prefixes after which an edit is learned, beside its bare prompt.
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
        require_types(self, "method.gradient")
        require_positive(self, "method.gradient", "steps", "learning_rate", "stop_loss")
        require_not_negative(self, "method.gradient", "replay_steps", "samples", "contexts", "weight_decay")
        if self.positions not in ("all", "subject"):
            msg = f"expected method.gradient.positions all or subject, got {self.positions!r}; choose one of these."
            raise InputError(msg)
        if not 0 < self.energy <= 1:
            msg = f"expected method.gradient.energy above 0 and at most 1, got {self.energy}; 0.95 is the default."
            raise InputError(msg)


@dataclass(frozen=True)
class Method:
    """How updates are computed.

    Attributes:
        name: What reports call it; if a registered method has it, with the switches that differ (:attr:`label`).
        update: ``closed_form``, or ``gradient``: learned step by step, orthogonal to previous edits (KDE).
        sites: Which of ``model.layers`` are edited: ``all``, or the first and the last (``ends``, BLUE).
        targets: ``last``: one target at the last edited layer, its residual divided by the layers left (MEMIT).
            ``own``: each layer has its own, learned when the layers below are written, and takes all of its residual
            (BLUE). ``forward``: one is learned at the first edited layer, and what it leads to at the others is theirs;
            each takes all of its residual (FE).
        filter: ``null_space``: only directions that preserved keys hardly use (AlphaEdit). ``covariance``: all
            directions, penalized in proportion to how strongly preserved keys use them (MEMIT). ``soft``: between the
            two, ``λ / (λ + α σ)`` (ENCORE). ``null_soft``: that within the null space, and nothing outside it
            (BetaEdit). ``priced``: that outside the null space, which is free.
        relax: The relaxation P̃ of the projector (AlphaEdit+): ``none``; ``aligned``, one direction for each edit whose
            key lies mostly outside the null space; or eigenvectors of C, searched as in Algorithm 1, which only ε ends
            (``paper``) or ``max_rank``, ``max_leakage`` and ``max_growth`` too (``bounded``).
        prior: Weights Λp of previous edits: ``none`` (not remembered), ``equal`` (AlphaEdit), ``conflict``
            (``1 − s``, AlphaEdit+) or ``resolve`` (0 for edits of a fact that the batch edits again, else 1, OTE-SE).
            ``hard``: updates are exactly 0 on all previous keys (EvoEdit), so that no fact can be edited again.
        smooth: Approach the targets of very inconsistent edits step by step (AlphaEdit+).
        selection: Which smoothing candidate is committed: ``best``, the one that gives the validation set's answers the
            highest mean probability, ties to the least smoothed; ``converge``, the first whose Score has settled
            (Algorithm 1, line 19); or ``highest``, the one with the highest mean of Efficacy and Generalization on the
            validation set, ties to the most smoothed (the published code's rule).
        treatment: What is done to an update afterwards: ``none``; ``sparsify``: only the entries with the largest
            relative change stay (RECT); ``sphere``: a share of it is taken out of the main input directions of the
            present weight's rows (SPHERE); ``revive``: it is kept out of the leading singular vectors of the unedited
            weight, on both sides (REVIVE); ``restrain``: singular values of the sum of all updates above the largest of
            the unedited weight are damped after the last batch (PRUNE).
        threshold: Where the null space ends, in the unit of ``threshold_kind``.
        threshold_kind: ``absolute`` (an eigenvalue of C), ``energy`` (share of the trace) or ``dimensions``
            (share of the dimensions).
        alpha: Weight of C against the new keys, for every filter but ``null_space``.
        ridge: λ.
        own_ridge: λ where each layer has its own target (``targets: own`` or ``forward``), if another.
        prior_strength: β, the weight of all previous edits.
        prior_by_place: Multiply β by the layer's place among the edited ones, 1 for the lowest (the published code).
        epsilon: ε: an eigenvector joins P̃ if the objective falls by more than this.
        relative: Whether ε is a share of the objective rather than an absolute number.
        search_block: How many eigenvectors are tried together, and join P̃ together or not at all; what they have to
            gain is so many times ε. Algorithm 1 takes 1, the published code 10.
        search_unsmoothed: Find P̃ for the residuals of the unsmoothed targets, as the published code does, rather than
            for those of the first smoothing iteration (Algorithm 1). The layers below are as the first iteration edits
            them.
        aligned_share: Edits with ``‖P k‖ / ‖k‖`` below this get a direction.
        aligned_left: The share of its residual that such an edit, by itself, may keep; the direction that leaks least
            for it is taken, and none where the null space alone leaves no more.
        aligned_power: ``p`` of the direction ``(C + c I)⁻ᵖ (I − P) k``; 1 leaks least for what it fits.
        aligned_floor: ``c``, in units of C; by default what ``aligned_left`` and ``aligned_leakage`` lead to.
        aligned_leakage: The most that the direction of one edit may add to ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``; the edit keeps
            more of its residual then. On the residuals of the first smoothing iteration, as ``max_leakage``.
        facts_leakage: The same where facts that must survive are named, if it is less: an edit that collides with one
            of them may then reach its target less far.
        max_rank: Maximum number of eigenvectors in P̃.
        max_leakage: Largest ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` that P̃ may lead to on the residuals of its search, which are
            those of the first smoothing iteration; later ones can leak up to four times as much.
        max_growth: The same bound as a multiple of what the update leaks without P̃, at least 1. It means the same for
            any model, so it is the one that is set.
        smoothing_steps: T: smoothing iterations run from 0 to at most T.
        smoothing_share: Share of a batch's edits to smooth, those with the largest residuals. In a batch of one there
            is no such share, and nothing is smoothed.
        smoothing_threshold: τ_r: smooth edits whose residual norm is above this, instead of a share.
        smoothing_mode: ``parallel``: all iterations of a batch are found and scored in one pass, where they can be;
            ``sequential``: one after the other, each put into the weights first.
        selection_scope: ``batch``: one candidate for all layers, edited with the targets of one smoothing iteration.
            ``layer``: each layer has its own (the published code). From the lowest on, a layer's residuals, ``‖r‖``
            and v0 are those that the layers below have left, its candidates are scored with the layers above
            unedited, and the chosen one stays.
        keep_share: Share of an update's entries that ``sparsify`` keeps.
        main_energy: Share of the weight's energy that its main directions hold, for ``sphere`` and ``revive``.
        main_strength: How much of an update ``sphere`` takes out of them: 0.5 for AlphaEdit, 0.8 for MEMIT, RECT and
            PRUNE.
        restrain_base: Base of the logarithm that ``restrain`` applies.
        restrain_every: Restrain after every N batches too; 0 for the last only.
        feedback: Take back, with every batch, what the treatment has done to the update of the batch before, and solve
            for what then is lacking (OTE-SE). For ``sparsify``, and ``restrain`` between batches.
        double: Solve in float64 rather than float32.
        gradient: The numbers of ``update: gradient``.

    Raises:
        InputError: If a switch is unknown, a number is out of range, or the parts do not fit each other.
    """

    name: str = "own"
    update: str = "closed_form"
    sites: str = "all"
    targets: str = "last"
    filter: str = "null_space"
    relax: str = "aligned"
    prior: str = "conflict"
    smooth: bool = True
    selection: Selections = "best"
    treatment: str = "none"
    threshold: float = 0.02
    threshold_kind: FilterKind = "absolute"
    alpha: float = 15000.0
    ridge: float = 10.0
    own_ridge: float | None = None
    prior_strength: float = 100.0
    prior_by_place: bool = False
    epsilon: float = 3e-4
    relative: bool = False
    search_block: int = 1
    search_unsmoothed: bool = False
    aligned_share: float = 0.5
    aligned_left: float = 0.15
    aligned_power: float = 1.0
    aligned_floor: float | None = None
    aligned_leakage: float | None = 1.0
    facts_leakage: float | None = 0.01
    max_rank: int | None = None
    max_leakage: float | None = None
    max_growth: float | None = 1.05
    smoothing_steps: int = 10
    smoothing_share: float = 0.2
    smoothing_threshold: float | None = None
    smoothing_mode: Literal["parallel", "sequential"] = "parallel"
    selection_scope: Literal["batch", "layer"] = "batch"
    keep_share: float = 0.4
    main_energy: float = 0.5
    main_strength: float = 0.5
    restrain_base: float = math.e
    restrain_every: int = 0
    feedback: bool = False
    double: bool = True
    gradient: GradientOptions = field(default_factory=GradientOptions)

    def __post_init__(self) -> None:
        require_types(self, "method")
        if not isinstance(self.gradient, GradientOptions):
            msg = f"expected method.gradient to be a mapping of its numbers, got {self.gradient!r}; correct it."
            raise InputError(msg)
        require_positive(self, "method", "threshold", "alpha", "ridge", "smoothing_steps", "search_block")
        require_not_negative(
            self,
            "method",
            *("prior_strength", "epsilon", "max_rank", "max_leakage", "smoothing_threshold", "restrain_every"),
            *("aligned_power", "aligned_leakage", "facts_leakage"),
        )
        for name, choices in switch_choices().items():
            if getattr(self, name) not in choices:
                got = getattr(self, name)
                msg = f"expected method.{name} out of {', '.join(choices)}, got {got!r}; choose one of these."
                raise InputError(msg)
        check_ranges(self)
        check_composition(self)

    def beside_facts(self) -> "Method":
        """The composition as it edits where facts that must survive are named: P̃ may leak less."""
        bounds = [bound for bound in (self.aligned_leakage, self.facts_leakage) if bound is not None]
        return replace(self, aligned_leakage=min(bounds, default=None))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Method":
        """A method from plain values, as ``asdict`` gives them and as configs and journals hold them.

        Raises:
            InputError: As the method itself.
        """
        gradient = values.get("gradient")
        groups = {"gradient": GradientOptions(**gradient)} if isinstance(gradient, Mapping) else {}
        return cls(**{**values, **groups})

    @property
    def by_layer(self) -> bool:
        """Whether every layer chooses its own smoothing candidate."""
        return self.smooth and self.selection_scope == "layer"

    @property
    def closed_form(self) -> bool:
        """Whether updates are solved for, with targets, filter, P̃ and Λp, instead of learned."""
        return "closed_form" in UPDATES[self.update].traits

    @property
    def has_null_space(self) -> bool:
        """Whether the filter tells a null space, which ends at ``threshold``, from the other directions."""
        return "threshold" in self.acting

    @property
    def solver_ridge(self) -> float:
        """λ of the linear system; 1 for a filter that holds its own (MEMIT's)."""
        if "ridge" not in FILTERS[self.filter].numbers:
            return 1.0
        undivided = "own_ridge" in TARGETS[self.targets].numbers
        return self.own_ridge if undivided and self.own_ridge is not None else self.ridge

    @property
    def acting(self) -> frozenset[str]:
        """The numbers that act for this composition; setting another one changes nothing."""
        switches = tuple(TABLES) if self.closed_form else ("update", "treatment")
        acting = {number for switch in switches for number in TABLES[switch][getattr(self, switch)].numbers}
        if "ridge" not in acting:
            acting.discard("own_ridge")
        elif "own_ridge" in acting and self.own_ridge is not None:
            acting.discard("ridge")
        if not self.smooth:
            acting.discard("search_unsmoothed")
        return frozenset(acting.union(_SMOOTHING if self.smooth else (), ("double",)))

    def idle(self, names: Iterable[str]) -> list[str]:
        """Those of some fields that do not act for this composition, in order."""
        numbers = [f.name for f in fields(self) if f.name not in SWITCHES and f.name != "name"] + ["selection"]
        return sorted(name for name in set(names) if name in numbers and name not in self.acting)

    @property
    def departures(self) -> dict[str, tuple[Any, Any]]:
        """What the registered method of this name fixes and is other here: ``{name: (fixed, here)}``.

        All its switches, but for ``selection`` where nothing is smoothed, and some numbers.
        """
        if self.name not in METHODS:
            return {}
        defaults = {f.name: f.default for f in fields(self) if f.name in SWITCHES}
        fixed = {**defaults, **METHODS[self.name].switches}
        idle = () if self.smooth else ("selection",)
        other = {name: (value, getattr(self, name)) for name, value in fixed.items() if name not in idle}
        return {name: pair for name, pair in other.items() if pair[0] != pair[1]}

    @property
    def label(self) -> str:
        """What reports call it: ``alphaedit_plus:relax=none`` where the name is a method's and a switch another."""
        changed = {name: here for name, (_, here) in self.departures.items() if name in SWITCHES}
        values = {name: str(here).lower() if isinstance(here, bool) else here for name, here in changed.items()}
        return ":".join([self.name, *(f"{name}={value}" for name, value in values.items())])


def switch_choices() -> dict[str, list[str]]:
    """What each field that is chosen by name may be."""
    named = {name: list(table) for name, table in TABLES.items()}
    modes = {
        "selection": list(get_args(Selections)),
        "smoothing_mode": ["parallel", "sequential"],
        "selection_scope": ["batch", "layer"],
    }
    return {**named, **modes, "threshold_kind": list(get_args(FilterKind))}
