"""The table of differences, from runs whose hits are given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from aeplus.commands.compare import against
from aeplus.commands.compare.against import Against
from aeplus.commands.runs.outcome import Outcome
from aeplus.utils.jsonl import write_json

NONE: Mapping[str, float | None] = {"efficacy": None, "generalization": None, "specificity": None, "score": None}


def outcome(method: str, seed: int, error: str | None = None) -> Outcome:
    return Outcome(method, seed, NONE, NONE, None, None, 0.0, error)


@pytest.fixture
def folders(tmp_path: Path) -> dict[tuple[str, int], Path]:
    """Of method ``a`` the first of two edits holds, of ``b`` both, of ``c`` none."""
    found = {}
    for method, hits in (("a", [1, 0]), ("b", [1, 1]), ("c", [0, 0])):
        for seed in (0, 1):
            folder = found[method, seed] = tmp_path / method / str(seed)
            folder.mkdir(parents=True)
            hit = {"efficacy": {"edits": [0, 1], "hits": hits, "prompts": [1, 1]}}
            write_json(folder / "metrics.json", {"hits": hit})
    return found


def test_every_other_method_over_the_seeds_that_both_have(
    folders: dict[tuple[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    difference = against.score_difference

    def counted(*runs: Any, **more: Any) -> Any:
        asked.append(len(runs[0]))
        return difference(*runs, **more)

    monkeypatch.setattr(against, "score_difference", counted)
    table = Against("a", folders)
    outcomes = [outcome(method, seed) for method, seed in folders]
    assert table.rows(outcomes[:3], ["a", "b", "c"]) == [["b", "+50.0", "+0.0 to +100.0", "1"]]
    rows = table.rows(outcomes, ["a", "b", "c"])
    assert [[row[0], row[1], row[3]] for row in rows] == [["b", "+50.0", "2"], ["c", "-50.0", "2"]]
    assert table.rows(outcomes, ["a", "b", "c"]) == rows
    assert asked == [1, 2, 2]  # found once
    failed = [*outcomes[:5], outcome("c", 1, "broken")]
    assert table.rows(failed, ["a", "b", "c"])[1][3] == "1"
    assert "Against a:" in table.markdown(outcomes, ["a", "b", "c"])
    assert Against(None, folders).markdown(outcomes, ["a", "b", "c"]) == ""


def test_seeds_that_share_their_edits_are_drawn_together(
    folders: dict[tuple[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    difference = against.score_difference

    def noted(*runs: Any, edits: list[str]) -> Any:
        asked.append(edits)
        return difference(*runs, edits=edits)

    monkeypatch.setattr(against, "score_difference", noted)
    outcomes = [outcome(method, seed) for method, seed in folders]
    for shuffle in (None, False, True):
        for (_, seed), folder in folders.items() if shuffle is not None else ():
            validation = {"validation": f"val_{seed}.jsonl", "preserved": f"facts_{seed}.jsonl", "neighbors": seed}
            data = {"path": "edits.jsonl", "seed": seed, "shuffle": shuffle, **validation}  # which edits no less
            (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
        Against("a", folders).rows(outcomes, ["a", "b"])
    assert [len(set(edits)) for edits in asked] == [2, 1, 2]
