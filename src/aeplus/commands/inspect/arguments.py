"""The options of ``aeplus inspect``; light imports only."""

import os

from aeplus.commands.options import FIT_OPTIONS
from aeplus.commands.parser import CommandParser


def inspect_parser() -> CommandParser:
    """Options of ``aeplus inspect``."""
    parser = CommandParser(
        "inspect",
        "Reports on edits before editing, measured on the unedited model: for each edit s(k,K0) with the nearest "
        "preserved text, s(k,Kp) with the nearest edit of a previous batch (and the same within its batch), the "
        "residual and whether it will be smoothed, the model's current answer, tokenization warnings, and other edits "
        "of the same fact. Test prompts are never read, and nothing is edited. docs/inspect.md describes the report.",
        "aeplus inspect --config model/smollm2-135m --config method/alphaedit_plus \\\n      --data.path edits.jsonl",
        notes=f"{FIT_OPTIONS}.",
        fit_options=True,
    )
    parser.option(
        "--out",
        "FOLDER",
        "where inspect.jsonl, inspect.html, conflict.png and stream.png are written",
        os.path.join("lightning_logs", "inspect"),
    )
    parser.add_argument(
        "--no-targets",
        dest="targets",
        action="store_false",
        help="optimize no targets, the slowest part; residuals are then unknown",
    )
    parser.option("--rows", "N", "rows of the table in the terminal", 20)
    parser.option("--length", "N", "tokens of the model's current answer", 6)
    return parser
