"""``aeplus compare``: every method with every seed on the same edits, with one model and one cache of targets."""

import copy
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aeplus.commands.compare.against import HEADER, Against, check_against
from aeplus.commands.compare.specs import MethodSpec, parse_seeds, parse_specs, tell_idle
from aeplus.commands.compare.tables import TABLES, Table, print_outcomes, table_rows, write_tables
from aeplus.commands.compare.ways import TITLE, print_ways, ways_markdown, ways_note, ways_table
from aeplus.commands.fit import BaseCLI
from aeplus.commands.runs.cache import is_finished
from aeplus.commands.runs.folder import check_folder
from aeplus.commands.runs.outcome import Outcome
from aeplus.commands.runs.runner import Run, Runner, count_edits
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_named
from aeplus.run.report import machine
from aeplus.trainer import silence_lightning
from aeplus.utils.paths import check_output, expanded, locked
from aeplus.utils.tables import counted, print_line


def run(options: Namespace) -> int:
    """Runs every method with every seed that is not cached, and writes and prints the tables.

    Args:
        options: See :func:`~aeplus.commands.compare.arguments.compare_parser`.

    Returns:
        The exit status: 2 if a run failed, else 0.

    Raises:
        InputError: If no run can be begun: the methods, the edits, the model or its layers cannot be used.
        KeyboardInterrupt: After Ctrl-C; the weights are restored and the finished runs are cached.
    """
    silence_lightning()
    seeds, out = parse_seeds(" ".join(options.seeds)), expanded(options.out)
    base = BaseCLI(options.fit_arguments)
    specs = parse_specs(" ".join(options.methods))  # some may have parts that the callbacks' modules define
    settings = base.settings
    for name in TABLES:
        check_output(out / name, "--out")
    check_against(options.against, [spec.label for spec in specs])
    runs = plan(specs, seeds, out, settings)
    for spec in specs:
        tell_idle(spec.label, spec.idle(settings["model"]["method"]))
    counts = sorted({count_edits(run.settings["data"]) for run in runs if run.label == specs[0].label})
    model_settings = settings["model"]
    model, tokenizer = load_named(model_settings)
    sites = Decoder(model, model_settings.get("site")).select(model_settings["layers"])
    comparison = Comparison(runs, Runner(model, tokenizer, sites, out / "targets"), out)
    edits = f"{' or '.join(map(str, counts))} in batches of {settings['data']['batch_size']}"
    comparison.against = Against(options.against, {(run.label, run.seed): run.folder for run in runs})
    comparison.title = f"Edits: {edits} (%)"
    comparison.notes = {
        "command": f"`{options.command}`",
        "seeds": ", ".join(map(str, seeds)),
        "edits": edits,
        "model": f"{model_settings['model']}, layers {', '.join(map(str, model_settings['layers']))}",
        "machine": machine(base.trainer.strategy.root_device),
    }
    with locked(out):
        comparison.execute()
    comparison.show()
    return 2 if any(outcome.error for outcome in comparison.outcomes) else 0


def plan(specs: Sequence[MethodSpec], seeds: Sequence[int], out: Path, settings: Mapping[str, Any]) -> list[Run]:
    """All runs, seed by seed, so that the first table of all methods is complete early.

    Raises:
        InputError: If a method's values do not fit, or a run's folder contains something else.
    """
    methods = [(spec, spec.over(settings["model"]["method"])) for spec in specs]
    runs = []
    for seed in seeds:
        for spec, method in methods:
            own = copy.deepcopy(dict(settings))
            own["model"] |= {"method": method, "seed": seed}
            own["data"]["seed"] = seed
            own["data"] |= {name: of_seed(own["data"][name], seed) for name in ("path", "validation", "preserved")}
            own["model"]["preserved"]["facts"] = of_seed(own["model"]["preserved"]["facts"], seed)
            folder = out / spec.folder / f"seed_{seed}"
            check_folder(folder)
            runs.append(Run(spec.label, seed, folder, own))
    return runs


def of_seed(path: str | list[str] | None, seed: int) -> str | list[str] | None:
    """The files of a seed: ``{seed}`` in a path is replaced by its number."""
    if isinstance(path, list):
        return [file.replace("{seed}", str(seed)) for file in path]
    return path and path.replace("{seed}", str(seed))


class Comparison:
    """Runs that share a model.

    Args:
        runs: The runs, in order.
        runner: Makes them.
        out: Where the tables go.

    Attributes:
        against: Compares the methods with one of them.
        title: The title of the table in the terminal.
        notes: The notes below the table in Markdown.
    """

    def __init__(self, runs: list[Run], runner: Runner, out: Path) -> None:
        self.runs, self.runner, self.out = runs, runner, out
        self._found: dict[int, Outcome] = {}  # by the place of the run
        self.title = "Comparison (%)"
        self.against = Against(None, {})
        self.notes: dict[str, str] = {}
        self._start = time.perf_counter()
        self._cached: list[float] = []  # seconds of the cached runs

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of the runs so far, in the order of the runs."""
        return [self._found[place] for place in sorted(self._found)]

    def execute(self) -> None:
        """Runs what is not cached; the tables are updated after every run, and hold what is cached from the first."""
        for place, run in enumerate(self.runs):
            if (outcome := self.runner.finished(run)) is not None:
                print(f"{self._said(place)}: cached", file=sys.stderr)
                self._found[place] = outcome
                self._cached.append(outcome.seconds)
        self._tell_replaced()
        if self._found:
            self._write()
        for place, run in enumerate(self.runs):
            if place not in self._found:
                print(self._said(place), file=sys.stderr)
                self._found[place] = self._run(run)
                self._write()

    def show(self) -> None:
        """Prints the table and the paths of all files."""
        print_outcomes(self._rows(), self.title)
        print_ways(self.outcomes, self._methods())
        self.against.show(self.outcomes, self._methods())
        for label, name in zip(("table", "data", "LaTeX"), TABLES, strict=True):
            print_line(f"{label}: {self.out / name}")
        print_line(f"TensorBoard: tensorboard --logdir {self.out}")

    def _said(self, place: int) -> str:
        return f"[{place + 1}/{len(self.runs)}] {self.runs[place].label}, seed {self.runs[place].seed}"

    def _tell_replaced(self) -> None:
        """Says how many finished runs of other settings are about to be replaced."""
        replaced = sum(is_finished(run.folder) for place, run in enumerate(self.runs) if place not in self._found)
        if replaced:
            runs = counted(replaced, "finished run")
            print(
                f"aeplus: {runs} in {self.out} made with other settings, files or versions will be replaced; to keep "
                "what is there, choose another --out",
                file=sys.stderr,
            )

    def _write(self) -> None:
        methods, outcomes = self._methods(), self.outcomes
        notes = {**self.notes, "asked": ways_note(outcomes), **self._progress()}
        more = ways_markdown(outcomes, methods) + self.against.markdown(outcomes, methods)
        write_tables(self.out, self._rows(), outcomes, notes, more, self._others(methods))

    def _run(self, run: Run) -> Outcome:
        try:
            return self.runner.make(run)
        except KeyboardInterrupt:
            finished = sum(outcome.error is None for outcome in self.outcomes)
            done = f"{finished} of {len(self.runs)} runs finished and cached"
            print(f"\ninterrupted: {done}; rerun the same command to continue", file=sys.stderr)
            raise

    def _rows(self) -> list[list[str]]:
        return table_rows(self.outcomes, self._methods(), len({run.seed for run in self.runs}))

    def _others(self, methods: Sequence[str]) -> list[Table]:
        against = self.against.rows(self.outcomes, methods)
        return [(TITLE, *ways_table(self.outcomes, methods)), (self.against.title, HEADER, against)]

    def _methods(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))

    def _progress(self) -> dict[str, str]:
        wall = f"{time.perf_counter() - self._start:.0f} s"
        if self._cached:
            wall += f", and {sum(self._cached):.0f} s of {len(self._cached)} cached runs"
        return {"runs": f"{len(self.outcomes)} of {len(self.runs)}", "wall-clock time of the comparison": wall}
