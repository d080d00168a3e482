"""Prompts as tokens: the examples, the item, and each option behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aeplus.capabilities.items import Item, TaskItems
from aeplus.errors import InputError
from aeplus.models.tokens import encode


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt with its options.

    Attributes:
        text: The prompt, examples and all.
        ids: Tokens that all options have before them: the prompt, with what the tokenizer puts in front.
        options: For each option, the tokens that come after ``ids``, its leading space among them.
        shortened: Whether examples or the beginning of the item's text were left out to fit the context.
    """

    text: str
    ids: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    shortened: bool


def task_prompts(tokenizer: Any, items: TaskItems, limit: int | None, new_tokens: int = 0) -> list[Prompt]:
    """The prompts of a task's scored items.

    Where a prompt does not fit, examples are left out from the last on, then the item loses the beginning of its
    long text.

    Args:
        tokenizer: A fast tokenizer.
        items: The task with its items.
        limit: The model's context length in tokens.
        new_tokens: Tokens that will be generated and must fit beside the prompt.

    Raises:
        InputError: If a prompt does not fit even without its long text.
    """
    shots = [f"{_prompt(items, item)} {items.task.options[item.label]}\n" for item in items.shots]
    prompts = _encoded(tokenizer, items, items.scored, "".join(shots), shortened=False)
    if limit is None:
        return prompts
    return [
        prompt if _length(prompt, new_tokens) <= limit else _fitted(tokenizer, items, item, shots, limit, new_tokens)
        for item, prompt in zip(items.scored, prompts, strict=True)
    ]


def _fitted(tokenizer: Any, items: TaskItems, item: Item, shots: list[str], limit: int, new_tokens: int) -> Prompt:
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
                f"{item.source}: the prompt and its answer must fit the model's context of {limit} tokens, but take "
                f"{limit + excess}, too many even without the field {field!r}; leave the item or the task out."
            )
            raise InputError(msg)
        # What is left begins at a token, but a token may begin inside a character or with a blank.
        item = item.cut(field, item.fields[field][max(spans[excess][0], 1) :].lstrip())
        (prompt,) = _encoded(tokenizer, items, [item], "", shortened=True)
    return prompt


def _prompt(items: TaskItems, item: Item) -> str:
    return items.task.prompt(item.fields)


def _encoded(tokenizer: Any, items: TaskItems, scored: Sequence[Item], shots: str, shortened: bool) -> list[Prompt]:
    options = items.task.options
    texts = [shots + _prompt(items, item) for item in scored]
    rows = encode(tokenizer, [t for t in texts for _ in options], list(options) * len(texts))
    prompts = []
    for i, text in enumerate(texts):
        group = rows[i * len(options) : (i + 1) * len(options)]
        # Where an option changes how the prompt before it is cut into tokens, those tokens count as the option's.
        shared = min(row.answer for row in group)
        while len({row.ids[:shared] for row in group}) > 1:
            shared -= 1
        prompts.append(Prompt(text, group[0].ids[:shared], tuple(row.ids[shared:] for row in group), shortened))
    return prompts


def _length(prompt: Prompt, new_tokens: int) -> int:
    return len(prompt.ids) + max(new_tokens, *(len(option) for option in prompt.options))
