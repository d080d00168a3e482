"""What a checkpoint or a journal refuses to be resumed with."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.run.committed.entries import Entry, plain_edit
from aeplus.run.committed.store import Store
from aeplus.run.resume import Resume, notes_of, seal

REQUESTS = [EditRequest("{} is in", "Paris", "Italy"), EditRequest("{} is in", "Rome", "France")]
SETTINGS = {"model": {"method": {"ridge": 1.0}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "1.ckpt"


def checkpoint(path: Path, batches: int = 1, weights: dict[str, str] | None = None) -> dict[str, Any]:
    """That of a run that edited layers 4 and 5, with its journal beside it."""
    header = {"fingerprint": "abc", "layers": [4, 5], "weights": weights or {}, "model": {"model": "gpt2"}}
    journal = Store.create(path.parent.parent / "journal", header)
    update = LowRankUpdate(torch.ones(2, 1), torch.ones(1, 3))
    entry = Entry([plain_edit(REQUESTS[0])], {4: update, 5: update}, {4: torch.ones(3, 1), 5: torch.ones(3, 1)}, {})
    for _ in range(batches):
        journal.append(entry, SETTINGS, {}, "run a")
    content = {"state_dict": {}, "global_step": 1, "aeplus": notes_of(journal, "run a", 1, SETTINGS)}
    content["aeplus"]["seal"] = seal(content)
    return content


def test_the_same_run_and_a_longer_stream_go_on(path: Path) -> None:
    content = checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume = Resume.from_checkpoint(content, path, SETTINGS)
    resume.check("gpt2", "abc", [4, 5], REQUESTS)
    resume.check_cursor(1)
    assert list(resume.entries[0].updates) == [4, 5]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"fingerprint": "abd"},
            "expected edits of the weights of gpt2, got edits of other weights; resume with the model",
        ),
        (
            {"layers": [4, 6]},
            r"expected model.layers \[4, 5\], which were edited before, got \[4, 6\]; resume with those",
        ),
        ({"requests": REQUESTS[::-1]}, "expected the 1 edit made before as the first ones of the data, got others"),
        ({"requests": []}, "expected the 1 edit made before as the first ones of the data, got others"),
    ],
)
def test_another_run_is_refused(path: Path, change: dict[str, Any], text: str) -> None:
    same = {"model": "gpt2", "fingerprint": "abc", "layers": [4, 5], "requests": REQUESTS}
    with pytest.raises(InputError, match=text):
        Resume.from_checkpoint(checkpoint(path), path, SETTINGS).check(**{**same, **change})


def test_edits_of_other_modules_are_refused(path: Path) -> None:
    content = checkpoint(path, weights={"a.4.weight": "", "a.5.weight": ""})
    resume = Resume.from_checkpoint(content, path, SETTINGS)
    resume.check("gpt2", "abc", [4, 5], REQUESTS, ["a.4.weight", "a.5.weight"])
    with pytest.raises(
        InputError, match=r"expected edits of b.4.weight, got some of a.4.weight, a.5.weight; set model.s"
    ):
        resume.check("gpt2", "abc", [4, 5], REQUESTS, ["b.4.weight"])


@pytest.mark.parametrize("cursor", [0, 2])
def test_a_wrong_cursor_would_edit_twice_or_not_at_all(path: Path, cursor: int) -> None:
    with pytest.raises(
        InputError, match=rf"expected to go on after the 1 edit of the journal, .* goes on after {cursor}"
    ):
        Resume.from_checkpoint(checkpoint(path), path, SETTINGS).check_cursor(cursor)


def test_other_settings_are_told(path: Path) -> None:
    with pytest.warns(UserWarning, match=r"was made with model.method.ridge = 1.0 and now it is 2.0"):
        Resume.from_checkpoint(checkpoint(path), path, {"model": {"method": {"ridge": 2.0}}})


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"aeplus": {"batches": []}}, [], {"aeplus": 3}])
def test_a_checkpoint_of_something_else(path: Path, content: Any) -> None:
    with pytest.raises(InputError, match="expected an aeplus checkpoint, got one without edits"):
        Resume.from_checkpoint(content, path, SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"), [("global_step", 2), ("state_dict", {"clock": torch.ones(1)}), ("loops", {"fit_loop": {}})]
)
def test_an_altered_checkpoint_is_refused(path: Path, name: str, value: Any) -> None:
    with pytest.raises(
        InputError, match=r"expected .*1.ckpt as it was written, got a damaged checkpoint; take another"
    ):
        Resume.from_checkpoint({**checkpoint(path), name: value}, path, SETTINGS)


@pytest.mark.parametrize("name", ["records", "head", "edits", "settings"])
def test_altered_notes_are_refused(path: Path, name: str) -> None:
    content = checkpoint(path)
    content["aeplus"][name] = 0
    with pytest.raises(InputError, match="got a damaged checkpoint"):
        Resume.from_checkpoint(content, path, SETTINGS)


def test_a_checkpoint_without_its_journal(path: Path) -> None:
    content = checkpoint(path)
    (path.parent.parent / "journal").rename(path.parent.parent / "elsewhere")
    with pytest.raises(
        InputError, match=r"expected the journal of .*1.ckpt in .*/journal, which holds the edits, got no"
    ):
        Resume.from_checkpoint(content, path, SETTINGS)


def test_a_run_that_was_moved_and_went_on(path: Path, tmp_path: Path) -> None:
    content = checkpoint(path, batches=2)  # the second was committed after this checkpoint
    content["aeplus"] |= {"records": 1, "head": Store.open(tmp_path).record(2).content["previous"]}
    content["aeplus"]["seal"] = seal(content)
    (tmp_path / "moved").mkdir()
    (tmp_path / "journal").rename(tmp_path / "moved" / "journal")
    resume = Resume.from_checkpoint(content, tmp_path / "moved" / "checkpoints" / "1.ckpt", SETTINGS)
    assert len(resume.entries) == resume.records == 1


def test_a_journal_that_edits_were_taken_out_of_since(path: Path, tmp_path: Path) -> None:
    content = checkpoint(path)
    Store.open(tmp_path).leave_out_last(1)
    with pytest.raises(InputError, match=r"got one that edits were taken out of since; go on from the journal instead"):
        Resume.from_checkpoint(content, path, SETTINGS)


@pytest.fixture
def behind(path: Path, tmp_path: Path) -> dict[str, Any]:
    """A checkpoint after the first of two batches of its run."""
    content = checkpoint(path, batches=2)
    content["aeplus"] |= {"records": 1, "head": Store.open(tmp_path).record(2).content["previous"]}
    content["aeplus"]["seal"] = seal(content)
    return content


def test_its_own_later_batches_may_be_taken_out_more_than_once(
    path: Path, tmp_path: Path, behind: dict[str, Any]
) -> None:
    resume = Resume.from_checkpoint(behind, path, SETTINGS)
    assert [record.number for record in resume.left_behind(tmp_path / "journal")] == [2]
    assert resume.left_behind(tmp_path / "another") == []
    Store.open(tmp_path).leave_out_last(1)  # a resumed run that was killed before its next checkpoint
    assert Resume.from_checkpoint(behind, path, SETTINGS).left_behind(tmp_path / "journal") == []


def test_edits_of_another_run_are_not_taken_out(path: Path, tmp_path: Path, behind: dict[str, Any]) -> None:
    journal = Store.open(tmp_path)
    entry = journal.entries()[0]
    journal.append(entry, SETTINGS, {}, "run b")
    resume = Resume.from_checkpoint(behind, path, SETTINGS)
    with pytest.raises(
        InputError,
        match=r"expected no edits of another run behind those of the checkpoint in the journal .*, got entry 3; leave",
    ):
        resume.left_behind(tmp_path / "journal")
    assert len(Store.open(tmp_path).active) == 3


def test_a_copied_journal_needs_the_old_folder_no_more(path: Path, tmp_path: Path) -> None:
    checkpoint(path, batches=2)
    resume = Resume(Store.open(tmp_path))
    resume.journal.chain.copy(tmp_path / "copy", 2)
    resume.move(tmp_path / "copy")
    shutil.rmtree(tmp_path / "journal")
    assert [entry.updates[5].dense().sum() for entry in resume.entries] == [6, 6]
