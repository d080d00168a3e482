"""``aeplus inspect``: examines the edits and writes the report's files."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser

from aeplus.commands.fit import BaseCLI
from aeplus.commands.inspect.examine import examine
from aeplus.commands.inspect.findings import Finding, most_conflicting
from aeplus.commands.inspect.report import html_page, print_findings
from aeplus.data.datamodule import EditDataModule
from aeplus.edits import EditRequest
from aeplus.errors import InputError, require_count
from aeplus.figures import conflict_along_stream, conflict_distributions, png
from aeplus.figures.conflict import AXIS_LABELS
from aeplus.models.checks import check_model
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_named
from aeplus.models.sites import Snapshot
from aeplus.module import EditModule
from aeplus.run.session import EditSession
from aeplus.targets.anchor import anchor_length
from aeplus.trainer import silence_lightning
from aeplus.utils.jsonl import write_jsonl
from aeplus.utils.paths import check_output, expanded, whole_file
from aeplus.utils.progress import BarProgress
from aeplus.utils.tables import print_line

_FILES = ("inspect.jsonl", "inspect.html", "conflict.png", "stream.png")
_UNEDITED = (
    "Everything is measured on the unedited model. While a stream is edited, the keys of the upper edited layers, ‖r‖ "
    "and the answers change, so later batches will get other values."
)
_S = (
    "s is the largest |cosine| of an edit's key with others, the mean over the edited layers: with a sample of "
    "preserved text (K0), with the edits of previous batches (Kp), with the other edits of its batch."
)
_R = "‖r‖ is the distance of the optimized target v* from the hidden state."
_SMOOTHED = " Edits above their batch's threshold are smoothed."


class InspectCLI(BaseCLI):
    """Parses the arguments of ``aeplus fit``; runs nothing."""

    one_method = True

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuses a checkpoint: the report is of the unedited model."""
        if any(str(argument).startswith("--ckpt_path") for argument in args):
            msg = "expected the unedited model for inspect, got --ckpt_path; leave it out."
            raise InputError(msg)
        super().parse_arguments(parser, args)


def run(options: Namespace) -> int:
    """Examines the edits, prints the table and writes JSON Lines, the page and the figures.

    Args:
        options: See :func:`~aeplus.commands.inspect.arguments.inspect_parser`.

    Raises:
        InputError: If something cannot be used or written.
        KeyboardInterrupt: After Ctrl-C; nothing is written then.
    """
    silence_lightning()
    require_count(options.rows, "--rows")
    require_count(options.length, "--length", 1)
    for name in _FILES:
        check_output(expanded(options.out) / name, "--out")
    cli = InspectCLI(options.fit_arguments)
    settings, data = cli.settings["model"], cli.datamodule
    requests = stripped(data)
    model, tokenizer = load_named(settings)
    module = cli.model.attach(model, tokenizer).to(cli.trainer.strategy.root_device)
    with unedited(module) as session:
        requests = session.readable(data, requests)
        findings = most_conflicting(
            examine(session, requests, data.batch_size, BarProgress(), targets=options.targets, length=options.length)
        )
    paths = data.path if isinstance(data.path, str) else ", ".join(data.path)
    judged = [f.conflicting for f in findings if f.conflicting is not None]  # none without a null space
    facts = {
        "model": settings["model"],
        "edited layers": ", ".join(str(site.layer) for site in session.sites),
        "method": session.method.label,
        "edits": f"{len(findings)} of {paths}, in batches of {data.batch_size}",
        **({"edits that conflict with preserved knowledge": str(sum(judged))} if judged else {}),
        "contradictory edits": str(sum(bool(f.contradictions) for f in findings)),
        "duplicates": str(sum(bool(f.doubles) for f in findings)),
        "edits with tokenization warnings": str(sum(bool(f.notes) for f in findings)),
    }
    lengths = [f.length for f in findings if f.length is not None]
    if lengths:
        anchor = anchor_length(torch.tensor(lengths))
        facts["targets.anchor"] = f"{{{session.sites[-1].layer}: {anchor:.4g}}}, from {len(lengths)} edits"
        print_line(f"targets.anchor: {facts['targets.anchor']}")
    print_findings(findings, options.rows, f"{facts['edits']}, on {facts['model']}, the most conflicting first")
    _write(expanded(options.out), findings, facts)
    return 0


@contextmanager
def unedited(module: EditModule) -> Iterator[EditSession]:
    """The session of a run, from which nothing is edited; the weights are restored at the end.

    Args:
        module: The run, with the language model attached.
    """
    check_model(module.language_model)
    decoder = Decoder(module.language_model, module.options["site"])
    with Snapshot(decoder.select(module.options["layers"])):  # configure_model may upcast the weights
        module.configure_model()
        yield module.session


def stripped(data: EditDataModule) -> list[EditRequest]:
    """The edits that the options name, without anything that tests one.

    Args:
        data: The data as the options name them, not set up yet.

    Raises:
        InputError: If they cannot be read.
    """
    data.neighbors = 0  # no test prompts are made
    return [request.without_tests() for request in data.read()]


def _write(out: Path, findings: Sequence[Finding], facts: dict[str, str]) -> None:
    values = {name: [getattr(f, name) for f in findings] for name in AXIS_LABELS}
    conflict = png(conflict_distributions({"edits": values}))
    stream = png(conflict_along_stream([f.batch for f in findings], values, [f.smoothed for f in findings]))
    optimized = any(f.residual is not None for f in findings)
    distance = _R + _SMOOTHED * any(f.smoothed for f in findings)
    remarks = [_UNEDITED, _S, distance if optimized else "No targets were optimized, so ‖r‖ is unknown."]
    page = html_page(findings, {"Distributions": conflict, "Along the stream": stream}, facts, remarks)
    write_jsonl(out / _FILES[0], (f.as_dict() for f in findings))
    for name, content in zip(_FILES[1:], (page.encode(), conflict, stream), strict=True):
        with whole_file(out / name) as scratch:
            scratch.write_bytes(content)
    for name in _FILES:
        print_line(str(out / name))
