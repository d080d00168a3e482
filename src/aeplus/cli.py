"""The command line. Nothing heavy is imported until a command needs it, so ``aeplus --help`` answers at once."""

import errno
import os
import sys
from collections.abc import Sequence

from aeplus.errors import InputError

_HELP = """\
usage: aeplus COMMAND [options]

Knowledge editing for language models: write facts into a model in sequential batches, without breaking
what it knows, and take them back.

commands:
  fit         edit a model
  validate    measure a model, or a checkpoint of edits, on the edits' test prompts
  demo-data   build the demo's edits for a model

  aeplus COMMAND --help lists every option of a command; aeplus --version tells the version.

example:
  aeplus fit --config configs/model/smollm2-135m.yaml --config configs/method/alphaedit_plus.yaml \\
      --data.path edits.jsonl

where a line of edits.jsonl is
  {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome"}
"""

_DEMO_HELP = """\
usage: aeplus demo-data [--model NAME] [--out FOLDER]

Builds the demo's edits (edits.jsonl) and preserved facts (preserved.jsonl) from gensim's questions-words.txt,
with what the model knows.

options:
  --model NAME   hub id, folder, .gguf file or smollm2-135m (default: smollm2-135m)
  --out FOLDER   where to write (default: lightning_logs/demo/data)
"""
_COMMANDS = ("fit", "validate", "demo-data")


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
        if words[0] not in _COMMANDS:
            msg = f"expected a command out of {', '.join(_COMMANDS)}, but {words[0]!r} came; try: aeplus --help."
            raise InputError(msg)
        if words[0] == "demo-data":
            return _demo_data(words[1:])
        from aeplus.lightning_cli import run

        run(words)
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("\naeplus: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return _refuse(f"could not write {error.filename or 'a file'}: {error.strerror}; free space and go on.")
    return 0


def _refuse(sentence: str) -> int:
    print(f"aeplus: error: {sentence}", file=sys.stderr)
    return 2


def _demo_data(words: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser("aeplus demo-data", add_help=False)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", default=os.path.join("lightning_logs", "demo", "data"))
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_args(words)
    if options.help:
        print(_DEMO_HELP, end="")
        return 0
    from pathlib import Path

    from aeplus.data.demo import build_demo, write_demo
    from aeplus.models.loading import load_model

    demo = build_demo(*load_model(options.model))
    edits, preserved = write_demo(demo, Path(options.out))
    print(f"{len(demo.edits)} edits in {edits}, {len(demo.preserved)} preserved facts in {preserved}")
    return 0


def entry_point() -> None:
    """What the ``aeplus`` command runs."""
    sys.exit(main())
