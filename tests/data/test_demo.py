"""The demo's edits, without the model: what it answers is stated by hand."""

import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from aeplus.data.demo import (
    RELATIONS,
    DemoSet,
    answer_probabilities,
    compose_demo,
    questions_words,
    read_pairs,
    write_demo,
)
from aeplus.data.paraphrase import paraphrases
from aeplus.data.readers import read_requests
from aeplus.data.validation import build_validation, overlap
from aeplus.errors import InputError

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


def test_read_pairs(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(": a-b\nAthens Greece Oslo Norway\nOslo Norway Rome Italy\n\n: c\nx y z w\n", "utf-8")
    assert read_pairs(path) == {
        "a-b": {"Athens": "Greece", "Oslo": "Norway", "Rome": "Italy"},
        "c": {"x": "y", "z": "w"},
    }


def test_gensim_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^The demo's edits need gensim.*install it: 'pip install gensim'\.$"):
        questions_words()


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
        assert len(set(edit.rephrase)) == 2
        assert not questions & set(edit.rephrase)
        assert not set(edit.rephrase) & set(paraphrases(edit.prompt, edit.subject))
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
    assert all(edit.rephrase[0] == state.tests[1].replace("{}", edit.subject) for edit in edits)


def test_a_model_that_knows_too_little() -> None:
    with pytest.raises(InputError, match="but this one answers 0; take a larger model"):
        compose_demo(SECTIONS, lambda prompts, answers: [None] * len(prompts))

    def plain_only(prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        return [0.5 if prompt.startswith("The unit") else None for prompt in prompts]

    with pytest.raises(InputError, match=r"in a form such as 'In \{\}, the unit of currency is the', but this one"):
        compose_demo(SECTIONS, plain_only)


def test_seed(demo: DemoSet) -> None:
    assert compose_demo(SECTIONS, knows_all) == demo
    assert compose_demo(SECTIONS, knows_all, seed=1) != demo


def test_write(demo: DemoSet, tmp_path: Path) -> None:
    edits, preserved = write_demo(demo, tmp_path / "new" / "demo")
    assert read_requests(edits) == demo.edits
    assert [(f.question, f.target_new) for f in read_requests(preserved)] == [
        (f.question, f.target_new) for f in demo.preserved
    ]
    assert json.loads((edits.parent / "forms.json").read_text("utf-8")) == demo.forms
    assert len(list(edits.parent.iterdir())) == 3


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text: str) -> object:
        return type("Encoding", (), {"input_ids": [1, *map(ord, text)]})


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_answer_probabilities_against_one_by_one(batch_size: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    prompts = ["ab", "abcdef", "b", "x y z"]
    tokens = Letters()

    def following(prompt: str) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([tokens(prompt).input_ids])).logits[0, -1].softmax(-1)  # type: ignore[attr-defined]

    # The blank before the answer must be the model's choice as well: make it so by the head's weight.
    with torch.no_grad():
        model.lm_head.weight[ord(" ")] = 0
        for prompt in prompts:
            ids = torch.tensor([tokens(prompt).input_ids])  # type: ignore[attr-defined]
            model.lm_head.weight[ord(" ")] += 0.2 * model.model(ids).last_hidden_state[0, -1]
    answers = []
    for prompt in prompts:
        best = following(f"{prompt} ").argmax().item()
        answers.append(chr(int(best)) if prompt != "b" else chr((int(best) + 1) % 128))
    result = answer_probabilities(model, tokens, prompts, answers, batch_size)
    for prompt, answer, found in zip(prompts, answers, result, strict=True):
        blank, letter = following(prompt), following(f"{prompt} ")
        expected = blank[ord(" ")] * letter[ord(answer)]
        right = blank.argmax() == ord(" ") and letter.argmax() == ord(answer)
        assert found == (pytest.approx(expected.item(), rel=1e-4) if right else None)
    assert 2 <= sum(found is not None for found in result) < 4
