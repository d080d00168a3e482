"""The one reader and writer of JSON and JSON Lines.

Own files: :func:`write_json`, :func:`write_jsonl` (whole or not at all), :func:`read_json` and :func:`read_jsonl`.
Files of users, as JSON Lines or one array, gzipped or not: :func:`opened` and :func:`iterate_records`::

    with opened(path) as file:
        for place, record in iterate_records(file, path):  # ("edits.jsonl, line 3", {...})
            ...

A line ends at a newline alone: ``str.splitlines`` also breaks at U+2028 and the like, which JSON strings may contain
unescaped.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from aeplus.errors import InputError
from aeplus.utils.paths import whole_file

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def write_json(path: Path, content: Any, indent: int | None = 2, *, overwrite: bool = False, mark: bool = True) -> None:
    """Writes a value as JSON; see :func:`~aeplus.utils.paths.whole_file` for what may be replaced.

    Raises:
        InputError: If the file may not or cannot be written.
    """
    with whole_file(path, overwrite=overwrite, mark=mark) as scratch:
        scratch.write_text(json_text(content, indent), encoding="utf-8")


def json_text(content: Any, indent: int | None = 2) -> str:
    """The text that :func:`write_json` writes."""
    return json.dumps(content, ensure_ascii=False, indent=indent) + "\n"


def write_jsonl(path: Path, records: Iterable[Any], *, overwrite: bool = False, mark: bool = True) -> None:
    """Writes values as JSON Lines, one per line; see :func:`~aeplus.utils.paths.whole_file` for what may be replaced.

    Raises:
        InputError: If the file may not or cannot be written.
    """
    with whole_file(path, overwrite=overwrite, mark=mark) as scratch:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        scratch.write_text("".join(lines), encoding="utf-8")


def read_json(path: Path, expected: str = "JSON") -> Any:
    """The value of a JSON file.

    Args:
        path: The file.
        expected: What messages say the file should contain.

    Raises:
        InputError: If the file cannot be read or is not JSON.
    """
    text = read_utf8(path, expected)
    return parse_json(text, path, 1, expected)


def read_jsonl(path: Path, expected: str = "JSON Lines") -> Iterator[tuple[int, Any]]:
    """The values of a JSON Lines file with their line numbers, from 1; blank lines are skipped.

    Args:
        path: The file.
        expected: What messages say the file should contain.

    Raises:
        InputError: If the file cannot be read or a line is not JSON.
    """
    for number, line in enumerate(read_utf8(path, expected).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, path, number, expected)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file open for reading bytes, unzipped if it is gzipped.

    Raises:
        InputError: If it is a pipe or a device, cannot be opened or, within the block, cannot be read to its end.
    """
    refuse_streams(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            with cast(BufferedReader, gzip.open(raw)) if zipped else raw as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        msg = f"expected a complete gzip file, got damaged data in {path} ({error}); download or write it again."
        raise InputError(msg) from error
    except OSError as error:
        reason = error.strerror or error
        msg = f"expected a readable file, got an error from {path} ({reason}); check the path and its permissions."
        raise InputError(msg) from error


def iterate_records(
    file: BinaryIO, path: Path, expected: str = "a JSON array or JSON Lines"
) -> Iterator[tuple[str, Any]]:
    """The records of a file: the items of its one array, its one object, or the values of its lines.

    Lines are read one by one, as they are asked for; an array, or one object printed over several lines, as a whole.

    Args:
        file: The open file, UTF-8 with or without a byte order mark; see :func:`opened`.
        path: What messages call it.
        expected: What messages say the file should contain.

    Yields:
        (place, record), the place such as ``edits.jsonl, line 3`` or, in an array, ``edits.json, item 3``. Nothing if
        the file is empty.

    Raises:
        InputError: If it is not UTF-8 or not JSON; the message names the byte or the line.
    """
    leading = b""  # blank lines before the first record
    begun, offset = False, 0
    for number, data in enumerate(file, start=1):
        line = _decoded(data, offset, path)
        offset += len(data)
        if not line.strip():
            leading += b"" if begun else data
            continue
        if not begun and (line.lstrip().startswith("[") or line.strip() == "{"):
            value = parse_json(_decoded(leading + data + file.read(), 0, path), path, 1, expected)
            items = value if isinstance(value, list) else [value]
            yield from ((f"{path}, item {index}", item) for index, item in enumerate(items, start=1))
            return
        begun = True
        yield f"{path}, line {number}", parse_json(line.rstrip("\r\n"), path, number, expected)


def _decoded(data: bytes, offset: int, path: Path) -> str:
    try:
        return data.decode("utf-8" if offset else "utf-8-sig")  # a byte order mark may come first
    except UnicodeDecodeError as error:
        position = offset + error.start
        msg = f"expected UTF-8 text in {path}, got an {error.reason} at byte {position}; convert the file to UTF-8."
        raise InputError(msg) from error


def refuse_streams(path: Path) -> None:
    """Files are read more than once, which pipes, sockets and devices do not stand.

    Raises:
        InputError: If the path is one of these.
    """
    if path.is_fifo() or path.is_socket() or path.is_char_device() or path.is_block_device():
        msg = f"expected a file, got {path}, a pipe or device, which can be read only once; write it to a file first."
        raise InputError(msg)


def read_utf8(path: Path, expected: str) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    refuse_streams(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        msg = f"expected {expected} in {path}, got a file that cannot be read ({reason}); check the path and the file."
        raise InputError(msg) from error


def parse_json(text: str, path: Path, line: int, expected: str = "JSON") -> Any:
    """The value of a JSON text that begins at a line of a file.

    Raises:
        InputError: If it is not JSON, where the message names the line, or an object has a name twice.
    """

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # Python would keep the last value and say nothing
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            msg = f"expected {expected} with every name once in an object, got {twice!r} twice in {path}, "
            msg += f"in {json.dumps(found, ensure_ascii=False):.80}; correct it."
            raise InputError(msg)
        return found

    try:
        value = json.loads(text, object_pairs_hook=named)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        reason = getattr(error, "msg", str(error))
        msg = f"expected {expected}, got something that is not JSON in line {line} of {path} ({reason}); correct it."
        raise InputError(msg) from error
    if _SURROGATE.search(text) and not _encodable(value):
        msg = f"expected {expected}, got half of a character (a lone surrogate) in line {line} of {path}; correct it."
        raise InputError(msg)
    return value


def _encodable(value: Any) -> bool:
    """Whether all texts are whole: JSON can write the halves of a character alone, which is no text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
