"""The folder of a run: there before anything is written, and gone if the run is refused before its first batch."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from lightning import Trainer

from aeplus.errors import InputError
from aeplus.utils.paths import sweep


def make_folder(trainer: Trainer) -> list[Path]:
    """Makes the run's folder, and those above it that are not there.

    Returns:
        What was made, the run's folder first; nothing if another process has made it, or does.

    Raises:
        InputError: If another run has its config there.
    """
    if not trainer.is_global_zero or trainer.log_dir is None or cast(Any, trainer).fast_dev_run:
        return []
    folder = Path(trainer.log_dir)
    if (folder / "config.yaml").exists():
        msg = (
            f"expected a folder without the config of another run, got {folder}; choose another "
            "--trainer.default_root_dir, or another version of the logger."
        )
        raise InputError(msg)
    made = [new for new in (folder, *folder.parents) if not new.exists()]
    try:
        folder.mkdir(parents=True)
    except OSError:  # it exists, or whoever writes there first says why it cannot be made
        return []
    for earlier in folder.parent.iterdir():  # what runs that were killed were writing
        for place in (earlier, earlier / "journal", earlier / "checkpoints"):
            sweep(place)
    return made


def remove_folder(made: Sequence[Path]) -> None:
    """Removes what a run has written before its first batch; nothing else, should anything be there."""
    folder = made[0]
    for pattern in (
        "config.yaml",
        "hparams.yaml",
        "events.out.tfevents.*",
        "metrics.json",
        ".aeplus*",
        "journal/journal.json",
    ):
        for file in folder.glob(pattern):
            file.unlink()
    for file in folder.glob("journal/.aeplus.lock"):
        file.unlink()
    for empty in (folder / "journal", folder / "checkpoints", *made):
        with suppress(OSError):  # it is not there, or not empty
            empty.rmdir()
