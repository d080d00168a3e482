"""What is exported is the edited model, for those who read it: transformers, peft, llama.cpp, plain torch, a server."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import aeplus
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.journal.export import exporter
from aeplus.journal.export.adapter import Adapter
from aeplus.journal.export.card import ServedProbe
from aeplus.journal.export.exporter import ExportOptions, export
from aeplus.journal.export.served import check_served
from aeplus.models.decoder import Decoder
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

IDS = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.fixture(params=["llama", "gpt2"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Any]:
    """A family, the journal of its edits, and the edited model."""
    model, folder = tiny_model(request.param), tmp_path / "kept"
    options = {**LEARNING, "batch_size": 3, "smoothing_steps": 1}
    aeplus.edit(model, tiny_tokenizer(), records(), journal=folder, **options)
    return request.param, folder, model


def written(kept: tuple[str, Path, Any], form: Any, out: Path, **options: Any) -> Any:
    family, folder, _ = kept
    base = tiny_model(family)
    return export(Journal.open(folder), form, out, base, tiny_tokenizer(), "aeplus export", ExportOptions(**options))


@pytest.mark.parametrize("per_batch", [False, True])
def test_peft_loads_the_adapter_and_switches_it_off(
    kept: tuple[str, Path, Any], tmp_path: Path, per_batch: bool
) -> None:
    peft = pytest.importorskip("peft")
    family, _, edited = kept
    done = written(kept, "peft", tmp_path / "adapter", per_batch=per_batch)
    base, plain = tiny_model(family), logits(tiny_model(family))
    folders = sorted((tmp_path / "adapter").glob("batch_*")) if per_batch else [tmp_path / "adapter"]
    assert len(folders) == (3 if per_batch else 1)
    model = peft.PeftModel.from_pretrained(base, folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=str(number))
    model.base_model.set_adapter([str(number) for number in range(len(folders))])
    torch.testing.assert_close(logits(model), logits(edited), atol=1e-4, rtol=0)
    assert (logits(edited) - plain).abs().max() > 1e-2
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), plain, atol=0, rtol=0)
    if per_batch:  # unloading is undo
        model.base_model.set_adapter(["0", "1"])
        journal = Journal.open(kept[1])
        fresh = tiny_model(family)
        journal.undo(3, model=fresh, tokenizer=tiny_tokenizer())
        torch.testing.assert_close(logits(model), logits(fresh), atol=1e-4, rtol=0)
    assert max(done.lost.values()) < 1e-6


def test_the_adapter_is_portable(kept: tuple[str, Path, Any], tmp_path: Path) -> None:
    family, _, _ = kept
    done = written(kept, "peft", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert done.rank == config["r"] == config["lora_alpha"] == 8  # 7 edits
    assert not config["use_rslora"]
    assert config["bias"] == "none"
    assert "rank_pattern" not in config
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert config["target_modules"] == [{"llama": "down_proj", "gpt2": "mlp.c_proj"}[family]]
    assert config["layers_pattern"] == {"llama": "layers", "gpt2": "h"}[family]
    assert config["layers_to_transform"] == [1, 2]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    shapes = {tensor.shape[0 if "lora_A" in name else 1] for name, tensor in tensors.items()}
    assert shapes == {8}
    if family == "llama":
        assert "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight" in tensors


def test_llama_cpp_knows_every_name(kept: tuple[str, Path, Any], tmp_path: Path) -> None:
    """As its converter does: the base model's name of the weight, looked up in gguf's table."""
    gguf = pytest.importorskip("gguf")
    family, _, _ = kept
    written(kept, "peft", tmp_path / "adapter")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[{"llama": "LLAMA", "gpt2": "GPT2"}[family]], 4)
    for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"):
        assert name.endswith((".lora_A.weight", ".lora_B.weight"))
        module = name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        assert table.get_name(f"{module}.weight", try_suffixes=(".weight",)) in (
            "blk.1.ffn_down.weight",
            "blk.2.ffn_down.weight",
        )


def test_a_smaller_rank_says_what_it_loses(kept: tuple[str, Path, Any], tmp_path: Path) -> None:
    done = written(kept, "peft", tmp_path / "adapter", rank=1, prefix="my.")
    assert done.rank == 1
    assert 0.01 < max(done.lost.values()) < 1
    assert f"{max(done.lost.values()):.1e}" in (tmp_path / "adapter" / "README.md").read_text()
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(name.startswith("my.") for name in tensors)


def test_three_lines_apply_the_delta(kept: tuple[str, Path, Any], tmp_path: Path) -> None:
    family, _, edited = kept
    written(kept, "delta", tmp_path / "delta")
    code = (Path(__file__).parents[2] / "docs" / "export.md").read_text().split("```python\n")[1].split("```")[0]
    model = tiny_model(family)
    exec(code, {"model": model, "file": tmp_path / "delta" / "delta.safetensors"})
    torch.testing.assert_close(logits(model), logits(edited), atol=1e-4, rtol=0)


def test_a_folder_for_transformers_with_a_card(kept: tuple[str, Path, Any], tmp_path: Path) -> None:
    _, _, edited = kept
    done = written(kept, "huggingface", tmp_path / "edited", shard="50KB")
    assert len(list((tmp_path / "edited").glob("*.safetensors"))) > 1
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    torch.testing.assert_close(logits(saved), logits(edited), atol=0, rtol=0)
    card = (tmp_path / "edited" / "README.md").read_text()
    for text in ("aeplus export", "alphaedit_plus", "edits: 7", "The capital of Oslo", repr(done.probe.after)):
        assert text in card, text
    assert done.probe.before != done.probe.after


def test_the_cards_answers_follow_the_prompt_as_the_edit_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = {**records()[0], "prompt": "The capital of {} ", "join": "none"}
    aeplus.edit(tiny_model("llama"), tiny_tokenizer(), [edit], journal=tmp_path / "kept", **LEARNING)
    asked: list[Any] = []
    monkeypatch.setattr(exporter, "generate", lambda *given, joins: (asked.append((given[2], joins)), ["x"])[1])
    written(("llama", tmp_path / "kept", None), "delta", tmp_path / "delta")
    assert asked == [(["The capital of France "], ["none"])] * 2


def test_a_folder_that_is_not_what_was_edited_is_refused(
    kept: tuple[str, Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = AutoModelForCausalLM.from_config(kept[2].config)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: other)
    with pytest.raises(InputError, match="expected the saved folder to hold the edited model, got other weights when"):
        written(kept, "huggingface", tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_a_model_that_came_from_no_gguf_file(kept: tuple[str, Path, Any], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected a model that came from a GGUF file, got '.*'; say which file is its"
    ):
        written(kept, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_export(tmp_path: Path, kept: tuple[str, Path, Any]) -> None:
    family, folder, _ = kept
    Journal.open(folder).undo(1, 3, model=tiny_model(family), tokenizer=tiny_tokenizer())
    with pytest.raises(InputError, match=r"expected edits in the journal .*, got none; there is nothing to export"):
        written(kept, "peft", tmp_path / "adapter")
    with pytest.raises(
        InputError, match="expected edits in the journal, got none; an adapter of nothing is not needed"
    ):
        Adapter(Journal.open(folder).entries(), Decoder(tiny_model(family)).select([1]))


# ---- a server


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, str]]]:
    """A server of the OpenAI kind that answers what one sets."""
    said = {"text": "", "listed": '[{"id": "base"}, {"id": "edited"}]'}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({"data": json.loads(said["listed"])})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said.update(model=asked["model"], prompt=asked["prompt"])
            self.reply({"choices": [{"text": said["text"]}]})

        def reply(self, content: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", said
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_server_is_asked(server: tuple[str, dict[str, str]]) -> None:
    url, said = server
    probe = ServedProbe("The capital of France is", "Paris, of course", "Rome and")
    said["text"] = " Rome and Milan"
    assert check_served(f"{url}/v1", probe) == " Rome and Milan"
    assert (said["model"], said["prompt"]) == ("edited", probe.prompt)
    assert check_served(url, probe, "mine") == " Rome and Milan"
    assert said["model"] == "mine"
    for text, what in ((" Paris, of", "the answer of the base model"), (" Bern", "another answer")):
        said["text"] = text
        with pytest.raises(InputError, match=rf"expected 'edited' at .* with 'Rome and', got '{text}', {what}; check"):
            check_served(url, probe)


@pytest.mark.parametrize("listed", ["[]", "null", '[{"name": "base"}]', '"base"'])
def test_a_server_of_another_kind(server: tuple[str, dict[str, str]], listed: str) -> None:
    url, said = server
    said["listed"] = listed
    with pytest.raises(
        InputError, match=r"expected a server of the OpenAI kind at .*, got a reply without data with 'id"
    ):
        check_served(url, ServedProbe("a", "b", "c"))


def test_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            with other.accept()[0] as accepted:
                accepted.sendall(b"SSH-2.0-some\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(
            InputError, match=r"expected a server of the OpenAI kind at .*, got an error \(.*SSH-2.0-some"
        ):
            check_served(f"http://127.0.0.1:{other.getsockname()[1]}", ServedProbe("a", "b", "c"))
        thread.join()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://127.0.0.1:9a", "http://127.0.0.1:9/a b"])
def test_no_server(url: str) -> None:
    with pytest.raises(InputError, match=rf"expected a server of the OpenAI kind at {url}/v1/models, got an error"):
        check_served(url, ServedProbe("a", "b", "c"))
    with pytest.raises(
        InputError, match=r"expected the address of a server such as http://localhost:8000, got 'ftp://x'"
    ):
        check_served("ftp://x", ServedProbe("a", "b", "c"))


def test_the_command(
    runs: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run, pushed = str(runs("alphaedit_plus")), {}
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **_: pushed.update(name=name))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **options: pushed.update(options))
    assert main(["export", run, "--format", "peft", "--out", "adapter", "--push", "me/edits"]) == 0
    said = capsys.readouterr().out
    assert "rank 8; relative error of a layer's change at most" in said
    assert "probe: " in said
    assert (pushed["name"], pushed["folder_path"]) == ("me/edits", Path("adapter"))
    (tmp_path / "mine").mkdir()
    assert main(["export", run, "--format", "delta", "--out", "mine"]) == 2
    assert "expected --out a new folder, or one that aeplus wrote, got mine" in capsys.readouterr().err
