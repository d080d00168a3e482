"""``aeplus capabilities``: loads a model, measures it, prints the table and writes the file."""

import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import torch

from aeplus.commands.options import split_list
from aeplus.errors import InputError
from aeplus.evaluation.capabilities.harness import require_harness, run_harness
from aeplus.evaluation.capabilities.items import load_tasks
from aeplus.evaluation.capabilities.measure import measure_capabilities, print_capabilities, print_harness
from aeplus.evaluation.capabilities.tasks import CapabilityOptions
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model
from aeplus.utils.jsonl import write_json
from aeplus.utils.paths import check_output, expanded
from aeplus.utils.progress import BarProgress


def run(options: Namespace) -> int:
    """Loads a model, measures it, prints the table and writes the file.

    Args:
        options: See :func:`~aeplus.commands.arguments.capabilities_parser`.

    Raises:
        InputError: If there is nothing to measure on, or the model or the items cannot be used.
    """
    if (options.data is None) == (options.harness is None):
        given = "neither" if options.data is None else "both"
        msg = f"expected one of --data and --harness, got {given}; aeplus capabilities --help shows examples."
        raise InputError(msg)
    if options.out is not None:
        check_output(expanded(options.out), "--out", (options.data,), options.overwrite)
    report = _tasks(options) if options.harness is None else _harness(options)
    if options.out is not None:
        content = {"model": options.model, **report}
        write_json(expanded(options.out), content, overwrite=options.overwrite, mark=False)
    return 0


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
    start = time.perf_counter()
    measured = measure_capabilities(Decoder(model, editable=False), tokenizer, items, options, BarProgress())
    seconds = time.perf_counter() - start
    print_capabilities([(given.model, measured)])
    return {
        "options": {"data": given.data, **asdict(options)},
        "results": [{"step": None, "seconds": seconds, "tasks": measured}],
    }


def _harness(given: Namespace) -> dict[str, Any]:
    require_harness()
    tasks = split_list(" ".join(given.harness))
    limit = _limit(given.limit, None)
    model, tokenizer = _model(given)
    measured = run_harness(model, tokenizer, tasks, limit, given.shots, seed=given.seed)
    print_harness(measured)
    return {
        "options": {"tasks": tasks, "limit": limit, "shots": given.shots, "seed": given.seed},
        "harness": measured,
    }


def _limit(text: str | None, default: int | None) -> int | None:
    if text is None or text == "all":
        return default if text is None else None
    if not text.isdecimal() or int(text) < 1:
        msg = f"expected --limit to be a number from 1, or all, got {text!r}; choose one."
        raise InputError(msg)
    return int(text)


def _model(given: Namespace) -> tuple[Any, Any]:
    model, tokenizer = load_model(given.model, given.dtype)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device), tokenizer
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        msg = f"expected a usable device such as cpu or cuda:0, got {device!r} ({error}); choose another."
        raise InputError(msg) from error
