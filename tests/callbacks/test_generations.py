from typing import Any

import pytest

import aeplus
from aeplus.callbacks import GenerationWriter
from small import LEARNING
from tiny import tiny_model, tiny_tokenizer

EDITS = [
    {"prompt": "The capital of {} is", "subject": "France", "target_new": "Rome"},
    {"prompt": f"{'Rome ' * 40}{{}} is", "subject": "Spain", "target_new": "Rome"},
]


@pytest.mark.parametrize(("length", "shown"), [(4, ["France", "Spain"]), (100, ["France"]), (127, [])])
def test_edits_without_room_to_generate_are_not_shown(
    length: int, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {**LEARNING, "smooth": False, "callbacks": [GenerationWriter(length=length)]}
    aeplus.edit(tiny_model(), tiny_tokenizer(), EDITS, "memit", **options)
    printed = capsys.readouterr().out
    assert [name for name in ("France", "Spain") if name in printed] == shown
