"""The folder of a run: what in it is its own, and may be deleted where a comparison or an experiment made it."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from aeplus.errors import InputError
from aeplus.utils.paths import is_listed

_MARKER = ".aeplus-compare"  # in every folder that a comparison made, which it may delete
# What a run leaves in its folder. Anything else there is the user's.
_OURS = re.compile(
    r"\.aeplus.*|config\.yaml|hparams\.yaml|events\.out\.tfevents.*|(result|metrics|capabilities)\.json|"
    r"(edits|prompts)\.jsonl|figures|checkpoints|journal|model"
)

_KEPT = re.compile(rf"{_OURS.pattern}|compare\.(md|csv|tex)|experiment\.json|cases|data|targets")


def kept_files(folder: Path) -> list[Path]:
    """The files below a folder of runs that aeplus reads or keeps there; not a page that was put beside them."""

    def kept(file: Path) -> bool:
        return any(_KEPT.fullmatch(part) for part in file.relative_to(folder).parts) or is_listed(file)

    return [file for file in folder.rglob("*") if file.is_file() and kept(file)] if folder.is_dir() else []


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


def not_ours(folder: str, names: Sequence[str]) -> set[str]:
    """What is not copied of a run's folder: the user's own, and links."""
    inside = {n for n in names if not _OURS.fullmatch(n)} if (Path(folder) / _MARKER).is_file() else set()
    return inside | {name for name in names if (Path(folder) / name).is_symlink()}
