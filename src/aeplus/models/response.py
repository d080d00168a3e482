"""What an output of a down-projection does to the residual stream, measured rather than known by a name.

In most decoders a layer adds the down-projection's output ``y`` to the stream as it is. Some scale it (Granite,
Falcon-H1), some normalize it first (Gemma 2, OLMo 2, GLM 4, EXAONE 4), some normalize the sum (OPT 350M, GPT). All of
these are, token by token,

    h(y) = c + a ⊙ N(p + y),    N the identity, or x ↦ g ⊙ x̂ + b with x̂ = x / rms(x),

(RMSNorm; LayerNorm centers x first) with ``c`` and ``p`` that do not depend on ``y``. The identity is solved by a
division. Behind a normalization only a part of the stream's space can be reached, an ellipsoid; the nearest point of it
stands for any other. Where more follows that bends the stream (Gemma 4's inputs per layer), a short fixed point finds
``y``.

Notation: ``o`` hidden size, ``n`` tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from aeplus.functional import lowest_multiplier, nearest_normalized
from aeplus.models.hooks import at_columns

_SWEEPS = 24  # of the fixed point
_NEAR = 1e-3  # share of the way at which it ends
_ROUNDING = 64, 2  # times a dtype's precision, by float32 and half precision, whose sums are rounded once


@dataclass(frozen=True)
class Normalization:
    """A normalization between the down-projection and the stream.

    Attributes:
        module: The module.
        gain: ``g [o]``.
        bias: ``b [o]``.
        centered: Whether the mean is taken off first (LayerNorm).
    """

    module: nn.Module
    gain: Tensor
    bias: Tensor
    centered: bool

    @cached_property
    def lowest(self) -> float | None:
        """What is read from the gain on the device, once, to find the nearest output; ``None`` if nothing is."""
        return lowest_multiplier(self.gain) if self.centered else None


@dataclass(frozen=True)
class Response:
    """How the stream after a layer depends on the output of its down-projection.

    Attributes:
        scale: ``a [o]``, at least in float32; ``None`` where the output is added as it is.
        norm: The normalization ``N``; ``None`` for the identity.
        bent: Whether more follows that is not linear.
        gated: Whether each token has a scale of its own, as behind the gate of a shared expert; ``scale`` is ``None``.
    """

    scale: Tensor | None = None
    norm: Normalization | None = None
    bent: bool = False
    gated: bool = False

    @property
    def plain(self) -> bool:
        """Whether the output is added to the stream as it is."""
        return self.scale is None and self.norm is None and not self.gated

    @property
    def curved(self) -> bool:
        """Whether the stream is another than the same linear function of every token's output."""
        return self.norm is not None or self.bent or self.gated


class Steering:
    """Some tokens at one layer: what the stream becomes if the down-projection puts out something else there.

    Args:
        response: The layer's response.
        module: Its down-projection.
        run: Runs the layer once on the rows and returns the stream after it, ``[rows, tokens, o]``.
        column: Column of each row's token, ``[rows]``.
        agree: What is decided where processes run the layer together, given what this one would.

    Attributes:
        stream: The stream after the layer as it is, ``[rows, tokens, o]``.
        values: The same at the tokens, ``[rows, o]``, at least in float32.
    """

    def __init__(
        self,
        response: Response,
        module: nn.Module,
        run: Callable[[], Tensor],
        column: Tensor,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        self._response, self._module, self._run, self._column = response, module, run, column
        self.agree = agree
        norm = None if response.norm is None else response.norm.module
        with recorded(module, norm) as seen:
            self.stream = run()
        self.values = self._at(self.stream)
        if norm is not None:
            self._entering, self._leaving = (self._at(seen[name]).to(self.values.device) for name in ("x", "z"))
        if response.gated:
            step = self.values.norm(dim=1, keepdim=True) / self.values.shape[1] ** 0.5
            moves = self._at(self.moved(step.expand_as(self.values))) - self.values
            self._gate = moves.mean(1, keepdim=True) / step

    def moved(self, change: Tensor) -> Tensor:
        """The stream ``[rows, tokens, o]`` when the output changes by ``[rows, o]`` at the tokens."""
        with changed(self._module, change, self._column):
            return self._run()

    def nearest(self, values: Tensor, *, looks: bool = True) -> Tensor:
        """The values ``[rows, o]`` that can be reached, nearest to given ones up to what bends the stream.

        Args:
            values: The given ones.
            looks: Whether the device may be asked if that is so already; otherwise it is not, to the same end.
        """
        response = self._response
        if response.norm is None:
            return values
        if response.bent:
            return self._at(self.moved(self._approach(values, 2, looks=looks)))
        scale = self._scale(values)
        leaving = self._normalized(self._leaving + (values - self.values) / scale)[0]
        return self.values + scale * (leaving - self._leaving)

    def change_for(self, values: Tensor) -> Tensor:
        """The change of the down-projection's output, ``[rows, o]``, that leads to values ``[rows, o]``."""
        return self._linear_change(values) if not self._response.bent else self._approach(values, _SWEEPS)

    def _approach(self, values: Tensor, sweeps: int, *, looks: bool = True) -> Tensor:
        """The change that leads nearest to values of those tried, where more follows that bends the stream.

        Broyden's method on the aim that :meth:`_linear_change` is given, with a Jacobian that is at first the identity;
        its updates are kept as vectors.
        """
        way = (values - self.values).norm(dim=1)
        aim, change = values, self._linear_change(values)
        best, least = change, torch.full_like(way, torch.inf)
        there = ~leads_away(way, values, self.stream.dtype)
        near = torch.zeros((), dtype=torch.bool, device=way.device)
        steps: list[tuple[Tensor, Tensor]] = []
        missing: Tensor | None = None
        move: Tensor | None = None
        for _ in range(sweeps):
            before = missing
            missing = values - self._at(self.moved(change))
            left = missing.norm(dim=1)
            better = (left < least) & ~near
            best, least = torch.where(better[:, None], change, best), torch.where(better, left, least)
            near = ((least <= _NEAR * way) | there).all()
            if looks and self.agree(bool(near)):
                break
            if before is not None and move is not None:
                turned = _apply(steps, before - missing)
                along = (move * turned).sum(1, keepdim=True)
                safe = along.abs() > 1e-3 * move.norm(dim=1, keepdim=True) * turned.norm(dim=1, keepdim=True)
                steps.append((torch.where(safe, (move - turned) / along, 0.0), move))
            move = _apply(steps, missing)
            length = move.norm(dim=1, keepdim=True)
            move = move * (way[:, None] / length.clamp(min=1e-30)).clamp(max=1.0)  # no farther than the way
            aim = aim + move
            change = self._linear_change(aim)
        return best

    def _linear_change(self, values: Tensor) -> Tensor:
        """The change of the output that leads to values if nothing bends the stream."""
        moves = (values - self.values) / self._scale(values)
        return moves if self._response.norm is None else self._normalized(self._leaving + moves)[1]

    def _normalized(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What leaves the normalization nearest to ``wanted [rows, o]``, and the change of ``y`` that makes it."""
        norm = self._response.norm
        assert norm is not None
        entering = self._entering
        gain, bias = norm.gain.to(entering.device), norm.bias.to(entering.device)
        mean = entering.mean(1, keepdim=True) if norm.centered else entering.new_zeros(len(entering), 1)
        size = (entering - mean).pow(2).mean(1, keepdim=True).sqrt()
        unit = (entering - mean) / size  # x̂
        # A normalization's ε makes its output a little shorter than g ⊙ x̂: the same share for a new one as long.
        gained = gain * unit
        short = (gained * (self._leaving - bias)).sum(1, keepdim=True) / gained.pow(2).sum(1, keepdim=True)
        turned = nearest_normalized((wanted - bias) / short, gain, centered=norm.centered, lowest=norm.lowest)
        return bias + short * gain * turned, size * (turned - unit)

    def _scale(self, like: Tensor) -> Tensor:
        scale = self._gate if self._response.gated else self._response.scale
        return like.new_ones(like.shape[1]) if scale is None else scale.to(like)

    def _at(self, states: Tensor) -> Tensor:
        at = at_columns(states, self._column)
        return at.to(torch.promote_types(at.dtype, torch.float32))


def leads_away(way: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Which ways ``[n]`` to values ``[n, o]`` are longer than the rounding of states in a dtype.

    The others lead nowhere, and no share of them can be told from rounding.
    """
    precision = _ROUNDING[dtype in (torch.bfloat16, torch.float16)] * torch.finfo(dtype).eps
    return way > precision * values.norm(dim=1)


def _apply(steps: list[tuple[Tensor, Tensor]], vectors: Tensor) -> Tensor:
    """Broyden's inverse Jacobian of each row, a product of ``I + u sᵀ``, times a vector ``[rows, o]``."""
    for u, s in steps:
        vectors = vectors + u * (s * vectors).sum(1, keepdim=True)
    return vectors


@contextmanager
def recorded(module: nn.Module, norm: nn.Module | None = None) -> Iterator[dict[str, Tensor]]:
    """Within the block, what a down-projection puts out (``y``) and what enters and leaves a norm (``x``, ``z``)."""
    seen: dict[str, Tensor] = {}
    handles = [module.register_forward_hook(lambda _, __, output: seen.update(y=output.detach()))]
    if norm is not None:
        handles.append(
            norm.register_forward_hook(lambda _, args, output: seen.update(x=args[0].detach(), z=output.detach()))
        )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def changed(module: nn.Module, change: Tensor, column: Tensor | None = None) -> Iterator[None]:
    """Within the block, a change is added to what a module puts out.

    Args:
        module: The module.
        change: ``[rows, o]`` with ``column [rows]``, else ``[rows, tokens, o]``.
        column: Column of each row's token that changes; every token where it is ``None``.
    """

    def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        states = output.reshape(len(change), -1, output.shape[-1]).clone()
        if column is None:
            states += change.to(states)
        else:
            states[torch.arange(len(states), device=states.device), column.to(states.device)] += change.to(states)
        return states.reshape(output.shape)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
