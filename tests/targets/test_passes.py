"""Recorded passes of a step, with a stand-in for a GPU's graphs: what is recorded when, and that nothing changes."""

import threading
from dataclasses import replace

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.models.kernels import Fused
from aeplus.targets import optimizer, passes
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.packing import target_parts
from aeplus.targets.passes import CudaGraphs, Pass, Passes, Recorder, recorder
from aeplus.targets.rows import batch_rows
from tiny import tiny_model, tiny_tokenizer

EDITS = [("The capital of {}", "France", "London"), ("{}", "London", "Paris"), ("In {}", "Paris the city", "Italy")]
ANSWERS = ["London", "Paris the city of France", "Italy"]
OPTIONS = TargetOptions(steps=15, clamp=3.0, kl_factor=0.01, stop_loss=1.5)


class StandIn:
    """Records a pass as a function whose results lie where the first ones lay, as a graph's do."""

    def __init__(self) -> None:
        self.firsts, self.recorded, self.replayed = 0, 0, 0

    def first(self, run: Pass) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.firsts += 1
        return run()

    def record(self, run: Pass) -> Pass:
        self.recorded += 1
        found = run()

        def replay() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            self.replayed += 1
            for old, new in zip(found, run(), strict=True):
                old.copy_(new)
            return found

        return replay


def learn(record: Recorder | None, monkeypatch: pytest.MonkeyPatch, **changed: object) -> Targets:
    monkeypatch.setattr(optimizer, "recorder", lambda *_: record)
    rows = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in EDITS], ["", "The man is. ", "You. "])
    return find_targets(Decoder(tiny_model("llama")), rows, 1, replace(OPTIONS, graphs=record is not None, **changed))


@pytest.mark.parametrize("tokens", [4096, 8])
def test_recorded_passes_give_the_same_targets(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphs = learn(None, monkeypatch, chunk_tokens=tokens), StandIn()
    found = learn(graphs, monkeypatch, chunk_tokens=tokens)
    assert len(set(plain.steps.tolist())) > 1  # bundles lose rows on the way
    assert graphs.recorded > 1
    assert graphs.replayed > graphs.recorded
    for name, expected in vars(plain).items():
        assert torch.equal(vars(found)[name], expected), name


def test_one_pass_of_a_model_runs_as_usual_before_any_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of every batch: but for another dtype, whose kernels are others."""
    graphs, decoder = StandIn(), Decoder(tiny_model("llama"))
    monkeypatch.setattr(optimizer, "recorder", lambda *_: graphs)
    rows = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in EDITS], [""])
    for precision, firsts in (("full", 1), ("full", 1), ("bfloat16", 2), ("bfloat16", 2)):
        find_targets(decoder, rows, 1, replace(OPTIONS, precision=precision))
        assert graphs.firsts == firsts


def test_a_first_pass_that_fails_is_no_recording_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(StandIn):
        def first(self, run: Pass) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            if not self.firsts:
                self.firsts += 1
                message = "CUDA out of memory."
                raise torch.OutOfMemoryError(message)
            return super().first(run)

    graphs, decoder = Full(), Decoder(tiny_model("llama"))
    monkeypatch.setattr(optimizer, "recorder", lambda *_: graphs)
    rows = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in EDITS], [""])
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\."):
        find_targets(decoder, rows, 1, OPTIONS)
    assert not passes._FAILED
    find_targets(decoder, rows, 1, OPTIONS)
    assert graphs.firsts == 2  # it has not run yet
    assert graphs.recorded > 0


def test_each_thread_records_in_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    device, other = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    passes._stream.cache_clear()
    try:
        mine, again = CudaGraphs(device)._stream, CudaGraphs(device)._stream
        thread = threading.Thread(target=lambda: other.append(CudaGraphs(device)._stream))
        thread.start()
        thread.join()
    finally:
        passes._stream.cache_clear()
    assert mine is again
    assert other
    assert other[0] is not mine


def test_logits_of_a_few_positions_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(tiny_model("llama").requires_grad_(False))
    edits = [EditRequest(prompt, subject, answer) for (prompt, subject, _), answer in zip(EDITS, ANSWERS, strict=True)]
    rows = batch_rows(tiny_tokenizer(), edits, ["", "You. "])
    assert len({len(row.answer_ids) for row in rows.prompts}) > 1  # their shares differ
    parts, initial = target_parts(decoder, rows, 2, 4096)
    found = []
    for positions in (256, 2):
        monkeypatch.setattr(passes, "POSITIONS", positions)
        delta = initial.clone().requires_grad_()
        run = Passes(decoder, delta, 0.1, 4096, Fused([]))
        run.take(parts)
        found.append((*run.run(1), delta.grad))
    assert len(set(found[0][1].tolist())) > 1
    assert torch.equal(found[0][1], found[1][1])
    for whole, few in zip(*found, strict=True):
        torch.testing.assert_close(few, whole, rtol=1e-5, atol=1e-6)


def test_a_bundle_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = StandIn()
    learn(graphs, monkeypatch, stop_loss=0.0)
    # The first pass runs as usual and the last asks for no gradient.
    assert (graphs.recorded, graphs.replayed) == (1, OPTIONS.steps - 2)
    graphs = StandIn()
    learn(graphs, monkeypatch, stop_loss=0.0, steps=3)
    assert graphs.recorded == 0  # a recording would be replayed once


def test_where_recording_fails_the_targets_are_learned_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(StandIn):
        def record(self, run: Pass) -> Pass:
            run()
            message = "operation not permitted when stream is capturing\nmore"
            raise RuntimeError(message)

    plain = learn(None, monkeypatch)
    with pytest.warns(UserWarning, match="learned without CUDA graphs, as recording failed: operation not permitted"):
        found = learn(Refusing(), monkeypatch)
    assert torch.equal(found.values, plain.values)


def test_a_pass_adds_to_the_gradient_that_is_there() -> None:
    decoder = Decoder(tiny_model("llama").requires_grad_(False))
    rows = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in EDITS], [""])
    parts, initial = target_parts(decoder, rows, 2, 8)
    gradients = []
    for there in (None, torch.ones_like(initial)):
        delta = torch.zeros_like(initial, requires_grad=True)
        delta.grad = there
        run = Passes(decoder, delta, 0.1, 8, Fused([]))
        run.take(parts)
        run.run(1)
        gradients.append(delta.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0] + 1)


def test_a_cpu_records_nothing() -> None:
    assert recorder(Decoder(tiny_model("llama")), torch.device("cpu"), 0) is None
