"""``aeplus tune``: hyperparameters for a model that has no config, and the files it writes."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from aeplus.commands.fit import machine, quiet
from aeplus.commands.tune.config_file import ConfigFile, markdown, print_table
from aeplus.commands.tune.search import METHODS, search, stages, start
from aeplus.commands.tune.trials import TrialRunner, TuneCLI
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.models.loading import load_model
from aeplus.utils.paths import whole_file

HELP = """\
usage: aeplus tune --model.model NAME --data.path FILE --out FILE [options] [any option of aeplus fit]

Finds layers, the learning rate of the targets, tau, lambda, alpha, BLUE's own lambda and KDE's learning rate for a
model that has no config, on the first ten edits of a file, and writes the YAML. Trials are scored on paraphrases of the
edits and on preserved knowledge; test prompts are never looked at. The model is loaded once. Finished trials are kept:
after Ctrl-C the same command goes on. docs/tune.md describes the search.

options:
  --out FILE            the YAML to write, such as configs/model/NAME.yaml
  --overwrite           write it even if it is there already
  --for LIST            for which methods to find numbers, separated by commas or spaces
                        (default: alphaedit,memit,blue,kde, which are all there are)
  --fixed-layers LIST   keep these layers, such as 4,5,6,7,8, instead of searching them
  --seed NUMBER         seed of everything (default: 0)
  --trials FOLDER       where the table of trials, the finished trials and the targets go (default: lightning_logs/tune)

Every option of aeplus fit is taken (aeplus fit --help lists them), save --ckpt_path, model.seed, data.seed,
data.batch_size (all edits are one batch), data.neighbors, trainer.callbacks and trainer.logger. What is searched
replaces what a config says. Here data.limit is 10, data.validation_share 1, data.preserved_count 50 and
model.method.prior_strength 1, unless set.

example:
  aeplus tune --model.model gpt2 --data.path edits.jsonl --out configs/model/gpt2.yaml
"""


def run(words: list[str]) -> int:
    """Finds a config for a model.

    Args:
        words: The words behind ``aeplus tune``.
    """
    parser = argparse.ArgumentParser("aeplus tune", add_help=False, allow_abbrev=False)
    parser.add_argument("--out")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--for", dest="methods", nargs="+", default=["alphaedit", "memit", "blue", "kde"])
    parser.add_argument("--fixed-layers", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", default=os.path.join("lightning_logs", "tune"))
    options, rest = parser.parse_known_args(words)
    from pathlib import Path
    from shlex import join

    tune(
        rest,
        out=options.out,
        overwrite=options.overwrite,
        methods=" ".join(options.methods),
        layers=None if options.fixed_layers is None else " ".join(options.fixed_layers),
        seed=options.seed,
        folder=Path(options.trials),
        command=join(["aeplus", "tune", *words]),
    )
    return 0


def tune(
    words: Sequence[str],
    *,
    out: str | None,
    overwrite: bool,
    methods: str,
    layers: str | None,
    seed: int,
    folder: Path,
    command: str,
) -> None:
    """Searches, writes the YAML and the table, and prints the table.

    Args:
        words: Options of ``aeplus fit``.
        out: The YAML to write.
        overwrite: Whether it may be there already.
        methods: For which methods, separated by commas or blanks.
        layers: The layers, if they are not to be searched.
        seed: Seed of everything.
        folder: Where targets, finished trials and the table go.
        command: The whole command, for the notes.

    Raises:
        InputError: If something cannot be used, or no trial of a stage could be run.
        KeyboardInterrupt: After Ctrl-C; the finished trials are kept.
    """
    quiet()
    path, wanted, fixed = _free(out, overwrite), _methods(methods), None if layers is None else _layers(layers)
    base = TuneCLI(words)
    settings = base.settings
    model_settings = settings["model"]
    if model_settings["layers"]:
        said = f"model.layers {model_settings['layers']} is not used"
        print(f"aeplus: {said}; --fixed-layers keeps layers instead of searching them", file=sys.stderr)
    model_settings["seed"] = settings["data"]["seed"] = base.datamodule.seed = seed
    strip(base.datamodule)
    model, tokenizer = load_model(*(model_settings[name] for name in ("model", "dtype", "revision")))
    journal = folder / f"{path.stem}.tuning.json"
    runner = TrialRunner(base, settings, model, tokenizer, folder, journal)
    if fixed is not None:
        runner.decoder.select(fixed)  # bad ones are told at once
    depth = len(runner.decoder.layers)
    values, trials = search(stages(depth, wanted, fixed), start(depth, fixed), runner)

    inputs = runner.decoder.sites[0].weight.shape[1]
    file = ConfigFile(model_settings, values, trials, inputs, fixed is not None)
    paths = settings["data"]["path"]
    named = paths if isinstance(paths, str) else ", ".join(paths)
    notes = {
        "command": command,
        "edits": f"{len(base.datamodule.requests)} of {named}, in one batch, seed {seed}",
        "machine": machine(base.trainer.strategy.root_device),
    }
    table = folder / f"{path.stem}.tuning.md"
    for place, text in (
        (path, file.text(notes)),
        (table, markdown(trials, [*(f"{name}: {value}" for name, value in notes.items()), *file.remarks()])),
    ):
        with whole_file(place) as scratch:
            scratch.write_text(text, encoding="utf-8")
    print_table(trials, f"Trials on {model_settings['model']} (%)")
    console = Console()
    for line in (f"config: {path}", f"trials: {table}"):
        console.print(line, soft_wrap=True, markup=False)
    if file.warning:
        print(f"aeplus: {file.warning}", file=sys.stderr)


def strip(data: EditDataModule) -> None:
    """Reads the edits, drops all that could test them before anything is made from them, and makes them one batch.

    Args:
        data: The edits as the options name them, not set up yet; afterwards it is.

    Raises:
        InputError: If they cannot be read, or give no validation prompts.
    """
    if data.path is None:
        msg = "expected edits, but --data.path is missing; give a file: --data.path edits.jsonl."
        raise InputError(msg)
    requests = data.read()
    data.attach([request.without_tests() for request in requests])
    data.batch_size = len(requests)
    data.setup("fit")
    asked = {aspect for aspect, _, _ in data.validation_items()}
    if missing := sorted({"efficacy", "generalization", "specificity"} - asked):
        msg = (
            f"expected validation prompts for all that is scored, but there are none for {', '.join(missing)}; "
            "set data.validation_share and data.preserved_count above 0, or give other edits."
        )
        raise InputError(msg)


def _free(out: str | None, overwrite: bool) -> Path:
    if out is None:
        msg = "expected where to write, but --out is missing; give a file, such as --out configs/model/my-model.yaml."
        raise InputError(msg)
    path = Path(out)
    if path.is_dir():
        msg = f"expected a file to write as --out, but {path} is a folder; give a file in it."
        raise InputError(msg)
    if path.exists() and not overwrite:
        msg = f"expected a free place for --out, but {path} is there already; choose another, or add --overwrite."
        raise InputError(msg)
    return path


def _methods(text: str) -> list[str]:
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words or set(words) - set(METHODS):
        msg = f"expected methods out of {', '.join(METHODS)} behind --for, but {text!r} came; choose some of these."
        raise InputError(msg)
    return words


def _layers(text: str) -> list[int]:
    words = [word for word in re.split(r"[\s,\[\]]+", text) if word]
    if not words or not all(word.isdecimal() for word in words):
        msg = f"expected layers behind --fixed-layers, but {text!r} came; write for example --fixed-layers 4,5,6,7,8."
        raise InputError(msg)
    return [int(word) for word in words]
