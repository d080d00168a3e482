"""A sample of preserved keys that knows its text, so that a conflict with K0 can be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from aeplus.knowledge.statistics import PreservedOptions, token_windows
from aeplus.models.hooks import on_input
from aeplus.models.sites import Decoder, EditSite
from aeplus.progress import Progress

_TOKENS = 16  # of text told with a key, its own token the last


@dataclass(frozen=True)
class Excerpts:
    """Sampled keys of preserved text.

    Attributes:
        keys: For each layer the same ``s`` tokens' keys, ``[d, s]``.
        texts: What stands in the corpus up to each token, the token itself last.
    """

    keys: list[Tensor]
    texts: list[str]


@torch.no_grad()
def collect_excerpts(
    decoder: Decoder, tokenizer: Any, sites: Sequence[EditSite], options: PreservedOptions, progress: Progress
) -> Excerpts:
    """Reads the corpus once and keeps a uniform sample of keys with their text.

    The tokens are those of the key sample that ``aeplus fit`` takes with the same options
    (:func:`~aeplus.knowledge.statistics.collect`), so that s(k, K0) is the same here and there.

    Raises:
        InputError: If the corpus cannot be read, or is shorter than a window.
    """
    generator = torch.Generator().manual_seed(options.seed)
    device = decoder.device
    modules = [site.module for site in sites]
    draws, texts = torch.zeros(0), torch.zeros(0, _TOKENS, dtype=torch.long)
    keys = [torch.zeros(0, site.weight.shape[1], device=device) for site in sites]
    with progress.task("preserved text", options.tokens) as advance:
        for ids in token_windows(tokenizer, options):
            drawn = torch.cat([draws, torch.rand(ids.numel(), generator=generator)])
            draws, kept = drawn.topk(min(options.sample, len(drawn)))
            before = pad(ids, (_TOKENS - 1, 0), value=-1).unfold(1, _TOKENS, 1).flatten(0, 1)
            texts = torch.cat([texts, before])[kept]

            def receive(index: int, found: Tensor, kept: Tensor = kept) -> None:
                rows = found.flatten(0, 1).float()
                keys[index] = torch.cat([keys[index], rows])[kept.to(device)]

            with on_input(modules, receive, stop=True):
                decoder.backbone(input_ids=ids.to(device), use_cache=False)
            advance(ids.numel())
    told = tokenizer.batch_decode([[i for i in row if i >= 0] for row in texts.tolist()], skip_special_tokens=True)
    return Excerpts([k.T.contiguous() for k in keys], [" ".join(text.split()) for text in told])
