"""The items of a task: read from a folder of files or from the hub, checked, shuffled and cut."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.evaluation.capabilities.tasks import CapabilityOptions, Task, tasks_named
from aeplus.utils.jsonl import iterate_records, opened
from aeplus.utils.paths import expanded

HUB = "hub"


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One item of a task.

    Attributes:
        fields: The texts that the task's template needs, without whitespace at their ends.
        label: Its class: the index of the correct option.
        source: Its file and line, or data set and index; used in messages.
    """

    fields: Mapping[str, Any]
    label: int
    source: str

    def with_text(self, field: str, text: str) -> "TaskItem":
        """The item with another text in one field."""
        return replace(self, fields={**self.fields, field: text})


@dataclass(frozen=True, slots=True)
class TaskItems:
    """What the model is asked for a task: the same items and examples for every state of the model.

    Attributes:
        task: The task.
        scored: Items to be answered.
        shots: Solved examples before each of them; none of them is scored.
    """

    task: Task
    scored: tuple[TaskItem, ...]
    shots: tuple[TaskItem, ...] = ()


def load_tasks(names: str | Sequence[str], data: str | Path, options: CapabilityOptions) -> list[TaskItems]:
    """Reads tasks and chooses their items.

    Args:
        names: See :func:`~aeplus.evaluation.capabilities.tasks.tasks_named`.
        data: A folder with ``<task>.jsonl`` or ``<task>.json`` for each task, or ``hub`` for each task's data set
            on the hub.
        options: Their limit, shots and seed.

    Raises:
        InputError: If a task is unknown, a file is missing, or an item cannot be used.
    """
    return [choose_items(task, read_items(task, data), options) for task in tasks_named(names)]


def choose_items(task: Task, items: Sequence[TaskItem], options: CapabilityOptions) -> TaskItems:
    """Shuffles by seed and takes the examples from the end, then the scored items from the beginning.

    So a larger limit adds items and keeps the examples. An item with the same prompt as an example is not scored.

    Raises:
        InputError: If no item is left to score besides the examples.
    """
    order = list(items)
    random.Random(options.seed).shuffle(order)
    shots = tuple(order[max(len(order) - options.shots, 0) :])
    shown = {task.prompt(item.fields) for item in shots}
    scored = [item for item in order if task.prompt(item.fields) not in shown]
    if not scored:
        msg = (
            f"expected items of {task.name} to score besides {options.shots} examples, got {len(order)} items in all; "
            "add items or use fewer shots."
        )
        raise InputError(msg)
    return TaskItems(task, tuple(scored[: options.limit]), shots)


# ---- reading


def read_items(task: Task, data: str | Path) -> list[TaskItem]:
    """Reads all items of a task, in the order of the source.

    Args:
        task: The task.
        data: See :func:`load_tasks`.

    Raises:
        InputError: If there is no such source, it is empty or damaged, or an item lacks a field; the message names
            file, line and field.
    """
    source = _hub_records(task) if str(data) == HUB else _file_records(task, expanded(data))
    return [_item(task, record, place) for place, record in source]


def _file_records(task: Task, folder: Path) -> Iterator[tuple[str, Any]]:
    """The records of a task's file, each with its file and line."""
    if not folder.is_dir():
        msg = f"expected a folder with a file <task>.jsonl for each task, or {HUB!r}, got {folder}; check the path."
        raise InputError(msg)
    paths = [path for path in (folder / f"{task.name}.jsonl", folder / f"{task.name}.json") if path.is_file()]
    if not paths:
        msg = (
            f"expected {task.name}.jsonl or {task.name}.json in {folder}, got neither; add one or leave out the task "
            f"{task.name}."
        )
        raise InputError(msg)
    empty = True
    with opened(paths[0]) as file:
        for record in iterate_records(file, paths[0]):
            empty = False
            yield record
    if empty:
        msg = f"expected items of {task.name} in {paths[0]}, got none; add at least one."
        raise InputError(msg)


def _hub_records(task: Task) -> Iterator[tuple[str, Any]]:
    name, config, split = task.hub
    try:
        from datasets import load_dataset  # takes seconds to import, and is not needed for files

        data = load_dataset(name, config, split=split)
    except Exception as error:  # what fails depends on the network and on versions of three libraries
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = (
            f"expected the data set {name} ({config}, {split}) for {task.name} on the hub or in the cache, got an "
            f"error ({reason}); check the connection, or pass a folder of files."
        )
        raise InputError(msg) from error
    for number, record in enumerate(data, start=1):
        yield f"{name} ({config}, {split}), item {number}", record


# ---- checking


def _item(task: Task, record: Any, source: str) -> TaskItem:
    if not isinstance(record, Mapping):
        msg = f"{source}: expected an object with the fields of {task.name}, got {record!r:.60}; correct it."
        raise InputError(msg)
    fields: dict[str, Any] = {}
    for field in task.fields:
        value = record.get(field)
        if not isinstance(value, str) or not value.strip():
            msg = f"{source}: expected {field!r} to be a non-empty string, got {value!r:.60}; fill it in."
            raise InputError(msg)
        fields[field] = value.strip()
    if task.listed is not None:
        values, count = record.get(task.listed), len(task.options)
        if not isinstance(values, list | tuple) or len(values) != count or not all(map(_is_text, values)):
            msg = (
                f"{source}: expected {task.listed!r} to be a list of {count} non-empty strings, got {values!r:.60}; "
                "correct it."
            )
            raise InputError(msg)
        fields[task.listed] = [value.strip() for value in values]
    label = task.class_of(value := record.get(task.label))
    if label is None:
        *names, last = [repr(value) for values in task.labels for value in values]
        msg = f"{source}: expected {task.label!r} to be {', '.join(names)} or {last}, got {value!r:.60}; correct it."
        raise InputError(msg)
    return TaskItem(fields, label, source)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
