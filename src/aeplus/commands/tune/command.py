"""``aeplus tune``: hyperparameters for a model without a config, and the files with them."""

import sys
from argparse import Namespace
from pathlib import Path

from aeplus.commands.options import parse_layers, split_list
from aeplus.commands.tune.config_file import ConfigFile, markdown, print_trials
from aeplus.commands.tune.search import TUNED, search, stages, start
from aeplus.commands.tune.trials import TrialRunner, TuneCLI
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.methods.compositions import find_composition, named_method
from aeplus.methods.registry import METHODS, NamedMethod, shipped_methods
from aeplus.metrics.success import ASPECTS
from aeplus.models.loading import load_named
from aeplus.run.report import machine
from aeplus.trainer import silence_lightning
from aeplus.utils.paths import check_output, expanded, whole_file
from aeplus.utils.tables import print_line


def run(options: Namespace) -> int:
    """Searches, writes the YAML and the table, and prints the table.

    Args:
        options: See :func:`~aeplus.commands.tune.arguments.tune_parser`.

    Raises:
        InputError: If something cannot be used, or no trial of a stage could be run.
        KeyboardInterrupt: After Ctrl-C; the finished trials are cached.
    """
    silence_lightning()
    path = _new_file(options.out, options.overwrite)
    fixed = None if options.fixed_layers is None else parse_layers(" ".join(options.fixed_layers), "--fixed-layers")
    folder = expanded(options.trials)
    base = TuneCLI(options.fit_arguments)
    methods = _compositions(" ".join(options.methods))  # some may have parts that the callbacks' modules define
    acting = {name: named_method(method).acting for name, method in methods.items() if name not in TUNED}
    settings = base.settings
    sources = settings["data"]["path"]
    check_output(path, "--out", [sources] if isinstance(sources, str) else sources or (), options.overwrite)
    for name in (f"{path.stem}.tuning.json", f"{path.stem}.tuning.md"):
        check_output(folder / name, "--trials")
    model_settings = settings["model"]
    if model_settings["layers"]:
        message = f"model.layers {model_settings['layers']} is not used"
        print(f"aeplus: {message}; --fixed-layers keeps layers instead of searching them", file=sys.stderr)
    model_settings["seed"] = settings["data"]["seed"] = base.datamodule.seed = options.seed
    strip(base.datamodule)
    model, tokenizer = load_named(model_settings)
    runner = TrialRunner(base, settings, model, tokenizer, folder, folder / f"{path.stem}.tuning.json", methods)
    if fixed is not None:
        runner.decoder.select(fixed)  # bad ones are reported at once
    depth = len(runner.decoder.layers)
    values, trials = search(stages(depth, list(methods), fixed, acting), start(depth, fixed), runner)

    inputs = runner.decoder.sites[0].weight.shape[1]
    file = ConfigFile(model_settings, values, trials, inputs, fixed is not None)
    paths = settings["data"]["path"]
    sources = paths if isinstance(paths, str) else ", ".join(paths)
    notes = {
        "command": options.command,
        "edits": f"{len(base.datamodule.requests)} of {sources}, in one batch, seed {options.seed}",
        "machine": machine(base.trainer.strategy.root_device),
    }
    table = folder / f"{path.stem}.tuning.md"
    remarks = [*(f"{name}: {value}" for name, value in notes.items()), *file.remarks()]
    with whole_file(path, overwrite=options.overwrite, mark=False) as scratch:
        scratch.write_text(file.text(notes), encoding="utf-8")
    with whole_file(table) as scratch:
        scratch.write_text(markdown(trials, remarks), encoding="utf-8")
    print_trials(trials, f"Trials on {model_settings['model']} (%)")
    print_line(f"config: {path}")
    print_line(f"trials: {table}")
    if file.warning:
        print(f"aeplus: {file.warning}", file=sys.stderr)
    return 0


def strip(data: EditDataModule) -> None:
    """Reads the edits, drops everything that tests them before anything is made from them, and makes them one batch.

    Args:
        data: The edits as the options name them, not set up yet; it is set up afterwards.

    Raises:
        InputError: If they cannot be read, or lack validation prompts.
    """
    if data.path is None:
        msg = "expected edits, got none because --data.path is not set; pass a file: --data.path edits.jsonl."
        raise InputError(msg)
    requests = data.read()
    data.attach([request.without_tests() for request in requests])
    data.batch_size = len(requests)
    data.setup("fit")
    aspects = {item.aspect for item in data.validation_items()}
    if missing := sorted(set(ASPECTS) - aspects):
        msg = (
            f"expected validation prompts for every score, got none for {', '.join(missing)}; set "
            "data.validation_share and data.preserved_count above 0, or choose other edits."
        )
        raise InputError(msg)


def _new_file(out: str | None, overwrite: bool) -> Path:
    if out is None:
        msg = "expected a file to write, got no --out; pass one, such as --out configs/model/my-model.yaml."
        raise InputError(msg)
    check_output(expanded(out), "--out", overwrite=overwrite)
    return expanded(out)


def _compositions(text: str) -> dict[str, NamedMethod]:
    """The methods after ``--for`` by their names; those that are tuned through others are refused."""
    names = split_list(text)
    own = set(METHODS) - set(shipped_methods())
    if not names or any(name not in {*TUNED, *own} and not name.endswith((".yaml", ".yml")) for name in names):
        msg = (
            f"expected methods out of {', '.join((*TUNED, *sorted(own)))} after --for, or YAML files, got {text!r}; "
            "choose some of these, whose numbers serve the other methods too."
        )
        raise InputError(msg)
    found = [find_composition(name) for name in names]
    return {method.name: method for method in found}
