"""Sources: every form of file by its content, the hub, every error by its text."""

import csv
import gzip
import json
import sys
import types
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest

from aeplus.data.readers import read_requests
from aeplus.data.sources import LARGE, read_records
from aeplus.errors import InputError

PLAIN = {"prompt": "The capital of {} is", "subject": "Oz", "target_new": "Rome"}


def write(folder: Path, content: Any, name: str = "edits.dat") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def message(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        list(read_records(path))
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(str(Path(path).parent), "DIR")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_form_of_the_file_is_detected_by_its_content(tmp_path: Path, lines: bool, zipped: bool) -> None:
    records = [PLAIN, {**PLAIN, "subject": "Ix\u2028"}, {**PLAIN, "subject": "Ap"}]
    text = "\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in records) if lines else json.dumps(records)
    data = ("\ufeff" + text).encode()
    path = tmp_path / "edits.bin"
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert list(read_records(path)) == records


@pytest.mark.parametrize("before", ["", "\n \n"])
def test_one_object_over_several_lines(tmp_path: Path, before: str) -> None:
    assert list(read_records(write(tmp_path, before + json.dumps(PLAIN, indent=2)))) == [PLAIN]


def test_lines_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, json.dumps(PLAIN) + "\n{damaged")
    assert list(islice(read_records(path), 1)) == [PLAIN]
    assert len(read_requests(path, limit=1)) == 1
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:  # a gigabyte that takes no place
        file.write(json.dumps(PLAIN).encode() + b"\n")
        file.truncate(1 << 30)
    zipped = tmp_path / "large.gz"
    with gzip.open(zipped, "wb") as packed:
        for _ in range(2000):
            packed.write(json.dumps(PLAIN).encode() + b"\n")
    half = tmp_path / "half.gz"
    half.write_bytes(zipped.read_bytes()[:-9])
    for source in (large, half):
        assert len(read_requests(source, limit=1)) == 1


def test_parquet(tmp_path: Path) -> None:
    knowedit = {
        **PLAIN,
        "prompt": "The capital of Oz is",
        "portability": {"Reasoning": [{"prompt": "Oz lies in", "ground_truth": [["Italy", "IT"]]}], "Other": None},
        "locality": {"Forgetfulness": [{"prompt": "Oz is not", "ground_truth": ["x"]}]},
    }
    bare = {**PLAIN, "subject": "Ix", "prompt": "Ix is", "portability": None, "locality": None}
    path = tmp_path / "edits.jsonl"  # detected by its content
    datasets.Dataset.from_list([knowedit, bare] * 1500).to_parquet(path)
    requests = read_requests(path)
    assert len(requests) == 3000
    assert requests[0].axes[0].answers == ("Italy", "IT")
    assert requests[1].axes == ()
    assert len(read_requests(path, limit=2)) == 2
    path.write_bytes(path.read_bytes()[:-20])
    assert message(path).startswith("expected a complete Parquet file, got damaged data in DIR/edits.jsonl (")


@pytest.mark.parametrize(("name", "mark"), [("edits.csv", ","), ("edits.TSV", "\t"), ("edits.csv", ";")])
def test_tables(tmp_path: Path, name: str, mark: str) -> None:
    rows = [
        ["prompt", "subject", "target_new", "rephrase", "neighborhood", "target_true"],
        ["{} is", "Oz", "1969", '["Oz, \\"a land\\", was"]', "['Ix is', 'Ur is']", ""],
        ["{}", "Ann", "a\u2028b", "", "", "Bob"],
    ]
    with (path := tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    first, second = read_requests(path)
    assert (first.target_new, first.target_true, second.target_new) == ("1969", None, "a\u2028b")
    assert first.rephrase == ('Oz, "a land", was',)
    assert [probe.prompt for probe in first.neighborhood] == ["Ix is", "Ur is"]
    assert (second.prompt, second.rephrase, second.neighborhood, second.target_true) == ("{}", (), (), "Bob")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("['Oslo city', nan]", ("Oslo city",)),
        ("[nan]", ()),
        ("['a', None, 'it\\'s']", ("a", "it's")),
        ("['Ann''s']", None),
        ("['Ann lives in' 'Ann dwells in']", None),
        ("['Ann lives in'\n 'Ann dwells in']", None),
        ("['Ann lives in' nan]", None),
        ('["Ann lives in" "Ann dwells in"]', None),
        ("['a', 'b'", None),
        ("['a'], ['b']", None),
        ("[array(['a', 'b'], dtype=object)]", None),
        ("[{'prompt': 'a'} {'prompt': 'b'}]", None),
        ("{'a', 'b'}", None),
        ("[Ann] lives in", ("[Ann] lives in",)),
        ("[{}] lives in", ("[{}] lives in",)),
        ("{}'s home is", ("{}'s home is",)),
    ],
)
def test_lists_in_cells(tmp_path: Path, cell: str, value: tuple[str, ...] | None) -> None:
    with (path := tmp_path / "edits.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[*PLAIN, "rephrase", "output"], [*PLAIN.values(), cell, "['a' 'b"]])
    if value is not None:
        assert read_requests(path)[0].rephrase == value
        return
    with pytest.raises(InputError) as caught:
        read_requests(path)
    assert str(caught.value).startswith(
        f"{path}, record 1: expected 'rephrase' to be a string or a list of strings, got a list in neither JSON's nor "
        f"Python's form, {cell:.20}"
    )
    with pytest.warns(UserWarning, match="1 test prompts cannot be used and are left out"):
        assert read_requests(path, skip_unusable=True)[0].rephrase == ()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("prompt,subject\na,b,c\n", "expected as many cells as columns in DIR/edits.csv, got others in the row that e"),
        ("prompt,subject\na\n", "expected as many cells as columns in DIR/edits.csv, got others in the row that ends"),
        ('prompt,subject\n"a"b,c\n', "expected a table in UTF-8 in DIR/edits.csv, got something else ("),
        (
            "prompt,subject,,,subject\na,b,,,c\n",
            "expected every column of DIR/edits.csv to have a name of its own, got 'subject' twice; rename one of them",
        ),
        ("prompt,subject\n", "expected at least one record in DIR/edits.csv, got none"),
    ],
)
def test_damaged_tables(tmp_path: Path, content: str, text: str) -> None:
    assert message(write(tmp_path, content, "edits.csv")).startswith(text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "expected at least one record in DIR/edits.dat, got none; check the file or the data set."),
        (" \n\n", "expected at least one record in DIR/edits.dat, got none; check"),
        ("[]", "expected at least one record in DIR/edits.dat, got none; check"),
        (
            json.dumps(PLAIN) + "\nhello",
            "expected a JSON array or JSON Lines, got something that is not JSON in line 2 of DIR/edits.dat (Expecting "
            "value); correct it.",
        ),
        (
            json.dumps(PLAIN)[:-1] + ', "subject": "Ix"}',
            "expected a JSON array or JSON Lines with every name once in an object, got 'subject' twice in "
            'DIR/edits.dat, in {"prompt": "The capital of {} is", "subject": "Ix", ',
        ),
        (
            "[\n1,\n]",
            "expected a JSON array or JSON Lines, got something that is not JSON in line 3 of DIR/edits.dat (",
        ),
        ("\n\n[\n1,\n]", "expected a JSON array or JSON Lines, got something that is not JSON in line 5 of DIR/edits"),
    ],
)
def test_error_texts(tmp_path: Path, content: str, text: str) -> None:
    assert message(write(tmp_path, content)).startswith(text)


def test_damaged_bytes(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    for records in (json.dumps([PLAIN] * 50), "\n".join([json.dumps(PLAIN)] * 50)):
        path.write_bytes(gzip.compress(records.encode())[:-9])
        assert message(path).startswith("expected a complete gzip file, got damaged data in DIR/edits.jsonl (")
    path.write_bytes(b"\xff\xfe{")
    assert message(path) == (
        "expected UTF-8 text in DIR/edits.jsonl, got an invalid start byte at byte 0; convert the file to UTF-8."
    )
    path.write_bytes(b'{"a": 1}\n{"b": "\xff"}\n')
    assert "an invalid start byte at byte 16;" in message(path)
    path.write_bytes(b'[{"a": 1},\n"\xff"]\n')
    assert "an invalid start byte at byte 12;" in message(path)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^expected a file of edits, got the folder .*; give the path"):
        list(read_records(tmp_path))
    for missing in (tmp_path / "none.json", "none.jsonl", "data/none.jsonl", "data/none.parquet", "data/none.csv"):
        with pytest.raises(InputError, match=r"^expected a file of edits, got .*, which does not exist; check"):
            list(read_records(missing))


class Hub:
    """Stands in for the hub, and notes what it is asked."""

    def __init__(self, size: int | None, download: int | None = None, count: int = 3) -> None:
        self.info = types.SimpleNamespace(dataset_size=size, download_size=download)
        self.count = count
        self.asked: list[tuple[str, str, bool]] = []
        self.given = 0

    def load_dataset_builder(self, name: str) -> Any:
        return types.SimpleNamespace(info=self.info)

    def load_dataset(self, name: str, split: str, streaming: bool) -> Iterator[Any]:
        self.asked.append((name, split, streaming))
        if split == "none":
            reason = "Unknown split\n'none'."
            raise ValueError(reason)
        return self.rows()

    def rows(self) -> Iterator[Any]:
        for _ in range(self.count):
            self.given += 1
            yield PLAIN
        if self.count > 5:
            reason = "The connection broke."
            raise ConnectionError(reason)


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(1000)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert len(read_requests("some/data", limit=1)) == 1
    assert len(read_requests("some/data:test")) == 3
    assert hub.asked == [("some/data", "train", False), ("some/data", "test", False)]
    with pytest.raises(InputError, match=r"no file 'some/data' .* 'none' \(Unknown split 'none'\); check the name"):
        read_requests("some/data:none")


@pytest.mark.parametrize(
    ("size", "download", "streams"),
    [(LARGE + 1, 5, True), (None, LARGE + 1, True), (LARGE, 5, False), (None, None, False)],
)
def test_a_large_data_set_is_streamed(
    size: int | None, download: int | None, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(size, download, count=10)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert len(read_requests("some/data", limit=4)) == 4
    assert hub.asked == [("some/data", "train", streams)]
    assert hub.given == 4  # no row more
    with pytest.raises(InputError, match=r"'train' \(The connection broke\); check the name"):
        read_requests("some/data")


def test_hub_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub(0, count=0))
    with pytest.raises(InputError, match="expected at least one record in some/data:test, got none; check"):
        read_requests("some/data:test")
