"""Resuming: a checkpoint's edits, which wait until the unedited model has been measured."""

import warnings
from collections.abc import Sequence
from typing import Any

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.run.journal import Journal

NOTES = "aeplus"
"""Where a checkpoint holds what identifies its run."""


class Resume:
    """What a checkpoint holds. Settings that differ from the present ones are reported as warnings.

    Args:
        checkpoint: The checkpoint.
        settings: The present settings.

    Attributes:
        journal: Its edits.

    Raises:
        InputError: If it is not an aeplus checkpoint, or damaged.
    """

    def __init__(self, checkpoint: dict[str, Any], settings: dict[str, Any]) -> None:
        if NOTES not in checkpoint:
            msg = "expected an aeplus checkpoint, got one without edits; give one from lightning_logs/…/checkpoints."
            raise InputError(msg)
        saved = checkpoint[NOTES]
        self.journal = Journal.restore(saved["batches"], checkpoint["state_dict"])
        self._fingerprint = saved["fingerprint"]
        for line in differences(saved["settings"], settings):
            warnings.warn(f"the checkpoint was made with {line}; the present value is used", stacklevel=2)

    def check(self, model: str, fingerprint: str, layers: list[int], requests: Sequence[EditRequest]) -> None:
        """The edits belong to this model and these layers, and are the first ones of the stream.

        Args:
            model: Name of the model.
            fingerprint: That of its unedited weights.
            layers: The layers that are edited.
            requests: The stream.

        Raises:
            InputError: If they are not.
        """
        if fingerprint != self._fingerprint:
            msg = (
                f"expected a checkpoint of the weights of {model}, got edits of other weights; resume with the "
                "model that the run began with."
            )
            raise InputError(msg)
        entries = self.journal.entries
        edited = list(entries[0].updates) if entries else layers
        if edited != layers:
            msg = f"expected model.layers {edited}, which the checkpoint edited, got {layers}; resume with those."
            raise InputError(msg)
        done = [(e["prompt"], e["subject"], e["target_new"]) for entry in entries for e in entry.edits]
        if done != [(r.prompt, r.subject, r.target_new) for r in requests[: len(done)]]:
            msg = (
                f"expected the checkpoint's {len(done)} edits as the first ones of the data, got others; resume with "
                "the data the run began with (further edits may follow at the end)."
            )
            raise InputError(msg)


def differences(saved: dict[str, Any], present: dict[str, Any], prefix: str = "") -> list[str]:
    """Where present settings differ from saved ones, a line each."""
    lines = []
    for name, value in present.items():
        before = saved.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            lines += differences(before, value, f"{prefix}{name}.")
        elif before != value:
            lines.append(f"{prefix}{name} = {before} and now it is {value}")
    return lines
