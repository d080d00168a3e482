import torch

from aeplus.models.generate import sample
from tiny import tiny_model, tiny_tokenizer

PROMPTS = ["Rome is", "The capital of France is Paris and"]


def test_the_same_seed_gives_the_same_texts() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    state = torch.random.get_rng_state()
    one, again, other = (sample(model, tokenizer, PROMPTS, new_tokens=6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert one == again != other


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
