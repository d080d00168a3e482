"""Prompts with their options as tokens, and the likeliest option of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from aeplus.errors import InputError
from aeplus.evaluation.capabilities.items import TaskItem, TaskItems
from aeplus.evaluation.capabilities.tasks import NO_OPTION
from aeplus.models.decoder import Decoder
from aeplus.models.predict import batches
from aeplus.models.tokens import TokenRow, encode, pad
from aeplus.texts import joined


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt with its options.

    Attributes:
        text: The prompt, including the examples.
        ids: Tokens that precede all options: the prompt, with any token the tokenizer puts in front.
        options: For each option, the tokens after ``ids``, including its leading space.
        shortened: Whether examples or the beginning of the item's text were left out to fit the context.
    """

    text: str
    ids: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    shortened: bool


def task_prompts(tokenizer: Any, items: TaskItems, limit: int | None, new_tokens: int = 0) -> list[Prompt]:
    """The prompts of a task's scored items.

    Where a prompt does not fit, examples are left out, the last first; then the beginning of the item's long text is
    cut off.

    Args:
        tokenizer: A fast tokenizer.
        items: The task with its items.
        limit: The model's context length in tokens.
        new_tokens: Tokens that will be generated and must fit after the prompt.

    Raises:
        InputError: If a prompt does not fit even without its long text.
    """
    shots = [joined(_prompt(items, item), items.task.options[item.label]) + "\n" for item in items.shots]
    prompts = _encoded(tokenizer, items, items.scored, "".join(shots), shortened=False)
    if limit is None:
        return prompts
    return [
        prompt if _length(prompt, new_tokens) <= limit else _fitted(tokenizer, items, item, shots, limit, new_tokens)
        for item, prompt in zip(items.scored, prompts, strict=True)
    ]


def _fitted(tokenizer: Any, items: TaskItems, item: TaskItem, shots: list[str], limit: int, new_tokens: int) -> Prompt:
    for count in reversed(range(len(shots))):
        (prompt,) = _encoded(tokenizer, items, [item], "".join(shots[:count]), shortened=True)
        if _length(prompt, new_tokens) <= limit:
            return prompt
    field = items.task.shorten
    (prompt,) = _encoded(tokenizer, items, [item], "", shortened=True)
    while (excess := _length(prompt, new_tokens) - limit) > 0:
        spans = tokenizer(item.fields[field], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if excess >= len(spans):
            msg = (
                f"{item.source}: expected prompt and answer to fit the model's context of {limit} tokens, got "
                f"{limit + excess} tokens, too many even without the field {field!r}; leave out the item or the task."
            )
            raise InputError(msg)
        # The rest begins at a token, but a token may begin inside a character or with whitespace.
        item = item.with_text(field, item.fields[field][max(spans[excess][0], 1) :].lstrip())
        (prompt,) = _encoded(tokenizer, items, [item], "", shortened=True)
    return prompt


def _prompt(items: TaskItems, item: TaskItem) -> str:
    return items.task.prompt(item.fields)


def _encoded(tokenizer: Any, items: TaskItems, scored: Sequence[TaskItem], shots: str, shortened: bool) -> list[Prompt]:
    options = items.task.options
    texts = [shots + _prompt(items, item) for item in scored]
    rows = encode(tokenizer, [t for t in texts for _ in options], list(options) * len(texts))
    prompts = []
    for i, text in enumerate(texts):
        group = rows[i * len(options) : (i + 1) * len(options)]
        # Where an option changes how the prompt before it is tokenized, those tokens count as the option's.
        shared = min(row.answer for row in group)
        while len({row.ids[:shared] for row in group}) > 1:
            shared -= 1
        prompts.append(Prompt(text, group[0].ids[:shared], tuple(row.ids[shared:] for row in group), shortened))
    return prompts


def _length(prompt: Prompt, new_tokens: int) -> int:
    return len(prompt.ids) + max(new_tokens, *(len(option) for option in prompt.options))


def likeliest_options(scores: Tensor) -> list[int]:
    """Index of each item's best score ``[n, options]``, the first of equals; :data:`NO_OPTION` where one is NaN."""
    answers = scores.argmax(-1).masked_fill(scores.isnan().any(-1), NO_OPTION)
    return [int(answer) for answer in answers.tolist()]


@torch.no_grad()
def option_likelihoods(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    normalize: Literal["mean", "sum"] = "mean",
    batch_tokens: int = 2048,
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Log-likelihoods (natural logarithm) of the options after their prompts.

    A prompt is run once: its last position predicts the first token of every option. Only options of several tokens are
    run further, together and from the prompt's keys and values.

    Args:
        decoder: The model.
        prompts: ``n`` prompts with equally many options.
        normalize: The ``mean`` over an option's tokens, or their ``sum``.
        batch_tokens: Tokens run at once.
        advance: Called with the number of prompts that this process has done, batch by batch.

    Returns:
        ``[n, options]`` on the CPU, float32.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))

    def score(share: Sequence[int]) -> list[Tensor]:
        found: list[Tensor] = []
        indices = iter(share)
        for batch in batches([TokenRow(prompts[i].ids, len(prompts[i].ids)) for i in share], batch_tokens):
            chosen = [prompts[next(indices)] for _ in batch]
            found += _batch_likelihoods(decoder, chosen, normalize).cpu()
            advance(len(batch))
        return found

    scores = torch.empty(len(prompts), len(prompts[0].options))
    scores[order] = torch.stack(decoder.ranks.split(order, score))
    return scores


def _batch_likelihoods(decoder: Decoder, prompts: Sequence[Prompt], normalize: Literal["mean", "sum"]) -> Tensor:
    ids, mask = (padded.to(decoder.device) for padded in pad([prompt.ids for prompt in prompts], "left"))
    several = [(row, i) for row, p in enumerate(prompts) for i, option in enumerate(p.options) if len(option) > 1]
    # Without a config every layer keeps the whole prompt; sliding windows are left to the attention mask.
    cache = DynamicCache() if several else None
    logits = decoder.readout(decoder.forward(ids, mask, positions=True, cache=cache)[:, -1]).float()  # [b, vocabulary]
    device = logits.device  # the head's
    first = torch.tensor([[option[0] for option in p.options] for p in prompts], device=device)
    scores = logits.log_softmax(-1).gather(1, first)  # [b, options]
    if cache is not None:
        rows, columns = torch.tensor(several, device=device).unbind(1)
        for layer in cache.layers:  # each where its layer is
            if layer.is_initialized:
                layer.batch_select_indices(rows.to(layer.keys.device))
        kept = mask[rows.to(mask.device)]
        rests = _rest_likelihoods(decoder, [prompts[row].options[i] for row, i in several], kept, cache)
        scores[rows, columns] += rests
    if normalize == "mean":
        scores /= torch.tensor([[len(option) for option in p.options] for p in prompts], device=device)
    return scores


def _rest_likelihoods(
    decoder: Decoder, options: Sequence[tuple[int, ...]], mask: Tensor, cache: DynamicCache
) -> Tensor:
    """Summed log-likelihoods ``[m]`` of each option's tokens after its first.

    Args:
        decoder: The model.
        options: ``m`` options of two tokens or more.
        mask: Attention mask ``[m, t]`` of their prompts.
        cache: The prompts' keys and values.
    """
    ids, real = (padded.to(decoder.device) for padded in pad(options, "right"))
    rest, real = ids[:, 1:], real[:, 1:].bool()  # [m, width]
    # Nothing attends to padding after an option, since attention is causal; it needs no mask.
    whole = torch.cat([mask, torch.ones_like(rest)], -1)
    hidden = decoder.forward(ids[:, :-1], whole, positions=True, cache=cache)
    logits = decoder.readout(hidden[real.to(hidden.device)]).float()  # [tokens, vocabulary]
    rest, real = rest.to(logits.device), real.to(logits.device)
    likelihoods = torch.zeros(real.shape, device=logits.device)
    likelihoods[real] = logits.log_softmax(-1).gather(1, rest[real][:, None])[:, 0]
    return likelihoods.sum(-1)
