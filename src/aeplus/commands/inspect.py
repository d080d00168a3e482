"""``aeplus inspect``: its words and its help. Nothing heavy is imported before it runs."""

import argparse
import os

HELP = """\
usage: aeplus inspect --data.path FILE [--out FOLDER] [--no-targets] [any option of aeplus fit]

Looks at edits before any is made, on the unedited model: for each edit s(k,K0) with the preserved text it is nearest
to, s(k,Kp) with the edit of an earlier batch it collides with (and the same within its batch), the residual and whether
it will be smoothed, what the model answers now, odd tokens, and other edits of the same fact. Test prompts are never
looked at, and nothing is edited. docs/inspect.md describes the report.

options:
  --out FOLDER     where inspect.jsonl, inspect.html, conflict.png and stream.png go (default: lightning_logs/inspect)
  --no-targets     learn no targets, which takes longest; residuals are then unknown
  --rows NUMBER    rows of the table in the terminal (default: 20)
  --length NUMBER  tokens of the model's present answer (default: 6)

Every option of aeplus fit is taken (aeplus fit --help lists them), save --ckpt_path.

example:
  aeplus inspect --config configs/model/smollm2-135m.yaml --config configs/method/alphaedit_plus.yaml \\
      --data.path edits.jsonl
"""


def run(words: list[str]) -> int:
    """Looks at edits before a run.

    Args:
        words: The words behind ``aeplus inspect``.
    """
    parser = argparse.ArgumentParser("aeplus inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("--out", default=os.path.join("lightning_logs", "inspect"))
    parser.add_argument("--no-targets", dest="targets", action="store_false")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--length", type=int, default=6)
    options, rest = parser.parse_known_args(words)
    from pathlib import Path

    from aeplus.analysis.preflight import inspect

    inspect(rest, out=Path(options.out), targets=options.targets, rows=options.rows, length=options.length)
    return 0
