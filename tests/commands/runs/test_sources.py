"""Which source files of the user's own count among what a run's result depends on."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aeplus.commands.runs.cache import settings_digest
from aeplus.commands.runs.sources import own_sources
from aeplus.methods.parts import FILTERS, PRIORS, Prior
from aeplus.methods.registry import Part

PARTS = """
from aeplus.callbacks import EditCallback

def half(first, second):
    return second / 2

class Parts(EditCallback):
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the user's."""
    path = tmp_path / "parts_of_mine.py"
    path.write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop(path.stem, None)


def settings(callbacks: Any = None, **method: str) -> dict[str, Any]:
    shipped = {"class_path": "aeplus.callbacks.SmoothingStop"}
    return {
        "trainer": {"callbacks": [shipped, *(callbacks or [])]},
        "data": {"path": "edits.jsonl", "preserved": None, "validation": None, "snippet_corpus": None},
        "model": {"method": {"filter": "covariance", **method}, "preserved": {"facts": None, "corpus": None}},
    }


def test_a_callbacks_file_counts_by_its_content(own: Path) -> None:
    """Also in a process that has not imported it."""
    plain, mine = settings(), settings([{"class_path": "parts_of_mine.Parts"}])
    assert own_sources(plain) == []
    ((name, _),) = own_sources(mine)
    assert name == own.name
    before = [settings_digest(given, "fingerprint") for given in (plain, mine)]
    own.write_text(PARTS.replace("/ 2", "/ 3"))
    after = [settings_digest(given, "fingerprint") for given in (plain, mine)]
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("wrapped", [lambda own: own, lambda own: partial(own, None), lambda own: Prior(own)])
def test_a_part_from_outside_counts_where_it_is_chosen(
    own: Path, monkeypatch: pytest.MonkeyPatch, wrapped: Any
) -> None:
    """As in ``aeplus tune``, whose trials leave the callbacks out."""
    import parts_of_mine  # type: ignore[import-not-found]

    run = wrapped(parts_of_mine.half)
    kind, table = ("prior", PRIORS) if isinstance(run, Prior) else ("filter", FILTERS)
    monkeypatch.setitem(table, "half", Part(run))
    assert own_sources(settings()) == []
    ((name, _),) = own_sources(settings(**{kind: "half"}))
    assert name == own.name


def test_what_has_no_file_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILTERS, "built_in", Part(max))
    given = [{"class_path": "nowhere.Parts"}, {"class_path": "aeplus.callbacks.Nobody"}, {"class_path": "Parts"}]
    assert own_sources(settings(given, filter="built_in")) == []
