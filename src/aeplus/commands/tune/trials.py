"""A trial: ``aeplus fit`` on the tuning edits, with a model that is loaded once and restored after every trial."""

import copy
import gc
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from aeplus.callbacks import BatchCommit, EditCallback, EditProgressBar, SmoothingStop
from aeplus.commands.fit import BaseCLI
from aeplus.commands.runs.cache import settings_digest
from aeplus.commands.tune.search import Result, Values
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.methods.compositions import method_switches
from aeplus.methods.method import Method
from aeplus.methods.registry import NamedMethod
from aeplus.metrics.success import ASPECTS
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.module import EditModule
from aeplus.preserved.statistics import PreservedOptions
from aeplus.run.hooks import EditingModule
from aeplus.targets.cache import TargetCache
from aeplus.targets.optimizer import TargetOptions, Targets
from aeplus.trainer import interruptible
from aeplus.utils.cache import digest as seal
from aeplus.utils.fingerprint import text_fingerprint, tokenizer_fingerprint, weights_fingerprint
from aeplus.utils.jsonl import read_json, write_json


class TuneCLI(BaseCLI):
    """Parses what all trials have in common.

    Args:
        args: The arguments of ``aeplus fit``.
    """

    # The user's arguments follow these and override them.
    defaults = (
        "--model.layers=[]",  # searched, or --fixed-layers
        "--model.method.prior_strength=1.0",
        "--data.limit=10",
        # All edits and more preserved prompts: with the defaults of fit one paraphrase is worth 11 points of the Score.
        "--data.validation_share=1.0",
        "--data.preserved_count=50",
    )

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__([*self.defaults, *args])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuses a checkpoint: trials begin with the unedited model."""
        if any(str(argument).startswith("--ckpt_path") for argument in args):
            msg = "expected the unedited model for every trial, got --ckpt_path; leave it out."
            raise InputError(msg)
        super().parse_arguments(parser, args)

    def trial_trainer(self, watch: EditCallback) -> Trainer:
        """A trainer with the user's options that writes no files; progress is shown in a terminal only."""
        interactive = sys.stderr.isatty()
        callbacks = [SmoothingStop(), watch, *([EditProgressBar()] if interactive else [])]
        self.save_config_callback = None
        return self.instantiate_trainer(
            logger=False, callbacks=callbacks, enable_checkpointing=False, enable_progress_bar=interactive
        )


class _Watch(EditCallback):
    """Keeps the commit of the trial's only batch."""

    commit: BatchCommit | None = None

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        self.commit = commit


class _WatchedCache(TargetCache):
    """Keeps the targets that were requested last."""

    last: Targets | None = None

    def find(self, *args: Any, **kwargs: Any) -> tuple[Targets, float]:
        self.last, seconds = super().find(*args, **kwargs)
        return self.last, seconds


class TrialRunner:
    """Runs trials, each from the unedited model, and caches the finished ones in a file.

    Args:
        cli: What all trials have in common; its data are set up: one batch, without test prompts.
        settings: Its configuration.
        model: The language model.
        tokenizer: Its tokenizer.
        folder: Where targets are cached.
        results: The file of finished trials.
        methods: The methods that are tuned, by name.

    Attributes:
        decoder: The model's decoder.
    """

    def __init__(
        self,
        cli: TuneCLI,
        settings: Mapping[str, Any],
        model: Any,
        tokenizer: Any,
        folder: Path,
        results: Path,
        methods: Mapping[str, NamedMethod],
    ) -> None:
        self._cli, self._settings = cli, _relevant(settings)
        self._data: EditDataModule = cli.datamodule
        self._model, self._tokenizer, self.decoder = model, tokenizer, Decoder(model, settings["model"].get("site"))
        self._cache = _WatchedCache(folder / "targets")
        self._unedited: dict[tuple[Any, ...], Any] = {}
        self._results, self._finished = results, _read(results)
        self._fingerprint = text_fingerprint(weights_fingerprint(model), tokenizer_fingerprint(tokenizer))
        self._methods, self._done = methods, 0

    def __call__(self, title: str, method: str, values: Values) -> Result:
        """Runs a trial, or takes it from the cache.

        Args:
            title: The message when it begins.
            method: The method.
            values: The values to set.

        Raises:
            InputError: If it cannot be run.
            KeyboardInterrupt: After Ctrl-C.
        """
        settings = with_values(self._settings, self._methods.get(method, method), values)
        digest = text_fingerprint(settings_digest(settings, self._fingerprint), *self._data.requests)
        known = self._finished.get(digest)
        print(title if known is None else f"{title}: cached", file=sys.stderr, flush=True)
        if known is None:
            try:
                known = self._run(settings, values["layers"])
            except InputError as error:
                print(f"aeplus: error: {error}", file=sys.stderr)
                raise
            except KeyboardInterrupt:
                done = f"{self._done} finished trials cached"
                print(f"\ninterrupted: {done}; rerun the same command to continue", file=sys.stderr)
                raise
            self._finished[digest] = known
            trials = {key: asdict(result) for key, result in self._finished.items()}
            write_json(self._results, {key: {**trial, "seal": seal([key, trial])} for key, trial in trials.items()})
        self._done += 1
        return known

    def _run(self, settings: Mapping[str, Any], layers: Sequence[int]) -> Result:
        start = time.perf_counter()
        self._cache.last = None
        watch = _Watch()
        try:
            with Snapshot(self.decoder.select(layers)):
                self._fit(_module(settings["model"]), self._cli.trial_trainer(watch))
        finally:
            gc.collect()  # module and trainer refer to each other, and the module to the statistics
        commit = watch.commit
        measured = commit.validation if commit else {}
        scores = {name: value for name in (*ASPECTS, "score") if (value := measured.get(name)) is not None}
        if commit is None or len(scores) < 4:
            msg = (
                "expected every trial to commit and validate its batch, got one that the trainer ended early; leave "
                "out what limits it, such as trainer.max_epochs and trainer.limit_val_batches."
            )
            raise InputError(msg)
        return Result(
            **scores,
            leakage=commit.report["leakage"],
            edits=len(self._data.requests),
            converged=commit.targets_converged,
            loss=None if self._cache.last is None else float(self._cache.last.loss.mean()),
            seconds=time.perf_counter() - start,
        )

    def _fit(self, module: EditModule, trainer: Trainer) -> None:
        module.attach(self._model, self._tokenizer, self._cache, self._unedited)
        data = copy.copy(self._data)  # with its own cursor
        with interruptible(trainer):
            trainer.fit(module, datamodule=data)


def with_values(settings: Mapping[str, Any], method: str | NamedMethod, values: Values) -> dict[str, Any]:
    """The configuration with the switches of a method, and with fields of ``model`` set by their paths."""
    changed = copy.deepcopy(dict(settings))
    changed["model"]["method"] |= method_switches(method)
    for path, value in values.items():
        *groups, name = path.split(".")
        options = changed["model"]
        for group in groups:
            options = options[group]
        options[name] = value
    return changed


def _module(options: Mapping[str, Any]) -> EditModule:
    """The module that ``model`` of a configuration describes."""
    groups = {
        "method": Method.from_plain(options["method"]),
        "targets": TargetOptions(**options["targets"]),
        "preserved": PreservedOptions(**options["preserved"]),
    }
    return EditModule(**{**options, **groups})


def _relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what a trial does not use, so that a change there does not repeat it."""
    relevant = copy.deepcopy(dict(settings))
    relevant["data"] |= {"path": None, "limit": None, "neighbors": 0, "batch_size": None}
    relevant["trainer"] |= {"logger": False, "callbacks": None}
    return relevant


def _read(results: Path) -> dict[str, Result]:
    """The finished trials of a file that are as they were written; none if it is missing or not a file of trials."""
    try:
        saved = {key: dict(trial) for key, trial in read_json(results).items()}
        seals = {key: trial.pop("seal") for key, trial in saved.items()}
        return {key: Result(**trial) for key, trial in saved.items() if seals[key] == seal([key, trial])}
    except (InputError, TypeError, AttributeError, KeyError, ValueError):
        return {}
