"""JSON files: what is written is read again, users' files in every form, every error by its text."""

import gzip
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from aeplus.errors import InputError
from aeplus.utils.jsonl import iterate_records, opened, read_json, read_jsonl, read_utf8, write_json, write_jsonl

VALUES = [{"text": "Zoë\u2028"}, [1, 2.5, None], "x\ny", True]


def records(path: Path) -> list[tuple[str, Any]]:
    with opened(path) as file:
        return list(iterate_records(file, path))


def test_own_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "values.json"
    write_json(path, VALUES)
    assert read_json(path) == VALUES
    assert "Zoë" in path.read_text("utf-8")
    write_jsonl(path, VALUES)
    assert list(read_jsonl(path)) == list(enumerate(VALUES, start=1))
    path.write_text("\ufeff\n" + path.read_text("utf-8").replace("\n", "\r\n\n", 1), "utf-8")
    assert [number for number, _ in read_jsonl(path)] == [2, 4, 5, 6]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".aeplus", "values.json"]


def test_a_value_that_is_not_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_jsonl(path, [1, object()])
    assert read_json(path) == 1


def test_errors_of_own_files(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    with pytest.raises(
        InputError, match=r"^expected scores in .*values\.json, got a file that cannot be read \(No such"
    ):
        read_json(path, "scores")
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"cannot be read \(invalid start byte\); check the path and the file\.$"):
        list(read_jsonl(path))
    path.write_text("1\n\n[2,\n")
    with pytest.raises(InputError, match=r"^expected JSON Lines, got something that is not JSON in line 3 of .* \("):
        list(read_jsonl(path))
    with pytest.raises(InputError, match=r"^expected scores, got something that is not JSON in line 3 of .* \(Extra"):
        read_json(path, "scores")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_form_of_a_file_of_records(tmp_path: Path, mark: str, zipped: bool) -> None:
    path = tmp_path / "edits"
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in VALUES)
    for text, name in ((lines, "line"), (json.dumps(VALUES, ensure_ascii=False), "item")):
        data = (mark + text).encode()
        path.write_bytes(gzip.compress(data) if zipped else data)
        assert records(path) == [(f"{path}, {name} {number}", value) for number, value in enumerate(VALUES, start=1)]


def test_blank_lines_and_one_object(tmp_path: Path) -> None:
    path = tmp_path / "edits"
    path.write_text('\n \n{"a": 1}\n\n{"a": 2}\n')
    assert records(path) == [(f"{path}, line 3", {"a": 1}), (f"{path}, line 5", {"a": 2})]
    path.write_text('\n{\n"a": 1\n}\n')
    assert records(path) == [(f"{path}, item 1", {"a": 1})]
    path.write_text(" \n")
    assert records(path) == []


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "edits"
    path.write_text('{"a": 1}\n{damaged')
    with opened(path) as file:
        assert list(islice(iterate_records(file, path), 1)) == [(f"{path}, line 1", {"a": 1})]


def test_errors_of_files_of_records(tmp_path: Path) -> None:
    path = tmp_path / "edits"
    with pytest.raises(InputError, match=r"^expected a readable file, got an error from .*edits \(No such file"):
        records(path)
    path.write_text('{"a": 1}\nhello')
    with (
        pytest.raises(InputError, match=r"^expected items, got something that is not JSON in line 2 of .*edits \("),
        opened(path) as file,
    ):
        list(iterate_records(file, path, "items"))
    path.write_text("\n[1,\n2,]")
    with pytest.raises(InputError, match=r"^expected a JSON array or JSON Lines, got .* in line 3 of .*edits \("):
        records(path)
    path.write_bytes(b'{"a": 1}\n"\xff"')
    with pytest.raises(
        InputError, match=r"^expected UTF-8 text in .*edits, got an invalid start byte at byte 10; conv"
    ):
        records(path)
    path.write_bytes(gzip.compress(json.dumps(VALUES).encode())[:-9])
    with pytest.raises(InputError, match=r"^expected a complete gzip file, got damaged data in .*edits \("):
        records(path)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """It can be read once only, and without a writer not at all."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = r"expected a file, got .*pipe, a pipe or device, which can be read only once; write it to a file first."
    for read in (lambda: opened(pipe).__enter__(), lambda: read_utf8(pipe, "JSON"), lambda: list(read_jsonl(pipe))):
        with pytest.raises(InputError, match=text):
            read()
