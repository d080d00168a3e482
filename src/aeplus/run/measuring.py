"""Questions to a run's model: the test prompts of edits, and validation prompts, against what it answered unedited."""

from collections.abc import Sequence

from aeplus.edits import EditRequest, prompt_joins
from aeplus.evaluation.questions import (
    Baseline,
    PromptItem,
    Question,
    Success,
    edit_items,
    evaluate,
    grade,
    grade_variants,
    tokenize_items,
)
from aeplus.metrics.success import Score
from aeplus.models.decoder import Decoder
from aeplus.models.variants import Variants
from aeplus.run.batches import Stream
from aeplus.run.reading import Reading
from aeplus.run.unedited import UneditedModel


class Measuring:
    """Measures a model on a stream's prompts.

    Args:
        decoder: The model.
        reading: How it reads.

    Attributes:
        baseline: What the unedited model answers where no answer is given.
    """

    baseline: Baseline
    _data: Stream

    def __init__(self, decoder: Decoder, reading: Reading) -> None:
        self._decoder, self._reading = decoder, reading

    def begin(self, data: Stream, unedited: UneditedModel) -> Score:
        """Asks the unedited model what has no answer, and how well it does on the edits' test prompts already.

        Args:
            data: The edits; test prompts that the model cannot read are left out.
            unedited: Where it is kept.

        Raises:
            InputError: If there are such prompts and they may not be left out.
        """
        self._reading.check_tests(data)
        self._data = data
        probes = [probe for request in data.requests for probe in request.neighborhood]
        unanswered = [probe.prompt for probe in (*probes, *data.validation.preserved) if probe.answer is None]
        joins = prompt_joins(data.requests)
        self.baseline = unedited.once(
            ("baseline", *unanswered, *joins.items()),
            lambda: Baseline(self._decoder, self._reading.tokenizer, unanswered, joins),
        )
        items = edit_items(data.requests, data.overlap)
        return unedited.once(("before", *items), lambda: self.score(data.requests))

    def score(self, requests: Sequence[EditRequest]) -> Score:
        """Efficacy, Generalization, Specificity and Score of some edits on their own test prompts."""
        return evaluate(self._decoder, self._asked(edit_items(requests, self._data.overlap)))

    def grade(self, items: Sequence[PromptItem]) -> Success:
        """The same of validation prompts, in percent; see :func:`~aeplus.evaluation.questions.grade`."""
        return grade(self._decoder, self._asked(items))

    def grade_variants(self, items: Sequence[PromptItem], variants: Variants) -> list[Success]:
        """The same of several variants of the model in one pass."""
        return grade_variants(self._decoder, self._asked(items), variants)

    def _asked(self, items: Sequence[PromptItem]) -> list[Question]:
        return tokenize_items(self._reading.tokenizer, items, self.baseline, self._decoder.context_length)
