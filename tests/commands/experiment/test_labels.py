"""How tables and figures tell cells apart."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aeplus.commands.experiment import drawings, tables
from aeplus.commands.experiment.cells import Cell
from aeplus.commands.experiment.data import Place
from aeplus.commands.runs.runner import Run


def made_cell(**values: Any) -> Cell:
    run = SimpleNamespace(seed=0, folder=Path("run"))
    paths = {path.replace("__", "."): value for path, value in values.items()}
    return Cell("few", "memit", paths, cast(Place, None), cast(Run, run))


def test_one_is_not_true() -> None:
    cells = [made_cell(method__ridge=value) for value in (1, True, 1.0)]
    points = tables._points(["set.method.ridge"], cells)
    assert [repr(point["set.method.ridge"]) for point in points] == ["1", "True"]


def test_figures_tell_settings_apart() -> None:
    results = [tables.Result(made_cell(method__ridge=value, method__alpha=1)) for value in (1, 10)]
    assert list(drawings._labels(results)) == ["ridge = 1", "ridge = 10"]


def test_the_unedited_model_is_another_where_more_than_the_editing_is_set() -> None:
    paths = ("method__ridge", "targets__steps", "preserved__tokens", "dtype", "data__neighbors")
    assert [tables._asked(made_cell(**{path: 1})) for path in paths] == ["few 0 []"] * 3 + ["few 0 [1]"] * 2
