"""What the candidates of a batch are scored by: validation prompts, a bounded number, no test prompt among them."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from aeplus.data.validation import ValidationSet, preserved_snippets
from aeplus.edits import EditRequest, Probe, still_holding
from aeplus.preserved.corpus import read_texts


class ValidationPrompt(NamedTuple):
    """What is asked of a candidate.

    Attributes:
        aspect: What it measures: ``efficacy``, ``generalization`` or ``specificity``.
        prompt: The complete prompt.
        answer: The answer; ``None`` where what the unedited model answers is right.
        join: How prompt and answer are joined; see :func:`~aeplus.texts.separator`.
    """

    aspect: str
    prompt: str
    answer: str | None
    join: str = "auto"


@lru_cache(maxsize=8)
def corpus_snippets(corpus: str, stamp: str, count: int, seed: int) -> tuple[Probe, ...]:
    """Sentence beginnings of a corpus. They take seconds: read once per process, until its ``stamp`` changes.

    Args:
        corpus: The text; see :func:`~aeplus.preserved.corpus.read_texts`.
        stamp: Tells whether it has changed.
        count: Number of beginnings.
        seed: Of the choice.
    """
    return tuple(preserved_snippets(read_texts(corpus), count, seed))


def validation_items(
    validation: ValidationSet, reached: Sequence[EditRequest], cursor: int, most_earlier: int, seed: int
) -> list[ValidationPrompt]:
    """What scores the current candidate: no test prompt among them.

    Efficacy is asked by one paraphrase of every edit of the batch, so that every smoothed edit is asked;
    Generalization by several paraphrases of a share of all edits so far, of earlier batches a sample; Specificity
    by preserved facts. Edits that no longer hold are excluded. A set from a file asks only for the edits that it
    contains.

    Args:
        validation: The validation set.
        reached: All edits up to the end of the batch.
        cursor: Where the batch begins.
        most_earlier: Maximum number of paraphrases of earlier batches.
        seed: Of their sample.
    """
    holding = [index for index, holds in enumerate(still_holding(reached)) if holds]
    items: list[ValidationPrompt] = [
        ValidationPrompt("efficacy", validation.firsts[i].prompt, reached[i].target_new, reached[i].join)
        for i in holding
        if i >= cursor and i in validation.firsts
    ]
    due = set(holding)
    rewrites = [r for r in validation.rewrites if r.request_index in due]
    earlier = [place for place, r in enumerate(rewrites) if r.request_index < cursor]
    if len(earlier) > most_earlier:
        drawn = random.Random(f"{seed} {cursor}").sample(earlier, len(earlier) - most_earlier)
        left_out = set(drawn)
        rewrites = [r for place, r in enumerate(rewrites) if place not in left_out]
    items += [ValidationPrompt("generalization", r.prompt, r.answer, reached[r.request_index].join) for r in rewrites]
    return items + [
        ValidationPrompt("specificity", probe.prompt, probe.answer, validation.preserved_join(probe))
        for probe in validation.preserved
    ]
