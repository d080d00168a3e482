"""The options of :func:`aeplus.edit` beside its arguments, and where each belongs."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

from aeplus.api.arguments import check_names
from aeplus.methods.compositions import find_composition, named_method
from aeplus.methods.method import GradientOptions, Method
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions


class EditOptions(TypedDict, total=False):
    """The options of :func:`edit` beside its arguments; each is described where it acts.

    The numbers and switches of :class:`~aeplus.methods.method.Method`, then those of
    :class:`~aeplus.targets.optimizer.TargetOptions`, :class:`~aeplus.preserved.statistics.PreservedOptions` and
    :class:`~aeplus.data.datamodule.EditDataModule`. Those whose names say little beside the others':

    Attributes:
        steps: Maximum number of gradient steps of a target.
        stop: When a target has converged, by its ``loss`` or by ``rank``.
        norm: The length of what the MLP puts out at a target, ``free`` or by ``anchor``.
        window: Tokens in a row of the preserved text.
        sample: Number of preserved keys kept for s(k, K0).
        batch: Rows of preserved text run at once; ``batch_size`` is that of the edits.
        facts: A file of facts that must survive, as ``preserve`` has them as records.
        validation_facts: A file of facts that score Specificity on the validation set. Nothing protects them.
        preserved: The same as ``validation_facts``.
    """

    update: str
    sites: str
    targets: str
    filter: str
    relax: str
    prior: str
    smooth: bool
    treatment: str
    threshold: float
    threshold_kind: Literal["absolute", "energy", "dimensions"]
    alpha: float
    ridge: float
    own_ridge: float | None
    prior_strength: float
    prior_by_place: bool
    epsilon: float
    relative: bool
    search_block: int
    search_unsmoothed: bool
    aligned_share: float
    aligned_left: float
    aligned_power: float
    aligned_floor: float | None
    aligned_leakage: float | None
    facts_leakage: float | None
    max_rank: int | None
    max_leakage: float | None
    max_growth: float | None
    smoothing_steps: int
    smoothing_share: float
    smoothing_threshold: float | None
    smoothing_mode: Literal["parallel", "sequential"]
    selection_scope: Literal["batch", "layer"]
    keep_share: float
    main_energy: float
    main_strength: float
    restrain_base: float
    restrain_every: int
    feedback: bool
    double: bool
    gradient: GradientOptions

    steps: int
    learning_rate: float
    clamp: float
    kl_factor: float
    weight_decay: float
    stop_loss: float
    stop: Literal["loss", "rank"]
    contexts: int
    context_length: int
    chunk_tokens: int
    joint: bool
    norm: Literal["free", "anchor"]
    anchor: dict[int, float] | None
    precision: Literal["full", "bfloat16"]
    graphs: bool

    corpus: str
    tokens: int
    window: int
    sample: int
    batch: int
    facts: str | None
    facts_weight: float
    keep: Literal["all", "outside"]

    neighbors: int
    validation: str | None
    validation_share: float
    validation_earlier: int
    validation_facts: str | None
    preserved: str | None
    preserved_count: int
    snippet_corpus: str
    skip_unusable: bool
    join: Literal["auto", "space", "none"]
    chat_template: bool


def plain(value: Any) -> Any:
    """A number of numpy as Python's, which a journal can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def method_with(method: str | Method, options: dict[str, Any], selection: Any) -> Method:
    """The method of a call, with its options.

    Args:
        method: Its name, the path of its file, or a composition.
        options: The numbers and switches given beside it; one that it does not use is warned of.
        selection: Which candidate it commits, if another than its own.

    Raises:
        InputError: If there is no such method, or an option cannot be used.
    """
    chosen = (
        replace(method, **options) if isinstance(method, Method) else named_method(find_composition(method), **options)
    )
    for name in chosen.idle([*options, *(["selection"] if selection is not None else [])]):
        warnings.warn(f"{name} changes nothing: {chosen.name} does not use it", stacklevel=3)
    return chosen if selection is None else replace(chosen, selection=selection)


def sorted_options(options: Mapping[str, Any], parameters: Iterable[str]) -> list[dict[str, Any]]:
    """Options by what they belong to: method, targets, preserved knowledge, data.

    Args:
        options: What a call is given.
        parameters: The other arguments, which a misspelt name may mean.

    Raises:
        InputError: If a name is unknown.
    """
    homes = [
        {f.name for f in fields(Method)} - {"name", "selection"},
        {f.name for f in fields(TargetOptions)},
        {f.name for f in fields(PreservedOptions)} - {"seed"},
        {"neighbors", "validation", "validation_share", "validation_earlier", "preserved"}
        | {"validation_facts", "preserved_count", "snippet_corpus"}
        | {"skip_unusable", "join", "chat_template"},
    ]
    known = set().union(*homes)
    check_names(options, known, parameters)
    return [{name: value for name, value in options.items() if name in home} for home in homes]
