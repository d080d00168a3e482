"""Variants side by side against each in the weights."""

from functools import partial

import pytest
import torch

from aeplus.functional import LowRankUpdate
from aeplus.models import predict
from aeplus.models.costs import tokens_ahead
from aeplus.models.decoder import Decoder
from aeplus.models.predict import score_answers, score_variants
from aeplus.models.sites import Snapshot
from aeplus.models.tokens import TokenRow
from aeplus.models.variants import Variants, variant_parts
from tiny import tiny_model

ROWS = [
    TokenRow((5, 6, 7, 8, 9), answer=3),
    TokenRow((15, 16, 17), answer=2),
    TokenRow((5, 6, 7, 8, 9), answer=3),
    TokenRow((25, 26, 27, 28, 29, 30, 31), answer=7),
]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "phi"])
@pytest.mark.parametrize("at_once", [4096, 40, 1])
def test_each_variant_scores_as_if_it_were_in_the_weights(kind: str, at_once: int) -> None:
    decoder = Decoder(tiny_model(kind, attention="eager"))
    sites = decoder.select([1, 2])
    o, d = sites[0].weight.shape
    updates = [[LowRankUpdate(torch.randn(o, 3), 0.1 * torch.randn(3, d)) for _ in sites] for _ in range(4)]
    found = score_variants(decoder, ROWS, Variants(sites, updates), at_once)
    for own, scores in zip(updates, found, strict=True):
        with Snapshot(sites):
            for site, update in zip(sites, own, strict=True):
                site.add(update)
            expected = score_answers(decoder, ROWS)
        assert [score.predicted for score in scores] == [score.predicted for score in expected]
        assert [s.log_prob for s in scores] == pytest.approx([s.log_prob for s in expected], rel=1e-3, abs=1e-4)
    assert found[0] != found[1]


def test_long_rows_run_with_few_variants_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(tiny_model("llama"))
    sites = decoder.select([1])
    o, d = sites[0].weight.shape
    updates = [[LowRankUpdate(torch.randn(o, 1), torch.randn(1, d))] for _ in range(6)]
    tokens: list[int] = []
    decoder.model.model.embed_tokens.register_forward_hook(lambda _, args, __: tokens.append(args[0].numel()))
    score_variants(decoder, [TokenRow(tuple(range(5, 25)), answer=19)], Variants(sites, updates), 60)
    assert sum(tokens) >= 6 * 19
    assert max(tokens) <= 60


def test_with_free_memory_all_variants_of_a_validation_set_are_scored_in_a_few_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = Decoder(tiny_model("llama"))
    sites, passes = decoder.select([1]), []
    o, d = sites[0].weight.shape
    rows = [TokenRow((5, 6 + i, *range(7, 21)), answer=14) for i in range(149)]
    variants = Variants(sites, [[LowRankUpdate(torch.zeros(o, 1), torch.zeros(1, d))] for _ in range(11)])
    score_variants(decoder, rows[:1], variants)
    decoder.model.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    counts = []
    for free in (None, lambda _: 2**36, lambda _: 2**22):
        passes.clear()
        monkeypatch.setattr(predict, "tokens_ahead", partial(tokens_ahead, free=free))
        score_variants(decoder, rows, variants)
        counts.append(len(passes))
    assert counts[:2] == [14, 2]
    assert counts[2] > 14


def test_half_precision_keeps_its_dtype() -> None:
    decoder = Decoder(tiny_model("llama").bfloat16())
    sites = decoder.select([1])
    o, d = sites[0].weight.shape
    update = LowRankUpdate(torch.randn(o, 3), torch.randn(3, d))
    with Variants(sites, [[update], [update]]).applied():
        hidden = decoder.forward(torch.tensor([[5, 6, 7], [5, 6, 7]]))
    assert hidden.dtype == torch.bfloat16
    assert torch.equal(hidden[0], hidden[1])


def test_variants_are_split_by_what_may_run_at_once() -> None:
    assert variant_parts(11, 100, 10**6) == [range(11)]
    assert variant_parts(5, 100, 250) == [range(2), range(2, 4), range(4, 5)]
    assert variant_parts(2, 100, 1) == [range(1), range(1, 2)]
