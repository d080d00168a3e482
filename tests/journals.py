"""Runs with journals."""

import os
from pathlib import Path

from aeplus.commands.main import main

METHODS = ("alphaedit_plus", "rect", "prune", "blue", "kde")
CALLBACKS = (
    "[{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true, table: false}}, "
    "{class_path: aeplus.callbacks.EditCheckpoint, init_args: {keep_all: true}}]"
)


def fit(workplace: Path, folder: Path, method: str, *more: str) -> Path:
    """Edits the tiny model in a folder and returns the run's."""
    before, present = set(folder.glob("lightning_logs/edits/*")), Path.cwd()
    os.chdir(folder)
    try:
        config = [f"--config={workplace}/tiny.yaml", f"--config=method/{method}", "--trainer.callbacks", CALLBACKS]
        assert main(["fit", *config, *more]) == 0
    finally:
        os.chdir(present)
    (run,) = set(folder.glob("lightning_logs/edits/*")) - before
    return run
