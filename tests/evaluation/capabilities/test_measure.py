"""All six tasks on a tiny model: what is counted, and that nothing else changes."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aeplus.errors import InputError
from aeplus.evaluation.capabilities import measure
from aeplus.evaluation.capabilities.items import TaskItem, TaskItems, load_tasks
from aeplus.evaluation.capabilities.measure import measure_capabilities
from aeplus.evaluation.capabilities.tasks import METRICS, CapabilityOptions
from aeplus.models.decoder import Decoder
from tiny import tiny_model, tiny_tokenizer

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(max_position_embeddings=2048)


@pytest.mark.parametrize("scoring", ["likelihood", "generation"])
def test_all_tasks_are_measured_alike_twice_and_nothing_changes(folder: Path, model: Any, scoring: Any) -> None:
    options = CapabilityOptions(limit=5, shots=1, scoring=scoring)
    tasks, tokenizer = load_tasks("all", folder, options), tiny_tokenizer()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = measure_capabilities(Decoder(model), tokenizer, tasks, options)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert measure_capabilities(Decoder(model), tokenizer, load_tasks("all", folder, options), options) == found
    assert list(found) == ["sst2", "mrpc", "mmlu", "rte", "cola", "nli"]
    for name, values in found.items():
        metrics = METRICS if name == "cola" else ("f1", "accuracy")
        assert list(values) == [*metrics, "items", "unanswered", "shortened"]
        assert values["items"] == 5
        assert values["shortened"] == 0
        assert values["unanswered"] == 0 or scoring == "generation"


def test_answers_are_held_against_the_labels(toy: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items = TaskItems(
        toy("Paris", "Italy"), tuple(TaskItem({"text": str(i)}, label, "toy") for i, label in enumerate([0, 1, 1, 0]))
    )
    scores = torch.tensor([[2.0, 1], [2, 1], [1, 2], [0, torch.nan]])
    monkeypatch.setattr(measure, "option_likelihoods", lambda *_: scores)
    found = measure_capabilities(Decoder(model), tiny_tokenizer(), [items])["toy"]
    # Answers 0, 0, 1 and none: class 0 has tp 1, fp 1, fn 1; class 1 has tp 1, fn 1.
    assert found == pytest.approx(
        {"accuracy": 50.0, "f1": 100 * (1 / 2 + 2 / 3) / 2, "items": 4, "unanswered": 1, "shortened": 0}
    )
    monkeypatch.setattr(measure, "generate", lambda *_: ["Paris", "Italy", "the", "Paris Italy"])
    found = measure_capabilities(Decoder(model), tiny_tokenizer(), [items], CapabilityOptions(scoring="generation"))
    assert found["toy"]["accuracy"] == 75.0
    assert found["toy"]["unanswered"] == 1


def test_generation_goes_on_from_prompts_with_their_examples(
    folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CapabilityOptions(limit=2, shots=1, scoring="generation", new_tokens=3, batch_tokens=200)
    (items,) = load_tasks("sst2", folder, options)
    asked: list[Any] = []

    def generate(decoder: Decoder, tokenizer: Any, prompts: list[str], length: int, batch_tokens: int) -> list[str]:
        asked.extend([prompts, length, batch_tokens])
        return [items.task.options[item.label].upper() for item in items.scored]

    monkeypatch.setattr(measure, "generate", generate)
    found = measure_capabilities(Decoder(model), tiny_tokenizer(bos=True), [items], options)
    assert found["sst2"]["accuracy"] == 100.0
    (example,) = items.shots
    solved = f"{items.task.prompt(example.fields)} {items.task.options[example.label]}\n"
    assert asked == [[solved + items.task.prompt(item.fields) for item in items.scored], 3, 200]


def test_any_task_may_report_any_metric(folder: Path, model: Any) -> None:
    (items,) = load_tasks("rte", folder, CapabilityOptions(limit=3))
    items = replace(items, task=replace(items.task, metrics=("mcc",)))
    found = measure_capabilities(Decoder(model), tiny_tokenizer(), [items])
    assert list(found["rte"]) == ["mcc", "items", "unanswered", "shortened"]


def test_what_is_cut_is_counted(folder: Path) -> None:
    tasks, tokenizer = load_tasks("sst2", folder, CapabilityOptions(limit=4, shots=8)), tiny_tokenizer()
    small = tiny_model(max_position_embeddings=96)
    assert measure_capabilities(Decoder(small), tokenizer, tasks)["sst2"]["shortened"] == 4


def test_a_prompt_that_cannot_fit_is_reported_before_anything_is_run(folder: Path) -> None:
    decoder = Decoder(tiny_model(max_position_embeddings=48))
    decoder.backbone.register_forward_pre_hook(lambda *_: pytest.fail("ran a task before it looked at the others"))
    tasks = load_tasks("sst2,cola", folder, CapabilityOptions(limit=2))
    with pytest.raises(InputError, match=r"cola.jsonl, line \d+: expected prompt and answer to fit .* 48 tokens"):
        measure_capabilities(decoder, tiny_tokenizer(), tasks)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_published_items_run(model: Any) -> None:
    options = CapabilityOptions(limit=4, shots=1)
    found = measure_capabilities(Decoder(model), tiny_tokenizer(), load_tasks("all", SHARED, options), options)
    assert all(values["items"] == 4 and 0 <= values["f1"] <= 100 for values in found.values())
