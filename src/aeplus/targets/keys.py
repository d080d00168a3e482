"""Keys of a batch of edits, layer by layer, while the layers change.

The rows end at the subject's last token and are run once up to the first edited layer. From there each layer is
run again as it is edited, so a key always depends on the current weights below, prefix tokens included.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from aeplus.models.costs import tokens_ahead
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.hooks import at_columns, on_input
from aeplus.models.kernels import Fused
from aeplus.models.replay import Replay, freezes_prefix, response_of
from aeplus.models.response import leads_away
from aeplus.models.sites import EditSite
from aeplus.models.variants import Variants
from aeplus.targets.rows import BatchRows

_TIMES = 4  # as many tokens at once as in a step of the targets: nothing is kept for a way back
_SWEEPS = 16
_NEAR = 0.02  # share of the way that may be left


class KeyReader:
    """Runs a batch's rows up through the edited layers, as many together as memory is for.

    Args:
        decoder: The model, with its weights as before the batch.
        rows: The batch's token rows.
        sites: The edited layers, ascending.
        chunk_tokens: ``targets.chunk_tokens``: four times as many tokens are run at once, unless an edit has more;
            on a GPU fewer, where they would take more than 0.3 of the free memory.

    Attributes:
        device: Where values, wanted ones and changes are: the device of the first edited layer.
    """

    def __init__(self, decoder: Decoder, rows: BatchRows, sites: list[EditSite], chunk_tokens: int = 4096) -> None:
        self.decoder = decoder
        self._fused = Fused(decoder.layers[: sites[-1].layer + 1], tried=decoder.tried.fused)
        at_once = tokens_ahead(decoder, _TIMES * chunk_tokens, _TIMES * chunk_tokens)
        with self._fused.applied():
            self._parts = [_Rows(decoder, part, sites) for part in _in_parts(rows, at_once)]
        self.device = self._parts[0].device

    def restart(self) -> None:
        """Goes back to the first edited layer."""
        for part in self._parts:
            part.restart()

    def read(self, site: EditSite, at: EditSite, *, every: bool = False) -> tuple[Tensor, Tensor]:
        """Keys at a site and the current values at another.

        A key is the mean over two kinds of template, the bare prompt and the sampled contexts (MEMIT).

        Args:
            site: At or above the site read before; the layers between run with their current weights.
            at: At or above ``site``.
            every: Values behind every context, averaged as keys are; by default after the bare prompt.

        Returns:
            Keys ``[d, n]``, where the site is, and values ``[o, n]``, on :attr:`device`.
        """
        with self._fused.applied():
            keys, values = zip(*(part.read(site, at, every=every) for part in self._parts), strict=True)
        return _joined(keys), _joined(values)

    def beside(self, count: int) -> "KeyReader":
        """The same rows several times, to be read with :meth:`read_each`, one time for each variant of the weights."""
        wide = copy.copy(self)
        wide._parts = [part.beside(count) for part in self._parts]
        return wide

    def read_each(
        self, site: EditSite, at: EditSite, variants: Variants, *, every: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """What :meth:`read` gives for each variant of the sites below.

        Args:
            site: As for :meth:`read`.
            at: As for :meth:`read`.
            variants: As many as the reader holds the rows.
            every: As for :meth:`read`.
        """
        count = len(variants)
        with variants.applied():
            read = self.read(site, at, every=every)
        keys, values = ([part.chunk(count, 1) for part in self._split(columns, count)] for columns in read)
        return [
            (_joined([k[i] for k in keys]).contiguous(), _joined([v[i] for v in values]).contiguous())
            for i in range(count)
        ]

    @property
    def tokens(self) -> int:
        """Tokens of all rows, with padding."""
        return sum(part.tokens for part in self._parts)

    def follow(self, delta: Tensor) -> list[Tensor]:
        """What becomes of the hidden states once those that leave the first site are moved.

        The rows run on from there, with the weights as they are, each behind its own context.

        Args:
            delta: What is added at the subject's last token of the first site's output, ``[o, n]``.

        Returns:
            For each site the hidden states at its output, averaged over the contexts as keys are, ``[o, n]``.
        """
        with self._fused.applied():
            found = [part.follow(own) for part, own in zip(self._parts, self._split(delta), strict=True)]
        return [_joined(states) for states in zip(*found, strict=True)]

    def curved(self, sites: Sequence[EditSite]) -> bool:
        """Whether some of the sites' outputs reach the stream in another way than as they are or scaled."""
        return any(response_of(self.decoder, site).curved for site in sites)

    def left(self, at: EditSite, wanted: Tensor, values: Tensor) -> Tensor:
        """The share of the way from values to wanted ones ``[o, n]`` that is left at the site read last, ``[n]``.

        None is left of a way that is no longer than rounding.
        """
        columns = zip(self._parts, self._split(wanted), self._split(values), strict=True)
        return torch.cat([part.left(at, *own) for part, *own in columns])

    @torch.no_grad()
    def change(self, sites: Sequence[EditSite], wanted: Tensor, values: Tensor, *, together: bool = True) -> Tensor:
        """What the site read last has to put out in addition, so that the stream goes its part of the way.

        Where outputs are added to the stream, as they are or scaled, a site's part is its share of what is lacking
        (MEMIT). Behind a normalization a layer reaches an ellipsoid only, and what is lacking to the last one of
        several is arranged by those below it: the sites are planned together, from the present weights.

        Args:
            sites: The sites that share the way, ascending; the first is the one that was read last.
            wanted: Where the stream after the last of them should get to, ``[o, n]``.
            values: Where it is, ``[o, n]``, from :meth:`read`.
            together: Whether the sites behind normalizations share the way; otherwise the last goes all of it.

        Returns:
            The change of the first site's output, ``[o, n]``.

        Raises:
            InputError: If the stream depends on an output in a way that cannot be solved for.
        """
        residual = (wanted - values) / len(sites)
        if not self.curved(sites):
            scale = response_of(self.decoder, sites[0]).scale
            return residual if scale is None else residual / scale.to(residual)[:, None]
        if not together and len(sites) > 1:
            return torch.zeros_like(residual)
        columns = zip(self._parts, self._split(wanted), strict=True)
        return _joined([part.planned(sites, own) for part, own in columns])

    def _split(self, columns: Tensor, count: int = 1) -> tuple[Tensor, ...]:
        """The columns of each part's edits, so many for each edit."""
        return columns.split([count * part.edits for part in self._parts], 1)


def _joined(columns: Sequence[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.cat(list(columns), 1)


def _in_parts(rows: BatchRows, tokens: int) -> list[BatchRows]:
    """Edits in order, as many together as have at most so many tokens with padding, or one that has more."""
    heads, longest = rows.up_to_subject(), 0
    parts: list[list[int]] = [[]]
    for edit in range(rows.edits):
        own = max(len(ids) for ids in heads[edit * rows.contexts :][: rows.contexts])
        longest = max(longest, own)
        if parts[-1] and (len(parts[-1]) + 1) * rows.contexts * longest > tokens:
            parts.append([])
            longest = own
        parts[-1].append(edit)
    return [rows] if len(parts) == 1 else [rows.some(part) for part in parts]


class _Rows:
    """The rows of some edits, run together; methods are as in :class:`KeyReader`."""

    def __init__(self, decoder: Decoder, rows: BatchRows, sites: list[EditSite]) -> None:
        self.decoder, self.sites, self.contexts = decoder, sites, rows.contexts
        ids = rows.up_to_subject()
        # Recurrent states would run over padding on the left.
        lengths = None if freezes_prefix(decoder) else [len(row) for row in ids]
        self.edits = rows.edits
        self._all = Replay(decoder, ids, sites[0].layer, lengths, sites[-1].layer)
        width = self._all.hidden.shape[1]
        last = [width - 1] * len(ids) if lengths is None else [length - 1 for length in lengths]
        self.device = self._all.hidden.device
        self._columns = torch.tensor(last, device=self.device)
        self._bare_rows = torch.arange(0, len(rows.prompts), rows.contexts, device=self.device)
        self._bare = self._all.select(self._bare_rows)
        self._bare_columns = self._columns[self._bare_rows]
        self.restart()

    def restart(self) -> None:
        self._hidden = self._all.hidden
        self._layer = self.sites[0].layer

    @torch.no_grad()
    def read(self, site: EditSite, at: EditSite, *, every: bool = False) -> tuple[Tensor, Tensor]:
        self._hidden = self._all.run(self._hidden, self._layer, site.layer)
        self._layer = site.layer
        inputs: list[Tensor] = []
        with on_input([site.module], lambda _, x: inputs.append(self._last(x, self._columns)), stop=True):
            self._all.run(self._hidden, site.layer, site.layer + 1)
        keys = self._mean(inputs[0])
        if every:
            return keys, self._mean(self._last(self._all.run(self._hidden, site.layer, at.layer + 1), self._columns))
        values = self._bare.run(self._hidden[self._bare_rows], site.layer, at.layer + 1)
        return keys, self._last(values, self._bare_columns).T.contiguous()

    def beside(self, count: int) -> "_Rows":
        wide = copy.copy(self)
        rows = torch.arange(len(self._columns), device=self._columns.device).repeat(count)
        wide._all, wide._columns = self._all.select(rows), self._columns[rows]
        wide._bare_rows = torch.arange(0, len(rows), self.contexts, device=rows.device)
        wide._bare, wide._bare_columns = wide._all.select(wide._bare_rows), wide._columns[wide._bare_rows]
        wide.restart()
        return wide

    @property
    def tokens(self) -> int:
        return self._all.hidden.shape[0] * self._all.hidden.shape[1]

    @torch.no_grad()
    def follow(self, delta: Tensor) -> list[Tensor]:
        layer = self.sites[0].layer + 1
        hidden = self._all.run(self._all.hidden, self.sites[0].layer, layer)
        places = torch.arange(len(hidden), device=hidden.device), self._columns
        moved = hidden[places] + delta.T.repeat_interleave(self.contexts, 0).to(hidden.dtype)
        hidden = hidden.index_put(places, moved)
        found = []
        for site in self.sites:
            hidden, layer = self._all.run(hidden, layer, site.layer + 1), site.layer + 1
            found.append(self._mean(self._last(hidden, self._columns)))
        return found

    def _mean(self, rows: Tensor) -> Tensor:
        """The mean of each edit's rows ``[n * c, …]`` over two kinds of template, in columns, ``[…, n]``."""
        parts = rows.unflatten(0, (-1, self.contexts))
        mean = parts[:, 0] if self.contexts == 1 else (parts[:, 0] + parts[:, 1:].mean(1)) / 2
        return mean.T.contiguous()

    @staticmethod
    def _last(states: Tensor, column: Tensor) -> Tensor:
        """The states ``[rows, d]`` at each row's column."""
        return at_least_float32(at_columns(states, column))

    @torch.no_grad()
    def left(self, at: EditSite, wanted: Tensor, values: Tensor) -> Tensor:
        now = self._bare.run(self._hidden[self._bare_rows], at.layer, at.layer + 1)
        reached = self._last(now, self._bare_columns).T
        way = (wanted - values).norm(dim=0)
        share = (wanted - reached).norm(dim=0) / way.clamp(min=torch.finfo(values.dtype).tiny)
        return torch.where(leads_away(way, wanted.T, now.dtype), share, 0.0)

    @torch.no_grad()
    def planned(self, sites: Sequence[EditSite], wanted: Tensor) -> Tensor:
        """What :meth:`KeyReader.change` gives where layers normalize what they put out."""
        hidden = self._hidden[self._bare_rows]
        return plan_change(self._bare, hidden, self._bare_columns, sites, wanted.T.contiguous()).T.contiguous()


def plan_change(replay: Replay, hidden: Tensor, column: Tensor, sites: Sequence[EditSite], wanted: Tensor) -> Tensor:
    """Plans the changes of several sites' outputs that lead the stream to where it should get, from below to above.

    Each sweep gives every site its share of what is lacking, as far as it can reach; what the last one cannot reach
    is added to the aim of the next sweep. An edit whose target is not reached like that is left to the last site. One
    that is there already, but for rounding, asks for no sweep.

    Args:
        replay: Recorded rows.
        hidden: Hidden states ``[n, tokens, o]`` that enter the first site's layer.
        column: Column of each row's token, ``[n]``.
        sites: The sites, ascending.
        wanted: Where the stream after the last site should get to, ``[n, o]``.

    Returns:
        The change of the first site's output, ``[n, o]``.
    """
    last = replay.steer(replay.run(hidden, sites[0].layer, sites[-1].layer), sites[-1], column)
    if len(sites) == 1:
        return last.change_for(wanted)
    way = (wanted - last.values).norm(dim=1)
    alone = (wanted - last.nearest(wanted)).norm(dim=1)
    enough = torch.maximum(alone, _NEAR * way)
    there = ~leads_away(way, wanted, hidden.dtype)
    best, least = torch.zeros_like(wanted), torch.full_like(way, torch.inf)
    aim, missing = wanted, torch.zeros_like(wanted)
    gain = torch.full_like(way, len(sites) / (len(sites) - 1))
    for _ in range(_SWEEPS):
        tried = aim + gain[:, None] * missing
        change, reached = _sweep(replay, hidden, column, sites, tried)
        lacking = wanted - reached
        left = lacking.norm(dim=1)
        better = left < least
        gain = gain * torch.where(better, 1.0, -0.5)  # too far, or the wrong way
        least = torch.where(better, left, least)
        best, aim, missing = (
            torch.where(better[:, None], new, old) for new, old in ((change, best), (tried, aim), (lacking, missing))
        )
        if replay.decoder.ranks.together(bool(((least < 0.1 * _NEAR * way) | there).all())):
            break
    return torch.where((least <= enough)[:, None], best, 0.0)


def _sweep(
    replay: Replay, hidden: Tensor, column: Tensor, sites: Sequence[EditSite], aim: Tensor
) -> tuple[Tensor, Tensor]:
    """The change of the first site's output, ``[n, o]``, and where the stream after the last one gets, ``[n, o]``."""
    rows = torch.arange(len(column), device=column.device)
    changes = []
    for index, site in enumerate(sites):
        steering = replay.steer(hidden, site, column)
        final = replay.run(steering.stream, site.layer + 1, sites[-1].layer + 1)
        value = at_least_float32(final[rows, column])
        changes.append(steering.change_for(steering.values + (aim - value) / (len(sites) - index)))
        moved = steering.moved(changes[-1])
        above = sites[min(index + 1, len(sites) - 1)].layer
        hidden = replay.run(moved, site.layer + 1, above)
    return changes[0], at_least_float32(moved[rows, column])
