"""The demo's edits, without the model: what it answers is stated by hand."""

import importlib.util
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from aeplus.commands.demo import RELATIONS, DemoSet, build_demo, compose_demo, write_demo
from aeplus.data.paraphrase import paraphrases
from aeplus.data.readers import read_requests
from aeplus.data.validation import build_validation, overlap
from aeplus.errors import InputError
from tiny import tiny_model, tiny_tokenizer

SECTIONS = {
    "capital-common-countries": {f"Seat{i}": f"Land{i}" for i in range(20)},
    "capital-world": {f"Seat{i}": f"Land{i}" for i in range(15, 45)},
    "currency": {f"Land{i}": f"coin{i}" for i in range(12)},
    "city-in-state": {f"City{i}": f"State{i % 9}" for i in range(40)},
}


def knows_all(prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
    return [0.5 + len(prompt) % 7 / 20 for prompt in prompts]


@pytest.fixture(scope="module")
def demo() -> DemoSet:
    return compose_demo(SECTIONS, knows_all)


def test_gensim_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"questions-words\.txt, got no such file; run: pip install gensim\.$"):
        build_demo(tiny_model(), tiny_tokenizer())


def test_counts_and_order(demo: DemoSet) -> None:
    assert Counter(demo.kinds.values()) == {"firm": 11, "plain": 11, "far": 8, "rewrite": 10}
    assert [edit.id for edit in demo.edits] == list(demo.kinds)
    assert len({edit.question for edit in demo.edits}) == len(demo.edits) == 40
    for start in range(0, 40, 10):
        kinds = Counter(demo.kinds[edit.id] for edit in demo.edits[start : start + 10])
        assert kinds["far"] == 2
        assert kinds["rewrite"] == (5 if start >= 20 else 0)


def test_rewrites_come_in_a_later_batch_with_another_answer(demo: DemoSet) -> None:
    place = {edit.id: number for number, edit in enumerate(demo.edits)}
    for edit in demo.edits:
        assert edit.target_new != edit.target_true
        if demo.kinds[edit.id] == "rewrite":
            first = demo.edits[place[edit.id.removesuffix("-2")]]
            assert place[first.id] // 10 < place[edit.id] // 10
            assert (first.subject, first.fact) == (edit.subject, edit.fact)
            assert first.target_new != edit.target_new
            assert first.prompt != edit.prompt


def test_test_prompts(demo: DemoSet) -> None:
    edited = {edit.subject for edit in demo.edits}
    near = {probe for edit in demo.edits for probe in edit.neighborhood}
    assert len(near) == sum(relation.counts[3] for relation in RELATIONS)
    questions = {edit.question for edit in demo.edits} | {probe.prompt for probe in near}
    subjects = [subject for pairs in SECTIONS.values() for pair in pairs.items() for subject in pair]
    for probe in near:
        assert probe.answer
        assert not any(f" {subject} " in f"{probe.prompt} " for subject in edited & set(subjects))
    for edit in demo.edits:
        assert len(set(edit.neighborhood)) == 5
        assert len(set(edit.statements)) == 2
        assert not questions & set(edit.statements)
        assert not set(edit.statements) & set(paraphrases(edit.prompt, edit.subject))
    for fact in demo.preserved:
        assert fact.subject not in edited
        assert fact.question not in questions
    assert overlap(build_validation(demo.edits, demo.preserved), demo.edits) == set()


def test_only_forms_that_the_model_answers() -> None:
    state = RELATIONS[-1]

    def answered(prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        bad = (state.tests[0].split("{}")[0], "lies in")  # the first test form and the rewrites' form
        return [None if any(part in prompt for part in bad) else 0.5 for prompt in prompts]

    demo = compose_demo(SECTIONS, answered)
    assert demo.forms[state.tests[0]] == demo.forms[state.rewriting] == 0
    assert demo.forms[state.tests[1]] == 1
    edits = [edit for edit in demo.edits if edit.id.startswith("state-")]
    assert {edit.prompt for edit in edits} == {state.prompt}
    assert all(edit.statements[0] == state.tests[1].replace("{}", edit.subject) for edit in edits)


def test_a_model_that_knows_too_little() -> None:
    with pytest.raises(InputError, match="got one that answers 0; take a larger model"):
        compose_demo(SECTIONS, lambda prompts, answers: [None] * len(prompts))

    def plain_only(prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        return [0.5 if prompt.startswith("The unit") else None for prompt in prompts]

    with pytest.raises(InputError, match=r"in a form such as 'In \{\}, the unit of currency is the', got one"):
        compose_demo(SECTIONS, plain_only)


def test_seed(demo: DemoSet) -> None:
    assert compose_demo(SECTIONS, knows_all) == demo
    assert compose_demo(SECTIONS, knows_all, seed=1) != demo


def test_write(demo: DemoSet, tmp_path: Path) -> None:
    edits, preserved = write_demo(demo, tmp_path / "new" / "demo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is written that nobody reads
        assert read_requests(edits) == demo.edits
    assert [(f.question, f.target_new) for f in read_requests(preserved)] == [
        (f.question, f.target_new) for f in demo.preserved
    ]
    assert json.loads((edits.parent / "forms.json").read_text("utf-8")) == demo.forms
    assert len([path for path in edits.parent.iterdir() if path.suffix]) == 3
