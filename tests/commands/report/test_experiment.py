"""Reports of experiments: the paper's layout and numbers, and cells that are not done."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.main import main
from aeplus.metrics.paired import score_difference
from made_runs import SVG, made_experiment, made_metrics
from pages import Shown


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; figures, which take a second, are not drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aeplus.commands.report.pictures._drawn", lambda *_: {})
    return tmp_path


def test_an_experiment() -> None:
    made_experiment(Path("table1"))
    assert main(["report", "table1", "--out", "page.html", "--markdown", "page.md"]) == 0
    page, markdown = Shown(Path("page.html")), Path("page.md").read_text()
    assert page.table("", "plain") == [
        ["alphaedit", "75.0 ± 8.8|paper 91.25", "62.5 (n = 1)"],
        ["alphaedit_plus", "87.5 ± 4.4", "–"],
    ]
    assert "Score on 4 edits. Mean ± sample standard deviation, n = 2." in page.text
    assert "| alphaedit | 75.0 ± 8.8 (paper 91.25) | 62.5 (n = 1) |" in markdown
    unfinished, done = [table[1:] for table in page.tables if table[0][:2] == ["data", "method"]]
    assert [len(unfinished), len(done)] == [2, 6]
    assert done[0] == ["plain", "alphaedit", "ridge = 10", "0", "done", "1.5"]
    assert unfinished[0] == ["rewrites", "alphaedit", "ridge = 10", "1", "failed: out of memory", "–"]
    assert "<details><summary>Cells that are done</summary>" in Path("page.html").read_text()
    assert page.tags.count("details") == 1
    assert "The experiment is not complete: 1 failed and 1 missing of 8 cells." in page.text
    assert "6 of 8 cells" in page.text
    against = [table for table in page.tables if table[0][:2] == ["method", "Score, difference"]]
    assert [table[1][0] for table in against] == ["alphaedit_plus, ridge = 10"] * 2
    assert [table[1][3] for table in against] == ["2", "1"]  # seeds that both have done
    ours, theirs = ([made_metrics(right=(1, extra, s, 1))["hits"] for s in (0, 1)] for extra in (1, 0))
    assert against[0][1][1] == f"{score_difference(ours, theirs)['value']:+.1f}" == "+12.5"
    assert "AlphaEdit+ is ahead where edits conflict." in page.text
    assert "torch2.13.0" in page.text
    assert "aeplus experiment table1 --config model/small --scale small" in page.text
    assert f"data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()}" in page.addresses
    assert "![Score against conflict](table1/figures/score.svg)" in markdown
    assert page.tags.count("figure") == Path("page.html").read_text().count('<figure class="wide">') == 1
    costs = [row[0] for row in page.table("", "statistics")]
    assert costs[0] == "plain: alphaedit, ridge = 10"
    assert len(costs) == 4


PAGE = """# Case studies

| method | run | edits |
| --- | --- | ---: |
| memit | `a` | 2 |

## Edit 2: Where is \\*Rome\\*? → Spain

s(k, K0) 0.43; ‖r‖ 52.5.

|  | prompt | before | memit |
| --- | --- | --- | --- |
| edit | Where is \\*Rome\\*? | in Italy \\| not Spain | Spain |
"""


def test_continuations_of_its_pages() -> None:
    folder = made_experiment(Path("cases"), pages=["cases/plain.md", "cases/rewrites.md"])
    (folder / "cases").mkdir()
    for name in ("plain", "rewrites"):
        (folder / "cases" / f"{name}.md").write_text(PAGE)
    assert main(["report", "cases", "--out", "page.html", "--markdown", "page.md"]) == 0
    page, markdown = Shown(Path("page.html")), Path("page.md").read_text()
    header = ["", "edit: Where is *Rome*?"]
    rows = [["before", "in Italy | not Spain"], ["memit", "Spain"]]
    assert [table for table in page.tables if table[0] == header] == [[header, *rows]] * 2
    assert "rewrites, Edit 2: Where is *Rome*? → Spain" in page.text
    assert "s(k, K0) 0.43; ‖r‖ 52.5." in page.text
    assert "Continuations" in markdown


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (None, "expected a page of continuations in cases/cases/plain.md, got a file that cannot be read"),
        ("# Case studies\n", "expected a page of aeplus cases in cases/cases/plain.md, got one without edits"),
        ("## Edit 1\n\ntext\n", "expected a table for every edit in cases/cases/plain.md, got another text"),
    ],
)
def test_a_page_that_is_none(page: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_experiment(Path("cases"), pages=["cases/plain.md"])
    if page is not None:
        (folder / "cases").mkdir()
        (folder / "cases" / "plain.md").write_text(page)
    assert main(["report", "cases", "--out", "page.html"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("page.html").exists()


def claimed(value: str, *lower: dict[str, Any]) -> dict[str, Any]:
    return {"value": value, "pairs": [{"higher": {"variant": "alphaedit"}, "lower": side} for side in lower]}


@pytest.mark.parametrize(
    ("claim", "titles", "first"),
    [
        (claimed("score", {"variant": "alphaedit_plus"}), ["Score against alphaedit_plus, ridge = 10"], "alphaedit"),
        (
            claimed("score", {"variant": "alphaedit_plus", "set.method.ridge": 10}),
            ["Score against alphaedit_plus"],
            "a",
        ),
        (claimed("magnitude.score", {"variant": "alphaedit"}), ["Score (strict) against alphaedit, ridge"], "alpha"),
        (claimed("seconds.total", {"data": "plain"}), ["Score against alphaedit, ridge = 10"], "alphaedit_plus"),
        (
            claimed("score", {"variant": "alphaedit"}, {"variant": "alphaedit_plus"}),
            ["Score against alphaedit, ", "Score against alphaedit_plus, "],
            "alphaedit_plus",
        ),
    ],
)
def test_scores_are_compared_with_the_claims_lower_side(claim: dict[str, Any], titles: list[str], first: str) -> None:
    made_experiment(Path("table1"), claimed=claim)
    assert main(["report", "table1", "--out", "page.html"]) == 0
    page = Shown(Path("page.html"))
    assert all(f"{title}" in page.text for title in titles)
    against = [table for table in page.tables if table[0][:2] == ["method", "Score, difference"]]
    assert len(against) == 2 * len(titles)  # of each data set
    assert against[0][1][0].startswith(first)


def test_seconds_by_part_are_no_wider_than_a_phone() -> None:
    folder = made_experiment(Path("table2"), figures=["figures/effort.svg"])
    (folder / "figures" / "effort.svg").write_text(SVG)
    assert main(["report", "table2", "--out", "page.html"]) == 0
    assert "<figure><div" in Path("page.html").read_text()


def test_without_the_papers_numbers_it_says_so() -> None:
    folder = made_experiment(Path("table1"))
    content = json.loads((folder / "experiment.json").read_text())
    content["tables"][0]["rows"][0]["paper"] = None
    (folder / "experiment.json").write_text(json.dumps(content))
    assert main(["report", "table1", "--out", "page.html"]) == 0
    assert "The paper's numbers are not in experiment.json." in Shown(Path("page.html")).text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tables": 3}, "expected tables in table1/experiment.json to be a list, got 3"),
        ({"command": None}, "expected command in table1/experiment.json to be a text, got None"),
        ({"figures": ["../../secret.svg"]}, "within its folder, got '../../secret.svg'"),
        ({"figures": ["/etc/passwd"]}, "within its folder, got '/etc/passwd'"),
        ({"figures": ["figures/none.svg"]}, "expected the figure table1/figures/none.svg, got none"),
        ({"figures": ["experiment.json"]}, "expected a PNG of at most 20 MB in table1/experiment.json"),
        ({"cells": [{"folder": "../x", "seed": 0, "status": "done"}]}, "within its folder, got '../x'"),
        ({"cells": [{"folder": "x", "seed": 0, "status": "done"}]}, "expected metrics.json in the run table1/x"),
        ({"cells": [{"folder": "x", "seed": 0, "status": "gone"}]}, "to be one of done, failed, missing, got 'gone'"),
        (
            {"tables": [{"columns": ["a"], "rows": [{"label": "x", "values": []}]}]},
            "expected 1 values in tables[0].rows[0] of table1/experiment.json, got 0",
        ),
    ],
)
def test_a_damaged_experiment_is_refused(capsys: pytest.CaptureFixture[str], change: dict[str, Any], text: str) -> None:
    made_experiment(Path("table1"), **change)
    assert main(["report", "table1"]) == 2
    assert text in capsys.readouterr().err
    assert not Path("report.html").exists()


def test_cells_of_one_name_are_kept_apart() -> None:
    folder = made_experiment(Path("table1"))
    content = json.loads((folder / "experiment.json").read_text())
    for cell in content["cells"]:
        cell["set"] = cell["variant"] = cell["data"] = None
    (folder / "experiment.json").write_text(json.dumps(content))
    assert main(["report", "table1", "--out", "page.html"]) == 0
    assert len(Shown(Path("page.html")).table("", "statistics")) == 6
