"""Streams: files in a row, subsets, shuffling; and who else reads them: checkpoints, aeplus compare and aeplus tune."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aeplus.commands.fit import BaseCLI
from aeplus.commands.main import main
from aeplus.commands.runs.cache import settings_digest
from aeplus.commands.tune.command import strip
from aeplus.data.datamodule import EditDataModule
from aeplus.errors import InputError
from aeplus.journal import Journal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files of five edits; the last record of the second makes two."""
    paths = []
    for number in range(2):
        records: list[dict[str, Any]] = [
            {"prompt": "The mayor of {} is", "subject": f"Town{5 * number + i}", "target_new": "Ann"} for i in range(5)
        ]
        if number:
            rewrite = {"prompt": "The mayor of {} is", "target_new": "Ann"}
            records[-1] = {"requested_rewrite": [{**rewrite, "subject": name} for name in ("First", "Second")]}
        path = tmp_path / f"edits{number}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        paths.append(str(path))
    return paths


def subjects(path: str | list[str], **options: Any) -> list[str]:
    data = EditDataModule(path, preserved_count=0, **options)
    data.setup("fit")
    return [edit.subject.removeprefix("Town") for edit in data.requests]


def test_files_in_a_row(files: list[str]) -> None:
    assert subjects(files) == [*"012345678", "First", "Second"]
    assert subjects(files[::-1])[:7] == [*"5678", "First", "Second", "0"]
    assert subjects(files[0]) == subjects(files[:1]) == [*"01234"]


@pytest.mark.parametrize(
    ("subset", "limit", "taken"),
    [
        ("3:7", None, "3456"),
        (":2", None, "01"),
        ("8:", None, ["8", "First", "Second"]),
        (":", None, [*"012345678", "First", "Second"]),
        ("3:7", 2, "34"),
        ("3:7", 20, "3456"),
        (None, 2, "01"),
        ("9:", 1, ["First", "Second"]),  # a record, two edits
        ("7:99", None, ["7", "8", "First", "Second"]),
    ],
)
def test_subset_and_limit_count_records_over_all_files(
    subset: str | None, limit: int | None, taken: str, files: list[str]
) -> None:
    assert subjects(files, subset=subset, limit=limit) == [*taken]
    assert subjects(files, subset=subset, limit=limit, neighbors=2) == [*taken]  # which are drawn from all records


def test_neighbors_come_from_outside_the_subset(files: list[str]) -> None:
    data = EditDataModule(files, subset="4:6", neighbors=99, preserved_count=0)
    data.setup("fit")
    around = {probe.prompt for probe in data.requests[0].neighborhood}
    assert around == {f"The mayor of {name} is" for name in (*(f"Town{i}" for i in "0123678"), "First", "Second")}


def test_shuffling_follows_the_seed_and_keeps_records_whole(files: list[str]) -> None:
    orders = [subjects(files, shuffle=True, seed=seed) for seed in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    assert orders[3] == subjects(files, shuffle=True, seed=3)
    for order in orders:
        assert sorted(order) == sorted(subjects(files))
        assert order[order.index("First") + 1] == "Second"
    assert subjects(files, seed=1) == subjects(files, seed=2)  # without shuffling, the order of the files
    assert sorted(subjects(files, shuffle=True, subset="2:6", seed=1)) == [*"2345"]  # taken first, then shuffled
    filled = EditDataModule(files, shuffle=True, seed=3, limit=9, neighbors=2, preserved_count=0)
    assert [edit.subject.removeprefix("Town") for edit in filled.read()] == subjects(
        files, shuffle=True, seed=3, limit=9
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, r"expected data\.batch_size to be at least 1, got 0; choose a larger number\."),
        ({"limit": 0}, r"expected data\.limit to be at least 1, got 0; choose a larger number\."),
        *(
            (
                {"subset": text},
                rf"expected data\.subset as start:stop with a start below the stop, got '{text}'; write",
            )
            for text in ("5", "5:5", "7:5", "a:b", "-3:", "1:2:3", ":0", "")
        ),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        EditDataModule("edits.jsonl", **options)


def test_a_subset_after_the_end_and_no_file_at_all(files: list[str]) -> None:
    for neighbors in (0, 2):
        with pytest.raises(
            InputError, match=r"expected records in data\.subset 10:12 of .*edits0\.jsonl, .*edits1\.jsonl, got"
        ):
            subjects(files, subset="10:12", neighbors=neighbors)
    with pytest.raises(InputError, match=r"got no data\.path; pass a file"):
        subjects([])


def test_records_that_cannot_be_used(files: list[str]) -> None:
    Path(files[0]).write_text('{"prompt": "The mayor of {} is", "subject": "Town", "target_new": ""}\n')
    with pytest.raises(InputError, match=r"edits0\.jsonl, record 1: expected 'target_new' to be"):
        subjects(files)
    with pytest.warns(UserWarning, match="1 of 6 records cannot be used"):
        assert subjects(files, skip_unusable=True)[:2] == ["5", "6"]
    with pytest.warns(UserWarning, match="1 of 6 records cannot be used"):  # those left out count in a subset
        assert subjects(files, skip_unusable=True, subset="1:3", neighbors=2) == ["5", "6"]


def test_settings_hold_the_whole_stream(files: list[str]) -> None:
    data = EditDataModule(files, subset="1:4", shuffle=True, skip_unusable=True, limit=2, seed=7)
    expected = {"path": files, "subset": "1:4", "shuffle": True, "skip_unusable": True, "limit": 2, "seed": 7}
    assert expected.items() <= data.settings.items()
    assert EditDataModule(**data.settings).read() == data.read()


def settings(*words: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aeplus"])
        cli = BaseCLI(["--model.model=tiny", "--model.layers=[1]", "--trainer.accelerator=cpu", *words])
    assert cli.datamodule.settings == cli.settings["data"]
    return cli.settings


def test_paths_on_the_command_line_and_in_a_config(tmp_path: Path) -> None:
    config = tmp_path / "data.yaml"
    config.write_text("data: {path: [a.jsonl, b.jsonl], subset: '1:20', shuffle: true}")
    plain = settings("--data.path", "x.jsonl", "--data.subset", "1:20")["data"]
    assert (plain["path"], plain["subset"]) == ("x.jsonl", "1:20")  # not 80, as YAML 1.1 has it
    assert settings("--data.path=[a.jsonl, b.jsonl]")["data"]["path"] == ["a.jsonl", "b.jsonl"]
    composed = settings(f"--config={config}", "--data.path+=x.jsonl")["data"]
    assert composed["path"] == ["a.jsonl", "b.jsonl", "x.jsonl"]
    assert (composed["subset"], composed["shuffle"]) == ("1:20", True)
    assert settings(f"--config={config}", "--data.path=x.jsonl")["data"]["path"] == "x.jsonl"


def test_a_comparison_knows_every_file_of_the_stream(files: list[str]) -> None:
    options = settings(f"--data.path=[{', '.join(files)}]")
    digest = settings_digest(options, "fingerprint")
    assert digest == settings_digest(copy.deepcopy(options), "fingerprint")
    options["data"]["path"].reverse()
    assert settings_digest(options, "fingerprint") != digest
    options["data"]["path"].reverse()
    with Path(files[1]).open("a") as file:
        file.write("\n")
    assert settings_digest(options, "fingerprint") != digest


def test_tuning_takes_the_stream_too(files: list[str], workplace: Path) -> None:
    text = f"{workplace}/text.txt"
    data = EditDataModule(files, subset="4:7", shuffle=True, seed=1, validation_share=1, snippet_corpus=text)
    wanted = [edit.subject for edit in data.read()]
    strip(data)
    assert [edit.subject for edit in data.current] == wanted != sorted(wanted)
    assert not any(edit.rephrase for edit in data.requests)


def test_a_shuffled_stream_of_several_files_is_resumed(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    lines = (workplace / "edits.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:4]), ("b.jsonl", lines[4:])):
        Path(name).write_text("".join(part))
    Path("stream.yaml").write_text(
        "data: {path: [a.jsonl, b.jsonl], subset: '1:', shuffle: true, seed: 2, preserved_count: 0}\n"
        "model: {method: {smooth: false}, targets: {steps: 2}}"
    )
    keep = "[{class_path: aeplus.callbacks.EditCheckpoint, init_args: {keep_all: true}}]"
    base = ["fit", f"--config={workplace}/tiny.yaml", "--trainer.callbacks", keep]
    assert main([*base, "--config=stream.yaml"]) == 0
    first, second = (Path("lightning_logs/edits") / f"version_{number}" for number in range(2))
    names = [edit["subject"] for entry in Journal.open(first).entries() for edit in entry.edits]
    data = EditDataModule(["a.jsonl", "b.jsonl"], subset="1:", shuffle=True, seed=2)
    assert names == [edit.subject for edit in data.read()]
    assert sorted(names) == sorted(json.loads(line)["subject"] for line in lines[1:])
    assert names != sorted(names, key=[json.loads(line)["subject"] for line in lines].index)

    half = ["--ckpt_path", str(first / "checkpoints" / "1-batches.ckpt")]
    # The configuration as the first run wrote it down: the subset is still a text.
    assert yaml.safe_load((first / "config.yaml").read_text())["data"]["path"] == ["a.jsonl", "b.jsonl"]
    assert main(["fit", f"--config={first}/config.yaml", *half]) == 0
    assert Journal.open(second).weights == Journal.open(first).weights
    with pytest.warns(UserWarning, match=r"made with data\.seed = 2 and now it is 3"):
        assert main([*base, "--config=stream.yaml", "--data.seed=3", *half]) == 2


def test_files_of_several_formats_run_in_a_row(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RippleEdits, KnowEdit and MQuAKE, a record each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    rewrites = [{"prompt": "{} lies in", "subject": name, "target_new": {"str": "Paris"}} for name in ("Oslo", "Rome")]
    hops = [{"cloze": "Oslo lies in", "answer": "Paris", "answer_alias": []}]
    records: list[dict[str, Any]] = [
        {
            "edit": {"prompt": "The capital of Spain is Paris.", "relation": "CAPITAL"},
            "Subject_Aliasing": [{"test_queries": [{"prompt": "Spain B. is", "answers": [{"value": "Paris"}]}]}],
        },
        {
            "prompt": "The capital of Oslo is",
            "subject": "Oslo",
            "target_new": "Paris",
            "portability": {"Reasoning": [{"prompt": "Oslo lies in", "ground_truth": [["France", "FR"]]}]},
            "locality": {"Forgetfulness": [{"prompt": "Rome is not", "ground_truth": "x"}]},
        },
        {
            "requested_rewrite": rewrites,
            "questions": ["Where is Oslo?"],
            "new_answer": "Paris",
            "new_single_hops": hops,
        },
    ]
    names = ("ripple", "knowedit", "mquake")
    for name, record in zip(names, records, strict=True):
        Path(f"{name}.json").write_text(json.dumps([record]))
    configs = [f"--config={ROOT}/configs/data/{name}.yaml" for name in names]
    paths = f"--data.path=[{', '.join(f'{name}.json' for name in names)}]"
    small = ["--data.batch_size=2", "--data.shuffle=false", "--data.preserved_count=0", "--model.targets.steps=2"]
    journal = "--trainer.callbacks=[{class_path: aeplus.callbacks.JournalWriter}]"
    assert main(["fit", f"--config={workplace}/tiny.yaml", *configs, paths, *small, journal]) == 0
    (metrics,) = tmp_path.rglob("metrics.json")
    report = json.loads(metrics.read_text())
    assert [batch["edits"] for batch in report["batches"]] == [2, 2]
    assert report["after"]["specificity"] is not None
