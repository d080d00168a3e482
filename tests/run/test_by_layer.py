"""Every layer chooses its own smoothing candidate (``selection_scope: layer``)."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import aeplus
from aeplus.callbacks import EditCallback, SmoothingStop
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.methods.compositions import named_method
from aeplus.run.selection import Best, Decision, Highest
from aeplus.run.session import EditSession
from small import LEARNING, learning_options, records
from tiny import tiny_model, tiny_tokenizer

LAYERS = LEARNING["layers"]
BY_LAYER: dict[str, Any] = {
    "targets": "last",
    "smooth": True,
    "selection": "highest",
    "selection_scope": "layer",
    "smoothing_mode": "sequential",
    "smoothing_steps": 2,
    "smoothing_threshold": 0.0,  # every edit is smoothed
}
NUMBERS: dict[str, Any] = {
    "ridge": 0.01,
    "prior_strength": 1.0,
    "threshold": 0.8,
    "threshold_kind": "dimensions",
}
OPTIONS: dict[str, Any] = {
    **LEARNING,
    "steps": 4,
    "preserved_count": 2,
    "snippet_corpus": LEARNING["corpus"],
    "batch_size": 3,
}


def prepared(model: Any, **numbers: Any) -> tuple[EditSession, EditDataModule]:
    data = EditDataModule(batch_size=3, preserved_count=2, snippet_corpus=LEARNING["corpus"])
    data.attach(requests_from_records(records())).setup("fit")
    _, targets, preserved = learning_options("alphaedit_plus")
    targets = replace(targets, steps=4)
    method = named_method("alphaedit_plus", **{**NUMBERS, **BY_LAYER, **numbers})
    run = EditSession(model, tiny_tokenizer(), LAYERS, method, targets, preserved)
    run.prepare(data)
    return run, data


def scripted(run: EditSession, monkeypatch: pytest.MonkeyPatch, scores: list[float | None]) -> list[list[torch.Tensor]]:
    """Has the candidates graded by given scores; what the edited weights were each time."""
    seen: list[list[torch.Tensor]] = []

    def grade(items: Any, batch: Any = None) -> dict[str, float | None]:
        seen.append([site.weight.detach().clone() for site in run.sites])
        score = scores[len(seen) - 1]
        return {"efficacy": score, "generalization": score, "specificity": 0.0, "score": 0.0, "probability": score}

    monkeypatch.setattr(run.measuring, "grade", grade)
    return seen


def test_each_layer_is_scored_with_those_below_chosen_and_those_above_unedited(monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = prepared(tiny_model("llama"))
    start = [site.weight.detach().clone() for site in run.sites]
    seen = scripted(run, monkeypatch, [50.0, 70.0, 70.0, 20.0, 10.0, 30.0])
    run.begin(data.validation_items)
    run.candidate()
    assert len(seen) == 6
    assert run.batch.iterations == 1
    assert all(torch.equal(weights[1], start[1]) for weights in seen[:3])
    assert not any(torch.equal(a[0], b[0]) for a, b in ((seen[0], seen[1]), (seen[1], seen[2])))
    assert all(torch.equal(weights[0], seen[1][0]) for weights in seen[3:])  # a tie goes to the most smoothed
    edited = [site.weight for site in run.sites]
    assert torch.equal(edited[0], seen[1][0])
    assert torch.equal(edited[1], seen[5][1])
    assert run.settle(90.0)
    report = run.commit().report
    assert report["chosen"] == [
        {"iteration": 1, "scores": [50.0, 70.0, 70.0]},
        {"iteration": 2, "scores": [20.0, 10.0, 30.0]},
    ]
    assert (report["smoothing_iterations"], report["committed_iteration"]) == (1, 0)
    for weight, (site, edit) in zip(edited, zip(run.sites, run.entries[0].updates.items(), strict=True), strict=True):
        index = run.sites.index(site)
        torch.testing.assert_close(weight, start[index] + edit[1].dense(), rtol=0, atol=1e-6)


def test_what_there_is_nothing_to_choose_by_is_not_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = prepared(tiny_model("llama"))
    seen = scripted(run, monkeypatch, [None] * 6)
    run.begin(data.validation_items)
    run.candidate()
    assert [chosen["iteration"] for chosen in run.commit().report["chosen"]] == [2, 2]
    assert torch.equal(run.sites[0].weight, seen[2][0])


def test_a_layer_without_an_edit_above_the_threshold_is_not_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold is compared with what the layers below have left."""
    run, data = prepared(tiny_model("llama"))
    scripted(run, monkeypatch, [0.0] * 6)
    run.begin(data.validation_items)
    norms = run.batch.editor.residual_norms
    run.rollback()
    run, data = prepared(tiny_model("llama"), smoothing_threshold=0.999 * float(norms.max()))
    seen = scripted(run, monkeypatch, [0.0, 0.0, 1.0])
    run.begin(data.validation_items)
    run.candidate()
    assert len(seen) == 3
    first, second = run.commit().report["chosen"]
    assert (first["iteration"], second["iteration"]) == (2, 0)
    assert second["scores"] == []


class Chosen(EditCallback):
    """What every layer of every batch has chosen."""

    def __init__(self) -> None:
        self.chosen: list[Any] = []

    def on_batch_committed(self, trainer: Any, module: Any, commit: Any) -> None:
        self.chosen.append(commit.report["chosen"])


def test_lightning_edits_as_a_loop_of_ones_own() -> None:
    by_hand, by_lightning, seen = tiny_model("llama"), tiny_model("llama"), Chosen()
    run, data = prepared(by_hand)
    while not data.exhausted:
        run.edit_batch(data.validation_items)
    run.finish()
    aeplus.edit(by_lightning, tiny_tokenizer(), records(), **OPTIONS, **BY_LAYER, callbacks=[seen])
    for name, weight in by_lightning.state_dict().items():
        assert torch.equal(by_hand.state_dict()[name], weight), name
    assert seen.chosen == [batch["chosen"] for batch in run.report.batches]
    assert all(len(layer["scores"]) == 3 for batch in seen.chosen for layer in batch)


def test_the_rule_of_the_call_chooses_for_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    observed: list[float] = []
    monkeypatch.setattr(Best, "observe", lambda self, s: observed.append(s) or Decision(keep=True, done=True))
    seen = Chosen()
    options = {**OPTIONS, **BY_LAYER, "selection": "best"}
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), records()[:3], **options, callbacks=[seen])
    assert [[len(layer["scores"]) for layer in batch] for batch in seen.chosen] == [[1, 1]]
    assert [layer["scores"][0] for layer in seen.chosen[0]] == observed[:2]  # the third is the whole batch's


def test_replay_chooses_by_layer_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tokenizer = tmp_path / "kept", tiny_tokenizer()
    monkeypatch.setattr(Highest, "observe", lambda self, score: Decision(keep=True, done=True))  # the first
    aeplus.edit(tiny_model("llama"), tokenizer, records()[:4], journal=folder, **OPTIONS, **BY_LAYER)
    entry = Journal.open(folder).show(2)
    method = entry["settings"]["model"]["method"]
    assert (method["selection_scope"], entry["settings"]["selection"]["selection"]) == ("layer", "highest")
    assert [layer["iteration"] for layer in entry["report"]["chosen"]] == [0, 0]
    model, expected, other = (tiny_model("llama") for _ in range(3))
    Journal.open(folder).undo(1, mode="replay", model=model, tokenizer=tokenizer)
    aeplus.edit(expected, tokenizer, records()[3:4], **OPTIONS, **BY_LAYER)
    aeplus.edit(other, tokenizer, records()[3:4], **OPTIONS, **{**BY_LAYER, "selection_scope": "batch"})
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert any(not torch.equal(other.state_dict()[name], weight) for name, weight in expected.state_dict().items())


# ---- refused


def test_several_processes_are_refused() -> None:
    _, targets, preserved = learning_options("alphaedit_plus")
    method = named_method("alphaedit_plus", **NUMBERS, **BY_LAYER)
    text = (
        "expected one process for method.selection_scope: layer, .* got several; set trainer.devices: 1, or selection"
    )
    with pytest.raises(InputError, match=text):
        EditSession(
            tiny_model("llama"),
            tiny_tokenizer(),
            LAYERS,
            method,
            targets,
            preserved,
            ranks=SimpleNamespace(alone=False),
        )  # type: ignore[arg-type]


def test_a_batch_needs_its_prompts_and_a_monitor_of_the_session() -> None:
    run, data = prepared(tiny_model("llama"))
    with pytest.raises(InputError, match=r"expected validation prompts for method.selection_scope: layer, got none; "):
        run.begin()
    run.monitor = "own"
    with pytest.raises(InputError, match=r"expected a monitor out of probability, .* for method.*, got 'own'; choose"):
        run.begin(data.validation_items)
    stop = SmoothingStop(monitor="validation/own")
    with pytest.raises(InputError, match=r"got 'own'"):
        aeplus.edit(tiny_model("llama"), tiny_tokenizer(), records()[:3], **OPTIONS, **BY_LAYER, callbacks=[stop])


def test_layers_that_normalize_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"expected layers whose MLP output is added to the stream for method.selection"
    ):
        aeplus.edit(tiny_model("gemma2", attention="eager"), tiny_tokenizer(), records()[:3], **OPTIONS, **BY_LAYER)
