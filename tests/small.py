"""Edits and settings that run within seconds."""

import os
from pathlib import Path
from typing import Any

from aeplus.methods.compositions import named_method
from aeplus.methods.method import Method
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions

ROOT = Path(__file__).parents[1]
ACCELERATOR = os.environ.get("AEPLUS_TEST_ACCELERATOR", "cpu")  # auto, where there is a GPU
TARGETS = ["Paris", "Italy", "London", "France"]  # one token each
SUBJECTS = ["France", "Italy", "London", "Paris", "Rome", "Spain", "Oslo"]
SMALL: dict[str, Any] = {
    "layers": [1, 2],
    "tokens": 600,
    "window": 32,
    "contexts": 1,
    "context_length": 4,
    "steps": 3,
    "preserved_count": 0,
    "corpus": str(ROOT / "README.md"),
}
LEARNING: dict[str, Any] = {
    **SMALL,
    "steps": 25,
    "clamp": 6.0,
    "kl_factor": 0.0,
    "ridge": 0.01,
    "prior_strength": 1.0,
    "threshold": 0.8,
    "threshold_kind": "dimensions",
}
"""With these a tiny model learns its edits."""


def learning_options(method: str) -> tuple[Method, TargetOptions, PreservedOptions]:
    """The same for a session or a module, with two smoothing iterations."""
    numbers, targets, preserved = (
        {name: LEARNING[name] for name in names}
        for names in (
            ("ridge", "prior_strength", "threshold", "threshold_kind"),
            ("steps", "clamp", "kl_factor", "contexts", "context_length"),
            ("corpus", "tokens", "window"),
        )
    )
    numbers["smoothing_steps"] = 2
    smooth = {"smooth": True} if method == "alphaedit_plus" else {}  # off by default
    return named_method(method, **numbers, **smooth), TargetOptions(**targets), PreservedOptions(**preserved)


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
  accelerator: {ACCELERATOR}
"""
