"""Shipped configs by name: ``--config method/alphaedit_plus`` works from any folder, a path finds the user's own."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.methods.registry import DEFAULT_METHOD, METHODS
from aeplus.utils.jsonl import read_utf8
from aeplus.utils.paths import expanded
from aeplus.utils.yaml_files import read_yaml, require_moderate

FOLDER = Path(__file__).resolve().parents[1] / "configs"
"""Where the shipped configs lie."""

_FLAGS = ("--config", "-c")
_METHOD_FLAG = re.compile(r"--model\.method\.(\w+)")


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by name, such as ``model/llama3-8b``; experiments are none."""
    paths = {str(path.relative_to(FOLDER).with_suffix("")): path for path in sorted(FOLDER.rglob("*.yaml"))}
    return {name: path for name, path in paths.items() if not name.startswith("experiment/")}


def find_config(name: str) -> str:
    """A config as the parser takes it: a file, or the text of one.

    Args:
        name: The path of a file, which comes first; the name of a shipped config, with or without ``.yaml``;
            ``method/`` with the name of a registered method; or YAML itself.

    Raises:
        InputError: If there is no such file and no such name, or the file is no YAML.
    """
    if "\n" in name or ":" in name:
        require_moderate(name, "the config")
        return name
    if expanded(name).is_file():
        if not isinstance(content := read_yaml(expanded(name), "a config"), dict):
            msg = f"expected options of aeplus fit in {name}, got {content!r:.60}; write them as 'name: value'."
            raise InputError(msg)
        return name
    shipped, plain = shipped_configs(), name.removesuffix(".yaml")
    if plain in shipped:
        return str(shipped[plain])
    if plain.startswith("method/") and (method := plain.removeprefix("method/")) in METHODS:
        return _method_config(method)
    close = get_close_matches(plain, {*shipped, *(f"method/{method}" for method in METHODS)}, n=3, cutoff=0.4)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    msg = (
        f"expected a config file, or a shipped config by its name such as method/alphaedit_plus, got {name!r}{meant}; "
        "check the path."
    )
    raise InputError(msg)


def expand_configs(arguments: Sequence[str]) -> list[str]:
    """Arguments of ``aeplus fit`` with every config found.

    Raises:
        InputError: If a config is neither a file nor a name.
    """
    expanded: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if equals and flag in _FLAGS:
            argument = f"{flag}={find_config(value)}"
        elif expanded and expanded[-1] in _FLAGS:
            argument = find_config(argument)
        expanded.append(argument)
    return expanded


def with_method(arguments: Sequence[str]) -> list[str]:
    """Expanded arguments of ``aeplus fit``, with the method that they name without its switches, else the default one.

    Its config comes behind the shipped ones, as a user would write it, and before the user's own and single options.
    """
    configs: list[tuple[int, int, str]] = []  # where each begins and ends, and what it is
    options: list[tuple[int, int]] = []
    given: list[dict[str, Any] | str] = []  # what they say of the method
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        end = i + 1 if equals else min(i + 2, len(arguments))
        if flag in ("--model", "--model.method"):
            return list(arguments)
        value = value if equals else "".join(arguments[i + 1 : end])
        if flag in _FLAGS:
            configs.append((i, end, value))
            given.append(_method_of(value))
        elif match := _METHOD_FLAG.match(flag):
            options.append((i, end))
            given += [{"name": value}] if match[1] == "name" else []
    if (method := _bare_method(given)) is None:
        return list(arguments)
    behind = configs[-1][1] if configs else 1
    place = next((begin for begin, _, value in configs if FOLDER not in Path(value).resolve().parents), behind)
    # Options in front of it hold all the same.
    again = [argument for begin, end in options if begin < place for argument in arguments[begin:end]]
    default = ["--config", find_config(f"method/{method}")]
    return [*arguments[:place], *default, *again, *arguments[place:]]


def _bare_method(given: Sequence[dict[str, Any] | str]) -> str | None:
    """The method whose config has to be added, by what the arguments say of it; ``None`` where they hold all of it."""
    from aeplus.methods.method import SWITCHES

    naming = [method for method in given if isinstance(method, str) or "name" in method]
    if not naming:
        return DEFAULT_METHOD
    last = naming[-1]
    if isinstance(last, str) or not set(SWITCHES).isdisjoint(last):
        return None
    return next((name for name in METHODS if name == last["name"]), None)


def _method_of(value: str) -> dict[str, Any] | str:
    """What a config says of the method: its fields, or the file that has them."""
    import yaml  # type: ignore[import-untyped]

    if not value:
        return {}
    text = value if "\n" in value or ":" in value else read_utf8(expanded(value), "a config")
    try:
        method = yaml.safe_load(text)["model"]["method"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return {}  # none, or nothing that the parser will take
    return method if isinstance(method, dict | str) else {}


def method_flags(arguments: Sequence[str]) -> list[str]:
    """The fields of ``model.method`` that arguments set one by one."""
    return [match[1] for argument in arguments if (match := _METHOD_FLAG.match(argument))]


def _method_config(name: str) -> str:
    import yaml

    from aeplus.methods.compositions import method_switches

    return str(yaml.safe_dump({"model": {"method": method_switches(name)}}))
