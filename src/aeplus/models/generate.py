"""Free generation: greedy continuations of prompts, and sampled ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.predict import batches
from aeplus.models.tokens import TokenRow, encode, pad, tokenize


@torch.no_grad()
def generate(
    decoder: Decoder,
    tokenizer: Any,
    prompts: Sequence[str],
    length: int,
    batch_tokens: int = 1024,
    joins: Sequence[str] | None = None,
    top_k: int = 1,
    seed: int = 0,
    total: bool = False,
) -> list[str]:
    """Continuations of some prompts, greedy unless ``top_k`` is more than 1.

    Prompts of similar length run together, padded on the left, each distinct one once, a share of them on each process
    that has the model. In float32 greedy texts are those of one prompt at a time.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        prompts: Complete prompts.
        length: Maximum number of new tokens.
        batch_tokens: Tokens, old and new ones, held at once.
        joins: How each prompt is joined with what follows it; see :func:`~aeplus.models.tokens.encode`.
        top_k: Each token is drawn out of the so many likeliest, in proportion to their probabilities.
        seed: Seed of the draws, which also depend on ``batch_tokens`` and the number of processes; the global
            generators are left as they were.
        total: Whether ``length`` is that of the prompt with its continuation, which nothing ends before, as in ROME's
            code. A prompt that long already gets none.

    Raises:
        InputError: If a prompt and its continuation do not fit the model's context.
    """
    pairs = list(zip(prompts, joins or ["auto"] * len(prompts), strict=True))
    asked = sorted(set(pairs))
    texts, rules = [text for text, _ in asked], [rule for _, rule in asked]
    rows = dict(zip(asked, encode(tokenizer, texts, limit=decoder.context_length, joins=rules), strict=True))
    _check_room(decoder, rows, length, total)
    distinct = {row.ids: row for row in rows.values()}
    ordered = sorted(distinct.values(), key=lambda row: len(row.ids))
    stops, padding = _special(decoder, tokenizer)
    ends: dict[str, Any] = {"eos_token_id": None} if total else {}
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": top_k}
    drawing: dict[str, Any] = {"do_sample": top_k > 1, **(plain if top_k > 1 else {})}

    def continued(share: Sequence[TokenRow]) -> list[str]:
        texts: list[str] = []
        same = [list(rows) for _, rows in groupby(share, lambda row: len(row.ids))] if total else [share]
        for batch in (batch for rows in same for batch in batches(rows, batch_tokens, more=length)):
            if not (new := _new(batch[0], length, total)):
                texts += [""] * len(batch)
                continue
            ids, mask = pad([row.ids for row in batch], "left", padding)
            asked = {"max_new_tokens": new, "pad_token_id": padding, **drawing, **ends}
            output = _generated(decoder.model, ids.to(decoder.device), mask.to(decoder.device), asked)
            for tokens in output[:, ids.shape[1] :].tolist():
                end = next((i for i, token in enumerate(tokens) if token in stops and not total), len(tokens))
                texts.append(tokenizer.decode(tokens[:end], skip_special_tokens=True).strip())
        return texts

    with _seeded(decoder.device, seed):
        found = decoder.ranks.split(ordered, continued)
    continuations = {row.ids: text for row, text in zip(ordered, found, strict=True)}
    return [continuations[rows[pair].ids] for pair in pairs]


def has_room(
    decoder: Decoder, tokenizer: Any, prompts: Sequence[str], length: int, joins: Sequence[str], total: bool = False
) -> list[bool]:
    """Whether :func:`generate` can continue each prompt: it and its continuation must fit the model's context."""
    limit = decoder.context_length
    rows = encode(tokenizer, prompts, joins=joins)
    return [limit is None or len(row.ids) + _new(row, length, total) <= limit for row in rows]


def _new(row: TokenRow, length: int, total: bool) -> int:
    """How many tokens at most a row is continued by."""
    return max(0, length - len(row.ids)) if total else length


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    seed: int | None,
    with_prompt: bool = False,
    **options: Any,
) -> list[str]:
    """Continuations of some prompts that are the same for the same seed; all run together, padded on the left.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        prompts: Complete prompts, at least one, none without tokens.
        new_tokens: Maximum number of new tokens.
        seed: Seed of the sampling; ``None`` decodes greedily. The global generators are left as they were.
        with_prompt: Return each prompt with its continuation, decoded together.
        options: Further arguments of transformers' ``generate`` (``top_k``, ``top_p``, …).

    Returns:
        One text per prompt, without special tokens.
    """
    ids, mask = pad([row.ids for row in tokenize(tokenizer, prompts)], "left", fill=None)
    device = model.get_input_embeddings().weight.device
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    asked = {"max_new_tokens": new_tokens, "pad_token_id": padding or 0, "do_sample": seed is not None, **options}
    with _seeded(device, seed or 0):
        output = _generated(model, ids.to(device), mask.to(device), asked)
    kept = output if with_prompt else output[:, ids.shape[1] :]
    texts: list[str] = tokenizer.batch_decode(kept, skip_special_tokens=True)
    return texts


def _generated(model: Any, ids: Tensor, mask: Tensor, asked: dict[str, Any]) -> Tensor:
    """Rows with their continuations, by what is asked for and none of the model's own settings but how a text ends.

    A checkpoint may ask for beams, penalties, several answers or another form of output, and transformers fills in from
    ``model.generation_config`` what is not given.
    """
    own = model.generation_config
    kept = {name: getattr(own, name, None) for name in ("bos_token_id", "eos_token_id", "use_cache")}
    model.generation_config = GenerationConfig()
    try:
        settings = GenerationConfig(**{**kept, **asked})
        return cast(Tensor, model.generate(input_ids=ids, attention_mask=mask, generation_config=settings))
    finally:
        model.generation_config = own


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draws by a seed, on the CPU and on a device, then leaves their generators as they were; no other is touched."""
    drawing = [device] if device.type in ("cuda", "xpu") else []
    of_mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(drawing, device_type=device.type if drawing else "cpu"):
        torch.default_generator.manual_seed(seed)
        for one in drawing:  # rather than torch.manual_seed, which reseeds every GPU
            state = torch.Generator(one).manual_seed(seed).get_state()
            torch.get_device_module(one).set_rng_state(state, one)
        if of_mps is not None:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if of_mps is not None:
                torch.mps.set_rng_state(of_mps)


def _check_room(decoder: Decoder, rows: dict[tuple[str, str], TokenRow], length: int, total: bool) -> None:
    limit = decoder.context_length
    longest = max(rows.items(), key=lambda item: len(item[1].ids), default=None)
    length = 0 if longest is None else _new(longest[1], length, total)
    if limit is not None and longest is not None and len(longest[1].ids) + length > limit:
        msg = (
            f"expected prompt and generation to fit the model's context of {limit} tokens, got {len(longest[1].ids)} "
            f"tokens for {longest[0][0][:60]!r}… and {length} to generate; generate fewer or shorten it."
        )
        raise InputError(msg)


def _special(decoder: Decoder, tokenizer: Any) -> tuple[set[int], int]:
    """The tokens that end a text, and one to pad with."""
    config = getattr(decoder.model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    padding = tokenizer.pad_token_id
    return stops, padding if padding is not None else min(stops, default=0)
