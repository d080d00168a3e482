"""Fused norms and gates, tried on a CPU in a GPU's place."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from aeplus.edits import EditRequest
from aeplus.models import kernels
from aeplus.models.decoder import Decoder
from aeplus.models.kernels import Fused
from aeplus.models.rotary import turned_by
from aeplus.targets import optimizer
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from families import CONFIGS as FAMILIES
from families import random_model
from tiny import tiny_model, tiny_tokenizer

ON_CPU = ("cpu",)


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module, _ in Fused([model], ON_CPU).modules if not list(module.children())]


def gates(model: nn.Module) -> list[nn.Module]:
    return [module for module, _ in Fused([model], ON_CPU).modules if list(module.children())]


@pytest.mark.parametrize(
    ("kind", "normed", "gated"),
    [("llama", True, True), ("qwen2", True, True), ("gemma", False, False), ("gpt2", False, False)],
)
def test_plain_rms_norms_and_gates_of_silu_are_fused(kind: str, normed: bool, gated: bool) -> None:
    model = tiny_model(kind)
    layers = len(Decoder(model).layers)
    assert len(norms(model)) == (2 * layers + 1 if normed else 0)
    assert len(gates(model)) == (layers if gated else 0)
    assert Fused([model], ON_CPU).both == (normed and gated)
    assert not Fused([model]).modules  # a CPU gains nothing


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "deepseek_v2"])  # fails by itself
def test_every_family_runs_as_it_does(kind: str) -> None:
    """Norms that take a gate too are among them."""
    model = random_model(kind, FAMILIES[kind])
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        with Fused([model], ON_CPU).applied():
            found = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_another_activation_is_no_silu() -> None:
    model = tiny_model("llama").bfloat16()
    for mlp in gates(model):
        mlp.act_fn = nn.GELU()
        for name in ("gate_proj", "up_proj"):
            mlp.get_submodule(name).weight.mul_(200)  # in bfloat16 the two round to the same there
    assert not gates(model)


def test_a_module_that_is_found_twice_is_fused_once() -> None:
    model = tiny_model("llama")
    fused = Fused([model, model.model.norm], ON_CPU)
    assert [module for module, _ in fused.modules].count(model.model.norm) == 1
    with fused.applied():
        pass


@pytest.mark.parametrize("which", [norms, gates])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_what_is_fused_gives_the_same_there_and_back(
    which: Callable[[nn.Module], list[nn.Module]], dtype: torch.dtype, rounding: float
) -> None:
    model = tiny_model("llama").to(dtype).requires_grad_(False)
    module = which(model)[0]
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter))
    states = torch.randn(5, 3, model.config.hidden_size).to(dtype)
    results = []
    for block in (nullcontext(), Fused([model], ON_CPU).applied()):
        given = states.clone().requires_grad_()
        with block:
            output = module(given)
        (gradient,) = torch.autograd.grad(output.square().sum(), given)
        results.append((output.detach().float(), gradient.float()))
    for own, other in zip(*results, strict=True):
        assert float((own - other).norm()) <= rounding * float(own.norm())


def test_a_fused_gate_keeps_no_activation_and_runs_hooks_of_the_edited_matrix() -> None:
    model = tiny_model("llama").requires_grad_(False)
    mlp = gates(model)[0]
    seen: list[torch.Tensor] = []
    mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    states = torch.randn(4, model.config.hidden_size, requires_grad=True)
    kept: list[int] = []
    for block in (nullcontext(), Fused([model], ON_CPU).applied()):
        names: set[int] = set()
        weights = {p.data_ptr() for p in model.parameters()}

        def pack(tensor: torch.Tensor, names: set[int] = names) -> torch.Tensor:
            names.add(tensor.data_ptr())
            return tensor

        seen.clear()
        with block, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            mlp(states)
        kept.append(len(names - weights))
        assert len(seen) == 1
    assert kept == [3, 2]


def test_afterwards_modules_are_their_own_again() -> None:
    fused = Fused([tiny_model("llama")], ON_CPU)
    modules = [module for module, _ in fused.modules]
    own = modules[0].forward

    def fails() -> None:
        with fused.applied():
            assert modules[0].forward != own
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert all("forward" not in vars(module) for module in modules)


def test_a_norm_that_somebody_replaced_is_left_alone() -> None:
    model = tiny_model("llama")
    norm = model.model.norm
    norm.forward = norm.forward  # as hooks of accelerate do
    assert norm not in norms(model)


def test_other_dtypes_run_as_they_do() -> None:
    model = tiny_model("llama")
    norm = norms(model)[0]
    states = torch.randn(2, 3, model.config.hidden_size).bfloat16()
    expected = norm(states)
    with Fused([model], ON_CPU).applied():
        found = norm(states)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)


def test_targets_are_the_same_with_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batch_rows(tiny_tokenizer(), [EditRequest("The capital of {}", "France", "London")], ["", "You. "])
    options = TargetOptions(steps=8, clamp=3.0, stop_loss=0.0)
    plain = find_targets(Decoder(tiny_model("llama")), rows, 1, options)
    used: list[Fused] = []

    def on_cpu(modules: object, tried: object) -> Fused:
        used.append(Fused(modules, ON_CPU, tried))
        return used[-1]

    monkeypatch.setattr(optimizer, "Fused", on_cpu)
    fused = find_targets(Decoder(tiny_model("llama")), rows, 1, options)
    assert used[0].both
    torch.testing.assert_close(fused.values, plain.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_a_kind_of_module_is_tried_once(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    decoder = Decoder(tiny_model("llama"))
    rows = batch_rows(tiny_tokenizer(), [EditRequest("The capital of {}", "France", "London")], ["", "You. "])
    options = TargetOptions(steps=2, precision=precision)
    kinds: list[tuple[type, torch.dtype]] = []
    original = kernels._is_same

    def counted(module: nn.Module, forward: kernels.Forward, weight: torch.Tensor, width: int) -> bool:
        kinds.append((type(module), weight.dtype))
        return original(module, forward, weight, width)

    monkeypatch.setattr(kernels, "_is_same", counted)
    monkeypatch.setattr(optimizer, "Fused", lambda modules, tried: Fused(modules, ON_CPU, tried))
    for layer in (1, 2, 1):
        find_targets(decoder, rows, layer, options)
    assert len(kinds) == len(set(kinds)) == (2 if precision == "full" else 4)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("rows", [1, 3])
def test_turned_states_are_those_that_a_model_turns(dtype: torch.dtype, rounding: float, rows: int) -> None:
    q, k = torch.randn(3, 5, 4, 6), torch.randn(3, 4, 2, 6).transpose(1, 2)
    cos, sin = torch.randn(rows, 4, 6), torch.randn(rows, 4, 6)  # no cosines of one angle: every entry has its own
    results = []
    for rotary in (modeling_llama.apply_rotary_pos_emb, turned_by(modeling_llama.apply_rotary_pos_emb)):
        given = [t.to(dtype).requires_grad_() for t in (q, k)]
        found = rotary(*given, cos.to(dtype), sin.to(dtype))
        results.append((*found, *torch.autograd.grad(found, given, [t.detach().cos() for t in found])))
    for own, other in zip(*results, strict=True):
        assert own.shape == other.shape
        assert own.dtype == other.dtype == dtype
        assert float((own - other).detach().double().norm()) <= rounding * float(own.detach().double().norm())


def test_rotary_positions_are_fused_where_they_are_turned_by_halves() -> None:
    """Not in Cohere, which turns pairs, nor on a CPU; nothing is left behind."""
    own = modeling_llama.apply_rotary_pos_emb
    fused = Fused([tiny_model("llama")], ON_CPU)
    assert fused.rotary == [(modeling_llama, own)]
    with fused.applied(), fused.applied():
        assert modeling_llama.apply_rotary_pos_emb is not own
    assert modeling_llama.apply_rotary_pos_emb is own
    assert not Fused([random_model("cohere", FAMILIES["cohere"])], ON_CPU).rotary
    assert not Fused([tiny_model("llama")]).rotary


def test_what_is_no_pair_of_queries_and_keys_is_turned_by_the_model() -> None:
    given: list[object] = []

    def own(*values: object, **named: object) -> tuple[object, object]:
        given.append((values, named))
        return values[0], values[1]

    q, k, cos = torch.randn(2, 3, 4, 6), torch.randn(2, 1, 4, 6), torch.randn(2, 4, 6)
    rotary = turned_by(own)  # type: ignore[arg-type]
    rotary(q, k, cos, cos)
    assert not given
    rotary(q, k, cos[..., :4], cos[..., :4])  # only some of each head is turned
    rotary(q.transpose(1, 2), k.transpose(1, 2), cos, cos, unsqueeze_dim=2)
    rotary(q.bfloat16(), k.bfloat16(), cos, cos)  # turned in float32
    rotary(q, k, cos.requires_grad_(), cos)
    assert len(given) == 4


def test_what_is_missing_is_left_to_the_models_function() -> None:
    def own(q: Tensor, k: Tensor | None = None, cos: Any = None, sin: Any = None) -> tuple[Any, Any]:
        return "own", k

    q = torch.ones(2, 4, 3, 8)
    rotary = turned_by(own)
    assert rotary(q) == ("own", None)
    assert rotary(q=q, k=q, cos=q[:1, 0]) == ("own", q)
    assert rotary(q=q, k=q, cos=q[:1, 0], sin=q[:1, 0])[0] != "own"


def test_on_a_gpu_what_float32_does_not_hold_is_turned_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(Tensor):
        is_cuda = True

    asked: list[torch.dtype] = []

    def own(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(q.dtype)
        return q, k

    monkeypatch.setattr("aeplus.models.rotary.turned", lambda states, cos, sin: states)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        q = torch.ones(2, 4, 3, 8, dtype=dtype).as_subclass(OnGpu)
        turned_by(own)(q, q, q[:1, 0], q[:1, 0])
    assert asked == [torch.float64]


def test_blocks_in_blocks_end_with_the_outer_one() -> None:
    model, own = tiny_model("llama"), modeling_llama.apply_rotary_pos_emb
    outer, also = Fused([model], ON_CPU), Fused([model], ON_CPU)
    with outer.applied():
        inside = Fused([model], ON_CPU)
        assert inside.rotary == [(modeling_llama, own)]
        turned = modeling_llama.apply_rotary_pos_emb
        with also.applied(), inside.applied():
            pass
        assert modeling_llama.apply_rotary_pos_emb is turned
        assert all("forward" in vars(module) for module, _ in outer.modules)
    assert modeling_llama.apply_rotary_pos_emb is own
    assert not any("forward" in vars(module) for module, _ in outer.modules)
    with inside.applied():
        assert modeling_llama.apply_rotary_pos_emb is not own
    assert modeling_llama.apply_rotary_pos_emb is own


@pytest.mark.parametrize("name", ["turned_by", "gated"])
def test_where_a_kernel_is_not_to_be_had_the_models_own_code_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        message = "Couldn't parse code, please check correctness"  # as torch.cuda.jiterator raises it
        raise Exception(message)

    whole = Fused([tiny_model("llama")], ON_CPU)
    monkeypatch.setattr(kernels, name, refused)
    fused = Fused([tiny_model("llama")], ON_CPU)
    assert not (fused.rotary if name == "turned_by" else fused.both)
    assert whole.rotary
    assert whole.both
