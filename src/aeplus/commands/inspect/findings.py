"""Findings on an edit before editing: tokenization, contradictions, duplicates, conflict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aeplus.edits import SLOT, EditRequest, same_answer
from aeplus.models.tokens import Tokenized, tokenize
from aeplus.run.records import conflict_order
from aeplus.texts import joined

LONG_TARGET = 4
"""A target of more tokens than this is noted: teacher forcing overestimates it, and v* must steer all of them."""
PIECES = 3
"""A subject of more tokens per word than this is noted: its last token alone carries little of it."""


def token_notes(tokenizer: Any, requests: Sequence[EditRequest]) -> list[list[str]]:
    """Warnings on how each edit's prompt, subject and target are tokenized.

    Args:
        tokenizer: A fast tokenizer.
        requests: The edits; only prompt, subject and target are read.

    Returns:
        For each edit, its warnings.
    """
    texts = [joined(request.question, request.target_new, request.join) for request in requests]
    return [
        _notes(tokens, request, tokenizer.unk_token_id)
        for tokens, request in zip(tokenize(tokenizer, texts), requests, strict=True)
    ]


def _notes(tokens: Tokenized, request: EditRequest, unknown: int | None) -> list[str]:
    begin, end, text = request.prompt.index(SLOT), request.subject_end, tokens.text
    spans = [(a, b) for a, b in tokens.spans if b > a]
    own = [(a, b) for a, b in spans if b > begin and a < end]
    if not own:
        return [f"no token contains the subject {request.subject!r}"]
    notes = []
    if text[own[0][0] : begin].strip():
        notes.append(f"the subject's first token {text[slice(*own[0])]!r} begins before it")
    if own[-1][1] > end:
        notes.append(f"the subject's last token {text[slice(*own[-1])]!r} continues after it")
    last = tokens.last_before(end)
    if unknown is not None and last is not None and tokens.ids[last] == unknown:
        notes.append("the tokenizer does not know the subject's last characters: other such subjects share its key")
    words = len(request.subject.split())
    if len(own) > PIECES * words:
        notes.append(f"the subject takes {len(own)} tokens for {words} word{'s' if words > 1 else ''}")
    target = sum(b > len(request.question) for _, b in spans)
    if target > LONG_TARGET:
        notes.append(f"the target takes {target} tokens")
    return notes


@dataclass(frozen=True)
class Clash:
    """Another edit of the same fact.

    Attributes:
        edit: Its position in the stream, from 1.
        batch: Its batch, from 1.
        target: Its target.
    """

    edit: int
    batch: int
    target: str


def clashes(requests: Sequence[EditRequest], batch_size: int) -> list[tuple[list[Clash], list[Clash]]]:
    """Edits of the same fact.

    Returns:
        For each edit, those with another target (contradictions) and those with the same (duplicates).
    """
    facts: dict[tuple[str, ...], list[int]] = {}
    for index, request in enumerate(requests):
        facts.setdefault(request.fact_key, []).append(index)
    result = []
    for index, request in enumerate(requests):
        contradictions, duplicates = list[Clash](), list[Clash]()
        for other in facts[request.fact_key]:
            if other != index:
                target = requests[other].target_new
                same = same_answer(target, request.target_new)
                (duplicates if same else contradictions).append(Clash(other + 1, other // batch_size + 1, target))
        result.append((contradictions, duplicates))
    return result


@dataclass(frozen=True)
class Finding:
    """An edit on the unedited model. s is the mean over the edited layers of the largest |cosine| (Eq. 3).

    Attributes:
        edit: Its position in the stream, from 1.
        id: Its name in its source.
        batch: Its batch, from 1.
        prompt: The complete prompt.
        subject: The subject.
        target: The target.
        s_K0: s(k, K0), with preserved keys.
        free: ``‖P k‖ / ‖k‖``, the share of its key in the null space, mean over the edited layers; ``None`` for a
            method without a null space.
        conflicting: Whether that is below the method's ``aligned_share``, so that it conflicts with preserved
            knowledge; ``None`` for a method without a null space.
        nearest_K0: The preserved text whose last token's key is most similar, at the layer where s is largest.
        s_Kp: s(k, Kp), with the edits of previous batches.
        nearest_Kp: The position of the most similar of them; ``None`` in the first batch.
        s_batch: The same within its own batch.
        nearest_batch: The position of the most similar edit there; ``None`` if it is alone.
        residual: ‖r‖ at the last edited layer; ``None`` if no targets were optimized.
        smoothed: Whether its target will be smoothed; ``None`` if no targets were optimized.
        answer: The model's current answer.
        contradictions: Edits of the same fact with another target.
        doubles: Edits of the same fact with the same target.
        notes: Tokenization warnings.
        one_key: The positions of other edits of its batch that have the same key: the same subject, and prompts that
            agree up to its last token. They share one target.
        one_subject: The positions of edits of earlier batches that may be of the same fact in other words: the same
            subject, another answer, and no fact in common.
        layers: The three s at each edited layer.
        tokens: Prompt and target as tokens, readable; the tokens of one character have its number of parts.
        subject_token: Index of the token that ends the subject, where the edit is made.
        target_token: Index of the target's first token.
        length: ‖v*‖, of the MLP's output at the last edited layer; ``None`` if no targets were optimized, or the layer
            does not add it as it is.
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
    one_key: list[int] = field(default_factory=list)
    one_subject: list[int] = field(default_factory=list)
    layers: dict[str, list[float]] = field(default_factory=dict)
    free: float | None = None
    tokens: list[str] = field(default_factory=list)
    subject_token: int = 0
    target_token: int = 0
    length: float | None = None
    conflicting: bool | None = None

    @property
    def place(self) -> str:
        """The token at which the edit is made, and the target's tokens, all in quotes."""
        if not self.tokens:
            return ""
        target = " ".join(map(repr, self.tokens[self.target_token :]))
        return f"{self.tokens[self.subject_token]!r} → {target}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self)

    def remarks(self) -> list[str]:
        """Conflict, contradictions, duplicates, shared keys and tokenization warnings, a sentence each."""
        held = ["conflicts with preserved knowledge"] if self.conflicting else []
        against = [f"contradicts edit {c.edit} ({c.target}{self._when(c)})" for c in self.contradictions]
        again = [f"duplicate of edit {c.edit}{self._when(c)}" for c in self.doubles]
        shared = [f"has one key with edit {', '.join(map(str, self.one_key))}"] if self.one_key else []
        numbers = ", ".join(map(str, self.one_subject))
        maybe = [f"may change what edit {numbers} says, if they ask for one fact"] if numbers else []
        return [*held, *against, *again, *shared, *maybe, *self.notes]

    def _when(self, clash: Clash) -> str:
        return ", in the same batch" if clash.batch == self.batch else f", batch {clash.batch}"


def most_conflicting(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, contradictory edits first, then by the mean rank of s(k, K0), the larger s with edits, and ‖r‖."""
    ranked = conflict_order(
        [f.s_K0 for f in findings], [max(f.s_Kp, f.s_batch) for f in findings], [f.residual for f in findings]
    )
    return sorted((findings[i] for i in ranked), key=lambda f: not f.contradictions)
