"""The finer score of validation: the probability of the expected answers, from the same passes as the hits."""

import pytest
import torch

from aeplus.evaluation.questions import Baseline, PromptItem, evaluate, grade, tokenize_items
from aeplus.models.decoder import Decoder
from tiny import tiny_model, tiny_tokenizer

ITEMS = [
    PromptItem("efficacy", "The capital of France is", "Paris"),
    PromptItem("generalization", "The capital of Italy is", "London", ("Rome",)),
    PromptItem("generalization", "The capital of Spain is", "the city of London"),
    PromptItem("specificity", "The capital of Peru is", None),
]


def test_probability_is_the_mean_over_aspects_of_the_answers_own() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    questions = tokenize_items(tokenizer, ITEMS, Baseline(decoder, tokenizer, ["The capital of Peru is"]))

    def probability(ids: tuple[int, ...], answer: int) -> float:
        """One row alone, the whole distribution."""
        logits = decoder.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        steps = [float(logits[place - 1, ids[place]]) for place in range(answer, len(ids))]
        return float(torch.tensor(steps).mean().exp())

    def best(index: int) -> float:
        rows = zip(questions[index].rows, questions[index].expected, strict=True)
        return max(probability((*row.ids[: row.answer], *expected), row.answer) for row, expected in rows)

    with torch.no_grad():
        expected = 100 * (best(0) + (best(1) + best(2)) / 2 + best(3)) / 3
    found = grade(decoder, questions)
    assert found["probability"] == pytest.approx(expected, rel=1e-4)
    assert {name: found[name] for name in found if name != "probability"} == evaluate(decoder, questions).summary()
    assert found["specificity"] == 100.0  # the unedited model's own answer


def test_without_a_prompt_there_is_none() -> None:
    assert grade(Decoder(tiny_model("gpt2")), [])["probability"] is None
