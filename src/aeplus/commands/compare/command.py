"""``aeplus compare``: seed by seed every method on the same edits, with one model and one cache of targets."""

import argparse
import copy
import gc
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from aeplus.commands.compare.outcome import (
    Outcome,
    begin_folder,
    check_folder,
    finish,
    finished,
    print_table,
    settings_digest,
    table_rows,
    write_tables,
)
from aeplus.commands.compare.specs import MethodSpec, parse_seeds, parse_specs
from aeplus.commands.fit import BaseCLI, RunCLI, machine, quiet
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder, EditSite, Snapshot
from aeplus.models.loading import load_model
from aeplus.targets.cache import TargetCache
from aeplus.utils.fingerprint import weights_fingerprint

HELP = """\
usage: aeplus compare [--methods LIST] [--seeds LIST] [--out FOLDER] [any option of aeplus fit]

Runs every method with every seed on the same edits, each from the unedited model, and makes one table: Efficacy,
Generalization, Specificity, Score, editing time and leakage, as mean ± sample standard deviation over the seeds.
The model is loaded once, and targets that do not depend on the method are found once. Finished runs are kept:
after Ctrl-C the same command goes on, and a further method or seed runs alone.

options:
  --methods LIST  methods separated by commas or spaces, or all (default: all): names as in configs/method, or
                  variants that set fields of model.method, such as alphaedit_plus:relax=none or
                  alphaedit_plus:max_leakage=0.006:max_growth=null
  --seeds LIST    seeds separated by commas or spaces, each for model.seed and data.seed (default: 0);
                  {seed} in --data.path gives each its own edits (edits_{seed}.jsonl), and in --data.validation
                  and --data.preserved its own of those
  --out FOLDER    where compare.md, compare.csv, targets and the runs' folders go (default: lightning_logs/compare)

Every option of aeplus fit is taken (aeplus fit --help lists them), save --ckpt_path. model.method gives the numbers
that the methods leave open. Without trainer.callbacks, a run writes no checkpoints and no generations; it always logs
to its own folder, FOLDER/METHOD/seed_N, whatever trainer.logger is. The exit status is 2 if a method could not be run.

example:
  aeplus compare --config configs/model/smollm2-135m.yaml --data.path edits.jsonl --methods all --seeds 0,1,2
"""


def run(words: list[str]) -> int:
    """Runs several methods on the same edits.

    Args:
        words: The words behind ``aeplus compare``.
    """
    # What is not known here is for the parser of fit.
    parser = argparse.ArgumentParser("aeplus compare", add_help=False, allow_abbrev=False)
    parser.add_argument("--methods", nargs="+", default=["all"])
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--out", default=os.path.join("lightning_logs", "compare"))
    options, rest = parser.parse_known_args(words)
    from pathlib import Path
    from shlex import join

    command = join(["aeplus", "compare", *words])
    return compare(" ".join(options.methods), " ".join(options.seeds), Path(options.out), rest, command)


@dataclass(frozen=True)
class Run:
    """A method with a seed.

    Attributes:
        label: The method's label.
        seed: The seed of everything.
        folder: The run's folder.
        settings: Its whole configuration.
    """

    label: str
    seed: int
    folder: Path
    settings: dict[str, Any]


def compare(methods: str, seeds: str, out: Path, words: Sequence[str], command: str) -> int:
    """Runs every method with every seed that is not finished yet, and writes and prints the tables.

    Args:
        methods: What to compare; see :func:`~aeplus.commands.compare.specs.parse_specs`.
        seeds: With which seeds.
        out: Where the runs' folders and the tables go.
        words: Options of ``aeplus fit``.
        command: The whole command, for the notes below the table.

    Returns:
        The exit status: 2 if a run failed, else 0.

    Raises:
        InputError: If no run can be begun: the methods, the edits, the model or its layers cannot be used.
        KeyboardInterrupt: After Ctrl-C; the weights are put back and the finished runs are kept.
    """
    quiet()
    specs, numbers = parse_specs(methods), parse_seeds(seeds)
    base = BaseCLI(words)
    settings = base.settings
    runs = plan(specs, numbers, out, settings)
    counts = sorted({count_edits(run.settings["data"]) for run in runs if run.label == specs[0].label})
    options = settings["model"]
    model, tokenizer = load_model(options["model"], options["dtype"], options["revision"])
    comparison = Comparison(runs, model, tokenizer, Decoder(model).select(options["layers"]), out)
    edits = f"{' or '.join(map(str, counts))} in batches of {settings['data']['batch_size']}"
    comparison.title = f"Edits: {edits} (%)"
    comparison.notes = {
        "command": f"`{command}`",
        "seeds": ", ".join(map(str, numbers)),
        "edits": edits,
        "model": f"{options['model']}, layers {', '.join(map(str, options['layers']))}",
        "machine": machine(base.trainer.strategy.root_device),
    }
    comparison.execute()
    comparison.show()
    return 2 if any(outcome.error for outcome in comparison.outcomes) else 0


def plan(specs: Sequence[MethodSpec], seeds: Sequence[int], out: Path, settings: Mapping[str, Any]) -> list[Run]:
    """All runs, seed by seed, so that the first table of all methods is there soonest.

    Raises:
        InputError: If a method's values do not fit, or a run's folder is somebody else's.
    """
    methods = [(spec, spec.over(settings["model"]["method"])) for spec in specs]
    runs = []
    for seed in seeds:
        for spec, method in methods:
            mine = copy.deepcopy(dict(settings))
            mine["model"] |= {"method": method, "seed": seed}
            mine["data"]["seed"] = seed
            mine["data"] |= {name: of_seed(mine["data"][name], seed) for name in ("path", "validation", "preserved")}
            folder = out / spec.folder / f"seed_{seed}"
            check_folder(folder)
            runs.append(Run(spec.label, seed, folder, mine))
    return runs


def of_seed(path: str | list[str] | None, seed: int) -> str | list[str] | None:
    """The files of a seed: ``{seed}`` in a path gives way to its number."""
    if isinstance(path, list):
        return [place.replace("{seed}", str(seed)) for place in path]
    return path and path.replace("{seed}", str(seed))


def count_edits(data: Mapping[str, Any]) -> int:
    """How many edits a run has; bad ones are told so before the model is loaded.

    Args:
        data: Options of the data, as in a run's settings.

    Raises:
        InputError: If they cannot be used.
    """
    datamodule = EditDataModule(**data)
    datamodule.setup("fit")
    return len(datamodule.requests)


class Comparison:
    """Runs that share a model.

    Args:
        runs: What to run, in order.
        model: The language model, unedited; every run leaves it so.
        tokenizer: Its tokenizer.
        sites: The layers that are edited.
        out: Where the tables go.

    Attributes:
        outcomes: What the runs left so far.
        title: What stands above the table in the terminal.
        notes: What stands below the table in Markdown.
    """

    def __init__(self, runs: list[Run], model: Any, tokenizer: Any, sites: list[EditSite], out: Path) -> None:
        self.runs, self.model, self.tokenizer, self.sites, self.out = runs, model, tokenizer, sites, out
        self.outcomes: list[Outcome] = []
        self.title = "Comparison (%)"
        self.notes: dict[str, str] = {}
        self._cache = TargetCache(out / "targets")
        self._unedited: dict[tuple[Any, ...], Any] = {}
        self._fingerprint = weights_fingerprint(model)
        self._began = time.perf_counter()
        self._earlier: list[float] = []  # seconds of runs that were finished before

    def execute(self) -> None:
        """Runs what is not finished yet; the tables are brought up to date after every run."""
        for number, run in enumerate(self.runs, 1):
            digest = settings_digest(run.settings, self._fingerprint)
            outcome = finished(run.folder, digest)
            said = f"[{number}/{len(self.runs)}] {run.label}, seed {run.seed}"
            print(said if outcome is None else f"{said}: finished before", file=sys.stderr)
            if outcome is None:
                outcome = self._run(run, digest)
            else:
                self._earlier.append(outcome.seconds)
            self.outcomes.append(outcome)
            write_tables(self.out, self._rows(), self.outcomes, {**self.notes, **self._progress()})

    def show(self) -> None:
        """Prints the table and where everything lies."""
        print_table(self._rows(), self.title)
        console = Console()
        for what, place in (("table", "compare.md"), ("data", "compare.csv")):
            console.print(f"{what}: {self.out / place}", soft_wrap=True)
        console.print(f"TensorBoard: tensorboard --logdir {self.out}", soft_wrap=True)

    def _run(self, run: Run, digest: str) -> Outcome:
        began = time.perf_counter()
        try:
            begin_folder(run.folder)
            with Snapshot(self.sites):
                RunCLI(run.settings, self.model, self.tokenizer, run.folder, self._cache, self._unedited)
        except (InputError, torch.OutOfMemoryError, torch.linalg.LinAlgError) as error:
            reason = str(error).splitlines()[0]
            print(f"aeplus: error: {run.label}, seed {run.seed}: {reason}", file=sys.stderr)
            return Outcome.failed(run.label, run.seed, reason, time.perf_counter() - began)
        except KeyboardInterrupt:
            kept = f"{len(self.outcomes)} of {len(self.runs)} runs are finished and kept"
            print(f"\ninterrupted; {kept}, the same command goes on with the others", file=sys.stderr)
            raise
        finally:
            gc.collect()  # module and trainer refer to each other, and the module to the statistics
        outcome = Outcome.read_metrics(run.label, run.seed, run.folder, time.perf_counter() - began)
        finish(run.folder, digest, outcome)
        return outcome

    def _rows(self) -> list[list[str]]:
        methods = list(dict.fromkeys(run.label for run in self.runs))
        return table_rows(self.outcomes, methods, len({run.seed for run in self.runs}))

    def _progress(self) -> dict[str, str]:
        wall = f"{time.perf_counter() - self._began:.0f} s"
        if self._earlier:
            wall += f", and {sum(self._earlier):.0f} s of {len(self._earlier)} runs finished before"
        return {"runs": f"{len(self.outcomes)} of {len(self.runs)}", "wall-clock time of the comparison": wall}
