"""The items of a task: read from a folder of files or from the hub, checked, shuffled and cut."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.evaluation.capabilities.tasks import CapabilityOptions, Task, tasks_named

HUB = "hub"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a task.

    Attributes:
        fields: The texts that the task's template asks for, without blanks at their ends.
        label: Its class: the index of the right option.
        source: Where it stands; used in messages.
    """

    fields: Mapping[str, Any]
    label: int
    source: str

    def cut(self, field: str, text: str) -> "Item":
        """The item with another text in one field."""
        return replace(self, fields={**self.fields, field: text})


@dataclass(frozen=True, slots=True)
class TaskItems:
    """What is put to the model for a task: the same items and examples for every state of the model.

    Attributes:
        task: The task.
        scored: Items to be answered.
        shots: Solved examples before each of them; none of them is scored.
    """

    task: Task
    scored: tuple[Item, ...]
    shots: tuple[Item, ...] = ()


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


def choose_items(task: Task, items: Sequence[Item], options: CapabilityOptions) -> TaskItems:
    """Shuffles by seed and takes the examples from the end, then the scored items from the beginning.

    So a larger limit adds items and keeps the examples. An item with the same prompt as an example is not scored.

    Raises:
        InputError: If no item is left to score beside the examples.
    """
    order = list(items)
    random.Random(options.seed).shuffle(order)
    shots = tuple(order[max(len(order) - options.shots, 0) :])
    shown = {task.prompt(item.fields) for item in shots}
    scored = [item for item in order if task.prompt(item.fields) not in shown]
    if not scored:
        msg = (
            f"expected items of {task.name} to score beside {options.shots} examples, but there are only "
            f"{len(order)} items; give more of them or take fewer shots."
        )
        raise InputError(msg)
    return TaskItems(task, tuple(scored[: options.limit]), shots)


def read_items(task: Task, data: str | Path) -> list[Item]:
    """Reads all items of a task, in the order of the source.

    Args:
        task: The task.
        data: See :func:`load_tasks`.

    Raises:
        InputError: If there is no such source, it is empty or damaged, or an item lacks a field; the message names
            file, line and field.
    """
    source = _hub_records(task) if str(data) == HUB else _file_records(_file(task, Path(data).expanduser()))
    return [_item(task, record, place) for place, record in source]


def _file(task: Task, folder: Path) -> Path:
    if not folder.is_dir():
        msg = (
            f"expected a folder with a file <task>.jsonl for each task, or {HUB!r}, but {folder} is no folder; "
            "check the path."
        )
        raise InputError(msg)
    found = [path for path in (folder / f"{task.name}.jsonl", folder / f"{task.name}.json") if path.is_file()]
    if not found:
        msg = (
            f"expected {task.name}.jsonl or {task.name}.json in {folder}, but neither is there; add it or leave the "
            f"task {task.name} out."
        )
        raise InputError(msg)
    return found[0]


def _file_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file, a line each or in one array, with their places."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        msg = f"expected a readable UTF-8 file, but {path} cannot be read ({why}); correct it."
        raise InputError(msg) from error
    if not text.strip():
        msg = f"expected items, but {path} is empty; give a file with at least one."
        raise InputError(msg)
    if text.lstrip().startswith("["):
        for number, record in enumerate(_json(text, path, 1), start=1):
            yield f"{path}, item {number}", record
        return
    # Not str.splitlines: it also breaks at U+2028 and the like, which JSON strings may hold unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _json(line, path, number)


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        why = getattr(error, "msg", str(error))
        msg = f"expected JSON Lines or a JSON array, but line {line} of {path} is not JSON ({why}); correct it."
        raise InputError(msg) from error


def _hub_records(task: Task) -> Iterator[tuple[str, Any]]:
    name, config, split = task.hub
    try:
        from datasets import load_dataset  # takes seconds to import, and files need none of it

        data = load_dataset(name, config, split=split)
    except Exception as error:  # what fails depends on the network and on versions of three libraries
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = (
            f"expected the data set {name} ({config}, {split}) for {task.name} on the hub or in the cache, but loading "
            f"it failed ({why}); check the connection, or give a folder of files."
        )
        raise InputError(msg) from error
    for number, record in enumerate(data, start=1):
        yield f"{name} ({config}, {split}), item {number}", record


def _item(task: Task, record: Any, source: str) -> Item:
    if not isinstance(record, Mapping):
        msg = f"{source}: expected an object with the fields of {task.name}, but it is {record!r:.60}; correct it."
        raise InputError(msg)
    fields: dict[str, Any] = {}
    for field in task.fields:
        value = record.get(field)
        if not isinstance(value, str) or not value.strip():
            msg = f"{source}: {field!r} must be a text that is not empty, but is {value!r:.60}; fill it in."
            raise InputError(msg)
        fields[field] = value.strip()
    if task.listed is not None:
        values, count = record.get(task.listed), len(task.options)
        if not isinstance(values, list | tuple) or len(values) != count or not all(map(_is_text, values)):
            msg = f"{source}: {task.listed!r} must be a list of {count} texts, but is {values!r:.60}; correct it."
            raise InputError(msg)
        fields[task.listed] = [value.strip() for value in values]
    label = task.class_of(value := record.get(task.label))
    if label is None:
        *names, last = [repr(value) for values in task.labels for value in values]
        msg = f"{source}: {task.label!r} must be {', '.join(names)} or {last}, but is {value!r:.60}; correct it."
        raise InputError(msg)
    return Item(fields, label, source)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
