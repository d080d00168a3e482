import json
import random
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import aeplus
from aeplus.callbacks import BatchCommit, EditCallback, EvaluationWriter, JournalWriter
from aeplus.commands.main import main
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from small import LEARNING, ROOT
from tiny import tiny_model, tiny_tokenizer

EDITS = [
    {"prompt": "The capital of {}", "subject": "France", "target_new": "London"},
    {"prompt": "The capital of {}", "subject": "Spain", "target_new": "Paris", "fact": "said to be another"},
    {"prompt": "The capital of {}", "subject": "France", "target_new": "Italy"},  # rewrites the first
    {"prompt": "The capital of {}", "subject": "Spain", "target_new": "Italy", "rephrase": ["In Spain"]},
]
OPTIONS = {
    **LEARNING,
    "smooth": False,
    "batch_size": 1,
}
EVERYTHING = ["strict", "tokens", "magnitude", "generation", "fluency", "axes", "drift"]


class Watcher(EditCallback):
    """Asks the edits so far one at a time after every batch."""

    def __init__(self) -> None:
        self.rows: list[list[float | None]] = []

    def on_batch_committed(self, trainer: Any, module: Any, commit: BatchCommit) -> None:
        edits: list[EditRequest] = module.session.data.requests
        row: list[float | None] = [None] * len(edits)
        for number, edit in enumerate(edits[: commit.index + 1]):
            if any(later.fact_key == edit.fact_key for later in edits[number + 1 : commit.index + 1]):
                continue
            ids = torch.tensor([module.tokenizer(f"{edit.question} {edit.target_new}")["input_ids"]])
            (target,) = module.tokenizer(f" {edit.target_new}")["input_ids"]
            best = int(module.language_model(ids).logits[0, -2].argmax())
            row[number] = 100.0 * (best == target)
        self.rows.append(row)


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()]


def test_nothing_in_the_edit_depends_on_it() -> None:
    found: list[Any] = []
    few = {"fluency_length": 4, "held_out_tokens": 200, "drift_prompts": 5, "bootstrap_samples": 1000}
    for writer in (None, EvaluationWriter(1, protocols=EVERYTHING, held_out=f"{ROOT}/README.md", **few)):
        torch.manual_seed(5)
        random.seed(5)
        numpy.random.seed(5)
        model, watcher = tiny_model("llama"), Watcher()
        callbacks = [watcher] if writer is None else [writer, watcher]
        result = aeplus.edit(model, tiny_tokenizer(), EDITS, "alphaedit", callbacks=callbacks, **OPTIONS)
        found.append((model.state_dict(), states()))
    (plain, chance), (measured, chance_measured) = found
    assert all(torch.equal(plain[name], weight) for name, weight in measured.items())
    assert chance == chance_measured

    measures = result.metrics["measures"]
    assert list(measures) == ["before", "batches", "retention", "after"]
    assert measures["retention"]["matrix"] == watcher.rows
    assert {value for row in watcher.rows for value in row} == {None, 0.0, 100.0}  # else the test shows little
    means = [[v for v in row if v is not None] for row in watcher.rows]
    assert measures["retention"]["mean"] == [sum(row) / len(row) for row in means]
    assert list(measures["batches"]) == ["1", "2", "3", "4"]
    assert [measures["batches"][b]["edits"] for b in "1234"] == [1, 2, 2, 3]
    assert measures["after"] == measures["batches"]["4"]
    for when in ("before", "after"):
        assert list(measures[when]) == ["edits", *EVERYTHING[:-1], "axes_tokens", "drift"]
        for aspect, interval in result.metrics["intervals"][when].items():
            assert measures[when]["strict"][aspect] == interval
            assert interval["value"] == result.metrics[when][aspect]
    assert measures["before"]["drift"]["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert measures["after"]["drift"]["kl"]["value"] > 1e-4
    json.dumps(measures, allow_nan=False)


def fit(workplace: Path, writer: str, *more: str) -> None:
    """``JournalWriter`` comes first, so that it writes before the evaluation has measured."""
    names = ["{class_path: aeplus.callbacks.JournalWriter, init_args: {table: false}}", writer]
    names.append("{class_path: aeplus.callbacks.EditCheckpoint, init_args: {keep_all: true}}")
    callbacks = f"[{', '.join(name for name in names if name)}]"
    words = ["--config", f"{workplace}/tiny.yaml", "--config", f"{ROOT}/configs/method/alphaedit.yaml"]
    assert main(["fit", *words, "--trainer.callbacks", callbacks, *more]) == 0


def test_config_metrics_logs_and_resuming(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    runs = tmp_path / "lightning_logs" / "edits"

    def measures(version: int) -> Any:
        return json.loads((runs / f"version_{version}" / "metrics.json").read_text())["measures"]

    writer = (
        "{class_path: aeplus.callbacks.EvaluationWriter, init_args: {every: 2, protocols: [strict, axes], "
        "bootstrap_samples: 10, confidence: 0.5}}"
    )
    fit(workplace, writer)
    whole = measures(0)
    assert list(whole) == ["before", "batches", "retention", "after"]
    assert list(whole["batches"]) == ["2"]
    assert [[value is None for value in row] for row in whole["retention"]["matrix"]] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert None not in whole["retention"]["mean"]
    assert "EvaluationWriter" in (runs / "version_0" / "config.yaml").read_text()
    events = EventAccumulator(str(runs / "version_0")).Reload()
    assert [event.step for event in events.Scalars("evaluation/retention")] == [1, 2, 3]
    assert [event.step for event in events.Scalars("evaluation/strict/efficacy")] == [0, 2, 3]
    logged = events.Scalars("evaluation/strict/efficacy")[-1].value
    assert logged == pytest.approx(whole["after"]["strict"]["efficacy"]["value"])
    assert "evaluation/strict/efficacy/low" not in events.Tags()["scalars"]

    # A resumed run knows the rows of before; so does a finished one.
    for version, batches in ((1, 2), (2, 3)):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the checkpoint holds no retention")
            fit(workplace, writer, "--ckpt_path", str(runs / "version_0" / "checkpoints" / f"{batches}-batches.ckpt"))
        assert measures(version) == whole

    # What earlier checkpoints hold, whole matrices, is read too.
    saved = EvaluationWriter()
    saved.load_state_dict({"batches": {}, "hits": torch.eye(3).long(), "total": torch.ones(3, 3).tril().long()})
    saved._take_up(SimpleNamespace(entries=[None, None], data=SimpleNamespace(batches=1)))
    assert saved._retention.total.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert {name: values.tolist() for name, values in saved.state_dict().items() if name != "batches"} == {
        "hits": [1, 0, 1],
        "total": [1, 1, 1],
    }

    # By other protocols, too, and each batch.
    other = writer.replace("every: 2, protocols: [strict, axes]", "every: 1, protocols: [tokens]")
    fit(workplace, other, "--ckpt_path", str(runs / "version_0" / "checkpoints" / "3-batches.ckpt"))
    again = measures(3)
    assert again["batches"] == whole["batches"]
    assert again["after"].keys() == {"edits", "tokens"}

    # Nobody measured the first batch of this one.
    fit(workplace, "")
    assert measures(4) == {}
    with pytest.warns(UserWarning, match="holds no retention after batches 1, as it was written without Evaluation"):
        fit(workplace, writer, "--ckpt_path", str(runs / "version_4" / "checkpoints" / "1-batches.ckpt"))
    late = measures(5)
    assert late["retention"]["matrix"] == [[None] * 3, *whole["retention"]["matrix"][1:]]
    assert late["retention"]["mean"] == [None, *whole["retention"]["mean"][1:]]
    assert late["after"] == whole["after"]


def test_validate_says_that_it_does_nothing_there() -> None:
    with pytest.warns(UserWarning, match="does nothing in validate; .* resume it: aeplus fit"):
        EvaluationWriter().setup(None, None, "validate")


@pytest.mark.parametrize("most", [0, 1])
def test_retention_asks_a_bounded_sample_of_earlier_edits(most: int) -> None:
    writer = EvaluationWriter(protocols=["strict"], retention_sample=most)
    model, whole = tiny_model("llama"), EvaluationWriter(protocols=["strict"])
    asked = []
    for one in (writer, whole):
        result = aeplus.edit(model, tiny_tokenizer(), EDITS, "alphaedit", callbacks=[one], **OPTIONS)
        asked.append(result.metrics["measures"]["retention"]["matrix"])
        result.undo()
    few, every = ([[value is not None for value in row] for row in matrix] for matrix in asked)
    for number, (row, full) in enumerate(zip(few, every, strict=True)):
        assert sum(row[:number]) == min(most, sum(full[:number]))
        assert row[number] == full[number]
    assert all(a in (None, b) for few, full in zip(*asked, strict=True) for a, b in zip(few, full, strict=True))
    with pytest.raises(InputError, match="expected EvaluationWriter's retention_sample to be at least 0, got -1"):
        EvaluationWriter(retention_sample=-1)


@pytest.mark.parametrize("most", [3, 4])
def test_a_large_matrix_is_written_at_the_end_only(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []

    def write(_: Any, __: Any, session: Any) -> None:
        written.append(list(session.report.measures.get("retention", ())))

    monkeypatch.setattr("aeplus.callbacks.evaluation._MATRIX", most)
    monkeypatch.setattr(JournalWriter, "write", write)
    callbacks = [JournalWriter(table=False), EvaluationWriter(protocols=["strict"])]
    result = aeplus.edit(tiny_model("llama"), tiny_tokenizer(), EDITS, "alphaedit", callbacks=callbacks, **OPTIONS)
    within = ["mean"] if most == 3 else ["matrix", "mean"]
    # Before the first edit; once for each batch, what was asked after the one before; twice at the end.
    assert written == [[], [], within, within, within, within, ["matrix", "mean"]]
    assert len(result.metrics["measures"]["retention"]["matrix"]) == 4


def test_without_retention() -> None:
    writer = EvaluationWriter(retention=False, protocols=["strict"])
    result = aeplus.edit(tiny_model("llama"), tiny_tokenizer(), EDITS[:1], callbacks=[writer], **OPTIONS)
    assert list(result.metrics["measures"]) == ["before", "batches", "after"]
    assert result.metrics["measures"]["batches"] == {}


def test_what_every_prompt_got_is_a_file(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    writer = (
        "{class_path: aeplus.callbacks.EvaluationWriter, init_args: {protocols: [strict, contains], records: true}}"
    )
    run = tmp_path / "lightning_logs" / "edits"
    fit(workplace, writer)
    lines = [json.loads(line) for line in (run / "version_0" / "prompts.jsonl").read_text().splitlines()]
    measures = json.loads((run / "version_0" / "metrics.json").read_text())["measures"]
    for when in ("before", "after"):
        for aspect in ("efficacy", "generalization", "specificity"):
            strict = [line[when]["strict"] for line in lines if line["aspect"] == aspect]
            assert measures[when]["strict"][aspect]["count"] == len(strict)
            assert measures[when]["strict"][aspect]["value"] == pytest.approx(100 * sum(strict) / len(strict))
    assert all(isinstance(line["after"]["contains"]["text"], str) for line in lines if line["aspect"] == "efficacy")

    # A finished run that is resumed writes its own; one of the user's is not replaced.
    fit(workplace, writer.replace("contains", "axes"), "--ckpt_path", str(run / "version_0/checkpoints/3-batches.ckpt"))
    again = [json.loads(line) for line in (run / "version_1" / "prompts.jsonl").read_text().splitlines()]
    assert [line["after"]["strict"] for line in again if line["aspect"] == "efficacy"] == [
        line["after"]["strict"] for line in lines if line["aspect"] == "efficacy"
    ]
    (tmp_path / "prompts.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"prompts\.jsonl"):
        aeplus.edit(
            *(tiny_model("llama"), tiny_tokenizer(), EDITS[:1]), callbacks=[EvaluationWriter(records=True)], **OPTIONS
        )
    assert (tmp_path / "prompts.jsonl").read_text() == "mine"


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="expected EvaluationWriter's every to be at least 0, got -1"):
        EvaluationWriter(every=-1)
    with pytest.raises(InputError, match="expected protocols out of"):
        EvaluationWriter(protocols=["loose"])
