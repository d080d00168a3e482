"""How a model reads a stream: what of it does not fit is said or left out, chats are rendered."""

from collections.abc import Sequence
from typing import Any

from aeplus.data.chat import ChatTemplate
from aeplus.data.readability import ModelLimits, find_problems, refuse
from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.run.batches import Adaptable, Stream


class Reading:
    """Has streams made for one model.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.

    Attributes:
        tokenizer: The same; for chats one that adds nothing to what the template has written.
        template: What renders the stream's chats; ``None`` where it is plain text.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any) -> None:
        self._decoder, self.tokenizer = decoder, tokenizer
        self.template: ChatTemplate | None = None
        self._adapted: tuple[Stream, bool] | None = None

    def adapt(self, data: Stream, contexts: Sequence[str], corpus: str, *, editing: bool) -> None:
        """Has a stream made for this model, once.

        Args:
            data: The edits.
            contexts: Prefixes that prompts are edited behind.
            corpus: The text of preserved knowledge.
            editing: Whether batches will be edited, rather than the model be measured only.

        Raises:
            InputError: If something cannot be read and may not be left out.
        """
        if self._adapted in ((data, True), (data, editing)):
            return
        self._adapted = data, editing
        limits = self._limits(contexts if editing else ("",))
        if isinstance(data, Adaptable):
            data.adapt(limits, corpus)
            self._read_chats(data)
            return
        if problems := find_problems(limits, data.requests, tests=False):
            refuse(problems[0], data.requests)

    def readable(self, data: Adaptable, requests: Sequence[EditRequest], contexts: Sequence[str]) -> list[EditRequest]:
        """Edits as this model would edit them, where no run is prepared: checked, and rendered if they are chats.

        Raises:
            InputError: If something cannot be read and may not be left out.
        """
        readable = data.adapted(requests, self._limits(contexts))
        self._read_chats(data)
        return readable

    def check_tests(self, data: Stream) -> None:
        """Has test prompts that the model cannot read left out, or refused: only a measurement may look at them.

        Raises:
            InputError: If there are some and they may not be left out.
        """
        if isinstance(data, Adaptable):
            data.check_tests(self._limits())

    def _limits(self, contexts: Sequence[str] = ("",)) -> ModelLimits:
        embeddings = self._decoder.model.get_input_embeddings()
        size = None if embeddings is None else int(embeddings.weight.shape[0])
        return ModelLimits(self.tokenizer, self._decoder.context_length, size, tuple(contexts))

    def _read_chats(self, data: Adaptable) -> None:
        if data.chat_template:
            self.template = ChatTemplate(self.tokenizer)
            self.tokenizer = self.template.tokenizer()
