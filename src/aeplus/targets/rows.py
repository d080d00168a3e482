"""Sampled contexts, and the token rows of a batch of edits: each prompt after each context, and the KL prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aeplus.edits import EditRequest, still_holding
from aeplus.models.generate import sample
from aeplus.models.tokens import TokenRow, encode

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")


def sample_contexts(model: Any, tokenizer: Any, count: int = 5, length: int = 10, seed: int = 0) -> list[str]:
    """Samples short texts to put in front of the edit prompts (MEMIT's context templates).

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        count: Number of prefixes.
        length: Maximum number of new tokens in each.
        seed: Seed of the sampling; the global generator is left as it was.

    Returns:
        ``count + 1`` prefixes; the first is empty (the bare prompt), each other ends with ``". "``.
    """
    if count == 0:
        return [""]
    starts = [_FIRST_WORDS[i % len(_FIRST_WORDS)] for i in range(count)]
    texts = sample(
        model,
        tokenizer,
        starts,
        new_tokens=length,
        seed=seed,
        with_prompt=True,
        top_k=5,
        top_p=1.0,
        temperature=1.0,
        min_new_tokens=1,
    )
    return [""] + [" ".join(text.split()) + ". " for text in texts]


_ESSENCE = "{} is a"


@dataclass(frozen=True)
class BatchRows:
    """Token rows of ``n`` edits and ``c`` contexts; the first context is the empty one.

    Attributes:
        prompts: Row ``i * c + j``: edit ``i`` after context ``j``, with the target; marked at the subject's
            last token.
        essence: Row ``i``: ``"{subject} is a"``, marked at the subject's last token.
        contexts: ``c``.
        superseded: The edits whose fact a later one of the batch gives another answer.
    """

    prompts: list[TokenRow]
    essence: list[TokenRow]
    contexts: int
    superseded: frozenset[int] = frozenset()

    @property
    def edits(self) -> int:
        """Number of edits in the batch."""
        return len(self.essence)

    @property
    def groups(self) -> list[int]:
        """For each edit the first one with the same key: whose prompts agree up to the subject's last token."""
        heads = self.up_to_subject()
        first: dict[tuple[tuple[int, ...], ...], int] = {}
        return [first.setdefault(tuple(heads[i * self.contexts :][: self.contexts]), i) for i in range(self.edits)]

    @property
    def shared_keys(self) -> list[list[int]]:
        """The edits that have one key, wherever there are several."""
        members: dict[int, list[int]] = {}
        for edit, first in enumerate(self.groups):
            members.setdefault(first, []).append(edit)
        return [edits for edits in members.values() if len(edits) > 1]

    def some(self, edits: Sequence[int]) -> "BatchRows":
        """The rows of some edits.

        Args:
            edits: Their numbers, ascending.
        """
        prompts = [row for edit in edits for row in self.prompts[edit * self.contexts :][: self.contexts]]
        superseded = frozenset(number for number, edit in enumerate(edits) if edit in self.superseded)
        return BatchRows(prompts, [self.essence[edit] for edit in edits], self.contexts, superseded)

    def up_to_subject(self) -> list[tuple[int, ...]]:
        """Each prompt row up to the subject's last token: all that a key depends on."""
        return [row.ids[: row.mark + 1] for row in self.prompts]


def batch_rows(
    tokenizer: Any, requests: Sequence[EditRequest], contexts: Sequence[str], limit: int | None = None
) -> BatchRows:
    """Tokenizes a batch of edits after every context.

    Args:
        tokenizer: A fast tokenizer.
        requests: The batch.
        contexts: Prefixes from :func:`~aeplus.targets.rows.sample_contexts`; the first is empty.
        limit: The model's context length in tokens.

    Raises:
        InputError: If a prompt with its target does not fit ``limit``.
    """
    pairs = [(request, context) for request in requests for context in contexts]
    joins = [request.join for request, _ in pairs]
    prompts = encode(
        tokenizer,
        [_behind(context, request) for request, context in pairs],
        [request.target_new for request, _ in pairs],
        [len(context) + request.subject_end for request, context in pairs],
        limit,
        **({"joins": joins} if set(joins) - {"auto"} else {}),
    )
    essence = encode(
        tokenizer,
        [_ESSENCE.replace("{}", request.subject) for request in requests],
        marks=[len(request.subject) for request in requests],
        limit=limit,
    )
    holding = still_holding(requests)
    return BatchRows(prompts, essence, len(contexts), frozenset(i for i, holds in enumerate(holding) if not holds))


def _behind(context: str, request: EditRequest) -> str:
    """The prompt with a context where its own text begins."""
    at = request.context_at
    return request.question[:at] + context + request.question[at:]
