"""``aeplus cases``: its words and its help. Nothing heavy is imported before it runs."""

import argparse

HELP = """\
usage: aeplus cases --runs FOLDER [FOLDER ...] [--count NUMBER] [--edits LIST] [--length NUMBER] [--out FILE]

Writes what a model says before and after some edits, per method, as one Markdown page. A run's folder holds config.yaml
and either checkpoints, whose edits are applied to the model and taken back, or an edited model (model/). The runs must
have edited the same model, which is loaded once.

options:
  --runs FOLDER ...  folders of runs, such as lightning_logs/edits/version_0
  --count NUMBER     how many edits: the most conflicting ones where a run has edits.jsonl (callback FigureWriter), else
                     spread over the stream (default: 5)
  --edits LIST       these edits instead, by their places in the stream from 1, such as 3,17
  --length NUMBER    tokens of each generation (default: 20)
  --out FILE         the page (default: cases.md)

example:
  aeplus cases --runs lightning_logs/edits/version_0 lightning_logs/edits/version_1 --count 5 --out cases.md
"""


def run(words: list[str]) -> int:
    """Writes the page.

    Args:
        words: The words behind ``aeplus cases``.
    """
    parser = argparse.ArgumentParser("aeplus cases", add_help=False, allow_abbrev=False)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--edits", nargs="+")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--out", default="cases.md")
    options = parser.parse_args(words)
    from pathlib import Path

    from aeplus.analysis.cases import cases

    edits = None if options.edits is None else " ".join(options.edits)
    folders = [Path(folder) for folder in options.runs]
    shown = cases(folders, count=options.count, edits=edits, length=options.length, out=Path(options.out))
    print(f"{len(shown)} edits in {options.out}")
    return 0
