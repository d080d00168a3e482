"""Every command against damaged forms of every kind of file that it reads: refused in a sentence, or a right result.

A row of :data:`ROWS` names a command line and one file of the folder ``given``; each damage of that kind of file is a
case. The tree is compared before and after, and nothing of what the files would execute is executed.
"""

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aeplus.commands.arguments import COMMANDS
from aeplus.commands.main import main
from made_runs import made_comparison, made_experiment
from small import records
from test_hostile import PICKLE, tree

SECONDS = 60
Damage = Callable[[Path], object]


def put(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def of(value: Any) -> Damage:
    return put(json.dumps(value).encode())


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(bytes(content))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def change(**values: Any) -> Damage:
    """Other values in a JSON object."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def pickled(path: Path) -> None:
    """Weights as a pickle that runs something."""
    path.unlink()
    path.with_name("pytorch_model.bin").write_bytes(PICKLE)


def line(**values: Any) -> Damage:
    """A record with other values."""
    return of({**records()[0], **values})


ANY: dict[str, Damage] = {
    "empty": put(b""),
    "binary": put(bytes(range(256))),
    "pickle": put(PICKLE),
    "folder": folder,
    "pipe": pipe,
    "gone": gone,
}
JSON: dict[str, Damage] = {
    **ANY,
    "deep": put(b"[" * 100_000),
    "null": put(b"null"),
    "number": put(b"3"),
    "list": put(b"[[1]]"),
    "half": put(b'{"prompt": "'),
    "surrogate": put(b'{"target": "\\ud800", "text": "\\ud800", "prompt": "\\ud800"}'),
}
EDITS = {
    **JSON,
    "no-slot": line(prompt="nothing", subject="absent"),
    "types": line(subject=["a"], target_new={"b": 1}),
    "tests": line(rephrase=3, neighborhood={"a": [None]}),
    "archive": put(b"\x1f\x8b\x08xxxx"),
}
POOL = {name: EDITS[name] for name in EDITS if name != "tests"}
CONFIG = {
    **ANY,
    "list": put(b"[1, 2]\n"),
    "code": put(b"model: !!python/object/apply:os.system [touch pwned]\n"),
    "types": put(b"model: 3\ndata: [x]\ntrainer: {a: {b: c}}\n"),
    "types-within": put(
        b"model: {model: [1], layers: x, method: {name: {a: 1}}, dtype: [], site: 7}\ndata: {path: 3}\n"
    ),
    "deep": put(b"{a: " * 1000 + b"1" + b"}" * 1000),
    "bomb": put(
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9))
    ),
}
TEXT = {name: ANY[name] for name in ("empty", "folder", "pipe", "gone")}
SETTINGS = {  # a model's config.json
    **JSON,
    "kind": change(model_type=3),
    "unknown": change(model_type="nosuch"),
    "layers": change(num_hidden_layers="many"),
    "wide": change(hidden_size=-1),
    "heads": change(num_attention_heads=0),
    "many": change(num_hidden_layers=10**9),
    "code": change(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}),
}
TOKENIZER = {
    **{name: JSON[name] for name in JSON if name not in ("pipe", "gone")},
    "kind": change(model={"type": "WordLevel", "vocab": 3}),
    "nothing": change(model={"type": "WordLevel", "vocab": {}, "unk_token": "?"}),
}
TOKENS = {name: JSON[name] for name in ("binary", "null", "number", "list", "deep")}
WEIGHTS = {**ANY, "cut": cut, "pickled": pickled, "header": put(b"\xff" * 7 + b"\x7f" + b"{}")}
RECORD = {**JSON, "cut": cut, "flip": flip, "object": put(b"{}")}
PLAIN = {**JSON, "cut": cut, "object": put(b"{}")}  # a file without a digest
TENSORS = {**ANY, "cut": cut, "flip": flip}
CHECKPOINT = {**ANY, "cut": cut, "flip": flip}
ITEMS = {**JSON, "label": of({"sentence": "good", "label": [1]}), "text": of({"sentence": 3, "label": 1})}
LINES = {**JSON, "object": put(b"{}"), "types": of({"edit": "x"})}
GGUF = {**ANY, "cut": put(b"GGUF\x03\0\0\0" + b"\xff" * 16), "magic": put(b"GGUF" + b"x" * 99)}


class Row(NamedTuple):
    """A command line, the file that it reads and what happens to it.

    Attributes:
        words: The command line.
        file: The file.
        damages: What happens to it, by name.
        right: The damages after which the result is right all the same.
        every: One case of so many belongs to the quick tests, where a command takes a second.
    """

    words: str
    file: str
    damages: dict[str, Damage]
    right: tuple[str, ...] = ()
    every: int = 1


_FIT, _JOURNAL = "--config=tiny.yaml", "run/journal/000002"
_MODEL = (
    ("config.json", SETTINGS),
    ("tokenizer.json", TOKENIZER),
    ("tokenizer_config.json", TOKENS),
    ("model.safetensors", WEIGHTS),
)
_ALPHASET = (
    "build-alphaset --edits=pool.jsonl --k0=facts.jsonl --model=./model --layers=0,1,2 --sizes=1+1,1+1,1+1 --out=new"
)
_VALIDATION = "build-validation --edits=edits.jsonl --k0=facts.jsonl --share=0.5 --out=new.jsonl"
_STREAM = "build-stream --kind=plain --data.path=edits.jsonl --count=2 --split=all --out=new.jsonl"
_CASES = "cases --runs run --count=1 --length=1 --out=new.md"
_CAPABILITIES = "capabilities --model=./model --device=cpu --out=new.json"
_REPORT = "--out=new.html --markdown=new.md"
_NO_DATA = ("folder", "pipe", "gone", "null", "number", "list")  # and so no figure of them
_JOURNALS = {
    "log": "log run",
    "show": "show run 2",
    "verify": "verify run",
    "apply": "apply run --out=new",
    "undo": "undo run 2",
    "export": "export run --format=delta --out=new",
}
ROWS = [
    Row(f"validate {_FIT}", "edits.jsonl", EDITS, every=16),
    Row(f"validate {_FIT}", "tiny.yaml", CONFIG, every=16),
    Row(
        f"validate {_FIT} --ckpt_path=run/checkpoints/3-batches.ckpt",
        "run/checkpoints/3-batches.ckpt",
        CHECKPOINT,
        every=16,
    ),
    Row(f"validate {_FIT} --ckpt_path=run/checkpoints/3-batches.ckpt", f"{_JOURNAL}.json", RECORD, every=16),
    Row(f"validate {_FIT} --ckpt_path=run/checkpoints/3-batches.ckpt", f"{_JOURNAL}.safetensors", TENSORS, every=16),
    Row(f"validate {_FIT} --data.validation=validation.jsonl", "validation.jsonl", JSON, every=16),
    Row(f"validate {_FIT} --data.validation=validation.jsonl", "validation.jsonl.manifest.json", RECORD, every=16),
    *(Row(f"validate {_FIT}", f"model/{name}", damages, every=16) for name, damages in _MODEL),
    Row(f"fit {_FIT} --model.journal=run/journal", f"{_JOURNAL}.json", RECORD, every=16),
    Row(f"fit {_FIT} --model.journal=run/journal", f"{_JOURNAL}.safetensors", TENSORS, every=16),
    Row(f"fit {_FIT} --model.preserved.facts=facts.jsonl", "facts.jsonl", POOL, every=16),
    Row(
        f"fit {_FIT} --config=evaluation.yaml",
        "references.json",
        JSON,
        every=16,
    ),
    Row(
        f"fit {_FIT} --config=capabilities.yaml",
        "tasks/sst2.jsonl",
        ITEMS,
        every=16,
    ),
    Row(f"compare {_FIT} --out=new --methods=memit", "edits.jsonl", EDITS, every=16),
    Row(f"compare {_FIT} --out=new --methods=own.yaml", "own.yaml", CONFIG, every=16),
    Row(f"compare {_FIT} --out=new --methods=memit", "model/config.json", SETTINGS, every=16),
    Row(f"experiment one.yaml {_FIT} --out=new", "edits.jsonl", EDITS, every=16),
    Row(f"experiment one.yaml {_FIT} --out=new", "one.yaml", CONFIG, every=8),
    Row(f"experiment one.yaml {_FIT} --out=new", "model/config.json", SETTINGS, every=16),
    Row(f"tune {_FIT} --for=alphaedit --fixed-layers=0,1 --out=new.yaml", "edits.jsonl", EDITS, every=16),
    Row(f"tune {_FIT} --for=alphaedit --fixed-layers=0,1 --out=new.yaml", "tiny.yaml", CONFIG, every=16),
    Row(f"tune {_FIT} --for=alphaedit --fixed-layers=0,1 --out=new.yaml", "model/model.safetensors", WEIGHTS, every=16),
    Row(f"inspect {_FIT} --no-targets --out=new", "edits.jsonl", EDITS, every=16),
    Row(f"inspect {_FIT} --no-targets --out=new", "text.txt", TEXT, every=16),
    Row(f"inspect {_FIT} --no-targets --out=new", "model/tokenizer.json", TOKENIZER, every=16),
    Row(_VALIDATION, "edits.jsonl", POOL),
    Row(_VALIDATION, "facts.jsonl", POOL),
    Row("build-validation --edits=edits.jsonl --corpus=text.txt --share=0.5 --out=new.jsonl", "text.txt", TEXT),
    Row(_ALPHASET, "pool.jsonl", POOL),
    Row(_ALPHASET, "facts.jsonl", POOL),
    *(Row(_ALPHASET, f"model/{name}", damages, every=9) for name, damages in _MODEL),
    Row(f"{_ALPHASET} --corpus=text.txt", "text.txt", TEXT, every=9),
    Row(_STREAM, "edits.jsonl", POOL),
    Row(_CASES, "run/config.yaml", CONFIG),
    Row(_CASES, "run/edits.jsonl", LINES, right=("empty", "gone")),
    Row(_CASES, "run/checkpoints/3-batches.ckpt", CHECKPOINT, right=("gone",)),
    Row(_CASES, f"{_JOURNAL}.json", RECORD),
    Row(_CASES, f"{_JOURNAL}.safetensors", TENSORS),
    Row(_CASES, "model/config.json", SETTINGS),
    Row(f"{_CAPABILITIES} --data=tasks --tasks=sst2", "tasks/sst2.jsonl", ITEMS),
    *(Row(f"{_CAPABILITIES} --data=tasks --tasks=sst2", f"model/{name}", damages) for name, damages in _MODEL),
    Row(f"{_CAPABILITIES} --harness=task.yaml", "task.yaml", CONFIG, every=20),
    Row("demo-data --model=./model --out=new", "model/config.json", SETTINGS),
    Row(f"report run {_REPORT}", "run/metrics.json", PLAIN),
    Row(f"report run {_REPORT}", "run/config.yaml", CONFIG),
    Row(f"report run {_REPORT}", "run/edits.jsonl", LINES, right=("empty", "gone")),
    Row(
        f"report run {_REPORT}", "run/figures/data.json", JSON, ("folder", "pipe", "gone", "null", "number", "list"), 4
    ),
    Row(f"report compared {_REPORT}", "compared/compare.md", PLAIN),
    Row(f"report compared {_REPORT}", "compared/compare.csv", PLAIN),
    Row(f"report compared {_REPORT}", "compared/memit/seed_0/metrics.json", PLAIN),
    Row(f"report table1 {_REPORT}", "table1/experiment.json", PLAIN),
    Row(f"report table1 {_REPORT}", "table1/figures/score.svg", JSON),
    Row(f"report table1 {_REPORT}", "table1/plain/alphaedit/seed_0/config.yaml", CONFIG),
    *(Row(words, "run/journal/journal.json", RECORD) for words in _JOURNALS.values()),
    *(Row(words, f"{_JOURNAL}.json", RECORD) for words in _JOURNALS.values()),
    *(Row(_JOURNALS[name], f"{_JOURNAL}.safetensors", TENSORS) for name in ("verify", "apply", "undo", "export")),
    *(
        Row(_JOURNALS[name], f"model/{file}", damages, every=6)
        for name in ("apply", "undo", "export")
        for file, damages in _MODEL
    ),
    Row("verify run --model=./model", "model/model.safetensors", WEIGHTS),
    Row("export run --format=gguf --source=base.gguf --out=new", "base.gguf", GGUF),
    Row("capabilities --model=base.gguf --data=tasks --tasks=sst2", "base.gguf", GGUF),
]
QUICK_EVERY = 3  # even of what takes a moment, only a third belongs to the quick tests: there are hundreds
CASES = [
    pytest.param(
        row,
        name,
        id=f"{row.words.split()[0]}-{row.file}-{name}",
        marks=[pytest.mark.slow] if (index + place) % max(row.every, QUICK_EVERY) else [],
    )
    for place, row in enumerate(ROWS)
    for index, name in enumerate(row.damages)
]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A hang is a failure."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"still running after {seconds} s"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ended(words: str) -> int:
    """The status of a command line."""
    with within(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return main(words.split())
        except SystemExit as stop:  # the parser's own errors
            return int(stop.code or 0)


@pytest.fixture(scope="session")
def given(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind; paths in it are relative."""
    place = tmp_path_factory.mktemp("given")
    shutil.copytree(workplace / "model", place / "model")
    for name in ("edits.jsonl", "text.txt"):
        shutil.copy(workplace / name, place / name)
    (place / "tiny.yaml").write_text((workplace / "tiny.yaml").read_text().replace(str(workplace), "."))
    cities, tongues = ("Paris", "Italy", "London", "France"), ("English", "Italian", "People")
    forms = "The capital of {} is", "{} is governed from"
    pool = [{"prompt": forms[i % 2], "subject": f"Land{i}", "target_new": cities[i // 2 % 4]} for i in range(40)]
    facts = [{"prompt": "People of {} speak", "subject": f"Old{i}", "target_new": tongues[i % 3]} for i in range(9)]
    for name, lines in (("pool", pool), ("facts", facts)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "tasks/sst2.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{sentence}} is",
        "doc_to_choice": ["bad", "good"],
        "doc_to_target": "label",
        "output_type": "multiple_choice",
    }
    (place / "task.yaml").write_text(json.dumps(task))
    (place / "tasks").mkdir()
    (place / "tasks" / "sst2.jsonl").write_text('{"sentence": "good", "label": 1}\n{"sentence": "bad", "label": 0}\n')
    (place / "references.json").write_text('{"Paris": "A city in France."}')
    one = {"title": "One", "shows": "One cell.", "claim": {"text": "None."}, "variants": ["memit"]}
    one["scales"] = {"small": {"data": {"edits": {"path": "edits.jsonl"}}}}
    (place / "one.yaml").write_text(json.dumps(one))
    (place / "own.yaml").write_text("model: {method: {name: own, ridge: 0.01}}\n")
    for name, options in (
        ("EvaluationWriter", {"references": "references.json", "protocols": ["fluency"]}),
        ("CapabilitiesWriter", {"data": "tasks", "tasks": "sst2"}),
    ):
        callback = {"class_path": f"aeplus.callbacks.{name}", "init_args": options}
        config = json.dumps({"trainer": {"callbacks": [callback]}})
        (place / f"{name.removesuffix('Writer').lower()}.yaml").write_text(config)
    present = Path.cwd()
    os.chdir(place)
    try:
        callbacks = (
            "[aeplus.callbacks.SmoothingStop, aeplus.callbacks.FigureWriter, {class_path: aeplus.callbacks."
            "EditCheckpoint, init_args: {keep_all: true}}, {class_path: aeplus.callbacks.JournalWriter, init_args: "
            "{save_model: true, table: false}}]"
        )
        assert main(["fit", _FIT, "--config=method/alphaedit_plus", "--trainer.callbacks", callbacks]) == 0
        words = "build-validation --edits edits.jsonl --k0 facts.jsonl --share 0.5 --out validation.jsonl"
        assert main(words.split()) == 0
    finally:
        os.chdir(present)
    shutil.move(place / "lightning_logs" / "edits" / "version_0", place / "run")
    shutil.rmtree(place / "lightning_logs")
    made_comparison(place / "compared")
    made_experiment(place / "table1")
    return place


@pytest.fixture
def place(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(given, tmp_path / "given")
    monkeypatch.chdir(tmp_path / "given")
    monkeypatch.setattr("sys.argv", ["aeplus"])
    return tmp_path / "given"


@pytest.mark.parametrize(("row", "damage"), CASES)
def test_a_damaged_file_is_refused_in_a_sentence(
    place: Path, capfd: pytest.CaptureFixture[str], row: Row, damage: str
) -> None:
    if not (place / row.file).exists():
        (place / row.file).touch()
    row.damages[damage](place / row.file)
    before = tree(place)
    status = ended(row.words)
    said = capfd.readouterr().err
    after = tree(place)
    assert status == (0 if damage in row.right else 2), said
    assert "Traceback" not in said
    if status:
        assert "error: " in said
        assert len([text for text in said.splitlines() if "error: " in text]) == 1, said
        assert {path for path in after if path not in before and not path.endswith(".aeplus.lock")} == set()
    assert {path for path, content in before.items() if after.get(path) != content} == set()
    assert not list(place.parent.rglob("pwned"))


def test_every_command_has_a_row() -> None:
    assert {row.words.split()[0] for row in ROWS} == {"fit", "validate", *COMMANDS}


# What the tiny model cannot do: be a GGUF file, and answer the demo's questions.
WHOLE = {row.words: row.every for row in ROWS if not row.words.startswith("demo") and "base.gguf" not in row.words}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=words.split()[0], marks=[pytest.mark.slow] if every > 1 else [])
        for words, every in WHOLE.items()
    ],
)
def test_the_same_command_reads_whole_files(place: Path, words: str) -> None:
    """So it is the damage that is refused above."""
    assert ended(words) == 0
