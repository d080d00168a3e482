"""Finds out what an output of a down-projection does to the residual stream, by probing the layer.

The forms that are told apart are those of :class:`~aeplus.models.response.Response`. Notation: ``o`` hidden size, ``n``
tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aeplus.errors import InputError
from aeplus.models.response import Normalization, Response, Steering, changed, recorded

_PROBES = 4


@torch.no_grad()
def measure_response(layer: nn.Module, module: nn.Module, run: Callable[[], Tensor], name: str) -> Response:
    """Measures how the stream after a layer depends on its down-projection's output.

    Args:
        layer: The decoder layer.
        module: Its down-projection.
        run: Runs the layer on one row of some tokens and returns the stream after it, ``[1, tokens, o]``.
        name: What messages call the down-projection.

    Raises:
        InputError: If the stream depends on it in another way than described above, or not at all.
    """
    with recorded(module) as seen:
        before = run()
    if before.ndim != 3:
        msg = (
            f"expected one residual stream [rows, tokens, hidden size] after {type(layer).__name__}, got one of shape "
            f"{list(before.shape)}; choose another model, as several streams beside each other cannot be edited."
        )
        raise InputError(msg)
    if not seen and any(_compiled(part) for part in layer.modules()):
        msg = (
            f"expected layers as they were loaded, got some that torch.compile has compiled, in which {name} is not "
            "seen to run; edit the model first, and compile it afterwards."
        )
        raise InputError(msg)
    if not seen or seen["y"].numel() != before.numel():
        msg = (
            f"expected {name} to be run on every token, got {'some of them' if seen else 'no call'}, as in a mixture "
            "of experts; name another module with model.site."
        )
        raise InputError(msg)
    generator = torch.Generator().manual_seed(0)
    size = float(before.float().std()) or 1.0
    probes = [torch.randn(before.shape, generator=generator).to(before) * size for _ in range(_PROBES)]
    tolerance = 2e-2 if before.dtype in (torch.float16, torch.bfloat16) else 1e-3
    after = []
    for probe in probes:
        with changed(module, probe):
            after.append(run())
    moves, given = _stack([states - before for states in after]), _stack(probes)
    if not float(moves.norm()) > 1e-6 * float(given.norm()):
        msg = f"expected the stream to depend on the output of {name}, got no change; name another module."
        raise InputError(msg)
    scale = _scale_of(given, moves, tolerance)
    if scale is not None:
        plain = bool((scale - 1).abs().max() < tolerance)
        return Response(None if plain else scale)
    if _gates(given, moves, len(probes), tolerance):
        return Response(gated=True)
    # Small changes are added as they are only where nothing normalizes: otherwise look for what does.
    response = _behind_norm(layer, module, run, probes, tolerance)
    if response is None or not _reaches(response, module, run, after[0], tolerance):
        msg = (
            f"expected the output of {name} to join the residual stream as it is, scaled or normalized, got a "
            f"{type(layer).__name__} that does something else with it; choose another model."
        )
        raise InputError(msg)
    return response


def _compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _stack(states: list[Tensor]) -> Tensor:
    """As rows, ``[n, o]``, at least in float32."""
    joined = torch.cat([part.reshape(-1, part.shape[-1]) for part in states])
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def _scale_of(given: Tensor, moves: Tensor, tolerance: float) -> Tensor | None:
    """``a [o]`` with ``moves = a ⊙ given [n, o]``; ``None`` if there is none."""
    scale = (given * moves).sum(0) / given.pow(2).sum(0)
    if not float((moves - scale * given).norm()) <= tolerance * float(moves.norm()):
        return None
    mean = scale.mean()
    return mean.expand_as(scale).clone() if bool((scale - mean).abs().max() <= tolerance * mean.abs()) else scale


def _gates(given: Tensor, moves: Tensor, probes: int, tolerance: float) -> bool:
    """Whether ``moves = a given [n, o]`` with a number ``a`` for each token, the same for all probes."""
    scale = (given * moves).sum(1, keepdim=True) / given.pow(2).sum(1, keepdim=True)
    if not float((moves - scale * given).norm()) <= tolerance * float(moves.norm()):
        return False
    each = scale.reshape(probes, -1)
    return bool(
        ((each - each.mean(0)).abs() <= 2 * tolerance * each.abs().max()).all() and (each.mean(0).abs() > 1e-4).all()
    )


def _behind_norm(
    layer: nn.Module, module: nn.Module, run: Callable[[], Tensor], probes: list[Tensor], tolerance: float
) -> Response | None:
    """The response with the first normalization that the down-projection's output enters."""
    called: list[nn.Module] = []
    inner = [m for m in layer.modules() if m is not module and m is not layer]
    started = False

    def note(called_module: nn.Module, args: tuple[Any, ...]) -> None:
        if started and args and isinstance(args[0], Tensor):
            called.append(called_module)

    def start(*_: Any) -> None:
        nonlocal started
        started = True

    handles = [m.register_forward_pre_hook(note) for m in inner] + [module.register_forward_hook(start)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for candidate in called:
        norm = _normalization(candidate, probes[0], tolerance)
        if norm is None:
            continue
        with recorded(module, candidate) as before:
            base = run()
        entered, left, moved = [], [], []
        for probe in probes:
            with changed(module, probe), recorded(module, candidate) as seen:
                moved.append(run() - base)
            entered.append(seen["x"].reshape(base.shape) - before["x"].reshape(base.shape))
            left.append(seen["z"].reshape(base.shape) - before["z"].reshape(base.shape))
        into = _scale_of(_stack(probes), _stack(entered), tolerance)
        if into is None or bool((into - 1).abs().max() > tolerance):
            continue
        z, h = _stack(left), _stack(moved)
        scale = _scale_of(z, h, tolerance)
        bent = scale is None
        if bent:
            scale = ((z * h).sum() / z.pow(2).sum()).expand(z.shape[1]).clone()
        assert scale is not None
        plain = bool((scale - 1).abs().max() < tolerance)
        return Response(None if plain else scale, norm, bent)
    return None


def _normalization(module: nn.Module, like: Tensor, tolerance: float) -> Normalization | None:
    """Gain and bias of a module that normalizes; ``None`` if it does something else."""
    width = like.shape[-1]
    signs = torch.ones(width, device=like.device)
    signs[1::2] = -1  # mean 0 and rms 1, so that RMSNorm and LayerNorm both give g ⊙ signs + b

    def of(x: Tensor) -> Tensor | None:
        try:
            output = module((100 * x).to(like)[None, None])  # so large that ε does nothing
        except (RuntimeError, TypeError, ValueError, IndexError):  # not a module of one state
            return None
        return output[0, 0].float() if isinstance(output, Tensor) and output.shape == (1, 1, width) else None

    state = like.reshape(-1, width)[0].float()
    state = state / state.pow(2).mean().sqrt() + 0.5
    up, down, expected = of(signs), of(-signs), of(state)
    if up is None or down is None or expected is None:
        return None
    gain, bias = (up - down) / 2 * signs, (up + down) / 2
    for centered in (False, True):
        shifted = state - state.mean() if centered else state
        found = gain * shifted / shifted.pow(2).mean().sqrt() + bias
        if float((found - expected).norm()) <= tolerance * float(expected.norm()):
            dtype = torch.promote_types(like.dtype, torch.float32)
            return Normalization(module, gain.to(dtype), bias.to(dtype), centered)
    return None


def _reaches(
    response: Response, module: nn.Module, run: Callable[[], Tensor], wanted: Tensor, tolerance: float
) -> bool:
    """Whether values that can be reached, ``wanted [1, tokens, o]``, are reached at the last token."""
    steering = Steering(response, module, run, torch.tensor([wanted.shape[1] - 1], device=wanted.device))
    target = wanted[:, -1].to(steering.values)
    there = steering.moved(steering.change_for(target))[:, -1].to(target)
    return bool((there - target).norm() <= max(tolerance, 1e-2) * (target - steering.values).norm())
