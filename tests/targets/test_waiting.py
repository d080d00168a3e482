"""What targets ask of a device while they are learned: counted, as a CPU has nobody to wait for."""

import pytest
import torch

import families
from aeplus.edits import EditRequest
from aeplus.models.costs import ModelShape
from aeplus.models.decoder import Decoder
from aeplus.targets import optimizer
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.packing import tokens_at_once
from aeplus.targets.rows import BatchRows, batch_rows
from counting import Operations
from tiny import tiny_model, tiny_tokenizer

SUBJECTS = ["France", "Italy", "London", "Rome"]
STEPS = 13


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(tiny_model("llama"))


@pytest.fixture
def rows() -> BatchRows:
    requests = [EditRequest("The capital of {}", subject, "Paris") for subject in SUBJECTS]
    return batch_rows(tiny_tokenizer(), requests, ["", "People say. "])


def learn(decoder: Decoder, rows: BatchRows, steps: int = STEPS, **options: float) -> tuple[Targets, Operations]:
    with Operations() as counted:
        found = find_targets(decoder, rows, 1, TargetOptions(steps=steps, **options))
    return found, counted


def random_gains(kind: str) -> Decoder:
    """A random model of a family whose normalizations multiply by anything."""
    model = families.random_model(kind, families.CONFIGS[kind])
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "ln_" in name and name.endswith("weight"):
            weight.data.uniform_(0.5, 1.5, generator=generator)
    return Decoder(model)


@pytest.mark.parametrize(
    ("kind", "operators"), [("llama", 700), ("gemma2", 4700), ("gemma4_text", 14600), ("openai-gpt", 6500)]
)
def test_between_looks_nothing_is_read_from_the_device(
    kind: str, operators: int, rows: BatchRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = random_gains(kind)
    learn(decoder, rows, stop_loss=0.0)  # tries out how the model can be replayed
    monkeypatch.setitem(optimizer._CHECK_EVERY, "cpu", 4)
    waits, calls = [], []
    for steps in (1, STEPS):
        counted = learn(decoder, rows, steps, stop_loss=0.0)[1]
        waits.append(counted.waits)
        calls.append(sum(counted.calls.values()))
    assert calls[1] - calls[0] <= operators * (STEPS - 1)
    more = waits[1] - waits[0]
    assert more.pop("_local_scalar_dense") == STEPS - 1  # Adam's own counter, which lies on the host
    assert more == {"tolist": 3}  # after steps 4, 8, 12 and the last, which a single step has too


@pytest.mark.parametrize("kind", ["gemma2", "gemma4_text"])
def test_a_device_that_is_not_asked_finds_the_same_nearest_outputs(
    kind: str, rows: BatchRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = random_gains(kind)
    each, _ = learn(decoder, rows, 3, stop_loss=0.0, clamp=0.5)
    monkeypatch.setitem(optimizer._CHECK_EVERY, "cpu", 4)
    seldom, _ = learn(decoder, rows, 3, stop_loss=0.0, clamp=0.5)
    torch.testing.assert_close(seldom.values, each.values, rtol=1e-5, atol=1e-5)


def test_looking_seldom_changes_no_target(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    easy = [("The capital of {}", "France", "London"), ("{}", "London", "Paris"), ("In {}", "Paris the city", "Italy")]
    rows = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in easy], ["", "The man is. ", "You. "])
    options = {"clamp": 3.0, "kl_factor": 0.01, "stop_loss": 1.5}
    each, _ = learn(decoder, rows, 15, **options)
    assert each.converged.any()
    assert len(set(each.steps.tolist())) > 1
    monkeypatch.setitem(optimizer._CHECK_EVERY, "cpu", 4)
    seldom, _ = learn(decoder, rows, 15, **options)
    assert torch.equal(each.steps, seldom.steps)
    assert torch.equal(each.converged, seldom.converged)
    torch.testing.assert_close(seldom.values, each.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seldom.loss, each.loss, rtol=1e-4, atol=1e-5)


def test_tokens_of_a_step_fit_the_free_memory(decoder: Decoder, rows: BatchRows) -> None:
    shape = ModelShape.of(decoder)
    assert tokens_at_once(decoder, rows, 2, 4096) == 4096  # a CPU is not asked
    for free in (1e6, 1e8):
        most = tokens_at_once(decoder, rows, 2, 10**9, lambda _, free=free: int(free))
        asked = sum(len(row.answer_ids) for row in rows.prompts)
        tokens = sum(len(row.ids) - 1 - row.mark for row in rows.prompts)
        cached = len(rows.prompts) * max(row.mark for row in rows.prompts)
        taken = shape.held(most, 2, most * cached / tokens) + shape.logits(int(most * asked / tokens))
        assert 0.27 * free < taken <= 0.3 * free
    assert tokens_at_once(decoder, rows, 2, 10**9, lambda _: 10**15) == tokens_at_once(
        decoder, rows, 2, 10**9, lambda _: 2**34
    )
    assert tokens_at_once(decoder, rows, 2, 50, lambda _: 10**9) == 50
    assert tokens_at_once(decoder, rows, 2, 50, lambda _: 0) == 1
    assert tokens_at_once(decoder, rows, len(decoder.layers), 50, lambda _: 10**10) == 50  # no layer keeps anything


def test_a_gpu_runs_rows_of_one_length_or_another_together() -> None:
    big = ModelShape(32, 4096, 14336, 128256, 218_103_808, 1_050_673_152, 2, 2048)
    small = ModelShape(30, 576, 1536, 49152, 3_539_000, 28_311_552, 4, 384)
    assert 150 < big.part_tokens < 250
    assert small.part_tokens > 4000
