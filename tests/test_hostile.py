"""Damaged and hostile inputs: a clear sentence or a right result, nothing executed, nothing of the user's changed."""

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aeplus.commands.configs import expand_configs
from aeplus.commands.main import main
from aeplus.data.readers import read_requests
from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.run.resume import Resume
from aeplus.utils.jsonl import read_json
from journals import fit
from small import records

PICKLE = b"cos\nsystem\n(S'touch pwned'\ntR."
RECORD = records()[0]


def line(record: Any) -> bytes:
    return json.dumps(record).encode() + b"\n"


EDITS: dict[str, bytes] = {
    "empty.jsonl": b"",
    "binary.jsonl": bytes(range(256)),
    "pickle.jsonl": PICKLE,
    "deep.jsonl": b"[" * 100_000,
    "number.jsonl": b"3\n",
    "null.jsonl": b"null\n",
    "huge.jsonl": b'{"prompt": ' + b"9" * 6000 + b"}",
    "half.jsonl": line(RECORD)[:20],
    "surrogate.jsonl": line({**RECORD, "subject": "\ud800"}),
    "no-slot.jsonl": line({**RECORD, "prompt": "nothing"}),
    "lists.jsonl": line({**RECORD, "subject": ["a", "b"]}),
    "long.jsonl": line({**RECORD, "prompt": "word " * 10_000 + "{}"}),
    "cut.gz": gzip.compress(line(RECORD))[:-6],
    "not.gz": b"\x1f\x8b\x08xxxx",
    "not.parquet": b"PAR1xxxxPAR1",
}
CONFIGS: dict[str, bytes] = {
    "binary.yaml": bytes(range(256)),
    "code.yaml": b"model: !!python/object/apply:os.system [touch pwned]\n",
    "class.yaml": b"trainer: {callbacks: [{class_path: os.system, init_args: {command: touch pwned}}]}\n",
    "list.yaml": b"[1, 2]\n",
    "other.yaml": b"no_such_option: 3\n",
    "deep.yaml": b"{a: " * 1000 + b"1" + b"}" * 1000,
}
TEXTS: dict[str, bytes] = {
    "empty.txt": b"",
    "short.txt": b"word",
    "not.bz2": b"BZh9xxxx",
    "bomb.xml": (
        b"<!DOCTYPE l [<!ENTITY a 'xxxxxxxxxx'>"
        + b"".join(b"<!ENTITY b%d '%s'>" % (i, (b"&b%d;" % (i - 1) if i else b"&a;") * 10) for i in range(9))
        + b"]><mediawiki><page><revision><text>&b8;</text></revision></page></mediawiki>"
    ),
}
OPTIONS = {
    "--data.path": EDITS,
    "--data.preserved": {name: EDITS[name] for name in ("empty.jsonl", "binary.jsonl", "no-slot.jsonl")},
    "--data.validation": {name: EDITS[name] for name in ("empty.jsonl", "number.jsonl", "half.jsonl", "null.jsonl")},
    "--config": CONFIGS,
    "--model.preserved.corpus": TEXTS,
    "--model.model": {"x.gguf": b"GGUF" + b"x" * 99, "empty.gguf": b""},
    "--ckpt_path": {"text.ckpt": b"hello", "pickle.ckpt": PICKLE, "empty.ckpt": b""},
    "--model.journal": {"a-file": b"hello"},
}
CASES = [(option, name) for option, files in OPTIONS.items() for name in files]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["aeplus"])
    return tmp_path


@pytest.mark.parametrize(("option", "name"), CASES, ids=[f"{option[2:]}={name}" for option, name in CASES])
def test_every_damaged_input_of_fit_is_refused_in_a_sentence(
    workplace: Path, place: Path, capfd: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    (place / "given").mkdir()
    (place / "given" / name).write_bytes(OPTIONS[option][name])
    before = tree(place / "given"), tree(workplace)
    try:
        status = main(["fit", f"--config={workplace}/tiny.yaml", option, f"given/{name}"])
    except SystemExit as stop:  # the parser's own errors
        status = int(stop.code or 0)
    said = capfd.readouterr().err
    assert status == 2, said
    assert "Traceback" not in said
    assert "error: " in said
    assert (tree(place / "given"), tree(workplace)) == before
    assert not list(place.rglob("pwned"))
    assert not list(place.glob("lightning_logs/edits/*"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_names_do_not_lead_out_of_the_folder(
    workplace: Path, place: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A method or a record may be called anything; files get names of their own."""
    record = {**RECORD, "id": name}
    (place / "edits.jsonl").write_bytes(line(record))
    inside = place / "inside"
    inside.mkdir()
    before = tree(place)
    options = [f"--config={workplace}/tiny.yaml", f"--data.path={place}/edits.jsonl", f"--model.method.name={name}"]
    assert main(["inspect", *options, "--no-targets", f"--out={inside}/report"]) == 0, capfd.readouterr().err
    after = tree(place)
    new = {path for path in after if path not in before and not path.startswith("cache/")}
    assert new
    assert all(path.startswith("inside/") for path in new)
    assert all(after[path] == content for path, content in before.items())


# ---- fuzz


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with a few bytes changed, dropped, doubled or cut off."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(max(1, len(changed)))
        kind = draw.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at : at + draw.randint(1, 30)]
        elif kind == 2:
            changed[at:at] = changed[at : at + draw.randint(1, 30)]
        elif kind == 3:
            changed[at:at] = draw.choice(
                [b"[" * 50, b"{", b"null", b"\x00", b"\xff", b"1e999", b"-", b'"', b"&a *a", b"!!"]
            )
        else:
            changed = changed[:at]
    return bytes(changed)


def read_config(path: Path) -> None:
    """As ``fit`` reads one, up to its values."""
    expand_configs([f"--config={path}"])
    try:
        yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (yaml.YAMLError, ValueError, TypeError) as error:  # jsonargparse reports these
        raise InputError(str(error)) from error


def read_checkpoint(path: Path) -> None:
    """As ``fit --ckpt_path`` reads one."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(str(error)) from error
    Resume.from_checkpoint(content, path, {})


@pytest.fixture(scope="module")
def fuzzed(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """A whole file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("fuzz")
    run = fit(workplace, folder, "alphaedit_plus")
    counterfact = {
        "requested_rewrite": {
            "prompt": "{} is in",
            "subject": "Rome",
            "target_new": {"str": "Spain"},
            "relation_id": "P1",
        },
        "paraphrase_prompts": ["Where is Rome? In"],
        "neighborhood_prompts": ["Paris is in"],
    }
    (folder / "counterfact.json").write_text(json.dumps([counterfact] * 3))
    shutil.copy(workplace / "edits.jsonl", folder / "plain.jsonl")
    shutil.copy(workplace / "tiny.yaml", folder / "tiny.yaml")
    verify = lambda path: Journal.open(path.parent).verify()  # noqa: E731
    return {
        "plain": (folder / "plain.jsonl", read_requests),
        "counterfact": (folder / "counterfact.json", read_requests),
        "json": (folder / "counterfact.json", read_json),
        "config": (folder / "tiny.yaml", read_config),
        "header": (run / "journal" / "journal.json", verify),
        "record": (run / "journal" / "000002.json", verify),
        "tensors": (run / "journal" / "000002.safetensors", verify),
        "checkpoint": (run / "checkpoints" / "3-batches.ckpt", read_checkpoint),
    }


KINDS = ["plain", "counterfact", "json", "config", "header", "record", "tensors", "checkpoint"]


def fuzz(path: Path, read: Callable[[Path], Any], seeds: range) -> int:
    """How many of some damaged forms of a file were refused; anything but an InputError is a failure."""
    whole, refused = path.read_bytes(), 0
    try:
        for seed in seeds:
            path.write_bytes(damaged(whole, random.Random(seed)))
            try:
                read(path)
            except InputError:
                refused += 1
    finally:
        path.write_bytes(whole)
    read(path)
    return refused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_read(fuzzed: Any, kind: str) -> None:
    path, read = fuzzed[kind]
    refused = fuzz(path, read, range(25))
    # What carries a digest is refused whenever anything has changed.
    assert refused >= {"header": 24, "record": 24, "tensors": 24, "checkpoint": 20}.get(kind, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_at_length(fuzzed: Any, kind: str) -> None:
    path, read = fuzzed[kind]
    assert fuzz(path, read, range(1000, 1250)) > 0  # 2,000 cases in all
