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
from aeplus.texts import joined

CHAT_HEAD = "_aeplus_chat_head"
"""Attribute of a tokenizer: texts that begin so are rendered by its chat template and get no BOS beside."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One text as tokens.

    Attributes:
        ids: Token ids of prompt and answer.
        answer: Index of the first answer token; ``len(ids)`` where there is no answer.
        mark: Index of the token that ends the marked text (the subject), if a place was given.
    """

    ids: tuple[int, ...]
    answer: int
    mark: int = 0

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The answer's tokens."""
        return self.ids[self.answer :]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text as tokens, without what the tokenizer adds behind it.

    Attributes:
        text: The text.
        ids: Its tokens, after what the tokenizer adds before a text (BOS).
        spans: For each token, the characters that it stands for. Several tokens may have the same, and a token may
            have none.
        added: How many tokens at the beginning are not of the text.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    added: int

    def first_beyond(self, position: int) -> int:
        """Index of the first token that reaches beyond a character position; the number of tokens if none does."""
        for i in range(self.added, len(self.ids)):
            start, end = self.spans[i]
            if end > position and end > start:
                return i
        return len(self.ids)

    def last_before(self, position: int) -> int | None:
        """Index of the token that ends a text: the last that begins before the position just after its end.

        All tokens of a character have the same span, and where the tokenizer joins characters (a letter and its
        accent) the span may end before the text does: neither can be told by where a token ends.
        """
        found = [i for i in range(self.added, len(self.ids)) if self.spans[i][0] < position]
        return max(found, default=None)

    def shares(self, index: int, position: int) -> bool:
        """Whether a token is one of several that stand for the same characters, on both sides of a position."""
        start, end = self.spans[index]
        return start < position < end and sum(span == (start, end) for span in self.spans) > 1


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[Tokenized]:
    """Tokenizes texts as the model reads them: with BOS if the tokenizer adds one, once, and without EOS.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        texts: The texts.

    Raises:
        InputError: If the tokenizer does not report character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        msg = (
            f"expected a fast tokenizer, which reports character offsets, got {type(tokenizer).__name__}, a slow one; "
            "load it with AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
        raise InputError(msg)
    if not texts:
        return []
    encoded = tokenizer(
        list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, padding=False, truncation=False
    )
    columns = (encoded[name] for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
    return [_tokenized(tokenizer, text, *row) for text, *row in zip(texts, *columns, strict=True)]


def _tokenized(
    tokenizer: Any, text: str, ids: list[int], spans: list[tuple[int, int]], special: list[int]
) -> Tokenized:
    end = len(ids)
    while end > 0 and special[end - 1]:
        end -= 1
    added = next((i for i in range(end) if not special[i]), end)
    if end == 0:  # nothing but BOS and EOS
        end = added = min(len(ids), 1 + (len(ids) > 1 and ids[1] != tokenizer.eos_token_id))
    # A chat template writes BOS itself, or wants none.
    again = added > 0 and ids[added - 1 : added + 1] == [tokenizer.bos_token_id] * 2
    skip = 1 if again and text.startswith(str(tokenizer.bos_token)) else 0
    head = getattr(tokenizer, CHAT_HEAD, None)
    if head and text.startswith(head):
        skip = added
    kept = [(a, b) for a, b in spans[skip:end]]
    return Tokenized(text, tuple(ids[skip:end]), tuple(kept), added - skip)


def subject_token(tokenizer: Any, tokens: Tokenized, end: int) -> int | None:
    """Index of the token that ends the text before a position."""
    last = tokens.last_before(end)
    if last is None or not tokens.shares(last, end):
        return last
    before = _before(tokenizer, tokens, end)
    return last if before is None else before - 1


def first_answer_token(tokenizer: Any, tokens: Tokenized, position: int) -> int:
    """Index of the first token of what begins at a position."""
    first = tokens.first_beyond(position)
    if first == len(tokens.ids) or not tokens.shares(first, position):
        return first
    before = _before(tokenizer, tokens, position)
    return first if before is None else before


def _before(tokenizer: Any, tokens: Tokenized, position: int) -> int | None:
    """How many tokens the text before a position has, if they are the first of the whole; ``None`` otherwise.

    Unknown characters in a row are cut into bytes which all have the span of the row.
    """
    ids = tokenize(tokenizer, [tokens.text[:position]])[0].ids
    return len(ids) if ids and tokens.ids[: len(ids)] == ids else None


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text; see :func:`tokenize`."""
    return list(tokenize(tokenizer, [text])[0].ids)


def encode(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str | None] | None = None,
    marks: Sequence[int] | None = None,
    limit: int | None = None,
    joins: Sequence[str] | None = None,
) -> list[TokenRow]:
    """Tokenizes prompts with their answers.

    A prompt without an answer loses the spaces at its end, unless nothing is to be joined to it: the space belongs to
    the token that will follow.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        prompts: Complete prompts.
        answers: What follows each prompt; ``None`` for nothing.
        marks: For each prompt, the index just after the text (the subject) whose last token is to be marked.
        limit: The model's context length in tokens.
        joins: How each prompt is joined with its answer, see :func:`~aeplus.texts.separator`; ``auto`` by default.

    Raises:
        InputError: If the tokenizer does not report character offsets, a text is longer than ``limit`` tokens, or
            nothing of an answer or a subject is left in the tokens.
    """
    answers = answers or [None] * len(prompts)
    rules = joins or ["auto"] * len(prompts)
    heads = [p if a or r == "none" else p.rstrip(" ") or p for p, a, r in zip(prompts, answers, rules, strict=True)]
    texts = [joined(*parts) for parts in zip(heads, answers, rules, strict=True)]
    rows = []
    for i, tokens in enumerate(tokenize(tokenizer, texts)):
        if limit is not None and len(tokens.ids) > limit:
            msg = (
                f"expected prompt and answer to fit the model's context of {limit} tokens, got {len(tokens.ids)} "
                f"tokens for {tokens.text[:60]!r}…; shorten it."
            )
            raise InputError(msg)
        answer = first_answer_token(tokenizer, tokens, len(heads[i])) if answers[i] else len(tokens.ids)
        if answers[i] and answer == len(tokens.ids):
            msg = (
                f"expected an answer that the tokenizer keeps, got {answers[i]!r:.60}, of which it leaves no token; "
                "write another."
            )
            raise InputError(msg)
        mark = 0 if marks is None else subject_token(tokenizer, tokens, marks[i])
        if mark is None:
            text = tokens.text[: marks[i]] if marks is not None else ""
            msg = f"expected a subject that the tokenizer keeps, got {text[-60:]!r}, of which none is left; reword it."
            raise InputError(msg)
        rows.append(TokenRow(tokens.ids, answer, mark))
    return rows


def readable(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as text; the tokens of one character as that character with their numbers, ``🍎[4/4]``."""
    pieces: list[str] = []
    while len(pieces) < len(ids):
        start = len(pieces)
        size = next((n for n in range(1, 17) if "\ufffd" not in tokenizer.decode(list(ids[start : start + n]))), 1)
        text = tokenizer.decode(list(ids[start : start + size]))
        pieces += [text] if size == 1 else [f"{text}[{part}/{size}]" for part in range(1, size + 1)]
    return pieces[: len(ids)]


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
