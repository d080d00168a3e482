"""What must hold before a run edits anything."""

from collections.abc import Sequence
from typing import Any

import torch

from aeplus.data.request import EditRequest
from aeplus.errors import InputError
from aeplus.knowledge.journal import Journal
from aeplus.models.sites import EditSite


def check_trainer(trainer: Any) -> None:
    """One device, and no autocast that would round an update.

    Raises:
        InputError: If the trainer has several devices or another precision.
    """
    if trainer.world_size > 1:
        msg = f"aeplus edits on one device, but the trainer has {trainer.world_size}; set trainer.devices: 1."
        raise InputError(msg)
    if trainer.precision != "32-true":
        msg = (
            f"expected trainer.precision 32-true, but {trainer.precision} came; choose the weights' dtype by "
            "model.dtype instead."
        )
        raise InputError(msg)


def check_weights(sites: Sequence[EditSite]) -> None:
    """The weights to be edited are finite.

    Raises:
        InputError: If one is not; the message names it.
    """
    for site in sites:
        if not bool(torch.isfinite(site.weight).all()):
            msg = f"expected finite weights, but {site.name} holds NaN or infinity; load another checkpoint."
            raise InputError(msg)


def check_resumable(journal: Journal, layers: list[int], requests: Sequence[EditRequest]) -> None:
    """A checkpoint's edits are the first ones of the stream, at the same layers.

    Raises:
        InputError: If they are not.
    """
    edited = list(journal.entries[0].updates) if journal.entries else layers
    if edited != layers:
        msg = f"the checkpoint edited layers {edited}, but model.layers is {layers}; resume with those."
        raise InputError(msg)
    done = [(e["prompt"], e["subject"], e["target_new"]) for entry in journal.entries for e in entry.edits]
    if done != [(r.prompt, r.subject, r.target_new) for r in requests[: len(done)]]:
        msg = (
            f"the checkpoint's {len(done)} edits are not the first ones of the present data; resume with the data "
            "the run began with (further edits may follow at the end)."
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
