"""The finer score of validation, from the same passes as the hits; and the ways of asking, each apart."""

import pytest
import torch

from aeplus.edits import EditRequest, Probe, held_out_prompts
from aeplus.evaluation.questions import (
    Baseline,
    PromptItem,
    Question,
    edit_items,
    evaluate,
    grade,
    tokenize_items,
    update_score,
)
from aeplus.evaluation.suite import Suite, SuiteOptions
from aeplus.metrics.success import Score
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.models.tokens import TokenRow
from tiny import tiny_model, tiny_tokenizer

ITEMS = [
    PromptItem("efficacy", "The capital of France is", "Paris"),
    PromptItem("generalization", "The capital of Italy is", "London", ("Rome",)),
    PromptItem("generalization", "The capital of Spain is", "the city of London"),
    PromptItem("specificity", "The capital of Peru is", None),
]


def test_probability_is_the_mean_over_aspects_of_the_answers_own() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    questions = tokenize_items(tokenizer, ITEMS, Baseline(decoder, tokenizer, [("The capital of Peru is", "auto")]))

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


def test_a_prompt_that_is_joined_in_two_ways_has_an_answer_of_each() -> None:
    """A space that the prompt ends with is read only where nothing else is joined to it."""
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    items = [PromptItem("specificity", "Peru is ", None, join=join) for join in ("none", "auto")]
    both = tokenize_items(tokenizer, items, Baseline(decoder, tokenizer, [("Peru is ", "none"), ("Peru is ", "auto")]))
    alone = [tokenize_items(tokenizer, [i], Baseline(decoder, tokenizer, [(i.prompt, i.join)]))[0] for i in items]
    assert both[0].rows != both[1].rows
    assert [question.expected for question in both] == [question.expected for question in alone]
    assert evaluate(decoder, both).summary()["specificity"] == 100.0
    prompts, joins = ["Peru is "] * 3, ["none", "auto", "none"]
    texts = generate(decoder, tokenizer, prompts, 4, joins=joins)
    assert texts == [generate(decoder, tokenizer, ["Peru is "], 4, joins=[join])[0] for join in joins]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("nothing", ["", " "])
def test_an_empty_answer_is_the_unedited_models(nothing: str) -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    edit = EditRequest("{} is", "Rome", "old", neighborhood=(Probe("Oslo is", nothing),), axes=(Probe("In", nothing),))
    assert edit.neighborhood == (Probe("Oslo is"),)
    results = Suite(decoder, tokenizer, [edit], options=SuiteOptions(("strict", "generation", "axes"))).measure()
    assert results["strict"]["specificity"]["value"] == results["axes"]["other"]["value"] == 100.0
    assert results["generation"]["specificity"]["count"] == 0


def test_without_a_prompt_there_is_none() -> None:
    assert grade(Decoder(tiny_model("gpt2")), [])["probability"] is None


EDIT = EditRequest(
    "The capital of {} is",
    "France",
    "Rome",
    rephrase=("Which city rules France?",),
    neighborhood=(Probe("The capital of Spain is"), Probe("In France people speak"), Probe("Frances is")),
    openings=("It is said that the capital of France is",),
    statements=("In France, the capital is", "France is ruled from"),
)


def test_each_way_of_asking_is_told_apart() -> None:
    names = {item.prompt: item.names for item in edit_items([EDIT])}
    assert names == {
        "The capital of France is": ("efficacy",),
        "It is said that the capital of France is": ("generalization", "generalization_openings"),
        "In France, the capital is": ("generalization", "generalization_statements"),
        "France is ruled from": ("generalization", "generalization_statements"),
        "Which city rules France?": ("generalization", "generalization_rephrasing"),
        "The capital of Spain is": ("specificity", "specificity_other_subjects"),
        "In France people speak": ("specificity", "specificity_same_subject"),
        "Frances is": ("specificity", "specificity_other_subjects"),
    }
    assert EDIT.paraphrases == tuple(prompt for prompt, kinds in names.items() if kinds[0] == "generalization")
    assert set(held_out_prompts([EDIT])) == set(names) - {EDIT.question}
    assert edit_items([EDIT.without_tests()]) == [PromptItem("efficacy", EDIT.question, "Rome", (), 0)]


def test_what_is_dropped_counts_in_no_way() -> None:
    asked = edit_items([EDIT], frozenset(("France is ruled from", "In France people speak")))
    assert len(asked) == 6


def test_an_aspect_is_the_mean_over_its_prompts_and_the_ways_are_apart() -> None:
    score = Score()
    items = edit_items([EDIT])
    right = {"The capital of France is", "In France, the capital is", "The capital of Spain is", "Frances is"}
    rows = [TokenRow((1, 2, 3 + n), 2, 0) for n, _ in enumerate(items)]
    questions = [Question(item, (row,), ((7,),)) for item, row in zip(items, rows, strict=True)]
    predictions = {row: (7,) if item.prompt in right else (8,) for item, row in zip(items, rows, strict=True)}
    found = update_score(score, questions, predictions).summary()
    assert found == {
        "efficacy": 100.0,
        "generalization": 25.0,
        "specificity": pytest.approx(200 / 3),
        "score": pytest.approx((100 + 25 + 200 / 3) / 3),
        "generalization_openings": 0.0,
        "generalization_statements": 50.0,
        "generalization_rephrasing": 0.0,
        "specificity_other_subjects": 100.0,
        "specificity_same_subject": 0.0,
    }
    assert set(score.intervals(samples=0)) == set(found) - {"score"}
    score.reset()
    assert set(score.summary()) == {"efficacy", "generalization", "specificity", "score"}
