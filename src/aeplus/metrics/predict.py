"""What a model answers: its top-1 tokens at the places where an answer is expected."""

from collections.abc import Sequence

import torch

from aeplus.models.sites import Decoder
from aeplus.models.tokens import TokenRow


@torch.no_grad()
def predict(decoder: Decoder, rows: Sequence[TokenRow], batch_tokens: int = 2048) -> list[tuple[int, ...]]:
    """Top-1 predictions under teacher forcing.

    Rows are padded here, on the right and with a mask, so the tokenizer's padding side does not matter. Equal
    rows run once.

    Args:
        decoder: The model.
        rows: Prompts with answers; a row without an answer asks for the next token.
        batch_tokens: Tokens run at once.

    Returns:
        For each row, one predicted token per answer token (one token where there is no answer).
    """
    needed = {(row.ids, row.answer): None for row in rows}
    order = sorted(needed, key=lambda key: len(key[0]))
    answers: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}
    start = 0
    while start < len(order):
        stop = start + 1  # rows are in order of length, so the last one decides the width
        while stop < len(order) and (stop + 1 - start) * len(order[stop][0]) <= batch_tokens:
            stop += 1
        batch = order[start:stop]
        answers.update(zip(batch, _predict_batch(decoder, batch), strict=True))
        start = stop
    return [answers[row.ids, row.answer] for row in rows]


def _predict_batch(decoder: Decoder, batch: Sequence[tuple[tuple[int, ...], int]]) -> list[tuple[int, ...]]:
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([list(ids) + [0] * (width - len(ids)) for ids, _ in batch], device=decoder.device)
    mask = torch.arange(width) < torch.tensor([[len(ids)] for ids, _ in batch])
    output = decoder.backbone(
        input_ids=ids, attention_mask=mask.long().to(decoder.device), use_cache=False
    ).last_hidden_state
    # The token at place p is predicted at place p - 1; without an answer, the last place predicts.
    spans = [range(answer - 1, len(ids) - (answer < len(ids))) for ids, answer in batch]
    row = [i for i, span in enumerate(spans) for _ in span]
    column = [place for span in spans for place in span]
    best = iter(decoder.readout(output[row, column]).argmax(-1).tolist())
    return [tuple(next(best) for _ in span) for span in spans]
