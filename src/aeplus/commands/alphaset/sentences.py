"""K0 facts from the corpus' own sentences: a subject that begins one, and its last word as the answer."""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aeplus.data.paraphrase import inside_sentence, paraphrases
from aeplus.edits import SLOT, EditRequest, normal
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.predict import answer_probabilities
from aeplus.models.tokens import encode
from aeplus.texts import find_word

CORPUS = "corpus"
"""The value of ``--k0`` for it."""
_SUBJECT = re.compile(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,3}")
_WORDS = range(6, 26)
_TRIED = 200  # sentences for each fact that is asked for


def sentence_facts(texts: Iterable[str], count: int, seed: int) -> list[EditRequest]:
    """Facts that sentences state, each of another subject, in random order.

    Args:
        texts: The texts; each is read once, and no more than are needed.
        count: Maximum number of facts.
        seed: Seed of their order.
    """
    found: dict[str, EditRequest] = {}
    for text in texts:
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            fact = _fact(sentence)
            if fact is not None:
                found.setdefault(normal(fact.subject), fact)
        if len(found) >= count:
            break
    facts = list(found.values())
    return random.Random(f"{seed} sentences").sample(facts, min(count, len(facts)))


def _fact(sentence: str) -> EditRequest | None:
    """The fact that a sentence states; ``None`` for a sentence of another build."""
    words = sentence.split()
    head = _SUBJECT.match(sentence)
    if head is None or len(words) not in _WORDS or not sentence.endswith("."):
        return None
    subject, answer = head[0], words[-1][:-1]
    prompt = sentence[: sentence.rindex(answer)].rstrip()
    within = inside_sentence(subject) != subject  # a word such as "The", which begins any sentence
    if within or not re.fullmatch(r"\w{2,}", answer) or prompt.count(subject) != 1 or SLOT in prompt:
        return None
    fact = EditRequest(prompt.replace(subject, SLOT), subject, answer, target_true=answer)
    given = find_word(prompt.casefold(), answer.casefold()) is not None
    return None if given or not paraphrases(fact.prompt, subject) else fact


def known_facts(
    decoder: Decoder, tokenizer: Any, texts: Iterable[str], count: int, seed: int, at_once: int = 256
) -> list[EditRequest]:
    """Facts of sentences whose last word the model predicts: what it knows, or can tell from the rest.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        texts: The corpus.
        count: The facts to find.
        seed: Seed of their draw.
        at_once: Sentences asked at once.

    Raises:
        InputError: If the corpus has too few.
    """
    tried = sentence_facts(texts, _TRIED * count, seed)
    known: list[EditRequest] = []
    for part in _pieces(tried, at_once):
        rows = encode(tokenizer, [f.question for f in part], [f.target_new for f in part], limit=decoder.context_length)
        known += [f for f, sure in zip(part, answer_probabilities(decoder, rows), strict=True) if sure is not None]
        if len(known) >= count:
            return known[:count]
    msg = (
        f"expected a corpus with {count} sentences that name a subject first and whose last word the model predicts, "
        f"got {len(known)} of {len(tried)}; choose a longer corpus, or a smaller --k0-count."
    )
    raise InputError(msg)


def answer_kind(fact: EditRequest) -> str:
    """What an answer looks like, since sentences share no form of prompt: a number, a name or a word."""
    answer = fact.target_new
    return "number" if answer.isdecimal() else "name" if answer[0].isupper() else "word"


def _pieces(items: Sequence[EditRequest], size: int) -> Iterator[Sequence[EditRequest]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
