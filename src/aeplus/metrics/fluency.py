"""Fluency: the entropy of the n-grams of freely generated text (ROME, section 3.4).

A model that repeats itself, as a damaged one does, has little.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

from aeplus.metrics.mean import PromptMean

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
