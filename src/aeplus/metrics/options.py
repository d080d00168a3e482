"""What the suite measures, and how."""

from dataclasses import dataclass
from typing import Literal, get_args

from aeplus.errors import InputError
from aeplus.options import require_not_negative, require_positive

Protocol = Literal["strict", "tokens", "magnitude", "generation", "fluency", "axes", "drift"]


@dataclass(frozen=True)
class SuiteOptions:
    """What :class:`~aeplus.metrics.suite.Suite` measures.

    Attributes:
        protocols: ``strict`` and ``tokens``: every answer token, or the share of them, is the top-1 prediction;
            ``magnitude``: CounterFact's own, which answer is likelier; ``generation``: the answer comes first in
            greedy text; ``fluency``: n-gram entropy, and consistency with reference texts; ``axes``: success axis by
            axis; ``drift``: perplexity of held-out text and divergence on unrelated prompts.
        generation_length: Tokens generated for ``generation``; at least as many as the longest answer has.
        fluency_length: Tokens generated for ``fluency``.
        references: Reference texts of consistency: a JSON object of answer to texts, or JSON Lines of ``target`` and
            ``text``. Without it, paragraphs of ``corpus`` that name the answer.
        corpus: Text as ``model.preserved.corpus`` takes it.
        skip_tokens: Tokens at the corpus' beginning that are not held out, as statistics have read them.
        held_out: Held-out text for ``drift``, of which nothing is skipped; without it ``corpus`` behind
            ``skip_tokens``.
        held_out_tokens: About how many tokens of it to take.
        drift_prompts: Unrelated prompts for ``drift``: beginnings of the held-out text's sentences.
        bootstrap_samples: Means drawn for each interval; 0 for no intervals.
        confidence: The share of them within the interval.
        seed: Seed of everything drawn here.
        batch_tokens: Tokens run at once.
    """

    protocols: tuple[Protocol, ...] = ("strict", "tokens", "magnitude", "generation", "axes")
    generation_length: int = 16
    fluency_length: int = 100
    references: str | None = None
    corpus: str | None = None
    skip_tokens: int = 0
    held_out: str | None = None
    held_out_tokens: int = 4000
    drift_prompts: int = 50
    bootstrap_samples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    batch_tokens: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", tuple(self.protocols))
        known = get_args(Protocol)
        if unknown := sorted(set(self.protocols) - set(known)):
            msg = f"expected protocols out of {', '.join(known)}, but {', '.join(unknown)} came; check the names."
            raise InputError(msg)
        require_positive(self, "evaluation", "generation_length", "fluency_length", "held_out_tokens", "batch_tokens")
        require_not_negative(self, "evaluation", "skip_tokens", "drift_prompts", "bootstrap_samples")
        if not 0 < self.confidence < 1:
            msg = f"evaluation.confidence must lie between 0 and 1, but {self.confidence} came; 0.95 is usual."
            raise InputError(msg)

    @property
    def sampling(self) -> tuple[int, float, int]:
        """What an interval takes: samples, confidence, seed."""
        return self.bootstrap_samples, self.confidence, self.seed
