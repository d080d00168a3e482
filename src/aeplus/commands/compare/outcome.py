"""What a run of a comparison leaves, and the tables made of all of them: Markdown, CSV, terminal."""

import csv
import hashlib
import io
import json
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from aeplus.errors import InputError
from aeplus.utils.fingerprint import file_fingerprint, text_stamp
from aeplus.utils.paths import whole_file
from aeplus.utils.tables import console, markdown_table

_MARKER = ".aeplus-compare"  # in every folder that a comparison made, and so may delete
_RESULT = "result.json"
_PACKAGES = ("aeplus", "torch", "transformers", "lightning")
_NOTHING: dict[str, float | None] = {"efficacy": None, "generalization": None, "specificity": None, "score": None}


@dataclass(frozen=True)
class Outcome:
    """A finished run, or a failed one.

    Attributes:
        method: The method's label.
        seed: The run's seed.
        before: Efficacy, Generalization, Specificity and Score of the unedited model, in percent.
        after: The same of the edited model.
        editing_seconds: What editing took: targets, solving and validation of all batches, with targets that came
            from the cache counted as if they had been found here.
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of all edits together, mean over the layers.
        seconds: Wall-clock time of the whole run.
        error: Why the run failed; ``None`` for one that finished.
    """

    method: str
    seed: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    editing_seconds: float | None
    leakage: float | None
    seconds: float
    error: str | None = None

    @classmethod
    def failed(cls, method: str, seed: int, error: str, seconds: float) -> "Outcome":
        """The outcome of a run that could not be finished."""
        return cls(method, seed, _NOTHING, _NOTHING, None, None, seconds, error)

    @classmethod
    def read_metrics(cls, method: str, seed: int, folder: Path, seconds: float) -> "Outcome":
        """The outcome of a run, from the ``metrics.json`` in its folder."""
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        editing = sum(batch["seconds"]["total"] for batch in metrics["batches"])
        return cls(method, seed, metrics["before"], metrics["after"], editing, metrics.get("leakage"), seconds)


def settings_digest(settings: Mapping[str, Any], fingerprint: str) -> str:
    """A digest of all that a run's result depends on, 32 hexadecimal digits.

    Args:
        settings: The run's configuration.
        fingerprint: That of the unedited weights.
    """
    data, model = settings["data"], settings["model"]
    trainer = {name: value for name, value in settings["trainer"].items() if name != "logger"}
    paths = data["path"] if isinstance(data["path"], list) else [data["path"]]
    edits = [_content(place) for place in (*paths, data["preserved"], data["validation"])]
    texts = [text_stamp(place) for place in (data["snippet_corpus"], model["preserved"]["corpus"])]
    packages = [version(name) for name in _PACKAGES]
    parts = [{**settings, "trainer": trainer}, fingerprint, edits, texts, packages]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def finished(folder: Path, digest: str) -> Outcome | None:
    """The outcome of a run that was finished with the same settings; ``None`` if there is none such."""
    try:
        saved = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        return Outcome(**saved["outcome"]) if saved["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours: the run is done again
        return None


def finish(folder: Path, digest: str, outcome: Outcome) -> None:
    """Says that a run is finished, and with what."""
    with whole_file(folder / _RESULT) as scratch:
        scratch.write_text(
            json.dumps({"digest": digest, "outcome": asdict(outcome)}, indent=2) + "\n", encoding="utf-8"
        )


def check_folder(folder: Path) -> None:
    """A run's folder is not there yet, or a comparison made it.

    Raises:
        InputError: If it holds something else.
    """
    if folder.exists() and not (folder / _MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"expected {folder} to be free or a run of aeplus compare, but it is neither; choose another --out."
        raise InputError(msg)


def begin_folder(folder: Path) -> None:
    """Makes a run's folder, empty; a comparison's earlier run in its place is deleted.

    Raises:
        InputError: If it holds something else, or cannot be made.
    """
    check_folder(folder)
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARKER).touch()
    except OSError as error:
        msg = f"could not make the folder {folder}: {error.strerror}; choose another --out."
        raise InputError(msg) from error


def _content(place: str | None) -> str | None:
    path = Path(place) if place else None
    return file_fingerprint(path) if path is not None and path.is_file() else None


_SCORES = ("efficacy", "generalization", "specificity", "score")
HEADER = ["method", *(name.capitalize() for name in _SCORES), "editing time [s]", "leakage"]
LEGEND = (
    "Scores in percent; with several seeds, mean ± sample standard deviation. Editing time: targets, solving and "
    "validation, without statistics, loading and measuring; targets that were found for another run count as if found "
    "again. Leakage: tr(Δ C Δᵀ) / tr(W C Wᵀ) of all edits together, mean over the layers."
)
_SHORT = ["method", "Eff", "Gen", "Spe", "Score", "time [s]", "leakage"]  # for the terminal
_CSV_HEADER = ["method", "seed", *_SCORES, "editing_seconds", "leakage", "error"]


def spread(values: Iterable[float | None], form: str) -> str:
    """Mean ± sample standard deviation of what is known, or the one value; a dash where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = format(statistics.fmean(known), form)
    return f"{mean} ± {format(statistics.stdev(known), form)}" if len(known) > 1 else mean


def table_rows(outcomes: Sequence[Outcome], methods: Sequence[str], seeds: int) -> list[list[str]]:
    """The rows under :data:`HEADER`: the unedited model, the methods that ran, and a row for each failed run.

    Args:
        outcomes: What the runs left so far.
        methods: Labels in the order of the rows.
        seeds: How many seeds there are.
    """
    good = [outcome for outcome in outcomes if outcome.error is None]
    first = {outcome.seed: outcome for outcome in reversed(good)}  # every method begins with the same model
    rows = [["before", *_scores([o.before for o in first.values()]), "–", "–"]]
    for method in methods:
        runs = [outcome for outcome in good if outcome.method == method]
        if runs:
            part = "" if len(runs) == seeds else f" ({len(runs)} of {seeds} seeds)"
            editing = spread((o.editing_seconds for o in runs), ".1f")
            leakage = spread((o.leakage for o in runs), ".2g")
            rows.append([method + part, *_scores([o.after for o in runs]), editing, leakage])
    for outcome in outcomes:
        if outcome.error is not None:
            rows.append([f"{outcome.method}, seed {outcome.seed}", f"failed: {outcome.error}", *[""] * 5])
    return rows


def markdown(rows: Sequence[Sequence[str]], notes: Mapping[str, str]) -> str:
    """The table as Markdown, what its figures are, and notes below it."""
    table = markdown_table(HEADER, rows, left=HEADER[:1])
    return "\n".join([table, "", LEGEND, "", *(f"- {name}: {value}" for name, value in notes.items())]) + "\n"


def tidy_csv(outcomes: Sequence[Outcome]) -> str:
    """A line per run, failed ones too; empty where there is nothing to tell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for o in outcomes:
        scores = [o.after[name] for name in _SCORES]
        writer.writerow([o.method, o.seed, *scores, o.editing_seconds, o.leakage, o.error])
    return text.getvalue()


def write_tables(
    out: Path, rows: Sequence[Sequence[str]], outcomes: Sequence[Outcome], notes: Mapping[str, str]
) -> None:
    """Writes ``compare.md`` and ``compare.csv``.

    Raises:
        InputError: If they cannot be written.
    """
    for name, text in (("compare.md", markdown(rows, notes)), ("compare.csv", tidy_csv(outcomes))):
        with whole_file(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")


def print_table(rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints the table; the sentences of failed runs stand below it."""
    place = console()
    table = Table(title=escape(title), title_justify="left")
    for index, name in enumerate(_SHORT):
        table.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    failed = []
    for row in rows:
        if row[-1]:
            table.add_row(*(escape(cell) for cell in row))
        else:
            table.add_row(escape(row[0]), "failed")
            failed.append(f"{row[0]} {row[1]}")
    place.print(table)
    for line in failed:
        place.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _scores(percentages: Sequence[Mapping[str, float | None]]) -> list[str]:
    return [spread((p[name] for p in percentages), ".1f") for name in _SCORES]
