"""Finished runs that are kept: what a result depends on, whether it is whole, and copies of it."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from aeplus.commands.runs.folder import begin_folder, not_ours
from aeplus.commands.runs.outcome import Outcome
from aeplus.commands.runs.sources import own_sources
from aeplus.errors import InputError
from aeplus.run.report import versions
from aeplus.utils.cache import digest
from aeplus.utils.fingerprint import path_stamp, text_stamp
from aeplus.utils.jsonl import read_json, write_json
from aeplus.utils.paths import expanded

_RESULT = "result.json"
_SHOWN = ("metrics.json", "capabilities.json", "edits.jsonl", "figures/data.json", "figures/hidden.safetensors")


def settings_digest(settings: Mapping[str, Any], fingerprint: str) -> str:
    """A digest of everything that a run's result depends on, 32 hexadecimal digits.

    A file counts by its name and content, wherever it is, those that callbacks read too, and those of the user's own
    code; a method by its parts and numbers, whatever it is called.

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
    sources = own_sources(settings)  # as a rule none
    return digest([given, fingerprint, texts, list(versions().values()), *([sources] if sources else [])])


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
        shutil.copytree(finished, run, ignore=not_ours, dirs_exist_ok=True)
        if (outcome := cached(run, key)) is None:
            return None
        outcome = replace(outcome, method=settings["model"]["method"]["name"])
        _rename(run, settings)
    except (OSError, shutil.Error):
        return None
    finish(run, key, outcome)
    return outcome


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


def is_finished(folder: Path) -> bool:
    """Whether a folder has a finished run, whatever its settings were, that has not been altered."""
    try:
        return cached(folder, read_json(folder / _RESULT)["digest"]) is not None
    except (InputError, KeyError, TypeError):
        return False


def finish(folder: Path, key: str, outcome: Outcome) -> None:
    """Marks a run as finished, with its outcome."""
    content = asdict(outcome)
    write_json(folder / _RESULT, {"digest": key, "outcome": content, "seal": _seal(folder, key, content)})


def _seal(folder: Path, key: str, outcome: Any) -> str:
    """The digest of what is read back of a finished run: its outcome, and the files that tables and figures show."""
    return digest([key, outcome, [_read(str(folder / name)) for name in _SHOWN if (folder / name).is_file()]])


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
