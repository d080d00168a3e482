"""Putting the tasks to a model."""

from collections.abc import Callable, Sequence
from typing import Any

from aeplus.capabilities.items import TaskItems
from aeplus.capabilities.likelihood import likeliest_options, option_likelihoods
from aeplus.capabilities.metrics import NO_OPTION, task_metrics
from aeplus.capabilities.naming import first_named
from aeplus.capabilities.options import CapabilityOptions
from aeplus.capabilities.prompts import Prompt, task_prompts
from aeplus.metrics.generation import generate
from aeplus.models.sites import Decoder
from aeplus.progress import Progress


def measure_capabilities(
    decoder: Decoder,
    tokenizer: Any,
    tasks: Sequence[TaskItems],
    options: CapabilityOptions = CapabilityOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Measures a model on some tasks. Neither the model nor any random state is changed.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        tasks: The tasks with their items, from :func:`~aeplus.capabilities.items.load_tasks`.
        options: How to read the model's answers.
        progress: Where to show how far it is.

    Returns:
        For each task its metrics (see :func:`~aeplus.capabilities.metrics.task_metrics`), and three counts:
        ``items``; ``unanswered``, how many had no option named in their continuation (or no likelihood that is a
        number) and count as wrong; ``shortened``, how many prompts were cut to fit the context.

    Raises:
        InputError: If a prompt does not fit the model's context.
    """
    generated = options.new_tokens if options.scoring == "generation" else 0
    # All prompts first: one that does not fit is told before the work, not after.
    prompts = [task_prompts(tokenizer, items, decoder.context_length, generated) for items in tasks]
    results = {}
    with (progress or Progress()).task("capabilities", sum(map(len, prompts))) as advance:
        for items, asked in zip(tasks, prompts, strict=True):
            answers = _answers(decoder, tokenizer, items.task.options, asked, options, advance)
            classes = [item.label for item in items.scored]
            results[items.task.name] = {
                **task_metrics(answers, classes, len(items.task.options), items.task.metrics),
                "items": len(classes),
                "unanswered": answers.count(NO_OPTION),
                "shortened": sum(prompt.shortened for prompt in asked),
            }
    return results


def _answers(
    decoder: Decoder,
    tokenizer: Any,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    options: CapabilityOptions,
    advance: Callable[[int], None],
) -> list[int]:
    """The index of the option that the model answers each prompt with."""
    if options.scoring == "generation":
        texts = generate(
            decoder, tokenizer, [prompt.text for prompt in prompts], options.new_tokens, options.batch_tokens
        )
        advance(len(texts))
        return [first_named(text, names) for text in texts]
    return likeliest_options(option_likelihoods(decoder, prompts, options.normalize, options.batch_tokens, advance))
