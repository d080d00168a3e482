"""The template rewriter."""

import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aeplus.data.paraphrase import MAX_SIMILARITY, paraphrases, similarity, too_similar


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of {} is", "France"),
        ("{}, by", "BBC One"),
        ("What language is the name of {} written in?", "Parken Stadium"),
        ("What is the twin city of {}? It is", "Lyon"),
        ("What does {} return in {x}?", "f({P}, {s})"),
        ("{} is", "x"),
    ],
)
def test_paraphrases_differ_and_end_as_the_prompt(prompt: str, subject: str) -> None:
    question = prompt.replace("{}", subject)
    texts = paraphrases(prompt, subject)
    assert len(set(texts)) == len(texts) >= 4
    for text in texts:
        assert similarity(text, question) < MAX_SIMILARITY
        assert text[-len(question) + 1 :] == question[1:]
        assert text[-len(question)] in (question[0], question[0].lower())
    assert texts == paraphrases(prompt, subject)


def test_case_is_lowered_for_function_words_only() -> None:
    assert "I looked it up, and the capital of France is" in paraphrases("The capital of {} is", "France")
    assert "Remember this: The capital of France is" in paraphrases("The capital of {} is", "France")
    assert "I looked it up, and The Hague lies in" in paraphrases("{} lies in", "The Hague")
    assert "I looked it up, and Paris and Rome lie in" in paraphrases("Paris and {} lie in", "Rome")
    assert "Please tell me: what is Oz?" in paraphrases("What is {}?", "Oz")


def test_forms_too_close_to_a_long_prompt_are_left_out() -> None:
    prompt = "The capital of the country that lies to the far north of the region known as {} is"
    assert 0 < len(paraphrases(prompt, "Oz")) < len(paraphrases("The capital of {} is", "Oz"))
    assert paraphrases("word " * 200 + "{} is", "Oz") == []


def test_long_texts_are_compared_in_a_moment_and_nearly_the_same() -> None:
    draw = random.Random(0)
    prompt = " ".join(draw.choice(("France", "Italy", "Rome", "Oslo")) for _ in range(10_000))
    assert similarity(prompt, f"Remember this: {prompt}") > 0.99
    assert similarity(prompt, prompt[: len(prompt) // 2]) == pytest.approx(2 / 3, abs=0.01)
    assert similarity(prompt, prompt.upper()) == 1
    assert similarity("a" * 3000, "b" * 3000) == 0
    middle = prompt[:2500].replace("Oslo", "Bern", 1)
    exact = SequenceMatcher(None, prompt[:2500].casefold(), middle.casefold(), autojunk=False).ratio()
    assert similarity(prompt[:2500], middle) == pytest.approx(exact, abs=0.005)


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=4))
def test_too_similar_is_the_comparison_with_each(text: str, others: list[str]) -> None:
    assert too_similar(text, others) == any(similarity(text, other) >= MAX_SIMILARITY for other in others)


def test_similarity() -> None:
    assert similarity("The Same", "the same") == 1
    assert similarity("abc", "xyz") == 0
    # Two of four letters are shared at either side: 2 * 2 / 8.
    assert similarity("abcd", "cdef") == 0.5
    # Texts of 200 letters and more are compared letter by letter as well.
    assert similarity("ab" * 150, "ab" * 150 + "c" * 100) == pytest.approx(600 / 700)
