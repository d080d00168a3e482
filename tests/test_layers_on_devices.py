"""A model whose layers lie on several devices is edited as one on a single device is."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import remove_hook_from_submodules
from lightning import Trainer
from transformers import AutoModelForCausalLM

import aeplus
from aeplus.commands.main import main
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.evaluation.capabilities.likelihood import Prompt, option_likelihoods
from aeplus.functional import LowRankUpdate
from aeplus.models import loading
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.models.loading import load_model, load_named
from aeplus.models.predict import collect_hidden, predict
from aeplus.models.replay import Replay
from aeplus.models.tokens import encode
from aeplus.module import EditModule
from aeplus.preserved.statistics import LayerStatistics
from aeplus.run.committed.entries import Entries, Entry
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import batch_rows
from second_device import SECOND, spread, start_second_device
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

FACTS = [EditRequest("{} speaks", "France", "one two"), EditRequest("The capital of {} is", "Italy", "Rome")]


@pytest.fixture(autouse=True)
def second() -> Iterator[None]:
    start_second_device()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def edited(
    method: str, cache: Path, first: int | None, edits: list[dict[str, Any]] | None = None, **options: Any
) -> tuple[Any, Any]:
    """A model and the metrics of a call, with two edited layers, the layers from ``first`` on on another device."""
    model = tiny_model("llama")
    model = model if first is None else spread(model, first)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that a method does not use
        patch.setenv("AEPLUS_CACHE", str(cache))  # statistics of its own
        own = {**LEARNING, "layers": [1, 2], "steps": 6, **options}
        return model, aeplus.edit(model, tiny_tokenizer(), edits or records()[:3], method, batch_size=2, **own).metrics


def assert_edited_alike(method: str, folder: Path, first: int, **options: Any) -> None:
    one, alone = edited(method, folder / "one", None, **options)
    several, apart = edited(method, folder / "several", first, **options)
    assert {str(p.device) for p in several.parameters()} == {"cpu", SECOND}
    unedited = tiny_model("llama").state_dict()
    for (name, weight), other in zip(one.named_parameters(), several.parameters(), strict=True):
        torch.testing.assert_close(other.cpu(), weight, rtol=1e-5, atol=1e-5)
        changed = ".down_proj." in name and any(f".{layer}." in name for layer in (1, 2))
        assert torch.equal(weight, unedited[name]) is not changed
    assert apart["after"] == alone["after"]


def test_edited_layers_on_both_devices(tmp_path: Path) -> None:
    assert_edited_alike("memit", tmp_path, 2)


def test_an_edit_that_is_not_made(tmp_path: Path) -> None:
    first, second = ({**record, "fact": "one"} for record in records()[:2])
    assert_edited_alike("memit", tmp_path, 2, edits=[first, second, records()[2]])


@pytest.mark.parametrize("first", [1, 3])
def test_edited_layers_on_one_of_them(tmp_path: Path, first: int) -> None:
    assert_edited_alike("memit", tmp_path, first)


def test_statistics_stay_where_their_layer_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch moves them."""
    moved: list[str] = []
    to = LayerStatistics.to

    def noted(self: LayerStatistics, device: torch.device, dtype: torch.dtype | None = None) -> LayerStatistics:
        if self.spectrum.vectors.device != torch.device(device):
            moved.append(str(device))
        return to(self, device, dtype)

    monkeypatch.setattr(LayerStatistics, "to", noted)
    counts = []
    for count in (2, 6):  # one batch and three
        moved.clear()
        edited("alphaedit", tmp_path, 2, edits=records()[:count])
        counts.append(len(moved))
    assert counts == [0, 0]  # read from the file to where the layer is


def test_gradient_updates(tmp_path: Path) -> None:
    assert_edited_alike("kde", tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(aeplus.METHODS) - {"memit", "kde"}))
def test_every_method(tmp_path: Path, method: str) -> None:
    assert_edited_alike(method, tmp_path, 2, smoothing_steps=2)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_layers_that_normalize_their_output(first: int) -> None:
    """The stream after them is planned on one device, whatever the layers are on."""
    found = []
    for place in (None, first):
        model = tiny_model("gemma2", attention="eager")
        decoder = Decoder(model if place is None else spread(model, place))
        rows, sites = batch_rows(tiny_tokenizer(), FACTS, ["", "You. "]), decoder.select([1, 2])
        targets = find_targets(decoder, rows, 2, TargetOptions(steps=4, clamp=3.0))
        reader = KeyReader(decoder, rows, sites)
        wanted = targets.to(reader.device).values
        keys, values = reader.read(sites[0], sites[1])
        assert keys.device == sites[0].weight.device
        change = reader.change(sites, wanted, values)
        left = reader.left(sites[1], wanted, values)
        found.append([tensor.cpu() for tensor in (targets.values, keys, values, change, left)])
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-3, atol=1e-4)


def test_questions_are_answered_alike() -> None:
    tokenizer, texts = tiny_tokenizer(), ["The capital of France is", "Rome", "People speak English in London"]
    rows = encode(tokenizer, texts, ["Paris", "Italy", "one two"])
    prompts = [Prompt("", row.ids, ((5, 6), (7,)), False) for row in rows]
    asked = []
    for model in (tiny_model("llama"), spread(tiny_model("llama"), 2)):
        decoder = Decoder(model)
        assert decoder.check() is None
        hidden = collect_hidden(decoder, tokenizer, texts, 2)
        asked.append((predict(decoder, rows), generate(decoder, tokenizer, texts, 4), hidden))
        asked[-1] += (option_likelihoods(decoder, prompts),)
    assert asked[0][:2] == asked[1][:2]
    for one, several in zip(asked[0][2:], asked[1][2:], strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-4)


def test_what_is_recorded_is_where_each_layer_is() -> None:
    """A replay does not depend on what transformers has hooked into the layers."""
    decoder = Decoder(spread(tiny_model("llama", tie_word_embeddings=True), 2))
    replay = Replay(decoder, decoder.probe.tolist(), 0)
    expected = decoder.readout(replay.output).cpu()
    assert decoder.after
    remove_hook_from_submodules(decoder.model)
    hidden = replay.run(replay.hidden, 0, 4)
    assert hidden.device == replay.hidden.device
    torch.testing.assert_close(decoder.logits(hidden).cpu(), expected, rtol=1e-4, atol=1e-4)


def test_fit_leaves_a_model_on_several_devices(workplace: Path, tmp_path: Path, monkeypatch: Any) -> None:
    given = ["fit", f"--config={workplace}/tiny.yaml", "--config=method/memit", "--data.limit=3"]
    seen: dict[str, set[str]] = {}
    ended = EditModule.teardown

    def load(options: dict[str, Any]) -> tuple[Any, Any]:
        model, tokenizer = load_named({**options, "device_map": None})
        return (model if options["device_map"] is None else spread(model, 1)), tokenizer

    def teardown(module: EditModule, stage: str) -> None:
        seen[Path.cwd().name] = {str(p.device) for p in module.language_model.parameters()}
        ended(module, stage)

    monkeypatch.setattr("aeplus.module.load_named", load)
    monkeypatch.setattr(EditModule, "teardown", teardown)
    for name, options in {"one": [], "several": ["--model.device_map=auto"]}.items():
        (folder := tmp_path / name).mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("AEPLUS_CACHE", str(folder / "cache"))
        assert main([*given, *options]) == 0
    assert seen == {"one": {"cpu"}, "several": {"cpu", SECOND}}
    one, several = (json.loads(next((tmp_path / n).rglob("metrics.json")).read_text()) for n in ("one", "several"))
    assert one["after"] == several["after"]


@pytest.mark.parametrize("places", [None, "auto", {"": "cpu"}])
def test_transformers_places_the_layers(workplace: Path, monkeypatch: pytest.MonkeyPatch, places: Any) -> None:
    asked: list[Any] = []
    loads = AutoModelForCausalLM.from_pretrained

    def record(*arguments: Any, **options: Any) -> Any:
        asked.append(options["device_map"])
        return loads(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", record)
    load_model(str(workplace / "model"), device_map=places)
    assert asked == [places]


def test_without_accelerate(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        load_model(str(workplace / "model"), device_map="auto")
    assert str(error.value) == (
        "expected the package accelerate for model.device_map auto, got none; run: pip install accelerate."
    )


def test_one_process_divides_the_layers(tmp_path: Path) -> None:
    module = EditModule("nowhere", [0], device_map="auto")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module.trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", default_root_dir=tmp_path, **quiet)
    with pytest.raises(InputError) as error:
        module.configure_callbacks()
    assert str(error.value) == (
        "expected one process for model.device_map, which divides the layers among its devices, got 2; set "
        "trainer.devices: 1."
    )


def test_committed_updates_leave_the_device() -> None:
    model = spread(tiny_model("llama"), 2)
    sites = Decoder(model).select([2])
    weight = sites[0].weight
    update = LowRankUpdate(weight.new_ones(weight.shape[0], 1), weight.new_ones(1, weight.shape[1]))
    for own in (update, replace(update, mask=weight > 0)):
        entry = Entry([{}], {2: own}, {2: weight.new_ones(weight.shape[1], 1)}, {}).packed()
        assert entry.updates[2].left.device == entry.updates[2].right.device == torch.device("cpu")
        (total,) = Entries([entry]).totals(sites)
        assert total.device == weight.device
        assert torch.equal(total.cpu(), own.dense().cpu())
