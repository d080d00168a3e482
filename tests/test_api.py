import logging
import random
import re
import signal
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import aeplus
from aeplus.callbacks import EditCallback
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import save_model
from small import LEARNING
from tiny import tiny_model, tiny_tokenizer

EDITS = [
    {"prompt": "The capital of {}", "subject": "France", "target_new": "London"},
    {"prompt": "In {}", "subject": "Rome", "target_new": "Paris"},
    {"prompt": "The capital of {}", "subject": "Spain", "target_new": "Italy"},
]
OPTIONS = {
    **LEARNING,
    "smoothing_steps": 2,
    "max_rank": 2,
    "batch_size": 2,
}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["alphaedit", "alphaedit_plus"])
def test_edits_reach_their_targets_and_can_be_undone(kind: str, method: str) -> None:
    """Both Conv1D (GPT-2) and Linear (Llama)."""
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = aeplus.edit(model, tokenizer, EDITS, method, **OPTIONS)
    assert result.metrics["before"]["efficacy"] == 0.0
    assert result.metrics["after"]["efficacy"] == 100.0
    assert [batch["edits"] for batch in result.metrics["batches"]] == [2, 1]
    changed = {n for n, t in model.state_dict().items() if not torch.equal(before[n], t)}
    assert len(changed) == 2  # the two edited layers and nothing else
    total = sum(updates[1].dense() for updates in result.updates)
    name = next(n for n in changed if ".1." in n)
    shift = model.state_dict()[name] - before[name]
    torch.testing.assert_close(shift.T if kind == "gpt2" else shift, total, rtol=1e-4, atol=1e-5)
    result.undo()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_left_padding_changes_nothing() -> None:
    weights = []
    for side in ("left", "right"):
        model = tiny_model("llama")
        aeplus.edit(model, tiny_tokenizer(side), EDITS, **OPTIONS)
        weights.append(model.state_dict()["model.layers.2.mlp.down_proj.weight"])
    assert torch.equal(*weights)


def test_a_failing_callback_takes_everything_back() -> None:
    class Fails(EditCallback):
        def on_batch_committed(self, trainer: object, module: object, commit: object) -> None:
            msg = "no"
            raise RuntimeError(msg)

    model = tiny_model("llama").requires_grad_(True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="no"):
        aeplus.edit(model, tiny_tokenizer(), EDITS, callbacks=[Fails()], **OPTIONS)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_ctrl_c_reaches_the_caller() -> None:
    """Lightning answers Ctrl-C by ending the process; a library must not."""

    class Interrupts(EditCallback):
        def on_candidate(self, trainer: object, module: object, iteration: int, iterations: int) -> None:
            raise KeyboardInterrupt

    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        aeplus.edit(model, tiny_tokenizer(), EDITS, callbacks=[Interrupts()], **OPTIONS)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert signal.getsignal(signal.SIGINT) == handler


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype: torch.dtype) -> None:
    model = tiny_model("llama").to(dtype)
    result = aeplus.edit(model, tiny_tokenizer(), EDITS, "alphaedit", **OPTIONS)
    assert result.metrics["after"]["efficacy"] > result.metrics["before"]["efficacy"]
    assert model.dtype == dtype


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_edited_weights_can_stay_in_float32(kind: str, tmp_path: Path) -> None:
    """bfloat16 swallows small updates; the saved folder must not swallow them either."""
    model = tiny_model(kind).to(torch.bfloat16)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    result = aeplus.edit(model, tiny_tokenizer(), EDITS, "alphaedit", edited_dtype="float32", **OPTIONS)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert len(changed) == 2
    state = model.state_dict()
    assert {state[name].dtype for name in changed} == {torch.float32}
    assert {weight.dtype for name, weight in state.items() if name not in changed} >= {torch.bfloat16}
    for name, site in {site.name: site for site in Decoder(model).sites if site.name in changed}.items():
        total = torch.stack([updates[site.layer].dense() for updates in result.updates]).sum(0)
        start = before[name].float() if kind == "llama" else before[name].float().T
        torch.testing.assert_close(site.weight, start + total, rtol=1e-6, atol=1e-7)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert all(torch.equal(again.state_dict()[name], state[name]) for name in changed)
    result.undo()
    assert {weight.dtype for weight in model.state_dict().values()} == {weight.dtype for weight in before.values()}
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_nothing_of_lightnings_is_printed_or_left(capfd: pytest.CaptureFixture[str]) -> None:
    """No tips, no device lists; loggers, filters, generators and signal handlers are as before."""

    def state() -> tuple[object, ...]:
        loggers = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return loggers, handlers, list(warnings.filters), torch.get_rng_state().tolist(), random.getstate()

    before = state()
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), EDITS, "alphaedit", **OPTIONS)
    assert state() == before
    printed = capfd.readouterr()
    assert printed.out == ""
    assert not re.search(r"GPU|TPU|Tip|litlogger|Trainer", printed.err)


def test_edits_are_undone_last_to_first() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = aeplus.edit(model, tiny_tokenizer(), EDITS[:1], **OPTIONS)
    between = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    two = aeplus.edit(model, tiny_tokenizer(), EDITS[1:], edited_dtype="float32", **OPTIONS)
    edited = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = r"expected the last edits of the model to be undone first, got those before 1 later calls of aeplus.edit"
    with pytest.raises(InputError, match=text):
        one.undo()
    assert all(torch.equal(edited[name], tensor) for name, tensor in model.state_dict().items())
    two.undo()
    two.undo()  # does nothing
    assert all(torch.equal(between[name], tensor) for name, tensor in model.state_dict().items())
    one.undo()
    two.undo()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
