"""The rewriter that the options ``--rewriter`` and ``--rewriter-model`` of a command choose."""

from collections.abc import Sequence
from typing import Any

from aeplus.data.paraphrase import ModelRewriter, Rewriter
from aeplus.errors import InputError
from aeplus.models.generate import sample
from aeplus.models.loading import load_on_device
from aeplus.models.tokens import token_ids


def named_rewriter(kind: str, name: str | None, seed: int, loaded: tuple[Any, Any] | None = None) -> Rewriter:
    """The rewriter of a command's options.

    Args:
        kind: ``templates`` or ``lm``.
        name: Name of the language model.
        seed: Seed of its draws.
        loaded: That model and its tokenizer; loaded by name if left out.

    Raises:
        InputError: If a language model is needed and none is named, or it cannot be loaded.
    """
    if kind == "templates":
        return Rewriter(seed)
    if name is None:
        msg = "expected --rewriter-model with --rewriter lm, got none; give a hub id or a folder."
        raise InputError(msg)
    model, tokenizer = loaded or load_on_device(name)
    return model_rewriter(model, tokenizer, name, seed)


def model_rewriter(model: Any, tokenizer: Any, name: str = "", seed: int = 0) -> ModelRewriter:
    """A rewriter that asks a loaded language model: greedily at first, then by nucleus sampling.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        name: Its name, for the record.
        seed: Seed of the sampling and of the templates.
    """

    def write(prompts: Sequence[str], new_tokens: int, seed: int | None) -> list[str]:
        options: dict[str, Any] = {} if seed is None else {"top_p": 0.9, "top_k": 0}
        return sample(model, tokenizer, prompts, new_tokens=new_tokens, seed=seed, **options)

    def count_tokens(text: str) -> int:
        return len(token_ids(tokenizer, text))

    return ModelRewriter(write, count_tokens, name, seed)
