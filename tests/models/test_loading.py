"""Loading: a model's own code runs only where it is trusted, and nobody is asked."""

import json
import sys
from pathlib import Path

import pytest

from aeplus.commands.main import main
from aeplus.errors import InputError
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
