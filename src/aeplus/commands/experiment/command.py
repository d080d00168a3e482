"""``aeplus experiment``: the cells of a table or figure of the paper, and what is written of them."""

import itertools
import platform
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from aeplus.commands.compare.specs import merged, parse_seeds
from aeplus.commands.experiment import launch
from aeplus.commands.experiment.arguments import EXPERIMENTS
from aeplus.commands.experiment.cells import Cell, make_cells
from aeplus.commands.experiment.data import slug
from aeplus.commands.experiment.drawings import check_figures, hidden_name
from aeplus.commands.experiment.estimate import calibrate, show_cells
from aeplus.commands.experiment.grid import Experiment, Grid, find_experiment, read_experiment
from aeplus.commands.experiment.study import ENDINGS, FILE, Study
from aeplus.commands.experiment.tables import check_tables
from aeplus.commands.fit import BaseCLI
from aeplus.data.sources import is_missing
from aeplus.errors import InputError, require_count
from aeplus.run.report import machine, versions
from aeplus.trainer import silence_lightning
from aeplus.utils.cache import digest
from aeplus.utils.jsonl import read_json
from aeplus.utils.paths import check_output, expanded, locked
from aeplus.utils.tables import print_line

_OWN = ("--data.path", "--data.seed", "--model.seed")
_CONFIG = ("--config", "-c")


def run(options: Namespace) -> int:
    """Makes the cells that are not finished, and writes and prints tables and figures.

    Args:
        options: See :func:`~aeplus.commands.experiment.arguments.experiment_parser`.

    Returns:
        The exit status: 2 if a cell failed, else 0.

    Raises:
        InputError: If no cell can be begun: the experiment, the model, its layers or an option cannot be used.
        KeyboardInterrupt: After Ctrl-C; finished cells are kept.
    """
    silence_lightning()
    _check_options(options)
    launcher_options = launch.parse_launcher_options(options.launcher_options)
    experiment = _read(options)
    experiment = replace(experiment, grid=_asked(experiment.grid, options))
    _check_data(options, experiment)
    base = BaseCLI(_with_overrides(options.fit_arguments, experiment.grid))
    settings = base.settings
    model = str(settings["model"]["model"])
    default = Path("lightning_logs") / "experiment" / experiment.name / Path(model).name
    out = expanded(options.out) if options.out else default
    cells = make_cells(experiment.grid, settings, out)
    check_tables(experiment.tables, experiment.claim, cells)
    check_figures(experiment.figures)
    if options.dry_run:
        return _dry_run(experiment, cells, settings, options.jobs)
    asked = digest([settings, experiment.grid.data])
    _check_out(out, experiment, cells, options.scale, asked)
    study = Study(experiment, cells, out)
    study.about = {
        "name": experiment.name,
        "title": experiment.title,
        "scale": options.scale,
        "settings": asked,
        "model": model,
        "command": options.command,
        "machine": machine(base.trainer.strategy.root_device),
        "versions": {"python": platform.python_version(), **versions()},
        "seeds": experiment.grid.seeds,
    }
    study.check_files()
    if options.launcher == "local" and options.jobs == 1 and not any("alphaset" in c.place.command for c in cells):
        study.load_model()
    with locked(out):
        study.make(options.jobs, options.launcher, launcher_options)
        study.draw()
    study.show()
    return 2 if any(result.status != "done" for result in study.results) else 0


def _check_options(options: Namespace) -> None:
    for name, value in (("--jobs", options.jobs), ("--edits", options.edits)):
        if value is not None:
            require_count(value, name, 1)
    if given := [name for word in options.fit_arguments if (name := word.partition("=")[0].rstrip("+")) in _OWN]:
        msg = (
            f"expected no {given[0]}, got one, but an experiment draws its own data, with its own seeds; leave it out: "
            "--seeds chooses the seeds, and a YAML file of your own other data."
        )
        raise InputError(msg)
    launch.check_launcher(options.launcher)


def _read(options: Namespace) -> Experiment:
    """The experiment; what stands behind an option of ``aeplus fit`` may have been taken for its name."""
    try:
        return read_experiment(options.name, options.scale)
    except InputError as error:
        meant = [word for word in options.fit_arguments if word in EXPERIMENTS]
        if options.name in EXPERIMENTS or not meant:
            raise
        msg = (
            f"expected the experiment's name in front of all options, got {options.name!r} for it, and {meant[0]} "
            f"behind; write aeplus experiment {meant[0]} and then the options."
        )
        raise InputError(msg) from error


def _check_data(options: Namespace, experiment: Experiment) -> None:
    """No option of the data is one that a data set sets for itself, over every option."""
    own = {
        f"--data.{field}": name for name, entry in experiment.grid.data.items() if "path" in entry for field in entry
    }
    for option in (word.partition("=")[0] for word in options.fit_arguments):
        if option in own:
            path = find_experiment(options.name)
            file = f"a copy of {path}, and name that" if experiment.shipped else path
            how = "leave it out: --edits chooses it" if option == "--data.limit" else f"change it in {file}"
            msg = (
                f"expected no {option}, got one, but {experiment.name} sets it for its data set {own[option]} at scale "
                f"{options.scale}; {how}."
            )
            raise InputError(msg)


def _asked(grid: Grid, options: Namespace) -> Grid:
    """The grid with the seeds and edits of the command line."""
    if options.seeds is not None:
        grid = replace(grid, seeds=parse_seeds(" ".join(options.seeds)))
    if options.edits is None:
        return grid
    count = options.edits
    conflict = max(1, count // 5)
    sizes = ",".join([f"{conflict}+{max(conflict, count - conflict)}"] * 3)
    asked = {"stream": {"count": count}, "alphaset": {"sizes": sizes}, "path": {"limit": count}}
    data = {
        name: {**entry, **next(more for kind, more in asked.items() if kind in entry)}
        for name, entry in grid.data.items()
    }
    return replace(grid, data=data)


def _with_overrides(rest: Sequence[str], grid: Grid) -> list[str]:
    """The arguments with what the experiment sets, over every config and under every option, wherever it stands."""
    more: dict[str, Any] = {"trainer": {"callbacks+": grid.callbacks}} if grid.callbacks else {}
    overrides = merged(grid.overrides, more)
    if not overrides:
        return list(rest)
    flags = [i for i, word in enumerate(rest) if word.partition("=")[0] in _CONFIG]
    end = 0 if not flags else flags[-1] + (1 if "=" in rest[flags[-1]] else 2)
    given = f"--config={yaml.safe_dump(overrides, allow_unicode=True)}"
    return [*rest[:end], given, *_again(rest[:end]), *rest[end:]]


def _again(words: Sequence[str]) -> list[str]:
    """Options in front of a config, to hold behind it; a list that one adds to is not added to twice."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--") or word in _CONFIG or not options:
            options.append([])
        options[-1].append(word)
    names = [option[0].partition("=")[0] for option in options]
    added = tuple(name.removesuffix("+") for name in names if name.endswith("+"))
    single = [name.startswith("--") and name not in _CONFIG and not name.startswith(added) for name in names]
    return [word for option, holds in zip(options, single, strict=True) if holds for word in option]


def _check_out(out: Path, experiment: Experiment, cells: Sequence[Cell], scale: str, asked: str) -> None:
    names = [FILE, *(f"{experiment.name}.{ending}" for ending in ENDINGS)]
    data = list(dict.fromkeys(cell.data for cell in cells))
    figures = [[f] if f != "hidden" else [hidden_name(d, len(data)) for d in data] for f in experiment.figures]
    names += [f"figures/{figure}.svg" for figure in itertools.chain(*figures)]
    names += [f"cases/{slug(name)}.md" for name in data if experiment.cases is not None]
    for name in names:
        check_output(out / name, "--out")
    if (out / FILE).is_file():
        earlier = read_json(out / FILE, "an experiment's results")
        earlier = earlier if isinstance(earlier, dict) else {}
        there = earlier.get("name"), earlier.get("scale")
        if there != (experiment.name, scale):
            msg = (
                f"expected --out of {experiment.name} at scale {scale}, got {out} of {there[0]} at {there[1]}; "
                "choose another."
            )
            raise InputError(msg)
        done = sum(isinstance(cell, dict) and cell.get("status") == "done" for cell in earlier.get("cells") or [])
        if done and earlier.get("settings", asked) != asked:
            msg = (
                f"expected the options that the {done} finished cells in {out} were made with, got others, for which "
                "they would be deleted; choose another --out, or delete the folder."
            )
            raise InputError(msg)


def _dry_run(experiment: Experiment, cells: Sequence[Cell], settings: Mapping[str, Any], jobs: int) -> int:
    title = f"{experiment.title}: {len(cells)} cells"
    try:
        measured = calibrate(experiment.grid, settings)
    except InputError as error:
        show_cells(cells, experiment.grid, title, None, jobs)
        msg = f"expected to make a few edits for the estimate, got an error ({str(error).rstrip('.')}); correct it."
        raise InputError(msg) from error
    show_cells(cells, experiment.grid, title, measured, jobs)
    paths = [str(entry["path"]) for entry in experiment.grid.data.values() if "path" in entry]
    if missing := [path for path in paths if is_missing(path)]:
        print_line(f"not here, and needed: {', '.join(missing)}")
    print_line("nothing was written")
    return 0
