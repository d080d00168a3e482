"""Tables and claims from what the cells' runs wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.experiment.cells import Cell
from aeplus.commands.experiment.data import Place
from aeplus.commands.experiment.grid import Claim, Experiment, Grid, Layout
from aeplus.commands.experiment.study import Study
from aeplus.commands.experiment.tables import Result, build_table, check_claim, check_tables, table_markdown
from aeplus.commands.experiment.values import Files
from aeplus.commands.runs.runner import Run
from aeplus.errors import InputError

INF, NAN = float("inf"), float("nan")


def result(variant: str, seed: int, leakage: float | None, data: str = "edits") -> Result:
    cell = Cell(data, variant, {}, Place({}), Run(variant, seed, Path(variant), {}))
    return Result(cell, Files({"leakage": leakage, "batches": [], "edits": 1}, {}, {}), "done")


@pytest.mark.parametrize(
    ("leakages", "shown"),
    [((0.1, 0.1), "0.1 ± 0"), ((0.1, INF), "0.1 (n = 1)"), ((NAN, 0.1), "0.1 (n = 1)"), ((INF, NAN), "–")],
)
def test_what_is_not_finite_is_no_number_of_a_table(leakages: tuple[float, float], shown: str) -> None:
    layout = Layout("Leakage", ("variant",), (), ("leakage",))
    results = [result("memit", seed, 0.2) for seed in (0, 1)]
    results += [result("rect", seed, leakage) for seed, leakage in enumerate(leakages)]
    table = build_table(layout, results)
    assert f"| rect | {shown} |" in " ".join(table_markdown(layout, table).split())


@pytest.mark.parametrize(
    ("claim", "shipped", "said"),
    [
        ("It leaks.", True, "The paper: It leaks."),
        ("It leaks.", False, "Claim: It leaks."),
        ("The paper's numbers were not available.", True, "The paper's numbers were not available."),
    ],
)
def test_only_shipped_claims_are_the_papers(tmp_path: Path, claim: str, shipped: bool, said: str) -> None:
    grid = Grid({}, [], {}, [], {}, [])
    study = Study(Experiment("mine", "Mine", "What.", Claim(claim), grid, [], [], None, shipped), [], tmp_path)
    study.about = dict.fromkeys(("command", "scale", "model", "machine"), "") | {"seeds": [], "versions": {}}
    study.write()
    assert (tmp_path / "mine.md").read_text().startswith(f"# Mine\n\nWhat.\n\n{said}\n\n")


@pytest.mark.parametrize(("named", "rows"), [(["one"], ["before"]), (["one", "two"], ["one, before", "two, before"])])
def test_the_papers_numbers_of_the_unedited_model(named: list[str], rows: list[str]) -> None:
    results = [result("memit", 0, 0.2, data) for data in named]
    cells = [r.cell for r in results]
    paper = {row: [number] for number, row in enumerate(rows)}
    layout = Layout("Leakage", ("data", "variant"), (), ("leakage",), before=True, paper=paper)
    check_tables([layout], Claim(), cells)
    found = {row["label"]: row["paper"] for row in build_table(layout, results)["rows"]}
    assert {label: found[label] for label in rows} == paper
    changes: list[dict[str, Any]] = [{"before": False}, {"paper": {rows[0]: [1, 2]}}]
    for change in changes:
        with pytest.raises(InputError, match="expected the paper's numbers of 'Leakage' as 1 for each of"):
            check_tables([replace(layout, **change)], Claim(), cells)


def test_fluency_says_its_unit_as_papers_print_another() -> None:
    table = build_table(Layout("Fluency", ("variant",), (), ("fluency",)), [result("memit", 0, 0.2)])
    assert table["columns"] == ["Fluency [bits]"]


def test_a_claim_is_checked_where_both_sides_are_finite() -> None:
    claim = Claim("It leaks more.", "leakage", (({"variant": "rect"}, {"variant": "memit"}),))
    results = [result("rect", 0, 0.3), result("rect", 1, NAN), result("memit", 0, 0.2), result("memit", 1, 0.2)]
    assert check_claim(claim, results) == [{"where": "edits", "higher": 0.3, "lower": 0.2, "n": 1, "holds": True}]
