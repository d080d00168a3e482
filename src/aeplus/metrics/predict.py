"""What a model answers at the places where an answer is expected, under teacher forcing.

Rows are padded here, on the right and with a mask, so the tokenizer's padding side does not matter. Equal rows run
once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from aeplus.models.sites import Decoder
from aeplus.models.tokens import TokenRow

T = TypeVar("T")


@torch.no_grad()
def predict(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 1024) -> list[tuple[int, ...]]:
    """Top-1 predictions.

    Args:
        decoder: The model.
        rows: Prompts with answers; a row without an answer asks for the next token.
        batch_tokens: Tokens run at once.

    Returns:
        For each row, one predicted token per answer token (one token where there is no answer).
    """

    def best(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[tuple[int, ...]]:
        tokens = iter(logits.argmax(-1).tolist())
        return [tuple(next(tokens) for _ in range(count)) for count in counts]

    return _ask(decoder, rows, batch_tokens, best)


@torch.no_grad()
def answer_probabilities(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 1024) -> list[float | None]:
    """Probabilities of answers whose every token is the model's first choice; ``None`` for the others.

    Args:
        decoder: The model.
        rows: Prompts with answers.
        batch_tokens: Tokens run at once.
    """

    def sure(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[float | None]:
        wanted = torch.tensor([token for row in batch for token in row.answer_ids], device=logits.device)
        chosen = logits.float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
        right = logits.argmax(-1) == wanted
        parts = zip(chosen.split(counts), right.split(counts), strict=True)
        return [float(part.sum().exp()) if bool(hit.all()) else None for part, hit in parts]

    return _ask(decoder, rows, batch_tokens, sure)


def _ask(
    decoder: Decoder,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    read: Callable[[Sequence[TokenRow], Tensor, list[int]], list[T]],
) -> list[T]:
    """Runs each distinct row once and has ``read`` make answers of the logits ``[places, vocabulary]``."""
    distinct = {(row.ids, row.answer): row for row in rows}
    answers: dict[tuple[tuple[int, ...], int], T] = {}
    for batch in _batches(sorted(distinct.values(), key=lambda row: len(row.ids)), batch_tokens):
        width = len(batch[-1].ids)
        ids = torch.tensor([list(row.ids) + [0] * (width - len(row.ids)) for row in batch], device=decoder.device)
        mask = torch.arange(width) < torch.tensor([[len(row.ids)] for row in batch])
        hidden = decoder.backbone(
            input_ids=ids, attention_mask=mask.long().to(decoder.device), use_cache=False
        ).last_hidden_state
        # The token at place p is predicted at place p - 1; without an answer, the last place predicts.
        spans = [range(row.answer - 1, len(row.ids) - (row.answer < len(row.ids))) for row in batch]
        places = [i for i, span in enumerate(spans) for _ in span], [p for span in spans for p in span]
        found = read(batch, decoder.readout(hidden[places]), [len(span) for span in spans])
        answers.update(zip([(row.ids, row.answer) for row in batch], found, strict=True))
    return [answers[row.ids, row.answer] for row in rows]


def _batches(rows: list[TokenRow], batch_tokens: int) -> Iterator[list[TokenRow]]:
    """Cuts rows, in order of length, where padding to the longest would exceed the bound."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or (stop + 1 - start) * len(rows[stop].ids) > batch_tokens:
            yield rows[start:stop]
            start = stop
