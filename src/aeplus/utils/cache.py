"""A cache of tensors: safetensors files that are written whole and carry the identity of their content."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from aeplus.errors import InputError
from aeplus.utils.paths import cached_file


def digest(parts: object) -> str:
    """A key, 32 hexadecimal digits, of any value that JSON can express; other objects count as their ``str``."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of CPU tensors' names, shapes, dtypes and bytes, 32 hexadecimal digits.

    Safetensors detects a truncated file, but not a flipped bit.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors to a file, whole or not at all.

    Args:
        path: The file; its folder is made.
        tensors: Tensors on any device.
        metadata: What identifies them, and anything else to keep with them.

    Raises:
        InputError: If the file cannot be written.
    """
    with cached_file(path) as scratch:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, scratch, dict(metadata))


def load_tensors(
    path: Path, names: Collection[str], identity: Mapping[str, str], expected: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors from a file.

    Args:
        path: The file.
        names: The tensors to read.
        identity: Metadata that the file must carry.
        expected: What a message says the file should hold.

    Returns:
        The tensors, on the CPU, and all metadata.

    Raises:
        InputError: If the file is missing or damaged, lacks a tensor, or carries another identity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # a damaged file can raise anything
        msg = f"expected {expected} in {path}, got a file that cannot be read ({error}); delete it and run again."
        raise InputError(msg) from error
    if any(metadata.get(name) != value for name, value in identity.items()):
        msg = f"expected {expected} in {path}, got those of another; delete the file and run again."
        raise InputError(msg)
    return tensors, metadata
