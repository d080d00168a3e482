"""The model that the demo edits. Slow: minutes on two cores."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aeplus.commands.main import main
from aeplus.data.readers import read_requests
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from reference_targets import plain_targets
from small import ROOT

MODEL = f"{ROOT}/configs/model/smollm2-135m.yaml"
PLUS = f"{ROOT}/configs/method/alphaedit_plus.yaml"
pytestmark = pytest.mark.slow


def test_demo_edits_take_and_the_saved_model_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch of the demo, from its data to the saved folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    assert main(["demo-data"]) == 0
    forms = json.loads((tmp_path / "lightning_logs/demo/data/forms.json").read_text())
    edits = read_requests(tmp_path / "lightning_logs/demo/data/edits.jsonl")
    assert len(edits) >= 40
    used = {prompt for edit in edits for prompt in edit.rephrase}
    good = [form for form, share in forms.items() if share >= 0.9]
    assert all(any(p.startswith(f.split("{}")[0]) and p.endswith(f.split("{}")[1]) for f in good) for p in used)
    words = ["fit", "--config", MODEL, "--config", PLUS, "--config", f"{ROOT}/configs/demo.yaml", "--data.limit=10"]
    assert main(words) == 0
    folder = tmp_path / "lightning_logs/demo/version_0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["before"]["efficacy"] <= 10
    assert metrics["after"]["efficacy"] >= 90
    assert metrics["after"]["specificity"] >= 60
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    right = 0
    for edit in edits[:10]:
        ids = tokenizer(edit.question, return_tensors="pt")
        output = model.generate(**ids, max_new_tokens=8, do_sample=False)
        said = tokenizer.decode(output[0, ids["input_ids"].shape[1] :])
        right += said.strip().startswith(edit.target_new)
    assert right >= 9


def test_targets_equal_the_plain_optimizers() -> None:
    model, tokenizer = load_model("smollm2-135m", "float32")
    decoder = Decoder(model)
    from aeplus.edits import EditRequest

    requests = [EditRequest("The capital of {} is", "France", "Rome"), EditRequest("{} plays the", "Bach", "piano")]
    rows = batch_rows(tokenizer, requests, ["", "I think so. "])
    options = TargetOptions(steps=6)
    found = find_targets(decoder, rows, 8, options)
    expected, steps = plain_targets(decoder, rows, 8, options)
    assert found.steps.tolist() == steps.tolist()
    shift = (expected - found.initial).norm(dim=0)
    assert torch.all((found.values - expected).norm(dim=0) / shift < 1e-3)
