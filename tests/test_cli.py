"""The commands, run in-process as a user would."""

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from aeplus.commands.arguments import COMMANDS
from aeplus.commands.main import entry_point, main
from small import ROOT, records

PLUS = f"{ROOT}/configs/method/alphaedit_plus.yaml"


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the entry point sets
    return tmp_path


def run_folder(here: Path, version: int = 0) -> Path:
    return here / "lightning_logs" / "edits" / f"version_{version}"


def edited_weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


SAVE = ["--trainer.callbacks", "[{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true}}]"]


def fit(workplace: Path, *more: str, method: str = PLUS) -> int:
    """With smoothing, which the default leaves out, and which makes epochs of a batch's candidates."""
    smooth = ["--model.method.smooth=true"] if method == PLUS else []
    return main(["fit", "--config", f"{workplace}/tiny.yaml", "--config", method, *smooth, *more])


def test_runs_lie_below_the_root_that_is_given(workplace: Path, here: Path) -> None:
    assert fit(workplace, "--trainer.default_root_dir", "below", "--trainer.max_steps", "1") == 2
    assert (here / "below" / "lightning_logs" / "edits" / "version_0" / "metrics.json").is_file()
    assert not (here / "lightning_logs").exists()
    own = ["--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger", "--trainer.logger.save_dir", "own"]
    assert fit(workplace, "--trainer.default_root_dir", "below", *own, "--trainer.max_steps", "1") == 2
    assert list((here / "own").rglob("metrics.json"))
    assert len(list((here / "below").rglob("metrics.json"))) == 1
    assert fit(workplace, "--trainer.max_steps", "1") == 2
    assert len(list((here / "lightning_logs").rglob("metrics.json"))) == 1


def test_the_trainers_switches_turn_off_what_is_there_by_default(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = ["--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false"]
    assert fit(workplace, "--data.limit=1", *off) == 0
    assert "edit/s" not in capsys.readouterr().err
    assert (run_folder(here) / "metrics.json").is_file()
    assert not (run_folder(here) / "checkpoints").exists()


@pytest.mark.parametrize("names", [["CSVLogger"], ["CSVLogger", "TensorBoardLogger"], ["TensorBoardLogger"]])
def test_the_end_names_the_folder_of_tensorboard_if_there_is_one(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    loggers = [
        {"class_path": f"lightning.pytorch.loggers.{name}", "init_args": {"save_dir": name, "name": "x"}}
        for name in names
    ]
    assert fit(workplace, "--data.limit=1", "--trainer.logger", json.dumps(loggers)) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "TensorBoard: " in line]
    named = "TensorBoard: tensorboard --logdir TensorBoardLogger/x/version_0"
    assert printed == ([named] if "TensorBoardLogger" in names else [])
    assert (here / names[0] / "x" / "version_0" / "metrics.json").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "--config={}/tiny.yaml"],
        ["tune", "--config={}/tiny.yaml"],
        ["compare", "--config={}/tiny.yaml", "--methods=memit"],
        ["experiment", "table4", "--config={}/tiny.yaml"],
        ["apply", "run"],
        ["undo", "run", "1"],
        ["export", "run", "--format=huggingface"],
        ["cases", "--runs", "run"],
        ["report", "run"],
        ["capabilities", "--model={}/model", "--data=items"],
        ["build-stream", "--kind=plain", "--data.path={}/edits.jsonl"],
        ["build-validation", "--edits={}/edits.jsonl"],
        [
            "build-alphaset",
            "--edits={}/edits.jsonl",
            "--model={}/model",
            "--layers=0",
            "--k0=corpus",
            "--corpus=text.txt",
        ],
        ["demo-data", "--model={}/model"],
    ],
    ids=lambda words: words[0],
)
def test_a_tilde_in_out_is_the_home_folder(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Where something of the user's is in the way, which every command looks for before it works."""
    mine = here / "home" / "mine"
    mine.parent.mkdir()
    mine.write_text("mine")
    monkeypatch.setenv("HOME", str(mine.parent))
    assert main([word.format(workplace) for word in words] + ["--out=~/mine"]) == 2
    assert re.search(f"got (the file )?{mine}", capsys.readouterr().err)
    assert not (here / "~").exists()


def test_fit_writes_everything_and_validate_measures_it(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(workplace) == 0
    folder = run_folder(here)
    assert "7 edits of" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {
        *("method", "model", "seed", "edits", "edits_done", "before", "after"),
        *("intervals", "hits", "batches", "leakage", "measures", "seconds", "environment"),
    }
    assert metrics["method"] == "alphaedit_plus:smooth=true"
    assert [batch["edits"] for batch in metrics["batches"]] == [3, 3, 1]
    ways = {"generalization_rephrasing", "specificity_other_subjects"}
    assert set(metrics["before"]) == {"efficacy", "generalization", "specificity", "score"} | ways
    for name in [
        "conflict_preserved",
        "conflict_prior",
        "residual_norm",
        "rank",
        "sigma_max",
        "leakage",
        "prior_weight_norm",
        "smoothing_iterations",
        "validation_score",
        "validation_probability",
        "committed_iteration",
    ]:
        assert isinstance(metrics["batches"][0][name], int | float), name
    steps = metrics["batches"][0]["target_steps"]  # one optimization for each layer
    assert len(steps) == 2
    assert 8 >= steps[0] > steps[1] >= 1
    assert set(metrics["batches"][0]["seconds"]) == {"targets", "solve", "validate", "total"}
    assert metrics["after"]["efficacy"] > metrics["before"]["efficacy"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["layers"] == [0, 1]

    events = EventAccumulator(str(folder)).Reload()
    tags = set(events.Tags()["scalars"])
    for tag in [
        "validation/score",
        "edits/efficacy",
        "edits/score",
        "conflict/preserved_mean",
        "conflict/preserved_max",
        "conflict/prior_mean",
        "conflict/prior_max",
        "residual/mean",
        "relaxation/rank",
        "relaxation/sigma_max",
        "leakage",
        "prior_weights/norm",
        "smoothing/iterations",
        "smoothing/committed",
        "validation/probability",
        "seconds/targets",
        "seconds/solve",
        "seconds/validate",
    ]:
        assert tag in tags, tag
    assert [event.step for event in events.Scalars("leakage")] == [1, 2, 3]
    assert {"hyperparameters/text_summary", "generations/text_summary"} <= set(events.Tags()["tensors"])

    checkpoint = next((folder / "checkpoints").glob("*.ckpt"))
    assert checkpoint.stat().st_size < 2e6
    assert "language_model" not in str(list(torch.load(checkpoint, weights_only=True)["state_dict"]))
    assert main(["validate", "--config", f"{workplace}/tiny.yaml", "--ckpt_path", str(checkpoint)]) == 0
    shown = re.search(r"edits\s+│\s+([\d.]+)", capsys.readouterr().out)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(metrics["after"]["efficacy"], abs=0.05)


def test_resume_ends_with_the_same_weights(workplace: Path, here: Path) -> None:
    whole = [
        "--trainer.callbacks",
        "[{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true}}, "
        "{class_path: aeplus.callbacks.EditCheckpoint, init_args: {keep_all: true}}]",
    ]
    assert fit(workplace, *whole) == 0
    first = run_folder(here)
    checkpoint = first / "checkpoints" / "1-batches.ckpt"
    assert fit(workplace, *whole, "--ckpt_path", str(checkpoint)) == 0
    second = run_folder(here, 1)
    assert [p.name for p in sorted((second / "checkpoints").iterdir())] == ["2-batches.ckpt", "3-batches.ckpt"]
    uninterrupted, resumed = edited_weights(first / "model"), edited_weights(second / "model")
    for name, weight in uninterrupted.items():
        assert torch.equal(weight, resumed[name]), name
    before, after = (json.loads((f / "metrics.json").read_text()) for f in (first, second))
    assert len(after["batches"]) == 3
    assert before["after"] == after["after"]
    assert after["seconds"]["earlier"] == before["batches"][0]["seconds"]["total"]
    assert "earlier" not in before["seconds"]


def test_saved_model_loads_with_plain_transformers(workplace: Path, here: Path) -> None:
    assert fit(workplace, *SAVE) == 0
    folder = run_folder(here)
    metrics = json.loads((folder / "metrics.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    hits = 0
    for record in records():
        text = record["prompt"].replace("{}", record["subject"])
        ids = tokenizer(f"{text} {record['target_new']}", return_tensors="pt")["input_ids"]
        start = len(tokenizer(text)["input_ids"])
        best = model(ids).logits[0, start - 1 : -1].argmax(-1)
        hits += bool((best == ids[0, start:]).all())
    assert 100 * hits / 7 == pytest.approx(metrics["after"]["efficacy"])


def test_everything_off_equals_alphaedit(workplace: Path, here: Path) -> None:
    off = ["--model.method.relax=none", "--model.method.prior=equal", "--model.method.smooth=false"]
    off += ["--model.method.targets=last", "--model.method.prior_strength=1"]
    assert fit(workplace, *off, *SAVE) == 0
    assert fit(workplace, *SAVE, method=f"{ROOT}/configs/method/alphaedit.yaml") == 0
    assert fit(workplace, *SAVE) == 0
    first, second, third = (edited_weights(run_folder(here, i) / "model") for i in range(3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)  # the parts do something


def test_test_prompts_reach_nothing(workplace: Path, here: Path) -> None:
    """Changing every test prompt changes nothing in the edited weights."""
    changed = [{**r, "rephrase": "Nothing of the kind", "neighborhood": ["Peru", "What"]} for r in records()]
    (here / "changed.jsonl").write_text("".join(json.dumps(r) + "\n" for r in changed))
    assert fit(workplace, *SAVE) == 0
    assert fit(workplace, *SAVE, "--data.path", "changed.jsonl") == 0
    first, second = (edited_weights(run_folder(here, i) / "model") for i in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_order_of_batches_matters(workplace: Path, here: Path) -> None:
    """The same batches in another order: sequential editing must tell them apart."""
    streams = {"kept.jsonl": records()[:6], "swapped.jsonl": records()[3:6] + records()[:3]}
    for name, stream in streams.items():
        (here / name).write_text("".join(json.dumps(r) + "\n" for r in stream))
        assert fit(workplace, *SAVE, "--data.path", name, "--data.validation_share=0") == 0
    first, second = (edited_weights(run_folder(here, i) / "model") for i in range(2))
    assert any(not torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_a_finished_stream_can_grow(workplace: Path, here: Path) -> None:
    """Resuming a finished run does nothing; with records added behind, it edits those and no others."""
    (here / "edits.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records()[:4]))
    keep = [*SAVE, "--trainer.callbacks+=aeplus.callbacks.EditCheckpoint", "--data.path", "edits.jsonl"]
    keep += ["--model.method.prior=conflict", "--model.method.prior_strength=1"]  # a tiny model has no room for all
    assert fit(workplace, *keep) == 0
    checkpoint = ["--ckpt_path", str(next((run_folder(here) / "checkpoints").iterdir()))]
    assert fit(workplace, *keep, *checkpoint) == 0
    first, again = (edited_weights(run_folder(here, i) / "model") for i in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    (here / "edits.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records()))
    assert fit(workplace, *keep, *checkpoint) == 0
    metrics = json.loads((run_folder(here, 2) / "metrics.json").read_text())
    assert [batch["edits"] for batch in metrics["batches"]] == [3, 1, 3]
    assert metrics["after"]["efficacy"] == 100.0


def test_rewritten_facts_count_once(workplace: Path, here: Path) -> None:
    stream = [
        {"prompt": "The capital of {}", "subject": s, "target_new": "Paris", "fact": s, "neighborhood": [f"In {s}"]}
        for s in ("Oslo", "Rome", "Spain")
    ]
    stream += [{**r, "prompt": "In the town of {}", "target_new": "Italy", "neighborhood": ["In Peru"]} for r in stream]
    (here / "edits.jsonl").write_text("".join(json.dumps(r) + "\n" for r in stream))
    assert fit(workplace, "--data.path", "edits.jsonl") == 0
    metrics = json.loads((run_folder(here) / "metrics.json").read_text())
    assert metrics["edits"] == 6
    assert metrics["after"]["efficacy"] == 100.0


def test_a_run_stopped_inside_a_batch_holds_whole_batches_only(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(workplace, *SAVE, "--trainer.max_epochs=1") == 2  # the first of three smoothing iterations
    printed = capsys.readouterr()
    assert "0 of 7 edits of" in printed.out
    assert (
        "aeplus: error: expected to reach the end of the 7 edits, got 0, as something such as trainer.max_epochs, "
        "max_steps or max_time ended the run; raise it and resume with aeplus fit --config "
        "lightning_logs/edits/version_0/config.yaml --ckpt_path lightning_logs/edits/version_0/checkpoints/"
    ) in printed.err
    original, saved = edited_weights(workplace / "model"), edited_weights(run_folder(here) / "model")
    assert all(torch.equal(original[name], saved[name]) for name in original)


def test_what_a_run_says_resumes_it(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [*SAVE, "--trainer.callbacks+=aeplus.callbacks.EditCheckpoint", "--model.method.smooth=false"]
    assert fit(workplace, *callbacks, "--trainer.max_epochs=1") == 2
    said = re.search(r"raise it and resume with aeplus (fit .*ckpt)\.\n", capsys.readouterr().err)
    assert said is not None
    assert main([*said[1].split(), "--trainer.max_epochs=-1"]) == 0
    end = " ".join(capsys.readouterr().out.split())
    assert re.search("4 new edits of .*, with 3 of the journal", end)
    assert re.search(
        r"journal: .*version_1/journal; a model of it: aeplus export .*version_1/journal --format hugg", end
    )
    assert json.loads((run_folder(here, 1) / "metrics.json").read_text())["edits_done"] == 7


def test_standard_model_checkpoint_resumes_too(workplace: Path, here: Path) -> None:
    """Lightning's own ModelCheckpoint may write in the midst of a batch; the batch is then done again."""
    save = "{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true}}"
    standard = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {save_top_k: -1}}"
    assert fit(workplace, "--trainer.callbacks", f"[{save}, {standard}]") == 0
    first = run_folder(here)
    checkpoint = sorted((first / "checkpoints").iterdir())[0]
    assert fit(workplace, "--trainer.callbacks", f"[{save}]", "--ckpt_path", str(checkpoint)) == 0
    one, two = edited_weights(first / "model"), edited_weights(run_folder(here, 1) / "model")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_changed_settings_on_resume_are_reported(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(workplace) == 0
    checkpoint = next((run_folder(here) / "checkpoints").iterdir())
    with pytest.warns(UserWarning, match=r"made with model\.method\.ridge = 0\.01 and now it is 0\.5"):
        assert (
            main(
                [
                    "validate",
                    "--config",
                    f"{workplace}/tiny.yaml",
                    "--model.method.ridge=0.5",
                    "--ckpt_path",
                    str(checkpoint),
                ]
            )
            == 0
        )


def test_help_needs_no_torch(here: Path) -> None:
    code = "import sys; from aeplus.commands.main import main; main(['--help']); assert 'torch' not in sys.modules"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 1.0
    assert "validate" in done.stdout


def test_a_command_gets_its_options_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in COMMANDS.values():
        function = getattr(import_module(f"aeplus.commands.{command.module}"), command.function)
        assert list(inspect.signature(function).parameters) == ["options"], command.module
    got: list[Namespace] = []
    monkeypatch.setattr("aeplus.commands.compare.command.run", lambda options: got.append(options) or 0)
    assert main(["compare", "--methods", "memit", "--model.seed", "3"]) == 0
    assert got[0].fit_arguments == ["--model.seed", "3"]
    assert got[0].command == "aeplus compare --methods memit --model.seed 3"


def test_every_option_is_documented(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("--model.layers", "--model.method.epsilon", "--model.targets.clamp", "--data.neighbors"):
        assert name in text
    parts = re.split(r"\n  (?=--)", text)
    ours = [p for p in parts if re.match(r"--(model|data)\.", p) and "CONFIG" not in p and ".help" not in p]
    silent = [p.split()[0] for p in ours if len(" ".join(p.split())) < 40 or not re.search(r"[a-z]{3,} .*\(", p, re.S)]
    assert len(ours) > 35
    assert silent == []


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_the_help_begins_with_the_model_and_the_data_and_ends_with_an_example(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: aeplus {command} [options]\n")
    assert text.index("--model.model") < text.index("--data.path") < text.index("--trainer.devices")
    assert re.search(rf"\n\nexample:\n  aeplus {command} --config \S+ --[\w.]+ \S+\n$", text)


def test_the_help_says_what_the_default_method_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Where no method is named: false. (type: bool, default: True)" in text
    assert "Where no method is named: own. (type: str, default: last)" in text
    assert "Where no method is named: 10.0. (type: float, default: 100.0)" in text


def test_print_config_composes(workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit(workplace, "--model.method.smooth=false", "--print_config")
    config = yaml.safe_load(capsys.readouterr().out)
    method = config["model"]["method"]
    assert (method["name"], method["relax"], method["smooth"], method["ridge"]) == (
        "alphaedit_plus",
        "aligned",
        False,
        0.01,
    )
    names = [callback["class_path"].rsplit(".", 1)[1] for callback in config["trainer"]["callbacks"]]
    assert "SmoothingStop" in names


CHOOSING = """
from aeplus.callbacks import EditCallback
from aeplus.run.selection import Decision

class Rule:
    def __init__(self, at_once):
        self.scores, self.at_once = 0, at_once

    def observe(self, score):
        self.scores += 1
        return Decision(keep=self.scores == 1, done=self.at_once)

class FirstOfAll(EditCallback):
    def on_fit_start(self, trainer, module):
        module.session.select = lambda: Rule(at_once=False)

class FirstAtOnce(EditCallback):
    def on_fit_start(self, trainer, module):
        module.session.select = lambda: Rule(at_once=True)
"""


def test_an_earlier_candidate_can_be_committed(workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Committing the first of three candidates leaves the weights of stopping at the first."""
    (here / "choosing.py").write_text(CHOOSING)
    monkeypatch.syspath_prepend(here)
    for name in ("FirstOfAll", "FirstAtOnce"):
        assert fit(workplace, *SAVE, f"--trainer.callbacks+=choosing.{name}") == 0
    assert fit(workplace, *SAVE) == 0
    late, early, last = (edited_weights(run_folder(here, i) / "model") for i in range(3))
    assert all(torch.equal(late[name], early[name]) for name in late)
    assert any(not torch.equal(late[name], last[name]) for name in late)


INTERRUPT = """
import os
from aeplus.callbacks import EditCallback

class Interrupt(EditCallback):
    def on_candidate(self, trainer, module, iteration, iterations):
        if len(module.session.entries) == 1:
            os.kill(os.getpid(), {number})
"""


def stop_in_second_batch(workplace: Path, here: Path, sent: signal.Signals, status: int) -> str:
    """Edits in a process of its own, which a signal reaches in its second batch; what it said on stderr."""
    (here / "interrupting.py").write_text(INTERRUPT.format(number=int(sent)))
    callbacks = [*SAVE, "--trainer.callbacks+=aeplus.callbacks.EditCheckpoint"]
    words = ["fit", "--config", f"{workplace}/tiny.yaml", "--config", PLUS, *callbacks]
    words += ["--trainer.callbacks+=interrupting.Interrupt", "--model.method.smooth=true"]
    code = "from aeplus.commands.main import entry_point; entry_point()"
    environment = {**os.environ, "PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert re.search(
        r"interrupted: 1 of 3 batches committed, 3 of 7 edits; resume with aeplus fit --config .*yaml --ckpt_p",
        done.stderr,
    )
    return done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_whole_batches(workplace: Path, here: Path) -> None:
    """Interrupted with a candidate of the second batch in the model; what is left goes on to the same weights."""
    stop_in_second_batch(workplace, here, signal.SIGINT, status=130)
    (checkpoint,) = (run_folder(here) / "checkpoints").iterdir()

    assert fit(workplace, *SAVE, "--data.limit=3") == 0  # the first batch alone
    assert fit(workplace, *SAVE) == 0
    assert fit(workplace, *SAVE, "--ckpt_path", str(checkpoint)) == 0
    left, first, whole, resumed = (edited_weights(run_folder(here, i) / "model") for i in range(4))
    # Another process may use another number of threads, and so round differently.
    for one, two in ((left, first), (whole, resumed)):
        assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert any(not torch.allclose(first[name], whole[name], atol=1e-2) for name in first)


@pytest.mark.slow
def test_sigterm_leaves_whole_batches(workplace: Path, here: Path) -> None:
    """What a cluster sends before it kills a job is answered with a status of its own, and nothing is lost."""
    assert "aeplus: terminated" in stop_in_second_batch(workplace, here, signal.SIGTERM, status=143)
    assert (run_folder(here) / "model").is_dir()


def test_sigterm_outside_a_run_has_its_status_too(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the model is loaded, say; within a run Lightning answers."""
    monkeypatch.setattr("aeplus.commands.inspect.command.load_named", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["aeplus", "inspect", f"--config={workplace}/tiny.yaml", "--out=report"])
    # Where nothing answers, the process must not die with all its tests.
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as end:
            entry_point()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 143
    assert "aeplus: terminated" in capsys.readouterr().err


def test_warnings_are_printed_as_errors_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setattr(sys, "argv", ["aeplus", "--version"])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        entry_point()
    signal.signal(signal.SIGTERM, handler)
    ours = warnings.formatwarning("mind it", UserWarning, inspect.getfile(main), 3)
    assert ours == "aeplus: warning: mind it\n"
    theirs = warnings.formatwarning("mind it", FutureWarning, "/lib/torch/x.py", 3, "x = 1")
    assert theirs == "aeplus: warning: mind it (FutureWarning, /lib/torch/x.py:3)\n"


def test_what_the_terminal_cannot_print_costs_nothing(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters outside the terminal's encoding, and texts that look like markup."""
    line = json.loads((workplace / "edits.jsonl").read_text().splitlines()[0])
    (here / "edits.jsonl").write_text(json.dumps(line | {"prompt": "[INST] 法国 [/INST] {}"}) + "\n")
    words = ["fit", "--config", f"{workplace}/tiny.yaml", "--config", PLUS, *SAVE, "--data.path", "edits.jsonl"]
    monkeypatch.setattr(sys, "argv", ["aeplus", *words, "--trainer.callbacks+=aeplus.callbacks.GenerationWriter"])
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        entry_point()
    signal.signal(signal.SIGTERM, handler)
    sys.stdout.flush()
    assert end.value.code == 0
    assert b"[/INST]" in printed.getvalue()
    assert (run_folder(here) / "model").is_dir()
    assert (run_folder(here) / "metrics.json").is_file()


def test_the_command_finds_modules_in_the_current_folder(tmp_path: Path) -> None:
    """With ``-P``, as a console script, Python itself does not look there."""
    (tmp_path / "my_callbacks.py").touch()
    code = (
        "import sys; from aeplus.commands.main import entry_point; sys.argv[1:] = ['--help']\n"
        "try: entry_point()\n"
        "except SystemExit: import my_callbacks"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_full_disk_while_saving(workplace: Path, here: Path) -> None:
    """The model does not fit; what was said is one sentence, and no half of a model is left."""
    assert fit(workplace) == 0  # so that the statistics are in the cache
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000));"
        "from aeplus.commands.main import entry_point; entry_point()"
    )
    words = ["fit", "--config", f"{workplace}/tiny.yaml", "--config", PLUS, *SAVE]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"aeplus: error: expected to write .*model, got an error \(.*\); free space there", done.stderr)
    assert not (run_folder(here, 1) / "model").exists()
    assert (run_folder(here, 1) / "metrics.json").is_file()
