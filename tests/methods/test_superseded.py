"""An edit whose fact a later one of the batch gives another answer is not made: the batch is that without it."""

from typing import Any

import pytest
import torch

import aeplus
from aeplus.methods.layer_targets import LayerTarget
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


def test_where_layers_choose_by_themselves_it_is_no_reason_to_smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[torch.Tensor] = []
    start = LayerTarget.starting

    def starting(self: LayerTarget, *given: Any) -> LayerTarget:
        found = start(self, *given)
        started.append(found.norms)
        return found

    monkeypatch.setattr(LayerTarget, "starting", starting)
    smoothing = {"smooth": True, "smoothing_mode": "sequential", "smoothing_steps": 2, "smoothing_threshold": 0.0}
    options = {**smoothing, "targets": "last", "selection": "highest", "selection_scope": "layer"}
    found, _ = edited([FIRST, OTHER, LATER], "alphaedit_plus", **options)
    assert len(started) == len(OPTIONS["layers"])
    for norms in started:  # though the layers below have moved it, as it is of the later edit's subject
        assert float(norms[0]) == 0 < float(norms[1:].min())
    expected, _ = edited([OTHER, LATER], "alphaedit_plus", **options)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)
