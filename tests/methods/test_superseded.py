"""An edit whose fact a later one of the batch gives another answer is not made: the batch is that without it."""

from typing import Any

import pytest
import torch

import aeplus
from small import LEARNING
from tiny import tiny_model, tiny_tokenizer

OTHER = {"prompt": "The capital of {}", "subject": "Italy", "target_new": "London", "fact": "italy"}
FIRST = {"prompt": "The capital of {}", "subject": "Spain", "target_new": "London", "fact": "spain"}
LATER = {"prompt": "So the capital of {}", "subject": "Spain", "target_new": "Paris", "fact": "spain"}
SAME = LATER | {"prompt": FIRST["prompt"]}
OPTIONS: dict[str, Any] = {**LEARNING, "contexts": 0, "steps": 12, "batch_size": 10}


def edited(records: list[dict[str, str]], method: str, **options: Any) -> tuple[list[torch.Tensor], aeplus.EditResult]:
    model = tiny_model("llama")
    result = aeplus.edit(model, tiny_tokenizer(), records, method, **{**OPTIONS, **options})
    return [model.model.layers[layer].mlp.down_proj.weight for layer in OPTIONS["layers"]], result


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("alphaedit_plus", {}),
        ("alphaedit_plus", {"smooth": True, "smoothing_steps": 2, "smoothing_threshold": 0.01, "validation_share": 0}),
        ("alphaedit", {}),
        ("memit", {}),
        ("prune", {}),
        ("kde", {"learning_rate": 0.5}),
    ],
)
@pytest.mark.parametrize("later", [LATER, SAME])
def test_a_batch_is_that_without_it(method: str, options: dict[str, Any], later: dict[str, str]) -> None:
    joint = {"joint": False} if later is SAME else {}
    found, result = edited([FIRST, OTHER, later], method, **options, **joint)
    expected, alone = edited([OTHER, later], method, **options, **joint)
    base = tiny_model("llama")
    for layer, own, other in zip(OPTIONS["layers"], found, expected, strict=True):
        change = (other - base.model.layers[layer].mlp.down_proj.weight).norm()
        assert change > 0
        assert (own - other).norm() < 2e-3 * change
    assert result.metrics["after"]["efficacy"] == alone.metrics["after"]["efficacy"]
