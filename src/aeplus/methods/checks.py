"""What the numbers and the parts of a method must be to make one."""

from typing import TYPE_CHECKING

from aeplus.errors import InputError
from aeplus.methods.parts import FILTERS
from aeplus.methods.registry import with_trait
from aeplus.methods.treatments import TREATMENTS

if TYPE_CHECKING:
    from aeplus.methods.method import Method


def check_ranges(method: "Method") -> None:
    """Every number of a method is within its range.

    Raises:
        InputError: If one is not.
    """
    if not 0 <= method.smoothing_share <= 1:
        msg = f"expected method.smoothing_share between 0 and 1, got {method.smoothing_share}; 0.2 is AlphaEdit+'s."
        raise InputError(msg)
    if not 0 < method.main_energy <= 1:
        msg = f"expected method.main_energy above 0 and at most 1, got {method.main_energy}; SPHERE's is 0.5."
        raise InputError(msg)
    if not 0 <= method.main_strength <= 1:
        msg = f"expected method.main_strength between 0 and 1, got {method.main_strength}; SPHERE's is 0.5."
        raise InputError(msg)
    if not 0 < method.keep_share <= 1:
        msg = f"expected method.keep_share above 0 and at most 1, got {method.keep_share}; 0.4 is RECT's."
        raise InputError(msg)
    if method.max_growth is not None and not method.max_growth >= 1:
        msg = f"expected method.max_growth of at least 1, got {method.max_growth}; 2 lets P̃ double the leakage."
        raise InputError(msg)
    if not 0 <= method.aligned_share <= 1:
        msg = f"expected method.aligned_share between 0 and 1, got {method.aligned_share}; 0.5 is the default."
        raise InputError(msg)
    if not 0 < method.aligned_left < 1:
        msg = f"expected method.aligned_left above 0 and below 1, got {method.aligned_left}; 0.15 is the default."
        raise InputError(msg)
    if method.aligned_floor is not None and not method.aligned_floor > 0:
        msg = (
            f"expected method.aligned_floor above 0, got {method.aligned_floor}; leave it out to have it chosen by "
            "method.aligned_left."
        )
        raise InputError(msg)
    if not method.restrain_base > 1:
        msg = f"expected method.restrain_base above 1, got {method.restrain_base}; PRUNE's is e."
        raise InputError(msg)
    if method.own_ridge is not None and not method.own_ridge > 0:
        msg = f"expected method.own_ridge above 0, got {method.own_ridge}; leave it out to take method.ridge."
        raise InputError(msg)


def check_composition(method: "Method") -> None:
    """The parts of a method go together.

    Raises:
        InputError: If they do not.
    """
    projectors = with_trait(FILTERS, "projector")
    if method.relax != "none" and method.filter not in projectors and method.closed_form:
        known = " or ".join(projectors)
        msg = f"expected filter {known} for method.relax to widen, got {method.filter!r}; set relax: none."
        raise InputError(msg)
    treatment = TREATMENTS[method.treatment]
    fed_back = "feedback" in treatment.numbers and (treatment.run.each is not None or method.restrain_every)
    if method.feedback and not (fed_back and method.closed_form):
        msg = (
            "expected treatment: sparsify, or restrain with restrain_every of at least 1, for method.feedback to "
            f"act on, got treatment: {method.treatment}; set feedback: false."
        )
        raise InputError(msg)
    if not method.closed_form and (method.relax, method.prior, method.smooth) != ("none", "none", False):
        msg = (
            f"expected no P̃, Λp or smoothing with method.update: {method.update}, which has no closed form, got "
            f"relax: {method.relax}, prior: {method.prior}, smooth: {str(method.smooth).lower()}; set relax: none, "
            "prior: none and smooth: false."
        )
        raise InputError(msg)
    if method.by_layer:
        _check_by_layer(method)


def _check_by_layer(method: "Method") -> None:
    """Every layer chooses by itself only where one target is shared, candidate after candidate."""
    if method.smoothing_mode != "sequential":
        msg = (
            "expected smoothing_mode: sequential for method.selection_scope: layer, whose candidates come one "
            f"after the other, got {method.smoothing_mode}; set smoothing_mode: sequential."
        )
        raise InputError(msg)
    if method.targets != "last":
        msg = (
            "expected targets: last for method.selection_scope: layer, which edits every layer toward one target, "
            f"got {method.targets}; set selection_scope: batch."
        )
        raise InputError(msg)
    if method.sites != "all":
        msg = (
            "expected sites: all for method.selection_scope: layer, which goes from each layer to the next, got "
            f"{method.sites}; set selection_scope: batch."
        )
        raise InputError(msg)
    if TREATMENTS[method.treatment].run.each is not None:
        msg = (
            "expected treatment: none or restrain for method.selection_scope: layer, which scores updates as "
            f"solved, got {method.treatment}; set selection_scope: batch."
        )
        raise InputError(msg)
