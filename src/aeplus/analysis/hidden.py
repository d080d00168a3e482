"""Hidden states of a model for given prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aeplus.metrics.predict import batches
from aeplus.models.sites import Decoder, at_least_float32
from aeplus.models.tokens import encode


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
