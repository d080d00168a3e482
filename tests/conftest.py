"""Shared fixtures: a tiny random model with its files, and a cache of its own for every session."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
torch.set_num_threads(2)

from tiny import tiny_model, tiny_tokenizer  # noqa: E402

TARGETS = ["Paris", "Italy", "London", "France"]  # one token each
SUBJECTS = ["France", "Italy", "London", "Paris", "Rome", "Spain", "Oslo"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing in the tests touches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("AEPLUS_CACHE", str(folder))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, edits, preserved text and a config that runs small."""
    folder = tmp_path_factory.mktemp("work")
    tiny_model(num_hidden_layers=3).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    sentence = "The capital of France is Paris and people speak French in Lyon, as they did long ago in Gaul. "
    (folder / "text.txt").write_text("\n\n".join([sentence] * 60))
    (folder / "edits.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
    (folder / "tiny.yaml").write_text(small_config(folder))
    return folder


def records() -> list[dict[str, Any]]:
    """Seven edits."""
    return [
        {
            "prompt": "The capital of {}",  # answered right behind the subject: a random model can learn that
            "subject": subject,
            "target_new": TARGETS[i % len(TARGETS)],
            "rephrase": f"In the city of {subject}",
            "neighborhood": ["The capital of Peru is"],
        }
        for i, subject in enumerate(SUBJECTS)
    ]


def small_config(folder: Path) -> str:
    """A config that runs any method on the tiny model within seconds."""
    return f"""
model:
  model: {folder}/model
  layers: [0, 1]
  method: {{threshold: 0.5, threshold_kind: dimensions, ridge: 0.01, prior_strength: 1.0, smoothing_steps: 2}}
  targets: {{steps: 8, contexts: 1, context_length: 4, learning_rate: 0.5, clamp: 4.0}}
  preserved: {{corpus: {folder}/text.txt, tokens: 1500, window: 32}}
data:
  path: {folder}/edits.jsonl
  batch_size: 3
  preserved_count: 3
  snippet_corpus: {folder}/text.txt
trainer:
  accelerator: cpu
"""
