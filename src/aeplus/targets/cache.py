"""Targets on disk: runs that begin a batch with the same weights optimize its targets once.

Targets depend on the model and on the edits, not on the method that uses them: those of a first batch are the same for
every method, and so are those of later batches wherever two methods lead to the same weights.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from aeplus.models.decoder import Decoder
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import BatchRows
from aeplus.utils.cache import digest, load_tensors, save_tensors
from aeplus.utils.fingerprint import weights_fingerprint

_PACKAGES = ("aeplus", "torch", "transformers")


class TargetCache:
    """Targets of previous runs, one file per batch.

    Args:
        folder: Folder of the files; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rest: WeakKeyDictionary[Any, str] = (
            WeakKeyDictionary()
        )  # fingerprints of the weights that are never edited

    def find(
        self,
        decoder: Decoder,
        rows: BatchRows,
        layer: int,
        options: TargetOptions,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> tuple[Targets, float]:
        """The targets of a batch, from the cache if it holds them.

        The arguments are those of :func:`~aeplus.targets.optimizer.find_targets`; ``progress`` is not called for
        cached targets. A file that is damaged or belongs to another key is replaced.

        Returns:
            The targets on the decoder's device, bit for bit as they were computed, and the seconds that took.

        Raises:
            InputError: As ``find_targets`` does, or if the file cannot be written.
        """
        key = _key(decoder, rows, layer, options, self._weights(decoder))
        path = self.folder / f"{key}.safetensors"
        cached = _load(path, key, decoder.device)
        if cached is not None:
            return cached
        began = time.perf_counter()
        targets = find_targets(decoder, rows, layer, options, progress)
        seconds = time.perf_counter() - began
        _save(path, key, targets, seconds)
        return targets, seconds

    def _weights(self, decoder: Decoder) -> list[str]:
        """Fingerprints of the current weights: of those that can be edited, and of the rest."""
        edited = {site.name for site in decoder.sites}
        if decoder.model not in self._rest:
            rest = decoder.model.state_dict().keys() - edited
            self._rest[decoder.model] = weights_fingerprint(decoder.model, rest)
        return [self._rest[decoder.model], weights_fingerprint(decoder.model, edited)]


def _key(decoder: Decoder, rows: BatchRows, layer: int, options: TargetOptions, weights: list[str]) -> str:
    """A digest of everything that targets depend on, 32 hexadecimal digits."""
    parts = {
        "weights": weights,
        "architecture": [type(decoder.model).__name__, decoder.config.to_dict(), _attention(decoder)],
        "prompts": [[row.ids, row.answer, row.mark] for row in rows.prompts],
        "essence": [[row.ids, row.answer, row.mark] for row in rows.essence],
        "contexts": rows.contexts,
        "superseded": sorted(rows.superseded),
        "layer": layer,
        "options": asdict(options),
        "reachable": True,  # where a layer normalizes; files of before it was so have another key
        "packages": [version(name) for name in _PACKAGES],
        "device": decoder.device.type,
    }
    return digest(parts)


def _attention(decoder: Decoder) -> str:
    """The implementation of attention, which a config's dictionary leaves out."""
    return str(getattr(decoder.config, "_attn_implementation", ""))


def _save(path: Path, key: str, targets: Targets, seconds: float) -> None:
    tensors = {f.name: getattr(targets, f.name).detach().cpu() for f in fields(Targets)}
    save_tensors(path, tensors, {"key": key, "seconds": repr(seconds)})


def _load(path: Path, key: str, device: torch.device) -> tuple[Targets, float] | None:
    """The content of a file; ``None`` if it is missing, damaged or belongs to another key."""
    try:
        tensors, metadata = load_tensors(path, [f.name for f in fields(Targets)], {"key": key}, "targets")
        seconds = float(metadata["seconds"])
    except (ValueError, KeyError):  # its content can be computed again
        return None
    return Targets(**{name: tensor.to(device) for name, tensor in tensors.items()}), seconds
