"""What editing does to the rest of the model: the six general tasks along the stream."""

import time
import warnings
from dataclasses import asdict
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from aeplus.callbacks.report import log_folder, run_folder
from aeplus.errors import require_count
from aeplus.evaluation.capabilities.items import TaskItems, load_tasks
from aeplus.evaluation.capabilities.measure import measure_capabilities, print_capabilities
from aeplus.evaluation.capabilities.tasks import CapabilityOptions, Scoring
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, came_late, goes_on, session_of
from aeplus.run.session import EditSession
from aeplus.utils.jsonl import write_json
from aeplus.utils.paths import check_output
from aeplus.utils.progress import BarProgress, Progress


class CapabilitiesWriter(EditCallback):
    """Measures general tasks before the first edit, after every N batches and at the end (the paper's Fig. 4).

    Writes ``capabilities.json`` into the run's folder and logs ``capabilities/<task>/<metric>``; the step is the number
    of batches committed. Nothing in the run depends on it. A checkpoint holds what was measured so far; a resumed run
    goes on with it, unless it measures otherwise.

    Args:
        data: A folder with ``<task>.jsonl`` for each task, or ``hub`` for their data sets on the hub.
        tasks: Names out of sst2, mrpc, mmlu, rte, cola and nli, separated by commas, or all.
        every: Measure after every N batches too; 0 for the start and the end only.
        limit: Items of each task, drawn by the seed; null for all.
        shots: Solved examples before each item.
        scoring: ``likelihood`` takes the likeliest option, ``generation`` the first that a continuation names.
        seed: Seed of the items and the examples.
        batch_tokens: Tokens run at once.
        table: Whether to print the first and the last figures at the end.
    """

    def __init__(
        self,
        data: str,
        tasks: str = "all",
        every: int = 0,
        limit: int | None = 100,
        shots: int = 0,
        scoring: Scoring = "likelihood",
        seed: int = 0,
        batch_tokens: int = 2048,
        table: bool = True,
    ) -> None:
        require_count(every, "CapabilitiesWriter's every")
        self.options = CapabilityOptions(
            limit=limit, shots=shots, scoring=scoring, seed=seed, batch_tokens=batch_tokens
        )
        self.data, self.tasks, self.every, self.table = data, tasks, every, table
        self.results: list[dict[str, Any]] = []
        self._items: list[TaskItems] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads the items, so that a damaged file is reported before the work."""
        if not goes_on(pl_module):
            self.results = []
        folder = run_folder(trainer)
        if stage == "fit":
            if trainer.is_global_zero:
                check_output(folder / "capabilities.json", "the run")
            self._items = load_tasks(self.tasks, self.data, self.options)

    def on_unedited_model(self, trainer: Trainer, module: EditingModule) -> None:
        """Measures the unedited model."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._measure(trainer, module.session, 0)

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Measures the model after every N batches."""
        if self.every and (commit.index + 1) % self.every == 0:
            self._measure(trainer, module.session, commit.index + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the edited model, unless that has just been done."""
        session = session_of(pl_module)
        step = len(session.entries)
        if not self.results:
            came_late(self, "measures nothing")
        elif self.results[-1]["step"] != step:
            self._measure(trainer, session, step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prints the table, now that every callback has saved what it has."""
        if stage == "fit" and self.table and trainer.is_global_zero and self.results:
            after = f"after {self.results[-1]['step']} batches"
            print_capabilities([("before", self.results[0]["tasks"]), (after, self.results[-1]["tasks"])])

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, and how, for a checkpoint."""
        return {"how": self._how, "results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what the checkpoint's run measured in the same way; the unedited model is measured again."""
        if state_dict["how"] == self._how:
            self.results = [result for result in state_dict["results"] if result["step"]]
            return
        warnings.warn(
            "the checkpoint's general tasks were measured by other options of CapabilitiesWriter, and are left out",
            stacklevel=2,
        )

    @property
    def _how(self) -> dict[str, Any]:
        return {"data": self.data, "tasks": self.tasks, **asdict(self.options)}

    def _measure(self, trainer: Trainer, session: EditSession, step: int) -> None:
        began = time.perf_counter()
        progress = BarProgress() if trainer.is_global_zero else Progress()
        measured = measure_capabilities(session.decoder, session.tokenizer, self._items, self.options, progress)
        result = {"step": step, "seconds": time.perf_counter() - began, "tasks": measured}
        self.results = [result, *self.results] if step == 0 else [*self.results, result]
        values = {f"capabilities/{task}/{name}": v for task, values in measured.items() for name, v in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        if trainer.is_global_zero and log_folder(trainer) is not None:
            options = {"data": self.data, **asdict(self.options)}
            write_json(run_folder(trainer) / "capabilities.json", {"options": options, "results": self.results})
