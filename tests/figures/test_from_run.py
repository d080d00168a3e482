"""The figures of a run from handwritten files in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aeplus.errors import InputError
from aeplus.figures.from_run import DATA, FIGURES, figures_of_run
from aeplus.run.records import EditRecord, read_records, write_records


def record(edit: int, **more: Any) -> EditRecord:
    values: dict[str, Any] = {
        "edit": edit, "id": str(edit), "batch": 1, "prompt": "Größe | von", "subject": "S", "target": "T",
        "s_K0": edit / 10, "s_Kp": 0.0, "residual": 2.0 + edit, "smoothed": False, "after": {"score": 10.0 * edit},
    }  # fmt: skip
    return EditRecord(**{**values, **more})


RECORDS = [record(i) for i in range(1, 7)]
METRICS = {
    "method": "alphaedit",
    "batches": [
        {
            "smoothing_iterations": 5,
            "committed_iteration": 3,
            "seconds": {"targets": 1.0, "solve": 1.0, "validate": 0.0, "total": 2.5},
        }
    ],
    "measures": {"retention": {"matrix": [[100.0, None], [50.0, 100.0]]}},
}
CAPABILITIES = {"results": [{"step": 0, "tasks": {"rte": {"f1": 60.0}}}]}
SHOWN = {
    "spectra": [{"layer": layer, "values": [0.1, 0.2, 3.0], "null": 2, "added": {"2": 1}} for layer in (3, 4)],
    "hidden": {"layer": 5, "axes": ["a", "b"], "before": [[0, 1], [1, 0]], "after": [[0, 2], [2, 0]]},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_records(RECORDS, tmp_path)
    (tmp_path / "figures").mkdir()
    for name, content in (("metrics.json", METRICS), ("capabilities.json", CAPABILITIES), (str(DATA), SHOWN)):
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_every_figure_whose_data_there_are(run: Path) -> None:
    found = figures_of_run(run)
    names = "conflict stream score effort spectrum_layer_3 spectrum_layer_4 hidden capabilities retention"
    assert list(found) == names.split()
    assert found["score"].axes[0].get_legend_handles_labels()[1] == ["alphaedit"]
    assert [text.get_text() for text in figures_of_run(run, ["score"], bins=2)["score"].axes[0].texts] == ["n=3"] * 2
    assert [text.get_text() for text in found["effort"].axes[0].texts] == ["t = 3\nof 4"]
    assert list(figures_of_run(run, ["retention", "spectrum"])) == ["retention", "spectrum_layer_3", "spectrum_layer_4"]
    assert figures_of_run(run, []) == {}
    assert set(FIGURES) == {"conflict", "stream", "score", "effort", "spectrum", "hidden", "capabilities", "retention"}


def test_what_is_missing_is_left_out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert figures_of_run(tmp_path_factory.mktemp("empty")) == {}
    write_records([record(1, after=None), record(2, superseded=True)], run)
    (run / "metrics.json").write_text("{}")
    (run / "capabilities.json").unlink()
    (run / DATA).write_text(json.dumps({"spectra": [], "hidden": None}))
    assert list(figures_of_run(run)) == ["conflict", "stream"]  # no edit that is measured and should hold


def test_records_are_read_as_they_were_written(run: Path) -> None:
    assert read_records(run) == RECORDS
    assert len((run / "edits.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    assert read_records(run / "figures") == []
    assert (record(1).score(), record(1).score("efficacy"), record(1, superseded=True).score()) == (10.0, None, None)


@pytest.mark.parametrize(
    ("name", "content", "names", "text"),
    [
        ("edits.jsonl", '{"edit": 1}\n', None, r"expected a record of FigureWriter in .*edits.jsonl, line 1"),
        ("edits.jsonl", "{", None, r"got something that is not JSON in line 1 of .*edits.jsonl"),
        (
            "metrics.json",
            "{",
            None,
            r"expected the JSON of a run, got .* in line 1 of .*metrics.json",
        ),
        ("metrics.json", '{"batches": [{}]}', None, r"expected the files of a run in .*KeyError\('seconds'\)"),
        ("capabilities.json", '{"results": [3]}', None, r"got a damaged one \(TypeError"),
        ("x", "", ["conflict", "heat"], r"expected figures out of conflict, stream, .*, got heat"),
    ],
)
def test_damaged_files_are_named(run: Path, name: str, content: str, names: Sequence[str] | None, text: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(InputError, match=text):
        figures_of_run(run, names)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a run folder, got .*none; pass"):
        figures_of_run(tmp_path / "none")
