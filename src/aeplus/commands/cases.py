"""``aeplus cases``: a Markdown page comparing a model's generations before and after editing, per method."""

import gc
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aeplus.commands.options import split_list
from aeplus.commands.runs.folder import kept_files
from aeplus.errors import InputError, require_count
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.models.loading import load_model
from aeplus.run.folder import Case, RunFolder, labels
from aeplus.run.measuring import asking
from aeplus.run.records import conflict_order
from aeplus.trainer import silence_lightning
from aeplus.utils.paths import check_output, expanded, whole_file
from aeplus.utils.tables import markdown_table


def run(options: Namespace) -> int:
    """Writes the page.

    Args:
        options: See :func:`~aeplus.commands.arguments.cases_parser`.

    Raises:
        InputError: See :func:`cases`.
    """
    edits = None if options.edits is None else " ".join(options.edits)
    folders = [Path(folder) for folder in options.runs]
    out = expanded(options.out)
    check_output(out, "--out", [file for folder in folders for file in kept_files(folder)], options.overwrite)
    shown = cases(folders, options.count, edits, options.length, out, options.overwrite)
    print(f"{len(shown)} edits in {options.out}")
    return 0


Texts = dict[tuple[str, str], str]
"""Continuations, by prompt and how it is joined with them."""


def cases(
    folders: Sequence[Path], count: int, edits: str | None, length: int, out: Path, overwrite: bool = False
) -> list[Case]:
    """Generates with the unedited model and with every run's edits, and writes the page.

    Args:
        folders: Folders of runs that edited the same model.
        count: Number of edits to show: the most conflicting ones if the run has ``edits.jsonl``, else spread over the
            stream.
        edits: The positions of the edits to show instead, from 1, separated by commas or whitespace.
        length: New tokens of each generation.
        out: The page.
        overwrite: Whether a file of the user's may be replaced.

    Returns:
        The edits shown, of the first run that knows its edits.

    Raises:
        InputError: If a folder, a number or the model cannot be used, or the page cannot be written.
    """
    silence_lightning()
    require_count(count, "--count", 1)
    require_count(length, "--length", 1)
    runs = [RunFolder.read(folder) for folder in folders]
    if others := [run for run in runs if run.model != runs[0].model]:
        msg = (
            f"expected runs of one model, got {runs[0].path} of {runs[0].model[0]} and {others[0].path} of "
            f"{others[0].model[0]}; choose runs of the same model, dtype and revision."
        )
        raise InputError(msg)
    known = next((run.cases for run in runs if run.cases), None)
    if known is None:
        msg = (
            "expected a run with its edits in a journal or in edits.jsonl, got none; rerun with the callback "
            "EditCheckpoint or FigureWriter."
        )
        raise InputError(msg)
    shown = _named(known, edits) if edits is not None else _chosen(known, count)
    before, after = _generations(runs, shown, length)
    columns = dict(zip(labels(runs), zip(runs, after, strict=True), strict=True))
    with whole_file(out, overwrite=overwrite, mark=False) as scratch:
        scratch.write_text(_page(shown, before, columns, length), encoding="utf-8")
    return shown


def _named(known: Sequence[Case], edits: str) -> list[Case]:
    items, places = split_list(edits), {case.edit: case for case in known}
    if not items or not all(item.isdecimal() and int(item) in places for item in items):
        last = max(places)
        there = f"from 1 to {last}" if len(places) == last else f"that are in the model, of {last},"
        msg = f"expected positions of edits {there} after --edits, got {edits!r}; write --edits 3,17."
        raise InputError(msg)
    return [places[int(item)] for item in items]


def _chosen(known: Sequence[Case], count: int) -> list[Case]:
    """The most conflicting edits that are not superseded, or as many spread over the stream."""
    holding = [case for case in known if not case.superseded]
    records = [case.record for case in holding if case.record is not None]
    if len(records) == len(holding):
        ranked = conflict_order([r.s_K0 for r in records], [r.s_Kp for r in records], [r.residual for r in records])
        return [holding[index] for index in ranked[:count]]
    return [holding[i * len(holding) // count] for i in range(count)] if len(holding) > count else holding


def _generations(runs: Sequence[RunFolder], shown: Sequence[Case], length: int) -> tuple[Texts, list[Texts]]:
    """Generations of the unedited model and of every run's model. The unedited one is loaded once; edits are undone."""
    decoder, tokenizer = _loaded(*runs[0].model)
    asked = list(dict.fromkeys((text, case.join) for case in shown for text in (case.prompt, *case.others.values())))
    prompts, joins = [text for text, _ in asked], [join for _, join in asked]
    requests = [case.request for case in shown if case.request is not None]

    def generated() -> Texts:
        texts = generate(decoder, asking(tokenizer, requests), prompts, length, joins=joins)
        return dict(zip(asked, texts, strict=True))

    before = generated()
    after: dict[int, Texts] = {}
    for index, run in enumerate(runs):
        if run.entries is not None:
            with run.applied(decoder):
                after[index] = generated()
    for index, run in enumerate(runs):
        if run.entries is None:
            del decoder  # one model at a time
            gc.collect()
            decoder, tokenizer = _loaded(str(run.path / "model"), "auto", None, run.model[3])
            after[index] = generated()
    return before, [after[index] for index in range(len(runs))]


def _loaded(name: str, *how: Any) -> tuple[Decoder, object]:
    model, tokenizer = load_model(name, *how)
    return Decoder(model.to("cuda" if torch.cuda.is_available() else "cpu"), editable=False), tokenizer


def _page(shown: Sequence[Case], before: Texts, columns: Mapping[str, tuple[RunFolder, Texts]], length: int) -> str:
    first = next(iter(columns.values()))[0]
    about = [
        [_plain(label), f"`{run.path}`", str(len(run.cases)) if run.cases else "?"]
        for label, (run, _) in columns.items()
    ]
    parts = [
        "# Case studies",
        f"Greedy continuations of at most {length} tokens by {_plain(first.model[0])}, before editing and after all "
        "edits of each run.",
        markdown_table(["method", "run", "edits"], about, left=("method", "run")),
    ]
    header = ["", "prompt", "before", *map(_plain, columns)]
    for case in shown:
        rows = [_row("edit", case.prompt, before, columns, case)]
        rows += [_row(name, prompt, before, columns, case) for name, prompt in case.others.items()]
        parts += [
            f"## Edit {case.edit}: {_plain(case.prompt)} → {_plain(case.target)}",
            *_measured(case),
            markdown_table(header, rows, left=header),
        ]
    return "\n\n".join(parts) + "\n"


def _row(
    kind: str, prompt: str, before: Texts, columns: Mapping[str, tuple[RunFolder, Texts]], case: Case
) -> list[str]:
    cells = []
    for run, texts in columns.values():
        made = not run.cases or any((c.prompt, c.target) == (case.prompt, case.target) for c in run.cases)
        cells.append(_plain(texts[prompt, case.join]) + ("" if made else " (this run did not make the edit)"))
    return [kind, _plain(prompt), _plain(before[prompt, case.join]), *cells]


def _measured(case: Case) -> list[str]:
    """The run's measurements of the edit, as a paragraph."""
    record = case.record
    if record is None:
        return []
    parts = [f"s(k, K0) {record.s_K0:.2f}", f"s(k, Kp) {record.s_Kp:.2f}"]
    if record.residual is not None:
        parts.append(f"‖r‖ {record.residual:.3g}{', smoothed' if record.smoothed else ''}")
    return ["; ".join(parts) + "."]


def _plain(text: str) -> str:
    """A text in one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>~#&])", r"\\\1", " ".join(text.split()))
