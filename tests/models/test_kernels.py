"""Kernels for short rows: fused norms tried on a CPU in a GPU's place, and attention without cuDNN."""

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.models.kernels import FusedNorms, without_cudnn_attention
from aeplus.models.replay import Replay
from aeplus.targets import optimizer
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from tiny import tiny_model, tiny_tokenizer

ON_CPU = ("cpu",)


@pytest.mark.parametrize(("kind", "fused"), [("llama", True), ("qwen2", True), ("gemma", False), ("gpt2", False)])
def test_norms_that_are_plain_rms_norms_are_fused(kind: str, fused: bool) -> None:
    model = tiny_model(kind)
    norms = FusedNorms([model], ON_CPU)
    assert len(norms.norms) == (2 * len(Decoder(model).layers) + 1 if fused else 0)
    assert not FusedNorms([model]).norms  # a CPU gains nothing


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_fused_norm_gives_the_same_there_and_back(dtype: torch.dtype, rounding: float) -> None:
    model = tiny_model("llama").to(dtype).requires_grad_(False)
    norms = FusedNorms([model], ON_CPU)
    norm = norms.norms[0]
    norm.weight.copy_(torch.randn_like(norm.weight))
    states = torch.randn(5, 3, len(norm.weight)).to(dtype)
    results = []
    for fuse in (False, True):
        given = states.clone().requires_grad_()
        if fuse:
            with norms.applied():
                output = norm(given)
        else:
            output = norm(given)
        (gradient,) = torch.autograd.grad(output.square().sum(), given)
        results.append((output.detach().float(), gradient.float()))
    for own, other in zip(*results, strict=True):
        assert float((own - other).norm()) <= rounding * float(own.norm())


def test_afterwards_norms_are_their_own_again() -> None:
    norms = FusedNorms([tiny_model("llama")], ON_CPU)
    own = norms.norms[0].forward

    def fails() -> None:
        with norms.applied():
            assert norms.norms[0].forward != own
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert all("forward" not in vars(norm) for norm in norms.norms)


def test_a_norm_that_somebody_replaced_is_left_alone() -> None:
    model = tiny_model("llama")
    norm = model.model.norm
    norm.forward = norm.forward  # as hooks of accelerate do
    assert norm not in FusedNorms([model], ON_CPU).norms


def test_other_dtypes_run_as_they_do() -> None:
    norms = FusedNorms([tiny_model("llama")], ON_CPU)
    states = torch.randn(2, 3, len(norms.norms[0].weight)).bfloat16()
    expected = norms.norms[0](states)
    with norms.applied():
        found = norms.norms[0](states)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)


def test_targets_are_the_same_with_fused_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batch_rows(tiny_tokenizer(), [EditRequest("The capital of {}", "France", "London")], ["", "You. "])
    options = TargetOptions(steps=8, clamp=3.0, stop_loss=0.0)
    plain = find_targets(Decoder(tiny_model("llama")), rows, 1, options)
    used: list[FusedNorms] = []

    def on_cpu(modules: object) -> FusedNorms:
        used.append(FusedNorms(modules, ON_CPU))
        return used[-1]

    monkeypatch.setattr(optimizer, "FusedNorms", on_cpu)
    fused = find_targets(Decoder(tiny_model("llama")), rows, 1, options)
    assert used[0].norms
    torch.testing.assert_close(fused.values, plain.values, rtol=1e-4, atol=1e-4)


def test_passes_go_without_cudnns_attention() -> None:
    decoder = Decoder(tiny_model("llama"))
    allowed: list[bool] = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled()))
    replay = Replay(decoder, [[1, 2, 3, 4]], 0)
    replay.run(replay.hidden, 0, 2)
    assert not any(allowed)
    allowed.clear()
    replay.run(replay.hidden.requires_grad_(), 0, 2)
    assert all(allowed)  # on the way back cuDNN's kernels are the faster ones
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_where_no_other_attention_is_allowed_cudnns_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "mem_efficient_sdp_enabled", lambda: False)
    with without_cudnn_attention():
        assert torch.backends.cuda.cudnn_sdp_enabled()
