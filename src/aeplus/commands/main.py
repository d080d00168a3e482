"""The command line. Nothing heavy is imported until a command needs it, so ``aeplus --help`` answers at once."""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from shlex import join
from types import FrameType
from typing import Any

from aeplus.commands.arguments import COMMANDS
from aeplus.errors import InputError, Terminated

_SUMMARIES = {
    "fit": "edit a model",
    "validate": "measure a model, or a checkpoint of edits, on the edits' test prompts",
    **{name: command.summary for name, command in COMMANDS.items()},
}
_LIST = "\n".join(f"  {name:<18}{summary}" for name, summary in _SUMMARIES.items())
_HELP = f"""\
usage: aeplus COMMAND [options]

Edit facts in causal language models in sequential batches, preserve unrelated knowledge, and undo the edits exactly.

commands:
{_LIST}

  aeplus COMMAND --help lists the options of a command; aeplus --version prints the version.

example:
  aeplus fit --config model/smollm2-135m --config method/alphaedit_plus \\
      --data.path edits.jsonl

where edits.jsonl contains one JSON object per line, such as
  {{"prompt": "The capital of {{}} is", "subject": "France", "target_new": "Rome"}}
"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 0, 2 for unusable input, 130 after Ctrl-C or 143 after SIGTERM.

    Args:
        args: The arguments after ``aeplus``; by default those of the process.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"aeplus {version('aeplus')}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except InputError as error:
        return _refuse(str(error))
    except Terminated:
        print("\naeplus: terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("\naeplus: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what, how = f"to write {error.filename or 'a file'}", "free space and rerun"
        elif error.filename is not None:
            what, how = f"to use {str(error.filename)[:200]}", "check the path and its permissions"
        else:
            raise
        return _refuse(f"expected {what}, got an error ({error.strerror}); {how}.")


def _run(name: str, arguments: list[str]) -> int:
    if name not in _SUMMARIES:
        msg = f"expected a command out of {', '.join(_SUMMARIES)}, got {name!r}; try: aeplus --help."
        raise InputError(msg)
    if name not in COMMANDS:
        from aeplus.commands.fit import run

        run([name, *arguments])
        return 0
    command = COMMANDS[name]
    parser = command.parser()
    if "-h" in arguments or "--help" in arguments:
        parser.print_help()
        return 0
    options, rest = parser.parse_known_args(arguments)
    if rest and not parser.fit_options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    module = import_module(f"aeplus.commands.{command.module}")
    options.fit_arguments, options.command = rest, join(["aeplus", name, *arguments])
    return int(getattr(module, command.function)(options))


def _refuse(sentence: str) -> int:
    print(f"aeplus: error: {sentence}", file=sys.stderr)
    return 2


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


class _Output(FileIO):
    """That nobody reads on (``| head``) ends the printing, not the run."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def _lasting(stream: Any) -> Any:
    """A stream of the process that neither a character that it lacks nor the end of its reader ends a run by."""
    if not isinstance(stream, TextIOWrapper):
        return stream
    stream.reconfigure(errors="replace")
    try:
        number = stream.fileno()
    except OSError:  # held in memory
        return stream
    if number not in (1, 2):
        return stream
    stream.flush()
    output = BufferedWriter(_Output(number, "w", closefd=False))
    return TextIOWrapper(
        output,
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as commands print it: of other packages with its place."""
    ours = Path(__file__).parents[1] in Path(filename).parents
    place = "" if ours else f" ({category.__name__}, {filename}:{lineno})"
    return f"aeplus: warning: {message}{place}\n"


def entry_point() -> None:
    """What the ``aeplus`` command runs."""
    warnings.formatwarning = _warning
    signal.signal(signal.SIGTERM, _terminate)  # an exception, so that what is under way is rolled back
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)
    sys.path.append("")  # the current folder, last: where callbacks of one's own lie, as for `python -m aeplus`
    sys.exit(main())
