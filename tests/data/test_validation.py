"""The validation set, and that no test prompt can reach it."""

from dataclasses import replace
from typing import Any

import pytest

from aeplus.data.paraphrase import MAX_SIMILARITY, similarity
from aeplus.data.request import EditRequest, Probe
from aeplus.data.validation import (
    ValidationItem,
    ValidationSet,
    build_validation,
    overlap,
    preserved_snippets,
)
from aeplus.errors import InputError

EDITS = [
    EditRequest(
        "The capital of {} is",
        f"Land{i}",
        f"Town{i}",
        (f"Land{i} is governed from",),
        (Probe("The capital of Peru is", "Lima"),),
        f"True{i}",
    )
    for i in range(43)
]
FACTS = [EditRequest("The capital of {} is", f"Old{i}", f"Seat{i}") for i in range(50)]


def test_every_batch_has_a_paraphrase_and_larger_ones_a_tenth() -> None:
    for size in (1, 4, 10, 20, 43, 100):
        validation = build_validation(EDITS, FACTS, batch_size=size)
        chosen = sorted({item.request_index for item in validation.rewrites})
        for start in range(0, len(EDITS), size):
            length = min(size, len(EDITS) - start)
            assert sum(start <= i < start + size for i in chosen) == max(1, round(0.1 * length))
        assert [item.request_index for item in validation.rewrites] == sorted(
            item.request_index for item in validation.rewrites
        )


def test_items_are_paraphrases_with_the_edits_targets() -> None:
    validation = build_validation(EDITS, FACTS, per_edit=2)
    assert len(set(validation.rewrites)) == len(validation.rewrites) == 10
    for item in validation.rewrites:
        edit = EDITS[item.request_index]
        assert item.answer == edit.target_new
        assert edit.subject in item.prompt
        assert all(similarity(item.prompt, other.question) < MAX_SIMILARITY for other in EDITS)
    assert len(validation.preserved) == 30
    answers = {probe.answer: probe.prompt for probe in validation.preserved}
    assert all(fact.subject in answers[fact.target_new] for fact in FACTS if fact.target_new in answers)
    forms = {probe.prompt.split(" ")[0] for probe in validation.preserved}
    assert len(forms) > 5  # the templates rotate


def test_no_test_prompt_reaches_the_validation_set() -> None:
    garbage = [
        replace(r, rephrase=(f"garbage {i}",), neighborhood=(Probe("garbage", "g"),), target_true="garbage")
        for i, r in enumerate(EDITS)
    ]
    bare = [replace(r, rephrase=(), neighborhood=(), target_true=None) for r in EDITS]
    facts = [replace(r, rephrase=("garbage",), neighborhood=(Probe("g"),), target_true="g") for r in FACTS]
    expected = build_validation(EDITS, FACTS, seed=3)
    assert build_validation(garbage, facts, seed=3) == expected
    assert build_validation(bare, FACTS, seed=3) == expected


def test_seed() -> None:
    assert build_validation(EDITS, FACTS, seed=1) == build_validation(EDITS, FACTS, seed=1)
    assert build_validation(EDITS, FACTS, seed=1) != build_validation(EDITS, FACTS, seed=2)


def test_nothing_preserved_nothing_shared_and_edited_facts() -> None:
    assert build_validation(EDITS).preserved == ()
    assert build_validation(EDITS, share=0).rewrites == ()
    assert build_validation([], FACTS).rewrites == ()
    assert build_validation(EDITS, [replace(EDITS[0], target_new="True0", subject="LAND0")]).preserved == ()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "'batch_size' must be at least 1, but is 0"),
        ({"share": 1.5}, "must lie between 0 and 1, but is 1.5"),
        ({"preserved_count": -1}, "preserved facts must be at least 0, but is -1"),
        ({"per_edit": 0}, "paraphrases per edit must be at least 1, but is 0"),
    ],
)
def test_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        build_validation(EDITS, **options)


def test_snippets() -> None:
    sentence = "One two three four five six {} eight nine ten eleven twelve thirteen."
    texts = [f"Short one. {sentence.format(i)} {sentence.format(i)}" for i in range(40)]
    probes = preserved_snippets(iter(texts), 5, seed=0)
    assert probes == preserved_snippets(texts, 5, seed=0)
    assert probes != preserved_snippets(texts, 5, seed=1)
    assert len(set(probes)) == 5
    assert all(len(probe.prompt.split()) == 12 and probe.answer is None for probe in probes)
    assert len(preserved_snippets(texts, 100, seed=0, words=3)) == 1  # equal beginnings count once
    assert preserved_snippets(texts, 0, seed=0) == []


def test_overlap() -> None:
    validation = ValidationSet(
        (ValidationItem(0, "Remember this: Oz is", "Rome"),), (Probe("The sky is", "blue"), Probe("Grass"))
    )
    edit = EditRequest("{} is", "Oz", "Rome", ("REMEMBER this:  Oz is", "Oz was"), (Probe("the sky is "),))
    assert overlap(validation, [edit]) == {"REMEMBER this:  Oz is", "the sky is "}
