"""LightningCLI for ``aeplus fit`` and ``aeplus validate``, and for the runs of the other commands."""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from aeplus.callbacks import EditCheckpoint, EditProgressBar, JournalWriter
from aeplus.callbacks.report import resume_command
from aeplus.commands.configs import expand_configs, method_flags, with_method
from aeplus.commands.fit_parser import EditHelp, EditParser, tell_default_method
from aeplus.commands.run_folder import make_folder, remove_folder
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.methods.method import Method
from aeplus.module import EditModule
from aeplus.run.committed.store import Store
from aeplus.run.hooks import opened_session
from aeplus.run.resume import Resume, read_checkpoint
from aeplus.targets.cache import TargetCache
from aeplus.trainer import (
    accepted,
    alone_in_cluster,
    check_trainer,
    ended_together,
    forget_other_launchers,
    interruptible,
    silence_lightning,
)

_CALLBACKS = "aeplus.callbacks"
DEFAULT_CALLBACKS: list[dict[str, Any]] = [
    {"class_path": f"{_CALLBACKS}.{name}"}
    for name in (
        "SmoothingStop",
        "EditProgressBar",
        "MetricsWriter",
        "GenerationWriter",
        "JournalWriter",
        "EditCheckpoint",
    )
]
_SWITCHES = {"enable_progress_bar": EditProgressBar, "enable_checkpointing": EditCheckpoint}
"""Options of the trainer, and which of the default callbacks each turns off."""

_LOGGER: dict[str, Any] = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "lightning_logs", "name": "edits"},
}


class EditCLI(LightningCLI):
    """The command line's parser and runner.

    Attributes:
        one_method: Whether the arguments are of one method, the default where they name none.
    """

    one_method = True

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Editing and measuring; nothing else makes sense here."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that says what ``--config`` takes."""
        self.parser_class = EditParser
        parser = super().init_parser(**kwargs)
        config = next(action for action in parser._actions if action.dest == "config")
        config.help = "a YAML file, or a config of aeplus, such as model/NAME or method/NAME; several are merged"
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The model and the data, then Lightning's trainer, whose options are many."""
        for kind, group in ((EditModule, "model"), (EditDataModule, "data"), (Trainer, "trainer")):
            parser.add_lightning_class_args(kind, group)
        tell_default_method(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Defaults that an editing run needs; all of them show in ``--print_config``."""
        parser.set_defaults(
            {
                "trainer.max_epochs": -1,  # the stream decides when it ends
                "trainer.num_sanity_val_steps": 0,
                "trainer.devices": 1,
                "trainer.enable_model_summary": False,
                "trainer.use_distributed_sampler": False,
                "trainer.log_every_n_steps": 1,
                "trainer.callbacks": DEFAULT_CALLBACKS,
                "trainer.logger": _LOGGER,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Finds configs by name, and looks at the checkpoint before anything else is done."""
        self._arguments = args
        super().parse_arguments(parser, self._expanded(args))
        given = self.config[self.config.subcommand]
        _log_below(given["trainer"])
        path = given.get("ckpt_path")
        if path is not None:
            read_checkpoint(Path(path))

    def _expanded(self, args: Any) -> Any:
        if not isinstance(args, list):
            return args
        args = expand_configs(args)
        return with_method(args) if self.one_method and args[:1] == ["fit"] else args

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer, without the callbacks that its options turn off.

        Raises:
            InputError: If it is refused.
        """
        forget_other_launchers()
        given = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        kwargs.setdefault("plugins", alone_in_cluster(given.get("plugins")))
        if isinstance(given.get("callbacks"), list):
            off = tuple(kind for option, kind in _SWITCHES.items() if given.get(option) is False)
            kwargs["callbacks"] = [callback for callback in given["callbacks"] if not isinstance(callback, off)]
        with accepted(Exception):
            trainer = super().instantiate_trainer(**kwargs)
        check_trainer(trainer)
        if not trainer.is_global_zero:
            warnings.simplefilter("ignore")  # the first process says it
        return trainer

    @contextmanager
    def _running(self) -> Iterator[None]:
        """A run that is refused before it has edited anything leaves no folder."""
        made: list[Path] = []
        try:
            with ended_together(self.trainer), interruptible(self.trainer), accepted():
                made = make_folder(self.trainer)
                yield
        except InputError:
            session = opened_session(self.model)
            if made and not (session is not None and session.entries):
                remove_folder(made)
            raise

    def before_fit(self) -> None:
        """Reports numbers given on the command line that the method does not use."""
        if isinstance(self._arguments, list) and self.trainer.is_global_zero:
            method: Method = self.model.options["method"]
            for name in method.idle(method_flags(self._arguments)):
                print(f"aeplus: --model.method.{name} changes nothing: {method.name} does not use it", file=sys.stderr)

    def fit(self, model: EditModule, **rest: Any) -> None:
        """Edits the stream; called by LightningCLI in place of the trainer's.

        Raises:
            InputError: If something ended the run before its stream.
            SystemExit: The same on every process but the first.
            KeyboardInterrupt: After Ctrl-C (:class:`~aeplus.errors.Terminated`: after SIGTERM).
        """
        with self._running():
            self.trainer.fit(model, **rest)
        data = self.datamodule
        if not data.exhausted and not cast(Any, self.trainer).fast_dev_run:
            if not self.trainer.is_global_zero:
                raise SystemExit(2)  # the first process says why
            how = f"resume with {command}" if (command := resume_command(self.trainer)) else "start again"
            msg = (
                f"expected to reach the end of the {len(data.requests)} edits, got {data.cursor}, as something such as "
                f"trainer.max_epochs, max_steps or max_time ended the run; raise it and {how}."
            )
            raise InputError(msg)

    def before_validate(self) -> None:
        """Takes the journal's own edits where there are no data."""
        journal = self._get(self.config, "model")["journal"]
        if journal is not None and not self.datamodule.path and (edits := Resume(Store.open(journal)).requests):
            self.datamodule.attach(edits)

    def validate(self, model: EditModule, **rest: Any) -> None:
        """Measures the model; called by LightningCLI in place of the trainer's.

        Raises:
            KeyboardInterrupt: After Ctrl-C (:class:`~aeplus.errors.Terminated`: after SIGTERM).
        """
        with self._running():
            self.trainer.validate(model, **rest)

    def after_validate(self) -> None:
        """Prints what was measured."""
        from aeplus.run.report import print_validation

        if self.trainer.is_global_zero:
            print_validation(self.trainer.callback_metrics, len(self.datamodule.requests))


def run(args: Sequence[str]) -> None:
    """Parses the arguments of ``aeplus`` and runs ``fit`` or ``validate``."""
    silence_lightning()
    EditCLI(
        EditModule,
        EditDataModule,
        args=list(args),
        seed_everything_default=False,  # model.seed and data.seed decide; nothing else is left to chance
        parser_kwargs={
            "description": "Edit a language model (fit), or measure one (validate).",
            "prog": "aeplus",
            "formatter_class": EditHelp,
            "fit": {
                "description": "Edits a model, batch after batch.",
                "usage": "aeplus fit [options]",
                "epilog": "example:\n  aeplus fit --config model/smollm2-135m --data.path edits.jsonl",
            },
            "validate": {
                "description": "Measures a model, or a checkpoint of edits, on the edits' test prompts.",
                "usage": "aeplus validate [options]",
                "epilog": "example:\n  aeplus validate --config RUN/config.yaml --model.journal RUN/journal",
            },
        },
        auto_configure_optimizers=False,
    )


# No checkpoints and no generations: a comparison keeps figures. Test prompts are asked before and after only.
COMPARISON_CALLBACKS: list[dict[str, Any]] = [
    {"class_path": f"{_CALLBACKS}.SmoothingStop"},
    {"class_path": f"{_CALLBACKS}.EditProgressBar"},
    {"class_path": f"{_CALLBACKS}.MetricsWriter", "init_args": {"evaluate_every": 0}},
    {"class_path": f"{_CALLBACKS}.JournalWriter", "init_args": {"table": False}},
]


def _log_below(trainer: Any) -> None:
    """Has the logger, unless another one was chosen, write below ``default_root_dir`` where that is given."""
    logger, root = trainer.get("logger"), trainer.get("default_root_dir")
    arguments = logger.get("init_args", {}) if root is not None and hasattr(logger, "get") else {}
    if arguments.get("save_dir") == _LOGGER["init_args"]["save_dir"]:
        arguments["save_dir"] = str(Path(root) / arguments["save_dir"])


class BaseCLI(EditCLI):
    """Parses what all runs of a comparison have in common; runs nothing.

    Args:
        args: The arguments of ``aeplus fit``.
    """

    one_method = False

    def __init__(self, args: Sequence[str] | dict[str, Any]) -> None:
        super().__init__(
            EditModule,
            EditDataModule,
            args=args if isinstance(args, dict) else ["fit", *args],
            seed_everything_default=False,
            auto_configure_optimizers=False,
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer, of a single device.

        Raises:
            InputError: If it is refused, or has several: each of their processes would make all runs.
        """
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.num_devices > 1:
            msg = (
                f"expected one device for several runs, got {trainer.num_devices}; set trainer.devices: 1, or make "
                "each run by aeplus fit."
            )
            raise InputError(msg)
        return trainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only ``fit``; a parser is made for every run, and each subcommand takes its time."""
        return {"fit": EditCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The callbacks of a comparison as defaults, so that a config that sets callbacks has its way."""
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"trainer.callbacks": COMPARISON_CALLBACKS})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuses a checkpoint: the runs would not begin with the same model."""
        self._arguments = args
        # EditCLI would look for the checkpoint first.
        LightningCLI.parse_arguments(self, parser, self._expanded(args))
        if (path := self.config.fit.get("ckpt_path")) is not None:
            msg = f"expected no --ckpt_path, as every run begins with the unedited model, got {path}; leave it out."
            raise InputError(msg)
        if (path := self.config.fit.model.journal) is not None:
            msg = f"expected no --model.journal, as every run has edits of its own, got {path}; leave it out."
            raise InputError(msg)

    def before_fit(self) -> None:
        """Nothing: which method runs is not known yet."""

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
        model.attach(self._language_model, self._tokenizer, self._cache, self._unedited)
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, JournalWriter) for callback in callbacks):
            callbacks.append(JournalWriter(table=False))  # what the table is made from
        with interruptible(self.trainer), accepted():
            self.trainer.fit(model, **rest)
