"""Metrics count over ranks: each of two processes sees its part, and both know the whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from aeplus.metrics.drift import TextPerplexity
from aeplus.metrics.retention import Retention
from aeplus.metrics.success import Score

HITS = [[1, 0], [1, 0], [1, 1], [1, 1]]  # predicted and expected token of four prompts


def fed(part: slice) -> dict[str, Any]:
    """Metrics that have seen some of the data."""
    score, retention, perplexity = Score(), Retention(2), TextPerplexity()
    hits = HITS[part]
    if hits:  # a rank may see nothing
        score.update("efficacy", [h[:1] for h in hits], [h[1:] for h in hits], edits=[i // 2 for i in range(4)][part])
        retention.update(1, [0, 0, 1, 1][part], [a == b for a, b in hits])
        perplexity.update([-1.0, -2.0, -3.0, -4.0][part], [1, 2, 3, 4][part])
    return {"score": score, "retention": retention, "perplexity": perplexity}


def values(metrics: dict[str, Any]) -> dict[str, Any]:
    score = metrics["score"]
    return {
        "value": float(score.efficacy.compute()),
        "summary": score.summary(),
        "interval": score.efficacy.interval(),
        "retention": metrics["retention"].compute().nan_to_num(-1).tolist(),
        "perplexity": round(float(metrics["perplexity"].compute()), 4),
    }


def _rank(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = []
    for first in (3, 4):  # three prompts and one: a mean of means would be 66.7; then four and none
        metrics = fed(slice(0, first) if rank == 0 else slice(first, 4))
        found.append(values(metrics))
    Path(folder, f"{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_count_together(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    whole = values(fed(slice(0, 4)))
    assert whole["value"] == 50.0
    for rank in range(2):
        assert json.loads((tmp_path / str(rank)).read_text()) == [whole, whole]
