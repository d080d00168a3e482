"""The commands on a journal, as a user runs them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aeplus.commands.main import main
from journals import fit


@pytest.fixture(scope="module")
def made(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(workplace, tmp_path_factory.mktemp("made"), "alphaedit_plus")


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path / "run")


def test_log_and_show(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(run), "--edits"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"7 edits of .*/model at layers 0, 1", said)
    assert len(re.findall(r"alphaedit_plus", said)) == 3
    assert "The capital of Oslo" in said
    assert main(["show", str(run), "3"]) == 0
    said = capsys.readouterr().out
    assert "entry 3, batch" in said
    assert "The capital of Oslo" in said
    assert main(["show", str(run), "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["edits"][0]["subject"] == "Oslo"


def test_apply_gives_the_edited_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(run), "--out", "edited"]) == 0
    assert "7 edits applied, bit for bit as recorded" in capsys.readouterr().out
    edited, saved = (load_file(folder / "model.safetensors") for folder in (Path("edited"), run / "model"))
    assert all(torch.equal(edited[name], tensor) for name, tensor in saved.items())


def test_undo_and_what_it_says(run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["undo", str(run), "2", "--edit", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 edit taken out: entry 4" in said
    assert "aeplus apply" in said
    assert len(re.findall(r"(taken out|all others), (before|after)", said)) == 4
    assert main(["undo", str(run), "1-3", "--mode", "replay", "--out", "plain"]) == 0
    assert "6 edits taken out" in capsys.readouterr().out
    plain, base = (load_file(folder / "model.safetensors") for folder in (Path("plain"), workplace / "model"))
    assert all(torch.equal(plain[name], tensor) for name, tensor in base.items())
    assert main(["log", str(run)]) == 0
    assert "0 edits of" in capsys.readouterr().out
    assert main(["show", str(run), "5"]) == 0
    assert "took out by replay: entry 1: 3 edits; entry 2: 3 edits; entry 3: 1 edit\n" in capsys.readouterr().out


def test_the_journals_own_model_is_not_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(run), "--out", "edited"]) == 0  # aeplus wrote it, so that it could be replaced
    base, journal = "edited/model.safetensors", Path("next")
    before = load_file(base)
    (run / "journal").rename(journal)
    header = json.loads((journal / "journal.json").read_text())
    header["model"]["model"] = "edited"
    capsys.readouterr()
    for command in (
        ["apply", str(journal)],
        ["undo", str(journal), "3"],
        ["export", str(journal), "--format", "delta"],
    ):
        assert main([*command, "--model", "edited", "--out", "edited"]) == 2
        assert "expected --out a path that is not an input, got edited; choose another" in capsys.readouterr().err
    assert main(["apply", str(journal), "--out", "."]) == 2
    capsys.readouterr()
    after = load_file(base)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_dry_run_of_lightning_leaves_the_journal(run: Path, workplace: Path) -> None:
    options = [f"--config={workplace}/tiny.yaml", f"--model.journal={run}/journal", f"--data.path={longer(workplace)}"]
    assert main(["fit", *options, "--trainer.fast_dev_run=1"]) in (0, 2)
    assert len(list((run / "journal").glob("0*.json"))) == 3


def test_validate_measures_a_journals_edits(run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--config={workplace}/tiny.yaml", "--trainer.logger=false"]
    shown = {}
    for name, more in {"base": [], "journal": [f"--model.journal={run}/journal"]}.items():
        assert main(["validate", *options, f"--trainer.default_root_dir={name}", *more]) == 0
        shown[name] = re.findall(r"edits\s+│\s+([\d.]+)", capsys.readouterr().out)
    metrics = json.loads((run / "metrics.json").read_text())
    assert float(shown["journal"][0]) == pytest.approx(metrics["after"]["efficacy"], abs=0.05)
    assert shown["base"] != shown["journal"]
    assert main(["validate", *options, "--trainer.default_root_dir=base"]) == 2
    assert "expected a folder without the config of another run, got " in capsys.readouterr().err
    assert main(["validate", *options, "--model.journal=nowhere"]) == 2
    assert "expected a journal in nowhere to measure, got none" in capsys.readouterr().err


def test_validate_counts_each_edit_once(run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--config={workplace}/tiny.yaml", "--trainer.logger=false", f"--model.journal={run}"]
    shown = []
    for name, path in {"data": longer(workplace), "none": "null", "part": workplace / "edits.jsonl"}.items():
        more = [
            f"--trainer.default_root_dir={name}",
            f"--data.path={path}",
            f"--data.limit={4 if name == 'part' else 9}",
        ]
        assert main(["validate", *options, *more]) == 0
        shown.append(re.search(r"Measured on (\d) edits \(%\)(?s:.*?)edits\s+│\s+([\d.]+)", capsys.readouterr().out))
    assert [found and found[1] for found in shown] == ["8", "7", "7"]
    assert len({found and found[2] for found in shown[1:]}) == 1


def test_fit_says_which_edits_it_makes_again(run: Path, workplace: Path, tmp_path: Path) -> None:
    assert main(["undo", str(run), "2"]) == 0
    with pytest.warns(UserWarning, match=r"edits 4 in the model already, 3 taken out by entry 4: they are made again"):
        fit(workplace, tmp_path, "alphaedit_plus", f"--model.journal={run}/journal")


def longer(workplace: Path) -> Path:
    """The stream with another edit at its end."""
    lines = (workplace / "edits.jsonl").read_text().splitlines(keepends=True)
    path = Path("longer.jsonl")
    path.write_text(
        "".join(lines) + json.dumps({"prompt": "{} is in", "subject": "Peru", "target_new": "Italy"}) + "\n"
    )
    return path


def test_verify(run: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run), "--model", str(workplace / "model")]) == 0
    said = capsys.readouterr().out
    assert "whole, 3 entries" in said
    assert "the model that the journal was made with, unedited" in said
    assert main(["verify", str(run), "--model", str(run / "model")]) == 2
    assert "got a model of other weights" in capsys.readouterr().err
    (run / "journal" / "000002.safetensors").write_bytes(b"x")
    assert main(["verify", str(run)]) == 2
    assert "expected record 2 of the journal as it was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["log", "nowhere"], "expected a journal in nowhere, got no journal.json; give a run's folder, or its folder"),
        (["show", "run", "9"], "expected an entry from 1 to 3 of the journal, got 9; aeplus log lists them."),
        (["show", "run", "x"], "argument N: invalid int value: 'x'; aeplus show --help lists the options."),
        (["undo", "run", "x"], "expected an entry such as 3, or a range such as 2-4, got 'x'; aeplus log lists them."),
        (
            ["undo", "run", "1-2", "--edit", "1"],
            "expected one entry with --edit, got 1-2; give the number of its batch.",
        ),
        (["undo", "run", "1", "--out", "run"], "expected --out a new folder, or one that aeplus wrote, got run"),
        (["undo", "run", "1", "--mode", "x"], "argument --mode: invalid choice: 'x'"),
        (["apply", "run"], "the following arguments are required: --out; aeplus apply --help"),
        (["apply", "run", "--out", "run"], "expected --out a new folder, or one that aeplus wrote, got run"),
        (["apply", "run", "--model", "./no", "--out", "x"], "expected a model folder at ./no, got none"),
    ],
)
def test_bad_commands(run: Path, capsys: pytest.CaptureFixture[str], command: list[str], text: str) -> None:
    assert main(command) == 2
    assert text in capsys.readouterr().err
    assert sorted(path.name for path in (run / "journal").glob("0*.json")) == [f"00000{n}.json" for n in (1, 2, 3)]


def test_a_base_model_that_has_moved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = json.loads((run / "journal" / "journal.json").read_text())
    assert header["model"]["model"] in (run / "journal" / "journal.json").read_text()
    shutil.copytree(header["model"]["model"], "elsewhere")
    assert main(["apply", str(run), "--model", "elsewhere", "--out", "edited"]) == 0


def test_fit_goes_on_from_a_journal(
    run: Path, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New edits, with another method, after those of the journal; then they are not made again."""
    (tmp_path / "new.jsonl").write_text('{"prompt": "{} lies in", "subject": "Rome", "target_new": "Paris"}\n')
    options = [f"--data.path={tmp_path}/new.jsonl", f"--model.journal={run}/journal"]
    other = fit(workplace, tmp_path, "memit_sequential", *options)
    metrics = json.loads((other / "metrics.json").read_text())
    assert (metrics["edits"], metrics["edits_done"], len(metrics["batches"])) == (8, 8, 4)
    assert not (other / "journal").exists()
    capsys.readouterr()
    assert main(["undo", str(other), "2"]) == 2
    said = f"expected a journal in {other}, got the folder of a run whose journal is {run}/journal; give that."
    assert said in capsys.readouterr().err
    checkpoints = list((other / "checkpoints").glob("*.ckpt"))
    assert [path.name for path in checkpoints] == ["1-batches.ckpt"]
    again = fit(workplace, tmp_path, "memit_sequential", options[0], f"--ckpt_path={checkpoints[0]}")
    assert json.loads((again / "metrics.json").read_text())["edits_done"] == 8
    fit(workplace, tmp_path, "memit_sequential", *options)
    assert main(["log", str(run)]) == 0
    assert main(["apply", str(run), "--out", "edited"]) == 0
    edited, saved = (load_file(folder / "model.safetensors") for folder in (Path("edited"), other / "model"))
    assert all(torch.equal(edited[name], tensor) for name, tensor in saved.items())
    assert len(list((run / "journal").glob("0*.json"))) == 4


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_runs_with_edits_of_their_own_share_no_journal(
    run: Path, workplace: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    options = [f"--config={workplace}/tiny.yaml", f"--model.journal={run}/journal", "--out=out.yaml"]
    assert main([command, *options]) == 2
    assert "expected no --model.journal, as every run has edits of its own, got" in capsys.readouterr().err
