import math

import pytest
import torch
from scipy import stats

from aeplus.edits import EditRequest, Probe
from aeplus.evaluation.questions import answer_pairs
from aeplus.metrics.magnitude import MagnitudeScore, harmonic_mean
from tiny import tiny_tokenizer


def published(records: list[dict[str, list[tuple[float, float]]]]) -> tuple[dict[str, float], float]:
    """Shares, gaps and score as ROME's summary makes them of (new, true) mean negative log-probabilities."""
    found: dict[str, float] = {}
    for kind in ("efficacy", "generalization", "specificity"):
        shares, gaps = [], []
        for record in records:
            keeps = kind == "specificity"
            shares.append(
                sum((true < new) if keeps else (new < true) for new, true in record[kind]) / len(record[kind])
            )
            signed = [math.exp(-true) - math.exp(-new) for new, true in record[kind]]
            gaps.append(sum(gap if keeps else -gap for gap in signed) / len(signed))
        found[kind] = 100 * sum(shares) / len(shares)
        found[f"{kind}_gap"] = 100 * sum(gaps) / len(gaps)
    return found, float(stats.hmean([found[k] for k in ("efficacy", "generalization", "specificity")]))


def test_against_the_published_summary() -> None:
    torch.manual_seed(0)
    counts = {"efficacy": 1, "generalization": 2, "specificity": 10}
    records = [
        {kind: [tuple(p) for p in (4 * torch.rand(n, 2)).tolist()] for kind, n in counts.items()} for _ in "abcde"
    ]
    metric = MagnitudeScore()
    for number, record in enumerate(records):
        for kind, pairs in record.items():
            new, true = -torch.tensor(pairs).T
            target, other = (true, new) if kind == "specificity" else (new, true)
            metric.update(kind, target, other, [number] * len(pairs))
    shares, score = published(records)
    intervals = metric.intervals()
    assert {name: interval["value"] for name, interval in intervals.items()} == pytest.approx(shares, rel=1e-5)
    assert float(metric.compute()) == pytest.approx(score, rel=1e-5)
    assert metric.score(intervals) == pytest.approx(score, rel=1e-5)
    metric.reset()
    assert math.isnan(float(metric.compute()))


def test_harmonic_mean() -> None:
    assert harmonic_mean([90.0, 50.0, 70.0]) == pytest.approx(stats.hmean([90.0, 50.0, 70.0]))
    assert harmonic_mean([90.0, 0.0]) == 0.0
    assert harmonic_mean([90.0, None]) is None


def test_pairs_of_answers() -> None:
    tokenizer = tiny_tokenizer()
    stream = [
        EditRequest("{} is", "Rome", "big"),  # nobody knows what was true
        EditRequest(
            "{} is",
            "Oslo",
            "big",
            rephrase=("a", "dropped"),
            neighborhood=(Probe("b", "old"), Probe("c"), Probe("dropped", "old")),
            target_true="small",
        ),
    ]
    pairs = answer_pairs(tokenizer, stream, frozenset({"dropped"}))
    read = {
        aspect: [(tokenizer.decode(p.target.ids), tokenizer.decode(p.other.ids), p.edit) for p in part]
        for aspect, part in pairs.items()
    }
    assert read == {
        "efficacy": [("Oslo is big", "Oslo is small", 1)],
        "generalization": [("a big", "a small", 1)],
        "specificity": [("b old", "b big", 1)],
    }
