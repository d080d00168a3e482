"""Kernels for short rows on a GPU, where a pass waits for launches and memory rather than for arithmetic."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aeplus.models.rotary import NAME, Rotary, rotary_of, turned_by

_SAME = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # share of the output: rounding
_GATED = ["gate_proj", "up_proj", "down_proj", "act_fn"]

Forward = Callable[..., Tensor]


class Fused:
    """The RMS norms, gates and rotary positions of some modules, each one kernel there and one back in a block.

    Written out in a model, as most do, a norm is eight launches and keeps three copies of its input in float32,
    ``silu(gate) * up`` is five, and keeps the activation, and rotary positions are 26. What gives there and back what
    its kernel gives but for rounding, tried once, takes part.

    Args:
        modules: What is searched.
        kinds: Devices on which they are fused; elsewhere nothing is gained.
        tried: What has been found out about such modules, and is added to: of each kind one is tried, once.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        kinds: Sequence[str] = ("cuda",),
        tried: dict[tuple[Any, torch.dtype, str], bool] | None = None,
    ) -> None:
        tried = {} if tried is None else tried
        self.modules: list[tuple[nn.Module, Forward]] = []
        self.rotary: list[tuple[ModuleType, Rotary]] = []
        searched = list(dict.fromkeys(inner for outer in modules for inner in outer.modules()))

        def same(what: Any, weight: Tensor, trial: Callable[[], bool]) -> bool:
            kind = what, weight.dtype, weight.device.type
            if kind not in tried:
                tried[kind] = trial()
            return tried[kind]

        for home, rotary, weight in _rotary_functions(searched, kinds):
            if same(rotary, weight, partial(_turns, rotary, weight)):
                self.rotary.append((home, rotary))
        for module in searched:
            if "forward" in vars(module) or (found := _fused(module)) is None:  # nobody else has one in front of it
                continue
            forward, weight, width = found
            if weight.device.type not in kinds or weight.dtype not in _SAME:
                continue
            if same(type(module), weight, partial(_is_same, module, forward, weight, width)):
                self.modules.append((module, forward))

    @property
    def both(self) -> bool:
        """Whether there are norms and gates among them."""
        return {forward for _, forward in self.modules} == {_normed, _gated}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block they are fused."""
        with ExitStack() as stack:
            for home, rotary in self.rotary:
                if vars(home)[NAME] is rotary:  # not in another's block
                    setattr(home, NAME, turned_by(rotary))
                    stack.callback(setattr, home, NAME, rotary)
            for module, forward in self.modules:
                if "forward" not in vars(module):  # not in another's block
                    # In front of the class's own method, which is found again once it is gone.
                    module.__dict__["forward"] = partial(forward, module)
                    stack.callback(module.__dict__.pop, "forward", None)
            yield


def _fused(module: nn.Module) -> tuple[Forward, Tensor, int] | None:
    """What may stand for a module's forward pass, a weight of it, and the width of what it takes."""
    if _parameters(type(module).forward) != 2:  # such as a norm that may be given a gate
        return None
    if sorted(name for name, _ in module.named_children()) == sorted(_GATED):
        weight = getattr(module.get_submodule("gate_proj"), "weight", None)
        return (_gated, weight, weight.shape[1]) if isinstance(weight, Tensor) and weight.ndim == 2 else None
    named = dict(module.named_parameters())
    if list(named) != ["weight"] or isinstance(module, nn.LayerNorm) or _epsilon(module) is None:
        return None
    weight = named["weight"]
    return (_normed, weight, len(weight)) if weight.ndim == 1 else None


@functools.cache
def _parameters(forward: Callable[..., Any]) -> int:
    return len(inspect.signature(forward).parameters)


def _epsilon(norm: nn.Module) -> float | None:
    return next((e for name in ("variance_epsilon", "eps") if isinstance(e := getattr(norm, name, None), float)), None)


def _normed(norm: nn.Module, states: Tensor) -> Tensor:
    weight = cast(Tensor, norm.weight)
    if states.dtype != weight.dtype:  # then there is no one kernel, and it was not tried
        return type(norm).forward(norm, states)
    return F.rms_norm(states, weight.shape, weight, _epsilon(norm))


def _gated(mlp: Any, states: Tensor) -> Tensor:
    return cast(Tensor, mlp.down_proj(gated(mlp.gate_proj(states), mlp.up_proj(states))))


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of one shape, on a GPU one kernel each way."""
    return cast(Tensor, _Gated.apply(gate, up))


class _Gated(torch.autograd.Function):
    """``silu(gate) * up``, of which only the two are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        if gate.is_cuda:
            return _compiled()[0](gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        gate, up = ctx.saved_tensors
        (back,) = gradients
        if gate.is_cuda:
            return tuple(_compiled()[1](back, gate, up))
        return torch.ops.aten.silu_backward(back * up, gate), F.silu(gate).mul_(back)


@functools.cache
def _compiled() -> tuple[Callable[..., Tensor], Callable[..., Sequence[Tensor]]]:
    """Both ways as kernels that torch compiles on the GPU (https://docs.pytorch.org/docs/stable/cuda.html#jiterator)."""
    there = """template <typename T> T gated(T gate, T up) {
        float g = static_cast<float>(gate);
        return static_cast<T>(g / (1.0f + expf(-g)) * static_cast<float>(up));
    }"""
    back = """template <typename T> void gated_back(T back, T gate, T up, T& to_gate, T& to_up) {
        float b = static_cast<float>(back), g = static_cast<float>(gate), s = 1.0f / (1.0f + expf(-g));
        to_up = static_cast<T>(b * g * s);
        to_gate = static_cast<T>(b * static_cast<float>(up) * s * (1.0f + g * (1.0f - s)));
    }"""
    compiler = torch.cuda.jiterator
    return compiler._create_jit_fn(there), compiler._create_multi_output_jit_fn(back, num_outputs=2)


def _rotary_functions(
    modules: Iterable[nn.Module], kinds: Sequence[str]
) -> Iterator[tuple[ModuleType, Rotary, Tensor]]:
    """The functions for rotary positions of some modules, and a weight beside which each is used."""
    seen = set()
    for module in modules:
        weight = next(module.parameters(), None)
        if weight is None or weight.device.type not in kinds or weight.dtype not in _SAME:
            continue
        found = rotary_of(module)
        if found is not None and found not in seen:
            seen.add(found)
            yield *found, weight


def _turns(rotary: Rotary, weight: Tensor) -> bool:
    """Whether a function turns queries and keys as its kernel does."""
    parts = torch.linspace(-2, 3, 2 * (4 + 2 + 1 + 1) * 3 * 16, device=weight.device).to(weight.dtype)
    q, k, cos, sin = (part.unflatten(0, (2, -1, 3, 16)) for part in parts.split([2 * h * 3 * 16 for h in (4, 2, 1, 1)]))
    results = []
    try:
        for run in (rotary, turned_by(rotary)):
            given = [q.clone().requires_grad_(), k.clone().requires_grad_()]
            with torch.enable_grad():
                output = run(*given, cos[:, 0].cos(), sin[:, 0].sin())
            results.append((*output, *torch.autograd.grad(output, given, [t.detach().cos() for t in output])))
    except Exception:  # a model's own function may raise any, and torch's compiler of kernels raises a plain one
        return False
    return _near(results[0], results[1], _SAME[weight.dtype])


def _near(own: Sequence[Tensor], other: Sequence[Tensor], rounding: float) -> bool:
    return all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and bool((a.float() - b.float()).norm() <= rounding * a.float().norm())
        for a, b in zip(own, other, strict=True)
    )


def _is_same(module: nn.Module, forward: Forward, weight: Tensor, width: int) -> bool:
    states = torch.linspace(-2, 3, 2 * width, device=weight.device).reshape(2, -1).to(weight.dtype)
    results = []
    try:
        if forward is _gated and not _is_silu(module.get_submodule("act_fn"), weight.device):
            return False
        for run in (module, partial(forward, module)):
            given = states.clone().requires_grad_()
            with torch.enable_grad():
                output = run(given)
            # The output itself is nearly what a norm's way back takes out, so that rounding would be compared.
            above = torch.linspace(0, 40, output.numel(), device=output.device).cos().reshape(output.shape).to(output)
            results.append((output, *torch.autograd.grad(output, given, above)))
    except Exception:  # it takes something else, or its kernel is not to be had: torch's compiler raises a plain one
        return False
    return _near(results[0], results[1], _SAME[weight.dtype])


def _is_silu(activation: nn.Module, device: torch.device) -> bool:
    """Whether it is: in half precision, and far from 0, another one may round to the same."""
    some = torch.linspace(-4, 4, 64, device=device)
    return torch.allclose(activation(some), F.silu(some), rtol=1e-4, atol=1e-5)
