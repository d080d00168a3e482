"""How the tasks are measured."""

from dataclasses import dataclass
from typing import Literal

from aeplus.errors import InputError
from aeplus.options import require_not_negative, require_positive

Scoring = Literal["likelihood", "generation"]


@dataclass(frozen=True)
class CapabilityOptions:
    """How many items of a task are put to the model, and how its answer is read.

    Attributes:
        limit: Items of each task: the first so many after the shuffle, whatever their classes; ``None`` for all.
        shots: Solved examples before each item. They are drawn from the items that are not scored.
        scoring: ``likelihood``: the answer is the likeliest option. ``generation``: it is the first option named
            in a greedy continuation.
        normalize: For ``likelihood``: an option's score is the ``mean`` of its tokens' log-likelihoods (as in the
            published evaluation) or their ``sum``. Options of one token each score the same either way.
        new_tokens: For ``generation``: tokens of the continuation.
        seed: Seed of the shuffle.
        batch_tokens: Tokens run at once.

    Raises:
        InputError: If a number is out of range or a word unknown.
    """

    limit: int | None = 100
    shots: int = 0
    scoring: Scoring = "likelihood"
    normalize: Literal["mean", "sum"] = "mean"
    new_tokens: int = 5
    seed: int = 0
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        group = "capabilities"
        require_positive(self, group, "new_tokens", "batch_tokens", *([] if self.limit is None else ["limit"]))
        require_not_negative(self, group, "shots")
        for name, known in (("scoring", ("likelihood", "generation")), ("normalize", ("mean", "sum"))):
            if getattr(self, name) not in known:
                came = getattr(self, name)
                msg = f"{group}.{name} must be {' or '.join(known)}, but {came!r} came; choose one of them."
                raise InputError(msg)
