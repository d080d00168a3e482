"""Runs that share a model and its targets: each begins with the unedited weights, and a finished one is kept."""

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aeplus.commands.fit import RunCLI
from aeplus.commands.runs.cache import cached, finish, settings_digest
from aeplus.commands.runs.folder import begin_folder
from aeplus.commands.runs.outcome import Outcome
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.models.sites import EditSite, Snapshot
from aeplus.targets.cache import TargetCache
from aeplus.utils.fingerprint import text_fingerprint, tokenizer_fingerprint, weights_fingerprint

_CAUGHT = (InputError, torch.OutOfMemoryError, torch.linalg.LinAlgError)


@dataclass(frozen=True)
class Run:
    """A method with a seed.

    Attributes:
        label: The method's label.
        seed: The seed of everything.
        folder: The run's folder.
        settings: Its complete configuration.
    """

    label: str
    seed: int
    folder: Path
    settings: dict[str, Any]


def count_edits(data: Mapping[str, Any]) -> int:
    """The number of edits of a run; bad ones are reported before the model is loaded.

    Args:
        data: Options of the data, as in a run's settings.

    Raises:
        InputError: If they cannot be used.
    """
    datamodule = EditDataModule(**data)
    datamodule.setup("fit")
    return len(datamodule.requests)


class Runner:
    """Makes runs, one after the other, with one model.

    Args:
        model: The language model, unedited; every run restores it.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        targets: The folder of the targets that runs share.
        caught: The errors that fail a run and leave the next ones.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sites: list[EditSite],
        targets: Path,
        caught: tuple[type[Exception], ...] = _CAUGHT,
    ) -> None:
        self.model, self.tokenizer, self.sites = model, tokenizer, sites
        self._cache, self._caught = TargetCache(targets), caught
        self._unedited: dict[tuple[Any, ...], Any] = {}
        self._fingerprint = text_fingerprint(weights_fingerprint(model), tokenizer_fingerprint(tokenizer))

    def digest(self, run: Run) -> str:
        """A digest of everything that the run's result depends on."""
        return settings_digest(run.settings, self._fingerprint)

    def finished(self, run: Run) -> Outcome | None:
        """The outcome of the run if it has been made already, with the same settings."""
        return cached(run.folder, self.digest(run))

    def make(self, run: Run) -> Outcome:
        """Makes a run; its folder is begun anew.

        Raises:
            KeyboardInterrupt: After Ctrl-C; the weights are restored.
        """
        digest, start = self.digest(run), time.perf_counter()
        try:
            begin_folder(run.folder)
            with Snapshot(self.sites):
                RunCLI(run.settings, self.model, self.tokenizer, run.folder, self._cache, self._unedited)
        except self._caught as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"aeplus: error: {run.label}, seed {run.seed}: {reason}", file=sys.stderr)
            return Outcome.failed(run.label, run.seed, reason, time.perf_counter() - start)
        finally:
            gc.collect()  # module and trainer refer to each other, and the module to the statistics
        outcome = Outcome.read_metrics(run.label, run.seed, run.folder, time.perf_counter() - start)
        if outcome.error is None:
            finish(run.folder, digest, outcome)
        return outcome
