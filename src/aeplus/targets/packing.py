"""The token rows of a batch of edits packed into parts that run together, for targets and for gradient edits.

Notation: ``n`` edits, ``o`` hidden size, ``r`` rows of a part, ``p`` predicted positions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.replay import Replay
from aeplus.targets.rows import BatchRows

# What one more part costs, in tokens (two cores, 135M parameters: its weights are read once more). On a GPU, where
# launches dominate, the optimum is flat.
_PART_COST = 60


@dataclass
class Group:
    """Rows that run together; token 0 of each is the subject's last.

    ``edit [r]`` says whose row it is. The ``p`` predicted positions are ``row [p]``, ``column [p]`` with the
    wanted token in ``wanted [p]`` and its share in the edit's loss in ``share [p]``. The rows of the KL term are
    ``essence [q]``, with the log-probabilities of the unedited model, ``reference [q, vocabulary]``.
    """

    replay: Replay
    edit: Tensor
    row: Tensor
    column: Tensor
    wanted: Tensor
    share: Tensor
    essence: Tensor
    reference: Tensor

    def keep(self, active: Tensor) -> "Group | None":
        """The group without the rows of edits that are no longer ``active [n]``."""
        stays = active[self.edit]
        if bool(stays.all()):
            return self
        rows = stays.nonzero().squeeze(1)
        if not len(rows):
            return None
        renumbered = stays.cumsum(0) - 1
        kept, asked = stays[self.row], stays[self.essence]
        return Group(
            self.replay.select(rows),
            self.edit[rows],
            renumbered[self.row[kept]],
            self.column[kept],
            self.wanted[kept],
            self.share[kept],
            renumbered[self.essence[asked]],
            self.reference[asked],
        )


@dataclass(frozen=True)
class _Member:
    """One row: whose it is, how many tokens at its end are run, what it predicts as (column, token, share).

    A row that predicts nothing is the KL term's. ``bare`` marks an edit's prompt without context.
    """

    edit: int
    ids: tuple[int, ...]
    suffix: int
    wanted: list[tuple[int, int, float]]
    bare: bool = False


def build_groups(decoder: Decoder, rows: BatchRows, first: int, chunk_tokens: int) -> tuple[list[Group], Tensor]:
    """Rows in groups, from the subject's last token to the last that predicts, and the bare prompts' ``[n, o]``."""
    members: list[_Member] = []
    for index, row in enumerate(rows.prompts):
        edit, context = divmod(index, rows.contexts)
        share = 1.0 / (len(row.answer_ids) * rows.contexts)
        wanted = [(row.answer - 1 + k - row.mark, token, share) for k, token in enumerate(row.answer_ids)]
        ids = row.ids[:-1]  # nothing is predicted from the answer's last token
        members.append(_Member(edit, ids, len(ids) - row.mark, wanted, context == 0))
    for edit, row in enumerate(rows.essence):
        members.append(_Member(edit, row.ids[: row.mark + 1], 1, []))

    groups: list[Group] = []
    initial: dict[int, Tensor] = {}
    for part in _parts(members, chunk_tokens):
        group = _group(decoder, part, first)
        hidden = group.replay.hidden
        initial.update({m.edit: at_least_float32(hidden[r, 0]) for r, m in enumerate(part) if m.bare})
        groups.append(group)
    return groups, torch.stack([initial[edit] for edit in range(rows.edits)])


def _parts(members: list[_Member], chunk_tokens: int) -> list[list[_Member]]:
    """Rows that run together, padded to the longest suffix among them.

    Few rows at a time waste a processor, padding wastes tokens: parts are cut, in order of length, where that
    makes the sum of padded tokens and the cost of one more part least.
    """
    ordered = sorted(members, key=lambda m: m.suffix)
    best: list[tuple[float, int]] = [(0.0, 0)]  # least cost of the first i rows, and where their last part starts
    for stop in range(1, len(ordered) + 1):
        longest = ordered[stop - 1].suffix
        starts = range(max(0, stop - max(1, chunk_tokens // longest)), stop)
        best.append(min((best[s][0] + (stop - s) * longest + _PART_COST, s) for s in starts))
    parts: list[list[_Member]] = []
    stop = len(ordered)
    while stop:
        start = best[stop][1]
        parts.append(ordered[start:stop])
        stop = start
    return parts


def _group(decoder: Decoder, members: list[_Member], first: int) -> Group:
    replay = Replay(decoder, [m.ids for m in members], first, [m.suffix for m in members])

    def on_device(values: list[Any]) -> Tensor:
        return torch.tensor(values, device=replay.hidden.device)

    places = [(r, *wanted) for r, member in enumerate(members) for wanted in member.wanted]
    row, column, token, share = (list(x) for x in zip(*places, strict=True)) if places else ([], [], [], [])
    essence = [r for r, member in enumerate(members) if not member.wanted]
    with torch.no_grad():
        # The unedited model's own pass has been recorded: its output stands behind the final norm.
        reference = at_least_float32(decoder.readout(replay.output[essence, 0])).log_softmax(-1)
    return Group(
        replay,
        on_device([m.edit for m in members]),
        on_device(row).long(),
        on_device(column).long(),
        on_device(token).long(),
        on_device(share),
        on_device(essence).long(),
        reference,
    )


def bundle_groups(groups: list[Group], chunk_tokens: int) -> list[list[Group]]:
    """Groups that share one pass through the head, whose weight is the largest to read."""
    bundles: list[list[Group]] = []
    room = 0
    for group in groups:
        tokens = group.replay.hidden.shape[0] * group.replay.hidden.shape[1]
        if not bundles or tokens > room:
            bundles.append([])
            room = chunk_tokens
        bundles[-1].append(group)
        room -= tokens
    return bundles


_BUNDLE_TOKENS = 1024  # tokens whose activations are held at once
_PADDING_COST = 20  # tokens of padding that are worth a part of their own


@dataclass(frozen=True)
class Row:
    """One text without its answer's last token; what it predicts as (column, token); its edit's loss has ``terms``.

    ``mark`` is the column of the subject's last token.
    """

    edit: int
    ids: tuple[int, ...]
    mark: int
    wanted: list[tuple[int, int]]
    terms: int


@dataclass(frozen=True)
class Part:
    """Rows of similar length; ``row [p]`` and ``column [p]`` are the positions that predict.

    ``mark [rows]`` are the columns of the subjects' last tokens.
    """

    replay: Replay
    mark: Tensor
    row: Tensor
    column: Tensor


@dataclass(frozen=True)
class Bundle:
    """All rows of some edits: parts with one pass through the head and one backward pass.

    ``edit [p]``, ``wanted [p]`` and ``terms [p]`` tell, for every part's positions in turn, whose they are, which
    token is wanted and by what its term in the edit's loss is divided.
    """

    parts: list[Part]
    edit: Tensor
    wanted: Tensor
    terms: Tensor


def token_rows(rows: BatchRows, contexts: int, first: int = 0) -> list[list[Row]]:
    """Each edit's rows behind its first contexts, edits numbered from ``first``."""
    kept = min(contexts + 1, rows.contexts)
    edits = []
    for i in range(rows.edits):
        edit = []
        for row in rows.prompts[i * rows.contexts :][:kept]:
            wanted = [(row.answer - 1 + k, token) for k, token in enumerate(row.answer_ids)]
            edit.append(Row(first + i, row.ids[:-1], row.mark, wanted, len(wanted) * kept))
        edits.append(edit)
    return edits


def bundle_rows(decoder: Decoder, edits: list[list[Row]], first: int) -> list[Bundle]:
    """Edits of similar length in bundles: whether an edit counts shows when all its rows have run."""
    bundles: list[list[Row]] = []
    room = 0
    for edit in sorted(edits, key=lambda rows: max(len(row.ids) for row in rows)):
        tokens = sum(len(row.ids) for row in edit)
        if not bundles or tokens > room:
            bundles.append([])
            room = _BUNDLE_TOKENS
        bundles[-1] += edit
        room -= tokens
    return [_bundle(decoder, rows, first) for rows in bundles]


def _bundle(decoder: Decoder, rows: list[Row], first: int) -> Bundle:
    parts: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.ids)):
        padding = len(parts[-1]) * (len(row.ids) - len(parts[-1][-1].ids)) if parts[-1] else 0
        if padding > _PADDING_COST:
            parts.append([])
        parts[-1].append(row)

    def on_device(values: list[Any]) -> Tensor:
        return torch.tensor(values, device=decoder.device)

    recorded = []
    for part in parts:
        # Every token is replayed. Told so, padding stands behind the rows, where nothing attends to it.
        replay = Replay(decoder, [row.ids for row in part], first, [len(row.ids) for row in part])
        places = [(r, column) for r, row in enumerate(part) for column, _ in row.wanted]
        marks, numbers, columns = [row.mark for row in part], [r for r, _ in places], [column for _, column in places]
        recorded.append(Part(replay, on_device(marks), on_device(numbers), on_device(columns)))
    wanted = [(row.edit, token, row.terms) for part in parts for row in part for _, token in row.wanted]
    edit, token, terms = (on_device(list(values)) for values in zip(*wanted, strict=True))
    return Bundle(recorded, edit, token, terms)
