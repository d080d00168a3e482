"""``aeplus capabilities``: loads a model, measures it, prints the table and writes the file."""

import argparse
import json
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from aeplus.errors import InputError
from aeplus.evaluation.capabilities.harness import require_harness, run_harness
from aeplus.evaluation.capabilities.items import load_tasks
from aeplus.evaluation.capabilities.measure import measure_capabilities, print_capabilities, print_harness
from aeplus.evaluation.capabilities.tasks import CapabilityOptions
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model
from aeplus.utils.paths import whole_file
from aeplus.utils.progress import BarProgress

HELP = """\
usage: aeplus capabilities --model NAME --data FOLDER [options]
       aeplus capabilities --model NAME --harness TASKS [options]

Measures a model, edited or not, on SST-2, MRPC, MMLU, RTE, CoLA and NLI: weighted F1, accuracy, and Matthews'
correlation for CoLA. docs/capabilities.md shows the prompts.

options:
  --model NAME     hub id, folder (such as the model that JournalWriter saves), .gguf file or smollm2-135m
  --data FOLDER    a folder with <task>.jsonl for each task, or hub for their data sets on the hub
  --tasks LIST     tasks out of sst2, mrpc, mmlu, rte, cola and nli, separated by commas or spaces, or all
                   (default: all)
  --limit NUMBER   items of each task, drawn by the seed, or all (default: 100; with --harness all)
  --shots NUMBER   solved examples before each item (default: 0; with --harness what each task asks for)
  --scoring WORD   likelihood takes the likeliest option, generation the first that a greedy continuation names
                   (default: likelihood)
  --seed NUMBER    seed of the items and the examples (default: 0)
  --batch-tokens NUMBER
                   tokens run at once (default: 2048)
  --dtype WORD     dtype of the weights: auto, float32, bfloat16 or float16 (default: auto, the checkpoint's)
  --device NAME    such as cpu or cuda:0 (default: cuda if there is one, else cpu)
  --out FILE       write the figures as JSON
  --harness TASKS  run tasks of EleutherAI's harness (pip install 'lm-eval>=0.4.13') instead: their names, or task files
                   (.yaml), separated by commas or spaces

examples:
  aeplus capabilities --model lightning_logs/edits/version_0/model --data data/capabilities --out after.json
  aeplus capabilities --model smollm2-135m --harness hellaswag,piqa --limit 200
"""


def run(words: list[str]) -> int:
    """Measures a model on general tasks.

    Args:
        words: The words behind ``aeplus capabilities``.
    """
    parser = argparse.ArgumentParser("aeplus capabilities", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=["all"])
    parser.add_argument("--limit")
    parser.add_argument("--shots", type=int)
    parser.add_argument("--scoring", default="likelihood")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--device")
    parser.add_argument("--out")
    parser.add_argument("--harness", nargs="+")
    given = parser.parse_args(words)

    measure_model(given)
    return 0


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
