"""What tables show of a cell: numbers out of what its run wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from aeplus.errors import InputError
from aeplus.evaluation.suite import Protocol
from aeplus.figures.from_run import DATA
from aeplus.metrics.success import PARTS, SCORES
from aeplus.utils.jsonl import read_json

When = Literal["before", "after"]


@dataclass(frozen=True)
class Files:
    """What a run wrote.

    Attributes:
        metrics: ``metrics.json``.
        capabilities: ``capabilities.json``; empty without it.
        figures: ``figures/data.json``; empty without it.
    """

    metrics: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    figures: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Files":
        """Reads them.

        Raises:
            InputError: If one is damaged.
        """
        others = (folder / "capabilities.json", folder / DATA)
        return cls(read_json(folder / "metrics.json"), *(read_json(path) if path.is_file() else {} for path in others))


@dataclass(frozen=True)
class Value:
    """A number of a cell.

    Attributes:
        heading: What its column is called.
        read: Reads it, before or after editing; ``None`` where it was not measured.
        form: How it is printed.
        editing: Whether it is of the editing, so that the unedited model has none.
    """

    heading: str
    read: Callable[[Files, When], float | None]
    form: str = ".1f"
    editing: bool = False


def _score(name: str) -> Callable[[Files, When], float | None]:
    return lambda files, when: files.metrics[when].get(name)


def _measure(*path: str) -> Callable[[Files, When], float | None]:
    def read(files: Files, when: When) -> float | None:
        value: Any = files.metrics.get("measures", {}).get(when, {})
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value.get("value") if isinstance(value, Mapping) else value

    return read


def _batches(name: str, join: Callable[[Sequence[float]], float] = fmean) -> Callable[[Files, When], float | None]:
    def read(files: Files, when: When) -> float | None:
        found = [batch[name] for batch in files.metrics["batches"] if batch.get(name) is not None]
        return float(join(found)) if found else None

    return read


def _edits(name: str) -> Callable[[Files, When], float | None]:
    """A quantity of edits, mean over the edits of all batches."""

    def read(files: Files, when: When) -> float | None:
        known = [(batch["edits"], batch[name]) for batch in files.metrics["batches"] if batch.get(name) is not None]
        edits = sum(number for number, _ in known)
        return sum(number * value for number, value in known) / edits if edits else None

    return read


def _seconds(*names: str) -> Callable[[Files, When], float | None]:
    """Seconds of a part, mean over the batches; ``rest`` is what the parts leave of the total."""

    def read(files: Files, when: When) -> float | None:
        spent = [batch["seconds"] for batch in files.metrics["batches"]]
        if not spent:
            return None
        if names == ("rest",):
            return fmean(
                max(0.0, s["total"] - sum(s.get(p, 0.0) for p in ("targets", "solve", "validate"))) for s in spent
            )
        return fmean(sum(s.get(name, 0.0) for name in names) for s in spent)

    return read


_FOLLOWING = ("Logical_Generalization", "Compositionality_I", "Compositionality_II", "Subject_Aliasing")
"""Axes of RippleEdits that ask what follows from an edit."""


def _following(files: Files, when: When) -> float | None:
    found = [value for axis in _FOLLOWING if (value := _measure("axes", axis)(files, when)) is not None]
    return fmean(found) if found else None


def _hidden_moved(files: Files, when: When) -> float | None:
    found = (files.figures.get("hidden") or {}).get("moved")
    return None if found is None else 100 * found


def _retention(files: Files, when: When) -> float | None:
    means = files.metrics.get("measures", {}).get("retention", {}).get("mean") or [None]
    last: float | None = means[-1]
    return last


VALUES: dict[str, Value] = {
    "efficacy": Value("Eff.", _score("efficacy")),
    "generalization": Value("Gen.", _score("generalization")),
    "specificity": Value("Spe.", _score("specificity")),
    "score": Value("Score", _score("score")),
    "fluency": Value("Fluency [bits]", _measure("fluency", "entropy")),
    "consistency": Value("Consistency", _measure("fluency", "consistency")),
    "axes_generalization": Value("Gen. (axes)", _following),
    "retention": Value("Retention", _retention, editing=True),
    "edits": Value("edits", lambda files, when: float(files.metrics["edits"]), ".0f", editing=True),
    "conflict_preserved": Value("s(k, K0)", _edits("conflict_preserved"), ".3f", editing=True),
    "conflict_prior": Value("s(k, Kp)", _edits("conflict_prior"), ".3f", editing=True),
    "residual_norm": Value("‖r‖", _edits("residual_norm"), ".3g", editing=True),
    "sigma_max": Value("σ_max", _batches("sigma_max", max), ".3g", editing=True),
    "prior_weight_norm": Value("‖Λp‖_F", _batches("prior_weight_norm"), ".3g", editing=True),
    "iterations": Value("iterations", _batches("smoothing_iterations"), ".1f", editing=True),
    "rank": Value("rank of P̃", _batches("rank"), ".1f", editing=True),
    "leakage": Value("leakage", lambda files, when: files.metrics.get("leakage"), ".2g", editing=True),
    "hidden_moved": Value("hidden states moved [%]", _hidden_moved, editing=True),
    "seconds.targets": Value("targets [s]", _seconds("targets"), ".2f", editing=True),
    "seconds.solve": Value("search and solve [s]", _seconds("solve"), ".2f", editing=True),
    "seconds.validate": Value("validation [s]", _seconds("validate"), ".2f", editing=True),
    "seconds.rest": Value("rest [s]", _seconds("rest"), ".2f", editing=True),
    "seconds.total": Value("batch [s]", _seconds("total"), ".2f", editing=True),
}
"""The values by name; ``PROTOCOL.NAME`` and ``capabilities.TASK`` are two more kinds, :data:`PARTS` a third."""
_PROTOCOLS = (*get_args(Protocol), "axes_tokens")


def value_of(name: str) -> Value:
    """A value by its name.

    Raises:
        InputError: If there is none.
    """
    if name in VALUES:
        return VALUES[name]
    if name in PARTS:
        return Value(name.replace("_", " "), _score(name))
    kind, _, which = name.partition(".")
    if kind in _PROTOCOLS and which:
        heading = VALUES[which].heading if which in SCORES else which.replace("_", " ")
        heading = heading if kind == "axes" else f"{heading} ({kind.replace('_', ', ')})"
        return Value(heading, _measure(kind, which), ".3g" if kind == "drift" else ".1f")
    if kind == "capabilities" and which:

        def f1(files: Files, when: When) -> float | None:
            results = files.capabilities.get("results") or [{"tasks": {}}]
            task = results[0 if when == "before" else -1]["tasks"].get(which, {})
            found: float | None = task.get("f1")
            return found

        return Value(which.upper(), f1)
    msg = (
        f"expected a value out of {', '.join([*VALUES, *PARTS])}, PROTOCOL.NAME (protocols are "
        f"{', '.join(_PROTOCOLS)}) or capabilities.TASK, got {name!r}; correct it."
    )
    raise InputError(msg)
