"""The parser of ``aeplus fit`` and ``aeplus validate``: what cannot be parsed is answered in a sentence."""

import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from aeplus.errors import InputError
from aeplus.methods.compositions import method_switches
from aeplus.methods.method import Method
from aeplus.methods.registry import DEFAULT_METHOD, METHODS
from aeplus.utils.paths import expanded
from aeplus.utils.yaml_files import read_yaml

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "list": "a list"}
_NO_OPTION = re.compile(r"(Group|Subcommand) '([\w.]+)' does not accept option '(.+)'")
_NO_METHOD = re.compile(r"Parser key \"model\.method\":\s*Unable to load config '(.*)'")
_NO_VALUE = re.compile(r"Parser key \"([\w.]+)\":\s*Expected a <class '(\w+)'>\. Got value: (.*)")


class EditHelp(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the lines of examples as they are."""


class EditParser(LightningArgumentParser):
    """The parser of options, with a sentence per error."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Reports what cannot be parsed like any other bad input.

        Raises:
            InputError: Always, but within an attempt to parse one of several types.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        if ex is not None and isinstance(ex.__cause__, InputError):  # a config that is given as text
            raise ex.__cause__
        raise InputError(self._sentence(message, getattr(ex, "subcommand_parser", None) or self)) from ex

    def _sentence(self, message: str, parser: LightningArgumentParser) -> str:
        if message.startswith("the following arguments are required"):
            if ".model.model" in message:
                return (
                    "expected a model, got none; pass --config model/NAME, or --model.model NAME and --model.layers "
                    "'[4, 5]' (aeplus tune finds the layers)."
                )
            if ".model.layers" in message:
                return (
                    "expected the layers to edit, got none; pass --model.layers '[4, 5]', or --config model/NAME for a "
                    "model that has one (aeplus tune finds the layers)."
                )
        arguments: Sequence[str] = getattr(self, "args", ())
        command = f"aeplus {getattr(parser, 'subcommand', 'fit')}"
        if found := _NO_OPTION.search(message):
            key = f"{found[2]}.{found[3]}" if found[1] == "Group" else found[3]
            meant = _meant([key], _options(parser))
            return f"expected options of {command}, got {key}{_origin(arguments, key)}{meant}; correct its name."
        if found := _NO_METHOD.match(message):
            name, close = found[1], get_close_matches(found[1], METHODS, n=1)
            usual = f"method/{close[0]}" if close else "method/NAME"
            origin = _origin(arguments, "model.method")
            return f"expected model.method as a file or as fields, got {name!r}{origin}; use --config {usual}."
        if found := _NO_VALUE.match(message):
            key, kind, value = found.groups()
            origin = _origin(arguments, key)
            how = "correct it"
            if kind == "list":
                how = f"write [{value}]" if origin else f"write --{key} '[{value}]'"
            return f"expected {key} to be {_KINDS.get(kind, kind)}, got {value}{origin}; {how}."
        if message.startswith("unrecognized arguments"):
            given = [word.partition("=")[0][2:] for word in message.split() if word.startswith("--")]
            message += _meant(given, _options(parser), "--")
        return f"{message}; {command} --help lists the options."


def tell_default_method(parser: LightningArgumentParser) -> None:
    """Says of the switches of ``model.method`` what they are where no method is named, as their defaults are others."""
    plain = Method()
    others = {name: value for name, value in method_switches(DEFAULT_METHOD).items() if value != getattr(plain, name)}
    for action in parser._actions:
        if (name := action.dest.removeprefix("model.method.")) in others:
            value = str(others[name]).lower() if isinstance(others[name], bool) else others[name]
            action.help = f"{action.help} Where no method is named: {value}."


def _options(parser: LightningArgumentParser) -> list[str]:
    names = {name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")}
    return sorted(name for name in names if not name.endswith((".help", "+")))


def _meant(given: Iterable[str], names: Sequence[str], dashes: str = "") -> str:
    """What may be meant by options that are none: one that is spelled alike, or whose last word is."""
    meant: list[str] = []
    for name in given:
        close = get_close_matches(name, names, n=1, cutoff=0.85)
        if not close:
            last = {other: other.rpartition(".")[2] for other in names}
            words = get_close_matches(name.rpartition(".")[2], last.values(), n=1, cutoff=0.75)
            close = get_close_matches(name, [other for other in names if last[other] in words], n=3, cutoff=0.0)
        meant += close
    return f" (did you mean {' or '.join(f'{dashes}{name}' for name in meant)}?)" if meant else ""


def _origin(arguments: Sequence[str], key: str) -> str:
    """The last config file that sets an option, as messages name it; nothing where the command line sets it."""
    if any(argument.partition("=")[0].rstrip("+") == f"--{key}" for argument in arguments):
        return ""
    for i, argument in reversed(list(enumerate(arguments))):
        flag, equals, value = argument.partition("=")
        name = value if equals else "".join(arguments[i + 1 : i + 2])
        if flag not in ("--config", "-c") or "\n" in name or ":" in name:
            continue
        content: Any = read_yaml(expanded(name), "a config")
        for part in key.split("."):
            content = content.get(part) if isinstance(content, dict) else None
        if content is not None:
            return f" in {name}"
    return ""
