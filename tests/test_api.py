import json
import logging
import random
import re
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn
from transformers import AutoModelForCausalLM

import aeplus
from aeplus.callbacks import EditCallback, EditCheckpoint
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import save_model
from aeplus.run.report import environment
from small import LEARNING, SMALL, records
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


def test_a_result_is_a_line_and_knows_its_time_and_machine() -> None:
    result = aeplus.edit(tiny_model("gpt2"), tiny_tokenizer(), EDITS, "alphaedit", **OPTIONS)
    assert re.fullmatch(
        r"EditResult\(3 edits by alphaedit: efficacy 0.0 → 100.0 %, generalization – → – %, spec[^\n]*\)", repr(result)
    )
    assert result.metrics["seconds"]["total"] > result.metrics["seconds"]["statistics"] > 0.0
    assert result.metrics["environment"] == environment(torch.device("cpu"))


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


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"model": "gpt2"}, "expected model to be a causal language model of transformers, got 'gpt2'; load it first"),
        ({"model": nn.Linear(2, 2)}, "expected model to be a causal language model of transformers, got Linear"),
        ({"tokenizer": None}, "expected tokenizer to be the model's tokenizer, got None; load it with AutoTokenizer"),
        ({"edits": None}, "expected edits to be a list of records, got None; give"),
        ({"edits": "France"}, "expected edits to be a list of records, got 'France'; give"),
        ({"edits": {"prompt": "{}"}}, "expected edits to be a list of records, got {'prompt': '{}'}; give"),
        ({"layers": "12"}, r"expected layers to be a list of whole numbers, got '12'; write for example \[4, 5, 6\]"),
        ({"layers": [1.0]}, r"expected layers to be a list of whole numbers, got \[1.0\]; write"),
        ({"layers": [True]}, r"expected layers to be a list of whole numbers, got \[True\]; write"),
        ({"layers": 1}, "expected layers to be a list of whole numbers, got 1; write"),
        ({"method": 3}, "expected method to be a name, a path or a Method, got 3; see aeplus.METHODS"),
        ({"site": 3}, "expected site to be a module's name with {} for the layer, got 3; see docs/models.md"),
        ({"callbacks": [3]}, r"expected callbacks to be callbacks of Lightning, got 3; make an instance of one"),
        (
            {"callbacks": None},
            r"expected callbacks to be a list of callbacks of Lightning, got None; give \[callback\]",
        ),
        (
            {"callbacks": [EditCheckpoint()]},
            r"expected journal to be a folder, with a callback that writes checkpoints, which point at the journal, "
            r"got None; give one, or leave the callback out",
        ),
        ({"journal": 3}, "expected journal to be the path of a folder, got 3; give a text or a Path"),
        ({"preserve": 3}, "expected preserve to be a list of records, got 3; give"),
        ({"batch_size": "3"}, "expected data.batch_size to be a whole number, got '3'; correct it"),
        ({"batch_size": 2.5}, r"expected data.batch_size to be a whole number, got 2.5; correct it"),
        ({"neighbors": -1}, "expected data.neighbors to be at least 0, got -1; choose a larger number"),
        ({"validation_share": "x"}, "expected data.validation_share to be a number from 0 to 1, got 'x'; correct it"),
        (
            {"layer": [0], "journl": "x"},
            r"expected arguments of aeplus.edit, got journl \(did you mean journal\?\), layer \(did you mean layers",
        ),
        (
            {"layer": [0], "qqqq": 1},
            r"arguments of aeplus.edit out of aligned_floor, .* layers, .* got layer \(.*, qqqq; c",
        ),
        ({"seed": 2**63}, r"expected model.seed to be a whole number from 0 to 2\^63 - 1, got 9223372036854775808"),
    ],
)
def test_arguments_of_another_kind(changed: dict[str, Any], text: str) -> None:
    given = {"model": tiny_model("gpt2"), "tokenizer": tiny_tokenizer(), "edits": records(), **SMALL}
    with pytest.raises(InputError, match=text):
        aeplus.edit(**{**given, **changed})


def test_facts_that_score_are_not_taken_for_facts_that_are_protected(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps({"prompt": "The capital of {} is", "subject": "Peru", "target_new": "Lima"}) + "\n")
    facts = str(file)

    def edited(**options: Any) -> tuple[float | None, list[str]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = aeplus.edit(
                tiny_model(), tiny_tokenizer(), records()[:1], **{**SMALL, "preserved_count": 1}, **options
            )
        said = [str(warning.message) for warning in caught if "protects them" in str(warning.message)]
        return result.metrics["batches"][0]["validation_score"], said

    found, said = edited(preserved=facts)
    assert found is not None
    assert said == [
        "the facts of preserved only score Specificity on the validation set, and nothing protects them; to protect "
        "them, give facts (a file) or preserve (records), else call the option validation_facts"
    ]
    assert edited(validation_facts=facts) == (found, [])
    assert edited(preserved=facts, facts=facts)[1] == []
    with pytest.raises(InputError, match=r"expected validation_facts or preserved, which are the same, got both; lea"):
        edited(preserved=facts, validation_facts=facts)


def test_a_thread_may_edit_and_two_may_not_edit_one_model() -> None:
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    inside, go_on, said = threading.Event(), threading.Event(), []

    class Waiting(EditCallback):
        def on_unedited_model(self, *_: Any) -> None:
            inside.set()
            assert go_on.wait(60)

    def first() -> None:
        said.append(aeplus.edit(model, tokenizer, records(), callbacks=[Waiting()], **SMALL).metrics["edits_done"])

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(
            InputError, match="expected a model that no other call edits, got one that another thread is"
        ):
            aeplus.edit(model, tokenizer, records(), **SMALL)
    finally:
        go_on.set()
        thread.join()
    assert said == [7]
    aeplus.edit(model, tokenizer, records()[:1], **SMALL)


def test_random_generators_and_filters_are_left_as_they_were() -> None:
    model = tiny_model("gpt2")
    states = lambda: (torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()))  # noqa: E731
    before, filters = states(), list(warnings.filters)
    aeplus.edit(model, tiny_tokenizer(), records(), **{**SMALL, "contexts": 2})
    assert states() == before
    assert warnings.filters == filters


def test_a_cluster_around_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    result = aeplus.edit(tiny_model("gpt2"), tiny_tokenizer(), records()[:2], **SMALL)
    assert result.metrics["edits_done"] == 2
    assert rank_zero_only.rank == 3


def test_another_default_device_is_refused() -> None:
    text = "expected torch's default device to be the CPU, got 'meta'; call torch.set_default_device('cpu') before."
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with torch.device("meta"), pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        aeplus.edit(model, tokenizer, EDITS, **OPTIONS)
