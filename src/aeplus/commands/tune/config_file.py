"""The YAML that a search results in, each value with its source, and the table of trials."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from aeplus.commands.tune.search import Result, Trial, Values, half_converged, value_text
from aeplus.methods.compositions import method_switches
from aeplus.methods.method import GradientOptions, Method
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.tables import Row, markdown_table, print_table, with_notes

_NOT_TUNED = "not tuned"
_ASPECTS = ("Efficacy", "Generalization", "Specificity")
_ALWAYS = {
    "method.prior_strength": "one batch has no previous edits to weigh",
    "targets.clamp": "",
    "preserved.corpus": "",
    "preserved.tokens": "",
}
_REASONS = {"method.threshold_kind": "a share transfers between models, an eigenvalue does not"}
_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_KEYWORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


@dataclass(frozen=True)
class Setting:
    """A line of the file: a field with its value and a comment."""

    name: str
    value: Any
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {yaml_value(self.value)}" + (f"  # {self.comment}" if self.comment else "")


class ConfigFile:
    """The file of a model.

    Args:
        model: ``model`` of the configuration that all trials had in common.
        values: The values found.
        trials: The trials.
        inputs: Inputs ``d`` of the edited linear.
        fixed: Whether the layers were fixed.
    """

    def __init__(
        self, model: Mapping[str, Any], values: Values, trials: Sequence[Trial], inputs: int, fixed: bool
    ) -> None:
        self._model, self._values, self._inputs, self._fixed = model, values, inputs, fixed
        self._trials = trials
        self._chosen = {trial.path: trial for trial in trials if trial.chosen}

    def text(self, notes: Mapping[str, str]) -> str:
        """The complete file, with notes at its head."""
        lines = [f"# {self._model['model']}: numbers found by `aeplus tune`; see docs/tune.md."]
        lines += [f"# {name.capitalize()}: {value}" for name, value in notes.items()]
        lines += [f"# {line}" for line in self.remarks()]
        lines.append("model:")
        lines += [f"  {setting}" for setting in self._identity()]
        for group, options, nested in (
            ("method", Method, {"gradient": GradientOptions}),
            ("targets", TargetOptions, {}),
            ("preserved", PreservedOptions, {}),
        ):
            lines.append(f"  {group}:")
            lines += [f"    {setting}" for setting in self._group(group, options)]
            for name, inner in nested.items():
                inner_lines = [f"      {setting}" for setting in self._group(f"{group}.{name}", inner)]
                lines += [f"    {name}:", *inner_lines] if inner_lines else []
        return "\n".join(lines) + "\n"

    def remarks(self) -> list[str]:
        """Remarks on the trials for the user, a line each."""
        counts: dict[str, dict[str, int]] = {}
        for trial in self._trials:
            stages = counts.setdefault(trial.method, {})
            stages[trial.stage] = stages.get(trial.stage, 0) + 1
        tried = (f"{method}: " + ", ".join(f"{s} {n}" for s, n in stages.items()) for method, stages in counts.items())
        return [
            "Scores are those of the validation set (paraphrases of the edits, preserved prompts); no test prompt "
            "was read.",
            f"Trials ({'; '.join(tried)}). Values found with alphaedit are shared by the other methods.",
            *([self.warning] if self.warning else []),
            "Fields not listed here are at the defaults of aeplus and were not tuned.",
        ]

    @property
    def warning(self) -> str:
        """Why the numbers are doubtful; empty if they are not."""
        rate = self._chosen["targets.learning_rate"].result
        if rate is None or half_converged(rate):
            return ""
        return (
            f"Only {rate.converged} of {rate.edits} targets converged at the best learning rate, less than half: "
            "try more targets.steps or a larger targets.clamp before relying on these numbers."
        )

    def _identity(self) -> Iterator[Setting]:
        yield Setting("model", self._model["model"])
        defaults = {"revision": None, "trust_remote_code": False, "dtype": "auto", "edited_dtype": "same", "site": None}
        for name, default in defaults.items():
            if self._model.get(name, default) != default:
                yield Setting(name, self._model[name])
        given = f"{_NOT_TUNED}: --fixed-layers" if self._fixed else ""
        yield Setting("layers", self._values["layers"], given or self._measured("layers"))

    def _group(self, group: str, options: type) -> Iterator[Setting]:
        """The values found, those that a model's config should list, and those not at their defaults."""
        switches = method_switches("memit") if group == "method" else {}
        given: Any = self._model
        for part in group.split("."):
            given = given[part]
        defaults = options()
        for name in (field.name for field in fields(options)):
            path = f"{group}.{name}"
            if path in self._values:
                yield Setting(name, self._values[path], self._measured(path))
            elif name in switches or isinstance(given[name], Mapping):
                continue
            elif path in _ALWAYS or given[name] != getattr(defaults, name):
                yield Setting(name, given[name], self._untuned(path))

    def _measured(self, path: str) -> str:
        trial = self._chosen.get(path)
        if trial is None or trial.result is None:
            return self._untuned(path)
        text = f"measured: {scores(trial.result)}"
        if path == "targets.learning_rate":
            text = f"{trial.result.converged} of {trial.result.edits} targets converged; {text}"
        if trial.method != "alphaedit":
            text += f", {trial.method}"
        tried = [other.value for other in self._trials if other.path == path]
        if isinstance(trial.value, float) and trial.value in (min(tried), max(tried)):
            text += f"; the {'smallest' if trial.value == min(tried) else 'largest'} tried"
        return text

    def _untuned(self, path: str) -> str:
        reason = _REASONS.get(path) or _ALWAYS.get(path)
        if path == "preserved.tokens":
            reason = f"{self._model['preserved']['tokens'] / self._inputs:.0f} times d"
        return f"{_NOT_TUNED}: {reason}" if reason else _NOT_TUNED


def scores(result: Result) -> str:
    """``Score 88.3 (Efficacy 100, Generalization 80, Specificity 85)``."""
    parts = [f"{name} {percent(getattr(result, name.lower()))}" for name in _ASPECTS]
    return f"Score {percent(result.score)} ({', '.join(parts)})"


def percent(value: float) -> str:
    """A percentage with one decimal, where it has one."""
    return f"{value:.1f}".removesuffix(".0")


def yaml_value(value: Any) -> str:
    """A plain value that every version of YAML reads as such."""
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 reads 1e-05 as a string.
        return re.sub(r"^(-?\d+)e", r"\1.0e", text)
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


HEADER = [
    "stage", "method", "value", "Efficacy", "Generalization", "Specificity", "Score", "leakage", "converged",
    "seconds", "chosen",
]  # fmt: skip
LEGEND = (
    "Percent, on the validation set. Leakage: tr(Δ C Δᵀ) / tr(W C Wᵀ), the largest of the layers. Converged: targets "
    "(kde: edits) below the stopping loss. Seconds: wall-clock time of the trial; the first at its layers reads the "
    "statistics and optimizes the targets for the others."
)
_SHORT = ["stage", "method", "value", "Eff", "Gen", "Spe", "Score", "leakage", "converged", "s", ""]


def rows(trials: Sequence[Trial]) -> list[list[str]]:
    """The rows below :data:`HEADER`; a failed trial has its error after its value."""
    return [_row(trial) for trial in trials]


def markdown(trials: Sequence[Trial], notes: Sequence[str]) -> str:
    """The table as Markdown, its legend, and notes below it."""
    return with_notes(markdown_table(HEADER, rows(trials), left=("stage", "method", "value", "chosen")), LEGEND, notes)


def print_trials(trials: Sequence[Trial], title: str) -> None:
    """Prints the table; the errors of failed trials are printed below it."""
    shown = [
        Row([*row[:3], "failed"] if trial.error is not None else row, "bold" if trial.chosen else None)
        for trial, row in zip(trials, rows(trials), strict=True)
    ]
    failures = [f"{t.stage} = {value_text(t.value)} failed: {t.error}" for t in trials if t.error is not None]
    print_table(title, _SHORT, shown, left=("stage", "method", "value", ""), failures=failures)


def _row(trial: Trial) -> list[str]:
    head, result = [trial.stage, trial.method, value_text(trial.value)], trial.result
    if result is None:
        return [*head, f"failed: {trial.error}", *[""] * 7]
    aspects = (result.efficacy, result.generalization, result.specificity, result.score)
    return [
        *head,
        *(percent(value) for value in aspects),
        f"{result.leakage:.2g}",
        f"{result.converged} of {result.edits}",
        f"{result.seconds:.1f}",
        "chosen" if trial.chosen else "",
    ]
