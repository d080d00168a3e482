"""Several variants of a model side by side: each row is run with a low-rank update of its own, ``W x + A (B x)``.

The weights stay as they are, so that all variants go through the model in one pass.

Notation: ``v`` variants, ``r`` rows; the ``v · r`` rows of a pass have the first variant's rows first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aeplus.functional import LowRankUpdate
from aeplus.models.sites import EditSite


class Variants:
    """Variants of some sites' weights.

    Args:
        sites: The edited layers.
        updates: For each variant the update of each site; none may have a mask.
    """

    def __init__(self, sites: Sequence[EditSite], updates: Sequence[Sequence[LowRankUpdate]]) -> None:
        self.sites, self._updates = list(sites), [list(own) for own in updates]

    def __len__(self) -> int:
        """``v``."""
        return len(self._updates)

    def some(self, start: int, stop: int) -> "Variants":
        """A part of the variants."""
        return Variants(self.sites, self._updates[start:stop])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, a pass takes ``v · r`` rows, and each variant's rows see its updates."""
        handles = []
        try:
            for index, site in enumerate(self.sites):
                handles.append(site.module.register_forward_hook(self._hook(index, site.weight.device)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, index: int, device: torch.device) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        own = [updates[index].to(device) for updates in self._updates]
        left = torch.stack([update.left for update in own]).mT  # [v, n, o]
        right = torch.stack([update.right for update in own]).mT  # [v, d, n]

        def add(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            inputs = args[0].reshape(len(own), -1, args[0].shape[-1]).to(right.dtype)
            return output + ((inputs @ right) @ left).reshape(output.shape).to(output.dtype)

        return add


def variant_parts(variants: int, tokens: int, batch_tokens: int) -> list[range]:
    """Splits variants where rows of some tokens for each would exceed what may be run at once."""
    size = max(1, min(variants, batch_tokens // max(1, tokens)))
    return [range(start, min(start + size, variants)) for start in range(0, variants, size)]
