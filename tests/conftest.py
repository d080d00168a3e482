"""Shared fixtures: a tiny random model with its files, and a cache of its own for every session."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "functional"), str(ROOT / "benchmarks")]
os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported; tests never wait for a network
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to Ctrl-C
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

from small import records, small_config  # noqa: E402
from tiny import tiny_model, tiny_tokenizer  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing in the tests touches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("AEPLUS_CACHE", str(folder))
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
