"""What a model predicts after prompts, under teacher forcing, and its hidden states.

Equal rows run once. Processes that share the model (``decoder.ranks``) share the rows, and all get every result.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from aeplus.models.costs import tokens_ahead
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.kernels import Fused
from aeplus.models.tokens import TokenRow, encode, pad
from aeplus.models.variants import Variants, variant_parts

_SIDE_BY_SIDE = 2048, 16384  # tokens of all variants run at once: on a CPU, and at most on a GPU
T = TypeVar("T")


class AnswerScore(NamedTuple):
    """What a model predicts for an answer's tokens, and how likely it finds them.

    Attributes:
        predicted: The top-1 prediction of each of the answer's tokens; of the next token, for a row without an answer.
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

    def read(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[tuple[int, ...]]:
        return _split(logits.argmax(-1), counts)

    return _read_logits(decoder, rows, batch_tokens, read)


@torch.no_grad()
def score_answers(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 1024) -> list[AnswerScore]:
    """Top-1 predictions and the answers' mean log-probabilities.

    Args:
        decoder: The model.
        rows: Prompts with answers; a row without an answer asks for the next token.
        batch_tokens: Tokens run at once.
    """
    return _read_logits(decoder, rows, batch_tokens, _answer_scores)


@torch.no_grad()
def score_variants(
    decoder: Decoder, rows: Sequence[TokenRow], variants: Variants, batch_tokens: int | None = None
) -> list[list[AnswerScore]]:
    """The same for each of several variants of the model, all in one pass.

    Args:
        decoder: The model.
        rows: Prompts with answers; a row without an answer asks for the next token.
        variants: What the variants add to the weights as they are.
        batch_tokens: Tokens run at once, those of all variants together; by default 2,048, and on a GPU up to 16,384,
            as memory is for.
    """
    _ = decoder.scale  # by a pass of its own, which is none of variants
    distinct = {(row.ids, row.answer): row for row in rows}
    ordered = sorted(distinct.values(), key=lambda row: len(row.ids))
    fused = Fused([*decoder.layers, *decoder.after], tried=decoder.tried.fused)
    if batch_tokens is None:
        predicted = max((max(1, len(row.answer_ids)) / len(row.ids) for row in ordered), default=0.0)
        batch_tokens = tokens_ahead(decoder, *_SIDE_BY_SIDE, predicted)
    at_once = batch_tokens

    def score(share: Sequence[TokenRow]) -> list[tuple[AnswerScore, ...]]:
        found: list[list[AnswerScore]] = [[] for _ in range(len(variants))]
        longest = max((len(row.ids) for row in share), default=1)
        for part in variant_parts(len(variants), longest, at_once):
            some, count = variants.some(part.start, part.stop), len(part)
            with some.applied(), fused.applied():
                for batch in batches(share, max(1, at_once // count)):
                    scores = _answer_scores(list(batch) * count, *_logits_of(decoder, batch, count))
                    for number, place in enumerate(part):
                        found[place] += scores[number * len(batch) : (number + 1) * len(batch)]
        return list(zip(*found, strict=True))

    scored = decoder.ranks.split(ordered, score)
    places = {(row.ids, row.answer): place for place, row in enumerate(ordered)}
    return [[scored[places[row.ids, row.answer]][variant] for row in rows] for variant in range(len(variants))]


def _answer_scores(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[AnswerScore]:
    best = logits.argmax(-1)
    given = torch.tensor([token for row in batch for token in (row.answer_ids or (-1,))], device=logits.device)
    target = torch.where(given < 0, best, given)
    # Without a copy of all log-probabilities, which would be as large as the logits.
    chosen = at_least_float32(logits.gather(1, target[:, None])[:, 0]) - at_least_float32(logits).logsumexp(-1)
    sizes = torch.tensor(counts, device=logits.device)
    owners = torch.arange(len(counts), device=logits.device).repeat_interleave(sizes, output_size=len(given))
    means = chosen.new_zeros(len(counts)).index_add_(0, owners, chosen) / sizes
    pairs = zip(_split(best, counts), means.tolist(), strict=True)
    return [AnswerScore(predicted, log_prob) for predicted, log_prob in pairs]


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
    """The whole distribution of the token after each row.

    Args:
        decoder: The model.
        rows: Prompts without answers, at least one.
        batch_tokens: Tokens run at once.

    Returns:
        Log-probabilities in nats, ``[rows, vocabulary]``, on the CPU.
    """

    def read(batch: Sequence[TokenRow], logits: Tensor, counts: list[int]) -> list[Tensor]:
        return list(at_least_float32(logits).log_softmax(-1).cpu())

    return torch.stack(_read_logits(decoder, rows, batch_tokens, read))


def _split(tokens: Tensor, counts: list[int]) -> list[tuple[int, ...]]:
    """The tokens of all positions, split into those of each row; one round trip to the host."""
    rest = iter(tokens.tolist())
    return [tuple(next(rest) for _ in range(count)) for count in counts]


def _read_logits(
    decoder: Decoder,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    read: Callable[[Sequence[TokenRow], Tensor, list[int]], list[T]],
) -> list[T]:
    """Runs each distinct row once and has ``read`` make results of the logits ``[positions, vocabulary]``."""
    distinct = {(row.ids, row.answer): row for row in rows}
    ordered = sorted(distinct.values(), key=lambda row: len(row.ids))

    def ask(share: Sequence[TokenRow]) -> list[T]:
        return [value for batch in batches(share, batch_tokens) for value in read(batch, *_logits_of(decoder, batch))]

    answers = decoder.ranks.split(ordered, ask)
    results = {(row.ids, row.answer): answer for row, answer in zip(ordered, answers, strict=True)}
    return [results[row.ids, row.answer] for row in rows]


def _logits_of(decoder: Decoder, batch: Sequence[TokenRow], times: int = 1) -> tuple[Tensor, list[int]]:
    """Logits ``[positions, vocabulary]`` that predict the rows' answers, the rows run several times; and each's count.

    The token at position p is predicted at position p - 1; without an answer, the last position predicts.
    """
    rows = list(batch) * times
    hidden = decoder.forward(*pad([row.ids for row in rows], "right"))
    spans = [range(row.answer - 1, len(row.ids) - (row.answer < len(row.ids))) for row in rows]
    index = [i for i, span in enumerate(spans) for _ in span], [p for span in spans for p in span]
    return decoder.readout(hidden[index]), [len(span) for span in spans]


def batches(rows: Sequence[TokenRow], batch_tokens: int, more: int = 0) -> Iterator[Sequence[TokenRow]]:
    """Splits rows, sorted by length, where padding to the longest (and ``more`` tokens each) would exceed the bound."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or (stop + 1 - start) * (len(rows[stop].ids) + more) > batch_tokens:
            yield rows[start:stop]
            start = stop


@torch.no_grad()
def collect_hidden(
    decoder: Decoder, tokenizer: Any, prompts: Sequence[str], layer: int, batch_tokens: int = 1024
) -> Tensor:
    """The hidden state after a layer at each prompt's last token.

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
    states: list[Tensor] = []

    def receive(_: nn.Module, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple | list) else output)

    def read(share: Sequence[TokenRow]) -> list[Tensor]:
        last: list[Tensor] = []
        for batch in batches(share, batch_tokens):
            states.clear()
            decoder.forward(*pad([row.ids for row in batch], "right"))
            hidden = at_least_float32(states[0])
            index = torch.tensor([len(row.ids) - 1 for row in batch], device=hidden.device)
            last += hidden[torch.arange(len(batch), device=hidden.device), index].cpu()
        return last

    handle = decoder.layers[layer].register_forward_hook(receive)
    try:
        found = dict(zip((row.ids for row in distinct), decoder.ranks.split(distinct, read), strict=True))
    finally:
        handle.remove()
    return torch.stack([found[row.ids] for row in rows])
