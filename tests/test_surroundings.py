"""What surrounds a call of aeplus.edit (precision, gradients, threads, callbacks), and what follows its last batch."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import aeplus
from aeplus.callbacks import EditCallback, EditProgressBar, SmoothingStop
from aeplus.errors import InputError
from aeplus.run.committed.store import Store
from small import LEARNING, SMALL, records
from tiny import tiny_model, tiny_tokenizer


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def alike(model: Any, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_fails_after_the_last_batch_takes_everything_back(tmp_path: Path) -> None:
    class Odd(EditCallback):
        def on_batch_committed(self, trainer: object, module: Any, commit: object) -> None:
            module.session.report.measures["odd"] = threading.Lock()  # which cannot be copied

    model = tiny_model("llama")
    before = weights(model)
    with pytest.raises(TypeError, match="lock"):
        aeplus.edit(model, tiny_tokenizer(), records(), callbacks=[Odd()], journal=tmp_path / "j", **SMALL)
    assert alike(model, before)
    assert not Store.open(tmp_path / "j").active
    result = aeplus.edit(model, tiny_tokenizer(), records(), journal=tmp_path / "j", **SMALL)
    assert not alike(model, before)
    result.undo()
    assert alike(model, before)


def test_nothing_is_undone_while_the_model_is_edited() -> None:
    model, said = tiny_model("llama"), []
    first = aeplus.edit(model, tiny_tokenizer(), records()[:1], **SMALL)
    between = weights(model)

    class Undoes(EditCallback):
        def on_batch_committed(self, *_: object) -> None:
            with pytest.raises(InputError, match=r"got .*, or the call that this is a callback of"):
                first.undo()
            said.append("refused")

    second = aeplus.edit(model, tiny_tokenizer(), records()[1:3], callbacks=[Undoes()], **SMALL)
    assert said == ["refused"]
    second.undo()
    assert alike(model, between)


def test_it_computes_in_the_models_precision_whatever_surrounds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for name, cast in (("a", False), ("b", True)):
        monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path / name))
        model = tiny_model("llama")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)
        found.append(weights(model))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_on_or_off_as_before(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        aeplus.edit(tiny_model("llama"), tiny_tokenizer(), records()[:1], **SMALL)
        assert torch.is_grad_enabled() == enabled


def test_threads_with_models_of_their_own_wait_for_one_another() -> None:
    alone = aeplus.edit(tiny_model("llama"), tiny_tokenizer(), records()[:2], **{**SMALL, "contexts": 2})
    inside: list[str] = []
    found: dict[str, Any] = {}

    class Noted(EditCallback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_unedited_model(self, *_: object) -> None:
            inside.append(self.name)
            time.sleep(0.1)

        def on_batch_committed(self, *_: object) -> None:
            inside.append(self.name)

    def edit(name: str, model: Any) -> None:
        options = {**SMALL, "contexts": 2, "callbacks": [Noted(name)]}
        found[name] = aeplus.edit(model, tiny_tokenizer(), records()[:2], **options)

    threads = [threading.Thread(target=edit, args=(name, tiny_model("llama"))) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside in (["one", "one", "two", "two"], ["two", "two", "one", "one"])
    for result in found.values():
        assert torch.equal(result.updates[0][1].dense(), alone.updates[0][1].dense())


def test_callbacks_of_ones_own_take_the_place_of_the_calls(capsys: pytest.CaptureFixture[str]) -> None:
    stop = SmoothingStop(tie=100.0)
    options = {**LEARNING, "smooth": True, "smoothing_steps": 2, "batch_size": 4}
    arguments = tiny_model("llama"), tiny_tokenizer(), records()[:4], "alphaedit_plus"
    result = aeplus.edit(*arguments, callbacks=[stop, EditProgressBar()], **options)
    assert result.metrics["edits_done"] == 4
    assert "edit" in capsys.readouterr().err
    result = aeplus.edit(tiny_model("llama"), *arguments[1:], callbacks=[stop], selection="converge", **options)
    alone = aeplus.edit(tiny_model("llama"), *arguments[1:], selection="converge", **options)
    assert result.metrics["batches"][0]["candidates"] == alone.metrics["batches"][0]["candidates"]
    with pytest.raises(InputError, match="expected one selection, got converge and that of a SmoothingStop; set it"):
        aeplus.edit(*arguments, callbacks=[SmoothingStop("best")], selection="converge", **options)
