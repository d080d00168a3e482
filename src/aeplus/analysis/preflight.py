"""``aeplus inspect``, from the words of the command to the files it writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from aeplus.analysis.examine import examine
from aeplus.analysis.figures import conflict_along_stream, conflict_distributions, png
from aeplus.analysis.figures.conflict import QUANTITIES
from aeplus.analysis.finding import Finding, most_conflicting
from aeplus.analysis.page import html_page
from aeplus.analysis.terminal import print_findings
from aeplus.compare.fitting import BaseCLI
from aeplus.data.datamodule import EditDataModule
from aeplus.data.request import EditRequest
from aeplus.errors import InputError
from aeplus.lightning_cli import quiet
from aeplus.models.loading import load_model
from aeplus.paths import whole_file
from aeplus.progress import BarProgress
from aeplus.tables import console

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
