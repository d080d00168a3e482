"""The demo's notebook runs from its first cell to its last, and shows what its outputs say."""

import ast
import json
import sys
from types import ModuleType
from typing import Any

import pytest

from small import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "demo.ipynb"


def cells() -> list[dict[str, Any]]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_its_cells_ran_in_order() -> None:
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    for cell in cells():
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.slow
def test_it_runs_and_takes_its_edits_back(monkeypatch: pytest.MonkeyPatch) -> None:
    display = ModuleType("IPython.display")
    display.Markdown = str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    names: dict[str, Any] = {}
    shown: list[Any] = []
    for cell in cells():
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names))
    table = next(value for value in shown if isinstance(value, str) and "| prompt |" in value)
    answers = {line.split(" | ")[0].strip("| "): line.split(" | ")[2] for line in table.splitlines()[2:]}
    edits = {edit["prompt"].format(edit["subject"]): edit["target_new"] for edit in names["edits"]}
    for prompt, answer in edits.items():
        assert answer in answers[prompt], prompt
    same, text = shown[-1]
    assert same
    assert text == shown[0]
