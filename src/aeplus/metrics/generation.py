"""Free generation: what a model says when nobody shows it the answer's first tokens."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch

from aeplus.errors import InputError
from aeplus.metrics.mean import Share
from aeplus.metrics.predict import batches
from aeplus.models.sites import Decoder
from aeplus.models.tokens import TokenRow, encode

_ARTICLES = frozenset(("a", "an", "the"))


@torch.no_grad()
def generate(
    decoder: Decoder, tokenizer: Any, prompts: Sequence[str], length: int, batch_tokens: int = 1024
) -> list[str]:
    """Greedy continuations of some prompts.

    Prompts of like length run together, padded on the left, each distinct one once. In float32 the texts are those
    of one prompt at a time.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        prompts: Complete prompts.
        length: New tokens at most.
        batch_tokens: Tokens, old and new ones, held at once.

    Raises:
        InputError: If a prompt and its continuation do not fit the model's context.
    """
    texts = sorted(set(prompts))
    rows = dict(zip(texts, encode(tokenizer, texts, limit=decoder.context_length), strict=True))
    _check_room(decoder, rows, length)
    distinct = {row.ids: row for row in rows.values()}
    found: dict[tuple[int, ...], str] = {}
    stops, pad = _special(decoder, tokenizer)
    for batch in batches(sorted(distinct.values(), key=lambda row: len(row.ids)), batch_tokens, more=length):
        width = len(batch[-1].ids)
        ids = torch.tensor([[pad] * (width - len(row.ids)) + list(row.ids) for row in batch])
        mask = torch.arange(width) >= torch.tensor([[width - len(row.ids)] for row in batch])
        output = decoder.model.generate(
            input_ids=ids.to(decoder.device),
            attention_mask=mask.long().to(decoder.device),
            max_new_tokens=length,
            pad_token_id=pad,
            # A checkpoint's own settings may ask for sampling, beams or penalties.
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
        )
        for row, tokens in zip(batch, output[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
            found[row.ids] = tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()
    return [found[rows[prompt].ids] for prompt in prompts]


def _check_room(decoder: Decoder, rows: dict[str, TokenRow], length: int) -> None:
    limit = decoder.context_length
    longest = max(rows.items(), key=lambda item: len(item[1].ids), default=None)
    if limit is not None and longest is not None and len(longest[1].ids) + length > limit:
        msg = (
            f"prompt and generation must fit the model's context of {limit} tokens, but {longest[0][:60]!r}… takes "
            f"{len(longest[1].ids)} and {length} are to follow; generate fewer or shorten it."
        )
        raise InputError(msg)


def _special(decoder: Decoder, tokenizer: Any) -> tuple[set[int], int]:
    """The tokens that end a text, and one to pad with."""
    config = getattr(decoder.model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    pad = tokenizer.pad_token_id
    return stops, pad if pad is not None else min(stops, default=0)


def normalise(text: str, articles: bool = False) -> str:
    """A text's words alone: no capitals, punctuation, doubled blanks or English articles (as SQuAD compares answers).

    Points and apostrophes vanish, so that ``U.S.`` is ``us``; other punctuation parts words.

    Args:
        text: The text.
        articles: Whether to keep the articles.

    Example:
        >>> normalise(" The  U.S. president's wife.")
        'us presidents wife'
    """
    text = re.sub(r"[.'’]", "", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in text)
    return " ".join(word for word in plain.split() if articles or word not in _ARTICLES)


def answer_comes_first(text: str, answers: Sequence[str]) -> bool:
    """Whether a continuation begins with one of the answers, normalised, as whole words.

    Example:
        >>> answer_comes_first(" the Eiffel Tower, which", ["Eiffel tower"]), answer_comes_first("Romeo", ["Rome"])
        (True, False)
    """
    return any(
        _begins(normalise(text, articles), normalise(answer, articles))
        for answer in answers
        for articles in (False, True)  # with them, for an answer that is one
    )


def _begins(text: str, answer: str) -> bool:
    if not answer or not text.startswith(answer):
        return False
    # Scripts without capitals often have no blanks between words either.
    cased = answer[-1].isdigit() or answer[-1].lower() != answer[-1].upper()
    return not cased or not text[len(answer) : len(answer) + 1].isalnum()


class GenerationSuccess(Share):
    """Share of prompts, in percent, whose greedy continuation begins with an accepted answer.

    Example:
        >>> metric = GenerationSuccess()
        >>> metric.update(["Rome, of course", "a city"], [["Rome"], ["Oslo", "Christiania"]])
        >>> float(metric.compute())
        50.0
    """

    def update(
        self, texts: Sequence[str], answers: Sequence[Sequence[str]], edits: Sequence[int] | None = None
    ) -> None:
        """Counts some continuations, with the accepted answers and the number of the edit of each."""
        hits = [answer_comes_first(text, accepted) for text, accepted in zip(texts, answers, strict=True)]
        self.record(torch.tensor(hits, dtype=torch.float32), edits)
