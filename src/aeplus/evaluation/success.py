"""How well some edits hold in a model that is edited in place."""

from collections.abc import Sequence
from typing import Any

from aeplus.data.chat import ChatTemplate
from aeplus.edits import EditRequest, prompt_joins
from aeplus.evaluation.questions import Baseline, Success, edit_items, evaluate, tokenize_items
from aeplus.models.decoder import Decoder


def asking(tokenizer: Any, requests: Sequence[EditRequest]) -> Any:
    """The tokenizer for prompts of some edits: one that adds nothing where a chat template has rendered them."""
    return ChatTemplate(tokenizer).tokenizer() if any(request.asked for request in requests) else tokenizer


class Measure:
    """Success of edits on their own test prompts; what the unedited model answers is asked at once.

    Args:
        decoder: The model, unedited still.
        tokenizer: Its tokenizer.
        requests: All edits that will be asked for.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, requests: Sequence[EditRequest]) -> None:
        self._decoder, self._tokenizer = decoder, asking(tokenizer, requests)
        probes = [probe for request in requests for probe in request.neighborhood]
        unanswered = [probe.prompt for probe in probes if probe.answer is None]
        self._baseline = Baseline(decoder, self._tokenizer, unanswered, prompt_joins(requests))

    def __call__(self, requests: Sequence[EditRequest]) -> Success:
        """Efficacy, Generalization, Specificity and Score of some edits, on the model as it is now."""
        items = edit_items(requests)
        asked = tokenize_items(self._tokenizer, items, self._baseline, self._decoder.context_length)
        return evaluate(self._decoder, asked).summary()
