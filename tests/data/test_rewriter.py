"""Rewriting by templates and by a language model whose output is checked."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from aeplus.commands.rewriting import model_rewriter, named_rewriter
from aeplus.data import paraphrase as rewriter_module
from aeplus.data.paraphrase import ModelRewriter, Rewriter, gives_away, paraphrases, problem
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from tiny import tiny_model, tiny_tokenizer

FACT = EditRequest("The capital of {} is", "France", "Rome")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The city from which France is governed is", None),
        ("France is governed from a city called", None),
        ("", "empty"),
        ("  ", "empty"),
        ("France is governed from\nthe city of", "not one line"),
        ("France is governed from the city of ", "not one line"),
        ("The country is governed from the city of", "subject lost"),
        ("The city from which Frances is governed is", "subject lost"),
        ("For {} the seat of France's rulers is", "braces"),
        ("the  capital of France IS", "copy"),
        ("The capitals of France is", "too similar"),
        ("Unlike Italy with Rome, France is governed from", "answer given away"),
        ("Romeo says that France is governed from", None),
        ("The city from which France is governed.", "answer does not follow"),
        ("The city of France's rulers", "answer does not follow"),
        ("From where is France governed?", "answer does not follow"),
    ],
)
def test_what_can_stand_for_a_prompt(text: str, reason: str | None) -> None:
    assert problem(FACT, text) == reason


def test_a_question_stays_a_question() -> None:
    fact = EditRequest("What is the capital of {}?", "France", "Rome")
    assert problem(fact, "From which city is France governed?") is None
    assert problem(fact, "France is governed from the city of") == "answer does not follow"


def test_an_answer_that_the_subject_or_the_prompt_names_is_not_given_away() -> None:
    fact = EditRequest("{} is a river in England, named by the", "English Brook", "English")
    assert not gives_away(fact, "As for English Brook, a river in England, English Brook is named by the", "English")
    assert not gives_away(fact, "A river in England, English Brook is named by the", "England")
    assert gives_away(fact, "English Brook, a river in English lands, is named by the", "English")


def test_templates_pass_the_checks_and_follow_the_seed() -> None:
    facts = [FACT, EditRequest("{} plays the", "Toko Yasuda", "piano")]
    drawn = Rewriter(0).rewrite(facts, 3)
    assert [len(set(texts)) for texts in drawn] == [3, 3]
    assert all(problem(fact, text) is None for fact, texts in zip(facts, drawn, strict=True) for text in texts)
    assert Rewriter(0).rewrite(facts[1:], 3) == drawn[1:]  # a fact's draw does not depend on the others
    assert Rewriter(1).rewrite(facts, 3) != drawn
    assert len(Rewriter(0).rewrite([FACT], 100)[0]) == len(paraphrases(FACT.prompt, FACT.subject))


def test_what_the_caller_refuses_is_left_out() -> None:
    rewriter = Rewriter()
    (texts,) = rewriter.rewrite([FACT], 100, lambda _, text: "about" if "about" in text.casefold() else None)
    assert texts
    assert not any("about" in text.casefold() for text in texts)
    assert rewriter.rewrite([FACT], 1, lambda *_: "never") == [[]]


class Scripted(ModelRewriter):
    """Writes the given lines, one for each round and prompt; records the prompts and seeds."""

    def __init__(self, *rounds: list[str], tries: int = 4) -> None:
        super().__init__(self.read_out, len, "scripted", tries=tries)
        self.rounds = list(rounds)
        self.asked: list[tuple[list[str], int | None]] = []

    def read_out(self, prompts: Sequence[str], new_tokens: int, seed: int | None) -> list[str]:
        questions = [prompt.rsplit("Text: ", 1)[1].split("\n", 1)[0] for prompt in prompts]
        assert new_tokens == max(map(len, questions)) + 16
        self.asked.append((questions, seed))
        return [f" {text}\n\n" for text in self.rounds.pop(0)]


GOOD, OTHER = "The city from which France is governed is", "France has its government in the city of"


def test_what_the_model_writes_is_checked_tried_again_and_replaced() -> None:
    italy = EditRequest("The capital of {} is", "Italy", "Oslo")
    rewriter = Scripted([GOOD, "Nothing"], ["The capital of Italy is"], ["Oslo, in Italy, is"], [""])
    first, second = rewriter.rewrite([FACT, italy])
    assert first == [GOOD]
    assert second[0] in paraphrases(italy.prompt, italy.subject)
    assert [questions for questions, _ in rewriter.asked] == [[FACT.question, italy.question], *[[italy.question]] * 3]
    seeds = [seed for _, seed in rewriter.asked]
    assert seeds[0] is None  # greedy
    assert len(set(seeds[1:])) == 3
    assert rewriter.counts == {
        "lm": 1,
        "templates": 1,
        "refused: subject lost": 1,
        "refused: copy": 1,
        "refused: answer given away": 1,
        "refused: empty": 1,
    }


def test_several_rewritings_differ() -> None:
    rewriter = Scripted([GOOD], [GOOD], [OTHER], [GOOD])
    (texts,) = rewriter.rewrite([FACT], 3)
    assert texts[:2] == [GOOD, OTHER]
    assert texts[2] in paraphrases(FACT.prompt, FACT.subject)
    assert rewriter.counts["refused: said before"] == 2


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer examples: a tokenizer of bytes makes many tokens of them."""
    monkeypatch.setattr(rewriter_module, "_EXAMPLES", (("A is", "It is A"),))


def small_model() -> Any:
    return tiny_model(num_hidden_layers=1, max_position_embeddings=512)


def test_a_model_writes_in_batches_as_alone(short: None) -> None:
    """Greedy output does not depend on what else is in the batch."""
    model, tokenizer = small_model(), tiny_tokenizer()
    rewriter = model_rewriter(model, tokenizer)
    questions = ["The capital of France is", "People speak English in London, as they do in Rome"]
    together = rewriter._first_lines(questions, None)
    assert all(together)
    # The length that is left for an answer is the longest prompt's.
    assert [text[:20] for text in together] == [
        rewriter._first_lines([question], None)[0][:20] for question in questions
    ]


def test_the_same_seed_writes_the_same_and_leaves_the_generator_alone(short: None) -> None:
    model, tokenizer = small_model(), tiny_tokenizer()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (model_rewriter(model, tokenizer)._first_lines([FACT.question], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert one == two != other


def test_a_random_model_falls_back_to_templates(short: None) -> None:
    rewriter = model_rewriter(small_model(), tiny_tokenizer(), "tiny")
    rewriter.tries = 2
    (texts,) = rewriter.rewrite([FACT], 2)
    assert len(texts) == 2
    assert all(problem(FACT, text) is None for text in texts)
    assert sum(n for name, n in rewriter.counts.items() if name.startswith("refused")) == 2 - rewriter.counts["lm"]
    assert rewriter.settings == {"rewriter": "lm", "rewriter_model": "tiny", "tries": 2}


def test_a_language_model_must_be_named() -> None:
    assert type(named_rewriter("templates", None, 3)) is Rewriter
    with pytest.raises(
        InputError, match="expected --rewriter-model with --rewriter lm, got none; give a hub id or a folder"
    ):
        named_rewriter("lm", None, 0)
