"""The methods of a comparison: named ones, YAML files, and variants such as ``alphaedit_plus:relax=none``."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from aeplus.commands.options import split_list
from aeplus.errors import InputError
from aeplus.methods.compositions import find_composition, method_switches
from aeplus.methods.method import GradientOptions, Method, switch_choices
from aeplus.methods.registry import METHODS, check_new_name

_GROUPS = {"gradient": GradientOptions}
FIELDS = [f.name for f in fields(Method) if f.name not in _GROUPS] + [
    f"{group}.{f.name}" for group, options in _GROUPS.items() for f in fields(options)
]
"""The fields that a variant may set; those of a group are called ``group.field``."""
_FORM = "name or name:field=value[:field=value], such as alphaedit_plus:relax=none"
_TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    NoneType: "null",
}
_VALUE = re.compile(r"[\w.+-]+")  # so that a label, with its colons replaced, can name a folder anywhere


@dataclass(frozen=True)
class MethodSpec:
    """A method of a comparison.

    Attributes:
        label: Its name in tables: the text that ``--methods`` has for it, a YAML file's method by its name.
        switches: The fields it sets, over the numbers of the configuration; nested as in a config.
        given: Those among them that a variant sets one by one.
    """

    label: str
    switches: dict[str, Any]
    given: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return self.label.replace(":", ",")  # no label contains a comma, so no two share a folder

    def over(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's ``model.method`` with this method's switches.

        Raises:
            InputError: If the result is not a valid method; the message names the field.
        """
        values = merged(dict(numbers), self.switches)
        try:
            _built(values)
        except InputError as error:
            msg = f"--methods {self.label}: {error}"
            raise InputError(msg) from error
        return values

    def idle(self, numbers: Mapping[str, Any]) -> list[str]:
        """Those of the fields given one by one that change nothing, over the configuration's ``model.method``."""
        method = _built(merged(dict(numbers), self.switches))
        return [field for field in self.given if method.idle([field.partition(".")[0]])]


def tell_idle(label: str, names: Iterable[str]) -> None:
    """Reports fields of a variant that change nothing, in the words of ``aeplus fit``."""
    for name in names:
        used_by = label.partition(":")[0]
        print(f"aeplus: {label}: {name} changes nothing: {used_by} does not use it", file=sys.stderr)


def _built(values: Mapping[str, Any]) -> Method:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Method, "method")
    method: Method = parser.instantiate_classes(parser.parse_object({"method": dict(values)}))["method"]
    return method


def parse_specs(text: str) -> list[MethodSpec]:
    """The methods that ``--methods`` lists, each once, in order.

    Args:
        text: Names out of :data:`~aeplus.methods.registry.METHODS`, YAML files with ``model: {method: {...}}``, or
            variants of both (``name:field=value``), separated by commas or spaces; ``all`` stands for every name.

    Raises:
        InputError: If there is none, or a name or field is unknown, or a value is not of its field's type; the message
            lists what is possible.
    """
    items = [name for item in split_list(text) for name in (METHODS if item == "all" else [item])]
    if not items:
        msg = f"expected methods (all, or some out of {', '.join(METHODS)}), got none; write --methods all."
        raise InputError(msg)
    specs = [_spec(item) for item in dict.fromkeys(items)]
    labels = [spec.label for spec in specs]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        msg = f"expected methods of different names, got {', '.join(twice)} twice; rename the method in a YAML file."
        raise InputError(msg)
    return specs


def parse_seeds(text: str) -> list[int]:
    """The seeds that ``--seeds`` names, each once, in the order named.

    Raises:
        InputError: If there is none, or one is not a whole number from 0.
    """
    seeds = split_list(text)
    if not seeds or not all(re.fullmatch(r"[0-9]+", seed) for seed in seeds):
        msg = f"expected seeds (whole numbers from 0), got {text!r}; write for example --seeds 0,1,2."
        raise InputError(msg)
    return list(dict.fromkeys(map(int, seeds)))


def _spec(item: str) -> MethodSpec:
    name, *settings = item.split(":")
    if name not in METHODS and Path(name).suffix not in (".yaml", ".yml"):
        msg = f"expected methods out of all, {', '.join(METHODS)}, got {name!r}; write {_FORM}."
        raise InputError(msg)
    method = find_composition(name)
    if name not in METHODS:
        check_new_name(method.name)  # it names the run's folder
    label, switches = ":".join([method.name, *settings]), method_switches(method)
    if settings:
        switches["name"] = label
    given = []
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals or not _VALUE.fullmatch(value):
            msg = f"expected field=value after each colon, got {setting!r} in {label!r}; write {_FORM}."
            raise InputError(msg)
        if field not in FIELDS:
            msg = f"expected a field out of {', '.join(FIELDS)}, got {field!r} in {label!r}; choose one of these."
            raise InputError(msg)
        nested: Any = _value(value)
        if (expected := _unfit(field, nested)) is not None:
            msg = f"expected {expected} as {field}, got {value!r} in {label!r}; choose another value."
            raise InputError(msg)
        for part in reversed(field.split(".")):
            nested = {part: nested}
        switches = merged(switches, nested)
        given.append(field)
    return MethodSpec(label, switches, tuple(dict.fromkeys(given)))


def _value(text: str) -> Any:
    """``true``, ``false``, ``null`` or a number; anything else is a name."""
    for read in (lambda: json.loads(text.lower()), lambda: float(text)):
        try:
            return read()
        except ValueError:
            continue
    return text


def _unfit(field: str, value: Any) -> str | None:
    """A description of the type of a field, if the value is not of that type."""
    if field in (choices := switch_choices()):
        return None if value in choices[field] else f"one of {', '.join(choices[field])}"
    *group, name = field.split(".")
    hint = get_type_hints(_GROUPS[group[0]] if group else Method)[name]
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if any(value in get_args(h) if get_origin(h) is Literal else _is_a(value, h) for h in hints):
        return None
    return " or ".join(_TYPES.get(h) or f"one of {', '.join(get_args(h))}" for h in hints)


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a type; ``True`` is not a number, and a whole number is accepted as any number."""
    return type(value) is kind or (kind is float and type(value) is int)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` sets, group by group."""
    result = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result
