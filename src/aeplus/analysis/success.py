"""Each edit's own success."""

from collections.abc import Sequence
from typing import Any

from aeplus.analysis.records import Success
from aeplus.data.request import EditRequest
from aeplus.metrics.evaluate import Baseline, edit_items, questions, rows_of
from aeplus.metrics.predict import predict
from aeplus.metrics.success import ASPECTS, Score
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
    rows = [row for mine in asked for question in mine for row in question.rows]
    predictions = dict(zip(rows, predict(decoder, rows), strict=True))
    found, score = [], Score()
    for mine in asked:
        score.reset()
        for aspect in ASPECTS:
            if chosen := [question for question in mine if question.item.aspect == aspect]:
                score.update(aspect, *rows_of(chosen, predictions))
        found.append(score.summary())
    return found
