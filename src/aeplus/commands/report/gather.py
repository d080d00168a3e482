"""What runs, comparisons and experiments left in their folders, read and checked. Nothing is guessed."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aeplus.commands.report.schemas import CONFIG, EXPERIMENT, METRICS
from aeplus.commands.report.shapes import Check, require
from aeplus.errors import InputError
from aeplus.run.committed.chain import HEADER, Chain
from aeplus.run.records import EditRecord, read_records
from aeplus.utils.jsonl import read_json, read_utf8
from aeplus.utils.paths import expanded
from aeplus.utils.yaml_files import read_yaml

_LABEL = re.compile(r"\w[\w.+:=-]*")  # which names a folder below that of the comparison
_NOTE = re.compile(r"- ([a-z -]+): (.*)")


@dataclass(frozen=True)
class Run:
    """A run of one method, as ``fit`` leaves it, alone or for a comparison.

    Attributes:
        path: Its folder.
        label: What tables call it.
        metrics: Its ``metrics.json``.
        config: Its ``config.yaml``.
        text: The same as it is written.
        records: Its edits, where it kept them.
    """

    path: Path
    label: str
    metrics: dict[str, Any]
    config: dict[str, Any]
    text: str
    records: list[EditRecord]

    @property
    def complete(self) -> bool:
        """Whether every edit was made and measured."""
        return bool(self.metrics["edits_done"] == self.metrics["edits"])

    @property
    def state(self) -> str:
        """How much of it was done."""
        done = self.metrics["edits_done"]
        return "complete" if self.complete else f"{done} of {self.metrics['edits']} edits"


@dataclass(frozen=True)
class Compared:
    """A comparison.

    Attributes:
        path: Its folder.
        runs: Its finished runs.
        failed: Method, seed and error of the others.
        notes: What stands below its table: its command, its machine.
    """

    path: Path
    runs: list[Run]
    failed: list[tuple[str, int, str]]
    notes: dict[str, str]


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        path: Its folder.
        content: Its ``experiment.json``.
        runs: For each of its cells the run, ``None`` where it is not done.
    """

    path: Path
    content: dict[str, Any]
    runs: list[Run | None]


Source = Run | Compared | Experiment


def read_source(path: str) -> Source:
    """What a folder holds.

    Raises:
        InputError: If it is none of ours, or a file of it is missing or damaged; the message names the file.
    """
    folder = expanded(path)
    if (folder / "experiment.json").exists():
        return _experiment(folder)
    if any((folder / name).exists() for name in ("compare.md", "compare.csv")):
        return _compared(folder)
    if any((folder / name).exists() for name in ("metrics.json", "config.yaml")):
        return read_run(folder)
    msg = (
        f"expected a folder of aeplus fit (metrics.json), compare (compare.md) or an experiment (experiment.json), got "
        f"{folder}, which has none of these; give one such as lightning_logs/edits/version_0."
    )
    raise InputError(msg)


def read_run(folder: Path, label: str | None = None) -> Run:
    """A run's folder.

    Raises:
        InputError: If a file of it is missing or damaged.
    """
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).exists():
            msg = f"expected {name} in the run {folder}, got none; make the run again, or give another folder."
            raise InputError(msg)
    metrics = _json(folder / "metrics.json", METRICS, "a run's metrics.json")
    if metrics["edits_done"] > metrics["edits"]:
        msg = (
            f"expected edits_done of at most {metrics['edits']} in {folder / 'metrics.json'}, got "
            f"{metrics['edits_done']}; make the run again."
        )
        raise InputError(msg)
    config = read_yaml(folder / "config.yaml", "a run's config")
    require(config, CONFIG, folder / "config.yaml", "make the run again")
    written = read_utf8(folder / "config.yaml", "a run's config")
    return Run(folder, label or metrics["method"], metrics, config, written, read_records(folder))


def edits_of(run: Run) -> list[tuple[str, str]] | None:
    """The prompts and targets of a run's edits, in order, from its journal or ``edits.jsonl``; ``None`` if not known.

    Raises:
        InputError: If the journal is damaged.
    """
    found = [(record.prompt, record.target) for record in run.records]
    if (run.path / "journal" / HEADER).exists():
        records = Chain.open(run.path / "journal").records
        edits = [edit for record in records if record.kind == "batch" for edit in record.content["edits"]]
        found = [(edit["prompt"].replace("{}", edit["subject"]), edit["target_new"]) for edit in edits]
    return found if len(found) == run.metrics["edits_done"] else None


def _compared(folder: Path) -> Compared:
    for name in ("compare.md", "compare.csv"):
        if not (folder / name).exists():
            msg = f"expected {name} in the comparison {folder}, got none; run aeplus compare again."
            raise InputError(msg)
    notes = _notes(folder / "compare.md")
    runs, failed = [], []
    lines = _lines(folder / "compare.csv")
    if notes["runs"].split(" ")[0] != str(len(lines)):
        msg = f"expected {notes['runs']} runs in {folder / 'compare.csv'}, got {len(lines)}; run aeplus compare again."
        raise InputError(msg)
    for label, seed, error in lines:
        if error:
            failed.append((label, seed, error))
            continue
        run = read_run(folder / label.replace(":", ",") / f"seed_{seed}", label)
        if not run.complete or run.metrics["seed"] != seed:
            got = f"{run.state}, seed {run.metrics['seed']}"
            msg = f"expected the finished run of seed {seed} in {run.path}, got {got}; run aeplus compare again."
            raise InputError(msg)
        runs.append(run)
    return Compared(folder, runs, failed, notes)


def _notes(path: Path) -> dict[str, str]:
    lines = read_utf8(path, "the table of aeplus compare").split("\n")
    notes = {match[1]: match[2] for line in lines if (match := _NOTE.fullmatch(line))}
    if missing := [name for name in ("command", "seeds", "model", "machine", "runs") if name not in notes]:
        msg = f"expected the notes of aeplus compare in {path}, got none on {', '.join(missing)}; run it again."
        raise InputError(msg)
    return notes | {"command": notes["command"].strip("`")}


def _lines(path: Path) -> list[tuple[str, int, str]]:
    """Method, seed and error of each run of ``compare.csv``."""
    content = read_utf8(path, "the table of aeplus compare")
    try:
        found = [(row["method"], int(row["seed"]), row["error"]) for row in csv.DictReader(io.StringIO(content))]
        whole = all(error is not None and _LABEL.fullmatch(label) and seed >= 0 for label, seed, error in found)
    except (csv.Error, KeyError, TypeError, ValueError):
        found, whole = [], False
    if not found or not whole:
        msg = f"expected the table of aeplus compare in {path}, got another text; run it again."
        raise InputError(msg)
    return found


def _experiment(folder: Path) -> Experiment:
    content = _json(folder / "experiment.json", EXPERIMENT, "an experiment")
    for name, table in enumerate(content["tables"]):
        for index, row in enumerate(table["rows"]):
            lists = [row["values"], *([row["paper"]] if row.get("paper") is not None else [])]
            if any(len(values) != len(table["columns"]) for values in lists):
                msg = (
                    f"expected {len(table['columns'])} values in tables[{name}].rows[{index}] of "
                    f"{folder / 'experiment.json'}, got {' and '.join(str(len(values)) for values in lists)}; "
                    "run the experiment again."
                )
                raise InputError(msg)
    runs = [
        read_run(inside(folder, cell["folder"]), cell_label(cell)) if cell["status"] == "done" else None
        for cell in content["cells"]
    ]
    return Experiment(folder, content, runs)


def cell_label(cell: Mapping[str, Any]) -> str:
    """What a cell edits with: its variant, and the numbers that it sets."""
    return ", ".join(part for part in (cell.get("variant") or "", settings(cell.get("set"))) if part) or cell["folder"]


def settings(values: Any) -> str:
    """What a cell sets, as one reads it."""
    if isinstance(values, dict):
        return ", ".join(f"{str(name).rsplit('.', 1)[-1]} = {value}" for name, value in values.items())
    return "" if values is None else str(values)


def inside(folder: Path, name: str) -> Path:
    """A path within a folder.

    Raises:
        InputError: If it leads out of it.
    """
    path = expanded(folder / name)
    if not path.resolve().is_relative_to(folder.resolve()):
        msg = f"expected the paths of {folder / 'experiment.json'} within its folder, got {name!r}; correct it."
        raise InputError(msg)
    return path


def _json(path: Path, check: Check, name: str) -> Any:
    value = read_json(path, name)
    require(value, check, path, "make it again")
    return value
