import pytest
import torch
from scipy import stats

from aeplus.errors import InputError
from aeplus.evaluation.drift import DriftMeter, held_out_text
from aeplus.metrics.drift import kl_divergence
from aeplus.models.decoder import Decoder
from tiny import tiny_model, tiny_tokenizer

PARAGRAPHS = [
    "The capital of France is Paris.",
    "Rome is the capital of Italy.",
    "x",
    "People speak English in London.",
]


def test_divergence_against_scipy() -> None:
    torch.manual_seed(0)
    p, q = torch.rand(2, 5, 30).softmax(-1)
    p[0, 3] = 0.0  # a token that the model rules out
    p = p / p.sum(-1, keepdim=True)
    expected = [stats.entropy(a, b) for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    assert kl_divergence(p.log(), q.log()).tolist() == pytest.approx(expected, abs=1e-6)


def test_held_out_text_is_what_statistics_did_not_read() -> None:
    tokenizer = tiny_tokenizer()
    first = len(tokenizer(PARAGRAPHS[0])["input_ids"])
    for skip, begins in ((0, 0), (1, 1), (first, 1), (first + 1, 3)):  # "x" has no token to predict
        texts, rows = held_out_text(tokenizer, PARAGRAPHS, 1, skip)
        assert texts == [PARAGRAPHS[begins]]
        assert rows[0].answer_ids == tuple(tokenizer(texts[0])["input_ids"])[1:]
    texts, rows = held_out_text(tokenizer, PARAGRAPHS, 1000, limit=3)
    assert texts == [PARAGRAPHS[i] for i in (0, 1, 3)]
    assert [len(row.ids) for row in rows] == [3, 3, 3]


def test_nothing_held_out() -> None:
    with pytest.raises(InputError, match=r"after the first 900 tokens, which the statistics read, in wiki, got none;"):
        held_out_text(tiny_tokenizer(), PARAGRAPHS, 1000, skip=900, source="wiki")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_drift_of_an_edited_model(kind: str) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    decoder = Decoder(model)
    _, rows = held_out_text(tokenizer, PARAGRAPHS, 1000)
    meter = DriftMeter(decoder, tokenizer, rows, ["Rome is", "People in Oslo", "Rome is " * 99], batch_tokens=60)
    unedited = meter.measure()

    def direct() -> tuple[float, torch.Tensor]:
        losses = [model(ids, labels=ids).loss * (ids.shape[1] - 1) for ids in (torch.tensor([r.ids]) for r in rows)]
        count = sum(len(row.ids) - 1 for row in rows)
        ids = [tokenizer(text)["input_ids"][:128] for text in ("Rome is", "People in Oslo", "Rome is " * 99)]
        return float((sum(losses) / count).exp()), torch.stack(
            [model(torch.tensor([i])).logits[0, -1].log_softmax(-1) for i in ids]
        )

    perplexity, before = direct()
    assert unedited["perplexity"] == unedited["perplexity_before"] == pytest.approx(perplexity, rel=1e-4)
    assert unedited["ratio"] == 1.0
    assert unedited["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert unedited["tokens"] == sum(len(row.ids) - 1 for row in rows)

    decoder.sites[2].weight.add_(torch.randn(decoder.sites[2].weight.shape), alpha=0.3)
    edited = meter.measure()
    perplexity, now = direct()
    assert edited["perplexity"] == pytest.approx(perplexity, rel=1e-4)
    assert edited["perplexity_before"] == unedited["perplexity"]
    assert edited["ratio"] == pytest.approx(perplexity / unedited["perplexity"], rel=1e-4)
    expected = [stats.entropy(a, b) for a, b in zip(before.exp().numpy(), now.exp().numpy(), strict=True)]
    assert edited["kl"]["value"] == pytest.approx(sum(expected) / 3, rel=1e-3)
    assert edited["kl"]["count"] == 3
    assert edited["kl"]["low"] <= edited["kl"]["value"] <= edited["kl"]["high"]


def test_drift_without_prompts() -> None:
    tokenizer = tiny_tokenizer()
    _, rows = held_out_text(tokenizer, PARAGRAPHS, 1)
    assert DriftMeter(Decoder(tiny_model("llama")), tokenizer, rows, []).measure()["kl"]["value"] is None
