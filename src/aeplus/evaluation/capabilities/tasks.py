"""The six tasks: fields, prompts, options and labels.

The prompts are those of the evaluation published with AlphaEdit and related methods ("glue_eval"), so that results are
comparable, with two changes. No prompt ends in whitespace, which would tokenize the option differently than in the
model's training data (CoLA's does there). RTE's label 0 is "entailment", as in GLUE (there it is read as False, which
inverts RTE's results).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from aeplus.errors import InputError, require_not_negative, require_positive, require_types

METRICS = ("f1", "accuracy", "mcc")
NO_OPTION = -1
"""The answer of an item whose continuation names no option."""


class HubSource(NamedTuple):
    """Where ``load_dataset`` finds a task's items: data set, configuration and split."""

    name: str
    config: str
    split: str


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task, posed to the model as a prompt with a few options to continue with.

    Attributes:
        name: Its name in files, options and reports.
        title: Its name in tables.
        template: The prompt as a format string over the item's fields. The option follows after a space.
        fields: The fields that contain a text.
        options: What the model may answer; an item's class is an option's index.
        labels: For each option, the values of the label field that stand for it.
        shorten: The field whose beginning is cut off where a prompt does not fit the model's context.
        hub: The data set on the hub, for items that are not in a file.
        label: The field that contains the label.
        listed: A field that contains a list of texts, one for each option.
        metrics: Names out of :data:`METRICS` that are reported.
    """

    name: str
    title: str
    template: str
    fields: tuple[str, ...]
    options: tuple[str, ...]
    labels: tuple[tuple[int | str, ...], ...]
    shorten: str
    hub: HubSource
    label: str = "label"
    listed: str | None = None
    metrics: tuple[str, ...] = ("f1", "accuracy")

    def prompt(self, fields: Mapping[str, Any]) -> str:
        """The prompt of an item, up to where the option goes."""
        return self.template.format(**fields)

    def class_of(self, value: Any) -> int | None:
        """The option that a value of the label field stands for; ``None`` if it stands for none."""
        known = type(value) in (int, str)  # True would pass for 1
        return next((i for i, values in enumerate(self.labels) if known and value in values), None)


_PAIR = ("sentence1", "sentence2")
_GLUE = "nyu-mll/glue"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            title="SST-2",
            template="Review : {sentence}\nSentiment :",
            fields=("sentence",),
            options=("negative", "positive"),
            labels=((0,), (1,)),
            shorten="sentence",
            hub=HubSource(_GLUE, "sst2", "validation"),
        ),
        Task(
            name="mrpc",
            title="MRPC",
            template=(
                "Are the sentences paraphrases of each other.\n"
                "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nAnswer:"
            ),
            fields=_PAIR,
            options=("No", "Yes"),
            labels=((0,), (1,)),
            shorten="sentence1",
            hub=HubSource(_GLUE, "mrpc", "validation"),
        ),
        Task(
            name="mmlu",
            title="MMLU",
            template=(
                "Question: {question}\n(A) {choices[0]}\n(B) {choices[1]}\n(C) {choices[2]}\n(D) {choices[3]}\nAnswer:"
            ),
            fields=("question",),
            options=("A", "B", "C", "D"),
            labels=((0, "A"), (1, "B"), (2, "C"), (3, "D")),
            shorten="question",
            hub=HubSource("cais/mmlu", "all", "test"),
            label="answer",
            listed="choices",
        ),
        Task(
            name="rte",
            title="RTE",
            template="{sentence1}\nquestion: {sentence2} True or False?\nanswer:",
            fields=_PAIR,
            options=("False", "True"),
            labels=((1, "not_entailment"), (0, "entailment")),
            shorten="sentence1",
            hub=HubSource(_GLUE, "rte", "validation"),
        ),
        Task(
            name="cola",
            title="CoLA",
            template="Is this sentence linguistically acceptable?\nSentence: {sentence}\nAnswer:",
            fields=("sentence",),
            options=("No", "Yes"),
            labels=((0,), (1,)),
            shorten="sentence",
            hub=HubSource(_GLUE, "cola", "validation"),
            metrics=METRICS,
        ),
        Task(
            name="nli",
            title="NLI",
            template="{sentence1} entails the {sentence2} True or False? Answer:",
            fields=_PAIR,
            options=("False", "True"),
            labels=((1, "not_entailment"), (0, "entailment")),
            shorten="sentence1",
            hub=HubSource(_GLUE, "rte", "train"),  # the published items are records of RTE's training split
        ),
    )
}


def tasks_named(names: str | Sequence[str]) -> list[Task]:
    """The tasks of a list of names.

    Args:
        names: Names, or one text with names separated by commas or whitespace; ``all`` stands for every task.

    Raises:
        InputError: If a name is unknown or given twice, or none is given.
    """
    chosen = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    if chosen == ["all"]:
        return list(TASKS.values())
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(TASKS):
        msg = f"expected tasks out of {', '.join(TASKS)}, each once, or all, got {' '.join(chosen)!r}; choose some."
        raise InputError(msg)
    return [TASKS[name] for name in chosen]


Scoring = Literal["likelihood", "generation"]


@dataclass(frozen=True)
class CapabilityOptions:
    """How many items of a task the model answers, and how its answers are read.

    Attributes:
        limit: Maximum number of items of each task, the first after the shuffle, of any class; ``None`` for all.
        shots: Solved examples before each item. They are drawn from the items that are not scored.
        scoring: ``likelihood``: the answer is the likeliest option. ``generation``: it is the first option named
            in a greedy continuation.
        normalize: For ``likelihood``: an option's score is the ``mean`` of its tokens' log-likelihoods (as in the
            published evaluation) or their ``sum``. For options of one token both are the same.
        new_tokens: For ``generation``: tokens of the continuation.
        seed: Seed of the shuffle.
        batch_tokens: Tokens run at once.

    Raises:
        InputError: If a number is out of range or a choice unknown.
    """

    limit: int | None = 100
    shots: int = 0
    scoring: Scoring = "likelihood"
    normalize: Literal["mean", "sum"] = "mean"
    new_tokens: int = 5
    seed: int = 0
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        group = "capabilities"
        require_types(self, group)
        require_positive(self, group, "new_tokens", "batch_tokens", *([] if self.limit is None else ["limit"]))
        require_not_negative(self, group, "shots")
        for name, known in (("scoring", ("likelihood", "generation")), ("normalize", ("mean", "sum"))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                msg = f"expected {group}.{name} to be {' or '.join(known)}, got {value!r}; choose one of them."
                raise InputError(msg)
