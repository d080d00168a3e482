"""The outcome of a run of a comparison, and the tables of all of them: Markdown, CSV, terminal."""

import csv
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from aeplus.errors import InputError
from aeplus.metrics.success import PARTS, SCORES
from aeplus.run.report import versions
from aeplus.utils.cache import digest
from aeplus.utils.fingerprint import path_stamp, text_stamp
from aeplus.utils.jsonl import read_json, write_json
from aeplus.utils.paths import expanded, whole_file
from aeplus.utils.tables import Row, markdown_table, print_table, spread, with_notes

TABLES = ("compare.md", "compare.csv")
_MARKER = ".aeplus-compare"  # in every folder that a comparison made, which it may delete
_RESULT = "result.json"
# What a run leaves in its folder. Anything else there is the user's.
_OURS = re.compile(
    r"\.aeplus.*|config\.yaml|hparams\.yaml|events\.out\.tfevents.*|(result|metrics|capabilities)\.json|edits\.jsonl|"
    "figures|checkpoints|journal|model"
)
_SHOWN = ("metrics.json", "capabilities.json", "edits.jsonl", "figures/data.json", "figures/hidden.safetensors")


@dataclass(frozen=True)
class Outcome:
    """A finished run, or a failed one.

    Attributes:
        method: The method's label.
        seed: The run's seed.
        before: Efficacy, Generalization, Specificity and Score of the unedited model, in percent; and by the way of
            asking, :data:`~aeplus.metrics.success.PARTS`, where asked.
        after: The same of the edited model.
        editing_seconds: Seconds for targets, solving and validation of all batches; targets from the cache count as
            if they had been computed by this run.
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of all edits together, mean over the layers.
        seconds: Wall-clock time of the whole run.
        error: Why the run failed; ``None`` if it finished.
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
        """The outcome of a failed run."""
        nothing = dict.fromkeys(SCORES)
        return cls(method, seed, nothing, nothing, None, None, seconds, error)

    @classmethod
    def read_metrics(cls, method: str, seed: int, folder: Path, seconds: float) -> "Outcome":
        """The outcome of a run, from the ``metrics.json`` in its folder."""
        metrics = read_json(folder / "metrics.json")
        if metrics["edits_done"] < metrics["edits"]:
            error = f"ended after {metrics['edits_done']} of {metrics['edits']} edits"
            return cls.failed(method, seed, error, seconds)
        editing = sum(batch["seconds"]["total"] for batch in metrics["batches"])
        return cls(method, seed, metrics["before"], metrics["after"], editing, metrics.get("leakage"), seconds)


def settings_digest(settings: Mapping[str, Any], fingerprint: str) -> str:
    """A digest of everything that a run's result depends on, 32 hexadecimal digits.

    A file counts by its name and content, wherever it is, those that callbacks read too; a method by its parts and
    numbers, whatever it is called.

    Args:
        settings: The run's configuration.
        fingerprint: That of the unedited weights.
    """
    data, model = settings["data"], settings["model"]
    trainer = {name: value for name, value in settings["trainer"].items() if name != "logger"}
    trainer["callbacks"] = _with_contents(trainer.get("callbacks"))
    paths = data["path"] if isinstance(data["path"], list) else [data["path"]]
    preserved = {**model["preserved"], "facts": _read(model["preserved"]["facts"])}
    files = {
        "path": [_read(path) for path in paths],
        **{name: _read(data[name]) for name in ("preserved", "validation")},
    }
    method = {name: value for name, value in model["method"].items() if name != "name"}
    own = {**model, "method": method, "preserved": preserved}
    texts = [text_stamp(corpus) for corpus in (data["snippet_corpus"], model["preserved"]["corpus"]) if corpus]
    given = {**settings, "trainer": trainer, "data": {**data, **files}, "model": own}
    return digest([given, fingerprint, texts, list(versions().values())])


def take_over(run: Path, key: str, settings: Mapping[str, Any], finished: Path) -> Outcome | None:
    """Copies what a finished run of the same settings has written into a run's folder, as that run's own.

    Args:
        run: The run's folder.
        key: The digest of its settings.
        settings: Its configuration: data and method are called otherwise than in the other's.
        finished: The other run's folder.

    Returns:
        The outcome; ``None`` if the other is not such a run, or changes or cannot be read meanwhile.

    Raises:
        InputError: If the run's folder contains something else, or cannot be made.
    """
    if cached(finished, key) is None:
        return None
    begin_folder(run)
    try:
        shutil.copytree(finished, run, ignore=_not_ours, dirs_exist_ok=True)
        if (outcome := cached(run, key)) is None:
            return None
        outcome = replace(outcome, method=settings["model"]["method"]["name"])
        _rename(run, settings)
    except (OSError, shutil.Error):
        return None
    finish(run, key, outcome)
    return outcome


def _not_ours(folder: str, names: Sequence[str]) -> set[str]:
    """What is not copied of a run's folder: the user's own, and links."""
    inside = {n for n in names if not _OURS.fullmatch(n)} if (Path(folder) / _MARKER).is_file() else set()
    return inside | {name for name in names if (Path(folder) / name).is_symlink()}


def _rename(run: Path, settings: Mapping[str, Any]) -> None:
    """Data and method as the settings call them, in the files of a run."""
    path = run / "config.yaml"
    if path.is_file():
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["data"]["path"] = settings["data"]["path"]
        config["model"]["method"]["name"] = settings["model"]["method"]["name"]
        config["model"]["preserved"]["facts"] = settings["model"]["preserved"]["facts"]
        path.write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    metrics = read_json(run / "metrics.json")
    write_json(run / "metrics.json", {**metrics, "method": settings["model"]["method"]["name"]})


def cached(folder: Path, key: str) -> Outcome | None:
    """The outcome of a finished run with the same settings; ``None`` if there is none, or it has been altered."""
    try:
        saved = read_json(folder / _RESULT)
        whole = saved["digest"] == key and saved["seal"] == _seal(folder, key, saved["outcome"])
        return Outcome(**saved["outcome"]) if whole else None
    except (InputError, KeyError, TypeError):  # no result, or a damaged one: the run is repeated
        return None


def finish(folder: Path, key: str, outcome: Outcome) -> None:
    """Marks a run as finished, with its outcome."""
    content = asdict(outcome)
    write_json(folder / _RESULT, {"digest": key, "outcome": content, "seal": _seal(folder, key, content)})


def _seal(folder: Path, key: str, outcome: Any) -> str:
    """The digest of what is read back of a finished run: its outcome, and the files that tables and figures show."""
    return digest([key, outcome, [_read(str(folder / name)) for name in _SHOWN if (folder / name).is_file()]])


def check_folder(folder: Path) -> None:
    """Checks that a run's folder does not exist yet, or was made by a comparison.

    Raises:
        InputError: If it contains something else.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    entries = sorted(path.name for path in folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else ["?"]
    if _MARKER in entries:
        entries = [name for name in entries if not _OURS.fullmatch(name)]
    if entries:
        msg = (
            f"expected a new folder or a run of aeplus compare, got {folder} with something else "
            f"({', '.join(entries[:3])}); choose another --out."
        )
        raise InputError(msg)


def begin_folder(folder: Path) -> None:
    """Makes a run's folder, empty; a previous run of a comparison in it is deleted.

    Raises:
        InputError: If it contains something else, or cannot be made.
    """
    check_folder(folder)
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARKER).touch()
    except OSError as error:
        msg = f"expected to make the folder {folder}, got an error ({error.strerror}); choose another --out."
        raise InputError(msg) from error


def _with_contents(value: Any) -> Any:
    """Settings of callbacks, in which a text that names a file, or a folder of files, stands for their contents."""
    if isinstance(value, Mapping):
        return {name: _with_contents(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_with_contents(inside) for inside in value]
    return _read(value) if isinstance(value, str) else value


def _read(file: str | None) -> list[Any] | str | None:
    """A file or folder by its name and content; what is none, such as a data set on the hub, as it is called."""
    return (path_stamp(expanded(file)) if file else None) or file


HEADER = ["method", *(name.capitalize() for name in SCORES), "editing time [s]", "leakage"]
LEGEND = (
    "Scores in percent; with several seeds, mean ± sample standard deviation. Editing time: targets, solving and "
    "validation, without statistics, loading and evaluation; targets computed by another run count as if computed "
    "again. Leakage: tr(Δ C Δᵀ) / tr(W C Wᵀ) of all edits together, mean over the layers."
)
_SHORT = ["method", "Eff", "Gen", "Spe", "Score", "time [s]", "leakage"]  # for the terminal
_CSV_HEADER = ["method", "seed", *SCORES, "editing_seconds", "leakage", "error"]


def table_rows(outcomes: Sequence[Outcome], methods: Sequence[str], seeds: int) -> list[list[str]]:
    """The rows below :data:`HEADER`: the unedited model, the methods that ran, and a row for each failed run.

    Args:
        outcomes: The outcomes of the runs so far.
        methods: Labels in the order of the rows.
        seeds: The number of seeds.
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
    """The table as Markdown, its legend, and notes below it."""
    table = markdown_table(HEADER, rows, left=HEADER[:1])
    return with_notes(table, LEGEND, (f"{name}: {value}" for name, value in notes.items()))


def tidy_csv(outcomes: Sequence[Outcome]) -> str:
    """A line per run, failed ones too; unknown values are empty. Ways of asking come last, those that were asked."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ways = [name for name in PARTS if any(o.after.get(name) is not None for o in outcomes)]
    writer.writerow([*_CSV_HEADER, *ways])
    for o in outcomes:
        scores = [o.after[name] for name in SCORES]
        parts = [o.after.get(name) for name in ways]
        writer.writerow([o.method, o.seed, *scores, o.editing_seconds, o.leakage, o.error, *parts])
    return text.getvalue()


def write_tables(
    out: Path, rows: Sequence[Sequence[str]], outcomes: Sequence[Outcome], notes: Mapping[str, str], more: str = ""
) -> None:
    """Writes ``compare.md``, with ``more`` at its end, and ``compare.csv``.

    Raises:
        InputError: If they cannot be written.
    """
    for name, text in zip(TABLES, (markdown(rows, notes) + more, tidy_csv(outcomes)), strict=True):
        with whole_file(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")


def print_outcomes(rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints the rows as a table; the errors of failed runs are printed below it."""
    failed = [row for row in rows if not row[-1]]
    shown = [Row(row if row[-1] else [row[0], "failed"]) for row in rows]
    print_table(title, _SHORT, shown, left=_SHORT[:1], failures=(f"{row[0]} {row[1]}" for row in failed))


def _scores(percentages: Sequence[Mapping[str, float | None]]) -> list[str]:
    return [spread((p[name] for p in percentages), ".1f") for name in SCORES]
