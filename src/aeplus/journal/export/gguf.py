"""The GGUF file that a model came from, with its edited weights; everything else is copied, quantized or not."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.utils.jsonl import refuse_streams


def write_gguf(source: Path, target: Path, weights: dict[str, Tensor]) -> None:
    """Copies a GGUF file and replaces some tensors by float32 ones: in fewer bits an edit could be rounded away.

    Args:
        source: The file that the base model was loaded from.
        target: The new file.
        weights: The edited weights ``[o, d]``, by their names in transformers' model.

    Raises:
        InputError: If the package ``gguf`` is missing, or the file is damaged, or has no tensor for a weight, or one of
            another shape.
    """
    try:
        from gguf import GGUFReader, GGUFValueType, GGUFWriter
        from gguf.constants import MODEL_ARCH_NAMES
        from gguf.tensor_mapping import get_tensor_name_map
    except ImportError as error:
        msg = "expected the package gguf, which writes GGUF files, got none; run: pip install gguf."
        raise InputError(msg) from error
    refuse_streams(source)
    try:
        reader = GGUFReader(source)
        architecture = str(reader.fields["general.architecture"].contents())
        known = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
        names = get_tensor_name_map(known, int(reader.fields[f"{architecture}.block_count"].contents()))
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        msg = f"expected the base model's GGUF file in {source}, got one that cannot be read ({reason}); take another."
        raise InputError(msg) from error
    edited = {_named(names, name): weight for name, weight in weights.items()}
    shapes = {tensor.name: [int(size) for size in reversed(tensor.shape)] for tensor in reader.tensors}
    for name, weight in edited.items():
        if shapes.get(name) != list(weight.shape):
            got = "none" if name not in shapes else str(shapes[name])
            msg = f"expected the tensor {name} {list(weight.shape)} in {source}, got {got}; take the model's own."
            raise InputError(msg)
    writer = GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    data: list[Any] = []
    for tensor in reader.tensors:
        if tensor.name in edited:
            data.append(edited[tensor.name].detach().to("cpu", torch.float32).contiguous().numpy())
            writer.add_tensor_info(tensor.name, data[-1].shape, data[-1].dtype, data[-1].nbytes)
        else:
            data.append(tensor.data)
            kind = tensor.tensor_type
            writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in data:
        writer.write_tensor_data(values)
    writer.close()


def _named(names: Any, name: str) -> str:
    """What GGUF calls a weight."""
    found = names.get_name(name, try_suffixes=(".weight",))
    if found is None:
        msg = f"expected a weight that GGUF has a name for, got {name}; choose another format."
        raise InputError(msg)
    return str(found)
