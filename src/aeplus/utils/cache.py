"""Tensors on disk: safetensors files that are written whole and carry the identity and a digest of their content."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from aeplus.errors import InputError
from aeplus.utils.fingerprint import tensors_digest
from aeplus.utils.paths import cached_file

DIGEST = "digest"
"""The metadata that holds the digest of a file's tensors."""


def digest(parts: object) -> str:
    """A key, 32 hexadecimal digits, of any value that JSON can express; other objects count as their ``str``."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Writes tensors to a file, whole or not at all.

    Args:
        path: The file; its folder is made.
        tensors: Tensors on any device.
        metadata: What identifies them, and anything else to keep with them.

    Returns:
        Their digest, which the file carries.

    Raises:
        InputError: If the file cannot be written.
    """
    found = tensors_digest(tensors)  # where they lie
    plain: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if place in held else own  # safetensors refuses tensors that share memory
        held.add(place)
    with cached_file(path) as scratch:
        save_file(plain, scratch, {**metadata, DIGEST: found})
    return found


def load_tensors(
    path: Path,
    names: Collection[str],
    identity: Mapping[str, str],
    expected: str,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors from a file.

    Args:
        path: The file.
        names: The tensors to read.
        identity: Metadata that the file must carry.
        expected: What a message says the file should hold.
        device: Where to read them to; they are digested there.

    Returns:
        The tensors and all metadata, with the digest of all tensors of the file.

    Raises:
        InputError: If the file is missing or damaged (a flipped bit counts), lacks a tensor, or carries another
            identity.
    """
    device = torch.device(device)
    try:
        # Straight onto a GPU; safetensors does not know every device.
        with safe_open(path, framework="pt", device=str(device) if device.type == "cuda" else "cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118 - not a dict
        missing = [name for name in names if name not in tensors]
    except Exception as error:  # a damaged file can raise anything
        msg = f"expected {expected} in {path}, got a file that cannot be read ({error}); delete it and run again."
        raise InputError(msg) from error
    if missing:
        msg = f"expected {expected} in {path}, got a file without {', '.join(missing)}; delete it and run again."
        raise InputError(msg)
    if metadata.get(DIGEST) != tensors_digest(tensors):
        msg = f"expected {expected} in {path}, got a damaged file (its digest differs); delete it and run again."
        raise InputError(msg)
    if any(metadata.get(name) != value for name, value in identity.items()):
        msg = f"expected {expected} in {path}, got those of another; delete the file and run again."
        raise InputError(msg)
    return {name: tensors[name] for name in names}, metadata
