"""The token rows of a batch of edits: each prompt behind each context, and the prompt of the KL term."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aeplus.data.request import EditRequest
from aeplus.models.tokens import TokenRow, encode

_ESSENCE = "{} is a"


@dataclass(frozen=True)
class BatchRows:
    """Token rows of ``n`` edits and ``c`` contexts; the first context is the empty one.

    Attributes:
        prompts: Row ``i * c + j``: edit ``i`` behind context ``j``, with the target; marked at the subject's
            last token.
        essence: Row ``i``: ``"{subject} is a"``, marked at the subject's last token.
        contexts: ``c``.
    """

    prompts: list[TokenRow]
    essence: list[TokenRow]
    contexts: int

    @property
    def edits(self) -> int:
        """How many edits the batch holds."""
        return len(self.essence)

    def up_to_subject(self) -> list[tuple[int, ...]]:
        """Each prompt row cut behind the subject's last token: all that a key depends on."""
        return [row.ids[: row.mark + 1] for row in self.prompts]


def batch_rows(
    tokenizer: Any, requests: Sequence[EditRequest], contexts: Sequence[str], limit: int | None = None
) -> BatchRows:
    """Tokenizes a batch of edits behind every context.

    Args:
        tokenizer: A fast tokenizer.
        requests: The batch.
        contexts: Prefixes from :func:`~aeplus.targets.contexts.sample_contexts`; the first is empty.
        limit: The model's context length in tokens.

    Raises:
        InputError: If a prompt with its target does not fit ``limit``.
    """
    pairs = [(request, context) for request in requests for context in contexts]
    prompts = encode(
        tokenizer,
        [context + request.question for request, context in pairs],
        [request.target_new for request, _ in pairs],
        [len(context) + request.subject_end for request, context in pairs],
        limit,
    )
    essence = encode(
        tokenizer,
        [_ESSENCE.replace("{}", request.subject) for request in requests],
        marks=[len(request.subject) for request in requests],
        limit=limit,
    )
    return BatchRows(prompts, essence, len(contexts))
