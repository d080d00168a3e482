"""EleutherAI's lm-evaluation-harness on a model that is already loaded."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from aeplus.errors import InputError


def require_harness() -> None:
    """Checks that the harness is installed.

    Raises:
        InputError: If it is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        msg = (
            "expected EleutherAI's harness, lm_eval, got an installation without it; run: pip install "
            "'lm-eval>=0.4.13', or leave out --harness."
        )
        raise InputError(msg)


def run_harness(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str | dict[str, Any]],
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Runs tasks of the harness (``lm_eval``) on a model, edited or not.

    Args:
        model: A Hugging Face causal language model; it is used as it is, on its device.
        tokenizer: Its tokenizer.
        tasks: Names of the harness's tasks or groups, paths of task files (``.yaml``), or task configurations.
        limit: Maximum number of items of each task, from the first; ``None`` for all.
        shots: Solved examples before each item; ``None`` for each task's default.
        batch_size: Items run at once.
        seed: Seed of the examples.

    Returns:
        For each task and group its metrics under the harness's names (``acc,none``), with their standard errors.

    Raises:
        InputError: If the harness is not installed, or a task cannot be loaded or run.
    """
    require_harness()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    named = any(isinstance(task, str) and not task.endswith(".yaml") for task in tasks)
    try:
        outcome = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            log_samples=False,
            task_manager=TaskManager(include_defaults=named),  # reading the list of all tasks takes seconds
            fewshot_random_seed=seed,
        )
    except Exception as error:  # a task runs its own code, and most fetch their items from the hub
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = (
            f"expected tasks that the harness can load and run, got an error from {_names(tasks)} ({reason}); list the "
            "names with lm_eval ls tasks, and note that most tasks need the hub."
        )
        raise InputError(msg) from error
    assert outcome is not None  # only ranks after the first get None
    results = {**outcome["results"], **outcome.get("groups", {})}
    return {
        name: {metric: float(value) for metric, value in values.items() if isinstance(value, int | float)}
        for name, values in results.items()
    }


def _names(tasks: Sequence[str | dict[str, Any]]) -> str:
    return ", ".join(task if isinstance(task, str) else str(task.get("task", "a configuration")) for task in tasks)
