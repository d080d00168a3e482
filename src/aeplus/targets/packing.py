"""The token rows of a batch of edits packed into parts that run together, for targets and for gradient edits.

Notation: ``n`` edits, ``o`` hidden size, ``r`` rows of a part, ``p`` predicted positions, ``q`` rows of the KL term.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from aeplus.models.costs import MEMORY_SHARE, ModelShape
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.placing import devices_of, free_bytes
from aeplus.models.replay import Replay, freezes_prefix
from aeplus.targets.rows import BatchRows

# Cost of one more part on a CPU, in tokens (two cores, 135M parameters: its weights are read once more).
_PART_COST = 60
MOST_MEMORY = 3 * 2**30  # bytes that a step may take on a GPU
_PADDING_COST = 20  # tokens of padding that cost as much as one more part
_BUNDLE_TOKENS = 1024  # tokens whose activations are held at once
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One text without its answer's last token, from which nothing is predicted.

    Attributes:
        edit: Number of its edit.
        ids: Its tokens.
        start: Index of the first token that is replayed, column 0.
        mark: Column of the subject's last token.
        targets: What it predicts as (column, token); empty for a row of the KL term.
        terms: Number of terms in its edit's loss.
        bare: Whether it is an edit's prompt without context.
    """

    edit: int
    ids: tuple[int, ...]
    start: int
    mark: int
    targets: tuple[tuple[int, int], ...] = ()
    terms: int = 1
    bare: bool = False

    @property
    def length(self) -> int:
        """Number of replayed tokens."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class Part:
    """Rows of similar length that run together.

    Attributes:
        replay: The recorded rows.
        edit: Number of each row's edit, ``[r]``.
        mark: Column of each row's subject's last token, ``[r]``.
        row: Row of each predicted position, ``[p]``.
        column: Column of each predicted position, ``[p]``.
        target: Target token of each predicted position, ``[p]``.
        terms: Number of terms in the loss of each predicted position's edit, ``[p]``.
    """

    replay: Replay
    edit: Tensor
    mark: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    terms: Tensor


@dataclass(frozen=True)
class TargetPart(Part):
    """Rows replayed from the subject's last token on, or whole, some of them for the KL term.

    Attributes:
        share: Share of each predicted position in its edit's loss, ``[p]``.
        essence: The rows of the KL term, ``[q]``.
        reference: Log-probabilities of the unedited model after them, ``[q, vocabulary]``.
    """

    share: Tensor
    essence: Tensor
    reference: Tensor

    def keep(self, active: Tensor) -> "TargetPart | None":
        """The part without the rows of edits that are no longer ``active [n]``."""
        stays = active[self.edit]
        if bool(stays.all()):
            return self
        rows = stays.nonzero().squeeze(1)
        if not len(rows):
            return None
        renumbered = stays.cumsum(0) - 1
        kept, essence = stays[self.row], stays[self.essence]
        return replace(
            self,
            replay=self.replay.select(rows),
            edit=self.edit[rows],
            mark=self.mark[rows],
            row=renumbered[self.row[kept]],
            column=self.column[kept],
            target=self.target[kept],
            terms=self.terms[kept],
            share=self.share[kept],
            essence=renumbered[self.essence[essence]],
            reference=self.reference[essence.to(self.reference.device)],
        )


@dataclass(frozen=True)
class Bundle:
    """All rows of some edits: parts with one pass through the head and one backward pass.

    Attributes:
        parts: The rows.
        edit: Number of the edit of each predicted position, part by part, ``[p]``.
        target: Their target tokens, ``[p]``.
        terms: Number of terms in their edits' losses, ``[p]``.
    """

    parts: list[Part]
    edit: Tensor
    target: Tensor
    terms: Tensor


def token_rows(rows: BatchRows, contexts: int, first: int = 0, *, from_subject: bool = False) -> list[list[Row]]:
    """Each edit's rows after the empty context and its first others.

    Args:
        rows: The batch's token rows.
        contexts: How many contexts beside the empty one.
        first: Number of the first edit.
        from_subject: Replay from the subject's last token on; by default every token is replayed.
    """
    kept = min(contexts + 1, rows.contexts)
    edits = []
    for i in range(rows.edits):
        edit = []
        for context, row in enumerate(rows.prompts[i * rows.contexts :][:kept]):
            start = row.mark if from_subject else 0
            targets = tuple((row.answer - 1 + k - start, token) for k, token in enumerate(row.answer_ids))
            terms = len(targets) * kept
            edit.append(Row(first + i, row.ids[:-1], start, row.mark - start, targets, terms, context == 0))
        edits.append(edit)
    return edits


def joint_groups(rows: BatchRows, joint: bool) -> list[int]:
    """For each edit the number of its target, from 0: edits that have one key share one (MEMIT-Merge), if ``joint``."""
    first = rows.groups if joint else list(range(rows.edits))
    numbers = {edit: number for number, edit in enumerate(dict.fromkeys(first))}
    return [numbers[edit] for edit in first]


def _joined(rows: BatchRows, groups: Sequence[int], from_subject: bool) -> list[Row]:
    """The rows of every target.

    The loss of a joint one is the mean over its facts. One that a later fact supersedes does not count, and what the
    subject is, the KL term, is asked once.
    """
    members: dict[int, list[int]] = {}
    for edit, group in enumerate(groups):
        members.setdefault(group, []).append(edit)
    counted = {g: [i for i in edits if i not in rows.superseded] or edits for g, edits in members.items()}
    packed = []
    for edit, own in enumerate(token_rows(rows, rows.contexts, from_subject=from_subject)):
        if edit in (facts := counted[groups[edit]]):
            bare = edit == facts[0]
            packed += [
                replace(row, edit=groups[edit], terms=row.terms * len(facts), bare=row.bare and bare) for row in own
            ]
    for group, facts in counted.items():
        row = rows.essence[facts[0]]
        start = row.mark if from_subject else 0
        packed.append(Row(group, row.ids[: row.mark + 1], start, row.mark - start))
    return packed


def target_parts(
    decoder: Decoder, rows: BatchRows, first: int, chunk_tokens: int, groups: Sequence[int] | None = None
) -> tuple[list[TargetPart], Tensor]:
    """Packs the rows that targets are optimized on.

    Args:
        decoder: The unedited model.
        rows: The batch's token rows.
        first: First layer to replay.
        chunk_tokens: Maximum number of tokens of a part, unless one row is longer.
        groups: The number of each edit's target, from :func:`joint_groups`; by default one target for each edit.

    Returns:
        The parts, whose edits are numbered by their targets, and the hidden states that enter layer ``first`` at the
        bare prompts' subjects, one for each target, ``[g, o]``.
    """
    groups = groups if groups is not None else list(range(rows.edits))
    packed = _joined(rows, groups, freezes_prefix(decoder))
    parts: list[TargetPart] = []
    initial: dict[int, Tensor] = {}
    cost = _PART_COST if decoder.device.type == "cpu" else ModelShape.of(decoder).part_tokens
    for chosen in _cheapest_split(packed, chunk_tokens, cost):
        part = _target_part(decoder, chosen, first)
        hidden = part.replay.hidden
        initial.update({row.edit: at_least_float32(hidden[r, row.mark]) for r, row in enumerate(chosen) if row.bare})
        parts.append(part)
    return parts, torch.stack([initial[group] for group in range(max(groups) + 1)])


def tokens_at_once(
    decoder: Decoder,
    rows: BatchRows,
    first: int,
    chunk_tokens: int,
    free: Callable[[torch.device], int] | None = None,
    *,
    fused: bool = False,
) -> int:
    """How many tokens a step may run at once, there and back.

    Args:
        decoder: The model.
        rows: The batch's token rows.
        first: First layer to replay.
        chunk_tokens: The most that was asked for.
        free: Bytes that a device has left, to be asked instead of the device; a CPU is not asked by default.
        fused: Whether norms and gates are one kernel each.
    """
    if first == len(decoder.layers):
        return chunk_tokens  # nothing is kept
    if free is None:
        if decoder.device.type != "cuda":
            return chunk_tokens
        free = free_bytes
    tokens = sum(len(row.ids) - 1 - row.mark for row in rows.prompts)
    asked = sum(len(row.answer_ids) for row in rows.prompts)
    cached = len(rows.prompts) * max(row.mark for row in rows.prompts)  # padded to the longest prefix
    devices = devices_of(decoder.layers[first:], decoder.device)
    budget = min(MOST_MEMORY, MEMORY_SHARE * min(map(free, devices)))
    layers = len(decoder.layers) - first
    fit = ModelShape.of(decoder).tokens_within(budget, layers, asked / tokens, cached / tokens, fused=fused)
    return min(chunk_tokens, fit)


def in_shares(
    decoder: Decoder,
    rows: BatchRows,
    first: int,
    members: Sequence[Sequence[int]],
    free: Callable[[torch.device], int] | None = None,
) -> list[list[int]]:
    """Edits as many together as have room for what all parts hold beside a step: prefixes, reference predictions.

    Args:
        decoder: The model.
        rows: The batch's token rows.
        first: First layer to replay.
        members: The edits of each target, which stay together.
        free: As for :func:`tokens_at_once`.

    Returns:
        The edits of each share, ascending.
    """
    shape, budget = ModelShape.of(decoder), float(MOST_MEMORY)
    if free is not None or decoder.device.type == "cuda":
        devices = devices_of(decoder.layers[first:], decoder.device)
        budget = decoder.ranks.together(min(budget, MEMORY_SHARE * min(map(free or free_bytes, devices))))
    prefix = max(row.mark for row in rows.prompts)  # rows are padded to the longest
    each = shape.width * shape.kv * (len(decoder.layers) - first) * prefix

    def held(edits: Sequence[int]) -> int:
        return (len(edits) * rows.contexts + 1) * each + 4 * shape.vocabulary

    return [sorted(edit for edits in some for edit in edits) for some in _within(members, held, int(budget))]


def bundle_parts(parts: Iterable[TargetPart], chunk_tokens: int) -> list[list[TargetPart]]:
    """Parts that share one pass through the head, whose weight is the largest to read."""
    return _within(parts, lambda part: part.replay.hidden.shape[0] * part.replay.hidden.shape[1], chunk_tokens)


def bundle_rows(decoder: Decoder, edits: Iterable[list[Row]], first: int) -> list[Bundle]:
    """Packs edits of similar length into bundles; an edit is in one, since its loss needs all its rows.

    Args:
        decoder: The model.
        edits: Each edit's rows, from :func:`token_rows`.
        first: First layer to replay.
    """
    ordered = sorted(edits, key=lambda rows: max(row.length for row in rows))
    bundles = []
    for chosen in _within(ordered, lambda rows: sum(row.length for row in rows), _BUNDLE_TOKENS):
        parts = [_part(decoder, rows, first) for rows in _similar_split(row for rows in chosen for row in rows)]
        edit = torch.cat([part.edit[part.row] for part in parts])
        target, terms = torch.cat([part.target for part in parts]), torch.cat([part.terms for part in parts])
        bundles.append(Bundle(parts, edit, target, terms))
    return bundles


def _within(items: Iterable[T], tokens: Callable[[T], int], budget: int) -> list[list[T]]:
    """Items in order, as many together as have at most ``budget`` tokens, or one that has more."""
    bundles: list[list[T]] = []
    room = 0
    for item in items:
        if not bundles or tokens(item) > room:
            bundles.append([])
            room = budget
        bundles[-1].append(item)
        room -= tokens(item)
    return bundles


def _cheapest_split(rows: Iterable[Row], chunk_tokens: int, part_cost: int = _PART_COST) -> list[list[Row]]:
    """Splits rows, ordered by length, where the sum of padded tokens and of the parts' cost is least.

    Small parts do not use all of a processor, padding wastes tokens. Targets take many steps, so the search pays.
    """
    ordered = sorted(rows, key=lambda row: row.length)
    best: list[tuple[float, int]] = [(0.0, 0)]  # least cost of the first i rows, and the start of their last part
    for stop in range(1, len(ordered) + 1):
        longest = ordered[stop - 1].length
        starts = range(max(0, stop - max(1, chunk_tokens // longest)), stop)
        best.append(min((best[s][0] + (stop - s) * longest + part_cost, s) for s in starts))
    parts: list[list[Row]] = []
    stop = len(ordered)
    while stop:
        start = best[stop][1]
        parts.append(ordered[start:stop])
        stop = start
    return parts


def _similar_split(rows: Iterable[Row]) -> list[list[Row]]:
    """Splits rows, ordered by length, where padding the present part to one more row costs more than a new part."""
    parts: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: row.length):
        if parts[-1] and len(parts[-1]) * (row.length - parts[-1][-1].length) > _PADDING_COST:
            parts.append([])
        parts[-1].append(row)
    return parts


def _part(decoder: Decoder, rows: Sequence[Row], first: int) -> Part:
    # With explicit lengths padding is on the right, where nothing attends to it, even if every token is replayed.
    replay = Replay(decoder, [row.ids for row in rows], first, [row.length for row in rows])

    def on_device(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=replay.hidden.device)

    positions = [(r, column, token, row.terms) for r, row in enumerate(rows) for column, token in row.targets]
    row, column, target, terms = (on_device(position[i] for position in positions) for i in range(4))
    return Part(
        replay, on_device(row.edit for row in rows), on_device(row.mark for row in rows), row, column, target, terms
    )


def _target_part(decoder: Decoder, rows: Sequence[Row], first: int) -> TargetPart:
    part = _part(decoder, rows, first)
    device = part.replay.hidden.device
    share = torch.tensor([1.0 / row.terms for row in rows for _ in row.targets], device=device)
    essence = torch.tensor([r for r, row in enumerate(rows) if not row.targets], dtype=torch.long, device=device)
    with torch.no_grad():
        # The unedited model's own pass has been recorded: its output follows the final norm.
        output = part.replay.output
        states = output[essence.to(output.device), part.mark[essence].to(output.device)]
        reference = at_least_float32(decoder.readout(states)).log_softmax(-1)
    return TargetPart(**vars(part), share=share, essence=essence, reference=reference)
