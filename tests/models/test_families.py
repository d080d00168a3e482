"""The table of families in docs/models.md is what edits of tiny random models come to."""

from pathlib import Path

import pytest

from families import CONFIGS, END, HEADER, START, family_row

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
QUICK = ["llama", "opt", "granite", "gemma2", "qwen3_5_text", "mixtral"]


def documented() -> dict[str, list[str]]:
    """The table's cells by family."""
    table = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[0] == HEADER
    return {row[0]: row for row in rows[2:]}


def compare(kind: str) -> None:
    row, expected = family_row(kind), documented()[kind]
    cells = row.cells()
    assert [cells[i] for i in (0, 1, 2, 3, 6)] == [expected[i] for i in (0, 1, 2, 3, 6)]
    if row.verdict == "edited":  # another machine rounds otherwise
        assert row.replay is not None
        assert row.replay < 1e-2
        assert row.left is not None
        assert row.left <= 0.05


@pytest.mark.parametrize("kind", QUICK)
def test_documented_families(kind: str) -> None:
    compare(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in QUICK])
def test_every_documented_family(kind: str) -> None:
    compare(kind)


def test_every_family_is_documented_once() -> None:
    assert list(documented()) == list(CONFIGS)
    edited = [row for row in documented().values() if row[6] == "edited"]
    assert len(edited) >= 60
    assert all(row[5].startswith("< ") for row in edited)
