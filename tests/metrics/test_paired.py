"""The difference of two methods' Scores, against a loop over the same draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus.metrics.paired import Hits, score_difference
from aeplus.metrics.success import Score


def hits(generator: np.random.Generator, prompts: dict[str, list[int]]) -> Hits:
    return {
        name: {"edits": list(range(len(n))), "hits": [int(generator.integers(k + 1)) for k in n], "prompts": n}
        for name, n in prompts.items()
    }


def score(run: Hits, drawn: list[int]) -> float:
    shares = []
    for of in run.values():
        asked = sum(of["prompts"][i] for i in drawn)
        if asked:
            shares.append(100 * sum(of["hits"][i] for i in drawn) / asked)
    return float(np.mean(shares))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), edits=st.integers(1, 6), runs=st.integers(1, 3))
def test_against_a_loop(seed: int, edits: int, runs: int) -> None:
    random = np.random.default_rng(seed)
    ours, theirs = [], []
    for _ in range(runs):
        prompts = {"efficacy": [1] * edits, "specificity": [int(n) for n in random.integers(0, 3, edits)]}
        ours.append(hits(random, prompts))
        theirs.append(hits(random, prompts))
    found = score_difference(ours, theirs, samples=30, confidence=0.8, seed=seed)
    drawn = np.zeros(30)
    for run, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + run)
        for i, places in enumerate(torch.randint(edits, (30, edits), generator=generator).tolist()):
            drawn[i] += (score(own, places) - score(other, places)) / runs
    every = list(range(edits))
    value = np.mean([score(own, every) - score(other, every) for own, other in zip(ours, theirs, strict=True)])
    assert found["value"] == pytest.approx(value, abs=1e-9)
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(drawn, [10, 90])), abs=1e-9)
    assert found["count"] == runs * edits


def test_runs_on_the_same_edits_are_no_further_edits() -> None:
    random = np.random.default_rng(0)
    ours, theirs = (hits(random, {"efficacy": [1] * 12}) for _ in range(2))
    one = score_difference([ours], [theirs])
    again = score_difference([ours] * 5, [theirs] * 5, edits=["these"] * 5)
    assert again == pytest.approx(one)
    others = score_difference([ours] * 5, [theirs] * 5)
    assert others["high"] - others["low"] < 0.6 * (one["high"] - one["low"])  # type: ignore[operator]
    assert (one["count"], again["count"], others["count"]) == (12, 12, 60)


def test_pairs_are_surer_than_two_intervals() -> None:
    """Where both fail on the same edits, the difference is known although neither Score is."""
    theirs = {"efficacy": {"edits": list(range(20)), "hits": [i % 2 for i in range(20)], "prompts": [1] * 20}}
    ours = {
        "efficacy": {**theirs["efficacy"], "hits": [max(h, i == 0) for i, h in enumerate([i % 2 for i in range(20)])]}
    }
    found = score_difference([ours], [theirs])
    assert found["value"] == pytest.approx(5)
    assert 0 <= found["low"] <= found["high"] <= 15.01  # type: ignore[operator]


def test_other_prompts_are_refused() -> None:
    one = {"efficacy": {"edits": [0], "hits": [1], "prompts": [1]}}
    two = {"efficacy": {"edits": [0], "hits": [1], "prompts": [2]}}
    with pytest.raises(ValueError, match="expected two runs on the same prompts"):
        score_difference([one], [two])


def test_hits_of_a_score() -> None:
    found = Score()
    found.update("efficacy", [[1], [2], [3]], [[1], [1], [3]], edits=[4, 4, 2])
    assert found.hits() == {"efficacy": {"edits": [2, 4], "hits": [1.0, 1.0], "prompts": [1, 2]}}


def test_the_order_of_aspects_does_not_count() -> None:
    run = hits(np.random.default_rng(0), {"efficacy": [1] * 4, "specificity": [2] * 4})
    turned = dict(reversed(run.items()))
    assert score_difference([run], [turned], samples=20) == score_difference([run], [run], samples=20)
