"""Fingerprints that identify tensors, a model's weights, a file and a corpus."""

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aeplus.utils.paths import expanded
from aeplus.utils.shards import local, whole

_WORDS = 1 << 18  # of a chunk
_AT_ONCE = {"cpu": 1}  # chunks summed by one operation: as many as fit a CPU's cache, or keep a GPU busy
_BESIDE = frozenset(  # in a config: where it came from, in which dtype it is loaded, what else it can be used for
    (
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
        "id2label",
        "label2id",
    )
)
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

    The same on every device, and of sharded tensors, which all processes have to ask for together. A tensor is summed
    where it lies, so that a few bytes of every chunk reach the host, all at once: for each chunk of words ``w_i`` the
    two sums ``Σ w_i a_i`` modulo 2⁶⁴ with random odd ``a_i``, which any one changed word changes. Safetensors itself
    detects a truncated file, but not a flipped bit.

    Args:
        tensors: The tensors by their names, in any order and on any devices.
    """
    ordered = sorted(tensors.items())
    known: dict[tuple[object, ...], Tensor] = {}  # tied weights are summed once
    sums: list[Tensor] = []
    for _, tensor in ordered:
        place = (tensor.device, _address(tensor), tensor.shape, tensor.stride(), tensor.dtype)
        if place not in known or not tensor.numel():
            known[place] = _sums(whole(tensor.detach()))
        sums.append(known[place])
    digest = hashlib.blake2b(digest_size=16)
    for (name, tensor), own in zip(ordered, _on_host(sums), strict=True):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(own.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _address(tensor: Tensor) -> int:
    """Where a tensor's values are, or else, on devices whose tensors have no address, which one it is."""
    try:
        return local(tensor).data_ptr()
    except RuntimeError:
        return id(tensor)


def _on_host(sums: list[Tensor]) -> list[Tensor]:
    """Sums ``[2, chunks]`` on the CPU, by one copy from each device."""
    found: dict[int, Tensor] = {}
    for device in {own.device for own in sums}:
        there = [i for i, own in enumerate(sums) if own.device == device]
        joined = torch.cat([sums[i] for i in there], 1).cpu()
        found |= dict(zip(there, joined.split([sums[i].shape[1] for i in there], 1), strict=True))
    return [found[i] for i in range(len(sums))]


def _sums(tensor: Tensor) -> Tensor:
    """Two sums of every chunk of a tensor's words, ``[2, chunks]``."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    words = tensor.contiguous().view(-1).view(_BITS[tensor.element_size()])
    factors, at_once = _factors(tensor.device), _AT_ONCE.get(tensor.device.type, 64)
    whole = len(words) // _WORDS
    chunks = words[: whole * _WORDS].view(whole, _WORDS)
    sums = [(part.long() * factors[:, None]).sum(-1) for part in chunks.split(at_once)] if whole else []
    rest = words[whole * _WORDS :]
    if len(rest) or not whole:
        sums.append((rest.long() * factors[:, : len(rest)]).sum(-1, keepdim=True))
    return torch.cat(sums, 1)


@lru_cache(maxsize=4)
def _factors(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    halves = torch.randint(-(2**31), 2**31, (2, 2, _WORDS), generator=generator)
    return ((halves[0] << 32) ^ halves[1] | 1).to(device)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest of how a fast tokenizer reads and what its chat template writes, 16 hexadecimal digits."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("padding", "truncation"):  # left by the last use
        rules.pop(name, None)
    return text_fingerprint(json.dumps(rules, sort_keys=True), getattr(tokenizer, "chat_template", None))


def config_fingerprint(config: Any) -> str:
    """A digest of what a model's config says of how it computes, 16 hexadecimal digits."""

    def computing(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {str(name): computing(inner) for name, inner in value.items() if name not in _BESIDE}

    return text_fingerprint(json.dumps(computing(config.to_dict()), sort_keys=True, default=str))


def file_fingerprint(path: Path) -> str:
    """A digest of a file's content, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def path_stamp(path: Path) -> list[Any] | None:
    """What is at a path, by name: a file's content, or sizes and times of a folder's files; ``None`` for nothing."""
    if path.is_dir():
        return [path.name, [[file.name, text_stamp(str(file))] for file in sorted(path.iterdir()) if file.is_file()]]
    return [path.name, file_fingerprint(path)] if path.is_file() else None


def text_stamp(source: str) -> str:
    """Size and modification time of a text file, which can be too long to digest; empty if there is no such file."""
    path = expanded(source)
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else ""


def text_fingerprint(*parts: object) -> str:
    """A digest of some settings, 16 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(errors="surrogateescape"), digest_size=8).hexdigest()
