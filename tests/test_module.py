"""The module under a Trainer of one's own, without what the command line and ``aeplus.edit`` add."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from aeplus.api import edit
from aeplus.callbacks import CapabilitiesWriter, EditCallback, EvaluationWriter, FigureWriter, SmoothingStop
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.errors import InputError
from aeplus.module import EditModule
from aeplus.preserved.statistics import LayerStatistics
from aeplus.run.session import EditSession
from aeplus.trainer import interruptible
from small import ACCELERATOR, LEARNING, learning_options, records
from tiny import tiny_model, tiny_tokenizer


def module(model: Any) -> EditModule:
    made = EditModule("tiny", LEARNING["layers"], *learning_options("alphaedit_plus"))
    return made.attach(model, tiny_tokenizer())


def stream() -> EditDataModule:
    data = EditDataModule(batch_size=3, preserved_count=2, snippet_corpus=LEARNING["corpus"])
    return data.attach(requests_from_records(records()))


def trainer(*callbacks: EditCallback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"max_epochs": -1, "num_sanity_val_steps": 0, "accelerator": ACCELERATOR, "enable_model_summary": False}
    return Trainer(callbacks=list(callbacks), **{**quiet, **settings, **options})


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_whatever_ends_a_run_no_candidate_is_left(raised: type[BaseException]) -> None:
    class Fail(EditCallback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise raised

    model = tiny_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    running = trainer(Fail())
    with pytest.raises(raised), interruptible(running):
        running.fit(module(model), stream())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_no_candidate_is_left_where_a_callback_fails_at_the_end_too() -> None:
    class Fail(EditCallback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise RuntimeError

        def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
            raise OSError("full")

    model = tiny_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    running = trainer(Fail())
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            running.fit(module(model), stream())
        assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert len(running.callbacks) == 3


def test_a_second_fit_ends_at_once_and_other_edits_or_models_need_a_new_module() -> None:
    model, data = tiny_model("llama"), stream()
    edited = module(model)
    trainer().fit(edited, data)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer().fit(edited, data)
    assert len(edited.session.entries) == 3
    with pytest.raises(InputError, match=r"expected the edits that this run began with, got others; make a new"):
        trainer().fit(edited, stream())
    with pytest.raises(InputError, match=r"expected the model that this run began with, got another; make a new"):
        edited.attach(tiny_model("llama"), tiny_tokenizer())
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


def test_a_measured_module_can_be_edited() -> None:
    edited, plain = module(tiny_model("llama")), module(tiny_model("llama"))
    data = stream()
    trainer().validate(edited, data)
    trainer().fit(edited, data)
    trainer().fit(plain, stream())
    assert len(edited.session.entries) == 3
    one, two = (made.language_model.state_dict() for made in (edited, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert edited.session.finish().after == plain.session.finish().after


def test_callbacks_hear_of_the_unedited_model_after_it_was_measured(tmp_path: Path) -> None:
    def watching() -> list[Any]:
        (tmp_path / "sst2.jsonl").write_text('{"sentence": "good", "label": 1}\n{"sentence": "bad", "label": 0}\n')
        general = CapabilitiesWriter(str(tmp_path), "sst2", table=False)
        return [EvaluationWriter(protocols=("strict",)), FigureWriter(figures=["conflict"]), general]

    edited, data, callbacks = module(tiny_model("llama")), stream(), watching()
    where = {"default_root_dir": tmp_path}
    trainer(*callbacks, **where).validate(edited, data)
    trainer(*callbacks, max_epochs=4, **where).fit(edited, data)  # a batch, and a candidate of the next
    trainer(*callbacks, **where).fit(edited, data)  # a run that went on, and then one of nothing more
    for _ in range(2):
        assert len((tmp_path / "edits.jsonl").read_text().splitlines()) == 7
        assert [result["step"] for result in callbacks[2].results] == [0, 1, 3]
        measures = edited.session.report.measures
        assert {"before", "after", "retention"} <= measures.keys()
        assert None not in measures["retention"]["mean"]
        trainer(*callbacks, **where).fit(edited, data)
    late = watching()
    with pytest.warns(
        UserWarning, match=r"Writer (records|measures) nothing: the model was edited before this callback"
    ):
        trainer(*late, **where).fit(edited, data)
    assert len((tmp_path / "edits.jsonl").read_text().splitlines()) == 7


@pytest.mark.parametrize("monitor", ["score", "validation/score"])
def test_what_is_watched_may_be_called_without_its_prefix(monitor: str) -> None:
    edited, stop = module(tiny_model("llama")), SmoothingStop(monitor=monitor)
    trainer(stop).fit(edited, stream())
    assert edited.monitor == stop.monitor == "validation/score"


def test_a_value_that_nobody_logs_cannot_be_watched() -> None:
    edited = module(tiny_model("llama"))
    with pytest.raises(
        InputError,
        match=r"expected a value logged as 'validation/scores', which candidates are chosen by, got none; log",
    ):
        trainer(SmoothingStop(monitor="validation/scores")).fit(edited, stream())
    assert not edited.session.entries


def test_validate_asks_what_the_model_can_read(tmp_path: Path) -> None:
    """Lightning fetches the validation prompts before the module learns of the edits."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        f"{' '.join(['Zqxzqxzqxzqxzqxzqx'] * 20)}\n\nThe capital of France is Paris, and that of Spain is Madrid.\n"
    )
    data = EditDataModule(batch_size=3, preserved_count=9, snippet_corpus=str(corpus))
    with pytest.warns(UserWarning, match="1 validation prompts do not fit the model and are left out"):
        trainer().validate(module(tiny_model("llama")), data.attach(requests_from_records(records())))


def test_a_batch_that_is_not_validated_every_time_takes_what_was_scored() -> None:
    edited = module(tiny_model("llama"))
    trainer(check_val_every_n_epoch=2).fit(edited, stream())
    assert [batch["validation_score"] is not None for batch in edited.session.report.batches] == [True, True, False]


def test_a_new_module_holds_no_edits() -> None:
    assert module(tiny_model("llama")).state_dict() == {}


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_model_stays_on_its_device_at_the_end_of_a_run(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []

    class Watch(EditCallback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            moves.clear()  # it was moved to its device before
            if ends == "badly":
                raise RuntimeError

    edited = module(tiny_model("llama"))
    apply = type(edited.language_model)._apply
    monkeypatch.setattr(
        type(edited.language_model), "_apply", lambda self, *args: (moves.append("moved"), apply(self, *args))[1]
    )
    if ends == "badly":
        with pytest.raises(RuntimeError):
            trainer(Watch()).fit(edited, stream())
    else:
        trainer(Watch()).fit(edited, stream())
    assert not moves
    edited.cpu()
    assert moves == ["moved"]


def test_a_call_moves_the_model_once() -> None:
    model, moves = tiny_model("llama"), []
    apply = model._apply
    model._apply = lambda *args: (moves.append("moved"), apply(*args))[1]
    edit(model, tiny_tokenizer(), records()[:2], "alphaedit", **LEARNING)
    assert moves == ["moved"]


def test_a_session_is_made_where_its_tensors_belong_whatever_the_default_device() -> None:
    """Lightning calls the hook with its device as the default; on a GPU generators of the CPU were refused there."""
    edited = module(tiny_model("llama"))
    with torch.device("meta"):
        edited.configure_model()
    assert edited.session.sites


def test_a_call_keeps_no_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are gigabytes of a GPU, and what Lightning leaves behind is collected some time."""
    kept: list[weakref.ref[torch.Tensor]] = []
    load = EditSession.load_statistics

    def watched(self: EditSession, contexts: list[str]) -> list[LayerStatistics]:
        found = load(self, contexts)
        kept.extend(weakref.ref(statistics.spectrum.vectors) for statistics in found)
        return found

    monkeypatch.setattr(EditSession, "load_statistics", watched)
    gc.disable()
    try:
        result = edit(tiny_model("llama"), tiny_tokenizer(), records()[:2], "alphaedit_plus", **LEARNING)
        assert len(kept) == 2
        assert all(there() is None for there in kept)
    finally:
        gc.enable()
    assert result.metrics["leakage"] is not None
