"""Digests: of every bit, name, shape and dtype, the same on every device and in every layout."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aeplus.utils import fingerprint
from aeplus.utils.fingerprint import tensors_digest, text_fingerprint, tokenizer_fingerprint
from counting import Operations
from tiny import tiny_tokenizer

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, -2])}


def test_it_depends_on_everything_but_the_order() -> None:
    assert len(tensors_digest(TENSORS)) == 32
    assert tensors_digest(TENSORS) == tensors_digest(dict(reversed(TENSORS.items())))
    others = [
        {"a": TENSORS["a"]},
        {**TENSORS, "a": TENSORS["a"].T},
        {**TENSORS, "b": TENSORS["b"].half()},
        {"c": TENSORS["a"], "b": TENSORS["b"]},
        {**TENSORS, "a": TENSORS["a"].reshape(3, 2)},
    ]
    assert len({tensors_digest(tensors) for tensors in (TENSORS, *others)}) == 6


def test_it_reads_a_view_as_its_copy() -> None:
    view = torch.randn(5, 4).T
    assert tensors_digest({"w": view}) == tensors_digest({"w": view.clone(memory_format=torch.contiguous_format)})


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_every_dtype_and_no_element_too(dtype: torch.dtype) -> None:
    ones, none = torch.ones(3, dtype=dtype), torch.ones(0, dtype=dtype)
    assert tensors_digest({"w": ones}) != tensors_digest({"w": torch.zeros(3, dtype=dtype)})
    assert tensors_digest({"w": none}) != tensors_digest({"w": none.view(0, 4)})
    assert tensors_digest({"w": ones[0]}) != tensors_digest({"w": ones[:1]})


@given(st.integers(0, 2**32 - 1))
def test_any_one_bit_changes_it(seed: int) -> None:
    draw = random.Random(seed)
    words = torch.randint(-(2**31), 2**31, (draw.randint(1, 9),), dtype=torch.int32)
    other = words.clone()
    other[draw.randrange(len(words))] ^= torch.tensor(1 << draw.randrange(31), dtype=torch.int32)
    assert tensors_digest({"w": words}) != tensors_digest({"w": other})


def test_two_words_or_two_chunks_changed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_WORDS", 4)
    fingerprint._factors.cache_clear()
    words = torch.arange(10.0)
    swapped = [words[[1, 0, *range(2, 10)]], words[[4, 5, 6, 7, 0, 1, 2, 3, 8, 9]]]
    assert len({tensors_digest({"w": w}) for w in (words, *swapped)}) == 3
    fingerprint._factors.cache_clear()


def test_the_sums_are_those_of_whole_numbers() -> None:
    words = torch.tensor([2**31 - 1, -5, 7], dtype=torch.int32)
    factors = fingerprint._factors(torch.device("cpu"))[:, :3].tolist()
    exact = [sum(w * f for w, f in zip(words.tolist(), row, strict=True)) % 2**64 for row in factors]
    assert [value % 2**64 for value in fingerprint._sums(words).flatten().tolist()] == exact


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_however_many_chunks_are_summed_at_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_WORDS", 4)
    fingerprint._factors.cache_clear()
    words = torch.arange(30, dtype=torch.int32)
    one_by_one = [
        (chunk.long() * fingerprint._factors(words.device)[:, : len(chunk)]).sum(-1) for chunk in words.split(4)
    ]
    monkeypatch.setitem(fingerprint._AT_ONCE, "cpu", at_once)
    assert torch.equal(fingerprint._sums(words), torch.stack(one_by_one, -1))
    fingerprint._factors.cache_clear()


def test_the_host_gets_a_few_bytes_once_and_tied_weights_are_read_once() -> None:
    weights = {f"w{i}": torch.randn(50, 40) for i in range(5)}
    weights["tied"] = weights["w0"]
    with Operations() as counted:
        tensors_digest(weights)
    assert counted.waits["cpu"] == 1
    assert counted.calls["mul"] == 5


def test_a_path_that_is_no_text_has_a_fingerprint() -> None:
    assert text_fingerprint("corpus-\udcff.txt") != text_fingerprint("corpus-\udcfe.txt")


def test_a_tokenizer_is_known_by_how_it_reads() -> None:
    tokenizer, plain = tiny_tokenizer(), tokenizer_fingerprint(tiny_tokenizer())
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)  # which its rules remember
    assert tokenizer_fingerprint(tokenizer) == plain
    assert tokenizer_fingerprint(tiny_tokenizer(bos=True)) != plain
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_fingerprint(tokenizer) != plain
