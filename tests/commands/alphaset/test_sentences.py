"""K0 facts from sentences."""

import pytest

from aeplus.commands.alphaset import sentences
from aeplus.commands.alphaset.answers import gather
from aeplus.commands.alphaset.sentences import answer_kind, known_facts, sentence_facts
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from tiny import tiny_model, tiny_tokenizer

GOOD = "Ada Lovelace was a writer who lived in London."


@pytest.mark.parametrize(
    "sentence",
    [
        "The capital of France is a city called Paris.",  # a word that begins any sentence
        "Ada Lovelace lived in London.",  # too short to be rephrased
        "it was a writer who lived in London.",
        "Ada Lovelace was a writer who lived in London",
        "Ada Lovelace, said Ada Lovelace, was a writer in London.",
        "Ada Lovelace of London was a writer who lived in London.",  # given away
        "Ada Lovelace was a {} writer who lived in London.",
        "Ada Lovelace was a writer who lived there (London).",
    ],
)
def test_other_sentences_state_no_fact(sentence: str) -> None:
    assert sentence_facts([sentence], 9, 0) == []


def test_a_fact() -> None:
    (fact,) = sentence_facts([f"{GOOD} {GOOD} And more."], 9, 0)
    assert fact == EditRequest("{} was a writer who lived in", "Ada Lovelace", "London", target_true="London")


def test_order_and_number() -> None:
    texts = [f"Place{n} Hill is a town that lies in Norway." for n in range(30)]
    assert len(sentence_facts(texts, 5, 0)) == 5
    assert sentence_facts(texts, 30, 0) == sentence_facts(texts, 30, 0) != sentence_facts(texts, 30, 1)


def test_only_what_the_model_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Place{n} Hill is a town that lies in Norway." for n in range(30)]
    decoder = Decoder(tiny_model())
    monkeypatch.setattr(sentences, "answer_probabilities", lambda _, rows: [None] * len(rows))
    with pytest.raises(InputError, match=r"expected a corpus with 9 sentences .*, got 0 of 30; choose a longer corpus"):
        known_facts(decoder, tiny_tokenizer(), texts, 9, 0)
    monkeypatch.setattr(sentences, "answer_probabilities", lambda _, rows: [None, 0.5] * (len(rows) // 2))
    assert known_facts(decoder, tiny_tokenizer(), texts, 9, 0) == sentence_facts(texts, 30, 0)[1:18:2]


def test_answers_that_look_alike_replace_each_other() -> None:
    facts = [
        EditRequest(f"{{}} {n} is said to be", f"S{n}", answer)
        for n, answer in enumerate(["Rome", "Oslo", "1901", "1905", "red"])
    ]
    changes = dict(gather([], facts, 0, answer_kind).fact_changes)
    assert {old.target_new: new.target_new for old, new in changes.items()} == {
        "Rome": "Oslo",
        "Oslo": "Rome",
        "1901": "1905",
        "1905": "1901",
    }
    assert gather([], facts, 0).fact_changes == []  # no two have a form of prompt in common
