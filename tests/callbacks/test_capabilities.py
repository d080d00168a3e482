"""The six tasks along a stream of edits, and that looking changes nothing."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import aeplus
from aeplus.callbacks import CapabilitiesWriter
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.journal import Journal
from small import ROOT, SMALL, records
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def place(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two tasks' items and a model that holds their prompts."""
    folder = tmp_path / "items"
    folder.mkdir()
    for name in ("sst2", "cola"):
        lines = [json.dumps({"sentence": f"{i} it is good .", "label": i % 2}) for i in range(8)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    return tmp_path


def fit(place: Path, workplace: Path, name: str, *words: str, status: int = 0, **arguments: Any) -> Path:
    """Edits the tiny model (three batches) and returns the run's folder."""
    callbacks: list[dict[str, Any]] = [{"class_path": "EditCheckpoint"}, {"class_path": "JournalWriter"}]
    if arguments:
        callbacks.insert(0, {"class_path": "CapabilitiesWriter", "init_args": arguments})
    for callback in callbacks:
        callback["class_path"] = f"aeplus.callbacks.{callback['class_path']}"
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": name}}
    (place / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "logger": logger}}))
    assert main(["fit", f"--config={workplace}/tiny.yaml", f"--config={name}.yaml", *words]) == status
    (metrics,) = (place / name).rglob("metrics.json")
    return metrics.parent


def results(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "capabilities.json").read_text())["results"]


def test_measures_before_every_second_batch_and_after(
    place: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(place, workplace, "seen", data="items", tasks="sst2,cola", limit=5, every=2)
    report = json.loads((run / "capabilities.json").read_text())
    assert [result["step"] for result in report["results"]] == [0, 2, 3]
    assert report["options"]["data"] == "items"
    assert report["options"]["limit"] == 5
    for result in report["results"]:
        assert list(result["tasks"]) == ["sst2", "cola"]
        assert {"f1", "accuracy", "mcc", "items"} <= set(result["tasks"]["cola"])
        assert result["tasks"]["sst2"]["items"] == 5
    events = EventAccumulator(str(run)).Reload()
    for task, metric in (("sst2", "f1"), ("cola", "mcc")):
        logged = events.Scalars(f"capabilities/{task}/{metric}")
        assert [event.step for event in logged] == [0, 2, 3]
        expected = [result["tasks"][task][metric] for result in report["results"]]
        assert [event.value for event in logged] == pytest.approx(expected)
    table = capsys.readouterr().out
    assert "before" in table
    assert "after 3 batches" in table


def test_the_figures_are_those_of_the_edited_model(place: Path, workplace: Path) -> None:
    """What the callback measures last is what the command measures on the saved model."""
    config = place / "save.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [
        {"class_path": "aeplus.callbacks.CapabilitiesWriter", "init_args": {"data": "items", "tasks": "cola"}},
        {"class_path": "aeplus.callbacks.JournalWriter", "init_args": {"save_model": True}},
    ]}}))  # fmt: skip
    assert main(["fit", f"--config={workplace}/tiny.yaml", "--config=save.yaml"]) == 0
    (run,) = (path.parent for path in place.rglob("capabilities.json"))
    for step, model in ((0, workplace / "model"), (-1, run / "model")):
        words = ["--model", str(model), "--data", "items", "--tasks", "cola", "--out", "found.json", "--overwrite"]
        assert main(["capabilities", *words]) == 0
        found = json.loads((place / "found.json").read_text())["results"][0]["tasks"]
        assert found["cola"] == pytest.approx(results(run)[step]["tasks"]["cola"])


def test_the_end_is_not_measured_twice(place: Path, workplace: Path) -> None:
    run = fit(place, workplace, "often", data="items", tasks="sst2", limit=2, every=1)
    assert [result["step"] for result in results(run)] == [0, 1, 2, 3]


@pytest.mark.parametrize("scoring", ["likelihood", pytest.param("generation", marks=pytest.mark.slow)])
def test_looking_changes_nothing(place: Path, workplace: Path, scoring: str) -> None:
    run = fit(place, workplace, "seen", data="items", tasks="sst2,cola", every=1, shots=1, scoring=scoring)
    plain = fit(place, workplace, "unseen")
    seen, unseen = (Journal.open(folder) for folder in (run, plain))
    assert seen.weights == unseen.weights != seen.chain.header["weights"]
    assert not (plain / "capabilities.json").exists()


def test_a_resumed_run_measures_the_unedited_model_too(place: Path, workplace: Path) -> None:
    early = ["--trainer.max_epochs=5", "--model.method.smooth=true"]  # within the second batch's three candidates
    first = fit(place, workplace, "first", *early, status=2, data="items", tasks="sst2", limit=4)
    (checkpoint,) = first.rglob("*.ckpt")
    again = fit(place, workplace, "again", *early[1:], f"--ckpt_path={checkpoint}", data="items", tasks="sst2", limit=4)
    assert [result["step"] for result in results(again)] == [0, 3]
    assert results(again)[0]["tasks"] == results(first)[0]["tasks"]


def test_a_resumed_run_goes_on_with_what_was_measured_alike(place: Path, workplace: Path) -> None:
    options: dict[str, Any] = {"data": "items", "tasks": "sst2", "limit": 4, "every": 1}
    first = fit(place, workplace, "first", "--trainer.max_epochs=2", status=2, **options)
    (checkpoint,) = first.rglob("*.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the checkpoint's general tasks")
        again = fit(place, workplace, "again", f"--ckpt_path={checkpoint}", **options)
    assert [result["step"] for result in results(again)] == [0, 1, 2, 3]
    assert results(again)[1:3] == results(first)[1:3]
    with pytest.warns(UserWarning, match="measured by other options of CapabilitiesWriter, and are left out"):
        other = fit(place, workplace, "other", f"--ckpt_path={checkpoint}", **options | {"limit": 3})
    assert [result["step"] for result in results(other)] == [0, 3]


def test_damaged_items_stop_the_run_before_it_begins(
    place: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "items" / "sst2.jsonl").write_text('{"sentence": "x", "label": 3}\n')
    (place / "bad.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [
        {"class_path": "aeplus.callbacks.CapabilitiesWriter", "init_args": {"data": "items", "tasks": "sst2"}},
    ]}}))  # fmt: skip
    assert main(["fit", f"--config={workplace}/tiny.yaml", "--config=bad.yaml"]) == 2
    assert "items/sst2.jsonl, line 1: expected 'label' to be 0 or 1, got 3; correct it." in capsys.readouterr().err


def test_the_documented_config_runs(place: Path, workplace: Path) -> None:
    config = (ROOT / "docs" / "capabilities.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    config = config.replace("data: hub ", "data: items ").replace("tasks: all", "tasks: cola,sst2")
    (place / "documented.yaml").write_text(config)
    assert main(["fit", f"--config={workplace}/tiny.yaml", "--config=documented.yaml"]) == 0
    (found,) = place.rglob("capabilities.json")
    assert [result["step"] for result in results(found.parent)] == [0, 3]


def test_arguments_are_checked() -> None:
    with pytest.raises(InputError) as caught:
        CapabilitiesWriter(data="items", every=-1)
    assert str(caught.value) == "expected CapabilitiesWriter's every to be at least 0, got -1; choose a larger number."


def test_from_python_the_results_are_on_the_callback(place: Path) -> None:
    writer = CapabilitiesWriter(data="items", tasks="sst2", limit=2, every=1, table=False)
    options = {**SMALL, "threshold": 0.5, "threshold_kind": "dimensions"}
    aeplus.edit(tiny_model(), tiny_tokenizer(), records()[:2], "alphaedit", callbacks=[writer], **options)
    assert [result["step"] for result in writer.results] == [0, 1]
    assert results(place) == writer.results
