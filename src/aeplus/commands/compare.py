"""``aeplus compare``: its words and its help. Nothing heavy is imported before it runs."""

import argparse
import os

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

    from aeplus.compare.runs import compare

    command = join(["aeplus", "compare", *words])
    return compare(" ".join(options.methods), " ".join(options.seeds), Path(options.out), rest, command)
