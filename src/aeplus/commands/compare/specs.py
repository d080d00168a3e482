"""Which methods a comparison runs: named ones, and variants of them such as ``alphaedit_plus:relax=none``."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from aeplus.errors import InputError
from aeplus.methods.method import METHODS, GradientOptions, Method, method_switches

_GROUPS = {"gradient": GradientOptions}
FIELDS = [f.name for f in fields(Method) if f.name not in _GROUPS] + [
    f"{group}.{f.name}" for group, options in _GROUPS.items() for f in fields(options)
]
"""What a variant may set; the fields of a group are called ``group.field``."""
_FORM = "name or name:field=value[:field=value], such as alphaedit_plus:relax=none"
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    NoneType: "null",
}
_VALUE = re.compile(r"[\w.+-]+")  # so that a label, with its colons replaced, can name a folder anywhere


@dataclass(frozen=True)
class MethodSpec:
    """A method of a comparison.

    Attributes:
        label: What tables call it: the words it was asked for by.
        switches: What it sets, over the numbers of the configuration; nested as in a config.
    """

    label: str
    switches: dict[str, Any]

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return self.label.replace(":", ",")  # no label holds a comma, so no two share a folder

    def over(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's ``model.method`` with this method's switches.

        Raises:
            InputError: If what comes out is no method; the message names the field.
        """
        merged = _merge(dict(numbers), self.switches)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Method, "method")
        try:
            parser.instantiate_classes(parser.parse_object({"method": merged}))
        except InputError as error:
            msg = f"{self.label!r} cannot be run: {error}"
            raise InputError(msg) from error
        return merged


def parse_specs(text: str) -> list[MethodSpec]:
    """The methods that ``--methods`` names, each once, in the order named.

    Args:
        text: Names out of :data:`~aeplus.methods.method.METHODS` or variants (``name:field=value``), separated by
            commas or spaces; ``all`` stands for every name.

    Raises:
        InputError: If there is none, or a name or field is unknown, or a value is not of its field's type; the message
            lists what is possible.
    """
    words = [word for part in re.split(r"[\s,]+", text) if part for word in (METHODS if part == "all" else [part])]
    if not words:
        msg = f"expected methods (all, or some out of {', '.join(METHODS)}), but none came; write --methods all."
        raise InputError(msg)
    return [_spec(word) for word in dict.fromkeys(words)]


def parse_seeds(text: str) -> list[int]:
    """The seeds that ``--seeds`` names, each once, in the order named.

    Raises:
        InputError: If there is none, or one is not a whole number from 0 on.
    """
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words or not all(re.fullmatch(r"[0-9]+", word) for word in words):
        msg = f"expected seeds (whole numbers from 0 on), but {text!r} came; write for example --seeds 0,1,2."
        raise InputError(msg)
    return list(dict.fromkeys(int(word) for word in words))


def _spec(word: str) -> MethodSpec:
    name, *settings = word.split(":")
    if name not in METHODS:
        msg = f"expected methods out of all, {', '.join(METHODS)}, but {name!r} came; write {_FORM}."
        raise InputError(msg)
    switches = dict(method_switches(name))
    if settings:
        switches["name"] = word
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals or not _VALUE.fullmatch(value):
            msg = f"expected field=value behind each colon, but {setting!r} came in {word!r}; write {_FORM}."
            raise InputError(msg)
        if field not in FIELDS:
            msg = f"expected a field out of {', '.join(FIELDS)}, but {field!r} came in {word!r}; choose one of these."
            raise InputError(msg)
        nested: Any = _value(value)
        if (wanted := _unfit(field, nested)) is not None:
            msg = f"expected {wanted} as {field}, but {value!r} came in {word!r}; choose another value."
            raise InputError(msg)
        for part in reversed(field.split(".")):
            nested = {part: nested}
        switches = _merge(switches, nested)
    return MethodSpec(word, switches)


def _value(text: str) -> Any:
    """``true``, ``false``, ``null`` or a number; anything else is a word."""
    for read in (lambda: json.loads(text.lower()), lambda: float(text)):
        try:
            return read()
        except ValueError:
            continue
    return text


def _unfit(field: str, value: Any) -> str | None:
    """What a field takes, in words, if the value is not of that type."""
    *group, name = field.split(".")
    hint = get_type_hints(_GROUPS[group[0]] if group else Method)[name]
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if any(value in get_args(h) if get_origin(h) is Literal else _is_a(value, h) for h in hints):
        return None
    return " or ".join(_WORDS.get(h) or f"one of {', '.join(get_args(h))}" for h in hints)


def _is_a(value: Any, kind: type) -> bool:
    """``True`` is no number, and a whole number may stand for any."""
    return type(value) is kind or (kind is float and type(value) is int)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` sets, group by group."""
    merged = dict(below)
    for name, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if nested else value
    return merged
