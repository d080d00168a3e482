"""Targets v*: the hidden state at the subject's last token that makes the model predict the new answer.

For each edit a vector δ, added to the output of an edited layer (the last, the first or each, by ``method.targets``),
is optimized by gradient (ROME, MEMIT).
The result is that of the plain optimizer, which takes one edit at a time and runs the whole model each step;
the work is not. The layers below are run once, and so is every token before the subject's last. Logits are
computed only where a target token is predicted. All edits of a batch advance together, rows of similar length
in one part, and the rows of an edit that has converged are dropped.

Notation: ``n`` edits, ``o`` hidden size.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from aeplus.errors import InputError, require_not_negative, require_positive, require_types
from aeplus.models.decoder import Decoder
from aeplus.models.kernels import Fused
from aeplus.models.replay import Replay, response_of
from aeplus.models.response import Steering
from aeplus.targets.anchor import anchored, mlp_outputs
from aeplus.targets.packing import in_shares, joint_groups, target_parts, tokens_at_once
from aeplus.targets.passes import Passes, recorder
from aeplus.targets.rows import BatchRows

_STEPS_ON_TOP = 2  # MPES
_SHORTENINGS = 4
_CHECK_EVERY = {"cpu": 1}  # steps between two looks at what has converged; elsewhere a look waits for the device
_CHECK_ELSEWHERE = 4


@dataclass(frozen=True)
class TargetOptions:
    """How targets are optimized. The defaults are MEMIT's.

    Attributes:
        steps: Maximum number of gradient evaluations per edit; one fewer updates are made.
        learning_rate: Adam's learning rate (``v_lr``).
        clamp: Maximum norm of δ, relative to the hidden state.
        kl_factor: Weight of the KL term on ``"{subject} is a"``.
        weight_decay: Weight of ``‖δ‖ / ‖h‖²``.
        stop: When an edit has converged: by ``loss``, when its loss is below ``stop_loss``; by ``rank``, also when
            every token of the answer, behind every context, has been the model's first choice for two steps in a row
            (MPES, in ENCORE, https://arxiv.org/abs/2502.01636).
        stop_loss: Edits with loss below this are treated as converged.
        contexts: Number of sampled prefixes that a target is optimized after, in addition to the bare prompt.
        context_length: Maximum number of sampled tokens in each prefix.
        chunk_tokens: Maximum number of tokens run at once; bounds the memory of a step. On a GPU fewer are, where
            what they keep for the way back would take more than 0.3 of the free memory, or 3 GiB. Keys are read four
            times as many at once, on a GPU within 0.3 of the free memory.
        joint: Edits of a batch that have one key, such as several facts of one subject, share one target, learned for
            all of them together (MEMIT-Merge, https://arxiv.org/abs/2502.07322); otherwise each has a target of its
            own, and the update can only reach their mean.
        norm: ``anchor`` gives the MLP's output at every target the length that ``anchor`` has for the layer (NAS,
            https://arxiv.org/abs/2602.02543); ``free`` leaves it. For streams of thousands.
        anchor: For each layer at which targets are learned, the mean length on the clean model, such as ``{8: 5.1}``;
            ``aeplus inspect`` prints it.
        precision: ``bfloat16`` runs the layers above the one whose output is optimized in bfloat16, but not δ, the head
            and the loss: faster where the processor multiplies bfloat16 natively. ``full`` runs them in the model's
            dtype, as does a model in half precision always.
        graphs: On one GPU, record each pass as a CUDA graph and replay it, which spares its launches; where a pass
            cannot be recorded it runs as usual, with a warning. Elsewhere it changes nothing.
    """

    steps: int = 25
    learning_rate: float = 0.5
    clamp: float = 0.75
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    stop_loss: float = 0.05
    stop: Literal["loss", "rank"] = "loss"
    contexts: int = 5
    context_length: int = 10
    chunk_tokens: int = 4096
    joint: bool = True
    norm: Literal["free", "anchor"] = "free"
    anchor: dict[int, float] | None = None
    precision: Literal["full", "bfloat16"] = "full"
    graphs: bool = True

    def __post_init__(self) -> None:
        require_types(self, "targets")
        require_positive(self, "targets", "steps", "learning_rate", "clamp", "chunk_tokens", "context_length")
        require_not_negative(self, "targets", "contexts", "kl_factor", "weight_decay", "stop_loss")
        if self.stop not in ("loss", "rank"):
            msg = f"expected targets.stop loss or rank, got {self.stop!r}; choose one of these."
            raise InputError(msg)
        if self.norm not in ("free", "anchor"):
            msg = f"expected targets.norm free or anchor, got {self.norm!r}; choose one of these."
            raise InputError(msg)
        self._check_anchor()
        if self.precision not in ("full", "bfloat16"):
            msg = f"expected targets.precision full or bfloat16, got {self.precision!r}; choose one of these."
            raise InputError(msg)

    def _check_anchor(self) -> None:
        how = "write for example {8: 5.1}, as aeplus inspect prints it"
        if self.anchor is None:
            if self.norm == "anchor":
                msg = f"expected targets.anchor with targets.norm anchor, got none; {how}."
                raise InputError(msg)
            return
        try:
            lengths = {int(layer): float(length) for layer, length in self.anchor.items()}  # JSON has texts for layers
        except (AttributeError, TypeError, ValueError):
            lengths = {}
        if not lengths or not all(0 < length < float("inf") for length in lengths.values()):
            msg = f"expected targets.anchor to have a length above 0 for each layer, got {self.anchor!r}; {how}."
            raise InputError(msg)
        object.__setattr__(self, "anchor", lengths)

    def length(self, layer: int) -> float:
        """The anchor of a layer.

        Raises:
            InputError: If it has none.
        """
        if layer not in (self.anchor or {}):
            msg = (
                f"expected targets.anchor to have layer {layer}, at which targets are learned, got {self.anchor}; add "
                f"it, as aeplus inspect with model.layers [{layer}] prints it."
            )
            raise InputError(msg)
        return (self.anchor or {})[layer]


@dataclass(frozen=True)
class Targets:
    """Optimized targets of ``n`` edits.

    Attributes:
        values: ``v*`` ``[o, n]``.
        initial: The hidden states before the edit, ``v0`` ``[o, n]``.
        loss: Loss of each edit at its target, before the target is anchored, ``[n]``.
        steps: Gradient steps each edit took, ``[n]``.
        converged: Which edits stopped by themselves, by loss or rank, ``[n]``.
    """

    values: Tensor
    initial: Tensor
    loss: Tensor
    steps: Tensor
    converged: Tensor

    def to(self, device: torch.device) -> "Targets":
        """The same on a device."""
        return Targets(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def find_targets(
    decoder: Decoder,
    rows: BatchRows,
    layer: int,
    options: TargetOptions,
    progress: Callable[[int, int, int], None] | None = None,
    *,
    reachable: bool = True,
) -> Targets:
    """Optimizes the targets of a batch of edits at the output of ``layer``.

    Processes that share the model (``decoder.ranks``) share the edits, those with a joint target together, and all get
    every target.

    Args:
        decoder: The model; its parameters must not require gradients.
        rows: The batch's token rows.
        layer: The layer whose output is optimized.
        options: How to optimize.
        progress: Called with (step, steps, edits converged) after each step, on a GPU after every fourth; where edits
            are shared, with those of this process.
        reachable: Where the layer normalizes what its MLP puts out, keep targets to what it can put out: each step
            of the optimizer ends at the nearest such point. Elsewhere every target can be reached.

    Raises:
        InputError: If the model's forward pass cannot be replayed, or its hidden states are not finite.
    """

    def learned(some: BatchRows) -> Targets:
        shares = in_shares(decoder, some, layer + 1, _members(some, options.joint))  # as many as memory is for
        return _by_share(some, shares, lambda own: _learned(decoder, own, layer, options, progress, reachable))

    if decoder.ranks.alone:
        return learned(rows)
    members = _members(rows, options.joint)
    heads = rows.up_to_subject()
    ordered = sorted(members, key=lambda edits: sum(len(heads[edit * rows.contexts]) for edit in edits))

    def learn(share: Sequence[list[int]]) -> list[dict[str, Tensor]]:
        if not share:
            return []
        edits = sorted(edit for group in share for edit in group)
        found = learned(rows.some(edits))
        place = {edit: number for number, edit in enumerate(edits)}
        order = torch.tensor([place[edit] for group in share for edit in group], device=found.values.device)
        # One copy of each field, and a tensor of each group that is pickled alone.
        fields = {name: part[..., order].cpu() for name, part in vars(found).items()}
        split = {name: part.split([len(group) for group in share], -1) for name, part in fields.items()}
        return [{name: parts[i].clone() for name, parts in split.items()} for i in range(len(share))]

    found = decoder.ranks.split(ordered, learn)
    order = torch.tensor([edit for group in ordered for edit in group]).argsort()
    device = next(decoder.layers[layer].parameters()).device
    parts = {name: torch.cat([part[name] for part in found], -1)[..., order].to(device) for name in found[0]}
    return Targets(**parts)


def _members(rows: BatchRows, joint: bool) -> list[list[int]]:
    """The edits of each target."""
    members: dict[int, list[int]] = {}
    for edit, group in enumerate(joint_groups(rows, joint)):
        members.setdefault(group, []).append(edit)
    return list(members.values())


def _by_share(rows: BatchRows, shares: Sequence[Sequence[int]], learn: Callable[[BatchRows], Targets]) -> Targets:
    """The targets of a batch, learned share by share."""
    if len(shares) == 1:
        return learn(rows)
    found = [learn(rows.some(edits)) for edits in shares]
    order = torch.tensor([edit for edits in shares for edit in edits]).argsort()
    parts = {name: torch.cat([vars(own)[name] for own in found], -1) for name in vars(found[0])}
    return Targets(**{name: part[..., order.to(part.device)] for name, part in parts.items()})


def _learned(
    decoder: Decoder,
    rows: BatchRows,
    layer: int,
    options: TargetOptions,
    progress: Callable[[int, int, int], None] | None,
    reachable: bool,
) -> Targets:
    """The targets of a batch, or of a share of it."""
    anchor = options.length(layer) if options.norm == "anchor" else None
    first, groups = layer + 1, joint_groups(rows, options.joint)
    fused = Fused([*decoder.layers, *decoder.after], tried=decoder.tried.fused)
    ranks = decoder.ranks
    at_once = ranks.together(tokens_at_once(decoder, rows, first, options.chunk_tokens, fused=fused.both))
    with fused.applied():
        parts, initial = target_parts(decoder, rows, first, at_once, groups)
    n = len(initial)  # targets: fewer than edits where some are joint
    target_of = torch.tensor(groups, device=initial.device)
    if not bool(torch.isfinite(initial).all()):
        msg = "expected finite hidden states, got NaN or infinity from the model; check its weights and dtype."
        raise InputError(msg)
    parts[0].replay.check()
    lowered = options.precision == "bfloat16" and initial.dtype == parts[0].replay.hidden.dtype
    above: list[torch.nn.Module] = list(decoder.layers[first:])
    if lowered:
        # Above the layer whose output is optimized nothing changes while targets are optimized.
        above = [copy.deepcopy(module).bfloat16() for module in above]
        fused = Fused([*above, *decoder.after], tried=decoder.tried.fused)
        for part in parts:
            part.replay.lower_precision(above, torch.bfloat16)
    norm = initial.norm(dim=1)  # [n]
    steering = (
        _normalized_layer(decoder, rows, layer, [groups.index(g) for g in range(n)], initial.device)
        if reachable
        else None
    )

    delta = torch.zeros_like(initial, requires_grad=True)  # [n, o]
    adam = torch.optim.Adam([delta], lr=options.learning_rate)
    active = torch.ones(n, dtype=torch.bool, device=initial.device)
    loss = torch.zeros_like(norm)
    steps = torch.zeros(n, dtype=torch.long, device=initial.device)
    first_choice = torch.zeros_like(steps)  # steps in a row with every token of the answer on top
    # Between two looks nothing is read from the device: edits that have converged are frozen there.
    every = _CHECK_EVERY.get(initial.device.type, _CHECK_ELSEWHERE)
    passes = Passes(
        *(decoder, delta, options.kl_factor, at_once, fused),
        plain=lowered and delta.device.type == "cpu",
        record=recorder(decoder, delta.device, first) if options.graphs else None,
    )
    passes.take(parts)
    finite, running = torch.ones((), dtype=torch.bool, device=initial.device), n
    for step in range(options.steps):
        last = step == options.steps - 1
        delta.grad = None
        with torch.set_grad_enabled(not last):  # no update follows the last evaluation
            decay = options.weight_decay * delta.norm(dim=1) / norm**2
            if not last:
                decay.sum().backward()
        terms, misses = passes.run(options.steps - 1 - step)
        current = decay.detach() + terms.detach()
        finite = finite & torch.isfinite(current).all()
        loss = torch.where(active, current, loss)
        first_choice = torch.where(misses == 0, first_choice + 1, 0)
        active = active & (current >= options.stop_loss)
        if options.stop == "rank":
            active = active & (first_choice < _STEPS_ON_TOP)
        looks = last or (step + 1) % every == 0
        if looks:
            *still, good = ranks.together(torch.cat([active, finite[None]]).tolist())
            if ranks.sharded:  # whose own sums may round to another answer
                active = torch.tensor(still, device=active.device)
            if not good:
                msg = "expected a finite loss, got NaN or infinity for an edit; use model.dtype float32 or bfloat16."
                raise InputError(msg)
            if progress is not None:
                progress(step + 1, options.steps, sum(not still[group] for group in groups))
            if last or not any(still):
                break
        previous = delta.detach().clone()
        adam.step()
        with torch.no_grad():
            length = delta.norm(dim=1)
            longest = options.clamp * norm
            delta.mul_(torch.where(length > longest, longest / length, torch.ones_like(length))[:, None])
            if steering is not None:
                delta.copy_(_within_reach(steering, delta, longest, looks=every == 1))
            delta.copy_(torch.where(active[:, None], delta, previous))  # converged edits are frozen
        steps += active
        if looks and sum(still) < running:
            parts, running = [kept for kept in (part.keep(active) for part in parts) if kept is not None], sum(still)
            passes.take(parts)
    found = initial + delta.detach()
    if anchor is not None:
        edits = [groups.index(g) for g in range(n)]
        found = anchored(found, initial, mlp_outputs(decoder, rows, layer)[edits].to(initial), anchor)
    values = found[target_of].T
    initial = initial[target_of].T
    return Targets(values.contiguous(), initial.contiguous(), loss[target_of], steps[target_of], ~active[target_of])


def _normalized_layer(
    decoder: Decoder, rows: BatchRows, layer: int, edits: list[int], device: torch.device
) -> Steering | None:
    """The layer at the subjects of some edits, for states on a device; ``None`` if it normalizes no output."""
    site = next((site for site in decoder.sites if site.layer == layer), None)
    if site is None or response_of(decoder, site).norm is None:
        return None
    prompts = rows.prompts[:: rows.contexts]
    bare = [prompts[edit].ids[: prompts[edit].mark + 1] for edit in edits]
    with torch.no_grad():
        replay = Replay(decoder, bare, layer, [len(ids) for ids in bare])
        column = torch.tensor([len(ids) - 1 for ids in bare], device=replay.hidden.device)
        return replay.steer(replay.hidden.to(device), site, column)


def _within_reach(steering: Steering, delta: Tensor, longest: Tensor, *, looks: bool) -> Tensor:
    """The nearest δ ``[n, o]`` that a normalized output can make, shortened until it is within the clamp ``[n]``.

    Once it is, shortening changes nothing, so that only a device which answers at once is asked (``looks``).
    """
    aim = delta
    for _ in range(_SHORTENINGS):
        reached = steering.nearest(steering.values + aim, looks=looks) - steering.values
        excess = reached.norm(dim=1) / longest
        if looks and steering.agree(bool((excess <= 1).all())):
            break
        aim = aim / excess.clamp(min=1)[:, None]
    return reached
