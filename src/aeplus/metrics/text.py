"""Metrics of generated text: whether the answer comes first, fluency and consistency (ROME, section 3.4)."""

import importlib.util
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.metrics.mean import PromptMean, Share
from aeplus.texts import is_word

# ---- whether the answer comes first

_ARTICLES = frozenset(("a", "an", "the"))


def normalize_text(text: str, articles: bool = False) -> str:
    """The bare words of a text: lower case, without punctuation, extra whitespace or English articles (as in SQuAD).

    Apostrophes and the periods after single letters are removed, so that ``U.S.`` becomes ``us``; those between digits
    are kept (``3.5``). Other punctuation separates words.

    Args:
        text: The text.
        articles: Whether to keep the articles.

    Example:
        >>> normalize_text(" The  U.S. president's wife.")
        'us presidents wife'
    """
    text = re.sub(r"['’]|(?<=\b[^\W\d_])\.", "", unicodedata.normalize("NFKC", text).casefold())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)
    plain = "".join(
        " " if unicodedata.category(letter).startswith("P") and letter != "." else letter for letter in text
    )
    return " ".join(word for word in plain.split() if articles or word not in _ARTICLES)


def answer_comes_first(text: str, answers: Sequence[str]) -> bool:
    """Whether a continuation begins with one of the answers, normalized, as whole words.

    Example:
        >>> answer_comes_first(" the Eiffel Tower, which", ["Eiffel tower"]), answer_comes_first("Romeo", ["Rome"])
        (True, False)
    """
    return any(
        _begins_with(normalize_text(text, articles), normalize_text(answer, articles))
        for answer in answers
        for articles in (False, True)  # with articles, for an answer that is one
    )


def answer_is_named(text: str, answers: Sequence[str]) -> bool:
    """Whether a continuation contains one of the answers anywhere, normalized, as whole words.

    Example:
        >>> answer_is_named("It is the Eiffel Tower.", ["Eiffel tower"]), answer_is_named("to Romeo", ["Rome"])
        (True, False)
    """
    return any(
        _contains(normalize_text(text, articles), normalize_text(answer, articles))
        for answer in answers
        for articles in (False, True)
    )


def _contains(text: str, answer: str) -> bool:
    found = re.finditer(re.escape(answer), text) if answer else iter(())
    return any(_whole(text, *match.span()) for match in found)


def _begins_with(text: str, answer: str) -> bool:
    return bool(answer) and text.startswith(answer) and _whole(text, 0, len(answer))


def _whole(text: str, start: int, end: int) -> bool:
    """Whether a part of a normalized text is whole words, and not one half of a number such as 3.5."""
    return is_word(text, start, end) and "." not in (text[max(0, start - 1) : start], text[end : end + 1])


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
        """Counts continuations, each with its accepted answers and the index of its edit."""
        hits = [self.right(text, accepted) for text, accepted in zip(texts, answers, strict=True)]
        self.record(torch.tensor(hits, dtype=torch.float32), edits)

    @staticmethod
    def right(text: str, answers: Sequence[str]) -> bool:
        """Whether a continuation is right."""
        return answer_comes_first(text, answers)


class NamingSuccess(GenerationSuccess):
    """Share of prompts, in percent, whose greedy continuation contains an accepted answer.

    Example:
        >>> metric = NamingSuccess()
        >>> metric.update(["It is Rome, of course.", "Romeo"], [["Rome"], ["Rome"]])
        >>> float(metric.compute())
        50.0
    """

    @staticmethod
    def right(text: str, answers: Sequence[str]) -> bool:
        """Whether a continuation is right."""
        return answer_is_named(text, answers)


# ---- fluency

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def words_and_punctuation(text: str) -> list[str]:
    """The words and punctuation marks of a text.

    (ROME's code uses NLTK, which needs a download and splits contractions differently.)

    Example:
        >>> words_and_punctuation("Rome, isn't it?")
        ['Rome', ',', 'isn', "'", 't', 'it', '?']
    """
    return re.findall(r"\w+|[^\w\s]", text)


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """The entropy in bits of the frequencies of a text's n-grams; 0 for a text with fewer than two.

    Example:
        >>> ngram_entropy("a b a b c".split(), 2)
        1.5
    """
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return sum(count / total * math.log2(total / count) for count in counts.values())


def weighted_entropy(text: str) -> float:
    """The fluency of a text in bits: the mean of 2/3 times the entropy of 2-grams and 4/3 times that of 3-grams.

    The formula of ROME's code. Papers report it times 100.

    Example:
        >>> weighted_entropy("the the the the the")
        0.0
    """
    tokens = words_and_punctuation(text)
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
        """Counts generated texts, each with the index of its edit."""
        self.record(torch.tensor([weighted_entropy(text) for text in texts]), edits)


# ---- consistency


def require_sklearn() -> None:
    """Checks that scikit-learn is installed.

    Raises:
        InputError: If it is not.
    """
    if importlib.util.find_spec("sklearn") is None:
        msg = "expected scikit-learn for consistency, got an installation without it; run: pip install scikit-learn."
        raise InputError(msg)


def tfidf_cosine(vectorizer: Any, texts: Sequence[str], references: Sequence[str]) -> Tensor:
    """Cosine similarity between the TF-IDF vectors of texts and of their references.

    Args:
        vectorizer: A fitted ``TfidfVectorizer`` of scikit-learn, whose vectors have length 1.
        texts: Generated texts.
        references: A reference text for each.

    Returns:
        ``[b]``; 0 for a pair that has no word in common.
    """
    product = vectorizer.transform(texts).multiply(vectorizer.transform(references))
    return torch.tensor(product.sum(1)).flatten().float()


class Consistency(PromptMean):
    """Mean TF-IDF cosine similarity between generated and reference texts, in percent.

    Args:
        documents: Texts from which the inverse document frequencies are computed.

    Raises:
        InputError: If scikit-learn is missing or the documents hold no words.

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
            msg = f"expected reference texts that hold words, got none ({error}); pass other references."
            raise InputError(msg) from error

    def update(self, texts: Sequence[str], references: Sequence[str], edits: Sequence[int] | None = None) -> None:
        """Counts generated texts, each with a reference text and the index of its edit."""
        self.record(tfidf_cosine(self.vectorizer, texts, references), edits)
