"""Measuring a model on the tasks: its answers, their F1, accuracy and Matthews correlation, and the tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)

from aeplus.evaluation.capabilities.items import TaskItems
from aeplus.evaluation.capabilities.likelihood import Prompt, likeliest_options, option_likelihoods, task_prompts
from aeplus.evaluation.capabilities.tasks import METRICS, NO_OPTION, TASKS, CapabilityOptions
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.utils.progress import Progress
from aeplus.utils.tables import Row, print_table

Measured = Mapping[str, Mapping[str, float]]
"""For each task its metrics and counts."""


def measure_capabilities(
    decoder: Decoder,
    tokenizer: Any,
    tasks: Sequence[TaskItems],
    options: CapabilityOptions = CapabilityOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Measures a model on some tasks. Neither the model nor any random state is changed.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        tasks: The tasks with their items, from :func:`~aeplus.evaluation.capabilities.items.load_tasks`.
        options: How to read the model's answers.
        progress: Where to report progress.

    Returns:
        For each task its metrics (see :func:`task_metrics`), and three counts: ``items``; ``unanswered``, how many
        had no option named in their continuation (or a likelihood that is not a number) and count as wrong;
        ``shortened``, how many prompts were shortened to fit the context.

    Raises:
        InputError: If a prompt does not fit the model's context.
    """
    generated = options.new_tokens if options.scoring == "generation" else 0
    # All prompts first: one that does not fit is reported before the work, not after.
    prompts = [task_prompts(tokenizer, items, decoder.context_length, generated) for items in tasks]
    results = {}
    with (progress or Progress()).task("capabilities", sum(map(len, prompts))) as advance:
        for items, own in zip(tasks, prompts, strict=True):
            answers = _answers(decoder, tokenizer, items.task.options, own, options, advance)
            classes = [item.label for item in items.scored]
            results[items.task.name] = {
                **task_metrics(answers, classes, len(items.task.options), items.task.metrics),
                "items": len(classes),
                "unanswered": answers.count(NO_OPTION),
                "shortened": sum(prompt.shortened for prompt in own),
            }
    return results


# ---- answers


def _answers(
    decoder: Decoder,
    tokenizer: Any,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    options: CapabilityOptions,
    advance: Callable[[int], None],
) -> list[int]:
    """The index of the option that the model answers each prompt with."""
    if options.scoring == "generation":
        texts = generate(
            decoder, tokenizer, [prompt.text for prompt in prompts], options.new_tokens, options.batch_tokens
        )
        advance(len(texts))
        return [first_named(text, names) for text in texts]
    return likeliest_options(option_likelihoods(decoder, prompts, options.normalize, options.batch_tokens, advance))


def first_named(text: str, options: Sequence[str]) -> int:
    """Index of the option that a text names first, as a whole word, or :data:`NO_OPTION`.

    Case is ignored, except for options of one letter: "a" is a word.

    Example:
        >>> first_named("no, or yes", ["Yes", "No"])
        1
        >>> first_named("nothing", ["Yes", "No"])
        -1
    """
    matches = []
    for index, option in enumerate(options):
        flags = re.IGNORECASE if len(option) > 1 else 0
        if match := re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, flags):
            matches.append((match.start(), -len(option), index))  # of two at one position, the longer
    return min(matches)[-1] if matches else NO_OPTION


# ---- metrics


def task_metrics(
    predicted: Sequence[int], classes: Sequence[int], options: int, names: Sequence[str]
) -> dict[str, float]:
    """Metrics of answers, all times 100.

    An answer that names no option is a class of its own which no item has, so it is always wrong. ``f1`` is weighted
    by the number of items of each class (``f1_score(average="weighted")`` of scikit-learn, which the published
    evaluation calls). ``mcc`` ranges from -100 to 100, the others from 0.

    Args:
        predicted: Index of the answered option of each item, or :data:`NO_OPTION`.
        classes: Index of the correct option of each item.
        options: Number of options.
        names: What to report, out of ``f1``, ``accuracy`` and ``mcc``.

    Example:
        >>> task_metrics([1, 0, 1, 1], [1, 0, 0, 1], options=2, names=("accuracy",))
        {'accuracy': 75.0}
    """
    answers = torch.tensor([options if answer == NO_OPTION else answer for answer in predicted])
    target = torch.tensor(list(classes))
    # One class more than there are options, whether it is used or not: with two classes torchmetrics reports a
    # correlation of 1 for answers that are all of one class and all correct; it is undefined, and 0 in scikit-learn.
    count = options + 1

    def value(name: str) -> Tensor:
        if name == "f1":
            return multiclass_f1_score(answers, target, num_classes=count, average="weighted")
        if name == "accuracy":
            return multiclass_accuracy(answers, target, num_classes=count, average="micro")
        return multiclass_matthews_corrcoef(answers, target, num_classes=count)

    return {name: 100.0 * float(value(name)) for name in names}


# ---- tables

_TITLES = {"f1": "F1", "accuracy": "Accuracy", "mcc": "MCC"}
_WARNINGS = ("unanswered", "shortened")


def print_capabilities(states: Sequence[tuple[str, Measured]]) -> None:
    """Prints the metrics of each state of the model, one column each.

    Args:
        states: The name of each state (``before``), and what :func:`measure_capabilities` returned.
    """
    rows = []
    for task, values in states[0][1].items():
        shown = [metric for metric in METRICS if metric in values]
        for metric in shown:
            cells = (f"{measured[task][metric]:.1f}" for _, measured in states)
            heading = TASKS[task].title if metric == shown[0] else ""
            rows.append(Row([heading, _TITLES[metric], *cells], end_section=metric == shown[-1]))
        for count in _WARNINGS:
            if any(measured[task][count] for _, measured in states):
                cells = (f"{measured[task][count]:.0f} of {measured[task]['items']:.0f}" for _, measured in states)
                rows.append(Row(["", count, *cells], style="dim", end_section=True))
    title = "General capabilities (F1 and accuracy in %, MCC times 100)"
    print_table(title, ["task", "metric", *(name for name, _ in states)], rows, left=("task", "metric"))


def print_harness(results: Measured) -> None:
    """Prints the results of the harness: each metric with its standard error."""
    rows = []
    for task, values in results.items():
        for metric, value in values.items():
            if "_stderr" not in metric and "," in metric:
                error = values.get(metric.replace(",", "_stderr,"))
                rows.append([task, metric.split(",")[0], f"{value:.4f}", "–" if error is None else f"{error:.4f}"])
    print_table("Tasks of the harness", ["task", "metric", "value", "standard error"], rows, left=("task", "metric"))
