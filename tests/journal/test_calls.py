"""Calls of ``aeplus.edit`` with a journal, one after another, as they come over weeks."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback

import aeplus
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.run.batches import BatchCommit
from aeplus.run.committed.chain import Chain
from aeplus.run.committed.store import Store
from aeplus.run.session import EditSession
from aeplus.utils.cache import digest
from aeplus.utils.jsonl import read_json, write_json
from aeplus.utils.paths import locked
from small import LEARNING, SMALL, records
from tiny import tiny_model, tiny_tokenizer

OPTIONS: dict[str, Any] = {**LEARNING, "steps": 3, "batch_size": 3}
SITES = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]


def edit(model: Any, number: int, journal: Path | str | None, **options: Any) -> aeplus.EditResult:
    edits = records()[: 3 * number] if journal else records()[:3]
    return aeplus.edit(model, tiny_tokenizer(), edits, journal=journal, **{**OPTIONS, **options})


def edited(model: Any) -> list[torch.Tensor]:
    return [model.state_dict()[name].clone() for name in SITES]


def alike(own: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(own, other, strict=True))


def active(folder: Path) -> list[int]:
    return [line.active for line in Journal.open(folder).log()]


def test_anchors_of_layers_of_one_digit_and_of_two(tmp_path: Path) -> None:
    model = tiny_model("llama", num_hidden_layers=12)
    anchors = {"norm": "anchor", "anchor": {9: 1.0, 10: 1.0}, "layers": [9, 10]}
    result = edit(model, 1, tmp_path / "kept", **anchors)
    fresh = tiny_model("llama", num_hidden_layers=12)
    assert Journal.open(tmp_path / "kept").apply(fresh)
    assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), model.parameters(), strict=True))
    # As it was written before: digested with numbers as keys, which come in another order.
    path = tmp_path / "kept" / "000001.json"
    content = read_json(path, "it")
    assert content.pop("digest") == digest(content)
    content["settings"]["model"]["targets"]["anchor"] = {9: 1.0, 10: 1.0}
    path.unlink()
    write_json(path, content | {"digest": digest(content)}, mark=False)
    assert len(Chain.open(tmp_path / "kept").records) == 1
    write_json(path, content | {"digest": digest("another")}, mark=False, overwrite=True)
    with pytest.raises(InputError, match="its digest differs"):
        Chain.open(tmp_path / "kept")
    write_json(path, content | {"digest": digest(content)}, mark=False, overwrite=True)
    result.undo()


def test_a_journal_that_was_opened_before_has_what_was_written_since(tmp_path: Path) -> None:
    edit(tiny_model("llama"), 1, tmp_path / "kept")
    journal = Journal.open(tmp_path / "kept")
    model = tiny_model("llama")
    edit(model, 2, tmp_path / "kept")  # the first call's batch is put in first
    assert [line.active for line in journal.log()] == [3, 3]
    fresh = tiny_model("llama")
    stale = Journal(Chain.open(tmp_path / "kept"))
    stale.chain.records.pop()
    assert stale.apply(fresh)
    assert alike(edited(fresh), edited(model))
    stale.chain.records.pop()
    stale.undo(2, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert active(tmp_path / "kept") == [3, 0, 0]


def test_a_model_with_edits_begins_no_journal(tmp_path: Path) -> None:
    model = tiny_model("llama")
    first = edit(model, 1, None)
    with pytest.raises(
        InputError, match="expected the unedited model with a journal, got one with the edits of 1 call"
    ):
        edit(model, 1, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    first.undo()
    edit(model, 1, tmp_path / "kept")


def test_calls_are_undone_in_the_order_of_what_counts(tmp_path: Path) -> None:
    folder, models = tmp_path / "kept", [tiny_model("llama") for _ in range(2)]
    before = edited(models[0])
    first, second = (edit(model, number, folder) for number, model in enumerate(models, start=1))
    with pytest.raises(InputError, match="got entry 2 after them; use aeplus undo, which can take out any"):
        first.undo()
    second.undo()
    first.undo()
    assert active(folder) == [0, 0, 0, 0]
    assert alike(edited(models[0]), before)


def test_what_the_journal_has_taken_out_already_is_undone_in_the_model(tmp_path: Path) -> None:
    folder, model = tmp_path / "kept", tiny_model("llama")
    before = edited(model)
    result = edit(model, 1, folder)
    Journal.open(folder).undo(1, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
    result.undo()
    assert active(folder) == [0, 0]
    assert alike(edited(model), before)


def test_edits_below_which_others_were_taken_out_stay_in_the_journal(tmp_path: Path) -> None:
    folder, models = tmp_path / "kept", [tiny_model("llama") for _ in range(2)]
    edit(models[0], 1, folder)
    second = edit(models[1], 2, folder)
    Journal.open(folder).undo(1, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(InputError, match="use aeplus undo"):
        second.undo()


def test_an_undo_that_is_interrupted_is_finished_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = tmp_path / "kept", tiny_model("llama")
    before = edited(model)
    result = edit(model, 1, folder)

    def interrupted(_: Snapshot) -> None:
        raise KeyboardInterrupt

    restore = Snapshot.restore
    monkeypatch.setattr(Snapshot, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.undo()
    monkeypatch.setattr(Snapshot, "restore", restore)
    result.undo()
    assert alike(edited(model), before)
    assert active(folder) == [0, 0]


def test_ctrl_c_does_not_interrupt_what_gives_the_weights_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before, restore = edited(model), Snapshot.restore

    def impatient(self: Snapshot) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        restore(self)

    class Stops(Callback):
        def on_fit_end(self, *_: object) -> None:
            monkeypatch.setattr(Snapshot, "restore", impatient)
            raise RuntimeError

    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        edit(model, 1, None, callbacks=[Stops()])
    monkeypatch.setattr(Snapshot, "restore", restore)
    assert alike(edited(model), before)


def test_a_failing_call_leaves_what_another_has_added(tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    class Meanwhile(Callback):
        def teardown(self, *_: object) -> None:
            pass

        def on_fit_end(self, trainer: Any, module: Any) -> None:
            module._writing.close()
            edit(tiny_model("llama"), 2, folder)
            raise RuntimeError

    with pytest.warns(UserWarning, match="still counts entries 1, which the model does"), pytest.raises(RuntimeError):
        edit(tiny_model("llama"), 1, folder, callbacks=[Meanwhile()])
    assert active(folder) == [3, 3]


def test_a_record_that_is_cut_short_takes_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    edit(tiny_model("llama"), 1, folder)

    def full(*_: object, **__: object) -> None:
        raise InputError("no space")

    monkeypatch.setattr("aeplus.run.committed.chain.write_json", full)
    with pytest.raises(InputError, match="no space"):
        edit(tiny_model("llama"), 2, folder)
    assert not (folder / "000002.safetensors").exists()


def test_ctrl_c_while_a_batch_is_written_finds_it_in_the_model(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    append, commit, sessions = Store.append, EditSession.commit, []

    def noted(self: EditSession) -> BatchCommit:
        sessions.append(self)
        return commit(self)

    def interrupted(self: Store, *given: Any) -> Any:
        record = append(self, *given)
        os.kill(os.getpid(), signal.SIGINT)
        return record

    monkeypatch.setattr(Store, "append", interrupted)
    monkeypatch.setattr(EditSession, "commit", noted)
    assert main(["fit", "--config", f"{workplace}/tiny.yaml", "--config", "method/alphaedit"]) == 130
    (run,) = (tmp_path / "lightning_logs" / "edits").iterdir()
    assert active(run) == [3]
    assert (len(sessions[0].entries), sessions[0].data.cursor, sessions[0].in_batch) == (1, 3, False)


def test_another_folder_is_no_other_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    result = edit(tiny_model("llama"), 1, "kept")
    monkeypatch.chdir(tmp_path / "elsewhere")
    result.undo()
    assert active(tmp_path / "kept") == [0, 0]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_call_that_ends_before_its_first_batch_leaves_no_journal(tmp_path: Path) -> None:
    class Stops(Callback):
        def on_train_start(self, *_: object) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        edit(tiny_model("llama"), 1, tmp_path / "kept", callbacks=[Stops()])
    assert not (tmp_path / "kept" / "journal.json").exists()
    edit(tiny_model("llama"), 1, tmp_path / "kept", layers=[0, 1])


def test_another_edited_dtype_is_said(tmp_path: Path) -> None:
    edit(tiny_model("llama").bfloat16(), 1, tmp_path / "kept")
    with pytest.raises(
        InputError, match=r"expected model\.edited_dtype same, as for the edits before, got float32; set"
    ):
        edit(tiny_model("llama").bfloat16(), 2, tmp_path / "kept", edited_dtype="float32")
    edit(tiny_model("llama"), 1, tmp_path / "wide")
    edit(tiny_model("llama"), 2, tmp_path / "wide", edited_dtype="float32")  # the same weights


def nothing_done(*_: object, **__: object) -> None:
    pytest.fail("the work has begun")


def test_a_journal_in_use_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(tiny_model("llama"), 1, tmp_path / "kept")
    monkeypatch.setattr(EditSession, "prepare", nothing_done)
    with (
        locked(tmp_path / "kept"),
        pytest.raises(InputError, match="a folder for the journal that no other run writes to, got"),
    ):
        edit(tiny_model("llama"), 2, tmp_path / "kept")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EditSession, "prepare", nothing_done)
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "kept").mkdir()
    with pytest.raises(InputError, match=r"a place that can be written for the journal, got .*kept; check its"):
        edit(tiny_model("llama"), 1, tmp_path / "kept")


def test_what_another_run_adds_before_the_lock_is_noticed_before_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prepare = tmp_path / "kept", EditSession.prepare
    edit(tiny_model("llama"), 1, folder)

    def meanwhile(self: EditSession, *given: Any, **named: Any) -> None:
        prepare(self, *given, **named)
        monkeypatch.setattr(EditSession, "prepare", prepare)
        edit(tiny_model("llama"), 2, folder)

    monkeypatch.setattr(EditSession, "prepare", meanwhile)
    model = tiny_model("llama")
    before = edited(model)
    with pytest.raises(InputError, match=r"the journal .*kept as it was read, got entries of another run in it"):
        edit(model, 2, folder)
    assert alike(edited(model), before)
    assert active(folder) == [3, 3]


def test_numbers_of_numpy(tmp_path: Path) -> None:
    numbers = {"ridge": np.float32(0.01), "tokens": np.int64(600), "seed": np.int64(3), "batch_size": np.int32(3)}
    edit(tiny_model("llama"), 1, tmp_path / "kept", layers=[np.int64(1), np.int64(2)], **numbers)
    assert active(tmp_path / "kept") == [3]


def test_a_callback_that_ends_the_run_leaves_no_half_result() -> None:
    class Ends(Callback):
        def on_train_epoch_end(self, trainer: Any, *_: object) -> None:
            trainer.should_stop = True

    model = tiny_model("llama")
    before = edited(model)
    with pytest.raises(InputError, match=r"expected to reach the end of the 3 edits, got [12], as a callback ended"):
        edit(model, 1, None, batch_size=1, callbacks=[Ends()])
    assert alike(edited(model), before)


def test_weights_of_two_layers_are_no_layers() -> None:
    model = tiny_model("llama")
    model.model.layers[3].mlp.down_proj.weight = model.model.layers[1].mlp.down_proj.weight
    with pytest.raises(InputError, match="got layer 1's, which are layer 3's too; choose other layers"):
        edit(model, 1, None)
    edit(model, 1, None, layers=[0, 2])


def test_inference_mode_is_refused() -> None:
    model = tiny_model("llama")
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch\.inference_mode to be off, got 'on'; edit"):
        edit(model, 1, None)


def test_a_model_that_was_cast_is_undone_as_it_was() -> None:
    model = tiny_model("llama")
    result = edit(model, 1, None)
    model.half()
    with pytest.raises(InputError, match="expected the model in float32, as it was before the edit, got float16; cast"):
        result.undo()
    model.float()
    result.undo()


def test_a_model_with_layers_in_float32_can_be_cast_and_pickled() -> None:
    model = tiny_model("llama").bfloat16()
    before, ids = edited(model), torch.tensor([[5, 6, 7]])
    result = edit(model, 1, None, edited_dtype="float32", steps=SMALL["steps"])
    whole = model(ids).logits
    assert torch.equal(pickle.loads(pickle.dumps(model))(ids).logits, whole)
    model.to(torch.bfloat16)
    assert (model(ids).logits - whole).abs().max() < 0.2
    result.undo()
    assert alike(edited(model), before)
    assert not model.model.layers[1].mlp.down_proj._forward_hooks
    assert not Decoder(model).sites[1].is_upcast
