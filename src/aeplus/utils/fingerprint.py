"""Fingerprints that identify tensors, a model's weights, a file and a corpus."""

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aeplus.utils.paths import expanded

_WORDS = 1 << 18  # of a chunk
_BITS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


def weights_fingerprint(model: Any, names: Collection[str] | None = None) -> str:
    """A digest of a model's weights: names, shapes, dtypes and values, 32 hexadecimal digits.

    Args:
        model: The model.
        names: Only these weights, named as in its ``state_dict``; by default all.
    """
    state = model.state_dict()
    return tensors_digest({name: state[name] for name in state if names is None or name in names})


@torch.no_grad()
def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors' names, shapes, dtypes and bits, 32 hexadecimal digits.

    The same on every device. A tensor is summed where it lies, so that a few bytes of every chunk reach the host: for
    each chunk of words ``w_i`` the two sums ``Σ w_i a_i`` modulo 2⁶⁴ with random odd ``a_i``, which any one changed
    word changes. Safetensors itself detects a truncated file, but not a flipped bit.

    Args:
        tensors: The tensors by their names, in any order and on any devices.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sums(tensor.detach()).cpu().numpy().tobytes())
    return digest.hexdigest()


def _sums(tensor: Tensor) -> Tensor:
    """Two sums of every chunk of a tensor's words, ``[2, chunks]``."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    words = tensor.contiguous().view(-1).view(_BITS[tensor.element_size()])
    factors = _factors(tensor.device)
    sums = [(chunk.long() * factors[:, : len(chunk)]).sum(-1) for chunk in words.split(_WORDS)]
    return torch.stack(sums, -1) if sums else factors[:, :0]


@lru_cache(maxsize=4)
def _factors(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    halves = torch.randint(-(2**31), 2**31, (2, 2, _WORDS), generator=generator)
    return ((halves[0] << 32) ^ halves[1] | 1).to(device)


def file_fingerprint(path: Path) -> str:
    """A digest of a file's content, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def text_stamp(source: str) -> str:
    """Size and modification time of a text file, which can be too long to digest; empty if there is no such file."""
    path = expanded(source)
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else ""


def text_fingerprint(*parts: object) -> str:
    """A digest of some settings, 16 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).hexdigest()
