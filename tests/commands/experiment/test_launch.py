"""Several processes: which cells go ahead, and what becomes of the others when a process is killed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.experiment import launch
from aeplus.commands.experiment.cells import Cell, groups_of
from aeplus.commands.experiment.data import Place
from aeplus.commands.experiment.launch import Made, Order
from aeplus.commands.runs.outcome import Outcome
from aeplus.commands.runs.runner import Run


def cell(variant: str, rule: str, data: str = "plain", **targets: Any) -> Cell:
    settings = {"model": {"method": {"name": variant, "targets": rule}, "targets": {"contexts": 2, **targets}}}
    return Cell(data, variant, {}, Place({}), Run(variant, 0, Path(variant), settings))


def test_a_cell_of_every_way_to_learn_targets_goes_ahead() -> None:
    ahead = [cell("alphaedit", "last"), cell("alphaedit_plus", "own"), cell("memit", "last", "rewrites")]
    ahead.append(cell("alphaedit", "last", contexts=5))
    after = [cell("blue", "own"), cell("rect", "last"), cell("prune", "last", "rewrites")]
    first, others = groups_of([*ahead, *after])
    assert (first, others) == (ahead, after)
    assert len({cell.shares_data for cell in first}) == 2


@pytest.mark.slow  # processes take a while to begin
def test_processes_begin_in_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(order: Order) -> Made:
        return Made(order.index, Outcome(os.getcwd(), 0, {}, {}, 1.0, None, 1.0), False)

    monkeypatch.setattr(launch, "make", make)
    orders = [Order(index, Run("memit", 0, tmp_path, {}), tmp_path) for index in range(2)]
    for name in ("first", "then"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        made = list(launch.local(orders, 2, lambda order: None))
        launch.forget(2)
        assert {cell.outcome.method for cell in made} == {str(tmp_path / name)}


@pytest.mark.slow  # processes take a while to begin
def test_a_killed_process_fails_its_own_cell_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(order: Order) -> Made:
        if order.run.label == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return Made(order.index, Outcome(order.run.label, 0, {}, {}, 1.0, None, 1.0), False)

    monkeypatch.setattr(launch, "make", make)
    labels = ["memit", "killed", "rect", "prune"]
    orders = [Order(index, Run(label, 0, tmp_path / label, {}), tmp_path) for index, label in enumerate(labels)]
    made = {cell.index: cell.outcome for cell in launch.local(orders, 2, lambda order: None)}
    assert {index: outcome.error for index, outcome in made.items()} == {
        0: None,
        1: "its process was killed, for want of memory as a rule",
        2: None,
        3: None,
    }
    assert [made[index].method for index in range(4)] == labels
    said = "aeplus: one of 2 processes was killed, for want of memory as a rule; the cells left are made one at a time"
    assert said in capsys.readouterr().err
    assert len(list(launch.local([orders[0], orders[2]], 2, lambda order: None))) == 2  # and joblib goes on as before
    launch.forget(2)
