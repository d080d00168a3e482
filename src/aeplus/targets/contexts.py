"""Context prefixes, sampled from the model itself, before which an edit must hold too."""

from typing import Any

import torch

_STARTS = ("The", "Therefore", "Because", "I", "You")


@torch.no_grad()
def sample_contexts(model: Any, tokenizer: Any, count: int = 5, length: int = 10, seed: int = 0) -> list[str]:
    """Samples short texts to put in front of the edit prompts (MEMIT's context templates).

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        count: How many prefixes.
        length: New tokens in each.
        seed: Seed of the sampling; the global generator is left as it was.

    Returns:
        ``count + 1`` prefixes; the first is empty (the bare prompt), each other ends with ``". "``.
    """
    if count == 0:
        return [""]
    starts = [tokenizer(_STARTS[i % len(_STARTS)])["input_ids"] for i in range(count)]
    width = max(len(s) for s in starts)
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[s[0]] * (width - len(s)) + list(s) for s in starts]).to(device)
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in starts]).to(device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=5,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=1,
            max_new_tokens=length,
            pad_token_id=pad or 0,
        )
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    return [""] + [" ".join(text.split()) + ". " for text in texts]
