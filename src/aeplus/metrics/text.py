"""Metrics of generated text: whether the answer comes first, fluency and consistency (ROME, section 3.4)."""

import importlib.util
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.metrics.mean import PromptMean, Share

_ARTICLES = frozenset(("a", "an", "the"))


def normalise(text: str, articles: bool = False) -> str:
    """A text's words alone: no capitals, punctuation, doubled blanks or English articles (as SQuAD compares answers).

    Points and apostrophes vanish, so that ``U.S.`` is ``us``; other punctuation parts words.

    Args:
        text: The text.
        articles: Whether to keep the articles.

    Example:
        >>> normalise(" The  U.S. president's wife.")
        'us presidents wife'
    """
    text = re.sub(r"[.'’]", "", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in text)
    return " ".join(word for word in plain.split() if articles or word not in _ARTICLES)


def answer_comes_first(text: str, answers: Sequence[str]) -> bool:
    """Whether a continuation begins with one of the answers, normalised, as whole words.

    Example:
        >>> answer_comes_first(" the Eiffel Tower, which", ["Eiffel tower"]), answer_comes_first("Romeo", ["Rome"])
        (True, False)
    """
    return any(
        _begins(normalise(text, articles), normalise(answer, articles))
        for answer in answers
        for articles in (False, True)  # with them, for an answer that is one
    )


def _begins(text: str, answer: str) -> bool:
    if not answer or not text.startswith(answer):
        return False
    # Scripts without capitals often have no blanks between words either.
    cased = answer[-1].isdigit() or answer[-1].lower() != answer[-1].upper()
    return not cased or not text[len(answer) : len(answer) + 1].isalnum()


class GenerationSuccess(Share):
    """Share of prompts, in percent, whose greedy continuation begins with an accepted answer.

    Example:
        >>> metric = GenerationSuccess()
        >>> metric.update(["Rome, of course", "a city"], [["Rome"], ["Oslo", "Christiania"]])
        >>> float(metric.compute())
        50.0
    """

    def update(
        self, texts: Sequence[str], answers: Sequence[Sequence[str]], edits: Sequence[int] | None = None
    ) -> None:
        """Counts some continuations, with the accepted answers and the number of the edit of each."""
        hits = [answer_comes_first(text, accepted) for text, accepted in zip(texts, answers, strict=True)]
        self.record(torch.tensor(hits, dtype=torch.float32), edits)


_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def words_and_marks(text: str) -> list[str]:
    """The words and punctuation marks of a text.

    (ROME's code asks NLTK, which needs a download; it cuts contractions otherwise.)

    Example:
        >>> words_and_marks("Rome, isn't it?")
        ['Rome', ',', 'isn', "'", 't', 'it', '?']
    """
    return re.findall(r"\w+|[^\w\s]", text)


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """The entropy in bits of the frequencies of a text's n-grams; 0 for a text with less than two.

    Example:
        >>> ngram_entropy("a b a b c".split(), 2)
        1.5
    """
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return sum(count / total * math.log2(total / count) for count in counts.values())


def weighted_entropy(text: str) -> float:
    """The fluency of a text in bits: the mean of 2/3 times the entropy of 2-grams and 4/3 times that of 3-grams.

    The formula of ROME's code. Papers print it times 100.

    Example:
        >>> weighted_entropy("the the the the the")
        0.0
    """
    tokens = words_and_marks(text)
    return sum(weight * ngram_entropy(tokens, n) for n, weight in _WEIGHTS.items()) / len(_WEIGHTS)


class Fluency(PromptMean):
    """Mean weighted n-gram entropy of texts, in bits.

    Example:
        >>> metric = Fluency()
        >>> metric.update(["a b a b c", "a a a a a"])
        >>> round(float(metric.compute()), 4)
        0.7783
    """

    plot_lower_bound = 0.0

    def update(self, texts: Sequence[str], edits: Sequence[int] | None = None) -> None:
        """Counts some generated texts, with the number of each text's edit."""
        self.record(torch.tensor([weighted_entropy(text) for text in texts]), edits)


@dataclass(frozen=True)
class References:
    """Texts that say what text on an answer is about.

    Attributes:
        documents: All texts; word frequencies are taken from them.
        by_answer: For each answer, casefolded, the places of its texts in ``documents``.
    """

    documents: Sequence[str] = ()
    by_answer: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __getitem__(self, answer: str) -> str | None:
        """An answer's texts, joined; ``None`` where there is none."""
        places = self.by_answer.get(answer.casefold().strip())
        return " ".join(self.documents[place] for place in places) if places else None


def read_references(path: Path) -> References:
    """Reads reference texts: a JSON object of answer to text or texts, or JSON Lines of ``target`` and ``text``.

    Raises:
        InputError: If the file is missing or holds something else.
    """
    expected = 'an object like {"Rome": ["text", …]} or lines like {"target": "Rome", "text": "…"}'
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"expected reference texts in {path}, but it cannot be read ({error}); check the path."
        raise InputError(msg) from error
    try:
        pairs = _pairs(content)
    except (ValueError, TypeError, KeyError) as error:
        msg = f"expected {expected} in {path}, but it holds something else ({error}); correct it."
        raise InputError(msg) from error
    documents: list[str] = []
    by_answer: dict[str, list[int]] = defaultdict(list)
    for answer, text in pairs:
        by_answer[answer.casefold().strip()].append(len(documents))
        documents.append(text)
    if not documents:
        msg = f"expected {expected} in {path}, but it holds no text; add some."
        raise InputError(msg)
    return References(documents, dict(by_answer))


def _pairs(content: str) -> list[tuple[str, str]]:
    try:
        whole = json.loads(content)
        records = whole if isinstance(whole, list) else [whole]
    except ValueError:
        records = [json.loads(line) for line in content.split("\n") if line.strip()]
    found: list[tuple[str, Any]] = []
    for record in records:
        if not isinstance(record, dict):
            msg = f"{record!r:.40} is no object"
            raise TypeError(msg)
        found += [(record["target"], record["text"])] if {"target", "text"} <= record.keys() else record.items()
    pairs = [(a, text) for a, texts in found for text in ([texts] if isinstance(texts, str) else texts)]
    if not all(isinstance(a, str) and isinstance(text, str) for a, text in pairs):
        msg = "a text that is none"
        raise TypeError(msg)
    return pairs


def corpus_references(
    paragraphs: Iterable[str], answers: Sequence[str], most: int = 20, limit: int = 5000
) -> References:
    """Takes a corpus' paragraphs that name an answer, word for word and whatever the case, as its reference texts.

    Args:
        paragraphs: The corpus.
        answers: All answers that will be asked for.
        most: Paragraphs per answer, from the first.
        limit: How many paragraphs are looked at.

    Example:
        >>> found = corpus_references(["All roads lead to Rome.", "Romeo is young."], ["Rome", "Oslo"])
        >>> found["rome"], found["Oslo"]
        ('All roads lead to Rome.', None)
    """
    starting: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for answer in answers:
        if words := _words(answer):
            starting[words[0]].add(words)
    documents: list[str] = []
    by_words: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, paragraph in enumerate(paragraphs):
        if number == limit:
            break
        documents.append(paragraph)
        text = _words(paragraph)
        named = {w for i, word in enumerate(text) for w in starting.get(word, ()) if text[i : i + len(w)] == w}
        for words in named:
            if len(by_words[words]) < most:
                by_words[words].append(number)
    return References(documents, {a.casefold().strip(): by_words[_words(a)] for a in answers if _words(a) in by_words})


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def require_sklearn() -> None:
    """Says what to install where scikit-learn is missing.

    Raises:
        InputError: If it is.
    """
    if importlib.util.find_spec("sklearn") is None:
        msg = "consistency needs scikit-learn, which is not installed; run: pip install 'aeplus[figures]'."
        raise InputError(msg)


def tfidf_cosine(vectorizer: Any, texts: Sequence[str], references: Sequence[str]) -> Tensor:
    """Cosines between the TF-IDF vectors of texts and of their references, ``[b]``; 0 where they share no word.

    Args:
        vectorizer: A fitted ``TfidfVectorizer`` of scikit-learn, whose vectors have length 1.
        texts: Generated texts.
        references: A reference text for each.
    """
    product = vectorizer.transform(texts).multiply(vectorizer.transform(references))
    return torch.tensor(product.sum(1)).flatten().float()


class Consistency(PromptMean):
    """Mean TF-IDF cosine between generated and reference texts, in percent.

    Args:
        documents: Texts that the words' (inverse document) frequencies are taken from.

    Raises:
        InputError: If scikit-learn is missing.

    Example:
        >>> metric = Consistency(["Rome is old.", "Oslo is cold."])
        >>> metric.update(["Rome is old.", "Rome"], ["Rome is old.", "Oslo"])
        >>> round(float(metric.compute()), 3)
        50.0
    """

    scale = 100.0
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0

    def __init__(self, documents: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_sklearn()
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            self.vectorizer = TfidfVectorizer().fit(documents)
        except ValueError as error:  # no words at all
            msg = f"expected reference texts of words, but there are none ({error}); give other references."
            raise InputError(msg) from error

    def update(self, texts: Sequence[str], references: Sequence[str], edits: Sequence[int] | None = None) -> None:
        """Counts some generated texts, with a reference text and the number of the edit of each."""
        self.record(tfidf_cosine(self.vectorizer, texts, references), edits)
