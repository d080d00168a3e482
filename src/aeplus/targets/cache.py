"""Targets on disk, so that runs which begin a batch with the same weights learn its targets once.

Targets depend on the model and on the edits, not on the method that uses them: those of a first batch are the same for
every method, and so are those of later batches wherever two methods have left the same weights.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from aeplus.models.decoder import Decoder
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import BatchRows
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.paths import whole_file

_PACKAGES = ("aeplus", "torch", "transformers")


class TargetCache:
    """Targets that were found before, a file each.

    Args:
        folder: Where the files lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rest: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # what edits leave alone is digested once

    def find(
        self,
        decoder: Decoder,
        rows: BatchRows,
        layer: int,
        options: TargetOptions,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> tuple[Targets, float]:
        """The targets of a batch, from the cache where it holds them.

        Takes what :func:`~aeplus.targets.optimizer.find_targets` takes; ``progress`` hears nothing of targets that
        come from the cache. A file that cannot be read, or is not what its name says, is written anew.

        Returns:
            The targets on the decoder's device, bit for bit as they were found, and the seconds it took to find them.

        Raises:
            InputError: As ``find_targets`` does, or if the file cannot be written.
        """
        key = _key(decoder, rows, layer, options, self._weights(decoder))
        path = self.folder / f"{key}.safetensors"
        known = _load(path, key, decoder.device)
        if known is not None:
            return known
        began = time.perf_counter()
        targets = find_targets(decoder, rows, layer, options, progress)
        seconds = time.perf_counter() - began
        _save(path, key, targets, seconds)
        return targets, seconds

    def _weights(self, decoder: Decoder) -> list[str]:
        """Digests of the present weights: of those that can be edited, and of the rest."""
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
        "layer": layer,
        "options": asdict(options),
        "packages": [version(name) for name in _PACKAGES],
        "device": decoder.device.type,
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _attention(decoder: Decoder) -> str:
    """Which implementation of attention runs; a config's dictionary leaves that out."""
    return str(getattr(decoder.config, "_attn_implementation", ""))


def _digest(tensors: dict[str, Tensor]) -> str:
    """A digest of some tensors' bytes: safetensors notices a file cut short, but not a bit that fell over."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, key: str, targets: Targets, seconds: float) -> None:
    tensors = {f.name: getattr(targets, f.name).detach().cpu().contiguous() for f in fields(Targets)}
    notes = {"key": key, "digest": _digest(tensors), "seconds": repr(seconds)}
    with whole_file(path) as scratch:
        save_file(tensors, scratch, metadata=notes)


def _load(path: Path, key: str, device: torch.device) -> tuple[Targets, float] | None:
    """What a file holds; ``None`` if there is none, or it is damaged or another's."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {f.name: file.get_tensor(f.name) for f in fields(Targets)}
        seconds = float(notes["seconds"])
    except Exception:  # whatever a damaged file raises: its content can be found again
        return None
    if (notes.get("key"), notes.get("digest")) != (key, _digest(tensors)):
        return None
    return Targets(**{name: tensor.to(device) for name, tensor in tensors.items()}), seconds
