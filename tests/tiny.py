"""Tiny random models of many architectures, and a tokenizer for them, made from nothing."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_GROUPED = {"num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": _COMMON,
    "phi": _COMMON,
    "llama": {**_COMMON, **_GROUPED},
    "mistral": {**_COMMON, **_GROUPED, "sliding_window": 8},
    "qwen2": {**_COMMON, **_GROUPED},
    "qwen3": {**_COMMON, **_GROUPED, "head_dim": 8},
    "gemma": {**_COMMON, **_GROUPED, "head_dim": 8},
    "gemma2": {**_COMMON, **_GROUPED, "head_dim": 8, "sliding_window": 8},
}


def tiny_model(kind: str = "llama", seed: int = 0, attention: str = "sdpa", **changes: Any) -> Any:
    """A random model of the architecture ``kind``, in evaluation mode."""
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except ValueError:  # some families have torch's attention in later versions of transformers only
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # fresh models answer alike everywhere; larger weights tell prompts apart
                parameter.mul_(4.0)
        if not model.config.get_text_config().tie_word_embeddings:
            model.get_output_embeddings().weight.mul_(6.0)
    return model.eval().requires_grad_(False)


def tiny_tokenizer(side: str = "right", bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences."""
    text = ["The capital of France is Paris.", "Rome is the capital of Italy.", "People speak English in London."]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders, processors

    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(text, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>", padding_side=side
    )
