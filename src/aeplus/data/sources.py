"""Records from a local file or from the hub, one after another."""

import ast
import csv
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from aeplus.data.world_facts import SOURCE, world_facts
from aeplus.errors import InputError
from aeplus.utils.jsonl import iterate_records, opened
from aeplus.utils.paths import expanded

LARGE = 1 << 30
"""A data set on the hub of more bytes is streamed instead of being kept in the cache."""

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")
_FILE_ENDINGS = {".json", ".jsonl", ".ndjson", ".gz", ".parquet", ".txt", ".csv", ".tsv"}
_TABLE = re.compile(r".*\.(?:csv|tsv)(?:\.gz)?", re.IGNORECASE)
_PARQUET = b"PAR1"
_LISTED = re.compile(r"""\[\s*\[?\s*['"]|\[\s*\{(?!\})|\{\s*['"]|\[(?:array|list)\(""")


def read_records(source: str | Path) -> Iterator[Any]:
    """Yields the records of a file or of a data set on the hub; nothing is read before it is asked for.

    Args:
        source: A file with JSON Lines, a JSON array, one JSON object, a text table named ``.csv`` or ``.tsv`` (each
            gzipped or not) or Parquet, detected by its content; or, where no such file exists, a hub id
            ``owner/name`` or ``owner/name:split`` (split ``train`` unless given), or ``gensim:world-facts``, the
            facts of :mod:`aeplus.data.world_facts`. JSON Lines, tables and Parquet are
            read piece by piece, a JSON array as a whole. A data set of more than :data:`LARGE` bytes is streamed, a
            smaller one comes from the cache.

    Raises:
        InputError: If it cannot be read, or contains no record.
    """
    path = expanded(source)
    if path.is_dir():
        msg = f"expected a file of edits, got the folder {path}; give the path of the file inside it."
        raise InputError(msg)
    records: Iterator[Any]
    if path.exists():
        records = _file_records(path)
    elif str(source) == SOURCE:
        records = iter(world_facts())
    elif hub := _hub_id(source):
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


def is_missing(source: str | Path) -> bool:
    """Whether a source is a file, and there is none."""
    return not expanded(source).exists() and str(source) != SOURCE and _hub_id(source) is None


def _hub_id(source: str | Path) -> re.Match[str] | None:
    return None if Path(source).suffix.lower() in _FILE_ENDINGS else _HUB_ID.fullmatch(str(source))


def _file_records(path: Path) -> Iterator[Any]:
    with opened(path) as file:
        if file.peek(len(_PARQUET)).startswith(_PARQUET):
            yield from _parquet_records(path)
        elif _TABLE.fullmatch(path.name):
            yield from _table_records(file, path)
        else:
            for _, record in iterate_records(file, path):
                yield record


def _table_records(file: BinaryIO, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a text table, by the names in its first line. A cell may hold a list or an object, as JSON has it."""
    csv.field_size_limit(sys.maxsize)
    content = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        head = content.readline()
        content.seek(0)
        marks = {mark: head.count(mark) for mark in ",;\t"}
        rows = csv.DictReader(content, delimiter=max(marks, key=lambda mark: marks[mark]), strict=True)
        names = [name for name in rows.fieldnames or () if name.strip()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            msg = f"expected every column of {path} to have a name of its own, got {twice!r} twice; rename one of them."
            raise InputError(msg)
        for row in rows:
            if None in row or None in row.values():
                msg = (
                    f"expected as many cells as columns in {path}, got others in the row that ends in line "
                    f"{rows.line_num}; correct it."
                )
                raise InputError(msg)
            yield {name: _cell(value) for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        reason = str(error).rstrip(".")
        msg = f"expected a table in UTF-8 in {path}, got something else ({reason}); correct or convert it."
        raise InputError(msg) from error
    finally:
        content.detach()


class BrokenList:
    """A cell that is meant as a list or an object and cannot be read as one; whoever reads its field refuses it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        """What messages say they got."""
        return f"a list in neither JSON's nor Python's form, {self.text}"


def _cell(text: str) -> Any:
    """A cell's value: nothing for an empty one, a list or an object where it is one, else the text."""
    bare = text.strip()
    if not bare:
        return None
    if (bare[0], bare[-1]) in (("[", "]"), ("{", "}")):
        for read in (json.loads, _literal):  # pandas writes lists as Python does
            try:
                value = read(bare)
            except (ValueError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError):
                continue
            if isinstance(value, list) or (isinstance(value, dict) and value):
                return value
    return BrokenList(bare) if _LISTED.match(bare) else text


def _literal(text: str) -> Any:
    """The value of a Python literal, in which pandas writes what is missing as nan."""
    tree = _NanAsNone().visit(ast.parse(text, mode="eval"))
    words = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type != tokenize.NL]
    if any(a == b == tokenize.STRING for a, b in pairwise(words)):
        msg = "numpy writes arrays without commas, and Python would read their texts as one"
        raise ValueError(msg)
    return ast.literal_eval(tree)


class _NanAsNone(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(None) if node.id == "nan" else node


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
