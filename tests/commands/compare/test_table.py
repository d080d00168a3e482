import csv
from pathlib import Path

import pytest

from aeplus.commands.compare.tables import HEADER, markdown, print_outcomes, table_rows, tidy_csv, write_tables
from aeplus.commands.compare.ways import print_ways, ways_markdown, ways_note, ways_table
from aeplus.commands.runs.outcome import Outcome
from aeplus.metrics.success import SCORES


def outcome(
    method: str, seed: int, efficacy: float, leakage: float | None = 0.01, rephrased: float | None = 5.0
) -> Outcome:
    before = dict(zip(SCORES, (1.0 + seed, rephrased, 3.0, 4.0), strict=True))
    after = dict(zip(SCORES, (efficacy, rephrased, 80.0, 60.0), strict=True))
    return Outcome(method, seed, before, after, editing_seconds=12.5 + seed, leakage=leakage, seconds=20.0)


BROKEN = Outcome.failed("kde", 0, "steps must be above 0 | choose [/more]", 0.5)


def test_one_seed_has_no_spread() -> None:
    rows = table_rows([outcome("rect", 0, 90.0), outcome("memit", 0, 70.0, None, None)], ["rect", "memit"], 1)
    assert rows == [
        ["before", "1.0", "5.0", "3.0", "4.0", "–", "–"],
        ["rect", "90.0", "5.0", "80.0", "60.0", "12.5", "0.01"],
        ["memit", "70.0", "–", "80.0", "60.0", "12.5", "–"],
    ]


def test_seeds_are_spread() -> None:
    runs = [outcome("rect", 0, 90.0, 0.01), outcome("memit", 0, 1.0), outcome("rect", 1, 100.0, 0.03)]
    before, rect, memit = table_rows(runs, ["rect", "memit"], 2)
    assert before[:3] == ["before", "1.5 ± 0.7", "5.0 ± 0.0"]  # each seed once, however many methods
    assert rect[:2] == ["rect", "95.0 ± 7.1"]
    assert rect[5:] == ["13.0 ± 0.7", "0.02 ± 0.014"]
    assert memit[:2] == ["memit (1 of 2 seeds)", "1.0"]


def test_nothing_is_lost_when_a_method_is_broken() -> None:
    rows = table_rows([BROKEN, outcome("rect", 0, 90.0)], ["kde", "rect"], 1)
    assert [row[0] for row in rows] == ["before", "rect", "kde, seed 0"]
    assert rows[-1][1] == "failed: steps must be above 0 | choose [/more]"
    assert {len(row) for row in rows} == {len(HEADER)}


def test_markdown() -> None:
    rows = table_rows([BROKEN, outcome("rect", 0, 90.0)], ["kde", "rect"], 1)
    lines = markdown(rows, {"seeds": "0", "model": "tiny"}).splitlines()
    assert lines[0] == "| method | Efficacy | Generalization | Specificity | Score | editing time [s] | leakage |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2].startswith("| before | 1.0 |")
    assert lines[4].startswith("| kde, seed 0 | failed: steps must be above 0 \\| choose [/more] |")
    assert lines[-2:] == ["- seeds: 0", "- model: tiny"]


def test_csv_is_tidy() -> None:
    rows = list(
        csv.DictReader(tidy_csv([outcome("rect", 0, 90.0), BROKEN, outcome("rect", 1, 99.5, None)]).splitlines())
    )
    assert [(row["method"], row["seed"], row["efficacy"], row["leakage"]) for row in rows] == [
        ("rect", "0", "90.0", "0.01"),
        ("kde", "0", "", ""),
        ("rect", "1", "99.5", ""),
    ]
    assert rows[0]["editing_seconds"] == "12.5"
    assert [row["error"] for row in rows] == ["", BROKEN.error, ""]


def test_files_and_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [outcome("rect", 0, 90.0), BROKEN]
    rows = table_rows(runs, ["rect", "kde"], 1)
    write_tables(tmp_path, rows, runs, {})
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == [
        "compare.csv",
        "compare.md",
        "compare.tex",
    ]
    print_outcomes(rows, "[/odd] title")
    printed = capsys.readouterr().out
    assert "[/odd] title" in printed
    assert "│ rect " in printed
    assert "kde, seed 0 failed: steps must be above 0 | choose [/more]" in printed


def asked(method: str, seed: int, **ways: float) -> Outcome:
    scores = {"efficacy": 1.0, "generalization": 2.0, "specificity": 3.0, "score": 2.0}
    return Outcome(method, seed, {**scores, **dict.fromkeys(ways, 0.0)}, {**scores, **ways}, 1.0, 0.1, 1.0)


def test_ways_of_asking_are_a_table_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways = {"generalization_openings": 90.0, "generalization_rephrasing": 10.0, "specificity_other_subjects": 80.0}
    runs = [asked("rect", 0, **ways), asked("rect", 1, **{**ways, "generalization_openings": 94.0}), BROKEN]
    header, rows = ways_table(runs, ["rect", "kde"])
    assert header == ["method", "Gen, openings", "Gen, rephrasing"]  # Specificity was asked in one way
    assert rows == [["before", "0.0 ± 0.0", "0.0 ± 0.0"], ["rect", "92.0 ± 2.8", "10.0 ± 0.0"]]
    assert ways_note(runs) == "generalization: openings, rephrasing; specificity: other subjects"
    write_tables(
        tmp_path, table_rows(runs, ["rect"], 2), runs, {}, ways_markdown(runs, ["rect"]), [("Ways", header, rows)]
    )
    tex = (tmp_path / "compare.tex").read_text("utf-8")
    assert "% Ways\n\\begin{tabular}{lrr}\n\\toprule\nmethod & Gen, openings & Gen, rephrasing \\\\\n" in tex
    assert "rect & 92.0 $\\pm$ 2.8 & 10.0 $\\pm$ 0.0 \\\\\n\\bottomrule\n\\end{tabular}\n" in tex
    assert tex.startswith("% Comparison\n\\begin{tabular}{lrrrrrr}\n")
    text = (tmp_path / "compare.md").read_text("utf-8")
    assert "\nBy the way of asking (%):\n\n| method | Gen, openings | Gen, rephrasing |\n" in text
    lines = list(csv.DictReader((tmp_path / "compare.csv").read_text("utf-8").splitlines()))
    assert [line["generalization_openings"] for line in lines] == ["90.0", "94.0", ""]
    assert "generalization_statements" not in lines[0]
    print_ways(runs, ["rect"])
    assert "92.0 ± 2.8" in capsys.readouterr().out


def test_one_way_of_asking_needs_no_table() -> None:
    runs = [asked("rect", 0, generalization_rephrasing=50.0)]
    assert ways_table(runs, ["rect"])[1] == []
    assert ways_markdown(runs, ["rect"]) == ""
    assert ways_note(runs) == "generalization: rephrasing"
