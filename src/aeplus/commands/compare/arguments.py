"""The options of ``aeplus compare``; light imports only."""

import os

from aeplus.commands.options import FIT_OPTIONS
from aeplus.commands.parser import CommandParser
from aeplus.methods.registry import METHODS


def compare_parser() -> CommandParser:
    """Options of ``aeplus compare``."""
    parser = CommandParser(
        "compare",
        "Runs every method with every seed on the same edits, each from the unedited model, and writes one table: "
        "Efficacy, Generalization, Specificity, Score, editing time and leakage, as mean ± sample standard deviation "
        "over the seeds. The model is loaded once, and targets that do not depend on the method are computed once. "
        "Finished runs are cached: after Ctrl-C rerun the same command to continue; added methods or seeds run alone.",
        "aeplus compare --config model/smollm2-135m --data.path edits.jsonl --methods all --seeds 0,1,2",
        notes=f"{FIT_OPTIONS}. model.method gives the numbers that the methods leave open. Without trainer.callbacks, "
        "a run writes no checkpoints and no generations; it always logs to its own folder, FOLDER/METHOD/seed_N, "
        "whatever trainer.logger is. The exit status is 2 if a method could not be run.",
        fit_options=True,
    )
    parser.option(
        "--methods",
        "LIST",
        f"methods separated by commas or spaces, or all (default: all): {', '.join(METHODS)}; YAML files with "
        "model.method; or variants that set fields of model.method, such as alphaedit_plus:relax=none or "
        "alphaedit_plus:max_leakage=0.006:max_growth=null",
        ["all"],
        nargs="+",
    )
    parser.option(
        "--seeds",
        "LIST",
        "seeds separated by commas or spaces, each for model.seed and data.seed (default: 0); {seed} in --data.path "
        "gives each its own edits (edits_{seed}.jsonl), likewise in --data.validation, --data.preserved and "
        "--model.preserved.facts",
        ["0"],
        nargs="+",
    )
    parser.option(
        "--against",
        "METHOD",
        "compare every method with this one, edit by edit, and give a 95 % interval of the difference of their Scores",
    )
    parser.option(
        "--out",
        "FOLDER",
        "where compare.md, compare.csv, compare.tex, targets and the runs' folders are written",
        os.path.join("lightning_logs", "compare"),
    )
    return parser
