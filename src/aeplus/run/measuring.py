"""Questions to a model: the test prompts of edits, and validation prompts, against what it answered unedited."""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import ref

from aeplus.data.chat import ChatTemplate
from aeplus.data.scoring import ValidationPrompt
from aeplus.edits import EditRequest
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
from aeplus.methods.batch import BatchEdit
from aeplus.metrics.success import Score
from aeplus.models.decoder import Decoder
from aeplus.run.batches import Stream
from aeplus.run.reading import Reading
from aeplus.run.unedited import UneditedModel

Asked = ValidationPrompt | PromptItem | tuple[str, str, str | None]
"""A validation prompt; of a plain one aspect, prompt and answer, which are joined by ``auto``."""


def asking(tokenizer: Any, requests: Sequence[EditRequest]) -> Any:
    """The tokenizer for prompts of some edits: one that adds nothing where a chat template has rendered them."""
    return ChatTemplate(tokenizer).tokenizer() if any(request.asked for request in requests) else tokenizer


class JournalMeasure:
    """Success of edits on their own test prompts without a run; what the unedited model answers is asked at once.

    Args:
        decoder: The model, unedited still.
        tokenizer: Its tokenizer.
        requests: All edits that will be asked for.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, requests: Sequence[EditRequest]) -> None:
        self._decoder, self._tokenizer = decoder, asking(tokenizer, requests)
        self._baseline = Baseline(decoder, self._tokenizer, _unanswered(requests))

    def __call__(self, requests: Sequence[EditRequest]) -> Success:
        """Efficacy, Generalization, Specificity and Score of some edits, on the model as it is now."""
        items = edit_items(requests)
        asked = tokenize_items(self._tokenizer, items, self._baseline, self._decoder.context_length)
        return evaluate(self._decoder, asked).summary()


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
        # Weakly: a batch that is done lets go of its candidates and of preserved knowledge.
        self._ahead: tuple[ref[BatchEdit], list[PromptItem], list[Success]] | None = None

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
        unanswered = _unanswered(data.requests)
        unanswered += [
            (probe.prompt, data.validation.preserved_join(probe))
            for probe in data.validation.preserved
            if probe.answer is None
        ]
        self.baseline = unedited.once(
            ("baseline", *unanswered), lambda: Baseline(self._decoder, self._reading.tokenizer, unanswered)
        )
        items = edit_items(data.requests, data.overlap)
        return unedited.once(("before", *items), lambda: self.score(data.requests))

    def score(self, requests: Sequence[EditRequest]) -> Score:
        """Efficacy, Generalization, Specificity and Score of some edits on their own test prompts."""
        return evaluate(self._decoder, self._asked(edit_items(requests, self._data.overlap)))

    def grade(self, items: Sequence[Asked], batch: BatchEdit | None = None) -> Success:
        """The same of validation prompts, in percent; see :func:`~aeplus.evaluation.questions.grade`.

        Args:
            items: The prompts.
            batch: The batch whose candidate the model holds. Where all its candidates can be asked in one pass, they
                are, with the first; an answer is used only for the prompts that it was given to.
        """
        prompts = list(map(_prompt_item, items))
        if batch is not None and (self._ahead is None or self._ahead[0]() is not batch):
            with batch.variants() as variants:
                if variants is not None:
                    self._ahead = ref(batch), prompts, grade_variants(self._decoder, self._asked(prompts), variants)
        if batch is not None and self._ahead is not None:
            of, asked, found = self._ahead
            if of() is batch and asked == prompts:
                return found[batch.iteration]
        return grade(self._decoder, self._asked(prompts))

    def _asked(self, items: Sequence[PromptItem]) -> list[Question]:
        return tokenize_items(self._reading.tokenizer, items, self.baseline, self._decoder.context_length)


def _prompt_item(item: Asked) -> PromptItem:
    if isinstance(item, PromptItem):
        return item
    return PromptItem(*item[:3], join=item.join if isinstance(item, ValidationPrompt) else "auto")


def _unanswered(requests: Iterable[EditRequest]) -> list[tuple[str, str]]:
    """Test prompts of which the unedited model's answer is the right one, each with how an answer is joined."""
    return [
        (probe.prompt, request.join) for request in requests for probe in request.neighborhood if probe.answer is None
    ]
