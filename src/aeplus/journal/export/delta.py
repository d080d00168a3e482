"""The edits as factors of each weight's change, which three lines of plain torch apply.

delta, state = load_file("delta.safetensors"), model.state_dict()
for name in {key.rpartition(".")[0] for key in delta}:
    state[name] += (delta[f"{name}.left"] @ delta[f"{name}.right"]).to(state[name])
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from aeplus import functional as fn
from aeplus.functional import LowRankUpdate
from aeplus.models.sites import EditSite
from aeplus.run.committed.entries import Entries


def sums(
    entries: Entries, sites: list[EditSite], rank: int | None = None, tolerance: float = 1e-6
) -> dict[int, tuple[LowRankUpdate, float]]:
    """For each layer, the sum of all its updates as one pair of factors, and the relative error of that.

    Raises:
        InputError: If the rank or the tolerance is out of range, or there are no edits.
    """
    return {site.layer: fn.compress(entries.updates(site), rank, tolerance) for site in sites}


def delta_tensors(entries: Entries, sites: list[EditSite]) -> dict[str, Tensor]:
    """The factors by name, laid out as the parameters are: ``parameter += left @ right``."""
    tensors: dict[str, Tensor] = {}
    for site in sites:
        update, _ = fn.compress(entries.updates(site))
        left, right = update.left, update.right
        if isinstance(site.module, Conv1D):  # holds the transpose
            left, right = right.T, left.T
        tensors |= {f"{site.name}.left": left.cpu().contiguous(), f"{site.name}.right": right.cpu().contiguous()}
    return tensors


def write_delta(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Writes the factors; ``notes`` become the file's metadata."""
    save_file(tensors, path, {name: str(value) for name, value in notes.items()})
