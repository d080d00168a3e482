"""The token rows of a batch of edits: each prompt after each sampled context, and the prompt of the KL term."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aeplus.edits import EditRequest
from aeplus.models.tokens import TokenRow, encode

_STARTS = ("The", "Therefore", "Because", "I", "You")


@torch.no_grad()
def sample_contexts(model: Any, tokenizer: Any, count: int = 5, length: int = 10, seed: int = 0) -> list[str]:
    """Samples short texts to put in front of the edit prompts (MEMIT's context templates).

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        count: How many prefixes.
        length: New tokens in each.
        seed: Seed of the sampling; the global generator is left as it was.

    Returns:
        ``count + 1`` prefixes; the first is empty (the bare prompt), each other ends with ``". "``.
    """
    if count == 0:
        return [""]
    starts = [tokenizer(_STARTS[i % len(_STARTS)])["input_ids"] for i in range(count)]
    width = max(len(s) for s in starts)
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[s[0]] * (width - len(s)) + list(s) for s in starts]).to(device)
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in starts]).to(device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=5,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=1,
            max_new_tokens=length,
            pad_token_id=pad or 0,
        )
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    return [""] + [" ".join(text.split()) + ". " for text in texts]


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
        contexts: Prefixes from :func:`~aeplus.targets.rows.sample_contexts`; the first is empty.
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
