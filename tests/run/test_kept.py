"""Statistics that hold only the directions outside the null space: the same edits, less memory and disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import aeplus
from aeplus.errors import InputError
from aeplus.preserved import stored
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

OPTIONS = {**LEARNING, "batch_size": 3, "contexts": 1, "smoothing_steps": 2}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))
    return tmp_path


def edited(method: str, keep: str, **more: object) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    model = tiny_model("llama")
    result = aeplus.edit(model, tiny_tokenizer(), records(), method, keep=keep, **{**OPTIONS, **more})
    return {name: weight.clone() for name, weight in model.state_dict().items()}, result.metrics


@pytest.mark.parametrize("method", ["alphaedit", "alphaedit_plus", "alphaedit_plus_paper", "rect"])
def test_edits_are_the_same(cache: Path, method: str) -> None:
    filters = {"filter": "priced", "relax": "none"} if method == "rect" else {}
    outside, measured = edited(method, "outside", **filters)
    files = {path.name: path.stat().st_size for path in cache.rglob("layer_*")}
    assert all("outside_0.8_dimensions" in name for name in files)
    everything, expected = edited(method, "all", **filters)
    sizes = {path.name: path.stat().st_size for path in cache.rglob("layer_?.safetensors")}
    assert sum(files.values()) < sum(sizes.values())
    for name, weight in everything.items():
        torch.testing.assert_close(outside[name], weight, atol=1e-5, rtol=1e-4)
    assert measured["after"] == expected["after"]
    assert outside.keys() == everything.keys()
    leaked, whole = measured["leakage"], expected["leakage"]
    assert leaked == pytest.approx(whole, rel=1.0)  # type: ignore[arg-type]  # of one size, not the same
    again, _ = edited(method, "outside", **filters)  # now the whole file is there too
    assert all(torch.equal(again[name], weight) for name, weight in outside.items())


def test_what_is_kept_is_the_share_that_lies_outside(cache: Path) -> None:
    """A tenth of the directions and a few sampled keys: at most 12 % of the numbers of C."""
    width = 640
    model = tiny_model("llama", intermediate_size=width)
    options = {**OPTIONS, "threshold": 0.9, "sample": 8}
    aeplus.edit(model, tiny_tokenizer(), records()[:1], "alphaedit", keep="outside", **options)
    files = list(cache.rglob("layer_*.safetensors"))
    assert len(files) == 2
    for path in files:
        tensors = load_file(path)
        assert tensors["vectors"].shape == (width, width // 10)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 0.12 * 4 * width**2


def test_facts_are_added_to_the_whole(cache: Path) -> None:
    fact = {"prompt": "The capital of {} is", "subject": "Peru", "target_new": "Lima"}
    outside, _ = edited("alphaedit", "outside", preserve=[fact])
    everything, _ = edited("alphaedit", "all", preserve=[fact])
    for name, weight in everything.items():
        torch.testing.assert_close(outside[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("method", "got"), [("encore", "filter: soft"), ("kde", "update: gradient")])
def test_methods_that_need_the_null_space(cache: Path, method: str, got: str) -> None:
    text = f"expected filter null_space or priced for preserved.keep: outside, got {got}, which needs"
    with pytest.raises(InputError, match=text):
        edited(method, "outside")
    with pytest.raises(InputError, match=r"expected preserved\.keep all or outside, got 'none'"):
        edited(method, "none")


def test_the_whole_is_read_once_for_a_part(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited("alphaedit", "all")
    read: list[str] = []
    original = stored.load_tensors

    def load(path: Path, *rest: Any) -> Any:
        read.append(path.name)
        return original(path, *rest)

    monkeypatch.setattr(stored, "load_tensors", load)
    first, _ = edited("alphaedit", "outside")
    assert read == ["layer_1.safetensors", "layer_2.safetensors"]
    read.clear()
    again, _ = edited("alphaedit", "outside")
    assert read == [f"layer_{layer}.outside_0.8_dimensions.safetensors" for layer in (1, 2)]
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
