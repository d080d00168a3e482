"""Each edit's own success."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from aeplus.analysis.records import Success
from aeplus.data.request import EditRequest
from aeplus.metrics.evaluate import Baseline, edit_items, fill, predictions_of, questions
from aeplus.metrics.success import Score
from aeplus.models.sites import Decoder


def edit_success(
    decoder: Decoder,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    baseline: Baseline,
    dropped: frozenset[str] = frozenset(),
) -> list[Success]:
    """Measures each edit on its own test prompts; all prompts run together.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        requests: The edits; also those whose fact is edited again later.
        baseline: What the unedited model answers.
        dropped: Test prompts that must not count.
    """
    asked = [
        questions(tokenizer, edit_items([request], dropped), baseline, decoder.context_length) for request in requests
    ]
    predictions = predictions_of(decoder, chain.from_iterable(asked))
    return [fill(Score(), mine, predictions).summary() for mine in asked]
