import numpy as np
import pytest
import torch
from scipy import stats

from aeplus.metrics.mean import best_answers, bootstrap
from aeplus.metrics.success import Efficacy, Score


def test_against_scipy() -> None:
    values = np.random.default_rng(0).random(400)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    found = bootstrap(torch.tensor(values), torch.arange(400), samples=4000)
    assert found == pytest.approx((expected.low, expected.high), abs=2e-3)


@pytest.mark.parametrize("at_once", [10, 4_000_000])
def test_groups_are_drawn_whole(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop that draws the same groups and puts their prompts together."""
    monkeypatch.setattr("aeplus.metrics.mean._AT_ONCE", at_once)
    values, groups = torch.tensor([1.0, 0, 0, 1, 1, 0, 1]), torch.tensor([9, 9, 9, 4, 4, 2, 2])
    generator, means = torch.Generator().manual_seed(3), []
    parts = [values[groups == group] for group in (2, 4, 9)]
    for _ in range(50):
        drawn = torch.randint(3, (3,), generator=generator)
        means.append(float(torch.cat([parts[i] for i in drawn]).mean()))
    expected = np.percentile(means, [10, 90])
    assert bootstrap(values, groups, 50, 0.8, seed=3) == pytest.approx(tuple(expected), abs=1e-6)


def test_prompts_of_one_edit_make_less_sure() -> None:
    hits = [[1]] * 50 + [[0]] * 50
    apart, together = Efficacy(), Efficacy()
    apart.update(hits, [[1]] * 100)
    together.update(hits, [[1]] * 100, edits=[i // 10 for i in range(100)])
    narrow, wide = apart.interval(), together.interval()
    assert narrow["value"] == wide["value"] == 50.0
    assert narrow["count"] == wide["count"] == 100
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])  # type: ignore[operator]
    assert together.interval(samples=20, seed=1) != together.interval(samples=20, seed=2)
    assert apart.interval() == narrow


def test_without_prompts_or_samples() -> None:
    assert Efficacy().interval() == {"value": None, "low": None, "high": None, "count": 0}
    one = Efficacy()
    one.update([[1]], [[1]])
    assert one.interval(samples=0) == {"value": 100.0, "low": None, "high": None, "count": 1}
    assert one.interval() == {"value": 100.0, "low": 100.0, "high": 100.0, "count": 1}


def test_the_global_random_state_is_left_alone() -> None:
    score = Score()
    score.update("efficacy", [[1], [2]], [[1], [1]])
    before = torch.get_rng_state()
    assert score.intervals()["efficacy"]["low"] == 0.0
    assert torch.equal(before, torch.get_rng_state())


def test_best_answers_keep_their_edits() -> None:
    best, edits = best_answers(
        torch.tensor([0.1, 0.4, 0.3, 0.2]), torch.tensor([8, 9, 8, 9]), torch.tensor([1, 0, 1, 0])
    )
    assert best.tolist() == pytest.approx([0.4, 0.3])
    assert edits.tolist() == [9, 8]
