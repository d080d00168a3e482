"""A run of a comparison, by the parser and the classes of ``aeplus fit``, so that every option means the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from aeplus.callbacks import JournalWriter
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.interrupts import ctrl_c
from aeplus.lightning_cli import EditCLI
from aeplus.module import EditModule
from aeplus.targets.cache import TargetCache

_CALLBACKS = "aeplus.callbacks"
# No checkpoints and no generations: a comparison keeps figures. Test prompts are asked before and after only.
DEFAULT_CALLBACKS: list[dict[str, Any]] = [
    {"class_path": f"{_CALLBACKS}.SmoothingStop"},
    {"class_path": f"{_CALLBACKS}.EditProgressBar"},
    {"class_path": f"{_CALLBACKS}.MetricsWriter", "init_args": {"evaluate_every": 0}},
    {"class_path": f"{_CALLBACKS}.JournalWriter", "init_args": {"table": False}},
]


class BaseCLI(EditCLI):
    """Parses what all runs of a comparison have in common; runs nothing.

    Args:
        args: The words behind ``aeplus fit``.
    """

    def __init__(self, args: Sequence[str] | dict[str, Any]) -> None:
        super().__init__(
            EditModule,
            EditDataModule,
            args=args if isinstance(args, dict) else ["fit", *args],
            seed_everything_default=False,
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``; a parser is made for every run, and each subcommand takes its time."""
        return {"fit": EditCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The callbacks of a comparison as defaults, so that a config that sets callbacks has its way."""
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"trainer.callbacks": DEFAULT_CALLBACKS})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuses a checkpoint: the runs would not begin with the same model."""
        LightningCLI.parse_arguments(self, parser, args)  # EditCLI would look for the checkpoint first
        if (path := self.config.fit.get("ckpt_path")) is not None:
            msg = (
                f"every run of a comparison begins with the unedited model, but --ckpt_path {path} came; leave it out."
            )
            raise InputError(msg)

    def fit(self, model: EditModule, **rest: Any) -> None:
        """Called by LightningCLI in place of the trainer's; there is nothing to fit yet."""

    @property
    def settings(self) -> dict[str, Any]:
        """The whole configuration as plain values: what ``config.yaml`` of a run would hold."""
        dumped = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
        return cast("dict[str, Any]", dumped["fit"])


class RunCLI(BaseCLI):
    """Runs ``fit`` with a model that is loaded already.

    Args:
        settings: The configuration, as :attr:`BaseCLI.settings` has it.
        model: The language model; it is edited.
        tokenizer: Its tokenizer.
        folder: The run's folder, ``…/<name>/<version>``.
        cache: Where targets are kept.
        unedited: Where runs keep what they find out about the unedited model.

    Raises:
        InputError: If the method cannot be run.
        KeyboardInterrupt: After Ctrl-C.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        model: Any,
        tokenizer: Any,
        folder: Path,
        cache: TargetCache,
        unedited: dict[tuple[Any, ...], Any] | None = None,
    ) -> None:
        self._language_model, self._tokenizer, self._unedited = model, tokenizer, unedited
        self._folder, self._cache = folder, cache
        super().__init__({"fit": settings})

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Logs to the run's folder, and writes checkpoints only where a callback for them is set."""
        callbacks = self._get(self.config_init, "trainer")["callbacks"] or []
        logger = TensorBoardLogger(
            save_dir=self._folder.parent.parent, name=self._folder.parent.name, version=self._folder.name
        )
        checkpoints = any(isinstance(callback, Checkpoint) for callback in callbacks)
        return super().instantiate_trainer(logger=logger, enable_checkpointing=checkpoints, **kwargs)

    def fit(self, model: EditModule, **rest: Any) -> None:
        """Attaches the model and runs."""
        model.attach(self._language_model, self._tokenizer)
        model.target_cache, model.unedited_cache = self._cache, self._unedited
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, JournalWriter) for callback in callbacks):
            callbacks.append(JournalWriter(table=False))  # what the table is made from
        with ctrl_c(self.trainer):
            self.trainer.fit(model, **rest)
