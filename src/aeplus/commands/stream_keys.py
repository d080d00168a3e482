"""Keys and residuals of edits on the unedited model: of a stream batch by batch, or of bare prompts.

Notation: ``n`` edits, ``d`` inputs of a layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.models.replay import response_of
from aeplus.models.sites import EditSite
from aeplus.targets.anchor import mlp_outputs
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import BatchRows, batch_rows
from aeplus.utils.progress import Progress

_BARE = [""]  # no contexts: the prompt alone
Keys = list[Tensor]
"""The keys of some edits at every edited layer, ``[d, n]`` each, on the CPU."""


def stream_rows(
    decoder: Decoder, tokenizer: Any, requests: Sequence[EditRequest], contexts: Sequence[str], size: int
) -> list[BatchRows]:
    """The token rows of a stream.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        requests: The stream.
        contexts: Prefixes of the prompts; the first is empty.
        size: Edits per batch.

    Raises:
        InputError: If a prompt is too long for the model.
    """
    return [
        batch_rows(tokenizer, requests[start : start + size], contexts, decoder.context_length)
        for start in range(0, len(requests), size)
    ]


def read_keys(
    decoder: Decoder,
    sites: Sequence[EditSite],
    batches: Sequence[BatchRows],
    progress: Progress,
    label: str = "keys",
    device: torch.device | None = None,
) -> list[Tensor]:
    """The keys of all edits at each edited layer.

    Args:
        decoder: The model.
        sites: The edited layers, ascending.
        batches: Rows from :func:`stream_rows`.
        progress: Where progress is shown.
        label: Its label.
        device: Where the keys are kept; by default where they are computed.

    Returns:
        For each layer ``[d, n]``.
    """
    parts: list[list[Tensor]] = [[] for _ in sites]
    with progress.task(label, sum(rows.edits for rows in batches)) as advance:
        for rows in batches:
            reader = KeyReader(decoder, rows, list(sites))
            for keys, site in zip(parts, sites, strict=True):
                keys.append(reader.read(site, site)[0].to(device))
            advance(rows.edits)
    return [torch.cat(keys, 1) for keys in parts]


def read_residuals(
    decoder: Decoder,
    batches: Sequence[BatchRows],
    layer: int,
    options: TargetOptions,
    progress: Progress,
    label: str = "targets",
    *,
    anchor: bool = False,
) -> list[tuple[Tensor, Tensor | None]]:
    """‖r‖ = ‖v* - v0‖ of all edits at a layer, with targets optimized there, and the length ‖v*‖ of the MLP's output.

    Args:
        decoder: The model.
        batches: Rows from :func:`stream_rows`.
        layer: The layer.
        options: How targets are optimized; they are not anchored.
        progress: Where progress is shown.
        label: Its label.
        anchor: Whether ‖v*‖ is asked for, which is none where the layer does not add its MLP's output as it is.

    Returns:
        For each batch ``[n]`` twice.

    Raises:
        InputError: If something is not finite.
    """
    found: list[tuple[Tensor, Tensor | None]] = []
    free = replace(options, norm="free")
    site = next(site for site in decoder.sites if site.layer == layer)
    plain = anchor and response_of(decoder, site).plain
    with progress.task(label, sum(rows.edits for rows in batches)) as advance:
        for rows in batches:
            targets = find_targets(decoder, rows, layer, free)
            moved = targets.values - targets.initial
            lengths = (mlp_outputs(decoder, rows, layer).T.to(moved) + moved).norm(dim=0) if plain else None
            found.append((moved.norm(dim=0), lengths))
            advance(rows.edits)
    return found


class Measurer:
    """Measures edits on the unedited model; bare prompts, without contexts.

    Args:
        decoder: The model.
        tokenizer: Its tokenizer.
        sites: The edited layers. Conflicts are means over them; ‖r‖ is taken at the third (the last, if fewer).
        targets: How targets are optimized.
        progress: Where progress is shown.
        batch: Edits run at once.

    Attributes:
        residual_layer: The layer of ‖r‖.
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

    def keys(self, requests: Sequence[EditRequest], label: str) -> Keys:
        """Keys at the subjects' last tokens; ``label`` is shown with the progress.

        Raises:
            InputError: If a prompt is too long for the model.
        """
        rows = self._rows(requests)
        return read_keys(self.decoder, self.sites, rows, self.progress, f"keys of {label}", device=torch.device("cpu"))

    def residuals(self, requests: Sequence[EditRequest], label: str) -> list[float]:
        """‖v* - v0‖ of each edit at the third edited layer, with targets optimized there.

        Raises:
            InputError: If a prompt is too long, or something is not finite.
        """
        rows, layer = self._rows(requests), self.residual_layer
        found = read_residuals(self.decoder, rows, layer, self.targets, self.progress, f"residuals of {label}")
        return [value for norms, _ in found for value in norms.tolist()]

    def _rows(self, requests: Sequence[EditRequest]) -> list[BatchRows]:
        return stream_rows(self.decoder, self.tokenizer, requests, _BARE, self.batch)
