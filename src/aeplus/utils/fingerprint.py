"""Fingerprints that identify a model's weights, a file and a corpus."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch


@torch.no_grad()
def weights_fingerprint(model: Any, names: Collection[str] | None = None) -> str:
    """A digest of a model's weights: names, shapes, dtypes and values, 32 hexadecimal digits.

    Args:
        model: The model.
        names: Only these weights, named as in its ``state_dict``; by default all.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        if names is not None and name not in names:
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """A digest of a file's content, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def text_stamp(source: str) -> str:
    """Size and modification time of a text file, which can be too long to digest; empty if there is no such file."""
    path = Path(source)
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else ""


def text_fingerprint(*parts: object) -> str:
    """A digest of some settings, 16 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).hexdigest()
