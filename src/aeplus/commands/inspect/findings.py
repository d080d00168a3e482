"""What is found about an edit before it is made: tokenization, contradictions, duplicates, conflict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from aeplus.edits import EditRequest

LONG_TARGET = 4
"""A target of more tokens than this is noted: teacher forcing flatters it, and v* must steer all of them."""
PIECES = 3
"""A subject of more tokens per word than this is noted: its last token alone tells little of it."""


def token_notes(tokenizer: Any, requests: Sequence[EditRequest]) -> list[list[str]]:
    """What is odd about how each edit's prompt, subject and target are tokenized.

    Args:
        tokenizer: A fast tokenizer.
        requests: The edits; prompt, subject and target are looked at.

    Returns:
        For each edit, sentences; none where all is well.
    """
    heads = [request.question.rstrip() for request in requests]
    texts = [f"{head} {request.target_new.strip()}" for head, request in zip(heads, requests, strict=True)]
    spans = tokenizer(texts, return_offsets_mapping=True, padding=False, truncation=False)["offset_mapping"]
    return [
        _notes(text, [(a, b) for a, b in mine if b > a], request, len(head))
        for text, mine, request, head in zip(texts, spans, requests, heads, strict=True)
    ]


def _notes(text: str, spans: list[tuple[int, int]], request: EditRequest, head: int) -> list[str]:
    begin, end = request.prompt.index("{}"), request.subject_end
    mine = [(a, b) for a, b in spans if b > begin and a < end]
    if not mine:
        return [f"no token holds the subject {request.subject!r}"]
    notes = []
    if text[mine[0][0] : begin].strip():
        notes.append(f"the subject's first token {text[slice(*mine[0])]!r} begins before it")
    if mine[-1][1] > end:
        notes.append(f"the subject's last token {text[slice(*mine[-1])]!r} goes on behind it")
    words = len(request.subject.split())
    if len(mine) > PIECES * words:
        notes.append(f"the subject takes {len(mine)} tokens for {words} word{'s' if words > 1 else ''}")
    target = sum(b > head for _, b in spans)
    if target > LONG_TARGET:
        notes.append(f"the target takes {target} tokens")
    return notes


@dataclass(frozen=True)
class Clash:
    """Another edit of the same fact.

    Attributes:
        edit: Its place in the stream, from 1.
        batch: Its batch, from 1.
        target: Its target.
    """

    edit: int
    batch: int
    target: str


def clashes(requests: Sequence[EditRequest], batch_size: int) -> list[tuple[list[Clash], list[Clash]]]:
    """Edits of the same fact: the same ``fact``, or the same subject in the same prompt but for case and blanks.

    Returns:
        For each edit, those with another target (contradictions) and those with the same (doubles).
    """
    facts: dict[tuple[str, ...], list[int]] = {}
    keys = [_keys(request) for request in requests]
    for index, mine in enumerate(keys):
        for key in mine:
            facts.setdefault(key, []).append(index)
    found = []
    for index, request in enumerate(requests):
        others = sorted({other for key in keys[index] for other in facts[key] if other != index})
        told = [Clash(i + 1, i // batch_size + 1, requests[i].target_new) for i in others]
        wanted = _plain(request.target_new)
        found.append(([c for c in told if _plain(c.target) != wanted], [c for c in told if _plain(c.target) == wanted]))
    return found


def _keys(request: EditRequest) -> set[tuple[str, ...]]:
    named = {("fact", request.fact)} if request.fact else set()
    return {("prompt", _plain(request.prompt), _plain(request.subject)), *named}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def conflict_order(*columns: Sequence[float | None]) -> list[int]:
    """The places of edits, the most conflicting first: by the mean of their ranks in every column.

    The quantities have scales of their own, and ranks have one. What is ``None`` has no rank; equal values share one.
    """
    count = len(columns[0])
    total, known = np.zeros(count), np.zeros(count)
    for column in columns:
        values = np.array([np.nan if value is None else value for value in column], dtype=float)
        there = np.isfinite(values)
        ordered = np.sort(values[there])
        ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
        total[there] += ranks[there] / max(len(ordered), 1)
        known[there] += 1
    mean = total / np.maximum(known, 1)
    return sorted(range(count), key=lambda i: (-mean[i], i))


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
