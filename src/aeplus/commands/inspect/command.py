"""``aeplus inspect``: runs the examination and writes its files."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from aeplus.commands.fit import BaseCLI, quiet
from aeplus.commands.inspect.examine import examine
from aeplus.commands.inspect.findings import Finding, most_conflicting
from aeplus.commands.inspect.report import html_page, print_findings
from aeplus.data.datamodule import EditDataModule
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.figures import conflict_along_stream, conflict_distributions, png
from aeplus.figures.conflict import QUANTITIES
from aeplus.models.loading import load_model
from aeplus.utils.paths import whole_file
from aeplus.utils.progress import BarProgress
from aeplus.utils.tables import console

HELP = """\
usage: aeplus inspect --data.path FILE [--out FOLDER] [--no-targets] [any option of aeplus fit]

Looks at edits before any is made, on the unedited model: for each edit s(k,K0) with the preserved text it is nearest
to, s(k,Kp) with the edit of an earlier batch it collides with (and the same within its batch), the residual and whether
it will be smoothed, what the model answers now, odd tokens, and other edits of the same fact. Test prompts are never
looked at, and nothing is edited. docs/inspect.md describes the report.

options:
  --out FOLDER     where inspect.jsonl, inspect.html, conflict.png and stream.png go (default: lightning_logs/inspect)
  --no-targets     learn no targets, which takes longest; residuals are then unknown
  --rows NUMBER    rows of the table in the terminal (default: 20)
  --length NUMBER  tokens of the model's present answer (default: 6)

Every option of aeplus fit is taken (aeplus fit --help lists them), save --ckpt_path.

example:
  aeplus inspect --config configs/model/smollm2-135m.yaml --config configs/method/alphaedit_plus.yaml \\
      --data.path edits.jsonl
"""


def run(words: list[str]) -> int:
    """Looks at edits before a run.

    Args:
        words: The words behind ``aeplus inspect``.
    """
    parser = argparse.ArgumentParser("aeplus inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("--out", default=os.path.join("lightning_logs", "inspect"))
    parser.add_argument("--no-targets", dest="targets", action="store_false")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--length", type=int, default=6)
    options, rest = parser.parse_known_args(words)
    from pathlib import Path

    inspect(rest, out=Path(options.out), targets=options.targets, rows=options.rows, length=options.length)
    return 0


_UNEDITED = (
    "Everything is measured on the unedited model. While a stream is edited, the keys of the upper edited layers, ‖r‖ "
    "and the answers move, so that later batches will find other values."
)
_S = (
    "s is the largest |cosine| of an edit's key with others, the mean over the edited layers: with a sample of "
    "preserved text (K0), with the edits of earlier batches (Kp), with the other edits of its batch."
)
_R = "‖r‖ is how far the learnt target v* is from the hidden state; smoothed are those above the batch's threshold."


class InspectCLI(BaseCLI):
    """Parses the words of ``aeplus fit``; runs nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuses a checkpoint: the report is of the unedited model."""
        if any(str(word).startswith("--ckpt_path") for word in args):
            msg = "inspect looks at the unedited model, but --ckpt_path came; leave it out."
            raise InputError(msg)
        super().parse_arguments(parser, args)


def inspect(words: Sequence[str], *, out: Path, targets: bool, rows: int, length: int) -> None:
    """Looks at the edits, prints the table and writes JSON Lines, the page and the figures.

    Args:
        words: Options of ``aeplus fit``.
        out: Where the files go.
        targets: Whether to learn targets.
        rows: Rows to print.
        length: New tokens in what the model answers now.

    Raises:
        InputError: If something cannot be used or written.
        KeyboardInterrupt: After Ctrl-C; nothing is written then.
    """
    quiet()
    for name, value, least in (("--rows", rows, 0), ("--length", length, 1)):
        if value < least:
            msg = f"{name} must be at least {least}, but {value} came; give a larger number."
            raise InputError(msg)
    cli = InspectCLI(words)
    options, data = cli.settings["model"], cli.datamodule
    requests = stripped(data)
    model, tokenizer = load_model(*(options[name] for name in ("model", "dtype", "revision")))
    module = cli.model.attach(model.to(cli.trainer.strategy.root_device), tokenizer)
    findings = most_conflicting(
        examine(module, requests, data.batch_size, BarProgress(), targets=targets, length=length)
    )
    paths = data.path if isinstance(data.path, str) else ", ".join(data.path)
    facts = {
        "model": options["model"],
        "edited layers": ", ".join(str(site.layer) for site in module.sites),
        "method": module.method.name,
        "edits": f"{len(findings)} of {paths}, in batches of {data.batch_size}",
        "contradictory edits": str(sum(bool(f.contradictions) for f in findings)),
        "doubles": str(sum(bool(f.doubles) for f in findings)),
        "edits with odd tokens": str(sum(bool(f.notes) for f in findings)),
    }
    print_findings(findings, rows, f"{facts['edits']}, on {facts['model']}, the most conflicting first")
    _write(out, findings, facts, learnt=any(f.residual is not None for f in findings))


def stripped(data: EditDataModule) -> list[EditRequest]:
    """The edits that the options name, without anything that could test one.

    Args:
        data: The data as the options name them, not set up yet.

    Raises:
        InputError: If they cannot be read.
    """
    data.neighbors = 0  # no test prompts are made
    return [request.without_tests() for request in data.read()]


def _write(out: Path, findings: Sequence[Finding], facts: dict[str, str], *, learnt: bool) -> None:
    values = {name: [getattr(f, name) for f in findings] for name in QUANTITIES}
    conflict = png(conflict_distributions({"edits": values}))
    stream = png(conflict_along_stream([f.batch for f in findings], values, [f.smoothed for f in findings]))
    remarks = [_UNEDITED, _S, _R if learnt else "No targets were learnt, so ‖r‖ is not known."]
    page = html_page(findings, {"Distributions": conflict, "Along the stream": stream}, facts, remarks)
    lines = "".join(json.dumps(f.as_dict(), ensure_ascii=False) + "\n" for f in findings)
    contents = {
        "inspect.jsonl": lines.encode(), "inspect.html": page.encode(), "conflict.png": conflict, "stream.png": stream
    }  # fmt: skip
    place = console()
    for name, content in contents.items():
        with whole_file(out / name) as scratch:
            scratch.write_bytes(content)
        place.print(f"{out / name}", soft_wrap=True, markup=False, highlight=False)
