"""What can be said of edits before any of them is made: odd tokens, contradictions, doubles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aeplus.data.request import EditRequest

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
