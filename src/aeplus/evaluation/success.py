"""How well some edits hold in a model that is edited in place."""

from collections.abc import Sequence
from typing import Any

from aeplus.edits import EditRequest
from aeplus.evaluation.questions import Baseline, Success, edit_items, evaluate, tokenize_items
from aeplus.models.decoder import Decoder


class Measure:
    """Success of edits on their own test prompts; what the unedited model answers is asked at once.

    Args:
        decoder: The model, unedited still.
        tokenizer: Its tokenizer.
        requests: All edits that will be asked for.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, requests: Sequence[EditRequest]) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        probes = [probe for request in requests for probe in request.neighborhood]
        self._baseline = Baseline(decoder, tokenizer, [probe.prompt for probe in probes if probe.answer is None])

    def __call__(self, requests: Sequence[EditRequest]) -> Success:
        """Efficacy, Generalization, Specificity and Score of some edits, on the model as it is now."""
        items = edit_items(requests)
        asked = tokenize_items(self._tokenizer, items, self._baseline, self._decoder.context_length)
        return evaluate(self._decoder, asked).summary()
