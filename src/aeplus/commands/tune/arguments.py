"""The options of ``aeplus tune``; light imports only."""

import os

from aeplus.commands.options import FIT_OPTIONS, add_overwrite
from aeplus.commands.parser import CommandParser


def tune_parser() -> CommandParser:
    """Options of ``aeplus tune``."""
    parser = CommandParser(
        "tune",
        "Finds layers, the learning rate of the targets, tau, lambda, alpha, BLUE's own lambda and KDE's learning rate "
        "for a model without a config, on the first ten edits of a file, and writes the YAML. Trials are scored on "
        "paraphrases of the edits and on preserved knowledge, never on test prompts. The model is loaded once. "
        "Finished trials are cached: after Ctrl-C rerun the same command to continue. docs/tune.md describes the "
        "search.",
        "aeplus tune --model.model gpt2 --data.path edits.jsonl --out configs/model/gpt2.yaml",
        notes=f"{FIT_OPTIONS}, model.seed, data.seed, data.batch_size (all edits are one batch), data.neighbors, "
        "trainer.callbacks and trainer.logger. What is searched replaces the values of a config. Unless set, "
        "data.limit is 10, data.validation_share 1, data.preserved_count 50 and model.method.prior_strength 1.",
        fit_options=True,
    )
    methods = ["alphaedit", "memit", "blue", "kde"]
    parser.option("--out", "FILE", "the YAML to write, such as configs/model/NAME.yaml (required)")
    add_overwrite(parser)
    parser.option(
        "--for",
        "LIST",
        f"methods to find numbers for, out of {', '.join(methods)}, or YAML files of compositions of your own, "
        "separated by commas or spaces (default: these four)",
        methods,
        dest="methods",
        nargs="+",
    )
    parser.option("--fixed-layers", "LIST", "keep these layers, such as 4,5,6,7,8, instead of searching", nargs="+")
    parser.option("--seed", "N", "seed of everything", 0)
    parser.option(
        "--trials",
        "FOLDER",
        "where the table of trials, the finished trials and the targets are written",
        os.path.join("lightning_logs", "tune"),
    )
    return parser
