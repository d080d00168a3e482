import math

import pytest
import torch

from aeplus.edits import EditRequest, Probe
from aeplus.evaluation.questions import (
    Baseline,
    PromptItem,
    answer_pairs,
    axis_items,
    edit_items,
    evaluate,
    holding_numbered,
    tokenize_items,
)
from aeplus.metrics.success import Efficacy, Score, Specificity, TokenAccuracy, exact_match, token_match
from aeplus.models.decoder import Decoder
from aeplus.models.predict import answer_probabilities, predict, score_answers
from aeplus.models.tokens import TokenRow, encode
from tiny import tiny_model, tiny_tokenizer


def test_every_token_must_be_right() -> None:
    assert exact_match([[1, 2], [1, 2], [3]], [[1, 2], [1, 3], [3]]).tolist() == [True, False, True]


def test_score_is_the_mean_of_the_aspects_that_have_prompts() -> None:
    score = Score()
    score.update("efficacy", [[1], [2]], [[1], [2]])
    score.update("specificity", [[1], [2], [3], [4]], [[1], [0], [0], [0]])
    assert score.summary() == {"efficacy": 100.0, "generalization": None, "specificity": 25.0, "score": 62.5}
    score.reset()
    assert score.summary()["score"] is None


def test_empty_metric_is_nan() -> None:
    metric = Efficacy()
    metric.update([], [])
    assert math.isnan(float(metric.compute()))


def test_metrics_do_not_share_state() -> None:
    first, second = Efficacy(), Specificity()
    first.update([[1]], [[1]])
    second.update([[1]], [[0]])
    assert (float(first.compute()), float(second.compute())) == (100.0, 0.0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_predictions_equal_one_row_at_a_time(side: str, bos: bool, kind: str) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer(side, bos)
    prompts = ["Rome is", "The capital of France is", "In London people speak", "Rome is"]
    answers = ["big", "Paris in Italy", None, "big"]
    rows = encode(tokenizer, prompts, answers)
    found = predict(Decoder(model), rows, batch_tokens=24)
    for row, tokens in zip(rows, found, strict=True):
        best = model(torch.tensor([row.ids])).logits[0].argmax(-1).tolist()
        stop = len(row.ids) - 1 if row.answer < len(row.ids) else len(row.ids)
        assert list(tokens) == best[row.answer - 1 : stop]


@pytest.mark.parametrize("batch_tokens", [1, 8, 1000])
def test_answer_probabilities_equal_one_row_at_a_time(batch_tokens: int) -> None:
    model = tiny_model("llama")
    starts, rows, expected = [[5, 6, 7], [8, 9], [10] * 6, [5, 6, 7]], [], []
    for number, ids in enumerate(starts):
        prompt, probability = list(ids), 1.0
        for _ in range(2):
            probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            ids = [*ids, int(probabilities.argmax())]
            probability *= float(probabilities.max())
        if number == 1:
            ids = [*ids[:-1], (ids[-1] + 1) % 300]  # one token is not the first choice
        rows.append(TokenRow(tuple(ids), len(prompt)))
        expected.append(None if number == 1 else pytest.approx(probability, rel=1e-4))
    assert answer_probabilities(Decoder(model), rows, batch_tokens) == expected


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_log_probabilities_equal_one_row_at_a_time(kind: str) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    rows = encode(tokenizer, ["Rome is", "The capital of France is", "In London"], ["big", "Paris in Italy", None])
    for row, score in zip(rows, score_answers(Decoder(model), rows, batch_tokens=24), strict=True):
        log_probs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        if row.answer_ids:
            picked = [float(log_probs[row.answer - 1 + i, token]) for i, token in enumerate(row.answer_ids)]
            assert score.log_prob == pytest.approx(sum(picked) / len(picked), abs=1e-4)
        else:
            assert score.log_prob == pytest.approx(float(log_probs[-1].max()), abs=1e-4)
        assert score.predicted == predict(Decoder(model), [row])[0]


def test_an_unknown_answer_is_the_unedited_models() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    request = EditRequest("{} is", "Rome", "big", neighborhood=(Probe("In London"), Probe("In Oslo")))
    items = edit_items([request])
    asked = tokenize_items(tokenizer, items, Baseline(decoder, tokenizer, [("In London", "auto"), ("In Oslo", "auto")]))
    assert evaluate(decoder, asked).summary()["specificity"] == 100.0
    for site in decoder.sites:
        site.weight.copy_(torch.randn(site.weight.shape))
    assert evaluate(decoder, asked).summary()["specificity"] < 100.0


def test_a_superseded_edit_does_not_count() -> None:
    first = EditRequest("{} is", "Rome", "big", rephrase=("a",), fact="rome")
    second = EditRequest("What is {}? It is", "Rome", "small", rephrase=("b",), fact="rome")
    assert edit_items([first, second]) == [
        PromptItem("efficacy", "What is Rome? It is", "small", edit=1),
        PromptItem("generalization", "b", "small", edit=1, way="rephrasing"),
    ]


def test_token_accuracy_is_the_mean_over_prompts() -> None:
    predicted, expected = [[1, 2, 9, 9], [5]], [[1, 2, 3, 4], [5]]
    assert token_match(predicted, expected).tolist() == [0.5, 1.0]
    metric = TokenAccuracy()
    metric.update(predicted, expected)
    assert float(metric.compute()) == 75.0  # over all tokens it would be 60


def test_any_accepted_answer_counts() -> None:
    metric = Efficacy()
    metric.update([[1], [2], [3]], [[0], [2], [0]], edits=[4, 4, 5], prompts=[0, 0, 1])
    assert float(metric.compute()) == 50.0
    tokens = TokenAccuracy()
    tokens.update([[1, 1], [2, 2]], [[1, 0], [0, 0]], prompts=[0, 0])
    assert float(tokens.compute()) == 50.0  # the better answer's share


def test_aliases_are_asked_in_rows_of_their_own() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    rows = encode(tokenizer, ["Rome is"], ["Paris"])
    right = predict(decoder, rows)[0]
    assert right != rows[0].answer_ids
    # The head is turned so that the alias becomes the first choice.
    swap = model.get_output_embeddings().weight
    swap[[right[0], rows[0].answer_ids[0]]] = swap[[rows[0].answer_ids[0], right[0]]]
    for aliases, expected in ((("Paris",), 100.0), (("France",), 0.0)):
        edit = EditRequest("{} is", "Rome", "London", aliases=aliases)
        asked = tokenize_items(tokenizer, edit_items([edit]), {})
        assert len(asked[0].rows) == 2
        assert evaluate(decoder, asked).summary()["efficacy"] == expected


def test_questions_of_a_case_wait_for_all_its_edits() -> None:
    def edit(subject: str, case: str, *axes: Probe) -> EditRequest:
        return EditRequest("{} is", subject, "big", axes=axes, case=case)

    stream = [
        edit("Rome", "a", Probe("one", "x", ("y",), "multi_hop")),
        edit("Oslo", "b", Probe("two", "x", axis="multi_hop")),
        edit("Paris", "a"),
        edit("Lyon", "", Probe("three"), Probe("four", axis="locality")),
        EditRequest("{} is", "Paris", "small", case="c"),  # a fact of case a gets another answer
    ]
    asked = [[item.prompt for item in axis_items(stream, reached)] for reached in range(6)]
    assert asked == [[], [], ["two"], ["one", "two"], ["one", "two", "three", "four"], ["two", "three", "four"]]
    items = axis_items(stream, 4, frozenset({"two"}))
    assert items[0] == PromptItem("multi_hop", "one", "x", ("y",), 0)
    assert [(item.aspect, item.answer, item.edit) for item in items[1:]] == [("other", None, 3), ("locality", None, 3)]


def repeated(last: str) -> list[EditRequest]:
    """Four cases, three of which edit the same fact, the last of them with a given answer."""

    def edit(subject: str, case: str, answer: str = "big") -> EditRequest:
        probe = Probe(f"question {case}", "x", axis="multi_hop")
        return EditRequest("{} is", subject, answer, (f"rephrase {case}",), axes=(probe,), case=case, target_true="old")

    return [edit("Rome", "a"), edit("Rome", "b"), edit("Oslo", "c"), edit("Rome", "d", last)]


def test_a_repeated_edit_still_holds_with_all_its_tests() -> None:
    stream = repeated("big")
    assert [number for number, _ in holding_numbered(stream)] == [0, 1, 2, 3]
    assert [item.prompt for item in axis_items(stream, 4)] == [f"question {case}" for case in "abcd"]
    generalization = [item for item in edit_items(stream) if item.aspect == "generalization"]
    assert [(item.prompt, item.edit) for item in generalization] == [(f"rephrase {c}", i) for i, c in enumerate("abcd")]
    pairs = answer_pairs(tiny_tokenizer(), stream)
    assert {aspect: [pair.edit for pair in part] for aspect, part in pairs.items()} == {
        "efficacy": [0, 1, 2, 3],
        "generalization": [0, 1, 2, 3],
        "specificity": [],
    }


def test_another_answer_supersedes_every_repetition() -> None:
    stream = repeated("small")
    assert [number for number, _ in holding_numbered(stream)] == [2, 3]
    assert [item.prompt for item in axis_items(stream, 3)] == ["question a", "question b", "question c"]
    assert [item.prompt for item in axis_items(stream, 4)] == ["question c", "question d"]
    assert [item.prompt for item in edit_items(stream) if item.aspect == "generalization"] == [
        "rephrase c",
        "rephrase d",
    ]
    assert [pair.edit for pair in answer_pairs(tiny_tokenizer(), stream)["generalization"]] == [2, 3]
