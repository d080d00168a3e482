"""Reports of runs of ``fit`` and of comparisons: what stands in them, and what is refused."""

import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.main import main
from aeplus.metrics.paired import score_difference
from aeplus.utils.paths import whole_file
from journals import fit
from made_runs import made_comparison, made_metrics, made_records, made_run
from pages import Shown

SCORES = ("", "Efficacy", "Generalization", "Specificity", "Score")
AGAINST = ("method", "Score, difference")


def reported(*runs: Path | str, more: str = "") -> tuple[Shown, str]:
    """The page of some runs, in the current folder, and its Markdown."""
    words = ["report", *map(str, runs), "--out", "page.html", "--markdown", "page.md", "--overwrite", *more.split()]
    assert main(words) == 0
    return Shown(Path("page.html")), Path("page.md").read_text()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The current folder; figures, which take a second, are drawn for the tests that are marked so."""
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("usefixtures") is None:
        monkeypatch.setattr("aeplus.commands.report.pictures._drawn", lambda *_: {})
    return tmp_path


@pytest.fixture
def drawn() -> None:
    """Figures are drawn."""


@pytest.mark.usefixtures("drawn")
def test_one_run() -> None:
    made_run(Path("version_0"), made_metrics(), made_records())
    page, markdown = reported("version_0")
    assert page.table(*SCORES) == [
        ["before", "0.0", "–", "100.0", "50.0"],
        ["alphaedit", "75.0|62.5 to 100.0", "–", "75.0", "75.0"],
    ]
    assert "4 edits in batches of 2; the Score went from 50.0 to 75.0." in page.text
    assert page.table("", "after the first batch") == [["alphaedit", "100.0", "100.0", "75.0", "75.0"]]
    conflict = ["alphaedit", "0.50|at most 0.75", "0.25|at most 0.50", "3|at most 6", "2 of 2", "4.0", "0.004"]
    assert page.table("", "s(k, K0)") == [conflict]
    assert page.table("", "statistics") == [["alphaedit", "5.0", "4.0", "1.0", "0.5", "6.0", "1.5", "20.0"]]
    edits = page.table("edit", "prompt")
    assert [row[0] for row in edits] == ["4", "3", "2", "1"]  # the most conflicting first
    assert edits[0] == ["4", "The capital of Land3 is", "Paris", "0.30", "0.15", "4", "50", "75"]
    assert "aeplus fit --config version_0/config.yaml" in page.text
    assert "devicecpu (small)torch2.13.0dtypeautodtype of edited layersnot recorded" in page.text
    assert '"batch_size": 2' in page.text  # the config itself
    assert page.tags.count("img") == 5  # conflict, stream, score, effort, retention
    assert "| alphaedit | 75.0 (62.5 to 100.0) | – | 75.0 | 75.0 |" in markdown
    assert "Score against conflict: drawn in the HTML page." in markdown


@pytest.mark.parametrize(
    ("batch", "steps", "smoothed"),
    [
        ({"committed_iteration": 0}, 2, "2 of 2"),  # the most smoothed
        ({"committed_iteration": 2}, 2, "0 of 2"),  # the unsmoothed
        ({"committed_iteration": 2}, 10, "2 of 2"),  # a rule that stopped before it
        ({"committed_iteration": 0, "smoothing_iterations": 1}, 10, "0 of 2"),  # nothing was smoothed
        ({"smoothing_iterations": 1, "chosen": [{"iteration": 1, "scores": [90.0, 95.0]}]}, 2, "2 of 2"),
        ({"smoothing_iterations": 1, "chosen": [{"iteration": 0, "scores": []}]}, 2, "0 of 2"),
    ],
)
def test_batches_that_committed_a_smoothed_candidate(batch: dict[str, Any], steps: int, smoothed: str) -> None:
    metrics = made_metrics()
    metrics["batches"] = [{**one, **batch} for one in metrics["batches"]]
    folder = made_run(Path("version_0"), metrics)
    config = json.loads((folder / "config.yaml").read_text().partition("\n")[2])
    config["model"]["method"]["smoothing_steps"] = steps
    (folder / "config.yaml").write_text(json.dumps(config))
    page, _ = reported("version_0")
    assert page.table("", "s(k, K0)")[0][4] == smoothed
    assert "Smoothed: batches that committed a smoothed candidate." in page.text


@pytest.mark.usefixtures("drawn")
def test_the_page_loads_nothing_and_is_the_same_every_time() -> None:
    made_run(Path("version_0"), made_metrics(), made_records())
    page, _ = reported("version_0")
    first = Path("page.html").read_bytes()
    assert page.addresses
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|https?://", first.decode().split("</style>")[0])
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in first.decode()
    reported("version_0")
    assert Path("page.html").read_bytes() == first


@pytest.mark.parametrize(
    ("means", "shown"),
    [
        ([None, 80.0, 60.0, 70.0], ["–", "80.0", "70.0", "60.0"]),
        ([90.0, None, 60.0, None], ["90.0", "–", "–", "60.0"]),
        ([90.0, 80.0, 60.0, 70.0, None, None], ["90.0", "80.0", "70.0", "60.0"]),  # which are still to come
    ],
)
def test_retention_after_batches_that_nobody_measured(means: list[float | None], shown: list[str]) -> None:
    metrics = made_metrics(measures={"retention": {"matrix": [], "mean": means}})
    metrics["batches"] *= 2
    made_run(Path("version_0"), metrics)
    page, _ = reported("version_0")
    assert page.table("", "after the first batch") == [["alphaedit", *shown]]


def test_a_resumed_run_counts_the_batches_before_it() -> None:
    made_run(Path("version_0"), made_metrics(seconds={"statistics": 5.0, "total": 20.0, "earlier": 3.0}))
    page, _ = reported("version_0")
    assert page.table("", "statistics")[0][-1] == "23.0|resumed"
    assert "Resumed: since then, and the batches before it without their loading and evaluation." in page.text


def test_texts_of_a_run_are_texts() -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> | `code` [a](b) &lt;"
    method = "<b>bold</b>"
    made_run(Path("<i>run</i>"), made_metrics(method, model=bad), made_records(prompt=bad, target="</td>"))
    page, markdown = reported("<i>run</i>")
    assert page.table("edit", "prompt")[0][1:3] == [bad, "</td>"]
    assert page.table(*SCORES)[1][0] == method
    assert not {"script", "b>bold", "i"} & set(page.tags)
    assert "img" not in page.tags
    assert "<" not in markdown.replace("<i>run</i>", "")  # which a code block shows as it is
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in markdown
    assert "\\| \\`code\\` \\[a\\](b) &amp;lt;" in markdown


def test_runs_on_the_same_edits_are_compared() -> None:
    one = made_metrics("alphaedit", (1, 0, 0, 1))
    two = made_metrics("alphaedit_plus", (1, 1, 0, 1))
    made_run(Path("a/version_0"), one, made_records())
    made_run(Path("a/version_1"), two, made_records())
    page, markdown = reported("a/version_0", "a/version_1", "./a/version_0")
    assert "2 runs on the same 4 edits" in page.text
    assert [row[0] for row in page.table(*SCORES)] == ["before", "alphaedit", "alphaedit_plus"]
    found = score_difference([two["hits"]], [one["hits"]])
    assert found["value"] == pytest.approx(12.5)
    row = ["alphaedit_plus", "+12.5", f"{found['low']:+.1f} to {found['high']:+.1f}", "1"]
    assert page.table(*AGAINST) == [row]
    assert "| alphaedit\\_plus | +12.5 |" in markdown
    page, _ = reported("a/version_0", "a/version_1", more="--against alphaedit_plus")
    assert page.table(*AGAINST)[0][:2] == ["alphaedit", "-12.5"]


def test_runs_that_are_not_of_the_same_edits_are_not_compared() -> None:
    made_run(Path("a/version_0"), made_metrics(), made_records())
    made_run(Path("a/version_1"), made_metrics(), made_records(target="Rome"))
    made_run(Path("a/version_2"), made_metrics(), made_records())
    made_run(Path("a/version_3"), made_metrics(model="other"), made_records())
    made_run(Path("a/version_4"), made_metrics())  # edits that nobody knows
    made_run(Path("a/version_5"), made_metrics())
    page, _ = reported(*(f"a/version_{i}" for i in range(6)))
    groups = "alphaedit (version_0) and alphaedit (version_2); alphaedit (version_1); alphaedit (version_3); "
    assert f"in a part of its own: {groups}alphaedit (version_4); alphaedit (version_5)." in page.text
    assert [row[0] for row in page.table(*AGAINST)] == ["alphaedit (version_2)"]
    assert "Report of 5 parts" in page.text


def test_runs_that_were_asked_other_prompts_are_named() -> None:
    other = made_metrics("memit")
    other["hits"]["efficacy"]["prompts"][0] = 2
    made_run(Path("a"), made_metrics(), made_records())
    made_run(Path("b"), other, made_records())
    page, _ = reported("a", "b")
    assert "Not compared with alphaedit, as no finished run of it was asked the same prompts: memit." in page.text


def test_runs_that_were_asked_by_another_protocol_are_not_compared_and_have_a_before_of_their_own() -> None:
    other = made_metrics("memit")
    other["before"] = {**other["before"], "efficacy": 50.0}
    made_run(Path("a"), made_metrics(), made_records(), protocol="published")
    made_run(Path("b"), other, made_records(), protocol="plain")
    page, _ = reported("a", "b")
    assert "Not compared with alphaedit, as no finished run of it was asked the same prompts: memit." in page.text
    assert [row[0] for row in page.table(*SCORES)] == ["before, alphaedit", "before, memit", "alphaedit", "memit"]


def test_a_run_that_is_not_complete_is_shown_as_such() -> None:
    nothing = dict.fromkeys(("efficacy", "generalization", "specificity", "score"))
    open_run = made_metrics("memit", right=(1,) * 7, edits_done=3, after=nothing, hits={}, measures={}, leakage=None)
    made_run(Path("a"), open_run)
    made_run(Path("b"), made_metrics(), made_records())
    page, markdown = reported("a", "b")
    assert "memit is not complete: 3 of 7 edits." in page.text
    assert ["memit (3 of 7 edits)", "–", "–", "–", "–"] in [row for table in page.tables for row in table]
    assert not [table for table in page.tables if tuple(table[0][:2]) == AGAINST]
    assert "State: 3 of 7 edits." in markdown
    assert "Not measured: add the callback EvaluationWriter to the run." in page.text
    made_run(Path("c"), {**open_run, "edits_done": 0, "batches": []})
    assert "No batch was committed." in reported("c")[0].text


def test_a_comparison() -> None:
    made_comparison(Path("out"))
    page, markdown = reported("out")
    rows = page.table("method", "Efficacy")
    assert rows[0][:2] == ["before", "0.0 ± 0.0"]
    assert rows[1][:2] == ["memit", "62.5 ± 17.7"]
    assert rows[2][:2] == ["blue:smooth=false (1 of 2 seeds)", "100.0"]
    assert rows[3] == ["blue:smooth=false, seed 1", "failed: expected more memory, got none"]
    assert page.table(*AGAINST)[0][0] == "blue:smooth=false"
    assert page.table(*AGAINST)[0][-1] == "1"  # the seed that both have run with
    assert "4 of 5 runs; 1 failed" in page.text
    assert "aeplus compare --methods memit,blue:smooth=false --seeds 0,1" in page.text
    assert "machine2 CPU coresdevicecpu (small)torch2.13.0" in page.text
    assert page.table("", "statistics")[0][0] == "memit"
    assert "| blue:smooth=false, seed 1 | failed: expected more memory, got none |" in markdown


@pytest.mark.usefixtures("drawn")
def test_several_runs_share_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    made_run(Path("a"), made_metrics("memit"), made_records())
    made_run(Path("b"), made_metrics("blue"), made_records())
    page, _ = reported("a", "b")
    for title in ("How conflicting the edits are", "Score against conflict", "Seconds by part"):
        assert page.text.count(title) == 1
    assert "blue: Conflict along the stream" in page.text
    Path("a/capabilities.json").write_text('{"results": [3]}')
    assert main(["report", "a", "--out", "b.html"]) == 2
    assert "expected the files of a run in a, got a damaged one" in capsys.readouterr().err


def test_figures_that_a_run_wrote() -> None:
    made_run(Path("runs/version_0"), made_metrics(), made_records())
    folder = Path("runs/version_0/figures")
    folder.mkdir()
    (folder / "own plot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("pages").mkdir()
    assert main(["report", "runs/version_0", "--out", "pages/a.html", "--markdown", "pages/a.md"]) == 0
    assert "data:image/png;base64,iVBORw0KGgo=" in Shown(Path("pages/a.html")).addresses
    (link,) = re.findall(r"!\[own plot\]\((.*)\)", Path("pages/a.md").read_text())
    assert (Path("pages") / link.replace("%20", " ")).is_file()
    (folder / "own plot.png").write_bytes(b"GIF")
    assert main(["report", "runs/version_0", "--out", "pages/b.html"]) == 2


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("metrics.json", None, "expected metrics.json in the run run, got none"),
        ("config.yaml", None, "expected config.yaml in the run run, got none"),
        ("metrics.json", {"edits_done": "x"}, "expected edits_done in run/metrics.json to be a whole number"),
        ("metrics.json", {"edits_done": 9}, "expected edits_done of at most 4 in run/metrics.json, got 9"),
        ("metrics.json", {"after": {}}, "expected after in run/metrics.json to be an object with efficacy, got []"),
        ("metrics.json", {"leakage": float("nan")}, "expected leakage in run/metrics.json to be a number, got nan"),
        ("metrics.json", {"leakage": 10**400}, "expected leakage in run/metrics.json to be a number"),
        ("metrics.json", {"batches": [{}]}, "expected batches[0] in run/metrics.json to be an object with edits"),
        (
            "metrics.json",
            {"hits": {"efficacy": {"edits": [0], "hits": [2], "prompts": [1]}}},
            "expected hits.efficacy in run/metrics.json to be the hits and prompts of every edit",
        ),
        ("config.yaml", {"model": 3}, "expected model in run/config.yaml to be an object, got 3; make the run again."),
        ("edits.jsonl", "{}\n", "expected a record of FigureWriter in run/edits.jsonl, line 1"),
        ("edits.jsonl", {"edit": 1}, "expected a record of FigureWriter in run/edits.jsonl, line 1"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    capsys: pytest.CaptureFixture[str], file: str, content: object, text: str
) -> None:
    path = made_run(Path("run"), made_metrics(), made_records()) / file
    if content is None:
        path.unlink()
    elif file == "metrics.json":
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))  # type: ignore[dict-item]
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert main(["report", "run"]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("compare.csv", None, "expected compare.csv in the comparison out, got none"),
        ("compare.md", "| a |\n", "expected the notes of aeplus compare in out/compare.md, got none on command, seeds"),
        ("compare.csv", "a,b\n1,2\n", "expected the table of aeplus compare in out/compare.csv, got another text"),
        ("compare.csv", "method,seed,error\n../x,0,\n", "in out/compare.csv, got another text"),
        ("compare.csv", "method,seed,error\nmemit,x,\n", "in out/compare.csv, got another text"),
        ("compare.csv", "method,seed,error\nmemit,7,\n", "expected 4 of 5 runs in out/compare.csv, got 1"),
        ("compare.csv", "method,seed,error\n" + "memit,7,\n" * 4, "in the run out/memit/seed_7, got none"),
        ("memit/seed_1/metrics.json", made_metrics(), "run of seed 1 in out/memit/seed_1, got complete, seed 0"),
        ("memit/seed_0/metrics.json", made_metrics(edits_done=2), "got 2 of 4 edits, seed 0; run aeplus compare"),
    ],
)  # fmt: skip
def test_a_damaged_comparison_is_refused(
    capsys: pytest.CaptureFixture[str], file: str, content: object, text: str
) -> None:
    path = made_comparison(Path("out")) / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert main(["report", "out"]) == 2
    assert text in capsys.readouterr().err


def test_what_may_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    made_run(Path("run"), made_metrics(), made_records())
    Path("mine.html").write_text("mine")
    Path("link.html").symlink_to("mine.html")
    os.mkdir("folder")
    for words, text in (
        ("run --out mine.html", "expected --out a new file, or one that aeplus wrote, got mine.html"),
        ("run --out a.html --markdown mine.html", "expected --markdown a new file"),
        ("run --out link.html --overwrite", "got the link link.html"),
        ("run --out folder --overwrite", "expected --out a file to write, got the folder folder"),
        ("run --out run/metrics.json --overwrite", "expected --out a path that is not an input"),
        ("run --out a.html --markdown ./a.html", "expected another file for --markdown than for --out"),
        ("none", "expected a folder of aeplus fit (metrics.json)"),
        ("folder", "got folder, which has none of these; give one such as lightning_logs/edits/version_0."),
        ("run --against memit", "expected --against one of alphaedit, got 'memit'; name it as the tables do."),
        ("", "the following arguments are required: RUN"),
    ):
        assert main(["report", *words.split()]) == 2
        assert text in capsys.readouterr().err
    assert Path("mine.html").read_text() == "mine"
    assert not Path("a.html").exists()
    assert main(["report", "run", "--out", "mine.html", "--overwrite"]) == 0
    assert "1 part in mine.html" in capsys.readouterr().out
    assert Path("mine.html").read_text().startswith("<!DOCTYPE html>")


def test_a_page_beside_what_it_is_of_can_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    """What is read or kept there cannot, even by ``--overwrite``."""
    made_run(Path("run"), made_metrics(), made_records())
    (Path("run") / "figures").mkdir()
    made_comparison(Path("out"))
    for folder in ("run", "out"):
        words = ["report", folder, "--out", f"{folder}/report.html", "--markdown", f"{folder}/report.md"]
        assert main(words) == 0
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"got {folder}/report.html, which exists; choose another, or add --overwrite" in said
        assert main([*words, "--overwrite"]) == 0
    (Path("run") / "figures" / "score.png").write_bytes(b"mine")
    with whole_file(Path("out") / "table4.md") as scratch:  # as an experiment does
        scratch.write_text("kept")
    kept_files = ("run/config.yaml", "run/edits.jsonl", "run/figures/score.png")
    for kept in (*kept_files, "out/compare.md", "out/compare.tex", "out/table4.md"):
        assert main(["report", "run", "out", "--out", kept, "--overwrite"]) == 2
        assert f"expected --out a path that is not an input, got {kept}; choose another." in capsys.readouterr().err


@pytest.mark.slow
def test_runs_of_a_model(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What fit and compare really leave; journals tell that the edits are the same."""
    runs = [fit(workplace, here, method) for method in ("alphaedit", "memit")]
    page, _ = reported(*runs)
    measured = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert measured[0]["environment"]["torch"] == version("torch")
    assert page.table("run", "device")[0][1] == f"cpu ({platform.machine()})"
    found = score_difference([measured[1]["hits"]], [measured[0]["hits"]])
    (row,) = page.table(*AGAINST)
    assert row[1:3] == [f"{found['value']:+.1f}", f"{found['low']:+.1f} to {found['high']:+.1f}"]
    words = ["compare", "--config", f"{workplace}/tiny.yaml", "--methods", "memit,alphaedit", "--out", "out"]
    assert main([*words, "--against", "memit"]) == 0
    page, markdown = reported("out")
    written = Path("out/compare.md").read_text()
    for line in (line for line in written.splitlines() if line.startswith(("| before", "| memit", "| alphaedit"))):
        assert line in markdown.replace("\\", "")  # the same tables
    assert page.table(*AGAINST)[0][0] == "alphaedit"
    last = runs[0] / "journal" / "000003.json"
    content = last.read_text()
    last.write_text(content.replace("Paris", "Rome").replace("London", "Rome").replace("Italy", "Rome"))
    assert main(["report", *map(str, runs)]) == 2
    assert "got a damaged" in capsys.readouterr().err
    for file in runs[0].glob("journal/000003.*"):
        file.unlink()  # a journal that lacks edits tells nothing of them
    assert "Not comparable with one another" in reported(*runs)[0].text
