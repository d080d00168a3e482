"""Records from a local file or from the hub, one after another."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.utils.jsonl import iterate_records, opened
from aeplus.utils.paths import expanded

LARGE = 1 << 30
"""A data set on the hub of more bytes is streamed instead of being kept in the cache."""

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")
_FILE_ENDINGS = {".json", ".jsonl", ".ndjson", ".gz", ".parquet", ".txt", ".csv", ".tsv"}
_TABLE = re.compile(r".*\.(?:csv|tsv)(?:\.gz)?", re.IGNORECASE)
_PARQUET = b"PAR1"


def read_records(source: str | Path) -> Iterator[Any]:
    """Yields the records of a file or of a data set on the hub; nothing is read before it is asked for.

    Args:
        source: A file with JSON Lines, a JSON array, one JSON object (each gzipped or not) or Parquet, detected by
            its content; or, where no such file exists, a hub id ``owner/name`` or ``owner/name:split`` (split
            ``train`` unless given). JSON Lines and Parquet are read piece by piece, a JSON array as a whole. A data
            set of more than :data:`LARGE` bytes is streamed, a smaller one comes from the cache.

    Raises:
        InputError: If it cannot be read, or contains no record.
    """
    path = expanded(source)
    hub = _HUB_ID.fullmatch(str(source))
    if path.is_dir():
        msg = f"expected a file of edits, got the folder {path}; give the path of the file inside it."
        raise InputError(msg)
    if path.exists():
        records = _file_records(path)
    elif hub and path.suffix.lower() not in _FILE_ENDINGS:
        records = _hub_records(hub["name"], hub["split"] or "train")
    else:
        msg = f"expected a file of edits, got {path}, which does not exist; check the path."
        raise InputError(msg)
    empty = True
    for record in records:
        empty = False
        yield record
    if empty:
        msg = f"expected at least one record in {source}, got none; check the file or the data set."
        raise InputError(msg)


def _file_records(path: Path) -> Iterator[Any]:
    if _TABLE.fullmatch(path.name):
        msg = (
            f"expected JSON, JSON Lines or Parquet, got the text table {path}, which cannot contain lists of prompts; "
            f"convert it, for instance with pandas: read_csv(...).to_json('edits.jsonl', orient='records', lines=True)."
        )
        raise InputError(msg)
    with opened(path) as file:
        if file.peek(len(_PARQUET)).startswith(_PARQUET):
            yield from _parquet_records(path)
        else:
            for _, record in iterate_records(file, path):
                yield record


def _parquet_records(path: Path) -> Iterator[Any]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        msg = f"expected a complete Parquet file, got damaged data in {path} ({reason}); download or write it again."
        raise InputError(msg) from error


def _hub_records(name: str, split: str) -> Iterator[Any]:
    try:
        from datasets import load_dataset, load_dataset_builder  # takes seconds to import, and files need none of it

        info = load_dataset_builder(name).info
        size = info.dataset_size or info.download_size or 0
        yield from load_dataset(name, split=split, streaming=size > LARGE)
    except Exception as error:  # what fails depends on the network and on versions of three libraries
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = (
            f"expected a file or a data set on the hub, got no file {name!r} and an error when loading that data set, "
            f"split {split!r} ({reason}); check the name, the split and the connection."
        )
        raise InputError(msg) from error
