"""What is found about an edit before it is made."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aeplus.analysis.nearest import conflict_order
from aeplus.analysis.notes import Clash


@dataclass(frozen=True)
class Finding:
    """An edit on the unedited model. s is the mean over the edited layers of the largest |cosine| (Eq. 3).

    Attributes:
        edit: Its place in the stream, from 1.
        id: What the source calls it.
        batch: Its batch, from 1.
        prompt: The prompt with the subject in its place.
        subject: The subject.
        target: The target.
        s_K0: s(k, K0), with preserved keys.
        nearest_K0: The preserved text whose last token's key is most like the edit's, at the layer where it is most so.
        s_Kp: s(k, Kp), with the edits of earlier batches.
        nearest_Kp: The place of the one among them that it is most like; ``None`` in the first batch.
        s_batch: The same within its own batch.
        nearest_batch: The place of the edit there that it is most like; ``None`` if it is alone.
        residual: ‖r‖ at the last edited layer; ``None`` if no targets were learnt.
        smoothed: Whether its target will be smoothed; ``None`` if no targets were learnt.
        answer: What the model says now.
        contradictions: Edits of the same fact with another target.
        doubles: Edits of the same fact with the same target.
        notes: What is odd about its tokens.
        layers: The three s at each edited layer.
    """

    edit: int
    id: str
    batch: int
    prompt: str
    subject: str
    target: str
    s_K0: float
    nearest_K0: str
    s_Kp: float
    nearest_Kp: int | None
    s_batch: float
    nearest_batch: int | None
    residual: float | None
    smoothed: bool | None
    answer: str
    contradictions: list[Clash] = field(default_factory=list)
    doubles: list[Clash] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layers: dict[str, list[float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self)

    def remarks(self) -> list[str]:
        """Contradictions, doubles and odd tokens, a sentence each."""
        against = [f"contradicts edit {c.edit} ({c.target}{self._when(c)})" for c in self.contradictions]
        again = [f"the same as edit {c.edit}{self._when(c)}" for c in self.doubles]
        return [*against, *again, *self.notes]

    def _when(self, clash: Clash) -> str:
        return ", in the same batch" if clash.batch == self.batch else f", batch {clash.batch}"


def most_conflicting(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, contradictory edits first, then by the mean rank of s(k, K0), the larger s with edits, and ‖r‖."""
    ranked = conflict_order(
        [f.s_K0 for f in findings], [max(f.s_Kp, f.s_batch) for f in findings], [f.residual for f in findings]
    )
    return sorted((findings[i] for i in ranked), key=lambda f: not f.contradictions)
