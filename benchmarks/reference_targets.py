"""The plain target optimizer: one edit at a time, a full forward and backward pass at every step.

This is what published code does, kept small, as the reference for speed and correctness.
"""

from typing import Any

import torch
from torch import Tensor

from aeplus.models.decoder import Decoder
from aeplus.targets.optimizer import TargetOptions
from aeplus.targets.rows import BatchRows


def plain_targets(decoder: Decoder, rows: BatchRows, layer: int, options: TargetOptions) -> tuple[Tensor, Tensor]:
    """Targets ``[o, n]`` and the steps taken ``[n]``, optimized edit by edit."""
    results = [_plain_target(decoder, rows, edit, layer, options) for edit in range(rows.edits)]
    return torch.stack([v for v, _ in results], 1), torch.tensor([s for _, s in results])


def _plain_target(
    decoder: Decoder, rows: BatchRows, edit: int, layer: int, options: TargetOptions
) -> tuple[Tensor, int]:
    model, c = decoder.model, rows.contexts
    prompts, essence = rows.prompts[edit * c : (edit + 1) * c], rows.essence[edit]
    texts = [row.ids[:-1] for row in prompts] + [essence.ids]
    device = decoder.device
    marks = torch.tensor([row.mark for row in prompts] + [essence.mark], device=device)
    width = max(len(t) for t in texts)
    ids = torch.tensor([list(t) + [0] * (width - len(t)) for t in texts], device=device)
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts], device=device)
    labels = torch.full((c, width), -100, device=device)
    for i, row in enumerate(prompts):
        labels[i, row.answer - 1 : len(row.ids) - 1] = torch.tensor(row.answer_ids, device=device)

    every = torch.arange(len(texts), device=device)
    delta: Tensor | None = None
    initial: Tensor | None = None

    def add_delta(_: Any, __: Any, output: Any) -> Any:
        nonlocal delta, initial
        hidden = output[0] if isinstance(output, tuple) else output
        if initial is None:
            initial = hidden[0, marks[0]].detach().clone()
            delta = torch.zeros_like(initial, requires_grad=True)
        assert delta is not None
        hidden = hidden.index_put((every, marks), hidden[every, marks] + delta)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    reference: Tensor | None = None
    adam: torch.optim.Adam | None = None
    taken = 0
    handle = decoder.layers[layer].register_forward_hook(add_delta)
    try:
        for step in range(options.steps):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            logp = logits.log_softmax(-1)
            now = logp[-1, marks[-1]]
            if reference is None:
                reference = now.detach()
            chosen = logp[:-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
            answers = labels != -100
            nll = (-(chosen * answers).sum(1) / answers.sum(1)).mean()
            assert delta is not None
            assert initial is not None
            kl = (now.exp() * (now - reference)).sum()
            loss = nll + options.kl_factor * kl + options.weight_decay * delta.norm() / initial.norm() ** 2
            if loss < options.stop_loss or step == options.steps - 1:
                break
            adam = adam or torch.optim.Adam([delta], lr=options.learning_rate)
            adam.zero_grad()
            loss.backward()
            adam.step()
            taken += 1
            with torch.no_grad():
                longest = options.clamp * initial.norm()
                if delta.norm() > longest:
                    delta.mul_(longest / delta.norm())
    finally:
        handle.remove()
    assert initial is not None
    assert delta is not None
    return (initial + delta).detach(), taken
