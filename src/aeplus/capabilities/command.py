"""``aeplus capabilities``, from the words of the command to the table and the file."""

import json
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from aeplus.capabilities.harness import require_harness, run_harness
from aeplus.capabilities.items import load_tasks
from aeplus.capabilities.measure import measure_capabilities
from aeplus.capabilities.options import CapabilityOptions
from aeplus.capabilities.table import print_capabilities, print_harness
from aeplus.errors import InputError
from aeplus.models.loading import load_model
from aeplus.models.sites import Decoder
from aeplus.paths import whole_file
from aeplus.progress import BarProgress


def measure_model(given: Namespace) -> None:
    """Loads a model, measures it, prints the table and writes the file.

    Args:
        given: The parsed words of the command.

    Raises:
        InputError: If there is nothing to measure on, or the model or the items cannot be used.
    """
    if (given.data is None) == (given.harness is None):
        came = "neither" if given.data is None else "both"
        msg = f"expected one of --data and --harness, but {came} came; aeplus capabilities --help shows examples."
        raise InputError(msg)
    report = _tasks(given) if given.harness is None else _harness(given)
    if given.out is not None:
        with whole_file(Path(given.out)) as scratch:
            scratch.write_text(json.dumps({"model": given.model, **report}, indent=2) + "\n", encoding="utf-8")


def _tasks(given: Namespace) -> dict[str, Any]:
    options = CapabilityOptions(
        limit=_limit(given.limit, 100),
        shots=given.shots or 0,
        scoring=given.scoring,
        seed=given.seed,
        batch_tokens=given.batch_tokens,
    )
    items = load_tasks(" ".join(given.tasks), given.data, options)  # before the model, which takes longer
    model, tokenizer = _model(given)
    began = time.perf_counter()
    measured = measure_capabilities(Decoder(model), tokenizer, items, options, BarProgress())
    seconds = time.perf_counter() - began
    print_capabilities([(given.model, measured)])
    return {
        "options": {"data": given.data, **asdict(options)},
        "results": [{"step": None, "seconds": seconds, "tasks": measured}],
    }


def _harness(given: Namespace) -> dict[str, Any]:
    require_harness()
    tasks = " ".join(given.harness).replace(",", " ").split()
    limit = _limit(given.limit, None)
    model, tokenizer = _model(given)
    measured = run_harness(model, tokenizer, tasks, limit, given.shots, seed=given.seed)
    print_harness(measured)
    return {
        "options": {"tasks": tasks, "limit": limit, "shots": given.shots, "seed": given.seed},
        "harness": measured,
    }


def _limit(word: str | None, default: int | None) -> int | None:
    if word is None or word == "all":
        return default if word is None else None
    if not word.isdecimal() or int(word) < 1:
        msg = f"--limit must be a number from 1 on, or all, but {word!r} came; choose one."
        raise InputError(msg)
    return int(word)


def _model(given: Namespace) -> tuple[Any, Any]:
    model, tokenizer = load_model(given.model, given.dtype)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device), tokenizer
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        msg = f"expected a device such as cpu or cuda:0, but {device!r} cannot be used ({error}); choose another."
        raise InputError(msg) from error
