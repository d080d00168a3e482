"""The command line. Nothing heavy is imported until a command needs it, so ``aeplus --help`` answers at once."""

import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from aeplus.commands import COMMANDS, MODULES
from aeplus.errors import InputError

_SUMMARIES = {
    "fit": "edit a model",
    "validate": "measure a model, or a checkpoint of edits, on the edits' test prompts",
    **COMMANDS,
}
_LIST = "\n".join(f"  {name:<18}{summary}" for name, summary in _SUMMARIES.items())
_HELP = f"""\
usage: aeplus COMMAND [options]

Knowledge editing for language models: write facts into a model in sequential batches, without breaking
what it knows, and take them back.

commands:
{_LIST}

  aeplus COMMAND --help lists every option of a command; aeplus --version tells the version.

example:
  aeplus fit --config configs/model/smollm2-135m.yaml --config configs/method/alphaedit_plus.yaml \\
      --data.path edits.jsonl

where a line of edits.jsonl is
  {{"prompt": "The capital of {{}} is", "subject": "France", "target_new": "Rome"}}
"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, or 2 for input that cannot be used.

    Args:
        args: The words after ``aeplus``; by default those of the process.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"aeplus {version('aeplus')}")
        return 0
    try:
        return _run(words[0], words[1:])
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("\naeplus: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return _refuse(f"could not write {error.filename or 'a file'}: {error.strerror}; free space and go on.")


def _run(name: str, words: list[str]) -> int:
    if name not in _SUMMARIES:
        msg = f"expected a command out of {', '.join(_SUMMARIES)}, but {name!r} came; try: aeplus --help."
        raise InputError(msg)
    if name in COMMANDS:
        command = import_module(f"aeplus.commands.{MODULES[name]}")
        if "-h" in words or "--help" in words:
            print(command.HELP, end="")
            return 0
        return int(command.run(words))
    from aeplus.commands.fit import run

    run([name, *words])
    return 0


def _refuse(sentence: str) -> int:
    print(f"aeplus: error: {sentence}", file=sys.stderr)
    return 2


def entry_point() -> None:
    """What the ``aeplus`` command runs."""
    sys.exit(main())
