"""Targets of one length: ``targets.norm: anchor`` (NAS, arXiv 2602.02543).

Over thousands of edits the targets of a layer's MLP grow longer, and the model with them. Anchored, each keeps its
direction and has the length that targets have on the clean model.

Notation: ``n`` targets, ``o`` hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.hooks import at_columns, on_input
from aeplus.models.predict import batches
from aeplus.models.replay import response_of
from aeplus.models.tokens import TokenRow, pad
from aeplus.targets.rows import BatchRows

_TRIMMED = 0.05
_TOO_LONG = 2.0  # anchors
_BATCH_TOKENS = 1024


def anchored(values: Tensor, initial: Tensor, outputs: Tensor, length: float) -> Tensor:
    """Targets whose MLP output has a given length.

    With ``v* = v0 + (values − initial)`` they are ``(h0 − v0) + ρ̄ v* / ‖v*‖``; a target with ``‖v*‖ > 2 ρ̄`` is an
    outlier, which stays at ``h0``: nothing is edited.

    Args:
        values: Hidden states to be reached at the layer's output, ``[n, o]``.
        initial: The hidden states before, ``h0`` ``[n, o]``.
        outputs: The MLP's outputs before, ``v0`` ``[n, o]``.
        length: ``ρ̄``, above 0.

    Example:
        >>> h, v = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]])
        >>> anchored(h + torch.tensor([[0.0, 2.0]]), h, v, 2.0)  # v* = (0, 3)
        tensor([[1., 2.]])
        >>> anchored(h + torch.tensor([[0.0, 2.0]]), h, v, 1.0)
        tensor([[1., 1.]])
    """
    star = outputs + (values - initial)
    norm = star.norm(dim=1, keepdim=True)
    wanted = initial - outputs + length * star / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return torch.where(norm > _TOO_LONG * length, initial, wanted)


def anchor_length(lengths: Tensor) -> float:
    """``ρ̄``: the mean of the lengths ``‖v*‖`` ``[n]`` without the largest 5 %.

    Example:
        >>> anchor_length(torch.tensor([2.0] * 19 + [100.0]))
        2.0
    """
    ordered = lengths.double().sort().values
    return float(ordered[: len(ordered) - int(_TRIMMED * len(ordered))].mean())


@torch.no_grad()
def mlp_outputs(decoder: Decoder, rows: BatchRows, layer: int) -> Tensor:
    """What a layer's MLP puts out at the subjects' last tokens of the bare prompts, ``v0`` ``[edits, o]``.

    Args:
        decoder: The model.
        rows: The batch's token rows.
        layer: The layer.

    Raises:
        InputError: If the layer scales or normalizes what its MLP puts out before it joins the stream.
    """
    site = next((site for site in decoder.sites if site.layer == layer), None)
    if site is None or not response_of(decoder, site).plain:
        msg = (
            f"expected a layer that adds its MLP's output to the stream as it is for targets.norm anchor, got layer "
            f"{layer}, which does not; use targets.norm free."
        )
        raise InputError(msg)
    found: dict[TokenRow, Tensor] = {}
    prompts = rows.prompts[:: rows.contexts]
    for batch in batches(sorted(set(prompts), key=lambda row: len(row.ids)), _BATCH_TOKENS):

        def receive(_: int, inputs: Tensor, batch: Sequence[TokenRow] = batch) -> None:
            marks = torch.tensor([row.mark for row in batch], device=inputs.device)
            found.update(zip(batch, at_columns(inputs, marks), strict=True))

        with on_input([site.module], receive, stop=True):
            decoder.forward(*pad([row.ids for row in batch], "right"))
    return at_least_float32(site.module(torch.stack([found[row] for row in prompts])))
