"""Selection on hand-made scores; the command, run in-process as a user would, on the tiny model."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aeplus.commands.main import main
from aeplus.commands.tune import command, search, trials
from aeplus.commands.tune.config_file import ConfigFile, yaml_value
from aeplus.commands.tune.search import Result, Stage, Trial, Values, best_layers, converging, most_conservative
from aeplus.errors import InputError
from aeplus.module import EditModule
from aeplus.utils.cache import digest
from small import ROOT, records
from tiny import tiny_model

# ---- selection, without any model


def result(score: float = 50.0, specificity: float = 50.0, converged: int = 10, loss: float | None = 0.04) -> Result:
    return Result(50.0, 50.0, specificity, score, 0.01, 10, converged, loss, 1.0)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([80.0, 70.0, 60.0], 0),
        ([60.0, 70.0, 80.0], 2),
        ([60.0, 79.0, 80.0], 1),  # a point is a tie
        ([60.0, 78.9, 80.0], 2),
        ([79.5, 80.4, 81.3], 1),  # ties are with the best, not with one another
    ],
)
def test_ties_go_to_the_more_conservative_value(scores: list[float], chosen: int) -> None:
    assert most_conservative([result(score) for score in scores]) == chosen


@pytest.mark.parametrize(
    ("windows", "chosen"),
    [
        ([(80.0, 50.0), (90.0, 40.0)], 1),
        ([(90.0, 50.0), (89.5, 60.0)], 1),
        ([(89.5, 60.0), (90.0, 60.0)], 0),
        ([(80.0, 99.0), (90.0, 60.0), (89.0, 60.0)], 1),
    ],
)
def test_layers_within_a_point_go_by_specificity(windows: list[tuple[float, float]], chosen: int) -> None:
    assert best_layers([result(score, specificity) for score, specificity in windows]) == chosen


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ([(9, 0.2), (10, 0.1), (10, 0.0)], 0),
        ([(8, 0.1), (9, 0.1), (10, 0.1)], 1),
        ([(3, 0.1), (8, 0.9), (7, 0.1)], 1),
        ([(3, 0.3), (3, 0.1), (3, 0.2)], 1),
    ],
)
def test_learning_rate_goes_by_convergence(rates: list[tuple[int, float]], chosen: int) -> None:
    assert converging([result(converged=count, loss=loss) for count, loss in rates]) == chosen


def test_values_are_ordered_from_the_most_conservative() -> None:
    for rising in (search.LEARNING_RATES, search.THRESHOLDS, search.GRADIENT_RATES):
        assert list(rising) == sorted(rising)
    for falling in (search.RIDGES, search.ALPHAS, search.OWN_RIDGES):
        assert list(falling) == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("depth", "starts"), [(30, [2, 3, 6, 10]), (48, [3, 6, 9, 16]), (12, [0, 1, 2, 4]), (7, [0, 1]), (4, [0]), (2, [0])]
)
def test_windows_are_distinct_and_in_range(depth: int, starts: list[int]) -> None:
    windows = search.windows(depth)
    assert [window[0] for window in windows] == starts
    for window in (*windows, search.first_window(depth)):
        assert window == list(range(window[0], window[0] + min(5, depth - 1)))
        assert window[-1] < depth - 1
    assert search.first_window(30) == [3, 4, 5, 6, 7]


def test_stages_belong_to_the_methods_asked_for() -> None:
    def labels(*methods: str, layers: list[int] | None = None) -> list[str]:
        return [stage.label for stage in search.stages(30, methods, layers)]

    every = ["v_lr", "layers", "tau", "lambda", "alpha", "own_ridge", "learning rate"]
    assert labels(*search.TUNED) == every
    assert labels("memit") == ["v_lr", "layers", "alpha"]
    assert labels("blue") == ["v_lr", "layers", "tau", "own_ridge"]
    assert labels("alphaedit", layers=[4, 5]) == ["v_lr", "tau", "lambda"]


def test_each_stage_begins_with_what_was_found() -> None:
    seen: list[tuple[str, str, Values]] = []

    def run(title: str, method: str, values: Values) -> Result:
        seen.append((title, method, dict(values)))
        if values.get("b") == 1.0:
            msg = "no null space"
            raise InputError(msg)
        return result({3: 60.0, 4: 90.0}.get(values["a"], 0.0) - values.get("b", 0.0))

    plan = [Stage("A", "a", "alphaedit", (3, 4)), Stage("B", "b", "memit", (1.0, 20.0, 5.0))]
    found, tried = search.search(plan, {"a": 9, "c": 7}, run)
    assert found == {"a": 4, "b": 5.0, "c": 7}
    assert [values for _, _, values in seen] == [
        {"a": 3, "c": 7},
        {"a": 4, "c": 7},
        *({"a": 4, "c": 7, "b": b} for b in (1.0, 20.0, 5.0)),
    ]
    assert [title for title, _, _ in seen] == [
        f"[{i}/5] {t}" for i, t in enumerate(("A = 3", "A = 4", "B = 1", "B = 20", "B = 5"), 1)
    ]
    assert [method for _, method, _ in seen] == ["alphaedit"] * 2 + ["memit"] * 3
    assert [trial.chosen for trial in tried] == [False, True, False, False, True]
    assert [trial.error for trial in tried] == [None, None, "no null space", None, None]


def test_a_stage_without_a_successful_trial_is_refused() -> None:
    def run(title: str, method: str, values: Values) -> Result:
        msg = "the ridge is cursed"
        raise InputError(msg)

    with pytest.raises(
        InputError,
        match=r"expected a lambda with which alphaedit can be run, got an error in every trial, .* ridge is cursed",
    ):
        search.search([Stage("lambda", "method.ridge", "alphaedit", (1.0, 2.0))], {}, run)


@pytest.mark.parametrize("value", [1e-5, 2e16, 0.1, 3.0, 5, True, None, [1, 2], "gpt2", "no", "a: b # c", "./x", "1e3"])
def test_values_are_read_back(value: Any) -> None:
    text = yaml_value(value)
    assert yaml.safe_load(f"x: {text}  # why") == {"x": value}


@pytest.mark.parametrize(("converged", "doubtful"), [(4, True), (5, False), (10, False)])
def test_few_converged_targets_are_told_and_what_matters_is_named(converged: int, doubtful: bool) -> None:
    given = EditModule("gpt2", [3, 4]).settings | {"revision": "main"}
    tried = [Trial("v_lr", "targets.learning_rate", "alphaedit", 0.5, result(converged=converged), chosen=True)]
    values = {**search.start(30, [3, 4]), "targets.learning_rate": 0.5}
    text = ConfigFile(given, values, tried, inputs=2000, fixed=True).text({"seed": "0"})
    told = f"# Only {converged} of 10 targets converged at the best learning rate, less than half"
    assert (told in text) == doubtful
    assert yaml.safe_load(text)["model"] == {
        "model": "gpt2",
        "revision": "main",
        "layers": [3, 4],
        "method": {"threshold": 0.7, "threshold_kind": "dimensions", "ridge": 1.0, "prior_strength": 100.0},
        "targets": {"learning_rate": 0.5, "clamp": 0.75},
        "preserved": {"corpus": "wiki-sample", "tokens": 100_000},
    }
    assert "tokens: 100000  # not tuned: 50 times d\n" in text


# ---- the command

GRIDS: dict[str, tuple[float, ...]] = {
    "LEARNING_RATES": (0.5,),
    "THRESHOLDS": (0.6, 0.7),
    "RIDGES": (1.0, 0.05),
    "ALPHAS": (30.0,),
    "OWN_RIDGES": (1.0,),
    "GRADIENT_RATES": (1e-3,),
}


def tune(workplace: Path, *words: str, out: str = "new.yaml") -> int:
    return main(["tune", "--config", f"{workplace}/tiny.yaml", "--data.path", "edits.jsonl", "--out", out, *words])


def place(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A folder with edits to run in, and fewer values to try."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["aeplus"])
    for name, values in GRIDS.items():
        patch.setattr(search, name, values)
    patch.setattr(trials.gc, "collect", lambda: 0)  # half of a tiny trial's time
    write_edits(folder, records())


def write_edits(folder: Path, edits: list[dict[str, Any]]) -> None:
    (folder / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A second one only waits, with so little to do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place(tmp_path, monkeypatch)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    yield tmp_path
    signal.signal(signal.SIGINT, handler)  # Lightning leaves Ctrl-C ignored


@pytest.fixture(scope="module")
def tuned(one_thread: None, workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search; the model it leaves is saved beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        place(folder, patch)
        loaded = keep_model(patch)
        assert tune(workplace) == 0
    torch.save(loaded[0].state_dict(), folder / "left.pt")
    return folder


def keep_model(patch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by every model that is loaded."""
    kept: list[Any] = []
    load = command.load_named

    def keeping(*arguments: Any) -> Any:
        model, tokenizer = load(*arguments)
        kept.append(model)
        return model, tokenizer

    patch.setattr(command, "load_named", keeping)
    return kept


def unedited(state: dict[str, torch.Tensor]) -> bool:
    original = tiny_model(num_hidden_layers=3).state_dict()
    return original.keys() == state.keys() and all(torch.equal(original[name], state[name]) for name in original)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by every trial that is run, not recalled."""
    count: list[int] = []
    run = trials.TrialRunner._run

    def counted(self: Any, *arguments: Any) -> Result:
        count.append(1)
        return run(self, *arguments)

    monkeypatch.setattr(trials.TrialRunner, "_run", counted)
    return count


def table(folder: Path, name: str = "new") -> list[dict[str, str]]:
    lines = (folder / "lightning_logs" / "tune" / f"{name}.tuning.md").read_text().split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def without_seconds(folder: Path) -> list[dict[str, Any]]:
    (journal,) = (folder / "lightning_logs" / "tune").glob("*.json")
    return [{**trial, "seconds": 0, "seal": ""} for trial in json.loads(journal.read_text()).values()]


def test_the_file_contains_the_chosen_values_and_their_sources(tuned: Path) -> None:
    text = (tuned / "new.yaml").read_text()
    model = yaml.safe_load(text)["model"]
    rows = table(tuned)
    chosen = {row["stage"]: row for row in rows if row["chosen"] == "chosen"}
    assert [row["stage"] for row in rows] == [
        "v_lr", "layers", *["tau"] * 2, *["lambda"] * 2, "alpha", "own_ridge", "learning rate",
    ]  # fmt: skip
    method = model["method"]
    for value, stage in (
        (model["targets"]["learning_rate"], "v_lr"),
        (method["threshold"], "tau"),
        (method["ridge"], "lambda"),
        (method["alpha"], "alpha"),
        (method["own_ridge"], "own_ridge"),
        (method["gradient"]["learning_rate"], "learning rate"),
    ):
        assert f"{value:g}" == chosen[stage]["value"]
    assert model["layers"] == [0, 1]
    assert (method["threshold_kind"], method["prior_strength"]) == ("dimensions", 1.0)
    assert (method["smoothing_steps"], model["targets"]["clamp"]) == (2, 4.0)  # the user's, not tuned
    assert {"name", "update", "filter", "smooth", "selection"}.isdisjoint(method)

    own = chosen["lambda"]
    score = f"Score {own['Score']} (Efficacy {own['Efficacy']}, Generalization {own['Generalization']}, Specificity "
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert f"# measured: {score}{own['Specificity']})" in lines["ridge"]
    assert lines["alpha"].endswith(", memit; the smallest tried")
    for name in ("prior_strength", "threshold_kind", "clamp", "tokens", "smoothing_steps"):
        assert "# not tuned" in lines[name], name
    head = text.split("\nmodel:")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    for part in ("Command: aeplus tune --config", "7 of edits.jsonl, in one batch, seed 0", "torch", "no test prompt"):
        assert part in head
    converged = int(chosen["v_lr"]["converged"].split()[0])
    assert ("less than half" in head) == (2 * converged < 7)


def test_every_trial_leaves_the_model_as_it_was(tuned: Path) -> None:
    assert unedited(torch.load(tuned / "left.pt"))
    assert sorted(path.name for path in tuned.iterdir()) == ["edits.jsonl", "left.pt", "lightning_logs", "new.yaml"]
    assert sorted(path.name for path in (tuned / "lightning_logs").iterdir()) == ["tune"]


def test_targets_are_learned_once_for_layers_and_rate(tuned: Path) -> None:
    """Those of the second layer, and BLUE's: of its first layer, and of its last behind an edit of the first."""
    assert len(list((tuned / "lightning_logs" / "tune" / "targets").iterdir())) == 3


def test_test_prompts_change_nothing(tuned: Path, workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other rephrasings, neighbors and true answers: the same scores in every trial, and the same file."""
    seen: list[Any] = []
    setup = command.EditDataModule.setup

    def watched(self: Any, stage: str) -> None:
        setup(self, stage)
        seen.extend(self.requests)

    monkeypatch.setattr(command.EditDataModule, "setup", watched)
    changes = {"rephrase": ["Of France"], "neighborhood": ["Peru is in", {"prompt": "Oslo", "answer": "Rome"}]}
    write_edits(here, [{**edit, **changes, "target_true": "Lima"} for edit in records()])
    assert tune(workplace) == 0
    assert without_seconds(here) == without_seconds(tuned)
    assert (here / "new.yaml").read_text() == (tuned / "new.yaml").read_text()
    assert seen
    assert all((edit.rephrase, edit.neighborhood, edit.target_true) == ((), (), None) for edit in seen)


def test_the_file_runs(tuned: Path, workplace: Path, here: Path) -> None:
    small = ["--data.path", "edits.jsonl", "--data.snippet_corpus", f"{workplace}/text.txt", "--data.limit=3"]
    for name in ("alphaedit", "kde"):
        config = ["--config", str(tuned / "new.yaml"), "--config", f"{ROOT}/configs/method/{name}.yaml"]
        assert main(["fit", *config, *small, "--trainer.accelerator=cpu", "--trainer.callbacks=null"]) == 0
    configs = sorted((here / "lightning_logs" / "edits").glob("*/config.yaml"))
    ran = [yaml.safe_load(path.read_text())["model"] for path in configs]
    written = yaml.safe_load((tuned / "new.yaml").read_text())["model"]
    assert len(ran) == 2
    assert all(model["method"]["ridge"] == written["method"]["ridge"] for model in ran)
    assert all(model["method"]["gradient"]["learning_rate"] == 1e-3 for model in ran)


def test_a_file_in_the_way_is_refused_before_any_work(
    workplace: Path, here: Path, ran: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = keep_model(monkeypatch)
    (here / "new.yaml").write_text("mine")
    assert tune(workplace) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "aeplus: error: expected --out a new file, or one that aeplus wrote, got new.yaml, which exists; "
    )
    assert (here / "new.yaml").read_text() == "mine"
    assert (loaded, ran) == ([], [])


def test_overwrite_and_fixed_layers(
    tuned: Path, workplace: Path, here: Path, ran: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "new.yaml").write_text("mine")
    words = ["--overwrite", "--fixed-layers", "1", "--for", "memit", "--model.method.own_ridge=7.0", "--seed=3"]
    assert tune(workplace, *words) == 0
    text = (here / "new.yaml").read_text()
    assert "layers: [1]  # not tuned: --fixed-layers" in text
    assert "own_ridge: 7.0  # not tuned" in text
    assert "ridge: 1.0  # not tuned" in text
    assert "seed 3" in text
    assert [row["stage"] for row in table(here)] == ["v_lr", "alpha"]
    assert len(ran) == 2
    assert "[2/2] alpha = 30\n" in capsys.readouterr().err


def test_ctrl_c_keeps_finished_trials(
    tuned: Path,
    workplace: Path,
    here: Path,
    ran: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted with the third trial's candidate in the model; the same command ends with the same file."""
    loaded = keep_model(monkeypatch)

    def interrupt(self: Any, trainer: Any, module: Any, iteration: int, iterations: int) -> None:
        if len(ran) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(trials._Watch, "on_candidate", interrupt, raising=False)
        assert tune(workplace) == 130
    assert "rerun the same command to continue" in capsys.readouterr().err
    assert unedited(loaded[0].state_dict())
    assert not (here / "new.yaml").exists()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    assert tune(workplace) == 0
    said = capsys.readouterr().err
    assert "[1/9] v_lr = 0.5: cached" in said
    assert "[4/9] tau = 0.7: cached" in said  # what the search began with
    assert re.search(r"\[6/9\] lambda = 0.05\n", said)
    assert len(without_seconds(tuned)) + 1 == len(ran)  # the interrupted one twice, nothing else
    assert (here / "new.yaml").read_text() == (tuned / "new.yaml").read_text()

    write_edits(here, [{**edit, "target_new": "Rome"} for edit in records()])
    (here / "new.yaml").unlink()
    done = len(ran)
    assert tune(workplace, "--for", "memit") == 0
    assert len(ran) == done + 2  # other edits: nothing is recalled


def test_a_failed_trial_is_reported_and_not_chosen(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "THRESHOLDS", (0.001, 0.6))
    assert tune(workplace, "--for", "alphaedit") == 0
    said = capsys.readouterr()
    assert "tau = 0.001 failed: expected a null space to edit in, got a threshold of 0.001 (dimensions)" in said.out
    rows = [row for row in table(here) if row["stage"] == "tau"]
    assert rows[0]["Efficacy"].startswith("failed: expected a null space to edit in, got a threshold of 0.001")
    assert rows[1]["chosen"] == "chosen"
    assert yaml.safe_load((here / "new.yaml").read_text())["model"]["method"]["threshold"] == 0.6

    monkeypatch.setattr(search, "THRESHOLDS", (0.001, 0.002))
    assert tune(workplace, "--for", "alphaedit", out="other.yaml") == 2
    assert "expected a tau with which alphaedit can be run" in capsys.readouterr().err
    assert not (here / "other.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--for", "rome"],
            "expected methods out of alphaedit, memit, blue, kde after --for, or YAML files, got 'rome'",
        ),
        (["--fixed-layers", "a"], "expected layers after --fixed-layers, got 'a'"),
        (["--fixed-layers", "0,9"], "expected layers from 0 to 2"),
        (["--out", "."], "expected --out a file to write, got the folder ."),
        (["--data.preserved_count=0"], "got none for specificity"),
        (["--data.validation_share=0"], "got none for efficacy, generalization"),
        (["--data.path=null"], "expected edits, got none because --data.path is not set"),
        (["--ckpt_path", "x.ckpt"], "expected the unedited model for every trial, got --ckpt_path"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], message: str, workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(workplace, *words) == 2
    said = capsys.readouterr().err
    assert f"aeplus: error: {said.split('aeplus: error: ')[-1]}" in said
    assert message in said.splitlines()[-1]
    assert not (here / "new.yaml").exists()


def test_out_is_needed_and_help_lists_the_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--model.model", "gpt2"]) == 2
    assert "expected a file to write, got no --out" in capsys.readouterr().err
    assert main(["tune", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--out", "--overwrite", "--for", "--fixed-layers", "--seed", "--trials"):
        assert f"\n  {option}" in said


def test_an_altered_trial_is_not_believed(tmp_path: Path) -> None:
    result = Result(50.0, 50.0, 50.0, 50.0, leakage=0.1, edits=3, converged=2, loss=0.5, seconds=1.0)
    saved = {key: {**asdict(result), "seal": digest([key, asdict(result)])} for key in ("a", "b")}
    path = tmp_path / "trials.json"
    path.write_text(json.dumps(saved))
    assert trials._read(path) == {"a": result, "b": result}
    saved["a"]["score"] = 99.0
    path.write_text(json.dumps(saved))
    assert trials._read(path) == {"b": result}
    for damaged in ("[]", "{", '{"a": 3}', '{"a": {}}'):
        path.write_text(damaged)
        assert trials._read(path) == {}
