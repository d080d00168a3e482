from typing import Any

import pytest
import torch

from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate, sample
from tiny import tiny_model, tiny_tokenizer

PROMPTS = ["Rome is", "The capital of France is Paris and"]


def test_the_same_seed_gives_the_same_texts() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    state = torch.random.get_rng_state()
    one, again, other = (sample(model, tokenizer, PROMPTS, new_tokens=6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert one == again != other


@pytest.mark.parametrize("seed", [None, 3])
def test_only_the_own_generators_are_seeded(seed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other devices would not be as they were afterwards."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeded.append)
    sample(model, tokenizer, PROMPTS, new_tokens=2, seed=seed)
    assert seeded == []


@pytest.mark.parametrize(
    "settings",
    [
        {"return_dict_in_generate": True, "output_scores": True},
        {"num_return_sequences": 2},
        {"num_beams": 3},
        {"stop_strings": ["a"]},
        {"token_healing": True},
        {"suppress_tokens": list(range(5, 200))},
        {"bad_words_ids": [[token] for token in range(5, 200)]},
        {"repetition_penalty": 9.0, "temperature": 9.0},
        {"min_p": 0.9, "max_length": 4},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_checkpoints_own_settings_change_nothing(settings: dict[str, Any]) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()

    def texts() -> list[list[str]]:
        drawn = sample(model, tokenizer, PROMPTS, new_tokens=6, seed=1, top_k=5)
        answers = generate(Decoder(model), tokenizer, PROMPTS, 6)
        return [drawn, sample(model, tokenizer, PROMPTS, new_tokens=6, seed=None), answers]

    plain = texts()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    own = model.generation_config
    assert texts() == plain
    assert model.generation_config is own


def test_greedy_without_a_seed() -> None:
    """Against one prompt at a time."""
    model, tokenizer = tiny_model(), tiny_tokenizer(bos=True)
    greedy = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 1}
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **greedy)[0]
        texts.append([tokenizer.decode(part, skip_special_tokens=True) for part in (output[ids.shape[1] :], output)])
    assert sample(model, tokenizer, PROMPTS, new_tokens=6, seed=None) == [text for text, _ in texts]
    whole = sample(model, tokenizer, PROMPTS, new_tokens=6, seed=None, with_prompt=True)
    assert whole == [text for _, text in texts]
