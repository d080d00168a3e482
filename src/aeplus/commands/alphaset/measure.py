"""The three quantities that tell how hard an edit is: s(k, K0), s(k, Kp) and ‖r‖, measured on a model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder, EditSite
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from aeplus.utils.progress import Progress

_BARE = [""]  # no contexts: the prompt alone
Keys = list[Tensor]
"""The keys of some edits at every edited layer, ``[d, n]`` each, on the CPU."""


class Measurer:
    """Measures edits on the unedited model; bare prompts, without contexts.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers. Conflicts are means over them; ‖r‖ is taken at the third (the last, if fewer).
        targets: How targets are learnt.
        progress: Where to show how far it is.
        batch: Edits run at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        sites: Sequence[EditSite],
        targets: TargetOptions,
        progress: Progress,
        batch: int = 32,
    ) -> None:
        self.decoder, self.tokenizer, self.sites, self.targets = decoder, tokenizer, list(sites), targets
        self.progress, self.batch = progress, batch
        self.residual_layer = self.sites[min(2, len(self.sites) - 1)].layer

    def keys(self, requests: Sequence[EditRequest], what: str) -> Keys:
        """Keys at the subjects' last tokens; ``what`` is said beside the bar.

        Raises:
            InputError: If a prompt is too long for the model.
        """
        read: list[list[Tensor]] = [[] for _ in self.sites]
        with self.progress.task(f"keys of {what}", len(requests)) as advance:
            for part in self._parts(requests):
                rows = batch_rows(self.tokenizer, part, _BARE, self.decoder.context_length)
                reader = KeyReader(self.decoder, rows, self.sites)
                for found, site in zip(read, self.sites, strict=True):
                    found.append(reader.read(site, site)[0].cpu())
                advance(len(part))
        return [torch.cat(found, 1) for found in read]

    def residuals(self, requests: Sequence[EditRequest], what: str) -> list[float]:
        """‖v* - v0‖ of each edit at the third edited layer, with targets learnt there.

        Raises:
            InputError: If a prompt is too long, or something is not finite.
        """
        norms: list[Tensor] = []
        with self.progress.task(f"residuals of {what}", len(requests)) as advance:
            for part in self._parts(requests):
                rows = batch_rows(self.tokenizer, part, _BARE, self.decoder.context_length)
                found = find_targets(self.decoder, rows, self.residual_layer, self.targets)
                norms.append((found.values - found.initial).norm(dim=0))
                advance(len(part))
        return [value for part in norms for value in part.tolist()]

    def _parts(self, requests: Sequence[EditRequest]) -> list[Sequence[EditRequest]]:
        return [requests[start : start + self.batch] for start in range(0, len(requests), self.batch)]


def preserved_conflict(keys: Keys, preserved: Keys) -> list[float]:
    """s(k, K0) of each edit (Eq. 3), mean over the layers."""
    layers = [fn.conflict(k, p.to(k)) for k, p in zip(keys, preserved, strict=True)]
    return _means(layers)


def prior_conflict(keys: Keys) -> list[float]:
    """s(k, Kp) of each edit with all that stand before it, mean over the layers; 0 for the first."""
    return _means([_cosines(k).tril(-1).amax(1) for k in keys])


def mutual_conflict(keys: Keys) -> list[float]:
    """The largest |cos| of each key with any other, mean over the layers."""
    return _means([_cosines(k).fill_diagonal_(0).amax(1) for k in keys])


def pair_conflict(keys: Keys, others: Keys) -> list[float]:
    """|cos| of each key with the one at its place in ``others``, mean over the layers."""
    layers = [torch.cosine_similarity(k, o, dim=0).abs() for k, o in zip(keys, others, strict=True)]
    return _means(layers)


def chosen_keys(keys: Keys, places: Sequence[int]) -> Keys:
    """The keys of some of the edits."""
    return [k[:, list(places)] for k in keys]


def joined_keys(*parts: Keys) -> Keys:
    """The keys of several groups of edits, one behind the other."""
    return [torch.cat(layer, 1) for layer in zip(*parts, strict=True)]


def _cosines(keys: Tensor) -> Tensor:
    """|cos| of all pairs of keys ``[d, n]``, ``[n, n]``; each is normalised once, unlike in Eq. 3 edit by edit."""
    unit = torch.nn.functional.normalize(keys, dim=0)
    return (unit.T @ unit).abs().clamp(max=1)


def _means(layers: list[Tensor]) -> list[float]:
    values: list[float] = torch.stack(layers).mean(0).tolist()
    return values
