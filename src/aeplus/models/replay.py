"""Partial forward passes: repeat some layers of a decoder from a hidden state, whatever its architecture.

One ordinary forward pass records what each decoder layer is called with (masks, positions, cache). Afterwards
any consecutive layers can be repeated from a changed hidden state with those arguments. Everything that does not
change (the layers below the first edited one, the tokens before the subject's last) is computed once.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.cache_utils import DynamicCache

from aeplus.errors import InputError
from aeplus.models.attention import grouped_attention, without_cudnn_attention
from aeplus.models.decoder import Decoder
from aeplus.models.hooks import on_call
from aeplus.models.placing import device_of
from aeplus.models.probing import measure_response
from aeplus.models.response import Response, Steering
from aeplus.models.sites import EditSite
from aeplus.models.tokens import pad

_PADDING = 48  # tokens: where they are counted, positions are so wrong that rounding cannot be mistaken for it
_ROUNDING = 1e-2, 0.1  # share of a deep model's states, by float32 and by less: other kernels, other rounding


class PrefixCache(DynamicCache):
    """Keys and values of a prefix, which later passes attend to but do not extend.

    While :attr:`frozen` is false it stores keys and values, like any cache. Then ``update`` joins the stored
    prefix with the new tokens without storing them, so that the same suffix can be run any number of times.
    """

    def __init__(self) -> None:
        # Without a config every layer keeps its whole prefix; sliding windows are left to the attention mask.
        super().__init__()
        self.frozen = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Joins the prefix of ``layer_idx`` with new keys and values ``[rows, heads, tokens, dimension]``."""
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx >= len(self.layers):
            return key_states, value_states
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], -2), torch.cat([layer.values, value_states], -2)

    def forget(self, layers: range) -> None:
        """Forgets the keys and values of some layers, which are not asked again."""
        for layer in self.layers[layers.start : layers.stop]:
            layer.keys = layer.values = None
            layer.is_initialized = False

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "PrefixCache":
        """The same prefix with every tensor changed: some of the rows selected, or another dtype."""
        changed = PrefixCache()
        for index, layer in enumerate(self.layers):
            if layer.is_initialized:
                changed.update(change(layer.keys), change(layer.values), index)
        changed.frozen = self.frozen
        return changed


class Replay:
    """A recorded forward pass of a batch of token rows, of which any consecutive layers can be repeated.

    Args:
        decoder: The model.
        rows: Token ids of each row.
        first: First layer that can be replayed; the number of layers replays none.
        suffix: How many tokens at the end of each row can be replayed. Those before them are computed once and
            attended to from a cache. ``None`` for all tokens.
        last: Last layer that can be replayed; the recorded pass ends behind it. By default the model's last.

    Attributes:
        hidden: Hidden states ``[rows, tokens, o]`` that enter layer ``first``. With ``suffix`` every row's
            suffix starts at token 0 and shorter ones are padded on the right; without, rows are padded on the left.
        output: Hidden states ``[rows, tokens, o]`` after the final norm; none where the pass ended before.
    """

    def __init__(
        self,
        decoder: Decoder,
        rows: Sequence[Sequence[int]],
        first: int,
        suffix: Sequence[int] | None = None,
        last: int | None = None,
    ) -> None:
        self.decoder = decoder
        self.first = first
        self._last = len(decoder.layers) - 1 if last is None else last
        self._layers: Mapping[int, nn.Module] = dict(enumerate(decoder.layers))
        self._devices = [device_of(layer, decoder.device) for layer in decoder.layers]
        self._dtype: torch.dtype | None = None
        self._rows = len(rows)
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._record([list(row) for row in rows], suffix)

    @torch.no_grad()
    def _record(self, rows: list[list[int]], suffix: Sequence[int] | None) -> None:
        lengths = [len(row) for row in rows]
        starts = lengths if suffix is None else [t - n for t, n in zip(lengths, suffix, strict=True)]
        left, mask = pad([row[:start] for row, start in zip(rows, starts, strict=True)], "left")
        right, _ = pad([row[start:] for row, start in zip(rows, starts, strict=True)], "right")
        # Nothing attends to padding on the right, since attention is causal; it needs no mask.
        ids, mask = torch.cat([left, right], 1), torch.cat([mask, torch.ones_like(right)], 1)

        cached = 0 if suffix is None else left.shape[1]
        self._cache = PrefixCache() if cached else None
        behind = list(self.decoder.layers[self._last + 1 :])[:1]
        if self._cache is not None:
            with on_call(behind, lambda *_: None, stop=True):
                self.decoder.forward(left, mask[:, :cached], positions=True, cache=self._cache)
            self._cache.frozen = True
        entered: list[Tensor] = []

        def receive(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
            layer = self.first + index
            # A layer on another device is called with what lies on the one before it.
            device = self._devices[layer] if layer < len(self._devices) else hidden.device
            if index == 0:
                entered.append(hidden.detach().to(device))
            self._calls[layer] = pytree.tree_map(partial(_placed, device=device), (tuple(rest), kwargs))

        # What follows is listed too: where no layer is left to replay, its input is what enters.
        self.output = torch.zeros(len(rows), 0, 0, device=self.decoder.device)
        following = behind or self.decoder.after[:1]
        modules = [*self.decoder.layers[self.first : self._last + 1], *following]
        with on_call(modules, receive, stop=bool(behind)):
            self.output = self.decoder.forward(ids[:, cached:], mask, positions=True, cache=self._cache)
        self.hidden = entered[0] if entered else self.output
        if self._cache is not None and not getattr(self.decoder.config, "num_kv_shared_layers", 0):
            self._cache.forget(range(1, self.first))  # the first layer's tell how long the prefix is

    @property
    def dtype(self) -> torch.dtype:
        """In which its layers run."""
        return self._dtype or self.hidden.dtype

    def run(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Takes hidden states ``[rows, tokens, o]`` that enter layer ``start`` to the input of layer ``stop``.

        On the way they are where each layer is; those returned are where the given ones are.
        """
        given, hidden = hidden, hidden.to(self._dtype or hidden.dtype)
        short = self._cache is not None or hidden.requires_grad
        with without_cudnn_attention(), grouped_attention() if short else nullcontext():
            for index in range(start, stop):
                if index not in self._calls:
                    continue  # a layer for images, which text does not pass
                args, kwargs = self._calls[index]
                output = self._layers[index](hidden.to(self._devices[index]), *args, **kwargs)
                hidden = output[0] if isinstance(output, tuple | list) else output
        return hidden.to(given)

    def steer(self, hidden: Tensor, site: EditSite, column: Tensor) -> Steering:
        """One token of each row at an edit site, to be moved by what its down-projection puts out.

        Args:
            hidden: Hidden states ``[rows, tokens, o]`` that enter the site's layer.
            site: The layer.
            column: Column of each row's token, ``[rows]``.

        Raises:
            InputError: As :func:`response_of` does.
        """
        response, layer = response_of(self.decoder, site), site.layer
        run = partial(self.run, hidden, layer, layer + 1)
        return Steering(response, site.module, run, column, self.decoder.ranks.together)

    def lower_precision(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        """From now on runs copies of the layers in another dtype; :meth:`run` takes and returns the original one.

        Args:
            layers: The copies, from layer ``first`` on.
            dtype: Their dtype.
        """
        self._layers, self._dtype = dict(enumerate(layers, self.first)), dtype
        self._change(lambda t: t.to(dtype) if t.is_floating_point() else t)

    @torch.no_grad()
    def check(self) -> None:
        """Checks that replaying the unchanged hidden state gives the output of the model's own forward pass.

        Raises:
            InputError: If it does not.
        """
        again = self.decoder.final_norm(self.run(self.hidden, self.first, len(self.decoder.layers))[:1]).float()
        expected = self.output[:1].float()
        finite = bool(torch.isfinite(expected).all())  # callers report other values
        if finite and not bool((again - expected).norm() <= _rounding(self.output) * expected.norm()):
            msg = (
                f"expected the layers of {type(self.decoder.model).__name__} to repeat its forward pass, got other "
                "hidden states; report this architecture, as it does something between its layers that is not "
                "supported."
            )
            raise InputError(msg)

    def select(self, rows: Tensor) -> "Replay":
        """The same recording for some of the rows, ``rows [r]`` their indices."""
        chosen = copy.copy(self)
        chosen._rows = len(rows)
        chosen.hidden, chosen.output = self.hidden[rows], self.output[rows.to(self.output.device)]
        groups = row_groups(self.decoder, cached=self._cache is not None)
        cache = None if self._cache is None else self._cache.mapped(partial(_rows_of, rows=rows, of=self._rows))
        chosen._cache, chosen._calls = cache, {}
        for layer, call in self._calls.items():
            leaves, form = pytree.tree_flatten(call)
            known = groups.get(layer, [])
            kept = [
                cache
                if isinstance(leaf, PrefixCache)
                else _rows_of(leaf, rows, self._rows, each)
                if isinstance(leaf, Tensor)
                else leaf
                for leaf, each in zip(leaves, known if len(known) == len(leaves) else [None] * len(leaves), strict=True)
            ]
            chosen._calls[layer] = pytree.tree_unflatten(kept, form)
        return chosen

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Changes every tensor that the layers are called with, those of the cache too."""
        cache = None if self._cache is None else self._cache.mapped(change)

        def changed(value: Any) -> Any:
            if isinstance(value, PrefixCache):
                return cache
            return change(value) if isinstance(value, Tensor) else value

        self._calls = {k: pytree.tree_map(changed, call) for k, call in self._calls.items()}
        self._cache = cache


def _rows_of(value: Tensor, rows: Tensor, of: int, each: int | None = 1) -> Tensor:
    """Some rows of a tensor that holds ``each`` entries for each of ``of`` rows; another one is for all, and stays.

    Where that is not known, one that has as many entries as there are rows has one for each, unless it is a single one.
    """
    if each is None:
        each = 1 if of > 1 else 0
    if not each or value.ndim < 2 or value.shape[0] != each * of:
        return value
    index = rows.to(value.device)
    return value[index if each == 1 else (index[:, None] * each + torch.arange(each, device=index.device)).flatten()]


def row_groups(decoder: Decoder, *, cached: bool) -> dict[int, list[int | None]]:
    """How many entries each row has in every tensor that a layer is called with, tried once with two and three rows.

    One in most (masks, positions), as many as heads in BLOOM's biases, and none in what all rows share, such as MPT's,
    whose entries are as many as heads whatever the rows are.

    Args:
        decoder: The model.
        cached: Whether the layers are called with the keys and values of a prefix.

    Returns:
        By layer, for each leaf of its call; ``None`` where nothing is told, as by a mask that is not there.
    """
    if cached not in decoder.tried.row_groups:
        row = decoder.probe[0].tolist()
        half = len(row) // 2
        rows = [row, row[half - 1 :], row]  # of unequal lengths: masks are there only where rows are padded
        calls = [Replay(decoder, rows[:n], 0, [half] * n if cached else None)._calls for n in (2, 3)]
        decoder.tried.row_groups[cached] = {
            layer: [
                _entries(two, three) for two, three in zip(*(pytree.tree_leaves(c[layer]) for c in calls), strict=True)
            ]
            for layer in calls[0]
        }
    return decoder.tried.row_groups[cached]


def _entries(two: Any, three: Any) -> int | None:
    if not (isinstance(two, Tensor) and isinstance(three, Tensor) and two.ndim == three.ndim > 1):
        return None
    each = three.shape[0] - two.shape[0]
    return each if (two.shape[0], three.shape[0]) == (2 * each, 3 * each) else 0


def _placed(value: Any, device: torch.device) -> Any:
    """A tensor on a device, and anything else as it is; a cache has each layer's tensors where the layer is."""
    return value.to(device) if isinstance(value, Tensor) else value


def freezes_prefix(decoder: Decoder) -> bool:
    """Whether later tokens can be run from keys and values of the tokens before them, as often as wanted; tried once.

    Not so in models with recurrent states (Mamba, linear attention), which every run would move on, nor where positions
    count padding.
    """
    if decoder.tried.freezes_prefix is None:
        decoder.tried.freezes_prefix = _try_prefix(decoder)
    return decoder.tried.freezes_prefix


@torch.no_grad()
def _try_prefix(decoder: Decoder) -> bool:
    if any(getattr(module, "_is_stateful", False) for module in decoder.model.modules()):
        return False
    row = decoder.probe[0].tolist()
    half, room = len(row) // 2, (decoder.context_length or _PADDING + len(row)) - len(row)
    longer = [row[i % half] for i in range(min(_PADDING, room))] + row
    rows = [longer, row[half - 1 :]]  # of unequal lengths, so that the prefixes are padded
    whole = torch.cat([decoder.forward(torch.tensor([r]))[:, -half:] for r in rows]).float()
    if not bool(torch.isfinite(whole).all()):
        return True  # reported where hidden states are used
    try:
        replay = Replay(decoder, rows, 0, [half, half])
        # Twice: a state that moves on shows the second time.
        again = [decoder.final_norm(replay.run(replay.hidden, 0, len(decoder.layers))) for _ in range(2)]
    except (IndexError, KeyError, AttributeError, TypeError, ValueError, RuntimeError):  # whatever a state lacks
        return False
    limit = _rounding(replay.hidden) * whole.norm()
    return all(bool((part.float() - whole).norm() <= limit) for part in [replay.output, *again])


def _rounding(states: Tensor) -> float:
    return _ROUNDING[states.dtype in (torch.bfloat16, torch.float16)]


@torch.no_grad()
def response_of(decoder: Decoder, site: EditSite) -> Response:
    """How the stream after a layer depends on what its down-projection puts out; measured once.

    Args:
        decoder: The model.
        site: The layer.

    Raises:
        InputError: If the stream depends on it in a way that cannot be solved for.
    """
    if site.layer not in decoder.responses:
        replay = Replay(decoder, decoder.probe.tolist(), site.layer)
        run = partial(replay.run, replay.hidden, site.layer, site.layer + 1)
        name = f"{site.name} of {type(decoder.model).__name__}"
        decoder.responses[site.layer] = measure_response(decoder.layers[site.layer], site.module, run, name)
    return decoder.responses[site.layer]
