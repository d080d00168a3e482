"""Where aeplus keeps what is costly to make again."""

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
    """A path to write to that becomes ``path`` when the block ends well, and vanishes when it does not."""
    with whole_folder(path) as scratch:
        yield scratch


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A scratch path beside ``path`` that takes its place when the block ends well: all of it, or nothing.

    Raises:
        InputError: If the disk is full or the place cannot be written.
    """
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        yield scratch / "new"
        if path.is_dir():
            os.replace(
                path, scratch / "old"
            )  # a folder cannot be replaced; the old one goes only once the new is whole
        os.replace(scratch / "new", path)
    except (OSError, SafetensorError) as error:  # what safetensors raises is no OSError, even on a full disk
        reason = getattr(error, "strerror", None) or error
        msg = f"could not write {path}: {reason}; free space there or choose another place."
        raise InputError(msg) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
