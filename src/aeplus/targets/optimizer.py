"""Targets v*: the hidden state at the subject's last token that makes the model say the new fact.

For each edit a vector δ, added to the output of the last edited layer, is learnt by gradient (ROME, MEMIT).
The result is that of the plain optimiser, which takes one edit at a time and runs the whole model each step;
the work is not. The layers below are run once, and so is every token before the subject's last. Logits are
computed where a target is predicted and nowhere else. All edits of a batch advance together, rows of similar
length side by side, and an edit that has converged leaves.

Notation: ``n`` edits, ``c`` contexts, ``o`` hidden size, ``r`` rows of a group.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aeplus.errors import InputError, require_not_negative, require_positive
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.targets.packing import Group, build_groups, bundle_groups
from aeplus.targets.rows import BatchRows


@dataclass(frozen=True)
class TargetOptions:
    """How targets are learnt. The defaults are MEMIT's.

    Attributes:
        steps: Most gradient evaluations per edit; one fewer updates than this are made.
        learning_rate: Adam's learning rate (``v_lr``).
        clamp: Longest δ, as a share of the norm of the hidden state it is added to.
        kl_factor: Weight of the KL term on ``"{subject} is a"``.
        weight_decay: Weight of ``‖δ‖ / ‖h‖²``.
        stop_loss: An edit whose loss is below this has converged.
        contexts: How many sampled prefixes a target must hold behind, beside the bare prompt.
        context_length: Tokens in each prefix.
        chunk_tokens: Tokens run at once; bounds the memory of a step.
        precision: ``bfloat16`` runs the layers above the last edited one in bfloat16, with δ, the head and the loss
            as they are: faster where the processor multiplies bfloat16 natively. ``full`` runs them in the model's
            dtype; a model in half precision always does.
    """

    steps: int = 25
    learning_rate: float = 0.5
    clamp: float = 0.75
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    stop_loss: float = 0.05
    contexts: int = 5
    context_length: int = 10
    chunk_tokens: int = 4096
    precision: Literal["full", "bfloat16"] = "full"

    def __post_init__(self) -> None:
        require_positive(self, "targets", "steps", "learning_rate", "clamp", "chunk_tokens", "context_length")
        require_not_negative(self, "targets", "contexts", "kl_factor", "weight_decay", "stop_loss")
        if self.precision not in ("full", "bfloat16"):
            msg = f"targets.precision must be full or bfloat16, but {self.precision!r} came; choose one of these."
            raise InputError(msg)


@dataclass(frozen=True)
class Targets:
    """Learnt targets of ``n`` edits.

    Attributes:
        values: ``v*`` ``[o, n]``.
        initial: The hidden states before the edit, ``v0`` ``[o, n]``.
        loss: Loss of each edit at its target, ``[n]``.
        steps: Gradient steps each edit took, ``[n]``.
        converged: Which edits came below the stopping loss, ``[n]``.
    """

    values: Tensor
    initial: Tensor
    loss: Tensor
    steps: Tensor
    converged: Tensor


def find_targets(
    decoder: Decoder,
    rows: BatchRows,
    layer: int,
    options: TargetOptions,
    progress: Callable[[int, int, int], None] | None = None,
) -> Targets:
    """Learns the targets of a batch of edits at the output of ``layer``.

    Args:
        decoder: The model; its parameters must not require gradients.
        rows: The batch's token rows.
        layer: The last edited layer.
        options: How to learn.
        progress: Called with (step, steps, edits converged) after each step.

    Raises:
        InputError: If the model's forward pass cannot be replayed, or its hidden states are not finite.
    """
    first, n = layer + 1, rows.edits
    groups, initial = build_groups(decoder, rows, first, options.chunk_tokens)
    if not bool(torch.isfinite(initial).all()):
        msg = "expected finite hidden states, but the model yields NaN or infinity; check its weights and dtype."
        raise InputError(msg)
    groups[0].replay.check()
    narrow = options.precision == "bfloat16" and initial.dtype == groups[0].replay.hidden.dtype
    if narrow:
        # Above the last edited layer nothing changes while targets are learnt.
        copies = [copy.deepcopy(module).bfloat16() for module in decoder.layers[first:]]
        for group in groups:
            group.replay.narrow(copies, torch.bfloat16)
    norm = initial.norm(dim=1)  # [n]

    delta = torch.zeros_like(initial, requires_grad=True)  # [n, o]
    adam = torch.optim.Adam([delta], lr=options.learning_rate)
    active = torch.ones(n, dtype=torch.bool, device=initial.device)
    loss = torch.zeros_like(norm)
    steps = torch.zeros(n, dtype=torch.long, device=initial.device)
    for step in range(options.steps):
        last = step == options.steps - 1
        delta.grad = None
        with torch.set_grad_enabled(not last):  # no update follows the last evaluation
            decay = options.weight_decay * delta.norm(dim=1) / norm**2
            current = decay.detach().clone()
            for bundle in bundle_groups(groups, options.chunk_tokens):
                with _attention(narrow and delta.device.type == "cpu"):
                    part = _loss(decoder, bundle, delta, options.kl_factor, n)
                    current += part.detach()
                    if not last:
                        part.sum().backward()
            if not last:
                decay.sum().backward()
        if not bool(torch.isfinite(current).all()):
            msg = (
                "expected a finite loss, but it is NaN or infinite for some edit; use model.dtype float32 or bfloat16."
            )
            raise InputError(msg)
        loss = torch.where(active, current, loss)
        active = active & (current >= options.stop_loss)
        if progress is not None:
            progress(step + 1, options.steps, n - int(active.sum()))
        if last or not bool(active.any()):
            break
        kept = delta.detach().clone()
        adam.step()
        with torch.no_grad():
            length = delta.norm(dim=1)
            longest = options.clamp * norm
            delta.mul_(torch.where(length > longest, longest / length, torch.ones_like(length))[:, None])
            delta.copy_(torch.where(active[:, None], delta, kept))  # who has converged stays where it is
        steps += active
        groups = [group for group in (g.keep(active) for g in groups) if group is not None]
    values = (initial + delta.detach()).T
    return Targets(values.contiguous(), initial.T.contiguous(), loss, steps, ~active)


def _attention(plain: bool) -> AbstractContextManager[None]:
    """On a CPU, the fused attention's way back takes seventy times as long in bfloat16 as in float32."""
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def _loss(decoder: Decoder, groups: list[Group], delta: Tensor, kl_factor: float, n: int) -> Tensor:
    """The part of every edit's loss that some groups hold, ``[n]``."""
    places: list[Tensor] = []
    for group in groups:
        hidden = group.replay.hidden
        moved = hidden[:, 0] + delta[group.edit].to(hidden.dtype)
        hidden = torch.cat([moved[:, None], hidden[:, 1:]], 1)
        hidden = group.replay.run(hidden, group.replay.first, len(decoder.layers))
        places += [hidden[group.row, group.column], hidden[group.essence, 0]]
    parts = at_least_float32(decoder.logits(torch.cat(places))).split([len(part) for part in places])
    loss = delta.new_zeros(n)
    for group, answers, essence in zip(groups, parts[::2], parts[1::2], strict=True):
        if len(answers):
            nll = F.cross_entropy(answers, group.wanted, reduction="none") * group.share
            loss = loss.index_add(0, group.edit[group.row], nll)
        if len(essence):
            logp = essence.log_softmax(-1)
            kl = (logp.exp() * (logp - group.reference)).sum(-1)  # KL(now ‖ before), as in ROME
            loss = loss.index_add(0, group.edit[group.essence], kl_factor * kl)
    return loss
