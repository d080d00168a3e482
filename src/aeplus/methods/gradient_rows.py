"""The token rows that gradient edits are learnt on, grouped to run together.

Notation: ``p`` predicted positions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aeplus.models.replay import Replay
from aeplus.models.sites import Decoder
from aeplus.targets.rows import BatchRows

_BUNDLE_TOKENS = 1024  # tokens whose activations are held at once
_PART_COST = 20  # tokens of padding that are worth a part of their own


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
        if padding > _PART_COST:
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
