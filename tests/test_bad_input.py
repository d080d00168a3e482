"""One clear sentence, exit status 2, no traceback, nothing half written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import aeplus
from aeplus.commands.arguments import COMMANDS
from aeplus.commands.main import main
from aeplus.errors import InputError
from small import ROOT, SMALL, records
from tiny import tiny_model, tiny_tokenizer

PLUS = f"{ROOT}/configs/method/alphaedit_plus.yaml"


@pytest.fixture
def run(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs ``fit`` with some words added, expects status 2 and gives what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])

    def call(*words: str) -> str:
        try:
            status = main(["fit", "--config", f"{workplace}/tiny.yaml", "--config", PLUS, *words])
        except SystemExit as stop:  # the parser's own errors
            status = int(stop.code or 0)
        said = capsys.readouterr().err
        assert status == 2, said
        assert "Traceback" not in said
        assert not list(tmp_path.rglob("metrics.json"))
        return said

    return call


def edits(folder: Path, *changed: dict[str, object]) -> str:
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps({**records()[i], **change}) + "\n" for i, change in enumerate(changed)))
    return str(path)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model.model", "./nowhere"], "expected a model folder at ./nowhere, got none; check the path"),
        (["--model.model", "no-such-model"], "expected a model at 'no-such-model'"),
        (["--model.model", "x.gguf"], "expected a GGUF file at x.gguf, got none"),
        (["--data.path", "nowhere.jsonl"], "nowhere.jsonl, which does not exist; check the path"),
        (["--data.path", "x" * 5000], "… (5000 characters)', which cannot be one"),
        (["--model.model", "./" + "x" * 5000], "which cannot be one (File name too long); correct it."),
        (["--model.preserved.corpus", "./" + "x" * 5000], "which cannot be one (File name too long); correct it."),
        (["--data.path", "~nosuch/edits"], "expected a path, got '~nosuch/edits', which cannot be one (Could not det"),
        (
            ["--model.seed", str(2**63)],
            "expected model.seed to be a whole number from 0 to 2^63 - 1, got 9223372036854",
        ),
        (["--data.seed", "-1"], "expected data.seed to be a whole number from 0 to 2^63 - 1, got -1; choose another"),
        (["--model.preserved.seed", str(10**30)], "expected preserved.seed to be a whole number from 0 to 2^63 - 1"),
        (
            ["--config", "{a: " * 60 + "1" + "}" * 60],
            "expected a config of at most 100000 values, 50 levels deep, got a",
        ),
        (["--data.batch_size", "0"], "expected data.batch_size to be at least 1, got 0"),
        (["--data.limit", "0"], "limit"),
        (["--model.layers", "[1, 0]"], "expected distinct, ascending layers, got [1, 0]"),
        (["--model.layers", "[0, 9]"], "expected layers from 0 to 2 for this model, got [0, 9]"),
        (["--model.method.threshold", "1e-9", "--model.method.threshold_kind", "absolute"], "leaves no null space"),
        (["--model.method.threshold", "1e9", "--model.method.threshold_kind", "absolute"], "leaves no constraint"),
        (["--model.method.ridge", "0"], "expected method.ridge above 0, got 0"),
        (["--model.preserved.corpus", "nothing.txt"], "as corpus, got 'nothing.txt'"),
        (
            ["--model.preserved.window", "100000", "--model.preserved.tokens", "100000"],
            "expected preserved.window to fit the context of 128 tokens, got 100000",
        ),
        (["--model.nonsense", "1"], "unrecognized arguments: --model.nonsense 1; aeplus fit --help lists the options."),
        (["--data.pth=x"], "unrecognized arguments: --data.pth=x (did you mean --data.path?); aeplus fit --help"),
        (["--batch_size", "3"], "--batch_size 3 (did you mean --data.batch_size?); aeplus fit --help lists"),
        (["--rigde=1"], "--rigde=1 (did you mean --model.method.ridge?)"),
        (["--model.layers", "1,2"], "expected model.layers to be a list, got 1,2; write --model.layers '[1,2]'."),
        (["--model.layers=5"], "expected model.layers to be a list, got 5; write --model.layers '[5]'."),
        (["--model.seed=x"], "expected model.seed to be a whole number, got x; correct it."),
        (
            ["--config", "{model: {method: {rigde: 1}}}"],
            "got model.method.rigde (did you mean model.method.ridge?); correct its name.",
        ),
        (["--model.method=alphaedit"], "as a file or as fields, got 'alphaedit'; use --config method/alphaedit."),
        (["--model.method=blu"], "got 'blu'; use --config method/blue."),
        (["--model.method=x"], "got 'x'; use --config method/NAME."),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_bad_settings(run: Callable[..., str], words: list[str], text: str) -> None:
    assert text in run(*words)


@pytest.mark.parametrize("name", ["corpora/nothing.txt", "./nothing", "dump.xml.bz2"])
def test_a_corpus_that_is_not_there_is_missed_before_the_model_is_loaded(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("aeplus.module.load_named", lambda *_: pytest.fail("loads"))
    said = run("--model.preserved.corpus", name)
    assert f"a data set id or 'wiki-sample' as corpus, got '{name}'; check the path." in said


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            "model:\n  seed: 1\n layers: [0]\n",
            "expected a config in own.yaml, got something that is not YAML (expected ",
        ),
        ("[1, 2]", "expected options of aeplus fit in own.yaml, got [1, 2]; write them as 'name: value'."),
        ("", "expected options of aeplus fit in own.yaml, got None; write them"),
        (
            "model: {method: {rigde: 1}}",
            "expected options of aeplus fit, got model.method.rigde in own.yaml (did you mean model.method.ridge?); ",
        ),
        ("date: {path: x}", "got date.path in own.yaml (did you mean data.path?); correct its name."),
        ("model:\n  layers: 0,1\n", "expected model.layers to be a list, got 0,1 in own.yaml; write [0,1]."),
        ("model: {seed: x}", "expected model.seed to be a whole number, got x in own.yaml; correct it."),
        ("model: {method: alphaedit}", "got 'alphaedit' in own.yaml; use --config method/alphaedit."),
    ],
)
def test_a_config_that_cannot_be_used_is_named(
    run: Callable[..., str], tmp_path: Path, content: str, text: str
) -> None:
    (tmp_path / "own.yaml").write_text(content)
    said = run("--config", "own.yaml")
    assert said.startswith("aeplus: error: ")
    assert text in said
    assert "usage:" not in said


def test_a_config_is_not_named_where_an_option_is_wrong(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model: {seed: 1}")
    said = run("--config=own.yaml", "--model.seed=x")
    assert "expected model.seed to be a whole number, got x; correct it." in said


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subject": "Peru", "prompt": "The capital of France is"}, "record 1"),
        ({"target_new": " "}, "record 1"),
        ({"prompt": "{} or {}"}, "record 1"),
    ],
)
def test_bad_record(run: Callable[..., str], tmp_path: Path, change: dict[str, object], text: str) -> None:
    assert text in run("--data.path", edits(tmp_path, change))


def test_wrong_fields_name_the_record(run: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps(records()[0]) + '\n{"question": "?"}\n')
    assert "record 2" in run("--data.path", str(path))


@pytest.mark.parametrize("content", ["", "[]", "not json"])
def test_bad_file(run: Callable[..., str], tmp_path: Path, content: str) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(content)
    assert "edits.jsonl" in run("--data.path", str(path))


def test_target_longer_than_the_context(run: Callable[..., str], tmp_path: Path) -> None:
    said = run("--data.path", edits(tmp_path, {"target_new": "Paris " * 200}))
    assert "to fit the model's context of 128 tokens" in said


def test_folder_without_weights(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "expected weights (*.safetensors or *.bin) in the folder" in run("--model.model", "empty")


def test_nan_in_weights(run: Callable[..., str], workplace: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(workplace / "model", tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    said = run("--model.model", "./broken")
    assert "expected finite weights, got NaN or infinity in model.layers.1.mlp.down_proj.weight" in said


def test_foreign_checkpoint(run: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.4", "loops": {}, "callbacks": {}}, "x.ckpt")
    assert "expected an aeplus checkpoint" in run("--ckpt_path", "x.ckpt")


def test_damaged_checkpoint(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"damaged")
    assert "expected an aeplus checkpoint at x.ckpt, got a file that cannot be read" in run("--ckpt_path", "x.ckpt")


def test_no_command_and_a_wrong_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit"]) == 2
    text = f"expected a command out of fit, validate, {', '.join(COMMANDS)}, got 'edit'"
    assert text in capsys.readouterr().err


def test_python_interface_takes_everything_back() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    good = {"prompt": "The capital of {}", "subject": "France", "target_new": "Paris"}
    with pytest.raises(InputError, match="leaves no null space"):
        aeplus.edit(model, tokenizer, [good], threshold=1e-12, **SMALL)
    with pytest.raises(InputError, match="got 'magic'; choose one of these"):
        aeplus.edit(model, tokenizer, [good], method="magic")
    with pytest.raises(InputError, match="got color; check the names"):
        aeplus.edit(model, tokenizer, [good], color="red")
    with pytest.raises(InputError, match="record 1"):
        aeplus.edit(model, tokenizer, [{"prompt": "x"}])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_config_whose_aliases_expand_without_bound(run: Callable[..., str], tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert "expected a config of at most 100000 values, 50 levels deep, got a larger one in" in run(
        "--config", str(tmp_path / "bomb.yaml")
    )


@pytest.mark.parametrize("field", ["subject", "target_new", "prompt", "rephrase"])
def test_half_of_a_character_is_no_text(run: Callable[..., str], tmp_path: Path, field: str) -> None:
    path = edits(tmp_path, {field: "The {} \ud800"})
    assert f"got half of a character (a lone surrogate) in line 1 of {path}; correct it." in run("--data.path", path)


def test_half_of_a_character_from_python() -> None:
    record = {"prompt": "The {} is", "subject": "\ud800", "target_new": "x"}
    with pytest.raises(InputError, match="expected 'subject' to be text, got half of a character"):
        aeplus.edit(tiny_model("gpt2"), tiny_tokenizer(), [record], **SMALL)


@pytest.mark.parametrize("word", ["--modle.seed=1", "--model.method.filtr=soft", "--data.batchsize=3"])
def test_a_wrong_option_is_named_in_a_few_lines(run: Callable[..., str], word: str) -> None:
    said = run(word).strip().splitlines()
    assert word.split("=")[0].removeprefix("--").split(".")[-1] in said[-1]
    assert len(said) <= 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fit", "--data.path=x"],
            "a model, got none; pass --config model/NAME, or --model.model NAME and --model.layers '[4, 5]' (",
        ),
        (["validate"], "a model, got none; pass --config model/NAME"),
        (["inspect"], "a model, got none; pass --config model/NAME"),
        (["tune", "--data.path=x", "--out=y.yaml"], "a model, got none; pass --config model/NAME"),
        (["fit", "--model.model=x"], "the layers to edit, got none; pass --model.layers '[4, 5]', or --config"),
    ],
)
def test_a_missing_model_is_asked_for(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert f"aeplus: error: expected {said}" in capsys.readouterr().err
