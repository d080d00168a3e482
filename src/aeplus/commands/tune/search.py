"""The search: one value after another, each by the validation scores of a few trials; it needs no model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aeplus.errors import InputError

Values = dict[str, Any]
"""Fields below ``model`` by their path (``method.ridge``), and their values."""
TUNED = ("alphaedit", "memit", "blue", "kde")
"""The methods that numbers are found for by default: what is found with them serves all named methods."""

TIE = 1.0  # points of the Score
# From the most conservative value to the boldest: within a tie the first wins.
LEARNING_RATES = (0.1, 0.2, 0.5)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
RIDGES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
ALPHAS = (15000.0, 3000.0, 1000.0, 300.0, 100.0, 30.0)
OWN_RIDGES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
GRADIENT_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
_NUMBERS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "threshold": ("tau", "method.threshold", THRESHOLDS),
    "ridge": ("lambda", "method.ridge", RIDGES),
    "alpha": ("alpha", "method.alpha", ALPHAS),
    "own_ridge": ("own_ridge", "method.own_ridge", OWN_RIDGES),
    "gradient": ("learning rate", "method.gradient.learning_rate", GRADIENT_RATES),
}
_WINDOW = 5
_ROUNDING = 1e-4  # of a Score in float32


@dataclass(frozen=True)
class Result:
    """The measurements of a trial; percentages, on the validation set.

    Attributes:
        efficacy: Paraphrased edits that are answered with the target.
        generalization: The same, with several paraphrases of each.
        specificity: Preserved prompts that keep their answer.
        score: The mean of the three.
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``, the largest of the layers.
        edits: Number of edits made.
        converged: Number of their targets whose loss got below the stopping loss.
        loss: Mean loss of the targets; ``None`` if there are no targets.
        seconds: Wall-clock time of the trial.
    """

    efficacy: float
    generalization: float
    specificity: float
    score: float
    leakage: float
    edits: int
    converged: int
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A tried value.

    Attributes:
        stage: Label of its stage.
        path: The field that was set.
        method: The method.
        value: The value.
        result: The measurements; ``None`` if the trial failed.
        error: Why it failed.
        chosen: Whether it was chosen.
    """

    stage: str
    path: str
    method: str
    value: Any
    result: Result | None
    error: str | None = None
    chosen: bool = False


def most_conservative(results: Sequence[Result]) -> int:
    """The first whose Score is within a point of the best: results are ordered from the most conservative."""
    return _ties(results)[0]


def best_layers(results: Sequence[Result]) -> int:
    """The best Score; within a point of it the best Specificity, and then the earlier layers."""
    return min(_ties(results), key=lambda i: (-results[i].specificity, i))


def converging(results: Sequence[Result]) -> int:
    """The first with at least 90 % of its targets converged; else the one with most, then with the lower loss."""
    enough = [i for i, result in enumerate(results) if 10 * result.converged >= 9 * result.edits]
    return enough[0] if enough else min(range(len(results)), key=lambda i: (-results[i].converged, _loss(results[i])))


def half_converged(result: Result) -> bool:
    """Whether at least half of the targets converged."""
    return 2 * result.converged >= result.edits


@dataclass(frozen=True)
class Stage:
    """A value to search.

    Attributes:
        label: Its name in progress and tables.
        path: The field.
        method: The method it is tried with.
        values: The values to try, from the most conservative.
        choose: Returns the index of the best result.
    """

    label: str
    path: str
    method: str
    values: tuple[Any, ...]
    choose: Callable[[Sequence[Result]], int] = most_conservative


def first_window(depth: int) -> list[int]:
    """The layers at which the targets' learning rate is searched: as many as edited, from an eighth of the depth."""
    return _window(depth, depth // 8)


def windows(depth: int) -> tuple[list[int], ...]:
    """The layers to try, from about 1/15, 1/8, 1/5 and 1/3 of the depth, each once."""
    starts = dict.fromkeys(_window(depth, depth // part)[0] for part in (15, 8, 5, 3))
    return tuple(_window(depth, start) for start in starts)


def stages(
    depth: int,
    methods: Sequence[str],
    layers: Sequence[int] | None = None,
    acting: Mapping[str, Collection[str]] | None = None,
) -> list[Stage]:
    """The stages of the search, in order.

    Args:
        depth: Decoder layers of the model.
        methods: The methods to find numbers for, out of :data:`TUNED` and the keys of ``acting``.
        layers: Fixed layers; ``None`` to search them.
        acting: For methods beside :data:`TUNED` the numbers that act for them: each is searched with the first method
            that has it.
    """
    plan = [Stage("v_lr", "targets.learning_rate", "alphaedit", LEARNING_RATES, converging)]
    if layers is None:
        plan.append(Stage("layers", "layers", "alphaedit", windows(depth), best_layers))
    if {"alphaedit", "blue"} & set(methods):
        plan.append(Stage("tau", "method.threshold", "alphaedit", THRESHOLDS))
    if "alphaedit" in methods:
        plan.append(Stage("lambda", "method.ridge", "alphaedit", RIDGES))
    if "memit" in methods:
        plan.append(Stage("alpha", "method.alpha", "memit", ALPHAS))
    if "blue" in methods:
        plan.append(Stage("own_ridge", "method.own_ridge", "blue", OWN_RIDGES))
    if "kde" in methods:
        plan.append(Stage("learning rate", "method.gradient.learning_rate", "kde", GRADIENT_RATES))
    for method in methods:
        for number, (label, path, values) in _NUMBERS.items():
            if number in (acting or {}).get(method, ()) and path not in {stage.path for stage in plan}:
                plan.append(Stage(label, path, method, values))
    return plan


def start(depth: int, layers: Sequence[int] | None = None) -> Values:
    """The initial values of the search."""
    return {
        "layers": list(layers) if layers is not None else first_window(depth),
        "method.threshold_kind": "dimensions",  # a share transfers between models, an eigenvalue does not
        "method.threshold": 0.7,
        "method.ridge": 1.0,
    }


def search(
    plan: Sequence[Stage], values: Values, run: Callable[[str, str, Values], Result]
) -> tuple[Values, list[Trial]]:
    """Runs the stages; each begins with the values found by the previous ones.

    Args:
        plan: The stages.
        values: The initial values.
        run: Runs a trial, given its title, the method and all values; raises :class:`InputError` if it fails.

    Returns:
        The values found, and all trials.

    Raises:
        InputError: If no trial of a stage could be run.
    """
    values, trials = dict(values), list[Trial]()
    total = sum(len(stage.values) for stage in plan)
    for stage in plan:
        tried: list[Trial] = []
        for value in stage.values:
            title = f"[{len(trials) + len(tried) + 1}/{total}] {stage.label} = {value_text(value)}"
            result, error = None, None
            try:
                result = run(title, stage.method, {**values, stage.path: value})
            except InputError as failure:
                error = str(failure)
            tried.append(Trial(stage.label, stage.path, stage.method, value, result, error))
        best = _best(stage, tried)
        tried[best] = replace(tried[best], chosen=True)
        values[stage.path] = tried[best].value
        trials += tried
    return values, trials


def value_text(value: Any) -> str:
    """A value as shown in progress and tables."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _best(stage: Stage, tried: Sequence[Trial]) -> int:
    good = [(i, trial.result) for i, trial in enumerate(tried) if trial.result is not None]
    if not good:
        msg = (
            f"expected a {stage.label} with which {stage.method} can be run, got an error in every trial, the last: "
            f"{tried[-1].error}"
        )
        raise InputError(msg)
    return good[stage.choose([result for _, result in good])][0]


def _ties(results: Sequence[Result]) -> list[int]:
    """Indices of the Scores within a point of the best."""
    best = max(result.score for result in results)
    return [i for i, result in enumerate(results) if result.score >= best - TIE - _ROUNDING]


def _loss(result: Result) -> float:
    return float("inf") if result.loss is None else result.loss


def _window(depth: int, first: int) -> list[int]:
    """Up to five layers, without the last of the model: no token after the subject would see an edit there."""
    width = min(_WINDOW, max(depth - 1, 1))
    first = max(0, min(first, depth - 1 - width))
    return list(range(first, first + width))
