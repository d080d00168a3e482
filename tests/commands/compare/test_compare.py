"""The command, run in-process as a user would, on the tiny model."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aeplus import methods
from aeplus.commands.main import main
from aeplus.commands.runs import runner
from aeplus.commands.runs.folder import begin_folder, check_folder
from aeplus.errors import InputError
from aeplus.methods.parts import FILTERS
from aeplus.targets import cache as target_cache
from blocks import files_of_pages
from small import ROOT

BOTH = ["--methods", "alphaedit,alphaedit_plus", "--seeds", "0,1", "--data.limit=4"]
SCORES = ("efficacy", "generalization", "specificity", "score")


def compare(workplace: Path, out: Path, *words: str) -> int:
    return main(["compare", "--config", f"{workplace}/tiny.yaml", "--out", str(out), *words])


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def without_seconds(report: dict[str, Any]) -> dict[str, Any]:
    batches = [{name: value for name, value in batch.items() if name != "seconds"} for batch in report["batches"]]
    return {"before": report["before"], "after": report["after"], "leakage": report["leakage"], "batches": batches}


def lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "compare.csv").read_text().splitlines()))


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)  # Lightning leaves Ctrl-C ignored


@pytest.fixture(scope="module")
def compared(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished comparison of two methods with two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["aeplus"])
        assert compare(workplace, folder / "out", *BOTH) == 0
    return folder


@pytest.fixture
def out(compared: Path, here: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(compared / "out", here / "out"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the folder of every run that is begun."""
    begun: list[str] = []
    begin = runner.begin_folder

    def noted(folder: Path) -> None:
        begun.append(f"{folder.parent.name}/{folder.name}")
        begin(folder)

    monkeypatch.setattr(runner, "begin_folder", noted)
    return begun


def test_tables_hold_what_the_runs_measured(compared: Path, workplace: Path) -> None:
    out = compared / "out"
    table = lines(out)
    order = [("alphaedit", "0"), ("alphaedit_plus", "0"), ("alphaedit", "1"), ("alphaedit_plus", "1")]
    assert [(line["method"], line["seed"]) for line in table] == order
    for line in table:
        folder = out / line["method"] / f"seed_{line['seed']}"
        assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["seed"] == int(line["seed"])
        measured = metrics(folder)
        assert (measured["method"], measured["seed"]) == (line["method"], int(line["seed"]))
        assert [float(line[name]) for name in SCORES] == [measured["after"][name] for name in SCORES]
        editing = sum(batch["seconds"]["total"] for batch in measured["batches"])
        assert float(line["editing_seconds"]) == pytest.approx(editing)
        assert float(line["leakage"]) == measured["leakage"] > 0

    text = (out / "compare.md").read_text().splitlines()
    assert text[2].startswith("| before |")
    row = text[4].strip("| ").split(" | ")
    both = torch.tensor([float(line["generalization"]) for line in table if line["method"] == "alphaedit_plus"])
    assert row[0] == "alphaedit_plus"
    assert row[2] == f"{both.mean():.1f} ± {both.std():.1f}"
    notes = "\n".join(text[5:])
    for note in (
        f"`aeplus compare --config {workplace}/tiny.yaml --out {out} --methods alphaedit,alphaedit_plus --seeds 0,1 "
        "--data.limit=4`",
        "seeds: 0, 1",
        "edits: 4 in batches of 3",
        f"model: {workplace}/model, layers 0, 1",
        f"torch {torch.__version__}",
        "runs: 4 of 4",
    ):
        assert note in notes


def test_a_comparison_keeps_figures_only(compared: Path) -> None:
    assert not list(compared.rglob("*.ckpt"))
    assert not (compared / "lightning_logs").exists()
    names = {path.name for path in (compared / "out" / "alphaedit" / "seed_0").iterdir()}
    assert {"config.yaml", "metrics.json", "result.json"} <= names
    assert [name for name in names if name.startswith("events.")]


def test_every_method_against_one(workplace: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(workplace, out, *BOTH, "--against", "alphaedit") == 0
    assert "Score against alphaedit" in capsys.readouterr().out
    table = (out / "compare.md").read_text().split("Against alphaedit:")[1]
    (row,) = [line for line in table.splitlines() if line.startswith("| alphaedit_plus")]
    difference = float(row.split("|")[2])
    scores: dict[str, list[float]] = {}
    for line in csv.DictReader((out / "compare.csv").read_text().splitlines()):
        scores.setdefault(line["method"], []).append(float(line["score"]))
    means = {method: sum(values) / len(values) for method, values in scores.items()}
    assert difference == pytest.approx(means["alphaedit_plus"] - means["alphaedit"], abs=0.051)


def test_against_a_method_that_does_not_run(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(workplace, here / "out", *BOTH, "--against", "rect") == 2
    said = capsys.readouterr().err
    assert "expected --against one of the methods (alphaedit, alphaedit_plus), got 'rect'; name it" in said
    assert not (here / "out").exists()


def test_targets_of_the_first_batch_are_found_once(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    find_targets = target_cache.find_targets

    def counted(*arguments: Any) -> Any:
        found.append(1)
        return find_targets(*arguments)

    monkeypatch.setattr(target_cache, "find_targets", counted)
    assert compare(workplace, here / "out", "--methods=alphaedit,memit", "--data.limit=4") == 0
    assert len(found) == 2 + 1  # the second method finds those of the second batch anew
    one, two = (metrics(here / "out" / name / "seed_0")["batches"] for name in ("alphaedit", "memit"))
    assert one[0]["seconds"]["targets"] == two[0]["seconds"]["targets"] > 0
    assert two[0]["seconds"]["total"] > two[0]["seconds"]["targets"]
    assert one[1]["seconds"]["targets"] != two[1]["seconds"]["targets"]


def test_a_method_does_not_feel_those_before_it(compared: Path, workplace: Path, here: Path) -> None:
    """The last run of the comparison measured what ``fit`` measures when it runs alone."""
    method = f"{ROOT}/configs/method/alphaedit_plus.yaml"
    seed = ["--model.seed=1", "--data.seed=1", "--data.limit=4"]
    assert main(["fit", "--config", f"{workplace}/tiny.yaml", "--config", method, *seed]) == 0
    (folder,) = (here / "lightning_logs" / "edits").iterdir()
    expected = without_seconds(metrics(folder))
    assert without_seconds(metrics(compared / "out" / "alphaedit_plus" / "seed_1")) == expected


def test_widened_weights_do_not_outlive_their_run(workplace: Path, here: Path) -> None:
    """The second method edits one layer less, and so must find the other as the model has it."""
    narrow = ["--model.dtype=bfloat16", "--model.edited_dtype=float32", "--model.layers=[0, 1, 2]", "--data.limit=4"]
    assert compare(workplace, here / "out", "--methods", "alphaedit", "alphaedit:sites=ends", *narrow) == 0
    method = ["--config", f"{ROOT}/configs/method/alphaedit.yaml", "--model.method.sites=ends"]
    assert main(["fit", "--config", f"{workplace}/tiny.yaml", *method, *narrow]) == 0
    (folder,) = (here / "lightning_logs" / "edits").iterdir()
    second = metrics(here / "out" / "alphaedit,sites=ends" / "seed_0")
    assert without_seconds(second) == without_seconds(metrics(folder))


def test_finished_runs_are_cached(
    workplace: Path, out: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (out / "compare.csv").read_text()
    assert compare(workplace, out, *BOTH) == 0
    assert ran == []
    assert (out / "compare.csv").read_text() == before
    said = capsys.readouterr()
    assert "[4/4] alphaedit_plus, seed 1: cached" in said.err
    assert "│ alphaedit_plus │" in said.out
    assert "of 4 cached runs" in (out / "compare.md").read_text()


def test_what_is_new_runs_alone(workplace: Path, out: Path, ran: list[str]) -> None:
    assert compare(workplace, out, "--methods=alphaedit,alphaedit:ridge=0.5", "--seeds=1", "--data.limit=4") == 0
    assert ran == ["alphaedit,ridge=0.5/seed_1"]
    assert [line["method"] for line in lines(out)] == ["alphaedit", "alphaedit:ridge=0.5"]


def test_changed_settings_run_again(
    workplace: Path, out: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = metrics(out / "alphaedit" / "seed_0")
    notes = out / "alphaedit" / "seed_0" / "notes.txt"
    notes.write_text("mine")
    words = ("--methods=alphaedit", "--data.limit=4", "--model.targets.steps=4")
    assert compare(workplace, out, *words) == 2  # a file of the user's is in the way
    assert notes.read_text() == "mine"
    assert metrics(out / "alphaedit" / "seed_0") == before
    notes.unlink()
    capsys.readouterr()
    assert compare(workplace, out, *words, "--seeds=0,1,2") == 0
    said = capsys.readouterr().err
    replaced = (
        f"aeplus: 2 finished runs in {out} made with other settings, files or versions will be replaced; to keep what "
        "is there, choose another --out\n"
    )
    assert said.index(replaced) < said.index("[1/3] alphaedit, seed 0\n")
    assert ran == ["alphaedit/seed_0", "alphaedit/seed_1", "alphaedit/seed_2"]
    assert metrics(out / "alphaedit" / "seed_0") != before
    assert compare(workplace, out, *words, "--seeds=0,1,2,3") == 0
    assert "will be replaced" not in capsys.readouterr().err


def test_changed_edits_run_again(workplace: Path, here: Path, ran: list[str]) -> None:
    edits = here / "edits.jsonl"
    shutil.copy(workplace / "edits.jsonl", edits)
    for _ in range(2):
        assert compare(workplace, here / "out", "--methods=alphaedit", f"--data.path={edits}", "--data.limit=2") == 0
    assert len(ran) == 1
    edits.write_text(edits.read_text().replace("Paris", "Oslo"))
    assert compare(workplace, here / "out", "--methods=alphaedit", f"--data.path={edits}", "--data.limit=2") == 0
    assert len(ran) == 2


def test_changed_facts_run_again(workplace: Path, here: Path, ran: list[str]) -> None:
    facts = here / "facts.jsonl"
    lines = (workplace / "edits.jsonl").read_text().splitlines()
    words = ["--methods=memit", "--data.limit=2", f"--model.preserved.facts={facts}"]
    for text in (lines[5], lines[5], lines[6]):
        facts.write_text(text + "\n")
        assert compare(workplace, here / "out", *words) == 0
    assert len(ran) == 2


def test_every_seed_has_its_own_edits(workplace: Path, here: Path) -> None:
    records = (workplace / "edits.jsonl").read_text().splitlines()
    for seed, count in enumerate((3, 2)):
        (here / f"facts_{seed}.jsonl").write_text(records[6 - seed] + "\n")
        (here / f"edits_{seed}.jsonl").write_text("\n".join(records[seed : seed + count]) + "\n")
    words = ["--seeds=0,1", "--data.path=edits_{seed}.jsonl", "--data.preserved=facts_{seed}.jsonl"]
    words.append("--model.preserved.facts=facts_{seed}.jsonl")
    assert compare(workplace, here / "out", "--methods=memit", *words) == 0
    for seed, count in enumerate((3, 2)):
        folder = here / "out" / "memit" / f"seed_{seed}"
        assert metrics(folder)["edits"] == count
        config = yaml.safe_load((folder / "config.yaml").read_text())
        data, facts = config["data"], f"facts_{seed}.jsonl"
        assert (data["path"], data["preserved"]) == (f"edits_{seed}.jsonl", facts)
        assert config["model"]["preserved"]["facts"] == facts
    assert "edits: 2 or 3 in batches of" in (here / "out" / "compare.md").read_text()


def test_a_seed_without_edits_is_reported_at_once(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(workplace / "edits.jsonl", here / "edits_0.jsonl")
    assert compare(workplace, here / "out", "--seeds=0,1", "--data.path=edits_{seed}.jsonl") == 2
    assert "got edits_1.jsonl, which does not exist; check the path" in capsys.readouterr().err
    assert ran == []


INTERRUPT = """
import os, signal
from pathlib import Path
from aeplus.callbacks import EditCallback

class Interrupt(EditCallback):
    def on_candidate(self, trainer, module, iteration, iterations):
        if module.session.method.name == "alphaedit_plus" and Path("stop").exists():
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_loses_one_run(
    workplace: Path, here: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "interrupting.py").write_text(INTERRUPT)
    (here / "stop").touch()
    monkeypatch.syspath_prepend(here)
    words = ["--methods=alphaedit,alphaedit_plus", "--trainer.callbacks+=interrupting.Interrupt", "--data.limit=2"]
    assert compare(workplace, here / "out", *words) == 130
    assert "interrupted: 1 of 2 runs finished and cached; rerun the same command to continue" in capsys.readouterr().err
    assert [line["method"] for line in lines(here / "out")] == ["alphaedit"]
    assert "runs: 1 of 2" in (here / "out" / "compare.md").read_text()
    assert (here / "out" / "alphaedit_plus" / "seed_0").is_dir()
    # What is finished stands in the tables from the first, also where it comes behind.
    words[0] = "--methods=alphaedit_plus,alphaedit"
    assert compare(workplace, here / "out", *words) == 130
    assert "interrupted: 1 of 2 runs finished and cached" in capsys.readouterr().err
    assert [line["method"] for line in lines(here / "out")] == ["alphaedit"]
    assert "runs: 1 of 2" in (here / "out" / "compare.md").read_text()
    (here / "stop").unlink()
    assert compare(workplace, here / "out", *words) == 0
    assert ran == ["alphaedit/seed_0", *["alphaedit_plus/seed_0"] * 3]
    assert [line["method"] for line in lines(here / "out")] == ["alphaedit_plus", "alphaedit"]


def test_a_run_that_ends_early_is_no_result(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert compare(workplace, here / "out", "--methods=alphaedit", "--trainer.max_epochs=1") == 2
        assert "ended after 3 of 7 edits" in capsys.readouterr().out
        (line,) = lines(here / "out")
        assert line["efficacy"] == ""
    assert ran == ["alphaedit/seed_0", "alphaedit/seed_0"]  # not cached


def test_a_broken_method_loses_only_itself(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "alphaedit:threshold=1e9:threshold_kind=absolute"
    for _ in range(2):
        assert compare(workplace, here / "out", f"--methods={broken},alphaedit", "--data.limit=2") == 2
    assert ran == [f"{broken.replace(':', ',')}/seed_0", "alphaedit/seed_0", f"{broken.replace(':', ',')}/seed_0"]
    first, second = lines(here / "out")
    assert "leaves no constraint" in first["error"]
    assert float(second["efficacy"]) >= 0
    said = capsys.readouterr()
    assert f"| {broken}, seed 0 | failed: {first['error']} |" in (here / "out" / "compare.md").read_text()
    assert f"{broken}, seed 0 failed: {first['error']}" in said.out
    assert "Traceback" not in said.err


def test_a_method_that_needs_too_much_memory_loses_only_itself(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: Any) -> None:
        msg = "CUDA out of memory.\nTried to allocate 1 TiB."
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(methods.closed_form.ClosedForm, "propose", starved)
    (here / "gradient.yaml").write_text("model:\n  method:\n    gradient:\n      steps: 2\n")
    words = ["--methods=memit,kde", "--data.limit=2", "--config=gradient.yaml"]
    assert compare(workplace, here / "out", *words) == 2
    first, second = lines(here / "out")
    assert (first["error"], second["error"]) == ("CUDA out of memory.", "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--methods=alphaedit,rct"], "got 'rct'"),
        (["--methods=alphaedit,alphaedit:ridge=0"], "--methods alphaedit:ridge=0: expected method.ridge above 0"),
        (["--seeds=one"], "expected seeds"),
        (["--data.path=nowhere.jsonl"], "got nowhere.jsonl, which does not exist; check the path"),
        (["--model.model=./nowhere"], "expected a model folder at ./nowhere"),
        (["--model.layers=[0, 9]"], "expected layers from 0 to 2"),
        (["--ckpt_path=nowhere.ckpt"], "begins with the unedited model, got nowhere.ckpt; leave it out"),
        (["--modle.seed=1"], "unrecognized arguments: --modle.seed=1"),
        (["--method=all"], "unrecognized arguments: --method=all"),
    ],
)
def test_nothing_is_begun_with_bad_input(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    try:
        status = compare(workplace, here / "out", *words)
    except SystemExit as stop:  # the parser's own errors
        status = int(stop.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert text in said
    assert "Traceback" not in said
    assert ran == []
    assert not (here / "out").exists()


def test_numbers_that_change_nothing_are_named_first(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods=alphaedit:max_rank=2,alphaedit", "--seeds=0,1", "--data.path=nowhere.jsonl"]
    assert compare(workplace, here / "out", *words) == 2
    said = capsys.readouterr().err
    text = "aeplus: alphaedit:max_rank=2: max_rank changes nothing: alphaedit does not use it\n"
    assert said.count("changes nothing") == said.count(text) == 1
    assert said.index(text) < said.index("which does not exist")


def test_a_checkpoint_is_refused(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({}, here / "some.ckpt")
    assert compare(workplace, here / "out", "--ckpt_path=some.ckpt") == 2
    assert "begins with the unedited model, got some.ckpt; leave it out" in capsys.readouterr().err


def test_what_others_made_is_not_deleted(
    workplace: Path, here: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    precious = here / "out" / "alphaedit" / "seed_0" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.touch()
    assert compare(workplace, here / "out", "--methods=alphaedit_plus,alphaedit") == 2
    assert ran == []
    assert "expected a new folder or a run of aeplus compare, got" in capsys.readouterr().err
    with pytest.raises(InputError, match="choose another --out"):
        begin_folder(precious.parent)
    assert precious.exists()


def test_what_callbacks_write_is_no_users(workplace: Path, here: Path) -> None:
    """So the same command makes the run again after a change."""
    own = "--trainer.callbacks=[{class_path: aeplus.callbacks.EvaluationWriter, init_args: {records: true}}]"
    assert compare(workplace, here / "out", "--methods=alphaedit", own, "--data.limit=2") == 0
    folder = here / "out" / "alphaedit" / "seed_0"
    assert (folder / "prompts.jsonl").is_file()
    check_folder(folder)


def test_callbacks_of_the_user(workplace: Path, here: Path) -> None:
    """They replace those of a comparison; the figures are written all the same."""
    own = "--trainer.callbacks=[aeplus.callbacks.EditCheckpoint]"
    assert compare(workplace, here / "out", "--methods=alphaedit", own, "--data.limit=2") == 0
    folder = here / "out" / "alphaedit" / "seed_0"
    assert metrics(folder)["after"]["efficacy"] is not None
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1-batches.ckpt"]


def test_what_evaluation_writer_measures_is_in_the_csv(workplace: Path, here: Path) -> None:
    init = {"protocols": ["tokens", "contains"], "contains_length": 3}
    writer = {"class_path": "aeplus.callbacks.EvaluationWriter", "init_args": init}
    words = ["--methods=memit", "--data.limit=2", f"--trainer.callbacks+={json.dumps(writer)}"]
    for _ in range(2):  # the second is cached
        assert compare(workplace, here / "out", *words) == 0
        (line,) = lines(here / "out")
        measures = metrics(here / "out" / "memit" / "seed_0")["measures"]
        after = measures["after"]
        assert float(line["tokens.efficacy"]) == after["tokens"]["efficacy"]["value"]
        assert float(line["contains.score"]) == after["contains"]["score"]
        assert float(line["retention"]) == measures["retention"]["mean"][-1]
        assert not [name for name in line if name.endswith((".low", ".count")) or name == "edits"]


def test_the_documented_part(workplace: Path, here: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that a callback's module defines is known by the time the methods are read, and as it is now."""
    pages = files_of_pages()
    for name in ("my_parts.py", "memit_squared.yaml"):
        (here / name).write_text(pages[name])
    monkeypatch.syspath_prepend(here)
    words = ["--config=memit_squared.yaml", "--methods=memit_squared.yaml,memit", "--data.limit=2"]
    leakages = []
    for formula in ("** 2", "** 2", "** 0.5"):
        (here / "my_parts.py").write_text(pages["my_parts.py"].replace("** 2", formula))
        try:
            assert compare(workplace, here / "out", *words) == 0
        finally:
            FILTERS.pop("squared", None)
            sys.modules.pop("my_parts", None)
        squared, plain = lines(here / "out")
        assert (squared["method"], plain["method"]) == ("memit_squared", "memit")
        assert squared["leakage"] != plain["leakage"]
        leakages.append(squared["leakage"])
    assert leakages[0] == leakages[1] != leakages[2]
    assert ran == ["memit_squared/seed_0", "memit/seed_0"] * 2


def test_help_needs_no_torch(here: Path) -> None:
    code = (
        "import sys; from aeplus.commands.main import main; main(['compare', '-h']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for text in ("--methods", "--seeds", "--out", "Every option of aeplus fit is accepted"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("result.json", '"score": ', '"score": 1', marks=pytest.mark.slow),
        ("metrics.json", "[", "[1, "),
    ],
)
def test_an_altered_result_is_run_again(
    workplace: Path, here: Path, ran: list[str], name: str, old: str, new: str
) -> None:
    words = ["--methods=memit", "--data.limit=1"]
    assert compare(workplace, here / "out", *words) == 0
    first = lines(here / "out")
    path = here / "out" / "memit" / "seed_0" / name
    path.write_text(path.read_text().replace(old, new))
    assert compare(workplace, here / "out", *words) == 0
    assert len(ran) == 2
    assert [line["score"] for line in lines(here / "out")] == [line["score"] for line in first]
