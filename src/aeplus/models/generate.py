"""Free generation: greedy continuations of prompts."""

from collections.abc import Sequence
from typing import Any

import torch

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.predict import batches
from aeplus.models.tokens import TokenRow, encode


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
