"""Where files go: the cache, files written whole or not at all, and nothing of the user's replaced.

A path may be written if it is new, if it is as aeplus wrote it (a file ``.aeplus`` beside it lists its name and what it
was), or if its owner says so (``--overwrite``). Links, devices and inputs are never replaced.
"""

import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from aeplus.errors import InputError

MARK = ".aeplus"
"""The file in a folder that lists what aeplus wrote into it."""

_SCRATCH = f".aeplus-{platform.node()[:60]}+".replace("/", "_")  # and the number of the process; no host has a plus
_FOR = "for"  # the file in a scratch folder with the name of the folder that is replaced
LOCK = ".aeplus.lock"
"""The file in a folder by which one run keeps others out."""


def expanded(path: str | Path) -> Path:
    """A path with ``~`` replaced by the home folder.

    Raises:
        InputError: If it names the home of somebody who has none, or is longer than the system allows.
    """
    try:
        found = Path(path).expanduser()
        found.exists()
        if "\0" in str(found):  # which pathlib calls missing
            msg = "it contains a null character"
            raise ValueError(msg)
    except (RuntimeError, OSError, ValueError) as error:
        shown = str(path) if len(str(path)) <= 80 else f"{str(path)[:80]}… ({len(str(path))} characters)"
        reason = getattr(error, "strerror", None) or error
        msg = f"expected a path, got {shown!r}, which cannot be one ({reason}); correct it."
        raise InputError(msg) from error
    return found


def cache_dir() -> Path:
    """``$AEPLUS_CACHE``, else ``~/.cache/aeplus``."""
    return expanded(os.environ.get("AEPLUS_CACHE") or "~/.cache/aeplus")


def check_cache(folder: Path) -> None:
    """A folder of the cache can be written, which is found out before the work that it is to keep.

    Raises:
        InputError: If it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = (
            f"expected a cache to write to, got an error from {folder} ({error.strerror}); set AEPLUS_CACHE to another."
        )
        raise InputError(msg) from error


def check_output(
    path: Path,
    option: str = "",
    inputs: Iterable[str | Path | None] = (),
    overwrite: bool = False,
    folder: bool = False,
) -> None:
    """A path may be written; to be asked before the work, and asked again by what writes it.

    Args:
        path: Where output goes.
        option: What messages call it, such as ``--out``, or whose it is, such as ``the run``.
        inputs: Files and folders that are read, which are never written, nor is a folder that they lie in.
        overwrite: Whether its owner allows a file of the user's to be replaced.
        folder: Whether a folder is to be written, rather than a file.

    Raises:
        InputError: If something is there that aeplus did not write, or the place cannot be written.
    """
    whose = f" for {option}" if option else ""
    name = f"{option} " if option.startswith("--") else f"for {option} " if option else ""
    expanded(path)  # too long?
    known = [expanded(file) for file in inputs if file is not None]
    if any(_same(path, file) or (folder and file.resolve().is_relative_to(path.resolve())) for file in known):
        msg = f"expected {name}a path that is not an input, got {path}; choose another."
        raise InputError(msg)
    if path.is_symlink():
        msg = f"expected {name}a plain path to write, got the link {path}; choose the place it leads to, or another."
        raise InputError(msg)
    kind = "folder" if folder else "file"
    if path.exists() and not (path.is_dir() if folder else path.is_file()):
        found = "folder" if path.is_dir() else "file" if path.is_file() else "device"
        msg = f"expected {name}a {kind} to write, got the {found} {path}; choose another."
        raise InputError(msg)
    known_as = _written(path.parent).get(path.name, [])
    if path.exists() and not overwrite and not (known_as and _identity(path) in known_as):
        how = ", or add --overwrite" if option and not folder else ""
        why = "was changed since" if known_as else "exists"
        how = f", or move it away{how}" if known_as else how
        msg = f"expected {name}a new {kind}, or one that aeplus wrote, got {path}, which {why}; choose another{how}."
        raise InputError(msg)
    ancestor = next(parent for parent in (path, *path.absolute().parents) if parent.exists() and parent != path)
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        msg = f"expected a place that can be written{whose}, got {path}; check the permissions of {ancestor}."
        raise InputError(msg)


def is_listed(path: Path) -> bool:
    """Whether aeplus has written a file of this name there, whatever became of it: for what is of no use to others."""
    return path.name in _written(path.parent)


@contextmanager
def locked(folder: Path, option: str = "--out", name: str = LOCK) -> Iterator[None]:
    """Keeps other processes that take the same lock out of a folder while the block runs.

    Raises:
        InputError: If another process is in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name, timeout=0)
        lock.acquire()
    except Timeout as error:
        msg = (
            f"expected a folder for {option} that no other run writes to, got {folder}, in use by another run; wait "
            "for its end."
        )
        raise InputError(msg) from error
    except OSError as error:
        msg = f"expected a folder to write for {option}, got an error from {folder} ({error.strerror}); choose another."
        raise InputError(msg) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False, mark: bool = True) -> Iterator[Path]:
    """A scratch path for a file that replaces ``path`` when the block succeeds; otherwise it is removed.

    Args:
        path: The file.
        overwrite: Whether its owner allows a file of the user's to be replaced.
        mark: Whether to list it as written by aeplus, so that it may be replaced later. Not in a folder of the user's.

    Raises:
        InputError: If the path may not be written (see :func:`check_output`) or cannot be.
    """
    with _whole(path, overwrite, mark, folder=False) as scratch:
        yield scratch


@contextmanager
def whole_folder(path: Path, *, overwrite: bool = False, mark: bool = True) -> Iterator[Path]:
    """The same for a folder.

    Raises:
        InputError: If the path may not be written (see :func:`check_output`) or cannot be.
    """
    with _whole(path, overwrite, mark, folder=True) as scratch:
        yield scratch


@contextmanager
def cached_file(path: Path) -> Iterator[Path]:
    """The same for a file in a cache, all of which is aeplus's."""
    with _whole(path, overwrite=True, mark=False, folder=False) as scratch:
        yield scratch


@contextmanager
def _whole(path: Path, overwrite: bool, mark: bool, folder: bool) -> Iterator[Path]:
    check_output(path, overwrite=overwrite, folder=folder)
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=path.parent))
        yield scratch / "new"
        _sync(scratch / "new")
        check_output(path, overwrite=overwrite, folder=folder)  # something may have come there meanwhile
        if mark:
            _add_to_written(path, _identity(scratch / "new"))
        if path.is_dir():  # a folder cannot be replaced; the old one is removed at the end
            (scratch / _FOR).write_text(path.name, encoding="utf-8")
            os.replace(path, scratch / "old")
        os.replace(scratch / "new", path)
        _sync_names(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors raises no OSError, even on a full disk
        reason = getattr(error, "strerror", None) or error
        msg = f"expected to write {path}, got an error ({reason}); free space there or choose another folder."
        raise InputError(msg) from error
    finally:
        if scratch is not None:
            _discard(scratch)


def _discard(scratch: Path) -> None:
    """Removes a scratch folder; what it was to replace gets its place back, if nothing has taken it."""
    if (scratch / "old").is_dir() and (scratch / _FOR).is_file():
        place = scratch.parent / (scratch / _FOR).read_text(encoding="utf-8")
        if not place.exists():
            try:
                os.replace(scratch / "old", place)
            except OSError:  # it stays here, and the next that writes tries again
                return
    shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    """Puts a file, or every file of a folder, onto the disk before it gets its name."""
    for file in [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file()):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def sweep(folder: Path) -> None:
    """Removes what runs of this machine that were killed have left in a folder while they wrote."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        owner = scratch.name.removeprefix(_SCRATCH).partition("-")[0]
        if scratch.is_dir() and not scratch.is_symlink() and owner.isdecimal() and not _alive(int(owner)):
            _discard(scratch)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _sync_names(folder: Path) -> None:
    """Puts the names of a folder onto the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _same(path: Path, other: Path) -> bool:
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except OSError:
        return False


def _identity(path: Path) -> str:
    """What tells a file from another of its name, or a folder from one in which anything was changed."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found: list[tuple[object, ...]] = []
    for entry in sorted(path.rglob("*")):  # links and empty folders are the user's too
        status, name = entry.lstat(), entry.relative_to(path).as_posix()
        found.append((name,) if stat.S_ISDIR(status.st_mode) else (name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _written(folder: Path) -> dict[str, list[str]]:
    """What aeplus wrote into a folder: the identities that each name may have."""
    try:
        names = json.loads((folder / MARK).read_text(encoding="utf-8"))["written"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or not of aeplus: nothing is taken for ours
        return {}
    return {name: known for name, known in names.items() if isinstance(known, list)} if isinstance(names, dict) else {}


def _add_to_written(path: Path, identity: str) -> None:
    """Lists what is about to get its name, beside what has it: if the process is killed in between, either is ours."""
    names = _written(path.parent)
    known = [present for present in names.get(path.name, []) if path.exists() and present == _identity(path)]
    if known == [identity]:
        return
    scratch = path.parent / f"{MARK}-{os.getpid()}"
    scratch.write_text(json.dumps({"written": {**names, path.name: [*known, identity]}}) + "\n", encoding="utf-8")
    os.replace(scratch, path.parent / MARK)
