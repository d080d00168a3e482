"""Facts that must survive: what P̃ may leak beside them."""

from pathlib import Path

import pytest

import aeplus
from aeplus.methods.compositions import named_method
from small import LEARNING, records
from tiny import tiny_model, tiny_tokenizer

FACT = {"prompt": records()[0]["prompt"], "subject": records()[0]["subject"], "target_new": "London"}


def directions(*, named: bool, **bounds: float | None) -> int:
    """The rank of P̃ at the first layer for an edit with the very key of a fact, which without it keeps its residual."""
    options = {**LEARNING, "aligned_share": 1.0, "aligned_left": 0.001, "facts_weight": 1.0, **bounds}
    preserve = [FACT] if named else []
    result = aeplus.edit(
        tiny_model("llama"), tiny_tokenizer(), records()[:1], "alphaedit_plus", preserve=preserve, **options
    )
    return int(result.metrics["batches"][0]["layers"][0]["rank"])


def test_beside_named_facts_an_edit_may_leak_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))
    assert directions(named=True, aligned_leakage=None) == 0  # 1 % of tr(W C Wᵀ), by default
    assert directions(named=True, aligned_leakage=None, facts_leakage=None) == 1
    assert directions(named=False, aligned_leakage=None) == 1


def test_the_less_of_both_bounds_holds() -> None:
    method = named_method("alphaedit_plus")
    assert (method.aligned_leakage, method.beside_facts().aligned_leakage) == (1.0, 0.01)
    assert named_method("alphaedit_plus", aligned_leakage=0.001).beside_facts().aligned_leakage == 0.001
    assert named_method("alphaedit_plus", aligned_leakage=None).beside_facts().aligned_leakage == 0.01
    free = named_method("alphaedit_plus", aligned_leakage=None, facts_leakage=None)
    assert free.beside_facts().aligned_leakage is None
