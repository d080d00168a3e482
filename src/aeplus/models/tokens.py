"""Prompts and answers as token ids, with the positions that matter marked, and rows padded to one rectangle.

Boundaries are found through the tokenizer's character offsets on the whole text, so that they hold with and
without BOS, for byte-level and for SentencePiece tokenizers, and whatever side the tokenizer pads on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from aeplus.errors import InputError


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One text as tokens.

    Attributes:
        ids: Token ids of prompt and answer.
        answer: Index of the first answer token; ``len(ids)`` where there is no answer.
        mark: Index of the token that holds the marked character (the subject's last), if one was given.
    """

    ids: tuple[int, ...]
    answer: int
    mark: int = 0

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The answer's tokens."""
        return self.ids[self.answer :]


def encode(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str | None] | None = None,
    marks: Sequence[int] | None = None,
    limit: int | None = None,
) -> list[TokenRow]:
    """Tokenizes prompts with their answers.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        prompts: Complete prompts.
        answers: What follows each prompt after a space; ``None`` for nothing.
        marks: For each prompt, the index just after the character whose token is to be marked.
        limit: The model's context length in tokens.

    Raises:
        InputError: If the tokenizer does not report character offsets or a text is longer than ``limit`` tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        msg = (
            f"expected a fast tokenizer, which reports character offsets, got {type(tokenizer).__name__}, a slow one; "
            "load it with AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
        raise InputError(msg)
    answers = answers or [None] * len(prompts)
    heads = [p.rstrip() if a else p for p, a in zip(prompts, answers, strict=True)]
    texts = [f"{h} {a.strip()}" if a else h for h, a in zip(heads, answers, strict=True)]
    if not texts:
        return []
    encoded = tokenizer(texts, return_offsets_mapping=True, padding=False, truncation=False)
    rows = []
    for i, (head, text) in enumerate(zip(heads, texts, strict=True)):
        ids, spans = list(encoded["input_ids"][i]), list(encoded["offset_mapping"][i])
        while len(ids) > 1 and spans[-1][0] == spans[-1][1]:  # a closing token that some tokenizers add
            ids.pop()
            spans.pop()
        if limit is not None and len(ids) > limit:
            msg = (
                f"expected prompt and answer to fit the model's context of {limit} tokens, got {len(ids)} tokens for "
                f"{text[:60]!r}…; shorten it."
            )
            raise InputError(msg)
        answer = _first(spans, len(head)) if answers[i] else len(ids)
        mark = _first(spans, marks[i] - 1) if marks is not None else 0
        rows.append(TokenRow(tuple(ids), answer, mark))
    return rows


def _first(spans: Sequence[tuple[int, int]], position: int) -> int:
    """Index of the first token that reaches beyond a character position."""
    return next(i for i, (start, end) in enumerate(spans) if end > position and end > start)


def pad(rows: Sequence[Sequence[int]], side: Literal["left", "right"], fill: int | None = 0) -> tuple[Tensor, Tensor]:
    """Pads rows of token ids to the longest of them.

    Args:
        rows: ``b`` rows, at least one; a row may be empty unless ``fill`` is ``None``.
        side: Where padding goes.
        fill: The token to pad with; ``None`` repeats each row's first token.

    Returns:
        Token ids ``[b, t]`` and attention mask ``[b, t]``, 1 at tokens and 0 at padding; both int64, on the CPU.
    """
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        padding, tokens = [row[0] if fill is None else fill] * gap, list(row)
        ids.append(padding + tokens if side == "left" else tokens + padding)
        mask.append([0] * gap + [1] * len(row) if side == "left" else [1] * len(row) + [0] * gap)
    shape = len(rows), width
    return torch.tensor(ids, dtype=torch.long).view(shape), torch.tensor(mask, dtype=torch.long).view(shape)
