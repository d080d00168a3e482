"""The one reader and writer of JSON and JSON Lines.

Files are written whole or not at all. A line ends at a newline alone: ``str.splitlines`` also breaks at U+2028 and
the like, which JSON strings may hold unescaped.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.utils.paths import whole_file


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON.

    Raises:
        InputError: If the file cannot be written.
    """
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Writes values as JSON Lines, one per line.

    Raises:
        InputError: If the file cannot be written.
    """
    with whole_file(path) as scratch:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        scratch.write_text("".join(lines), encoding="utf-8")


def read_json(path: Path, expected: str = "JSON") -> Any:
    """The value of a JSON file.

    Args:
        path: The file.
        expected: What a message says the file should hold.

    Raises:
        InputError: If the file cannot be read or is not JSON.
    """
    text = read_utf8(path, expected)
    return parse_json(text, path, 1, expected)


def read_jsonl(path: Path, expected: str = "JSON Lines") -> Iterator[tuple[int, Any]]:
    """The values of a JSON Lines file with their line numbers, from 1; blank lines are passed over.

    Args:
        path: The file.
        expected: What a message says the file should hold.

    Raises:
        InputError: If the file cannot be read or a line is not JSON.
    """
    for number, line in enumerate(read_utf8(path, expected).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, path, number, expected)


def read_utf8(path: Path, expected: str) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        msg = f"expected {expected} in {path}, got a file that cannot be read ({reason}); check the path and the file."
        raise InputError(msg) from error


def parse_json(text: str, path: Path, line: int, expected: str = "JSON") -> Any:
    """The value of a JSON text that begins at a line of a file.

    Raises:
        InputError: If it is not JSON; the message names the line.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        reason = getattr(error, "msg", str(error))
        msg = f"expected {expected}, got something that is not JSON in line {line} of {path} ({reason}); correct it."
        raise InputError(msg) from error
