"""Records from a local file or from the hub, one after another."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from aeplus.errors import InputError

LARGE = 1 << 30
"""A data set on the hub of more bytes is streamed instead of being kept in the cache."""

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")
_FILE_ENDINGS = {".json", ".jsonl", ".ndjson", ".gz", ".parquet", ".txt", ".csv", ".tsv"}
_TABLE = re.compile(r".*\.(?:csv|tsv)(?:\.gz)?", re.IGNORECASE)


def read_records(source: str | Path) -> Iterator[Any]:
    """Yields the records of a file or of a data set on the hub; what is not asked for is not read.

    Args:
        source: A file with JSON Lines, a JSON array, one JSON object (each gzipped or not) or Parquet, told apart by
            its content; or, where no such file exists, a hub id ``owner/name`` or ``owner/name:split`` (split
            ``train`` unless given). JSON Lines and Parquet are read piece by piece, a JSON array as a whole. A data
            set of more than :data:`LARGE` bytes is streamed, a smaller one comes from the cache.

    Raises:
        InputError: If it cannot be read, or holds no record.
    """
    path = Path(source).expanduser()
    hub = _HUB_ID.fullmatch(str(source))
    if path.is_dir():
        msg = f"Expected a file of edits, but {path} is a folder; give the path of the file inside it."
        raise InputError(msg)
    if path.exists():
        records = _file_records(path)
    elif hub and path.suffix.lower() not in _FILE_ENDINGS:
        records = _hub_records(hub["name"], hub["split"] or "train")
    else:
        msg = f"Expected a file of edits, but {path} does not exist; check the path."
        raise InputError(msg)
    empty = True
    for record in records:
        empty = False
        yield record
    if empty:
        msg = f"Expected edits, but {source} holds no records; give a source with at least one."
        raise InputError(msg)


def _file_records(path: Path) -> Iterator[Any]:
    if _TABLE.fullmatch(path.name):
        msg = (
            f"Expected JSON, JSON Lines or Parquet, but {path} is a table of text, which cannot hold lists of prompts; "
            f"convert it, for instance with pandas: read_csv(...).to_json('edits.jsonl', orient='records', lines=True)."
        )
        raise InputError(msg)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PAR1":
            yield from _parquet_records(path)
        else:
            with _unzipped(path, start.startswith(b"\x1f\x8b")) as file:
                yield from _json_records(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        msg = f"Expected a whole gzip file, but {path} is damaged ({error}); fetch or write it again."
        raise InputError(msg) from error
    except OSError as error:
        msg = f"Expected a readable file, but {path} cannot be read ({error.strerror}); check its permissions."
        raise InputError(msg) from error


@contextmanager
def _unzipped(path: Path, zipped: bool) -> Iterator[BinaryIO]:
    with cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb") as file:
        yield file


def _json_records(file: BinaryIO, path: Path) -> Iterator[Any]:
    """The items of the one array, the one object, or the values of the lines."""
    blank = b""  # what stands before the first record
    begun, offset = False, 0
    # Lines of bytes: str.splitlines also breaks at U+2028 and the like, which JSON strings may hold unescaped.
    for number, data in enumerate(file, start=1):
        line = _decode(data, offset, path)
        offset += len(data)
        if not line.strip():
            blank += b"" if begun else data
            continue
        # An array, or one object printed over several lines.
        if not begun and (line.lstrip().startswith("[") or line.strip() == "{"):
            value = _load(_decode(blank + data + file.read(), 0, path), path)
            yield from value if isinstance(value, list) else [value]
            return
        begun = True
        yield _load(line, path, number)
    if not begun:
        msg = f"Expected edits, but {path} is empty; give a file with at least one record."
        raise InputError(msg)


def _decode(data: bytes, offset: int, path: Path) -> str:
    try:
        return data.decode("utf-8" if offset else "utf-8-sig")  # a byte order mark may come first
    except UnicodeDecodeError as error:
        place = offset + error.start
        msg = f"Expected UTF-8 text, but {path} is not ({error.reason} at byte {place}); convert it."
        raise InputError(msg) from error


def _load(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        why = getattr(error, "msg", str(error))
        msg = f"Expected a JSON array or JSON Lines, but line {line} of {path} is not JSON ({why}); correct it."
        raise InputError(msg) from error


def _parquet_records(path: Path) -> Iterator[Any]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        msg = f"Expected a whole Parquet file, but {path} cannot be read ({why}); fetch or write it again."
        raise InputError(msg) from error


def _hub_records(name: str, split: str) -> Iterator[Any]:
    try:
        from datasets import load_dataset, load_dataset_builder  # takes seconds to import, and files need none of it

        info = load_dataset_builder(name).info
        size = info.dataset_size or info.download_size or 0
        yield from load_dataset(name, split=split, streaming=size > LARGE)
    except Exception as error:  # what fails depends on the network and on versions of three libraries
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = (
            f"Expected a file or a data set on the hub, but there is no file {name!r} and loading "
            f"that data set, split {split!r}, failed ({why}); check the name, the split and the connection."
        )
        raise InputError(msg) from error
