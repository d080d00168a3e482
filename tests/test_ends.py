"""How every command ends, and its status: the table of docs/outputs.md."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from aeplus.commands.arguments import COMMANDS
from aeplus.commands.main import main
from journals import fit
from small import ROOT, records

SIGNALS = {signal.SIGINT: (130, "aeplus: interrupted"), signal.SIGTERM: (143, "aeplus: terminated")}
# The least that each command's parser takes.
WORDS = {
    "capabilities": "--model=x --data=x",
    "build-alphaset": "--edits=x --k0=x --model=x --layers=1 --out=x",
    "build-stream": "--kind=plain --data.path=x --out=x",
    "build-validation": "--edits=x --out=x",
    "cases": "--runs x",
    "experiment": "table4",
    "show": "x 1",
    "apply": "x --out=x",
    "undo": "x 1",
    "export": "x --format=delta --out=x",
    **dict.fromkeys(("log", "verify", "report"), "x"),
}


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process answers SIGTERM as the command line does."""
    from aeplus.commands.main import _terminate

    monkeypatch.setattr(sys, "argv", ["aeplus"])
    handler = signal.signal(signal.SIGTERM, _terminate)
    yield
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores a second Ctrl-C


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize("sent", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_and_sigterm_in_every_command(
    name: str, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]
    module = import_module(f"aeplus.commands.{command.module}")
    monkeypatch.setattr(module, command.function, lambda *_: os.kill(os.getpid(), sent))
    status, text = SIGNALS[sent]
    assert main([name, *WORDS.get(name, "").split()]) == status
    assert capsys.readouterr().err.strip() == text


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize("sent", SIGNALS)
@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("fit", "aeplus.module.load_named"),  # inside the trainer
        pytest.param("validate", "aeplus.module.load_named", marks=pytest.mark.slow),
        ("validate", "aeplus.run.session.EditSession.validate"),
        pytest.param(
            "compare --methods=memit --out=new", "aeplus.commands.compare.command.load_named", marks=pytest.mark.slow
        ),
        ("compare --methods=memit --out=new", "aeplus.run.session.EditSession.begin"),
        ("experiment table4 --out=new", "aeplus.run.session.EditSession.begin"),
        ("tune --out=new.yaml", "aeplus.run.session.EditSession.begin"),
    ],
)
def test_ctrl_c_and_sigterm_while_a_trainer_runs(
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    where: str,
    sent: signal.Signals,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(where, lambda *_: os.kill(os.getpid(), sent))
    status, text = SIGNALS[sent]
    name, *more = words.split()
    assert main([name, f"--config={workplace}/tiny.yaml", *more]) == status
    said = capsys.readouterr().err
    assert text in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.fixture(scope="module")
def long_journal(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose entries are longer than what a pipe holds."""
    folder = tmp_path_factory.mktemp("long")
    many = [
        {**record, "rephrase": [f"{'very ' * 15}long {i} {record['subject']}" for i in range(600)]}
        for record in records()[:1]
    ]
    (folder / "edits.jsonl").write_text("".join(json.dumps(record) + "\n" for record in many))
    return fit(workplace, folder, "memit", f"--data.path={folder}/edits.jsonl", "--data.validation_share=0")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("show {run} 1 --json", id="show"),
        pytest.param("log {run} --edits", id="log", marks=pytest.mark.slow),
        pytest.param("--help", id="help"),
        pytest.param("fit --help", id="fit", marks=pytest.mark.slow),
    ],
)
def test_nobody_reads_on(long_journal: Path, words: str) -> None:
    """Like ``| head -c 1``, on both streams, with the reader gone before anything is written."""
    read, write = os.pipe()
    os.close(read)
    code = "from aeplus.commands.main import entry_point; entry_point()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.format(run=long_journal).split()],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_nobody_reads_what_a_run_reports(workplace: Path, tmp_path: Path) -> None:
    """Progress and errors go nowhere, the run goes on and is saved."""
    read, write = os.pipe()
    os.close(read)
    code = "from aeplus.commands.main import entry_point; entry_point()"
    words = ["fit", f"--config={workplace}/tiny.yaml", f"--config={ROOT}/configs/method/memit.yaml", "--data.limit=3"]
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=write, stderr=write, cwd=tmp_path, check=False)
    os.close(write)
    assert done.returncode == 0
    (metrics,) = tmp_path.rglob("metrics.json")
    assert json.loads(metrics.read_text())["edits_done"] == 3


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (
            "fit --model.method.smooth=true --trainer.max_epochs=1",
            2,
            "expected to reach the end of the 7 edits, got 0, as something such as",
        ),
        ("fit --trainer.max_steps=1", 2, "expected to reach the end of the 7 edits, got"),
        ("fit --trainer.max_time=00:00:00:00", 2, "expected to reach the end of the 7 edits, got 0"),
        (
            "tune --out=new.yaml --trainer.max_time=00:00:00:00",
            2,
            "expected every trial to commit and validate its batch",
        ),
        (
            "compare --methods=memit --out=new --trainer.max_steps=1 --data.batch_size=1",
            2,
            "memit, seed 0 failed: ended after 1 of 7 edits",
        ),
    ],
)
def test_what_ends_a_run_early_leaves_no_result(
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    status: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["aeplus"])
    name, *more = words.split()
    assert main([name, f"--config={workplace}/tiny.yaml", "--config=method/alphaedit_plus", *more]) == status
    said = capsys.readouterr()
    assert text in (said.out if name == "compare" else said.err)  # compare prints a table
    for metrics in tmp_path.rglob("metrics.json"):
        content = json.loads(metrics.read_text())
        assert content["edits_done"] < content["edits"]
    assert not (tmp_path / "new.yaml").exists()
    assert not list(tmp_path.rglob("result.json"))
