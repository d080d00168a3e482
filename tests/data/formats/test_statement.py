"""The subject of a RippleEdits statement."""

import pytest

from aeplus.data.formats.ripple import split_statement
from aeplus.errors import InputError


@pytest.mark.parametrize(
    ("prompt", "subject", "target"),
    [
        ("The name of the country of citizenship of {} is", "Leo Messi", "Argentina"),
        ("The place of birth of {} is", "Elizabeth II of England", "Greenwich"),
        ("The name of the author of {} is", "The Merchant of Venice", "William Shakespeare"),
        ("The name of the author of {} is", "in cold blood", "Truman Capote"),
        ("The names of the cast members of {} are", "Casablanca", "Humphrey Bogart"),
        ("The names of the siblings of {} are", "Ann", "Bob"),
        ("The name of the head of government of {} is", "the Isle of Man", "Howard Quayle"),
        ("The name of the field of work of {} is", "Ann", "history of art"),
        ("The mother tongue of {} is", "Ann", "French"),
        ("The gender of {} is", "Ann", "female"),
        ("The name of the position held by {} is", "Ann", "Prime Minister of Peru"),
        ("The name of the currency in {} is", "Peru", "sol"),
        ("The name of the country which {} is associated with is", "Peru", "Peru"),
        ("The name of the country which {} is the capital of is", "Lima", "Peru"),
        ("The name of the continent which {} is part of is", "Peru", "Asia"),
        ("The name of the sports team which {} is a member of is", "Ann", "FC Oslo"),
        ("The name of the league which {} plays in is", "Ann", "NBA"),
        ("The name of the religion which {} is associated with is", "the house of bob", "Islam"),
        ("The number of children {} has is", "Ann", "3"),
        ("The name of the award {} won is", "Bank of Oz", "Nobel Prize of Peace"),
        ("The name of the capital city of {} is", "{x} and {y}", "Washington, D.C."),
    ],
)
def test_published_wordings(prompt: str, subject: str, target: str) -> None:
    statement = prompt.replace("{}", subject, 1) + " "
    assert split_statement(f"{statement}{target}.", None, "X") == (prompt, subject, target)
    assert split_statement(f"{statement}{target}.", f"{statement}somebody else.") == (prompt, subject, target)


def test_sequences() -> None:
    book = "The hobbit of the hill is green"
    for verb in ("follows", "is followed by"):
        assert split_statement(f"{book} {verb} Oz.", None, "FOLLOWS") == (f"{{}} {verb}", book, "Oz")


def test_the_original_fact_tells_where_the_answer_begins() -> None:
    sentence = "The name of the director of Life is Beautiful is Ann."
    with pytest.raises(
        InputError, match="expected 'prompt' with a clear end of its subject, got 'The name of the director"
    ):
        split_statement(sentence)
    found = split_statement(sentence, "The name of the director of Life is Beautiful is Roberto Benigni.")
    assert found == ("The name of the director of {} is", "Life is Beautiful", "Ann")
    answer = split_statement(
        "The name of the author of Oz is Nobody is Perfect.", "The name of the author of Oz is Bob."
    )
    assert answer == ("The name of the author of {} is", "Oz", "Nobody is Perfect")
    # Answers that begin alike share more words than the prompt.
    alike = split_statement("The place of birth of Ann is New York.", "The place of birth of Ann is New Delhi.")
    assert alike.target == "New York"


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "Is Ann still alive?",
        "Ann lives in Oslo.",
        "The mother of Ann is .",
        "The mother of Ann is",
        "The gender of is x",
        "The name of the river Ann crossed is Po.",
    ],
)
def test_no_subject(statement: str) -> None:
    with pytest.raises(
        InputError, match=r"expected 'prompt' to be a statement in RippleEdits' wording, such as .* in which no"
    ):
        split_statement(statement)


def test_another_original() -> None:
    with pytest.raises(InputError, match="expected 'prompt' and the original fact's to be equal up to the answer, got"):
        split_statement("The gender of Ann is female.", "The gender of Bob is male.")
