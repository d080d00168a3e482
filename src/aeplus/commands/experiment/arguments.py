"""The options of ``aeplus experiment``; light imports only."""

from aeplus.commands.configs import FOLDER
from aeplus.commands.options import FIT_OPTIONS
from aeplus.commands.parser import CommandParser

EXPERIMENTS = tuple(
    sorted(
        (path.stem for path in (FOLDER / "experiment").glob("*.yaml")),
        key=lambda name: (name.rstrip("0123456789"), int("0" + name.lstrip("abcdefghijklmnopqrstuvwxyz_-"))),
    )
)
"""The names of the shipped experiments: tables and figures of the paper."""
SCALES = ("small", "paper")
LAUNCHERS = ("local", "submitit")


def experiment_parser() -> CommandParser:
    """Options of ``aeplus experiment``."""
    parser = CommandParser(
        "experiment",
        "Makes a table or figure of the AlphaEdit+ paper for a model: a grid over data sets, methods, hyperparameters "
        "and seeds, whose every cell is a run from the unedited model. Finished cells are kept: after Ctrl-C, or with "
        "more seeds, the same command makes what is missing. A cell that fails is a row that says why. "
        "docs/experiments.md lists what each experiment is, and what to expect of its time.",
        "aeplus experiment table4 --config model/smollm2-135m --dry-run",
        "aeplus experiment table4 --config model/smollm2-135m --jobs 2",
        "aeplus experiment table1 --config model/llama3-8b --scale paper",
        notes=f"{FIT_OPTIONS}, --data.path, the seeds and what a data set sets for itself. model.method gives the "
        "numbers that the experiment leaves open. Options override what the experiment sets for its scale, a --config "
        "does not. The exit status is 2 if a cell could not be run.",
        fit_options=True,
        first="NAME",
    )
    parser.add_argument(
        "name", metavar="NAME", help=f"{', '.join(EXPERIMENTS)}; or a YAML file of your own, as those in configs"
    )
    parser.option(
        "--scale",
        "NAME",
        "small: data that need no download, minutes to hours with SmolLM2 on two cores (--jobs 2); "
        "paper: the paper's data",
        "small",
        choices=SCALES,
    )
    parser.option("--seeds", "LIST", "seeds separated by commas or spaces, instead of the experiment's", nargs="+")
    parser.option("--edits", "N", "edits of each data set, instead of the experiment's", kind=int)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the cells, with minutes and memory estimated from a few edits that are made; nothing is written",
    )
    parser.option(
        "--out",
        "FOLDER",
        "where experiment.json, the tables, the figures and the cells' folders are written (default: "
        "lightning_logs/experiment/NAME/MODEL)",
    )
    parser.option("--jobs", "N", "processes among which the cells are divided, each with the model", 1)
    parser.option(
        "--launcher",
        "NAME",
        "local: processes of this machine (joblib); submitit: jobs of a SLURM cluster (pip install submitit)",
        "local",
        choices=LAUNCHERS,
    )
    parser.option(
        "--launcher-options",
        "LIST",
        "what submitit gives to each job, such as slurm_partition=gpu,gpus_per_node=1,timeout_min=600",
        nargs="+",
    )
    return parser
