"""What a model predicts after prompts, under teacher forcing, and its hidden states.

Equal rows run once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.tokens import TokenRow, encode

T = TypeVar("T")


class AnswerScore(NamedTuple):
    """What a model makes of an answer.

    Attributes:
        predicted: The top-1 token at each of the answer's places (at the one place behind a row without an answer).
        log_prob: Mean log-probability of the answer's tokens, in nats (of the prediction, without an answer).
    """

    predicted: tuple[int, ...]
    log_prob: float


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
        return _shared_out(logits.argmax(-1), counts)

    return _ask(decoder, rows, batch_tokens, best)


@torch.no_grad()
def score_answers(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 1024) -> list[AnswerScore]:
    """Top-1 predictions and the answers' mean log-probabilities.

    Args:
        decoder: The model.
        rows: Prompts with answers; a row without an answer asks for the next token.
        batch_tokens: Tokens run at once.
    """

    def read(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[AnswerScore]:
        best = logits.argmax(-1)
        given = torch.tensor([token for row in batch for token in (row.answer_ids or (-1,))], device=logits.device)
        wanted = torch.where(given < 0, best, given)
        # Without a copy of all log-probabilities, which would be as large as the logits.
        chosen = at_least_float32(logits.gather(1, wanted[:, None])[:, 0]) - at_least_float32(logits).logsumexp(-1)
        sizes = torch.tensor(counts, device=logits.device)
        owners = torch.arange(len(counts), device=logits.device).repeat_interleave(sizes)
        means = chosen.new_zeros(len(counts)).index_add_(0, owners, chosen) / sizes
        pairs = zip(_shared_out(best, counts), means.tolist(), strict=True)
        return [AnswerScore(predicted, log_prob) for predicted, log_prob in pairs]

    return _ask(decoder, rows, batch_tokens, read)


def answer_probabilities(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 1024) -> list[float | None]:
    """Probabilities of answers whose every token is the model's first choice; ``None`` for the others.

    Args:
        decoder: The model.
        rows: Prompts with answers.
        batch_tokens: Tokens run at once.
    """
    scores = score_answers(decoder, rows, batch_tokens)
    return [
        math.exp(score.log_prob * len(row.answer_ids)) if score.predicted == row.answer_ids else None
        for row, score in zip(rows, scores, strict=True)
    ]


@torch.no_grad()
def next_token_log_probs(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 1024) -> Tensor:
    """The whole distribution of the token behind each row.

    Args:
        decoder: The model.
        rows: Prompts without answers, at least one.
        batch_tokens: Tokens run at once.

    Returns:
        Log-probabilities in nats, ``[rows, vocabulary]``, on the CPU.
    """

    def read(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[Tensor]:
        return list(at_least_float32(logits).log_softmax(-1).cpu())

    return torch.stack(_ask(decoder, rows, batch_tokens, read))


def _shared_out(tokens: Tensor, counts: list[int]) -> list[tuple[int, ...]]:
    """The tokens of all places, cut into those of each row; one round trip to the host."""
    left = iter(tokens.tolist())
    return [tuple(next(left) for _ in range(count)) for count in counts]


def _ask(
    decoder: Decoder,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    read: Callable[[Sequence[TokenRow], Tensor, list[int]], list[T]],
) -> list[T]:
    """Runs each distinct row once and has ``read`` make answers of the logits ``[places, vocabulary]``."""
    distinct = {(row.ids, row.answer): row for row in rows}
    answers: dict[tuple[tuple[int, ...], int], T] = {}
    for batch in batches(sorted(distinct.values(), key=lambda row: len(row.ids)), batch_tokens):
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


def batches(rows: list[TokenRow], batch_tokens: int, more: int = 0) -> Iterator[list[TokenRow]]:
    """Cuts rows, in order of length, where padding to the longest (and ``more`` tokens each) would exceed the bound."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or (stop + 1 - start) * (len(rows[stop].ids) + more) > batch_tokens:
            yield rows[start:stop]
            start = stop


@torch.no_grad()
def collect_hidden(
    decoder: Decoder, tokenizer: Any, prompts: Sequence[str], layer: int, batch_tokens: int = 1024
) -> Tensor:
    """The hidden state behind a layer at each prompt's last token.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        prompts: Complete prompts, at least one.
        layer: Index of the decoder layer; negative ones count from the end.
        batch_tokens: Tokens run at once.

    Returns:
        ``[n, o]``, at least in float32, on the CPU.

    Raises:
        InputError: If a prompt is too long for the model.
    """
    rows = encode(tokenizer, prompts, limit=decoder.context_length)
    distinct = sorted({row.ids: row for row in rows}.values(), key=lambda row: len(row.ids))
    found: dict[tuple[int, ...], Tensor] = {}
    states: list[Tensor] = []

    def receive(_: nn.Module, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder.layers[layer].register_forward_hook(receive)
    try:
        for batch in batches(distinct, batch_tokens):
            lengths = torch.tensor([len(row.ids) for row in batch])
            width = int(lengths.max())
            ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch])
            mask = torch.arange(width) < lengths[:, None]
            states.clear()
            decoder.backbone(
                input_ids=ids.to(decoder.device), attention_mask=mask.long().to(decoder.device), use_cache=False
            )
            hidden = at_least_float32(states[0])
            last = hidden[torch.arange(len(batch), device=hidden.device), lengths.to(hidden.device) - 1].cpu()
            found.update(zip((row.ids for row in batch), last, strict=True))
    finally:
        handle.remove()
    return torch.stack([found[row.ids] for row in rows])
