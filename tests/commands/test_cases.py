"""Case studies of two runs of the tiny model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from aeplus.commands import cases as command
from aeplus.commands.cases import cases
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.generate import generate
from aeplus.models.loading import load_model
from aeplus.models.tokens import encode
from small import ROOT, records
from tiny import tiny_tokenizer

CALLBACKS = """[{class_path: aeplus.callbacks.EditCheckpoint},
{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true, table: false}}]"""


@pytest.fixture(scope="module")
def runs(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two methods on the same edits; the first has a record of each edit, the second float32 weights by option."""
    patch = pytest.MonkeyPatch()
    here = tmp_path_factory.mktemp("cases")
    patch.chdir(here)
    (here / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in records()[:4]))
    figures = f"[{{class_path: aeplus.callbacks.FigureWriter, init_args: {{figures: [score]}}}},{CALLBACKS[1:]}"
    for method, callbacks in (("alphaedit", figures), ("memit", CALLBACKS)):
        words = ["fit", "--config", f"{workplace}/tiny.yaml", "--config", f"{ROOT}/configs/method/{method}.yaml"]
        words += ["--data.path", "edits.jsonl", "--trainer.callbacks", callbacks, "--data.batch_size", "2"]
        assert main([*words, *(["--model.edited_dtype", "float32"] if method == "memit" else [])]) == 0
    patch.undo()
    return [here / "lightning_logs" / "edits" / f"version_{i}" for i in range(2)]


def generations(folder: Path, prompts: list[str]) -> list[str]:
    model, tokenizer = load_model(str(folder))
    return [" ".join(text.split()) for text in generate(Decoder(model), tokenizer, prompts, 4)]


def cells(page: str) -> list[list[str]]:
    """The cells of the case tables' rows, as Markdown shows them."""
    rows = [line for line in page.splitlines() if line.startswith(("| edit |", "| in other words |", "| neighbor |"))]
    split = [row.replace("\\|", "\0")[2:-2].split(" | ") for row in rows]
    return [["".join(c for c in cell if c != "\\").replace("\0", "|") for cell in row] for row in split]


def test_generations_of_each_model(runs: list[Path], workplace: Path, tmp_path: Path) -> None:
    shown = cases(runs, count=9, edits="4,1", length=4, out=tmp_path / "cases.md")
    page = (tmp_path / "cases.md").read_text()
    assert [case.edit for case in shown] == [4, 1]
    assert page.index("## Edit 4: The capital of Paris → France") < page.index(
        "## Edit 1: The capital of France → Paris"
    )
    assert f"| alphaedit | `{runs[0]}` | 4 |" in page
    rows = cells(page)
    prompts = [row[1] for row in rows]
    assert prompts[:3] == ["The capital of Paris", "In the city of Paris", "The capital of Peru is"]
    # A checkpoint's edits give the generations of the model that the run saved; each starts from the unedited one.
    for column, folder in ((2, workplace / "model"), (3, runs[0] / "model"), (4, runs[1] / "model")):
        texts = [row[column].replace("\\", "") for row in rows]
        assert texts == [text.replace("\\", "") for text in generations(folder, prompts)]
    assert rows[0][3] != rows[0][2]
    cases(runs[::-1], count=9, edits="4,1", length=4, out=tmp_path / "turned.md")
    turned = cells((tmp_path / "turned.md").read_text())
    assert [[row[4], row[3]] for row in turned] == [row[3:] for row in rows]


def test_a_chat_is_continued_as_it_was_edited(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(shutil.copytree(workplace / "model", tmp_path / "model"))
    tokenizer = tiny_tokenizer(bos=True)  # the template writes none
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(model)
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", f"{workplace}/tiny.yaml", "--model.model", str(model), "--data.limit", "1"]
    assert main([*words, "--data.chat_template", "true", "--trainer.callbacks", CALLBACKS]) == 0
    asked: list[tuple[list[str], list[tuple[int, ...]]]] = []

    def watched(decoder: Decoder, tokenizer: Any, prompts: list[str], length: int, joins: list[str]) -> list[str]:
        asked.append((joins, [row.ids for row in encode(tokenizer, prompts, joins=joins)]))
        return generate(decoder, tokenizer, prompts, length, joins=joins)

    monkeypatch.setattr(command, "generate", watched)
    cases([tmp_path / "lightning_logs" / "edits" / "version_0"], 1, None, 2, tmp_path / "cases.md")
    prompts = ["<|user|>The capital of France ", "<|user|>In the city of France ", "<|user|>The capital of Peru is "]
    rows = [tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    assert asked == [(["none"] * 3, rows)] * 2


def test_edits_that_were_taken_out_since_are_left_out(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    assert main(["undo", str(run), "1", "--edit", "1"]) == 0
    shown = cases([run], count=9, edits="2,4", length=4, out=tmp_path / "cases.md")
    assert [(case.edit, case.prompt) for case in shown] == [(2, "The capital of Italy"), (4, "The capital of Paris")]
    assert all(case.record is not None and case.record.prompt == case.prompt for case in shown)
    with pytest.raises(InputError, match="expected positions of edits that are in the model, of 4, after --edits"):
        cases([run], count=9, edits="1", length=4, out=tmp_path / "more.md")


def test_the_most_conflicting_edits_are_chosen_where_they_are_known(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cases.md"
    words = ["cases", "--runs", *map(str, runs), "--count", "2", "--length", "1", "--out", str(out), "--overwrite"]
    assert main(words) == 0
    assert f"2 edits in {out}" in capsys.readouterr().out
    page = out.read_text()
    known = [json.loads(line) for line in (runs[0] / "edits.jsonl").read_text().splitlines()]
    ranks = {
        r["edit"]: sum(sorted(o[name] for o in known).index(r[name]) for name in ("s_K0", "s_Kp", "residual"))
        for r in known
    }
    first = int(page.split("## Edit ")[1].split(":")[0])
    assert ranks[first] == max(ranks.values())
    record = known[first - 1]
    assert f"s(k, K0) {record['s_K0']:.2f}; s(k, Kp) {record['s_Kp']:.2f}; ‖r‖ {record['residual']:.3g}." in page
    # Without records they are spread over the stream.
    spread = cases([runs[1]], count=2, edits=None, length=1, out=out, overwrite=True)
    assert [case.edit for case in spread] == [1, 3]
    assert [case.edit for case in cases([runs[1]], count=9, edits=None, length=1, out=out, overwrite=True)] == [
        1,
        2,
        3,
        4,
    ]


def test_a_page_in_a_runs_folder_can_be_replaced(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    words = ["cases", "--runs", str(run), "--count", "1", "--length", "1", "--overwrite", "--out"]
    for _ in range(2):
        assert main([*words, str(run / "cases.md")]) == 0
    checkpoint = next((run / "checkpoints").iterdir())
    for kept in (run / "metrics.json", run / "config.yaml", checkpoint):
        assert main([*words, str(kept)]) == 2
        assert f"expected --out a path that is not an input, got {kept}" in capsys.readouterr().err


def test_a_run_that_saved_only_its_model(runs: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.yaml").write_bytes((runs[1] / "config.yaml").read_bytes())
    (alone / "model").symlink_to(runs[1] / "model")
    with pytest.raises(InputError, match="expected a run with its edits in a journal"):
        cases([alone], count=1, edits=None, length=1, out=tmp_path / "cases.md")
    cases([alone, runs[1]], count=1, edits="2", length=4, out=tmp_path / "cases.md")
    page = (tmp_path / "cases.md").read_text()
    assert f"memit ({alone})" in page.replace("\\", "")
    assert all(row[3] == row[4] for row in cells(page))


def test_edits_that_a_run_did_not_make_are_marked(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_bytes((runs[1] / "config.yaml").read_bytes())
    (other / "model").symlink_to(runs[1] / "model")
    lines = (runs[0] / "edits.jsonl").read_text().splitlines()
    (other / "edits.jsonl").write_text(lines[1] + "\n")
    cases([runs[0], other], count=1, edits="1 2", length=1, out=tmp_path / "cases.md")
    rows = [row for row in cells((tmp_path / "cases.md").read_text()) if row[0] == "edit"]
    assert [row[4].endswith("(this run did not make the edit)") for row in rows] == [True, False]


def test_folders_that_cannot_be_used(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, bare, damaged, foreign, weights = (tmp_path / n for n in ("empty", "bare", "damaged", "foreign", "weights"))
    config = yaml.safe_load((runs[0] / "config.yaml").read_text())
    for folder in (empty, bare, damaged, foreign, weights):
        (folder / "checkpoints").mkdir(parents=True)
        if folder is not empty:
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (damaged / "checkpoints" / "1.ckpt").write_bytes(b"nothing")
    checkpoint = next((runs[0] / "checkpoints").iterdir())
    for folder in (foreign, weights):
        (folder / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    config["model"]["model"] = str(runs[1] / "model")  # edited, so its weights are others
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    for folders, more, text in (
        ([empty], [], "expected a run folder with its config.yaml"),
        ([bare], [], "expected checkpoints/*.ckpt or a model in"),
        ([damaged], [], "expected an aeplus checkpoint at"),
        ([runs[0], foreign], [], "expected runs of one model"),
        ([foreign], ["--length", "1"], "got edits of other weights"),
        ([runs[0]], ["--edits", "0"], "expected positions of edits from 1 to 4 after --edits, got '0'"),
        ([runs[0]], ["--edits", "x"], "after --edits, got 'x'"),
        ([runs[0]], ["--count", "0"], "expected --count to be at least 1, got 0"),
    ):
        assert main(["cases", "--out", str(tmp_path / "page.md"), *more, "--runs", *map(str, folders)]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
