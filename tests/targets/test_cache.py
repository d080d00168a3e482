from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.targets import cache
from aeplus.targets.cache import TargetCache
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import BatchRows, batch_rows
from tiny import tiny_model, tiny_tokenizer

REQUESTS = [EditRequest("The capital of {} is", "France", "Rome"), EditRequest("{} speaks", "London", "French")]
OPTIONS = TargetOptions(steps=3, clamp=3.0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers of all calls that compute targets."""
    made: list[int] = []

    def counted(decoder: Decoder, rows: BatchRows, layer: int, *rest: object) -> Targets:
        made.append(layer)
        return find_targets(decoder, rows, layer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "find_targets", counted)
    return made


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(tiny_model("llama"))


def rows_of(*requests: EditRequest) -> BatchRows:
    return batch_rows(tiny_tokenizer(), requests or REQUESTS, ["", "You. "])


def equal(one: Targets, two: Targets) -> bool:
    return all(
        getattr(one, f.name).dtype == getattr(two, f.name).dtype
        and torch.equal(getattr(one, f.name), getattr(two, f.name))
        for f in fields(Targets)
    )


def test_computed_once_and_bit_for_bit_the_same(tmp_path: Path, decoder: Decoder, calls: list[int]) -> None:
    steps: list[int] = []
    first, seconds = TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS, lambda step, *_: steps.append(step))
    again, known = TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)
    assert calls == [1]
    assert steps == [1, 2, 3]
    assert equal(first, again)
    assert equal(first, find_targets(decoder, rows_of(), 1, OPTIONS))
    assert known == seconds > 0
    assert len(list(tmp_path.iterdir())) == 1


def _edit(decoder: Decoder) -> None:
    decoder.sites[0].weight[0, 0] += 1e-3


def _edit_config(decoder: Decoder) -> None:
    decoder.config.rms_norm_eps *= 2


@pytest.mark.parametrize("change", [_edit, _edit_config])
def test_another_model_has_other_targets(
    tmp_path: Path, decoder: Decoder, calls: list[int], change: Callable[[Decoder], None]
) -> None:
    TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)
    change(decoder)
    TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)
    assert calls == [1, 1]


@pytest.mark.parametrize(
    ("rows", "layer", "options"),
    [
        (rows_of(), 2, OPTIONS),
        (rows_of(), 1, replace(OPTIONS, clamp=2.0)),
        (rows_of(*reversed(REQUESTS)), 1, OPTIONS),
        (rows_of(REQUESTS[0], replace(REQUESTS[1], target_new="Italian")), 1, OPTIONS),
        (replace(rows_of(), prompts=[replace(row, answer=row.answer - 1) for row in rows_of().prompts]), 1, OPTIONS),
        (replace(rows_of(), prompts=[replace(row, mark=0) for row in rows_of().prompts]), 1, OPTIONS),
        (replace(rows_of(), essence=[replace(row, mark=0) for row in rows_of().essence]), 1, OPTIONS),
    ],
    ids=["layer", "option", "order", "target", "answer", "mark", "essence"],
)
def test_other_questions_have_other_targets(
    tmp_path: Path, decoder: Decoder, calls: list[int], rows: BatchRows, layer: int, options: TargetOptions
) -> None:
    TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)
    TargetCache(tmp_path).find(decoder, rows, layer, options)
    assert calls == [1, layer]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _foreign(path: Path) -> None:
    save_file({"other": torch.zeros(2)}, path)


def _without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def _of_other_edits(path: Path) -> None:
    other = TargetCache(path.parent / "other")
    other.find(Decoder(tiny_model("llama")), rows_of(REQUESTS[0]), 1, OPTIONS)
    (found,) = other.folder.iterdir()
    found.replace(path)


@pytest.mark.parametrize("harm", [_cut, _flip, _foreign, _without_metadata, _of_other_edits])
def test_damaged_files_are_replaced(
    tmp_path: Path, decoder: Decoder, calls: list[int], harm: Callable[[Path], None]
) -> None:
    first, _ = TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)
    (path,) = tmp_path.iterdir()
    harm(path)
    before = len(calls)
    again, _ = TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)
    assert len(calls) == before + 1
    assert equal(first, again)
    TargetCache(tmp_path).find(decoder, rows_of(), 1, OPTIONS)  # and is whole now
    assert len(calls) == before + 1
