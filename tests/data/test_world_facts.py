"""The facts that gensim ships, as a source of edits."""

from pathlib import Path

import pytest

from aeplus.data import world_facts as module
from aeplus.data.readers import read_requests
from aeplus.data.world_facts import RELATIONS, SOURCE, compose_facts, read_pairs, world_facts
from aeplus.errors import InputError

SECTIONS = {
    "capital-world": {"Paris": "France", "Madrid": "Spain", "Rome": "Italy"},
    "currency": {"France": "franc", "Poland": "zloty"},
    "city-in-state": {"Chicago": "Illinois", "Houston": "Texas"},
}


def test_read_pairs(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(": a-b\nAthens Greece Oslo Norway\nOslo Norway Rome Italy\n\n: c\nx y z w\n", "utf-8")
    assert read_pairs(path) == {
        "a-b": {"Athens": "Greece", "Oslo": "Norway", "Rome": "Italy"},
        "c": {"x": "y", "z": "w"},
    }


def test_a_record() -> None:
    records = {record["id"]: record for record in compose_facts(SECTIONS)}
    assert len(records) == 7
    france = records["capital-france"]
    assert france["prompt"] == "The capital of {} is"
    assert france["target_true"] == "Paris"
    assert france["target_new"] in ("Madrid", "Rome")
    assert france["statements"] == [
        "In France, the capital is",
        "The country of France is governed from its capital,",
    ]
    assert sorted(france["neighborhood"][:2]) == ["The capital of Italy is", "The capital of Spain is"]
    assert france["neighborhood"][2:] == ["The unit of currency in France is the"]
    assert records["state-chicago"]["target_new"] == "Texas"


def test_the_file_of_gensim() -> None:
    pytest.importorskip("gensim")
    edits = read_requests(SOURCE)
    assert len(edits) == 254
    assert {edit.prompt for edit in edits} == {relation.prompt for relation in RELATIONS}
    assert len({edit.id for edit in edits}) == 254
    assert all(edit.statements and edit.neighborhood and edit.target_true != edit.target_new for edit in edits)
    assert world_facts() == world_facts()


def test_gensim_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        msg = "expected gensim, got none; run: pip install gensim."
        raise InputError(msg)

    monkeypatch.setattr(module, "gensim_file", missing)
    with pytest.raises(InputError, match="pip install gensim"):
        read_requests(SOURCE)
