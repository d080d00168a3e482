import math
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from aeplus.data.request import EditRequest, Probe
from aeplus.metrics.evaluate import Baseline, edit_items, evaluate, questions
from aeplus.metrics.predict import answer_probabilities, predict
from aeplus.metrics.success import Efficacy, Score, Specificity, exact_match
from aeplus.models.sites import Decoder
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


def _rank(rank: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    score = Score()
    # Rank 0 sees three prompts, rank 1 one: a mean of means would give 66.7, the truth is 50.
    expected = [[1], [1], [1]] if rank == 0 else [[1]]
    predicted = [[1], [0], [0]] if rank == 0 else [[1]]
    score.update("efficacy", predicted, expected)
    value = float(score.efficacy.compute())
    Path(folder, f"{rank}").write_text(str(value))
    dist.destroy_process_group()


def test_two_ranks_count_together(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["50.0", "50.0"]


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
            chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            ids = [*ids, int(chances.argmax())]
            probability *= float(chances.max())
        if number == 1:
            ids = [*ids[:-1], (ids[-1] + 1) % 300]  # one token is not the first choice
        rows.append(TokenRow(tuple(ids), len(prompt)))
        expected.append(None if number == 1 else pytest.approx(probability, rel=1e-4))
    assert answer_probabilities(Decoder(model), rows, batch_tokens) == expected


def test_an_unknown_answer_is_the_unedited_models() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decoder = Decoder(model)
    request = EditRequest("{} is", "Rome", "big", neighborhood=(Probe("In London"), Probe("In Oslo")))
    items = edit_items([request])
    asked = questions(tokenizer, items, Baseline(decoder, tokenizer, ["In London", "In Oslo"]))
    assert evaluate(decoder, asked).summary()["specificity"] == 100.0
    for site in decoder.sites:
        site.weight.copy_(torch.randn(site.weight.shape))
    assert evaluate(decoder, asked).summary()["specificity"] < 100.0


def test_a_rewritten_edit_does_not_count() -> None:
    first = EditRequest("{} is", "Rome", "big", rephrase=("a",), fact="rome")
    second = EditRequest("What is {}? It is", "Rome", "small", rephrase=("b",), fact="rome")
    assert edit_items([first, second]) == [
        ("efficacy", "What is Rome? It is", "small"),
        ("generalization", "b", "small"),
    ]
