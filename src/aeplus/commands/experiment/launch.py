"""Makes the cells: in this process, among several by joblib, or as jobs of a cluster by submitit."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aeplus.commands.options import split_list
from aeplus.commands.runs.cache import is_finished, take_over
from aeplus.commands.runs.outcome import Outcome
from aeplus.commands.runs.runner import Run, Runner
from aeplus.errors import InputError
from aeplus.utils.paths import LOCK, locked

_HELD: dict[str, Runner] = {}  # the model of this process, by what it is loaded by


@dataclass(frozen=True)
class Made:
    """What became of a cell.

    Attributes:
        index: Its place among the cells.
        outcome: Its outcome.
        cached: Whether it had been made before.
        source: The folder of another experiment that it was copied from; ``None`` for none.
    """

    index: int
    outcome: Outcome
    cached: bool
    source: Path | None = None


@dataclass(frozen=True)
class Order:
    """A cell to make, as it goes to another process.

    Attributes:
        index: Its place among the cells.
        run: The run.
        targets: The folder of the targets that all cells share.
        threads: Threads of the process; ``None`` to leave them.
        others: Folders of other experiments, whose cells are taken over where they are the same.
    """

    index: int
    run: Run
    targets: Path
    threads: int | None = None
    others: tuple[Path, ...] = ()


def make(order: Order) -> Made:
    """Makes a cell, unless it is finished; the process keeps the model for the next one.

    Raises:
        InputError: If the model cannot be loaded.
    """
    import torch

    from aeplus.trainer import silence_lightning

    silence_lightning()
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    runner = _runner(order)
    try:
        folder = order.run.folder
        # Jobs of a cluster outlive the command that began them. The lock lies beside the folder, which is deleted.
        with locked(folder.parent, "each cell", f"{LOCK}-{folder.name}"):
            if (outcome := runner.finished(order.run)) is not None:
                return Made(order.index, outcome, True)
            if (same := _finished_elsewhere(order, runner.digest(order.run))) is not None:
                return same
            return Made(order.index, runner.make(order.run), False)
    except Exception as error:  # whatever it is, it is this cell's: the others go on
        traceback.print_exc()
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        return _failed(order, reason)


def finished(orders: Sequence[Order], jobs: int) -> list[Made]:
    """Those of some cells that have been made already, as local processes with their model find.

    Args:
        orders: The cells.
        jobs: Processes; with one, it is this process.

    Raises:
        InputError: If the model cannot be loaded.
    """
    likely = sorted((order for order in orders if is_finished(order.run.folder)), key=_model_of)  # each loaded once
    if jobs == 1 or not likely:
        found = [_finished(order) for order in likely]
    else:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        try:
            found = Parallel(n_jobs=jobs, backend="loky", batch_size=1)(delayed(_finished)(order) for order in likely)
        except TerminatedWorkerError:  # each is found when its turn comes
            found = []
    return sorted((made for made in found if made is not None), key=lambda made: made.index)


def _finished(order: Order) -> Made | None:
    """A cell that has been made already with the same settings."""
    from aeplus.trainer import silence_lightning

    silence_lightning()
    runner = _runner(order)
    try:
        outcome = runner.finished(order.run)
    except Exception:  # which fails the cell when its turn comes
        return None
    return None if outcome is None else Made(order.index, outcome, True)


def _failed(order: Order, reason: str) -> Made:
    return Made(order.index, Outcome.failed(order.run.label, order.run.seed, reason, 0.0), False)


def _finished_elsewhere(order: Order, key: str) -> Made | None:
    """The cell as another experiment has made it, copied to its own place."""
    run = order.run
    for other in order.others:
        for folder in sorted(other.glob(f"*/*/seed_{run.seed}")):
            if (outcome := take_over(run.folder, key, run.settings, folder)) is not None:
                return Made(order.index, outcome, True, folder)
    return None


def prepare(order: Order) -> None:
    """Loads the model of a cell.

    Raises:
        InputError: If it cannot be loaded, or its layers cannot be edited.
    """
    _runner(order)


def make_all(orders: Sequence[Order]) -> list[Made]:
    """Makes several cells, one after the other: a job of a cluster."""
    return [make(order) for order in orders]


def _model_of(order: Order) -> str:
    """What a cell's model is loaded by."""
    from aeplus.models.loading import PLACING

    model = order.run.settings["model"]
    return repr([[model[name] for name in PLACING], model.get("site"), model["layers"], str(order.targets)])


def _runner(order: Order) -> Runner:
    from aeplus.models.decoder import Decoder
    from aeplus.models.loading import load_named

    model, key = order.run.settings["model"], _model_of(order)
    if key not in _HELD:
        _HELD.clear()  # one model at a time
        loaded, tokenizer = load_named(model)
        sites = Decoder(loaded, model.get("site")).select(model["layers"])
        _HELD[key] = Runner(loaded, tokenizer, sites, order.targets)
    return _HELD[key]


def forget(jobs: int = 1) -> None:
    """Lets go of this process' model, and ends the others, which hold one each and stay in the folder they began in.

    Args:
        jobs: Processes; with one, there are no others.
    """
    _HELD.clear()
    if jobs > 1:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(kill_workers=True)  # which joblib takes its processes from


def local(orders: Sequence[Order], jobs: int, start: Callable[[Order], None]) -> Iterator[Made]:
    """Makes cells on this machine.

    Args:
        orders: The cells.
        jobs: Processes; with one, it is this process.
        start: Called before each cell that this process makes.

    Yields:
        Each cell as it is done.

    Raises:
        InputError: If the model cannot be loaded.
    """
    if jobs == 1:
        for order in orders:
            start(order)
            yield make(order)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = {order.index: order for order in orders}
    try:
        for made in Parallel(n_jobs=jobs, backend="loky", return_as="generator_unordered", batch_size=1)(
            delayed(make)(order) for order in orders
        ):
            del left[made.index]
            yield made
    except TerminatedWorkerError:  # which of the cells under way it was is not known
        print(
            f"aeplus: one of {jobs} processes was killed, for want of memory as a rule; the cells left are made one "
            "at a time",
            file=sys.stderr,
        )
        yield from _one_at_a_time(left.values())


def _one_at_a_time(orders: Iterable[Order]) -> Iterator[Made]:
    """Makes cells in another process, so that one which is killed fails its own cell alone."""
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    one = ProcessPoolExecutor(max_workers=1)  # not the process' reusable one, which joblib would take for its own
    try:
        for order in orders:
            try:
                yield one.submit(make, order).result()
            except TerminatedWorkerError:
                one.shutdown()
                one = ProcessPoolExecutor(max_workers=1)
                yield _failed(order, "its process was killed, for want of memory as a rule")
    finally:
        one.shutdown()


def parse_launcher_options(words: Sequence[str] | None) -> dict[str, Any]:
    """What submitit gives to jobs, from ``name=value`` words.

    Raises:
        InputError: If one is not of this form.
    """
    options: dict[str, Any] = {}
    for item in split_list(" ".join(words or ())):
        name, equals, value = item.partition("=")
        if not equals or not name or not value:
            msg = f"expected name=value after --launcher-options, got {item!r}; write for example timeout_min=600."
            raise InputError(msg)
        options[name] = int(value) if value.isdecimal() else value
    return options


def check_launcher(launcher: str) -> None:
    """Checks that a launcher is installed.

    Raises:
        InputError: If it is not.
    """
    if launcher == "submitit" and "submitit" not in sys.modules and find_spec("submitit") is None:
        msg = "expected submitit for --launcher submitit, got an installation without it; run: pip install submitit."
        raise InputError(msg)


def submitted(orders: Sequence[Order], jobs: int, folder: Path, options: dict[str, Any]) -> Iterator[Made]:
    """Makes cells as jobs of a cluster, each of which makes its share one after the other.

    Args:
        orders: The cells.
        jobs: How many jobs.
        folder: Where submitit writes what the jobs print.
        options: What submitit gives to them.

    Yields:
        Each cell as its job is done; those of a job that failed come as failed.
    """
    import submitit

    executor = submitit.AutoExecutor(folder=str(folder))
    executor.update_parameters(**{"name": "aeplus", **options})
    size = -(-len(orders) // jobs)
    shares = [orders[start : start + size] for start in range(0, len(orders), size)]
    tasks = [(executor.submit(make_all, share), share) for share in shares]
    for task, share in tasks:
        try:
            made = task.result()
        except Exception as error:  # what a cluster ends a job with
            reason = f"the job {task.job_id} failed ({' '.join(str(error).split())[-200:]})"
            made = [_failed(order, reason) for order in share]
        yield from made
