"""Files and folders are written whole or not at all, and nothing of the user's is replaced."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.utils.jsonl import write_json
from aeplus.utils.paths import MARK, check_output, locked, sweep, whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- whole or not at all


def test_a_file_that_is_cut_short_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, "old")

    def half() -> None:
        with whole_file(path) as scratch:
            scratch.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == '"old"\n'
    assert names(tmp_path) == [MARK, "x.json"]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with whole_folder(folder) as scratch:
        scratch.mkdir()
        (scratch / "old").write_text("old")

    def full() -> None:
        with whole_folder(folder) as scratch:
            scratch.mkdir()
            raise OSError(28, "No space left on device")

    text = r"expected to write .*model, got an error \(No space left on device\); free space there"
    with pytest.raises(InputError, match=text):
        full()
    assert (folder / "old").read_text() == "old"
    assert names(tmp_path) == [MARK, "model"]


def test_an_old_folder_gets_its_place_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, moved, replace = tmp_path / "model", [0], os.replace
    with whole_folder(folder) as scratch:
        scratch.mkdir()
        (scratch / "old").write_text("old")

    def write(failing: set[int]) -> None:
        moved[0] = 0

        def full(source: Path, target: Path) -> None:
            moved[0] += 1
            if moved[0] in failing:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", full)
        with whole_folder(folder) as scratch:
            scratch.mkdir()
            (scratch / "new").write_text("new")

    with pytest.raises(InputError, match="No space left"):
        write({3})  # after the mark and the old one's move
    assert (folder / "old").read_text() == "old"
    with pytest.raises(InputError, match="No space left"):
        write({3, 4})  # and it cannot be put back either: the next that writes there does
    assert not folder.exists()
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("aeplus.utils.paths._alive", lambda _: False)
    sweep(tmp_path)
    assert (folder / "old").read_text() == "old"
    assert names(tmp_path) == [MARK, "model"]


def test_a_folder_in_which_an_input_lies_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "written"
    with whole_folder(folder) as scratch:
        (scratch / "inner").mkdir(parents=True)
    check_output(folder, "--out", [tmp_path / "elsewhere"], folder=True)
    with pytest.raises(InputError, match=r"--out a path that is not an input, got .*written; choose another"):
        check_output(folder, "--out", [folder / "inner"], folder=True)


def test_another_hosts_scratch_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aeplus.utils.paths._SCRATCH", ".aeplus-node+")
    monkeypatch.setattr("aeplus.utils.paths._alive", lambda _: False)
    for name in (".aeplus-node-99999+4242-x", ".aeplus-node+4242-x"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == [".aeplus-node-99999+4242-x"]


def test_what_is_written_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths))[1])
    with whole_file(tmp_path / "x", mark=False) as scratch:
        scratch.write_text("x")
    assert done == ["sync", "rename", "sync"]  # the file, then its name


# ---- nothing of the user's


def test_a_file_of_the_users_is_kept_unless_they_say_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("mine")
    with pytest.raises(
        InputError, match=r"expected a new file, or one that aeplus wrote, got .*mine.json, which exists"
    ):
        write_json(path, 1)
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["mine.json"]
    write_json(path, 1, overwrite=True, mark=False)
    assert path.read_text() == "1\n"
    assert names(tmp_path) == ["mine.json"]


def test_what_aeplus_wrote_may_be_replaced(tmp_path: Path) -> None:
    for value in (1, 2):
        write_json(tmp_path / "ours.json", value)
        write_json(tmp_path / "other.json", value)
    assert (tmp_path / "ours.json").read_text() == "2\n"
    assert names(tmp_path) == [MARK, "other.json", "ours.json"]


def test_what_takes_the_place_of_an_output_is_the_users(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, 1)
    write_json(path, 2)
    path.write_text("mine")
    with pytest.raises(InputError, match=r"expected a new file, .* got .*x.json, which was changed since; choose"):
        write_json(path, 3)
    assert path.read_text() == "mine"
    path.write_text("2\n")  # as it was written
    write_json(path, 3)
    assert path.read_text() == "3\n"


def test_a_folder_with_something_of_the_users_in_it_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def write() -> None:
        with whole_folder(folder) as scratch:
            (scratch / "inner").mkdir(parents=True)
            (scratch / "inner" / "weights").write_text("w")

    write()
    write()
    (folder / "inner" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"expected a new folder, .* got .*model, which was changed since; choose"):
        write()
    (folder / "inner" / "notes.txt").unlink()
    write()
    for mine in (folder / "empty", folder / "link"):
        mine.mkdir() if mine.name == "empty" else mine.symlink_to("nowhere")
        with pytest.raises(InputError, match="which was changed since"):
            write()
        mine.rmdir() if mine.name == "empty" else mine.unlink()
    write()
    (folder / "inner" / "weights").write_text("v")  # of the same size
    with pytest.raises(InputError, match="which was changed since"):
        write()


def test_a_process_killed_before_or_after_the_name_leaves_a_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "x.json", os.replace
    write_json(path, 1)

    def killed(source: Path, target: Path) -> None:
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, 2)
    monkeypatch.setattr(os, "replace", replace)
    check_output(path)
    path.write_text("2\n")
    check_output(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"written": "x.json"}',
        '{"written": ["x.json"]}',
        '{"written": {"x.json": 1}}',
        "\x00",
    ],
)
def test_a_damaged_mark_makes_nothing_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / MARK).write_text(content)
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(InputError, match="which exists"):
        write_json(tmp_path / "x.json", 1)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: p.mkdir(), "expected --out a file to write, got the folder"),
        (lambda p: p.symlink_to("elsewhere"), "expected --out a plain path to write, got the link"),
        (lambda p: os.mkfifo(p), "expected --out a file to write, got the device"),
        (lambda p: p.write_text("mine"), "which exists; choose another, or add --overwrite."),
    ],
)
def test_what_stands_in_the_way(tmp_path: Path, make: Callable[[Path], object], text: str) -> None:
    path = tmp_path / "out"
    make(path)
    with pytest.raises(InputError, match=text):
        check_output(path, "--out")
    assert names(tmp_path) == ["out"]


def test_links_devices_and_inputs_are_not_even_overwritten(tmp_path: Path) -> None:
    edits, link = tmp_path / "edits.jsonl", tmp_path / "link"
    edits.write_text("mine")
    link.symlink_to(edits)
    for path, inputs in ((edits, [edits]), (link, []), (tmp_path / "x" / ".." / "edits.jsonl", [str(edits)])):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"not an input|the link"):
            check_output(path, "--out", inputs, overwrite=True)
    with pytest.raises(InputError, match="the device /dev/null"):
        check_output(Path("/dev/null"), "--out", overwrite=True)
    assert edits.read_text() == "mine"


def test_a_place_below_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        InputError, match=r"a place that can be written for --out, got .*below; check the permissions of .*file"
    ):
        check_output(tmp_path / "file" / "below", "--out")


# ---- commands


COMMANDS = {
    "build-validation": ["--edits", "{edits}", "--k0", "{edits}", "--out"],
    "cases": ["--runs", "nothing", "--out"],
    "capabilities": ["--model", "nothing", "--data", "nothing", "--out"],
    "tune": ["--model.model", "nothing", "--data.path", "{edits}", "--out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_touches_what_it_did_not_write(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    edit = '{"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome"}\n'
    (tmp_path / "edits.jsonl").write_text(edit)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to("folder")
    words = [command, *(word.format(edits="edits.jsonl") for word in COMMANDS[command])]
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    for out in ("folder", "link", "edits.jsonl", "/dev/stdout"):
        assert main([*words, out]) == 2
        assert main([*words, out, "--overwrite"]) == 2
        assert "expected" in capsys.readouterr().err
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_without_a_logger_spares_the_model_it_would_replace(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    save = "[{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true}}]"
    words = ["fit", f"--config={workplace}/tiny.yaml", "--trainer.logger=false", f"--trainer.callbacks={save}"]
    assert main(words) == 2
    assert "expected for the run a new folder, or one that aeplus wrote, got " in capsys.readouterr().err
    assert names(tmp_path / "model") == ["mine.txt"]


# ---- two at once


def test_a_lock_keeps_two_runs_apart(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from aeplus.utils.paths import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(
            InputError, match=r"expected a folder for --out that no other run writes to, got .*, in use by another run"
        ):
            locked(tmp_path).__enter__()
        other.kill()
    for _ in range(50):  # a lock goes with its process
        try:
            with locked(tmp_path):
                return
        except InputError:
            time.sleep(0.1)
    pytest.fail("the lock outlived its process")
