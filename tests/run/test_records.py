"""The records of edits.jsonl."""

from aeplus.run.records import conflict_order


def test_the_most_conflicting_come_first_whatever_the_scales() -> None:
    assert conflict_order([0.1, 0.9, 0.5], [10.0, 30.0, 20.0]) == [1, 2, 0]
    assert conflict_order([0.2, 0.1, 0.3], [900.0, 1.0, 2.0]) == [0, 2, 1]  # a tie of ranks: the previous edit first
    assert conflict_order([0.5, 0.5], [1.0, 2.0]) == [1, 0]
    assert conflict_order([0.1, 0.2], [None, None]) == [1, 0]
    assert conflict_order([]) == []
