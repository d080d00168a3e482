"""What a run of a comparison leaves: a folder that says whose it is, and its result once it is finished."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.knowledge.fingerprint import file_fingerprint, text_stamp
from aeplus.paths import whole_file

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
