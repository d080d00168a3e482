"""``aeplus tune``: its words and its help. Nothing heavy is imported before it runs."""

import argparse
import os

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

    from aeplus.tune.command import tune

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
