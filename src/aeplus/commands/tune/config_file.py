"""The YAML that a search ends with, each value with its source, and the table of trials."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.markup import escape
from rich.table import Table

from aeplus.commands.tune.search import Result, Trial, Values, half_converged, shown
from aeplus.methods.method import GradientOptions, Method, method_switches
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.tables import console, markdown_table

_NOT_TUNED = "not tuned"
_ASPECTS = ("Efficacy", "Generalization", "Specificity")
_ALWAYS = {
    "method.prior_strength": "one batch has no earlier edits to weigh",
    "targets.clamp": "",
    "preserved.corpus": "",
    "preserved.tokens": "",
}
_REASONS = {"method.threshold_kind": "a share carries over between models, an eigenvalue does not"}
_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


@dataclass(frozen=True)
class Setting:
    """A line of the file: a field with its value and what there is to say of it."""

    name: str
    value: Any
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {yaml_value(self.value)}" + (f"  # {self.comment}" if self.comment else "")


class ConfigFile:
    """The file of a model.

    Args:
        model: ``model`` of the configuration that all trials had in common.
        values: What was found.
        trials: By which trials.
        inputs: Inputs ``d`` of the edited linear.
        fixed: Whether the layers were given.
    """

    def __init__(
        self, model: Mapping[str, Any], values: Values, trials: Sequence[Trial], inputs: int, fixed: bool
    ) -> None:
        self._model, self._values, self._inputs, self._fixed = model, values, inputs, fixed
        self._trials = trials
        self._chosen = {trial.path: trial for trial in trials if trial.chosen}

    def text(self, notes: Mapping[str, str]) -> str:
        """The whole file, with notes at its head."""
        lines = [f"# {self._model['model']}: numbers found by `aeplus tune`; docs/tune.md says how."]
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
                found = [f"      {setting}" for setting in self._group(f"{group}.{name}", inner)]
                lines += [f"    {name}:", *found] if found else []
        return "\n".join(lines) + "\n"

    def remarks(self) -> list[str]:
        """What a user should know of the trials, a line each."""
        counts: dict[str, dict[str, int]] = {}
        for trial in self._trials:
            stages = counts.setdefault(trial.method, {})
            stages[trial.stage] = stages.get(trial.stage, 0) + 1
        tried = (f"{method}: " + ", ".join(f"{s} {n}" for s, n in stages.items()) for method, stages in counts.items())
        return [
            "Scores are those of the validation set (paraphrases of the edits, preserved prompts); no test prompt "
            "was seen.",
            f"Trials ({'; '.join(tried)}). What is found with alphaedit is shared by the other methods.",
            *([self.warning] if self.warning else []),
            "What is not named here is at the default of aeplus and was not tuned.",
        ]

    @property
    def warning(self) -> str:
        """What makes the numbers doubtful; nothing, if nothing does."""
        rate = self._chosen["targets.learning_rate"].result
        if rate is None or half_converged(rate):
            return ""
        return (
            f"Only {rate.converged} of {rate.edits} targets converged at the best learning rate, less than half: "
            "try more targets.steps or a larger targets.clamp before relying on these numbers."
        )

    def _identity(self) -> Iterator[Setting]:
        yield Setting("model", self._model["model"])
        for name, default in (("revision", None), ("dtype", "auto"), ("edited_dtype", "same")):
            if self._model[name] != default:
                yield Setting(name, self._model[name])
        given = f"{_NOT_TUNED}: --fixed-layers" if self._fixed else ""
        yield Setting("layers", self._values["layers"], given or self._measured("layers"))

    def _group(self, group: str, options: type) -> Iterator[Setting]:
        """What was found, what a model's config should name, and what was not at its default."""
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
    """A plain value as YAML reads it, in every version of YAML."""
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 takes 1e-05 for a text.
        return re.sub(r"^(-?\d+)e", r"\1.0e", text)
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


HEADER = [
    "stage", "method", "value", "Efficacy", "Generalization", "Specificity", "Score", "leakage", "converged",
    "seconds", "chosen",
]  # fmt: skip
LEGEND = (
    "Percent, on the validation set. Leakage: tr(Δ C Δᵀ) / tr(W C Wᵀ), the largest of the layers. Converged: targets "
    "(kde: edits) below the stopping loss. Seconds: wall-clock time of the trial; the first at its layers reads the "
    "statistics and learns the targets for the others."
)
_SHORT = ["stage", "method", "value", "Eff", "Gen", "Spe", "Score", "leakage", "converged", "s", ""]


def rows(trials: Sequence[Trial]) -> list[list[str]]:
    """The rows under :data:`HEADER`; a failed trial has its sentence behind its value."""
    return [_row(trial) for trial in trials]


def markdown(trials: Sequence[Trial], notes: Sequence[str]) -> str:
    """The table as Markdown, what its figures are, and notes below it."""
    table = markdown_table(HEADER, rows(trials), left=("stage", "method", "value", "chosen"))
    return "\n".join([table, "", LEGEND, "", *(f"- {note}" for note in notes)]) + "\n"


def print_table(trials: Sequence[Trial], title: str) -> None:
    """Prints the table; the sentences of failed trials stand below it."""
    place = console()
    table = Table(title=escape(title), title_justify="left")
    for index, name in enumerate(_SHORT):
        table.add_column(name, justify="right" if 2 < index < len(_SHORT) - 1 else "left")
    for trial, row in zip(trials, rows(trials), strict=True):
        cells = [*row[:3], "failed"] if trial.error is not None else row
        table.add_row(*(escape(cell) for cell in cells), style="bold" if trial.chosen else None)
    place.print(table)
    for trial in trials:
        if trial.error is not None:
            line = f"{trial.stage} = {shown(trial.value)} failed: {trial.error}"
            place.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _row(trial: Trial) -> list[str]:
    head, result = [trial.stage, trial.method, shown(trial.value)], trial.result
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
