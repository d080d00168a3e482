"""Whether neighborhood prompts are answered as by the unedited model, token by token (EasyEdit's locality)."""

from collections.abc import Sequence
from typing import Any

from aeplus.edits import EditRequest
from aeplus.evaluation.questions import (
    Baseline,
    Predictions,
    PromptItem,
    Question,
    holding_numbered,
    metric_inputs,
    predict_all,
    tokenize_items,
)
from aeplus.evaluation.records import Found
from aeplus.metrics.mean import WHOLE, Interval, Sampling
from aeplus.metrics.success import AxisSuccess, TokenAccuracy, token_match
from aeplus.models.decoder import Decoder


def unchanged_items(requests: Sequence[EditRequest], dropped: frozenset[str] = frozenset()) -> list[PromptItem]:
    """The neighborhood prompts with their true answers, and once more under each axis that asks them too.

    Where the neighborhood has no answer for a prompt, it is that of the first such axis.

    Args:
        requests: The edits, in order; superseded ones do not count.
        dropped: Test prompts that must not count.
    """
    items: list[PromptItem] = []
    for number, edit in holding_numbered(requests):
        known = {probe.prompt: probe.answer for probe in reversed(edit.axes) if probe.answer}
        kept = [probe for probe in edit.neighborhood if probe.prompt not in dropped]
        asked = [("specificity", probe.prompt, probe.answer or known.get(probe.prompt)) for probe in kept]
        same = {probe.prompt for probe in kept}
        asked += [(probe.axis or "other", probe.prompt, probe.answer) for probe in edit.axes if probe.prompt in same]
        items += [PromptItem(*one, edit=number, join=edit.join) for one in asked]
    return items


class Unchanged:
    """Compares the top-1 tokens over the length of the true answers with the unedited model's.

    Create it while the model is unedited: it asks the model at once.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        requests: The stream of edits.
        baseline: What the unedited model answers to prompts without an answer.
        batch_tokens: Tokens run at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        baseline: Baseline,
        batch_tokens: int = 1024,
    ) -> None:
        items = [item for request in requests for item in unchanged_items([request])]
        questions = tokenize_items(tokenizer, items, baseline, decoder.context_length)
        self._unedited = predict_all(decoder, questions, batch_tokens)

    def measure(
        self,
        questions: Sequence[Question],
        predictions: Predictions,
        sampling: Sampling = (1000, 0.95, 0),
        found: Found | None = None,
    ) -> dict[str, Interval]:
        """The mean share of tokens that are as before, of the neighborhood as ``specificity`` and of each axis.

        Args:
            questions: Those of :func:`unchanged_items`.
            predictions: What the model as it is now predicts for their rows.
            sampling: The arguments of the intervals: samples, confidence, seed, and what their mean is over.
            found: Gets each prompt's share, from 0 to 1.
        """
        metric = AxisSuccess(sorted({question.item.aspect for question in questions}), TokenAccuracy, **WHOLE)
        for name in metric.axes:
            own = [question for question in questions if question.item.aspect == name]
            predicted, _, edits, prompts = metric_inputs(own, predictions)
            before = [self._unedited[row] for question in own for row in question.rows]
            metric.update(name, predicted, before, edits, prompts)
            for question, share in zip(own, token_match(predicted, before).tolist(), strict=True):
                if found is not None:
                    found[question.item._replace(aspect=f"unchanged/{name}")] = {"unchanged": round(share, 6)}
        return metric.intervals(*sampling)
