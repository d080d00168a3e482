"""Scores of options agree with one forward pass per item and option, whatever the tokenizer and the batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.evaluation.capabilities.items import TaskItem, TaskItems, load_tasks
from aeplus.evaluation.capabilities.likelihood import likeliest_options, option_likelihoods, task_prompts
from aeplus.evaluation.capabilities.tasks import CapabilityOptions
from aeplus.models.decoder import Decoder
from tiny import tiny_model, tiny_tokenizer

TEXTS = ["Rome", "The capital of Italy is Rome.", "France, Italy and more", "x", "People speak English in London."]


def toy_items(task: Any, texts: list[str] = TEXTS) -> TaskItems:
    return TaskItems(task, tuple(TaskItem({"text": text}, 0, "toy") for text in texts))


def reference(model: Any, tokenizer: Any, prompt: str, option: str, mean: bool = True) -> float:
    """Log-likelihood of an option, from one text and its own tokens."""
    before = tokenizer(prompt)["input_ids"]
    ids = tokenizer(f"{prompt} {option}")["input_ids"]
    assert ids[: len(before)] == before
    logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    parts = [float(logs[index - 1, ids[index]]) for index in range(len(before), len(ids))]
    return sum(parts) / (len(parts) if mean else 1)


def likelihoods(model: Any, tokenizer: Any, items: TaskItems, **options: Any) -> Tensor:
    decoder = Decoder(model)
    return option_likelihoods(decoder, task_prompts(tokenizer, items, decoder.context_length), **options)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("options", [("Paris", "Italy"), ("Paris", "wonderful", "no"), ("positive", "negative")])
@pytest.mark.parametrize("mean", [True, False])
def test_agrees_with_one_item_at_a_time(toy: Any, bos: bool, options: tuple[str, ...], mean: bool) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer(bos=bos, side="left" if bos else "right")
    task = toy(*options)
    found = likelihoods(model, tokenizer, toy_items(task), normalize="mean" if mean else "sum", batch_tokens=130)
    expected = [
        [reference(model, tokenizer, task.prompt({"text": text}), option, mean) for option in options] for text in TEXTS
    ]
    assert torch.allclose(found, torch.tensor(expected), atol=2e-4)
    assert found.argmax(-1).tolist() == torch.tensor(expected).argmax(-1).tolist()


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "gpt_neox", "phi", "mistral", "qwen3", "gemma2"])
def test_agrees_on_other_architectures(toy: Any, kind: str) -> None:
    model = tiny_model(kind, attention="eager" if kind == "gemma2" else "sdpa")
    tokenizer, task = tiny_tokenizer(bos=True), toy("Paris", "wonderful")
    found = likelihoods(model, tokenizer, toy_items(task), batch_tokens=10_000)
    expected = [
        [reference(model, tokenizer, task.prompt({"text": text}), option) for option in task.options] for text in TEXTS
    ]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)


def count_passes(decoder: Decoder, passes: list[tuple[int, ...]]) -> Any:
    decoder.logits(torch.zeros(1, 1, decoder.config.hidden_size))  # what is measured once is not counted
    return decoder.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )


def test_an_item_is_one_pass_where_its_options_are_single_tokens(toy: Any) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    decoder = Decoder(model)
    passes: list[tuple[int, ...]] = []
    with count_passes(decoder, passes):
        prompts = task_prompts(tokenizer, toy_items(toy("Paris", "Italy", "London", "France")), None)
        assert {len(option) for prompt in prompts for option in prompt.options} == {1}
        option_likelihoods(decoder, prompts, batch_tokens=10_000)
    assert passes == [(5, max(len(prompt.ids) for prompt in prompts))]


def test_options_of_several_tokens_share_their_prompt(toy: Any) -> None:
    decoder = Decoder(tiny_model())
    passes: list[tuple[int, ...]] = []
    prompts = task_prompts(tiny_tokenizer(), toy_items(toy("Paris", "no")), None)
    with count_passes(decoder, passes):
        option_likelihoods(decoder, prompts, batch_tokens=10_000)
    longest = max(len(option) for prompt in prompts for option in prompt.options)
    assert longest == 3
    assert passes == [(5, max(len(prompt.ids) for prompt in prompts)), (5, longest - 1)]


@pytest.mark.parametrize("batch_tokens", [1, 60, 200])
def test_batches_hold_no_more_than_the_bound(toy: Any, batch_tokens: int) -> None:
    decoder, done = Decoder(tiny_model()), []
    passes: list[tuple[int, ...]] = []
    prompts = task_prompts(tiny_tokenizer(), toy_items(toy("Paris", "Italy")), None)
    with count_passes(decoder, passes):
        found = option_likelihoods(decoder, prompts, batch_tokens=batch_tokens, advance=done.append)
    assert all(rows == 1 or rows * width <= batch_tokens for rows, width in passes)
    assert sum(done) == 5
    assert len(done) == len(passes)
    assert torch.allclose(found, option_likelihoods(decoder, prompts, batch_tokens=10_000), atol=1e-4)


def test_half_precision_gives_finite_scores(toy: Any) -> None:
    found = likelihoods(tiny_model().bfloat16(), tiny_tokenizer(), toy_items(toy("Paris", "wonderful")))
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())


def test_the_first_of_equal_options_is_taken_and_no_number_is_no_answer() -> None:
    scores = torch.tensor([[-1.0, -1.0], [-2.0, -1.0], [-1.0, torch.nan], [torch.nan, torch.nan]])
    assert likeliest_options(scores) == [0, 1, -1, -1]


def test_tokens_that_depend_on_the_option_count_as_the_options(toy: Any) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*"enA: xy", " x", ": x", "A:", "nA"])}
    merges = [(" ", "x"), (":", " x"), ("A", ":"), ("n", "A")]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    task = replace(toy("x", "y"), template="{text}A:")
    (prompt,) = task_prompts(PreTrainedTokenizerFast(tokenizer_object=core), toy_items(task, ["en"]), None)
    tokens = {i: token for token, i in vocabulary.items()}
    assert [tokens[i] for i in prompt.ids] == ["e"]
    assert [[tokens[i] for i in option] for option in prompt.options] == [["nA", ": x"], ["n", "A:", " ", "y"]]


# ---- examples and the context


def test_examples_stand_before_every_item(folder: Path) -> None:
    tokenizer = tiny_tokenizer(bos=True)
    (items,) = load_tasks("sst2", folder, CapabilityOptions(limit=3, shots=2))
    for item, prompt in zip(items.scored, task_prompts(tokenizer, items, None), strict=True):
        text = tokenizer.decode(prompt.ids, skip_special_tokens=True)
        first, second = items.shots
        words = items.task.options
        assert text == (
            f"Review : {first.fields['sentence']}\nSentiment : {words[first.label]}\n"
            f"Review : {second.fields['sentence']}\nSentiment : {words[second.label]}\n"
            f"Review : {item.fields['sentence']}\nSentiment :"
        )
        assert prompt.ids[0] == tokenizer.bos_token_id
        assert prompt.ids.count(tokenizer.bos_token_id) == 1
        assert not prompt.shortened


def test_examples_that_do_not_fit_are_left_out_from_the_last(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    (items,) = load_tasks("sst2", folder, CapabilityOptions(limit=1, shots=2))
    (whole,) = task_prompts(tokenizer, items, None)
    longest = max(map(len, whole.options))
    (fits,) = task_prompts(tokenizer, items, len(whole.ids) + longest)
    assert fits == whole
    (prompt,) = task_prompts(tokenizer, items, len(whole.ids) + longest - 1)
    text = tokenizer.decode(prompt.ids)
    assert prompt.shortened
    assert items.shots[0].fields["sentence"] in text
    assert items.shots[1].fields["sentence"] not in text
    assert items.scored[0].fields["sentence"] in text


def test_a_long_text_loses_its_beginning(toy: Any) -> None:
    tokenizer = tiny_tokenizer(bos=True)
    text = "é".join("abcdefghij") + " The capital of Italy is Rome."
    items = toy_items(toy("Paris", "no"), [text])
    (whole,) = task_prompts(tokenizer, items, None)
    for limit in range(len(whole.ids) + 3 - 1, 28, -1):
        (prompt,) = task_prompts(tokenizer, items, limit)
        assert limit - 2 <= len(prompt.ids) + 3 <= limit  # an é is two tokens, which stay or go together
        found = tokenizer.decode(prompt.ids, skip_special_tokens=True)
        assert found.startswith("Text: ")
        assert found.endswith("\nAnswer:")
        assert text.endswith(found.removeprefix("Text: ").removesuffix("\nAnswer:"))
        assert prompt.shortened


def test_tokens_to_be_generated_must_fit_too(toy: Any) -> None:
    tokenizer, items = tiny_tokenizer(), toy_items(toy("Paris", "Italy"), ["The capital of Italy is Rome."])
    (whole,) = task_prompts(tokenizer, items, None)
    (prompt,) = task_prompts(tokenizer, items, len(whole.ids) + 5, new_tokens=6)
    assert prompt.shortened
    assert len(prompt.ids) <= len(whole.ids) - 1


def test_an_item_that_cannot_fit_is_refused(toy: Any) -> None:
    items = toy_items(toy("Paris", "Italy"), ["Rome Rome Rome Rome"])
    with pytest.raises(InputError) as caught:
        task_prompts(tiny_tokenizer(), items, 10)
    sentence = str(caught.value)
    assert sentence.startswith("toy: expected prompt and answer to fit the model's context of 10 tokens, got ")
    assert sentence.endswith(" tokens, too many even without the field 'text'; leave out the item or the task.")


def test_a_context_can_be_filled_to_the_last_token(toy: Any) -> None:
    tokenizer, task = tiny_tokenizer(), toy("Paris", "wonderful")
    items = toy_items(task, ["The capital of Italy is Rome.", "Rome Rome"])
    whole = task_prompts(tokenizer, items, None)
    limit = max(len(prompt.ids) + max(map(len, prompt.options)) for prompt in whole)
    model = tiny_model("gpt2", n_positions=limit)
    found = likelihoods(model, tokenizer, items)
    expected = [
        [reference(model, tokenizer, task.prompt(item.fields), option) for option in task.options]
        for item in items.scored
    ]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)
