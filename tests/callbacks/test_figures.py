"""FigureWriter: what it writes, and that it changes nothing."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import aeplus
from aeplus.callbacks import FigureWriter
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.methods.compositions import named_method
from aeplus.models.decoder import Decoder
from aeplus.models.predict import collect_hidden
from aeplus.run.records import read_records
from small import ROOT, SMALL, records
from tiny import tiny_model, tiny_tokenizer

STATES = """
import hashlib, pathlib, random
import numpy, torch
from aeplus.callbacks import EditCallback

class RandomStates(EditCallback):
    def teardown(self, trainer, module, stage):
        states = torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()
        with pathlib.Path("states.txt").open("a") as file:
            file.write(hashlib.sha256(repr(states).encode()).hexdigest() + "\\n")
"""
"""A callback, to be listed last, that writes down the global generators' states at the end of a run."""


def fit(workplace: Path, *callbacks: dict[str, object], more: tuple[str, ...] = ()) -> int:
    listed = [
        *callbacks,
        {"class_path": "aeplus.callbacks.JournalWriter", "init_args": {"save_model": True, "table": False}},
        {"class_path": "aeplus.callbacks.EditCheckpoint", "init_args": {"keep_all": True}},
        {"class_path": "random_states.RandomStates"},
    ]
    plus = f"{ROOT}/configs/method/alphaedit_plus.yaml"
    words = ["fit", "--config", f"{workplace}/tiny.yaml", "--config", plus, "--data.path", "edits.jsonl", *more]
    words += ["--model.method.smooth=true", "--model.method.relax=bounded"]  # the figure marks smoothed edits, and P̃
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    return main([*words, "--trainer.callbacks", yaml.safe_dump(listed, default_flow_style=True, width=10**6)])


def writer(**options: object) -> dict[str, object]:
    return {"class_path": "aeplus.callbacks.FigureWriter", "init_args": {"bins": 2, **options}}


@pytest.fixture(scope="module")
def runs(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run with the callback; the same without; the first, resumed behind its second batch."""
    patch = pytest.MonkeyPatch()
    here = tmp_path_factory.mktemp("runs")
    patch.chdir(here)
    patch.syspath_prepend(here)
    (here / "random_states.py").write_text(STATES)
    again = {"prompt": "The capital of {}", "subject": "France", "target_new": "London"}  # edit 1 once more, in batch 3
    (here / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in [*records(), again]))
    folders = [here / "lightning_logs" / "edits" / f"version_{i}" for i in range(3)]
    assert fit(workplace, writer(every=2)) == 0
    assert fit(workplace) == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="nothing is recorded")
        assert fit(workplace, writer(), more=("--ckpt_path", str(folders[0] / "checkpoints" / "2-batches.ckpt"))) == 0
    patch.undo()
    return folders


def test_nothing_of_the_run_depends_on_it(runs: list[Path]) -> None:
    whole, plain, _ = runs
    with_it, without = (load_file(folder / "model" / "model.safetensors") for folder in (whole, plain))
    assert all(torch.equal(with_it[name], without[name]) for name in without)
    states = (whole.parents[2] / "states.txt").read_text().split()
    assert states[0] == states[1]
    assert not (plain / "edits.jsonl").exists()


def test_a_line_for_every_edit(runs: list[Path]) -> None:
    whole, _, resumed = runs
    found = read_records(whole)
    assert [r.edit for r in found] == list(range(1, 9))
    assert [r.batch for r in found] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert [r.superseded for r in found] == [True] + [False] * 7
    metrics = json.loads((whole / "metrics.json").read_text())
    for number, batch in enumerate(metrics["batches"], start=1):
        mine = [r for r in found if r.batch == number]
        assert sum(r.s_K0 for r in mine) / len(mine) == pytest.approx(batch["conflict_preserved"])
        assert sum(r.s_Kp for r in mine) / len(mine) == pytest.approx(batch["conflict_prior"])
        assert max(r.residual or 0 for r in mine) == pytest.approx(batch["residual_norm_max"])
        assert sum(r.smoothed for r in mine) == 1  # a fifth of two or three edits
        assert max(mine, key=lambda r: r.residual or 0).smoothed
    for when in ("before", "after"):
        for aspect in ("efficacy", "generalization", "specificity"):
            values = [(getattr(r, when) or {})[aspect] for r in found if not r.superseded]
            known = [value for value in values if value is not None]
            assert sum(known) / len(known) == pytest.approx(metrics[when][aspect]), (when, aspect)
    # A checkpoint keeps the records; the weights are the same, and so is what was measured.
    for one, two in zip(found, read_records(resumed), strict=True):
        assert one == two


@pytest.mark.parametrize(("batches", "edits"), [(1, 3), (3, 8)])  # within the stream, and at its end
def test_edits_without_records_are_counted(
    runs: list[Path], workplace: Path, monkeypatch: pytest.MonkeyPatch, batches: int, edits: int
) -> None:
    _, plain, _ = runs
    monkeypatch.chdir(plain.parents[2])
    monkeypatch.syspath_prepend(plain.parents[2])
    checkpoint = str(plain / "checkpoints" / f"{batches}-batches.ckpt")
    with pytest.warns(UserWarning, match=f"nothing is recorded of {edits} of the {edits} edits that .* leave them out"):
        assert fit(workplace, writer(figures=["score"]), more=("--ckpt_path", checkpoint)) == 0
    newest = max(plain.parent.iterdir(), key=lambda folder: int(folder.name.split("_")[1]))
    assert [record.edit for record in read_records(newest)] == list(range(edits + 1, 9))


def test_the_figures_are_files_and_in_tensorboard(runs: list[Path]) -> None:
    whole, _, resumed = runs
    names = ["conflict", "effort", "hidden", "score", "spectrum_layer_0", "spectrum_layer_1", "stream"]
    for folder in (whole, resumed):
        assert sorted(path.stem for path in (folder / "figures").glob("*.png")) == names
    events = EventAccumulator(str(whole)).Reload()
    assert sorted(events.Tags()["images"]) == [f"figures/{name}" for name in names]
    assert [event.step for event in events.Images("figures/conflict")] == [2, 3]
    assert [event.step for event in events.Images("figures/score")] == [3]
    data = json.loads((whole / "figures" / "data.json").read_text())
    assert data == json.loads((resumed / "figures" / "data.json").read_text())
    assert [len(s["values"]) for s in data["spectra"]] == [64, 64]
    assert [s["null"] for s in data["spectra"]] == [32, 32]
    ranks = json.loads((whole / "metrics.json").read_text())["batches"]
    added = [sum(layer["rank"] for batch in ranks for layer in batch["layers"] if layer["layer"] == i) for i in (0, 1)]
    assert [sum(s["added"].values()) for s in data["spectra"]] == added
    assert all(int(place) >= 32 for s in data["spectra"] for place in s["added"])
    assert data["hidden"]["layer"] == 2
    assert data["hidden"]["moved"] > 0
    assert len(data["hidden"]["before"]) == 2  # a neighbor that all share, and the beginning of the one sentence


def test_tau_of_a_filter_that_is_soft_within_its_null_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    method = named_method("alphaedit", filter="null_soft", threshold=0.5, threshold_kind="dimensions")
    aeplus.edit(tiny_model(), tiny_tokenizer(), records()[:1], method, callbacks=[FigureWriter(["spectrum"])], **SMALL)
    (data,) = tmp_path.rglob("figures/data.json")
    assert [spectrum["null"] for spectrum in json.loads(data.read_text())["spectra"]] == [32, 32]


def test_hidden_states_are_those_of_each_prompt_alone() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    prompts = ["Rome", "The capital of France is", "Rome", "People speak"]
    hooks = [len(layer._forward_hooks) for layer in model.transformer.h]
    found = collect_hidden(Decoder(model), tokenizer, prompts, 1, batch_tokens=16)
    assert [len(layer._forward_hooks) for layer in model.transformer.h] == hooks
    for prompt, state in zip(prompts, found, strict=True):
        states = model(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
        torch.testing.assert_close(state, states[2][0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"figures": ["pie"]}, "expected figures out of conflict, .* got pie"),
        ({"bins": 0}, "expected FigureWriter's bins to be at least 1, got 0"),
        ({"every": -1}, "expected FigureWriter's every to be at least 0, got -1"),
        ({"hidden_prompts": 1}, "expected FigureWriter's hidden_prompts to be at least 2"),
        ({"projection": "umap"}, "expected FigureWriter's projection pca or tsne, got 'umap'"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        FigureWriter(**options)  # type: ignore[arg-type]


def test_a_layer_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**SMALL, "threshold": 0.5, "threshold_kind": "dimensions"}
    edit = {**records()[0], "neighborhood": ["The capital of Peru is", "Rome is"]}
    with pytest.raises(InputError, match="hidden_layer to be one of the model's 4 layers, got 4; -1 is the last"):
        aeplus.edit(tiny_model(), tiny_tokenizer(), [edit], callbacks=[FigureWriter(hidden_layer=4)], **options)
