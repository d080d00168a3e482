"""The command, run in-process as a user would, on the tiny model."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from filelock import FileLock

from aeplus.commands.compare.specs import merged
from aeplus.commands.configs import FOLDER
from aeplus.commands.experiment import launch
from aeplus.commands.experiment.arguments import EXPERIMENTS
from aeplus.commands.experiment.cells import make_cells
from aeplus.commands.experiment.command import _with_overrides
from aeplus.commands.experiment.drawings import check_figures
from aeplus.commands.experiment.estimate import Calibration, candidates_of, kind_of, show_cells
from aeplus.commands.experiment.grid import read_experiment
from aeplus.commands.experiment.study import Study
from aeplus.commands.experiment.tables import check_tables
from aeplus.commands.fit import BaseCLI
from aeplus.commands.main import main
from aeplus.commands.runs import runner
from aeplus.commands.stream import command as stream_command
from aeplus.errors import InputError
from small import records

from .toys import shipped, toy

PLAIN: dict[str, Any] = {
    "title": "Mine",
    "shows": "What is mine.",
    "claim": {
        "text": "Both are alike.",
        "value": "score",
        "higher": {"variant": "memit"},
        "lower": {"variant": "rect"},
    },
    "variants": ["memit", "rect"],
    "tables": [
        {"title": "Mine", "rows": ["variant"], "columns": ["data"], "values": ["score", "leakage"], "before": True}
    ],
    "scales": {"small": {"data": {"pair": {"path": "pair.jsonl"}}}},
}


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with an experiment of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    (tmp_path / "pair.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()[:2]))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(PLAIN))
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)  # Lightning leaves Ctrl-C ignored
    launch.forget()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the folder of every cell that is begun."""
    begun: list[str] = []
    begin = runner.begin_folder

    def noted(folder: Path) -> None:
        begun.append("/".join(folder.parts[-3:]))
        begin(folder)

    monkeypatch.setattr(runner, "begin_folder", noted)
    return begun


def experiment(workplace: Path, name: str | Path, *words: str) -> int:
    return main(["experiment", str(name), f"--config={workplace}/tiny.yaml", *words])


def content(out: Path) -> dict[str, Any]:
    return json.loads((out / "experiment.json").read_text())


def change(**values: Any) -> None:
    """Other values in the user's experiment."""
    Path("mine.yaml").write_text(yaml.safe_dump({**PLAIN, **values}))


# ---- the shipped ones


def test_every_table_and_figure_but_the_drawing_of_the_method() -> None:
    tables = [f"table{number}" for number in range(1, 15)]
    assert list(EXPERIMENTS) == ["cases", "fig1", "fig3", "fig4", "fig5", "fig6", *tables]


@pytest.fixture(scope="module")
def settings(workplace: Path) -> dict[str, Any]:
    """The configuration of the tiny model."""
    return BaseCLI([f"--config={workplace}/tiny.yaml"]).settings


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_is_whole_at_both_scales(
    name: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scale in ("small", "paper"):
        if "unavailable" in shipped(name)["scales"][scale]:
            with pytest.raises(
                InputError, match=rf"expected another scale for {name} than small, as .*; use --scale paper"
            ):
                read_experiment(name, scale)
            continue
        found = read_experiment(name, scale)
        cells = make_cells(found.grid, merged(settings, found.grid.overrides), tmp_path / "out")
        points = 1
        for values in (found.grid.data, found.grid.variants, found.grid.seeds, *found.grid.settings.values()):
            points *= len(values)
        assert len(cells) == points
        assert found.grid.overrides["data"]["batch_size"] == (10 if scale == "small" else 100)
        check_tables(found.tables, found.claim, cells)
        check_figures(found.figures)
        assert found.tables
        assert found.shipped
        assert all(table.paper is None for table in found.tables)  # none is known; none may be invented
    assert not list(tmp_path.glob("*"))
    assert "changes nothing" not in capsys.readouterr().err


def test_numbers_that_change_nothing_are_named_once(
    settings: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each variant, where they act at none of its points."""
    points = {"method.smooth": [False, True], "method.smoothing_steps": [2, 3], "method.max_rank": [1]}
    change(variants=["alphaedit", "alphaedit_plus:relax=bounded", "memit:ridge=2"], set=points, tables=[])
    make_cells(read_experiment("mine.yaml", "small").grid, settings, here / "out")
    said = [line for line in capsys.readouterr().err.splitlines() if "changes nothing" in line]
    assert said == [
        "aeplus: alphaedit: max_rank changes nothing: alphaedit does not use it",
        "aeplus: memit:ridge=2: ridge changes nothing: memit does not use it",
        "aeplus: memit:ridge=2: max_rank changes nothing: memit does not use it",
    ]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_options_win_wherever_they_stand(workplace: Path, here: Path, place: int) -> None:
    """Over what the experiment sets and over every config; what one adds to a list is added once."""
    change(callbacks=[{"class_path": "aeplus.callbacks.FigureWriter"}])
    added = "--trainer.callbacks+=aeplus.callbacks.GenerationWriter"
    options = ["--data.batch_size", "5", added, "--trainer.callbacks.every=2", "--model.targets.steps=7"]
    (here / "other.yaml").write_text("model: {targets: {steps: 8}}")
    words = [f"--config={workplace}/tiny.yaml", "-c", "other.yaml"]
    words[place:place] = options
    grid = read_experiment("mine.yaml", "small").grid
    grid.overrides.update({"data": {"batch_size": 10}, "model": {"targets": {"contexts": 3}}})
    found = BaseCLI(_with_overrides(words, grid)).settings
    targets = found["model"]["targets"]
    assert (found["data"]["batch_size"], targets["contexts"], targets["steps"]) == (5, 3, 7)
    callbacks = [c["class_path"].rpartition(".")[2] for c in found["trainer"]["callbacks"]]
    assert (callbacks.count("FigureWriter"), callbacks.count("GenerationWriter")) == (1, 1)
    (writer,) = [c for c in found["trainer"]["callbacks"] if c["class_path"].endswith("GenerationWriter")]
    assert writer["init_args"]["every"] == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--data.limit", "50"], "expected no --data.limit, got one, but mine sets it for its data set pair at scale "),
        (["--data.limit=50"], "small; leave it out: --edits chooses it."),
        (["--data.shuffle=true"], "got one, but mine sets it for .* at scale small; change it in mine.yaml."),
        (["--data.neighbors=2", "--edits=1"], None),
    ],
)
def test_options_that_a_data_set_would_beat(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str | None
) -> None:
    change(scales={"small": {"data": {"pair": {"path": "pair.jsonl", "limit": 1, "shuffle": True}}}})
    status = experiment(workplace, "mine.yaml", *words, "--out", "out", "--model.model=./nowhere")
    assert status == 2
    said = capsys.readouterr().err
    assert re.search(text or "expected a model folder at ./nowhere", said), said


def test_options_that_a_shipped_data_set_would_beat(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(workplace, "table13", "--scale=paper", "--data.neighbors=2") == 2
    said = capsys.readouterr().err
    assert "but table13 sets it for its data set CounterFact at scale paper; change it in a copy of " in said
    assert "configs/experiment/table13.yaml, and name that." in said


def test_the_name_comes_first(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "--config", f"{workplace}/tiny.yaml", "table4"]) == 2
    assert (
        f"expected the experiment's name in front of all options, got '{workplace}/tiny.yaml' for it, and table4 "
        "behind; write aeplus experiment table4 and then the options."
    ) in capsys.readouterr().err
    assert main(["experiment", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: aeplus experiment NAME [options] [any option of aeplus fit]\n")
    assert "minutes to hours with SmolLM2" in " ".join(said.split())


NOT_ITS_METHOD = {
    "fig1": "AlphaEdit's Score is shown",
    "fig3": "the data's conflict is, as AlphaEdit meets it",
    "table5": "the same",
    "table11": "PRUNE and BLUE are, with its components",
}
"""Why some experiments do not run the paper's algorithm."""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_scale_runs_its_algorithm(name: str) -> None:
    found = read_experiment(name, "paper")
    assert ("alphaedit_plus_paper" in found.grid.variants) == (name not in NOT_ITS_METHOD)
    for higher, _ in found.claim.pairs:
        assert higher.get("variant", "").split(":")[0] != "alphaedit_plus"


def test_a_scale_has_a_claim_of_its_own(here: Path) -> None:
    scales = {"paper": {**PLAIN["scales"]["small"], "claim": {"text": "It is.", "higher": {"variant": "rect"}}}}
    change(scales={**PLAIN["scales"], **scales}, claim={**PLAIN["claim"], "lower": {"variant": "prune"}})
    small, paper = (read_experiment("mine.yaml", scale).claim for scale in ("small", "paper"))
    assert (small.text, small.pairs) == ("Both are alike.", [({"variant": "memit"}, {"variant": "prune"})])
    assert (paper.text, paper.pairs) == ("It is.", [({"variant": "rect"}, {"variant": "prune"})])
    assert paper.value == "score"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_runs_at_toy_size(name: str, workplace: Path, here: Path) -> None:
    assert experiment(workplace, toy(name, here), "--out", "out") == 0
    made = content(here / "out")
    assert made["name"] == name
    assert made["title"] == shipped(name)["title"]
    assert {cell["status"] for cell in made["cells"]} == {"done"}
    if name == "fig5":
        assert {cell["variant"] for cell in made["cells"]} == set(shipped(name)["variants"])
        assert [row["values"][0]["mean"] > 0 for row in made["tables"][0]["rows"]] == [True, True]  # how far they move
    claim = shipped(name)["claim"]
    assert len(made["checks"]) == (len(claim.get("pairs", [claim])) if "value" in claim else 0)
    for cell in made["cells"]:
        assert (here / "out" / cell["folder"] / "metrics.json").is_file()
    text = (here / "out" / f"{name}.md").read_text()
    assert f"\n\nClaim: {claim['text'].strip()}" in text  # of a file of one's own
    for table in made["tables"]:
        assert any(number is not None for row in table["rows"] for number in row["values"])
        assert all(len(row["values"]) == len(table["columns"]) for row in table["rows"])
    assert len(made["figures"]) == len(shipped(name).get("figures", []))
    for figure in made["figures"]:
        assert "<svg" in (here / "out" / figure).read_text()
    assert len(made["pages"]) == (1 if name == "cases" else 0)
    assert all(f"({path})" in text and (here / "out" / path).is_file() for path in (*made["figures"], *made["pages"]))
    if name == "cases":
        assert main(["report", "out", "--markdown", "report.md"]) == 0
        page, report = (path.read_text() for path in (here / "out" / made["pages"][0], here / "report.md"))
        rows = [line for line in page.splitlines() if line.startswith(("| edit |", "| in other words |"))]
        assert len(rows) > 1
        assert all(cell in report for row in rows for cell in row.strip("|").split("|")[1:])
        assert report.index("Continuations") < report.index(f"edit: {rows[0].split('|')[2].strip()}")


# ---- what is written


def test_what_is_written(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment(workplace, "mine.yaml", "--seeds", "0,1") == 0
    out = here / "lightning_logs" / "experiment" / "mine" / "model"
    made = content(out)
    assert (made["scale"], made["seeds"], made["model"]) == ("small", [0, 1], f"{workplace}/model")
    assert made["command"].startswith("aeplus experiment mine.yaml --config=")
    pair = {"higher": {"variant": "memit"}, "lower": {"variant": "rect"}}
    assert made["claimed"] == {"value": "score", "pairs": [pair]}
    assert "torch" in made["machine"]
    assert set(made["versions"]) == {"python", "aeplus", "torch", "transformers", "lightning"}
    cells = [(cell["data"], cell["variant"], cell["set"], cell["seed"]) for cell in made["cells"]]
    assert cells == [("pair", method, {}, seed) for seed in (0, 1) for method in ("memit", "rect")]
    assert all(cell["error"] is None and cell["minutes"] > 0 for cell in made["cells"])
    (table,) = made["tables"]
    assert table["columns"] == ["pair Score", "pair leakage"]
    assert [row["label"] for row in table["rows"]] == ["before", "memit", "rect"]
    leakages = [json.loads((out / c["folder"] / "metrics.json").read_text())["leakage"] for c in made["cells"][::2]]
    number = table["rows"][1]["values"][1]
    assert number["mean"] == pytest.approx(sum(leakages) / 2)
    assert number["sd"] == pytest.approx(abs(leakages[0] - leakages[1]) / 2**0.5)
    assert number["n"] == 2
    assert table["rows"][0]["values"][1] is None  # the unedited model leaks nothing
    lines = list(csv.DictReader((out / "mine.csv").read_text().splitlines()))
    assert [(line["row"], line["column"]) for line in lines[:3]] == [
        ("before", "pair Score"),
        ("before", "pair leakage"),
        ("memit", "pair Score"),
    ]
    assert float(lines[3]["mean"]) == number["mean"]
    tex = (out / "mine.tex").read_text()
    assert tex.startswith(
        "% Mine\n\\begin{tabular}{lrr}\n\\toprule\n & pair Score & pair leakage \\\\\n\\midrule\nbefore & "
    )
    text = (out / "mine.md").read_text()
    assert text.startswith("# Mine\n\nWhat is mine.\n\nClaim: Both are alike. Here it holds in ")
    assert f"{number['mean']:.2g} ± {number['sd']:.2g}" in text
    assert "- cells: 4 of 4" in text
    assert "experiment.json" in capsys.readouterr().out


def test_values_of_any_protocol(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a claim; values that no cell has are named."""
    protocols = {"protocols": ["tokens", "contains"], "contains_length": 3, "retention": False}
    named = ["tokens.efficacy", "contains.score", "generalization_rephrasing", "axes.multi_hop", "tokens.eficacy"]
    change(
        claim=None,
        variants=["memit"],
        callbacks=[{"class_path": "aeplus.callbacks.EvaluationWriter", "init_args": protocols}],
        tables=[{**PLAIN["tables"][0], "columns": [], "rows": ["variant", "data"], "values": named}],
    )
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    made = content(here / "out")
    assert (made["claim"], made["checks"]) == ("", [])
    (table,) = made["tables"]
    assert table["columns"][:2] == ["Eff. (tokens)", "Score (contains)"]
    assert table["columns"][2:] == ["generalization rephrasing", "multi hop", "eficacy (tokens)"]
    measured = json.loads((here / "out" / made["cells"][0]["folder"] / "metrics.json").read_text())
    numbers = [number and number["mean"] for number in table["rows"][-1]["values"]]
    after = measured["measures"]["after"]
    assert numbers[:2] == [after["tokens"]["efficacy"]["value"], after["contains"]["score"]]
    assert numbers[2:] == [measured["after"]["generalization_rephrasing"], None, None]
    said = "No finished cell has axes.multi_hop, tokens.eficacy: not measured, or misspelt."
    assert said in (here / "out" / "mine.md").read_text()
    assert said in capsys.readouterr().out
    assert "Claim" not in (here / "out" / "mine.md").read_text()


def test_restart_makes_what_is_missing(workplace: Path, here: Path, ran: list[str]) -> None:
    words = ("mine.yaml", "--out", "out")
    assert experiment(workplace, *words) == 0
    before = content(here / "out")["tables"]
    assert experiment(workplace, *words) == 0
    assert ran == ["pair/memit/seed_0", "pair/rect/seed_0"]
    assert content(here / "out")["tables"] == before
    change(variants=["memit", "rect", "prune"])
    assert experiment(workplace, *words, "--seeds", "0,1") == 0
    assert ran[2:] == ["pair/prune/seed_0", "pair/memit/seed_1", "pair/rect/seed_1", "pair/prune/seed_1"]


def test_first_targets_are_found_once(workplace: Path, here: Path) -> None:
    change(variants=["memit", "rect"], set={"method.alpha": [10.0, 20.0]}, tables=[])
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    assert len(list((here / "out" / "targets").glob("*.safetensors"))) == 1
    folders = sorted(str(path.parent.relative_to(here / "out")) for path in here.rglob("metrics.json"))
    assert folders[0] == "pair/memit,alpha=10.0/seed_0"
    assert len(folders) == 4


BESIDE: dict[str, Any] = {
    "variants": ["rect", "prune"],
    "set": {"method.alpha": [15000.0]},
    "claim": {"text": "None."},
    "tables": [],
    "scales": {"small": {"data": {"moved": {"path": "elsewhere/pair.jsonl"}}}},
}
"""An experiment with a cell of the user's other one: the same edits elsewhere, and a number that is the default."""


@pytest.fixture
def beside(workplace: Path, here: Path) -> Path:
    """Another experiment of the user's, and the first one made; its edits have been moved since."""
    assert experiment(workplace, "mine.yaml", "--out", "all/first") == 0
    (here / "elsewhere").mkdir()
    (here / "pair.jsonl").rename(here / "elsewhere" / "pair.jsonl")  # the content counts, not where it is
    path = here / "other.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **BESIDE}))
    return path


@pytest.mark.slow
def test_cells_of_the_experiment_beside_are_taken_over(
    workplace: Path, here: Path, beside: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = here / "all" / "first" / "pair" / "rect" / "seed_0"
    (first / "notes.txt").write_text("mine")
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "link.ckpt").symlink_to(here / "mine.yaml")
    assert experiment(workplace, beside, "--out", "all/second") == 0
    assert ran == ["moved/prune,alpha=15000.0/seed_0"]
    assert "as in all/first/pair/rect/seed_0" in capsys.readouterr().err
    cells = content(here / "all" / "second")["cells"]
    assert [cell["source"] for cell in cells] == ["all/first/pair/rect/seed_0", None]
    assert "- cells: 2 of 2, 1 of other experiments, " in (here / "all" / "second" / "other.md").read_text()
    second = here / "all" / "second" / cells[0]["folder"]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (first, second)]
    assert metrics[1] == {**metrics[0], "method": "rect:alpha=15000.0"}
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert (config["data"]["path"], config["model"]["method"]["name"]) == ("elsewhere/pair.jsonl", "rect:alpha=15000.0")
    assert not (second / "notes.txt").exists()
    assert not list((second / "checkpoints").iterdir())
    ran.clear()
    assert experiment(workplace, beside, "--out", "all/second") == 0  # and are its own from then on
    assert not ran


@pytest.mark.slow
def test_cells_that_cannot_be_taken_over_are_made(
    workplace: Path, here: Path, beside: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree

    def torn(source: Path, to: Path, **more: Any) -> None:
        copy(source, to, **more)
        (to / "metrics.json").write_text("{}")  # as if the other had been begun again meanwhile

    def vanished(*_: Any, **__: Any) -> None:
        raise shutil.Error([("one", "other", "No such file")])

    for number, broken in enumerate((torn, vanished)):
        ran.clear()
        monkeypatch.setattr(shutil, "copytree", broken)
        assert experiment(workplace, beside, "--out", f"all/second_{number}") == 0
        assert len(ran) == 2
        assert [cell["source"] for cell in content(here / "all" / f"second_{number}")["cells"]] == [None, None]


@pytest.mark.slow
def test_an_experiment_is_made_again_elsewhere(workplace: Path, here: Path, ran: list[str]) -> None:
    assert experiment(workplace, "mine.yaml", "--out", "all/first") == 0
    assert experiment(workplace, "mine.yaml", "--out", "all/again") == 0
    assert len(ran) == 4


@pytest.mark.slow
def test_seconds_are_never_anothers(workplace: Path, here: Path, beside: Path, ran: list[str]) -> None:
    (table,) = PLAIN["tables"]
    timed = [{**table, "rows": ["variant", "set.method.alpha"], "values": ["score", "seconds.total"]}]
    beside.write_text(yaml.safe_dump({**PLAIN, **BESIDE, "tables": timed}))
    assert experiment(workplace, beside, "--out", "all/second") == 0
    assert len(ran) == 2


@pytest.mark.slow
def test_finished_cells_are_not_deleted_for_other_options(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    before = len(ran)
    assert experiment(workplace, "mine.yaml", "--out", "out", "--edits", "1") == 2
    assert "expected the options that the 2 finished cells in out were made with, got others" in capsys.readouterr().err
    assert experiment(workplace, "mine.yaml", "--out", "out", "--model.targets.steps", "3") == 2
    assert len(ran) == before
    assert experiment(workplace, "mine.yaml", "--out", "out", "--seeds", "0,1") == 0
    assert len(ran) == before + 2


@pytest.mark.slow
def test_a_file_that_a_callback_reads_counts(workplace: Path, here: Path, ran: list[str]) -> None:
    """Also as a file in a folder."""
    (here / "references.json").write_text('{"Rome": "one"}')
    init = {"protocols": ["fluency"], "fluency_length": 3, "references": "references.json"}
    change(callbacks=[{"class_path": "aeplus.callbacks.EvaluationWriter", "init_args": init}])
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    assert len(ran) == 2
    (here / "references.json").write_text('{"Rome": "two"}')
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    assert len(ran) == 4


def test_a_cell_that_another_process_makes_is_left(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = here / "out" / "pair" / "memit"
    place.mkdir(parents=True)
    with FileLock(place / ".aeplus.lock-seed_0"):
        assert experiment(workplace, "mine.yaml", "--out", "out") == 2
    cells = content(here / "out")["cells"]
    assert [cell["status"] for cell in cells] == ["failed", "done"]
    assert (
        "expected a folder for each cell that no other run writes to, got out/pair/memit, in use by another run"
        in cells[0]["error"]
    )


def test_values_of_every_kind_are_set(workplace: Path, here: Path) -> None:
    change(
        variants=["alphaedit_plus:selection=converge"],
        set={
            "callbacks.SmoothingStop.min_delta": [7.0],
            "data.batch_size": [1],
            "model.targets.steps": [2],
            "method.smooth": [False],
        },
        claim={"text": "None."},
        tables=[],
    )
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    (cell,) = content(here / "out")["cells"]
    assert cell["folder"].endswith("smooth=false,min_delta=7.0,batch_size=1,steps=2/seed_0")
    config = yaml.safe_load((here / "out" / cell["folder"] / "config.yaml").read_text())
    (stop,) = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("SmoothingStop")]
    assert stop["init_args"]["min_delta"] == 7.0
    assert (config["data"]["batch_size"], config["model"]["targets"]["steps"]) == (1, 2)
    assert (config["model"]["method"]["smooth"], config["model"]["method"]["selection"]) == (False, "converge")


# ---- what goes wrong

CRASH = """
import os, signal
from pathlib import Path
from aeplus.callbacks import EditCallback

class Crash(EditCallback):
    def on_batch_committed(self, trainer, module, commit):
        if module.session.method.name == "memit" and Path("crash").exists():
            raise RuntimeError("something broke")
        if module.session.method.name == "rect" and Path("stop").exists():
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def crashing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "crashing.py").write_text(CRASH)
    monkeypatch.syspath_prepend(here)
    change(callbacks=[{"class_path": "crashing.Crash"}])


@pytest.mark.usefixtures("crashing")
def test_a_crash_leaves_the_rest(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "crash").touch()
    assert experiment(workplace, "mine.yaml", "--out", "out") == 2
    cells = content(here / "out")["cells"]
    assert [(c["status"], c["error"]) for c in cells] == [("failed", "something broke"), ("done", None)]
    assert content(here / "out")["tables"][0]["rows"][1]["values"] == [None, None]
    assert content(here / "out")["checks"] == []
    assert "pair, memit, seed 0: failed (something broke)" in (here / "out" / "mine.md").read_text()
    assert "pair, memit, seed 0: failed (something broke)" in capsys.readouterr().out
    (here / "crash").unlink()
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    assert ran == ["pair/memit/seed_0", "pair/rect/seed_0", "pair/memit/seed_0"]


@pytest.mark.usefixtures("crashing")
def test_ctrl_c_keeps_what_is_finished(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "stop").touch()
    assert experiment(workplace, "mine.yaml", "--out", "out") == 130
    said = capsys.readouterr().err
    assert "interrupted: 1 of 2 cells finished; rerun the same command to continue" in said
    assert [cell["status"] for cell in content(here / "out")["cells"]] == ["done", "missing"]
    assert (
        "## Cells that are not done (1 of 2)\n\n- pair, rect, seed 0: missing" in (here / "out" / "mine.md").read_text()
    )
    # What is finished stands in the tables from the first, also where it comes behind.
    change(callbacks=[{"class_path": "crashing.Crash"}], variants=["rect", "memit"])
    assert experiment(workplace, "mine.yaml", "--out", "out") == 130
    said = capsys.readouterr().err
    assert "[2/2] pair, memit, seed 0: cached\n[1/2] pair, rect, seed 0\n" in said
    assert "interrupted: 1 of 2 cells finished" in said
    assert [cell["status"] for cell in content(here / "out")["cells"]] == ["missing", "done"]
    (here / "stop").unlink()
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    assert ran == ["pair/memit/seed_0", *["pair/rect/seed_0"] * 3]


def test_data_that_cannot_be_had_fail_their_cells(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(scales={"small": {"data": {"gone": {"path": "gone.jsonl"}, "pair": {"path": "pair.jsonl"}}}})
    assert experiment(workplace, "mine.yaml", "--out", "out") == 2
    assert [cell["status"] for cell in content(here / "out")["cells"]] == ["failed", "failed", "done", "done"]
    assert "gone.jsonl, which does not exist" in content(here / "out")["cells"][0]["error"]
    assert capsys.readouterr().err.count("aeplus: error: gone") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["table99"], "expected an experiment out of cases, fig1, .*table14, or a YAML file, got 'table99'"),
        (["gone.yaml"], "expected an experiment in gone.yaml, got a file that cannot be read"),
        (["table4", "--scale=huge"], "argument --scale: invalid choice: 'huge'"),
        (["table10"], "than small, as RippleEdits is not among the data that a clone has; use --scale paper"),
        (["fig4"], "than small, as the items of its tasks are on the hub, .*; use --scale paper"),
        (["mine.yaml", "--scale=paper"], "expected mine.yaml to have the scale paper, got small; choose another"),
        (["mine.yaml", "--seeds=x"], "expected seeds"),
        (["mine.yaml", "--jobs=0"], "expected --jobs to be at least 1, got 0"),
        (["mine.yaml", "--edits=0"], "expected --edits to be at least 1, got 0"),
        (["mine.yaml", "--data.path=x"], "expected no --data.path, got one, but an experiment draws its own data"),
        (["mine.yaml", "--model.seed=3"], "expected no --model.seed"),
        (["mine.yaml", "--launcher=slurm"], "argument --launcher: invalid choice: 'slurm'"),
        (["mine.yaml", "--launcher-options=gpu"], "expected name=value after --launcher-options, got 'gpu'"),
        (["mine.yaml", "--model.layers=[0, 9]"], "expected layers from 0 to 2"),
        (["mine.yaml", "--model.model=./nowhere"], "expected a model folder at ./nowhere"),
        (["mine.yaml", "--modle.seed=1"], "unrecognized arguments: --modle.seed=1"),
    ],
)
def test_nothing_is_begun_with_bad_input(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    try:
        status = experiment(workplace, *words, "--out", "out")
    except SystemExit as stop:  # the parser's own errors
        status = int(stop.code or 0)
    assert status == 2
    said = capsys.readouterr().err
    assert re.search(text, said), said
    assert "Traceback" not in said
    assert ran == []
    assert not [path for path in here.rglob("out/*") if path.name != ".aeplus.lock"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"titel": "x"}, "to have keys out of title, shows, .*, got titel"),
        ({"title": 3}, "expected title in mine.yaml to be a text, got 3"),
        ({"title": None}, "expected title in mine.yaml, got none; add it"),
        ({"claim": 3}, "expected claim in mine.yaml to be a mapping, got 3"),
        ({"variants": []}, "expected some variants in mine.yaml, got"),
        ({"variants": [3]}, r"expected some variants in mine.yaml, got \[3\]"),
        ({"variants": ["rct"]}, "got 'rct'"),
        ({"variants": ["memit:alhpa=1"]}, "got 'alhpa'"),
        ({"seeds": ["x"]}, "expected some seeds in mine.yaml"),
        ({"set": {"method.alpha": 3}}, "expected a list of values for each path"),
        ({"set": {3: [3]}}, "expected a list of values for each path"),
        ({"set": {"method.alpha": [-1]}, "tables": []}, "expected method.alpha above 0"),
        (
            {"set": {"method.alpha": [1, 2]}},
            "expected every axis along rows or columns .*, got set.method.alpha nowhere",
        ),
        ({"set": {"alpha": [1]}, "tables": []}, "expected method.FIELD, model.FIELD, data.FIELD .*, got alpha"),
        ({"set": {"callbacks.Nobody.x": [1]}}, "expected callbacks.Nobody.x to name a callback of the experiment"),
        ({"tables": [{**PLAIN["tables"][0], "rows": ["method"]}]}, "expected axes out of data, variant, seed"),
        (
            {"tables": [{**PLAIN["tables"][0], "values": ["points"]}]},
            "expected a value out of efficacy, .*, got 'points'",
        ),
        ({"tables": [{**PLAIN["tables"][0], "values": []}]}, "expected values in tables of mine.yaml, got none"),
        ({"tables": [{**PLAIN["tables"][0], "paper": {"memit": [1]}}]}, "expected the paper's numbers of 'Mine' as 2"),
        ({"tables": [{**PLAIN["tables"][0], "paper": {"memit": "x"}}]}, "expected the paper's numbers in tables"),
        ({"figures": ["pie"]}, "expected figures out of score, conflict, .*, got pie"),
        ({"cases": {"count": "x"}}, "expected whole numbers in cases of mine.yaml"),
        ({"scales": {"small": {"data": {"a": {"stream": "odd"}}}}}, "expected a stream out of plain, .*, got 'odd'"),
        ({"scales": {"small": {"data": {"a": {"alphaset": 4}}}}}, "expected alphaset 1, 2 or 3, got 4"),
        ({"scales": {"small": {"data": {"a": 3}}}}, "expected one of stream, alphaset and path in data a"),
        ({"scales": {"small": {"data": {"a": {"stream": "plain", "cout": 3}}}}}, "got cout"),
        (
            {"scales": {"small": {"data": {"a": {"path": "pair.jsonl", "limt": 3}}}}},
            "expected fields of data .*, got limt",
        ),
        ({"scales": {"small": {"data": {"a": {"path": "gone.jsonl"}}}}}, "gone.jsonl, which does not exist"),
        (
            {"scales": {"small": {"data": {n: {"stream": "plain", "count": 2} for n in ("a b", "a/b")}}}},
            "expected every cell to have a folder of its own",
        ),
        ({"scales": {"tiny": {}}}, "to have keys out of small, paper, got tiny"),
        ({"claim": {"text": "x", "value": "score", "higher": {"variant": "kde"}}}, "expected the claim to name cells"),
    ],
)
def test_a_file_that_is_no_experiment(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str], values: dict[str, Any], text: str
) -> None:
    change(**values)
    assert experiment(workplace, "mine.yaml", "--out", "out") == 2
    said = capsys.readouterr().err
    assert re.search(text, said), said
    assert said.count("error:") == 1
    assert ran == []


@pytest.mark.parametrize(
    "name", ["experiment.json", "mine.md", "mine.csv", "mine.tex", "pair/memit/seed_0/notes.txt", "data/b_0.jsonl"]
)
def test_nothing_of_the_users_is_replaced(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change(scales={"small": {"data": {"pair": {"path": "pair.jsonl"}, "b": {"stream": "plain", "count": 2}}}})
    path = here / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert experiment(workplace, "mine.yaml", "--out", "out") == 2
    assert path.read_text() == "mine"
    assert "choose another" in capsys.readouterr().err
    assert ran == []


def test_results_of_another_experiment_are_not_mixed(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    shutil.copy(here / "mine.yaml", here / "other.yaml")
    assert experiment(workplace, "other.yaml", "--out", "out") == 2
    assert "expected --out of other at scale small, got out of mine at small" in capsys.readouterr().err


# ---- data


@pytest.mark.slow
def test_streams_are_drawn_with_the_cells_seed(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change(variants=["memit"], scales={"small": {"data": {"b": {"stream": "plain"}}}}, claim={"text": "None."})
    asked = ("mine.yaml", "--edits", "2", "--seeds", "0,1", "--out", "out")
    assert experiment(workplace, *asked) == 0
    zero, one = ((here / "out" / "data" / f"b_{seed}.jsonl").read_text() for seed in (0, 1))
    assert zero != one
    assert len(zero.splitlines()) == 2
    words = ["build-stream", "--kind", "plain", "--data.path", "gensim:world-facts", "--count", "2"]
    assert main([*words, "--out", "again.jsonl"]) == 0
    assert (here / "again.jsonl").read_text() == zero
    stamp = (here / "out" / "data" / "b_0.jsonl").stat().st_mtime_ns
    (here / "out" / "data" / "drawn.json").write_text("[")
    assert experiment(workplace, *asked) == 0  # drawn again, to the same
    assert (here / "out" / "data" / "b_0.jsonl").stat().st_mtime_ns > stamp
    (here / "out" / "data" / "b_0.jsonl").write_text(one)
    assert experiment(workplace, *asked) == 2  # it is somebody's now
    assert "b_0.jsonl, which was changed since; choose another, or move it away" in capsys.readouterr().err
    (here / "out" / "data" / "b_0.jsonl").unlink()
    assert experiment(workplace, *asked) == 0
    assert (here / "out" / "data" / "b_0.jsonl").read_text() == zero
    assert len(ran) == 2


@pytest.mark.slow
def test_data_that_the_experiment_beside_has_drawn_are_taken(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, run = [], stream_command.run
    monkeypatch.setattr(stream_command, "run", lambda words: (drawn.append(str(words.out)), run(words))[1])
    change(variants=["memit"], scales={"small": {"data": {"b": {"stream": "preserved"}}}}, claim={"text": "None."})
    shutil.copy(here / "mine.yaml", here / "other.yaml")
    asked = ("--edits", "2", "--seeds", "0")
    assert experiment(workplace, "mine.yaml", *asked, "--out", "all/first") == 0
    assert experiment(workplace, "other.yaml", *asked, "--out", "all/second") == 0
    assert drawn == ["all/first/data/b_0.jsonl"]
    for name in ("b_0.jsonl", "b_0.facts.jsonl"):
        first, second = (here / "all" / out / "data" / name for out in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    assert experiment(workplace, "other.yaml", *asked, "--out", "all/second") == 0  # they are its own from then on
    assert len(drawn) == 1
    first = here / "all" / "first" / "data" / "b_0.jsonl"
    first.write_text(first.read_text() + "\n")  # no more what was drawn
    shutil.copy(here / "mine.yaml", here / "third.yaml")
    shutil.rmtree(here / "all" / "second")
    assert experiment(workplace, "third.yaml", *asked, "--out", "all/third") == 0
    assert drawn[1:] == ["all/third/data/b_0.jsonl"]


@pytest.mark.slow
def test_alphaset_is_drawn_once_for_its_three_sets(workplace: Path, here: Path) -> None:
    forms = "The capital of {} is", "{} is governed from"
    cities = ("Paris", "Italy", "London", "France")
    pool = [{"prompt": forms[i % 2], "subject": f"Land{i}", "target_new": cities[i // 2 % 4]} for i in range(40)]
    facts = [{"prompt": "People of {} speak", "subject": f"Old{i}", "target_new": cities[i % 3]} for i in range(9)]
    for name, lines in (("pool", pool), ("facts", facts)):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = {"edits": "pool.jsonl", "k0": "facts.jsonl", "steps": 2}
    data = {f"AlphaSet{n}": {"alphaset": n, **common, "protect": n == 1} for n in (1, 2, 3)}
    change(variants=["memit"], scales={"small": {"data": data}}, claim={"text": "None."})
    assert experiment(workplace, "mine.yaml", "--edits", "2", "--out", "out", "--model.layers", "[0, 1, 2]") == 0
    made = content(here / "out")
    assert [cell["status"] for cell in made["cells"]] == ["done"] * 3
    (folder,) = (path.parent for path in (here / "out" / "data").rglob("card.json"))
    configs = [yaml.safe_load((here / "out" / c["folder"] / "config.yaml").read_text()) for c in made["cells"]]
    assert [Path(c["data"]["path"]).name for c in configs] == [f"alphaset{n}.jsonl" for n in (1, 2, 3)]
    facts_of = [c["model"]["preserved"]["facts"] for c in configs]
    assert facts_of == [str(folder.relative_to(here) / "k0.jsonl"), None, None]
    card = (folder / "card.json").read_text()
    (here / "pool.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(pool)))
    assert experiment(workplace, "mine.yaml", "--edits", "2", "--out", "out", "--model.layers", "[0, 1, 2]") == 0
    assert (folder / "card.json").read_text() != card  # drawn from what the pool is now


def test_a_model_that_is_measured_is_loaded_by_its_name(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in ({"alphaset": 1}, {"stream": "inconsistent"}):
        change(scales={"small": {"data": {"a": entry}}})
        assert experiment(workplace, "mine.yaml", "--out", "out", "--model.revision", "old") == 2
        assert "expected a model that is loaded by its name alone, as the data set a" in capsys.readouterr().err


def test_the_unedited_models_row_has_every_data_set(workplace: Path, here: Path) -> None:
    (here / "one.jsonl").write_text((here / "pair.jsonl").read_text().splitlines(keepends=True)[0])
    data = {"pair": {"path": "pair.jsonl"}, "one": {"path": "one.jsonl"}}
    (table,) = PLAIN["tables"]
    long = {**table, "rows": ["data", "variant"], "columns": [], "values": ["specificity", "generalization"]}
    change(scales={"small": {"data": data}}, tables=[long])
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    rows = content(here / "out")["tables"][0]["rows"]
    assert [row["label"] for row in rows[:3]] == ["one, before", "pair, before", "one, memit"]
    assert [[number["n"] for number in row["values"]] for row in rows[:2]] == [[1, 1], [1, 1]]


# ---- estimate


def test_a_dry_run_writes_nothing(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    change(variants=["memit", "alphaedit:targets=own"], claim={"text": "None."})
    assert experiment(workplace, "mine.yaml", "--dry-run", "--seeds", "0,1", "--jobs", "2") == 0
    said = capsys.readouterr().out
    assert "Mine: 4 cells" in said
    assert "alphaedit:targets=own" in said
    assert "4 cells: about" in said
    assert "minutes in one process" in said
    assert "GiB in 2 processes" in said
    kinds = ["memit", "memit", "alphaedit,targets=own", "memit"]  # one edit, a few with each way to learn, one
    assert [Path(folder).parts[-2] for folder in ran] == kinds
    assert sorted(here.rglob("*")) == before
    assert "not here" not in said
    change(scales={"small": {"data": {"pair": {"path": "pair.jsonl"}, "two": {"path": "nowhere.json"}}}})
    assert experiment(workplace, "mine.yaml", "--dry-run", "--seeds", "0") == 0
    assert "not here, and needed: nowhere.json\n" in capsys.readouterr().out
    change(variants=["kde"], claim={"text": "None."}, scales={"small": {"data": {"pair": {"path": "pair.jsonl"}}}})
    assert experiment(workplace, "mine.yaml", "--dry-run", "--seeds", "0") == 0
    assert "1 cells: about" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("table1", "Building AlphaSet comes on top."),
        ("table9", ""),
    ],
)
def test_an_estimate_names_what_it_leaves_out(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    grid = read_experiment(name, "small").grid
    cells = make_cells(grid, merged(settings, grid.overrides), tmp_path / "out")
    learned = {kind_of(cell): 1.0 for cell in cells}
    show_cells(cells, grid, "", Calibration(learned, 1.0, 1.0, 1.0, 1.0, 1.0, 1), 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert ("AlphaSet comes" in shown) == ("AlphaSet" in said)


def test_an_estimate_tells_ways_to_learn_and_candidates_apart(settings: dict[str, Any], tmp_path: Path) -> None:
    cells = make_cells(*(read_experiment("table1", "small").grid, settings, tmp_path / "out"))
    layers = len(settings["model"]["layers"])
    kinds = {cell.variant: (kind_of(cell), candidates_of(cell)) for cell in cells}
    steps = settings["model"]["method"]["smoothing_steps"]
    assert kinds["alphaedit"] == ("1 layers", 1)
    assert kinds["blue"] == ("2 layers", 1)
    assert kinds["alphaedit_plus"] == (f"{layers} layers", 1)
    assert kinds["alphaedit_plus_paper"] == ("1 layers", steps + 1)
    assert kinds["kde"] == ("gradient", 1)
    measured = Calibration(
        {"1 layers": 2.0, "gradient": 7.0}, candidate=3.0, batch=5.0, asked=0.5, fixed=10.0, once=1.0, memory=1
    )
    assert measured.seconds(4, 2, "1 layers", 11) == 10 + 2 * (5 + 11 * 3) + 4 * (2 + 2 * 0.5)
    assert measured.seconds(4, 2, "gradient", 1) == 10 + 2 * (5 + 3) + 4 * (7 + 1)


# ---- several processes


@pytest.mark.slow
def test_the_first_cell_of_each_data_set_comes_before_the_others(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves: list[list[str]] = []

    def local(orders: Any, jobs: int, start: Any) -> Iterator[launch.Made]:
        waves.append([f"{order.run.label} {order.run.seed}" for order in orders])
        return (launch.make(order) for order in orders)

    monkeypatch.setattr(launch, "local", local)
    assert experiment(workplace, "mine.yaml", "--seeds", "0,1", "--jobs", "3", "--out", "out") == 0
    assert waves == [["memit 0", "memit 1"], ["rect 0", "rect 1"]]
    assert [cell["status"] for cell in content(here / "out")["cells"]] == ["done"] * 4


@pytest.mark.slow
def test_cells_are_the_same_in_several_processes(workplace: Path, here: Path) -> None:
    scores = []
    for out, jobs in (("one", "1"), ("two", "2")):
        words = [str(here / "mine.yaml"), f"--config={workplace}/tiny.yaml", "--seeds=0,1", f"--out={out}"]
        command = [sys.executable, "-m", "aeplus", "experiment", *words, f"--jobs={jobs}"]
        subprocess.run(command, check=True, cwd=here)
        (table,) = content(here / out)["tables"]
        scores.append([number["mean"] for row in table["rows"] for number in row["values"] if number])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)  # threads round otherwise


@pytest.mark.slow
def test_several_processes_take_what_is_finished_first(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(workplace, "mine.yaml", "--out", "out") == 0
    change(variants=["prune", "memit", "rect"])
    statuses: list[list[str]] = []
    write = Study.write

    def noted(study: Study) -> None:
        write(study)
        statuses.append([cell["status"] for cell in content(here / "out")["cells"]])

    monkeypatch.setattr(Study, "write", noted)
    assert experiment(workplace, "mine.yaml", "--out", "out", "--jobs", "2") == 0
    assert statuses[:2] == [["missing", "done", "done"], ["done", "done", "done"]]
    said = capsys.readouterr().err
    lines = [said.index(f"{cell}, seed 0: cached\n") for cell in ("[2/3] pair, memit", "[3/3] pair, rect")]
    assert lines == sorted(lines)
    assert lines[1] < said.index("[1/3] pair, prune, seed 0: done")


class Executor:
    """A cluster whose jobs run when they are asked for."""

    lost = 0

    def __init__(self, folder: str) -> None:
        self.options: dict[str, Any] = {}

    def update_parameters(self, **options: Any) -> None:
        Executor.options = options

    def submit(self, work: Any, share: Any) -> SimpleNamespace:
        Executor.shares.append(len(share))

        def result() -> Any:
            if len(Executor.shares) == 2 and Executor.lost:
                msg = "job timed out"
                raise TimeoutError(msg)
            return work(share)

        return SimpleNamespace(job_id="7", result=result)

    shares: list[int]


@pytest.mark.slow
def test_jobs_of_a_cluster(workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr(Executor, "shares", [], raising=False)
    options = ["--launcher=submitit", "--launcher-options", "slurm_partition=gpu,timeout_min=60"]
    words = ("mine.yaml", "--out", "out", "--seeds", "0,1", "--jobs", "3", *options)
    assert experiment(workplace, *words) == 0
    assert Executor.shares == [2, 2]
    assert Executor.options == {"name": "aeplus", "slurm_partition": "gpu", "timeout_min": 60}
    assert [cell["status"] for cell in content(here / "out")["cells"]] == ["done"] * 4


def test_a_job_that_a_cluster_ends_fails_its_cells(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr(Executor, "shares", [0], raising=False)
    monkeypatch.setattr(Executor, "lost", 1)
    assert experiment(workplace, "mine.yaml", "--out", "out", "--launcher=submitit") == 2
    assert {cell["error"] for cell in content(here / "out")["cells"]} == {"the job 7 failed (job timed out)"}


def test_a_launcher_that_is_not_installed(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    assert experiment(workplace, "mine.yaml", "--launcher=submitit") == 2
    assert (
        "expected submitit for --launcher submitit, got an installation without it; run: pip" in capsys.readouterr().err
    )


def test_experiments_are_no_configs_of_fit() -> None:
    assert (FOLDER / "experiment" / "table1.yaml").is_file()
    with pytest.raises(InputError, match="expected a config file, or a shipped config"):
        BaseCLI(["--config", "experiment/table1"])
