"""Smoothing candidates found and scored in one pass, against one after the other."""

from typing import Any

import pytest
import torch

from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.methods.compositions import named_method
from aeplus.run.session import EditSession
from small import LEARNING, learning_options, records
from tiny import tiny_model, tiny_tokenizer


def stream() -> EditDataModule:
    data = EditDataModule(batch_size=4, preserved_count=2, snippet_corpus=LEARNING["corpus"])
    data.attach(requests_from_records(records())).setup("fit")
    return data


def begun(mode: str) -> tuple[EditSession, EditDataModule]:
    method, targets, preserved = learning_options("alphaedit_plus")
    names = ("ridge", "prior_strength", "threshold", "threshold_kind")
    numbers = {name: getattr(method, name) for name in names}
    chosen = named_method("alphaedit_plus", **numbers, smooth=True, smoothing_steps=4, smoothing_mode=mode)
    session = EditSession(tiny_model("llama"), tiny_tokenizer(), [1, 2], chosen, targets, preserved)
    data = stream()
    session.prepare(data)
    return session, data


def run(mode: str) -> EditSession:
    session, data = begun(mode)
    while not data.exhausted:
        session.edit_batch(data.validation_items)
    return session


def test_one_pass_chooses_as_many_do() -> None:
    one, many = run("parallel"), run("sequential")
    for mine, theirs in zip(one.report.batches, many.report.batches, strict=True):
        assert mine["smoothing_iterations"] == theirs["smoothing_iterations"] > 2
        assert mine["committed_iteration"] == theirs["committed_iteration"]
        for left, right in zip(mine["candidates"], theirs["candidates"], strict=True):
            assert left == pytest.approx(right, rel=1e-4)
        assert mine["layers"] == theirs["layers"]
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, many.model.state_dict()[name]), name


def test_other_prompts_than_the_first_candidates_are_asked_of_the_model_itself() -> None:
    session, data = begun("parallel")
    items = data.validation_items()
    session.begin()
    session.candidate()
    session.validate(items)
    session.candidate()
    ahead, asked = session.validate(items), session.validate(items[:1])
    assert asked != ahead
    assert session.validate([*items, items[0]])["specificity"] == ahead["specificity"]
    assert session.validate(items) == ahead


def test_the_model_holds_the_candidate_while_its_scores_are_heard() -> None:
    session, data = begun("parallel")
    session.begin()
    held: list[Any] = []
    for _ in range(3):
        session.candidate()
        session.validate(data.validation_items())
        held.append(session.sites[0].weight.clone())
        batch = session.batch
        session_weight = batch.snapshot.weights[0] + batch.current.updates[0].dense()
        torch.testing.assert_close(held[-1], session_weight)
    assert not torch.equal(held[0], held[1])
