"""The validation set, and that no test prompt can reach it."""

from dataclasses import replace
from typing import Any

import pytest

from aeplus.data.paraphrase import MAX_SIMILARITY, Rewriter, similarity
from aeplus.data.validation import (
    ValidationItem,
    ValidationSet,
    build_validation,
    compose_validation,
    overlap,
    preserved_snippets,
)
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

EDITS = [
    EditRequest(
        "The capital of {} is",
        f"Land{i}",
        f"Town{i}",
        (f"Land{i} is governed from",),
        (Probe("The capital of Peru is", "Lima"),),
        target_true=f"True{i}",
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
    facts = [replace(r, rephrase=("garbage",), neighborhood=(Probe("g"),)) for r in FACTS]
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
        ({"batch_size": 0}, "expected 'batch_size' of at least 1, got 0"),
        ({"share": 1.5}, "expected a validation share from 0 to 1, got 1.5"),
        ({"preserved_count": -1}, "preserved facts of at least 0, got -1"),
        ({"per_edit": 0}, "paraphrases per edit of at least 1, got 0"),
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


def composed(edits: list[EditRequest] = EDITS, facts: list[EditRequest] = FACTS, **options: Any) -> ValidationSet:
    return compose_validation(edits, facts, Rewriter(options.get("seed", 0)), **options)


def test_a_tenth_of_the_edits_spread_over_the_stream() -> None:
    validation = composed(preserved_count=20)
    chosen = sorted(validation.firsts)
    assert [sum(start <= i < start + 10 for i in chosen) for start in range(0, 50, 10)] == [1, 1, 1, 1, 1]
    assert {item.request_index for item in validation.rewrites} == set(chosen)
    assert all(item.answer == EDITS[item.request_index].target_new for item in validation.rewrites)
    assert len(set(validation.prompts)) == len(validation.prompts) == 5 * 4 + 20
    assert all(probe.answer is not None for probe in validation.preserved)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.05, 3), (0.25, 9), (1.0, 43)])
def test_other_shares(share: float, count: int) -> None:
    assert len(composed(share=share).firsts) == count


@pytest.mark.parametrize("portions", [2, 3, 10])
def test_portions_have_nothing_in_common(portions: int) -> None:
    parts = [composed(portion=(i, portions), preserved_count=4) for i in range(1, portions + 1)]
    prompts = [prompt for part in parts for prompt in part.prompts]
    assert len(prompts) == len(set(prompts))
    facts = [probe.answer for part in parts for probe in part.preserved]
    assert len(facts) == len(set(facts)) == 4 * portions
    assert len({i for part in parts for i in part.firsts}) == sum(len(part.firsts) for part in parts) >= 4 * portions
    assert composed(portion=(1, portions), preserved_count=4) == parts[0]


def test_few_preserved_facts_are_shared_out() -> None:
    assert [len(composed(portion=(i, 3), preserved_count=200).preserved) for i in (1, 2, 3)] == [16, 16, 16]


def test_portions_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"n at most 2 for a share of 0\.5, got 1/3"):
        composed(share=0.5, portion=(1, 3))
    with pytest.raises(InputError, match="got 4/3"):
        composed(portion=(4, 3))


def test_every_edit_of_a_fact_is_in_the_same_portion() -> None:
    """A fact that is edited again: both edits are asked, each by its own words and answer."""
    again = [replace(e, prompt="In the land of {}, the seat is", target_new=f"New{i}") for i, e in enumerate(EDITS)]
    edits = [replace(e, fact=f"f{i % len(EDITS)}") for i, e in enumerate([*EDITS, *again])]
    validation = composed(edits, share=0.1)
    assert {i % len(EDITS) for i in validation.firsts} == {i for i in validation.firsts if i < len(EDITS)}
    assert len(validation.firsts) == 2 * 5
    assert {item.answer for item in validation.rewrites} == {edits[i].target_new for i in validation.firsts}


def test_no_test_prompt_is_composed() -> None:
    """Every form that could be drawn but one is a test prompt of some edit, in one of the four fields."""
    plain = composed(share=1.0, preserved_count=100)
    firsts = [item.prompt for item in plain.firsts.values()]
    tests = {
        "rephrase": tuple(text.upper() for text in firsts[::2]),
        "axes": tuple(Probe(text, "x", axis="logic") for text in firsts[1::2]),
        "neighborhood": tuple(Probe(f" {probe.prompt}") for probe in plain.preserved[::2]),
        "generation": tuple(probe.prompt for probe in plain.preserved[1::2]),
    }
    edits = [replace(EDITS[0], **tests), *EDITS[1:]]
    validation = composed(edits, share=1.0, preserved_count=100)
    assert not set(validation.prompts) & {*firsts, *(probe.prompt for probe in plain.preserved)}
    assert len(validation.firsts) == len(EDITS)
    assert len(validation.preserved) == len(FACTS)
    assert overlap(validation, edits) == set()


def test_facts_that_are_neighbors_or_edited_are_skipped() -> None:
    """Their paraphrases would be made from a test prompt."""
    near = replace(EDITS[0], neighborhood=tuple(Probe(f"the capital of OLD{i} is") for i in range(40)))
    edited = [replace(EDITS[3], target_new="x", subject="LAND3")]
    answers = {probe.answer for probe in composed([near, *EDITS[1:]], [*FACTS, *edited]).preserved}
    assert answers == {f"Seat{i}" for i in range(40, 50)}


def test_what_is_true_now_is_asked() -> None:
    facts = [replace(fact, target_true=f"Real{i}") for i, fact in enumerate(FACTS)]
    assert {str(probe.answer)[:4] for probe in composed(facts=facts).preserved} == {"Real"}
    assert {str(probe.answer)[:4] for probe in build_validation(EDITS, facts).preserved} == {"Real"}


def test_snippets_stand_in_for_facts() -> None:
    snippets = [Probe(f"Once upon a time {i} there was") for i in range(9)]
    parts = [composed(facts=[], snippets=snippets, preserved_count=3, portion=(i, 3)).preserved for i in (1, 2, 3)]
    assert sorted(p.prompt for part in parts for p in part) == sorted(p.prompt for p in snippets)


def test_what_tests_an_edit_does_not_matter_for_the_rest() -> None:
    changed = [
        replace(
            e,
            rephrase=(f"r{i}",),
            neighborhood=(Probe(f"n{i}", "x"),),
            axes=(Probe(f"a{i}", "x"),),
            generation=(f"g{i}",),
            aliases=("y",),
            target_true="z",
        )
        for i, e in enumerate(EDITS)
    ]
    assert composed(changed, seed=2) == composed(seed=2) != composed(seed=3)


@pytest.mark.parametrize("field", ["neighborhood", "axes"])
def test_overlap_looks_at_every_field(field: str) -> None:
    validation = ValidationSet((), (Probe("The sky is", "blue"),))
    edit = EditRequest("{} is", "Oz", "Rome", **{field: (Probe("THE sky is"),)})  # type: ignore[arg-type]
    assert overlap(validation, [edit]) == {"THE sky is"}
    assert overlap(validation, [EditRequest("{} is", "Oz", "Rome", generation=("the sky  is",))]) == {"the sky  is"}


def test_overlap() -> None:
    validation = ValidationSet(
        (ValidationItem(0, "Remember this: Oz is", "Rome"),), (Probe("The sky is", "blue"), Probe("Grass"))
    )
    edit = EditRequest("{} is", "Oz", "Rome", ("REMEMBER this:  Oz is", "Oz was"), (Probe("the sky is "),))
    assert overlap(validation, [edit]) == {"REMEMBER this:  Oz is", "the sky is "}
