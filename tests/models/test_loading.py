"""Loading: a model's own code runs only where it is trusted, and nobody is asked."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.models import loading
from aeplus.models.loading import load_model, save_model
from small import records
from tiny import tiny_model, tiny_tokenizer

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose architecture only its own code knows."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = tmp_path / "model"
    save_model(tiny_model("llama"), tiny_tokenizer(), model)
    config = json.loads((model / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own", "architectures": ["OwnModel"], "auto_map": own}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    return model


def test_what_settings_say_of_a_model_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loading, "load_model", lambda *given, **named: asked.append((given, named)))
    header = {"trust_remote_code": True, "revision": "main", "layers": [1], "dtype": "float32", "model": "gpt2"}
    loading.load_named(header)
    loading.load_named({**header, "device_map": "auto"})
    named = {"dtype": "float32", "revision": "main", "trust_remote_code": True}
    assert asked == [(("gpt2",), {**named, "device_map": None}), (("gpt2",), {**named, "device_map": "auto"})]


def test_code_of_a_model_runs_only_where_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    text = (
        r"expected a model that transformers knows, got '.*model', which brings code of its own; read that code, then"
    )
    with pytest.raises(InputError, match=text):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()
    model, _ = load_model(str(folder), trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert (tmp_path / "ran").exists()


def test_fit_refuses_it_in_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edits.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
    assert main(["fit", f"--model.model={folder}", "--model.layers=[1,2]", "--data.path=edits.jsonl"]) == 2
    assert "set model.trust_remote_code: true." in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("harm", ["missing", "shape"])
def test_a_model_that_is_not_whole_is_refused(tmp_path: Path, harm: str) -> None:
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    file, name = tmp_path / "model" / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    weights = load_file(file)
    weight = weights.pop(name)
    if harm == "shape":
        weights[name] = weight[:-1].contiguous()
    save_file(weights, file, {"format": "pt"})
    text = rf"expected every weight of the model in '.*model', got none, or one of another shape, for {name}; download"
    with pytest.raises(InputError, match=text if harm == "missing" else "expected every weight|expected a model at"):
        load_model(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"not tensors"),
        ("config.json", b"[]"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": 3}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[1]"),
    ],
)
def test_damaged_folders_are_refused_in_a_sentence(tmp_path: Path, file: str, content: bytes) -> None:
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(
        InputError, match=r"expected a model at '.*model' \(a hub id, .*\), got an error \(.*\); check it"
    ):
        load_model(str(tmp_path / "model"))


@pytest.mark.parametrize("content", [b"", b"GGUF" + b"x" * 200, b"GGUF"])
def test_a_damaged_gguf_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(
        InputError, match=r"expected a GGUF file that transformers reads at .*x.gguf, got an error \(.*\); d"
    ):
        load_model(str(tmp_path / "x.gguf"))


def test_a_config_of_a_billion_layers(tmp_path: Path) -> None:
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 10**9}))
    with pytest.raises(InputError, match="expected a model of at most 10000 layers, got a config with 1000000000 in"):
        load_model(str(tmp_path / "model"))
