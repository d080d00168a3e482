"""The cache folder, and files and folders that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from aeplus.errors import InputError


def cache_dir() -> Path:
    """``$AEPLUS_CACHE``, else ``~/.cache/aeplus``."""
    return Path(os.environ.get("AEPLUS_CACHE") or Path.home() / ".cache" / "aeplus").expanduser()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path for a file that replaces ``path`` when the block succeeds; otherwise it is removed.

    Raises:
        InputError: If the disk is full or the folder cannot be written.
    """
    with whole_folder(path) as scratch:
        yield scratch


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A scratch path beside ``path`` that replaces it when the block succeeds; otherwise it is removed.

    Raises:
        InputError: If the disk is full or the folder cannot be written.
    """
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        yield scratch / "new"
        if path.is_dir():
            os.replace(path, scratch / "old")  # a folder cannot be replaced; the old one is removed at the end
        os.replace(scratch / "new", path)
    except (OSError, SafetensorError) as error:  # safetensors raises no OSError, even on a full disk
        reason = getattr(error, "strerror", None) or error
        msg = f"expected to write {path}, got an error ({reason}); free space there or choose another folder."
        raise InputError(msg) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
