"""Methods by name: those that aeplus ships, registered ones, and compositions of one's own from YAML files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from aeplus.errors import InputError
from aeplus.methods.method import SWITCHES, GradientOptions, Method
from aeplus.methods.registry import METHODS, NamedMethod, check_new_name, find_method
from aeplus.utils.paths import expanded
from aeplus.utils.yaml_files import read_yaml


def method_switches(method: str | NamedMethod) -> dict[str, Any]:
    """Everything that makes a named method, as a ``configs/method`` file has it.

    Raises:
        InputError: If there is no such method.
    """
    known = find_method(method) if isinstance(method, str) else method
    defaults = Method()
    return {"name": known.name, **{switch: getattr(defaults, switch) for switch in SWITCHES}, **known.switches}


def named_method(name: str | NamedMethod, **numbers: Any) -> Method:
    """A method by name, with some numbers set.

    Raises:
        InputError: If there is no such method, or an unknown number.
    """
    values = {**method_switches(name), **numbers}
    check_fields(values)
    if isinstance(gradient := values.get("gradient"), Mapping):
        check_fields(gradient, GradientOptions, "method.gradient")
    return Method.from_plain(values)


def register_method(
    name: str, switches: Mapping[str, Any], title: str = "", paper: str = "", url: str = ""
) -> NamedMethod:
    """Adds a composition of one's own, which ``fit``, ``compare``, ``tune`` and ``aeplus.edit`` then take by its name.

    Args:
        name: Small letters, digits and ``_``; not taken yet.
        switches: The fields of :class:`Method` that make it; others are at their defaults.
        title: What it does, in a line.
        paper: Its source.
        url: Where the source is.

    Raises:
        InputError: If the name is taken or cannot be one, or the switches make no method.

    Example:
        >>> from aeplus.methods.registry import METHODS
        >>> method = register_method("my_memit", {"filter": "covariance", "relax": "none", "smooth": False})
        >>> named_method("my_memit").filter
        'covariance'
        >>> del METHODS["my_memit"]
    """
    check_new_name(name)
    if "name" in switches:
        msg = f"expected switches without a name, got {switches['name']!r} for {name}; leave it out."
        raise InputError(msg)
    method = NamedMethod(name, title, paper, url, dict(switches))
    named_method(method)
    METHODS[name] = method
    return method


class _Loader(yaml.SafeLoader):
    """Takes ``1e-2`` for a number, as YAML 1.2 and ``aeplus fit`` do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("+-0123456789")
)


def find_composition(name: str) -> NamedMethod:
    """A named method, or one's own from a YAML file.

    Args:
        name: A registered name, or the path of a file with ``model: {method: {...}}``, as ``aeplus fit --config`` takes
            it; the method is called by its ``name`` there, else like the file.

    Raises:
        InputError: If there is no such method or file, or the file holds no method.
    """
    path = Path(name)
    if name in METHODS or path.suffix not in (".yaml", ".yml"):
        return find_method(name)
    if not expanded(name).exists():
        msg = (
            f"expected a YAML file with model: {{method: {{...}}}}, got {name} (No such file or directory); correct it."
        )
        raise InputError(msg)
    content = read_yaml(expanded(name), "model: {method: {...}}", _Loader)
    try:
        values = dict(content["model"]["method"])
    except (KeyError, TypeError, ValueError) as error:
        msg = f"expected a YAML file with model: {{method: {{...}}}}, got {name} (it has no model.method); correct it."
        raise InputError(msg) from error
    called = values.pop("name", path.stem)
    if not isinstance(called, str):
        msg = f"expected model.method.name in {name} to be a text, got {called!r:.60}; correct it."
        raise InputError(msg)
    method = NamedMethod(called, f"from {path}", "", "", values)
    named_method(method)
    return method


def check_fields(values: Iterable[str], options: type = Method, what: str = "a method") -> None:
    """Every name is a field of some options, of :class:`Method` by default.

    Raises:
        InputError: If one is not.
    """
    known = [f.name for f in fields(options)]
    if unknown := [str(name) for name in values if name not in known]:
        msg = f"expected fields of {what} ({', '.join(known)}), got {', '.join(unknown)}; check the names."
        raise InputError(msg)
