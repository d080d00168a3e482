"""The edits as a LoRA adapter in the form that peft, vLLM, SGLang and llama.cpp read alike.

An edit changes a weight by factors, ``ΔW = B A``, which is what LoRA keeps (https://arxiv.org/abs/2106.09685). The
portable form: one rank for all layers, padded with zeros to one that vLLM knows; ``lora_alpha`` equal to it, so that
the factor ``lora_alpha / r`` is 1; no bias, no DoRA, no rank per layer; the layers in ``layers_to_transform``.
"""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from aeplus.errors import InputError
from aeplus.journal.export.delta import sums
from aeplus.models.sites import EditSite
from aeplus.run.committed.entries import Entries
from aeplus.utils.jsonl import write_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM serves (``max_lora_rank``)."""

PREFIX = "base_model.model."


class Adapter:
    """An adapter of some batches.

    Args:
        entries: The batches.
        sites: The edited layers.
        rank: Rank of every layer; by default the smallest that loses at most ``tolerance``.
        tolerance: Largest relative error of a layer's change.
        prefix: What peft puts before the modules' names; another one where a wrapper calls the decoder otherwise.

    Attributes:
        rank: Rank with the padding.
        lost: The relative error ``‖ΔW − B A‖ / ‖ΔW‖`` of each layer.

    Raises:
        InputError: If there are no edits, or a number is out of range.
    """

    def __init__(
        self,
        entries: Entries,
        sites: list[EditSite],
        rank: int | None = None,
        tolerance: float = 1e-6,
        prefix: str = PREFIX,
    ) -> None:
        if not entries:
            msg = "expected edits in the journal, got none; an adapter of nothing is not needed."
            raise InputError(msg)
        changes = sums(entries, sites, rank, tolerance)
        needed = max(update.rank for update, _ in changes.values())
        self.rank = next((known for known in RANKS if known >= needed), needed)
        self.lost = {layer: lost for layer, (_, lost) in changes.items()}
        self.tensors: dict[str, Tensor] = {}
        for site in sites:
            update, missing = changes[site.layer][0], self.rank - changes[site.layer][0].rank
            name = f"{prefix}{site.name.removesuffix('.weight')}"
            self.tensors[f"{name}.lora_A.weight"] = pad(update.right, (0, 0, 0, missing)).cpu().contiguous()
            self.tensors[f"{name}.lora_B.weight"] = pad(update.left, (0, missing)).cpu().contiguous()
        self._sites = sites

    def config(self, base: str, revision: str | None, others: list[str]) -> dict[str, Any]:
        """The content of ``adapter_config.json``.

        Args:
            base: The base model's name.
            revision: Its revision.
            others: Names of the model's modules, among which the edited ones must be told by their ends.
        """
        modules = [site.name.removesuffix(".weight") for site in self._sites]
        pattern = re.search(r"([^.]+)\.\d+\.", modules[0])
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "revision": revision,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "fan_in_fan_out": isinstance(self._sites[0].module, Conv1D),
            "target_modules": [_ending(modules, others)],
            "layers_to_transform": [site.layer for site in self._sites],
            "layers_pattern": pattern[1] if pattern else None,
            "modules_to_save": None,
            "inference_mode": True,
            "init_lora_weights": True,
        }

    def write(self, folder: Path, config: dict[str, Any]) -> None:
        """Writes ``adapter_model.safetensors`` and ``adapter_config.json`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        write_json(folder / "adapter_config.json", config, overwrite=True, mark=False)


def _ending(modules: list[str], others: list[str]) -> str:
    """The shortest end of the edited modules' names that no other kind of module of a layer has."""
    kind = re.sub(r"\.\d+\.", ".N.", modules[0])
    parts = modules[0].split(".")
    for count in range(1, len(parts)):
        ending = ".".join(parts[-count:])
        same = {re.sub(r"\.\d+\.", ".N.", name) for name in others if f".{name}".endswith(f".{ending}")}
        if same <= {kind}:
            return ending
    return modules[0]
