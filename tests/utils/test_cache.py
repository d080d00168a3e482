from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aeplus.errors import InputError
from aeplus.utils.cache import digest, load_tensors, save_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(3).bfloat16()}


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.safetensors"
    written = save_tensors(path, {**TENSORS, "transposed": TENSORS["a"].T}, {"identity": "1", "tokens": "3"})
    tensors, metadata = load_tensors(path, ["b", "transposed"], {"identity": "1"}, "values")
    assert metadata == {"identity": "1", "tokens": "3", "digest": written}
    assert list(tensors) == ["b", "transposed"]
    assert tensors["b"].dtype == torch.bfloat16
    assert torch.equal(tensors["transposed"], TENSORS["a"].T)
    assert [file.name for file in path.parent.iterdir()] == ["file.safetensors"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("harm", [Path.unlink, _truncate, lambda path: path.write_bytes(b"other")])
def test_an_unreadable_file_is_refused(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, {})
    harm(path)
    with pytest.raises(InputError, match=r"expected values in .*, got a file that cannot be read \(.*\); delete it"):
        load_tensors(path, ["a"], {}, "values")


def test_another_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, {"identity": "1"})
    with pytest.raises(InputError, match=r"expected values in .*, got a file without c; delete it and run again"):
        load_tensors(path, ["c"], {}, "values")
    for identity in ({"identity": "2"}, {"identity": "1", "more": ""}):
        with pytest.raises(InputError, match=r"expected values in .*, got those of another; delete the file"):
            load_tensors(path, ["a"], identity, "values")


def test_digests_depend_on_everything_but_the_order() -> None:
    assert digest({"a": 1, "b": Path("x")}) == digest({"b": "x", "a": 1}) != digest({"a": 1, "b": "y"})
    assert len(digest(1)) == 32


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"expected values in .*, got a damaged file \(its digest differs\); delete it"
    ):
        load_tensors(path, ["a"], {}, "values")
