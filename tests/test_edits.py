"""Edits: when two are of the same fact, and which of a stream still hold."""

from dataclasses import replace

import pytest

from aeplus import edits
from aeplus.edits import (
    EditRequest,
    Probe,
    broken_cases,
    held_out_prompts,
    normal,
    rewordings,
    same_answer,
    still_holding,
)
from aeplus.errors import InputError

EDIT = EditRequest("The capital of {} is", "Oz", "Rome")


def test_the_key_of_a_fact_folds_case_and_whitespace() -> None:
    for other in (
        replace(EDIT, prompt="the  capital of {}\tIS "),
        replace(EDIT, subject=" oz"),
        replace(EDIT, target_new="Paris"),
    ):
        assert other.fact_key == EDIT.fact_key
    for other in (replace(EDIT, subject="Ix"), replace(EDIT, prompt="The capital  city of {} is")):
        assert other.fact_key != EDIT.fact_key


def test_a_named_fact_is_identified_by_its_name_alone() -> None:
    named = replace(EDIT, fact="capital of Oz")
    assert named.fact_key == replace(EDIT, prompt="{} is governed from", fact="capital of Oz").fact_key
    assert named.fact_key != EDIT.fact_key
    assert named.fact_key != replace(EDIT, fact="Capital of Oz").fact_key


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Rome", " Rome ", True),
        ("New  York", "New\tYork", True),
        ("Rome", "rome", False),
        ("New York", "NewYork", False),
        ("Rome", "Rome.", False),
    ],
)
def test_answers_are_compared_but_for_whitespace(a: str, b: str, same: bool) -> None:
    assert same_answer(a, b) is same_answer(b, a) is same


def test_comparison_form_of_a_text() -> None:
    assert normal("  The CAPITAL\n of  Straße ") == "the capital of strasse"


def stream(*answers: str) -> list[EditRequest]:
    """Edits of facts: ``a1`` gives fact a the answer 1."""
    return [EditRequest("The capital of {} is", name, answer) for name, answer in answers]


@pytest.mark.parametrize(
    ("answers", "holds"),
    [
        ([], []),
        (["a1", "b1"], [True, True]),
        (["a1", "b1", "a2"], [False, True, True]),
        (["a1", "a1"], [True, True]),  # repeated
        (["a1", "a2", "a1"], [True, False, True]),  # undone
        (["a1", "a1", "A2"], [False, False, True]),
    ],
)
def test_an_edit_holds_while_the_last_of_its_fact_agrees(answers: list[str], holds: list[bool]) -> None:
    assert still_holding(stream(*answers)) == holds


def test_what_may_be_a_rewrite_in_other_words() -> None:
    def edit(prompt: str, answer: str, subject: str = "Rome", fact: str = "") -> EditRequest:
        return EditRequest(prompt, subject, answer, fact=fact)

    first, other = edit("{} lies in", "Italy"), edit("{} lies in", "Spain", subject="Oslo")
    later = [
        edit("The country of {} is", "Peru", subject="rome "),  # another answer: perhaps the same fact
        edit("The country of {} is", "Italy"),  # the same answer
        edit("{} lies in", "Chad"),  # known to be the same fact; perhaps that of the third
    ]
    assert rewordings([first, other, *later], 2) == [[], [], [0], [], [2, 3]]
    assert rewordings([first, other, *later], 5) == [[]] * 5  # one batch
    named = [edit("{} lies in", "Italy", fact="1"), edit("{} is in", "Peru", fact="2"), edit("{} is in", "Chad")]
    assert rewordings(named, 1) == [[], [], [0, 1]]
    assert rewordings([], 1) == []
    chats = [replace(request, fact=" ".join(request.fact_key), asked=request.prompt) for request in (first, later[0])]
    assert rewordings(chats, 1) == [[], [0]]  # rendering has named them


@pytest.mark.parametrize(("done", "size", "found"), [(0, 2, [2, 3, 4]), (2, 2, [2, 3, 4]), (3, 1, [3, 4]), (5, 2, [])])
def test_rewordings_count_batches_from_what_is_done(done: int, size: int, found: list[int]) -> None:
    """All of one subject; those of the batch under way are no earlier ones."""
    stream = [EditRequest(f"{{}} {i}", "Rome", f"answer {i}") for i in range(5)]
    places = rewordings(stream, size, done)
    assert [place for place, earlier in enumerate(places) if earlier] == found
    for place in found:
        assert places[place] == list(range(done + (place - done) // size * size))


def test_a_case_breaks_with_any_of_its_edits() -> None:
    first, second, other = stream("a1", "b1", "c1")
    question = Probe("Who lives there?", "Ann")
    case = [replace(first, case="1"), replace(second, case="1", axes=(question,))]
    lone = replace(other, case="2", axes=(question,))
    assert broken_cases([*case, lone]) == set()
    assert broken_cases([*case, lone, replace(first, case="3")]) == set()  # the same edit, made again
    changed = replace(first, target_new="2", case="3")
    assert broken_cases([*case, lone, changed]) == {"1"}
    assert broken_cases([first, changed]) == set()  # an edit without a case breaks none


def test_held_out_prompts_are_all_that_test() -> None:
    edit = replace(
        EDIT, rephrase=("r",), neighborhood=(Probe("n"),), axes=(Probe("a", "x"),), generation=("g",), aliases=("x",)
    )
    assert list(held_out_prompts([edit, EDIT])) == ["r", "n", "a", "g"]
    assert edit.without_tests() == EDIT


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"subject": " "}, "the record: expected 'subject' to be a non-empty string, got ' '; fill it in."),
        ({"target_new": 3, "id": "x"}, "record x: expected 'target_new' to be a non-empty string, got 3; fill it in."),
        (
            {"prompt": "Rome"},
            "the record: expected 'prompt' to contain one {} in place of the subject, got 0 in 'Rome'; write it like "
            "'The capital of {} is'.",
        ),
    ],
)
def test_what_no_edit_is_made_of(change: dict[str, str], text: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(EDIT, **change)  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_a_subject_may_contain_braces() -> None:
    edit = EditRequest("What does {} return?", "f({})", "x")
    assert edit.question == "What does f({}) return?"
    assert edit.question[: edit.subject_end].endswith("f({})")


def test_a_fact_is_named_once_however_often_a_growing_stream_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def count(text: str) -> str:
        named.append(text)
        return text

    monkeypatch.setattr(edits, "normal", count)
    stream = [EditRequest("{} is in", f"Town {i}", "France") for i in range(4)]
    for reached in range(1, 5):
        still_holding(stream[:reached])
    assert len(named) == 2 * 4  # prompt and subject
