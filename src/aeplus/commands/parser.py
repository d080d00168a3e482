"""The parser of a command: argparse, with a sentence per error and each option described where it is added."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from shutil import get_terminal_size
from textwrap import fill
from typing import Any, NoReturn

from aeplus.errors import InputError


class CommandParser(ArgumentParser):
    """Parses the options of a command.

    Args:
        name: The command.
        description: What it does.
        examples: Command lines.
        notes: A paragraph after the options.
        fit_options: Whether it accepts the options of ``aeplus fit`` too.
        first: What the command line has in front of the options then.
    """

    def __init__(
        self,
        name: str,
        description: str,
        *examples: str,
        notes: str = "",
        fit_options: bool = False,
        first: str = "",
    ) -> None:
        width = min(100, get_terminal_size().columns - 2)
        lines = [f"{fill(notes, width, break_on_hyphens=False)}\n"] if notes else []
        lines += ["examples:" if len(examples) > 1 else "example:", *(f"  {example}" for example in examples)]
        command = f"aeplus {name} {first}".rstrip()
        super().__init__(
            f"aeplus {name}",
            usage=f"{command} [options] [any option of aeplus fit]" if fit_options else None,
            description=fill(description, width, break_on_hyphens=False),
            epilog="\n".join(lines),
            formatter_class=lambda prog: RawDescriptionHelpFormatter(prog, width=width),
            allow_abbrev=False,
        )
        self.fit_options = fit_options

    def option(
        self, name: str, metavar: str, text: str, default: Any = None, *, kind: type | None = None, **more: Any
    ) -> None:
        """Adds an option.

        Args:
            name: Its name, with the dashes.
            metavar: What its value is called: ``N``, ``FILE``, ``LIST``, ``NAME``, ``FOLDER``.
            text: Its description; the default is added to it, unless it describes it itself.
            default: Its default.
            kind: Type of its value; by default the type of the default.
            more: What else :meth:`argparse.ArgumentParser.add_argument` takes.
        """
        if default is not None and "(default: " not in text:
            text += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        if kind is None and isinstance(default, int | float):
            kind = type(default)
        if kind is not None:
            more["type"] = kind
        self.add_argument(name, metavar=metavar, help=text.replace("%", "%%"), default=default, **more)

    def error(self, message: str) -> NoReturn:
        """Reports what cannot be parsed like any other bad input.

        Raises:
            InputError: Always.
        """
        msg = f"{message}; {self.prog} --help lists the options."
        raise InputError(msg)
