"""Reference texts of consistency: what text about an answer looks like, from a file or out of a corpus."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aeplus.edits import EditRequest, normal
from aeplus.errors import InputError
from aeplus.utils.jsonl import parse_json, read_utf8

_EXPECTED = (
    'an object like {"Rome": ["text", …]}, lines like {"target": "Rome", "text": "…"}, or ROME\'s attribute snippets'
)
_SNIPPETS = {"relation_id", "target_id", "samples"}


@dataclass(frozen=True)
class References:
    """Reference texts by answer.

    Attributes:
        documents: All texts; inverse document frequencies are computed from them.
        by_answer: For each answer, casefolded, the indices of its texts in ``documents``; the answers of ROME's
            attribute snippets are called as :attr:`~aeplus.edits.EditRequest.attribute` has them.
    """

    documents: Sequence[str] = ()
    by_answer: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __getitem__(self, answer: str) -> str | None:
        """An answer's texts, joined; ``None`` where there is none."""
        indices = self.by_answer.get(normal(answer))
        return " ".join(self.documents[index] for index in indices) if indices else None

    def of(self, request: EditRequest) -> str | None:
        """The texts of an edit's attribute, or else of its answer; ``None`` where there is none."""
        found = self[request.attribute] if request.attribute else None
        return found if found is not None else self[request.target_new]


def read_references(path: Path) -> References:
    """Reads reference texts: a JSON object of answer to text or texts, or JSON Lines of ``target`` and ``text``.

    ROME's ``attribute_snippets.json`` (https://rome.baulab.info/data/dsets/attribute_snippets.json) is a list of
    objects with ``relation_id``, ``target_id`` and ``samples``, each with a ``text``.

    Raises:
        InputError: If the file cannot be read or holds something else.
    """
    documents: list[str] = []
    by_answer: dict[str, list[int]] = defaultdict(list)
    for answer, text in _pairs(path):
        by_answer[normal(answer)].append(len(documents))
        documents.append(text)
    if not documents:
        msg = f"expected {_EXPECTED} in {path}, got no text; add some."
        raise InputError(msg)
    return References(documents, dict(by_answer))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The answers and texts of a file, one pair per text."""
    for record in _records(path):
        if not isinstance(record, dict):
            msg = f"expected {_EXPECTED} in {path}, got {record!r:.40}; correct it."
            raise InputError(msg)
        for answer, value in _entries(record):
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in (answer, *texts)):
                msg = f"expected {_EXPECTED} in {path}, got {value!r:.40} for {answer!r:.40}; correct it."
                raise InputError(msg)
            yield from ((answer, text) for text in texts)


def _entries(record: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
    """The answers of a record, each with its text or texts."""
    if record.keys() >= _SNIPPETS:
        samples = record["samples"]
        whole = isinstance(samples, list) and all(isinstance(sample, dict) for sample in samples)
        texts = [sample.get("text") for sample in samples] if whole else None
        return [(f"{record['relation_id']} {record['target_id']}", texts)]
    return [(record["target"], record["text"])] if {"target", "text"} <= record.keys() else record.items()


def _records(path: Path) -> list[Any]:
    content = read_utf8(path, _EXPECTED)
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    try:
        whole = parse_json(content, path, 1, _EXPECTED)
    except InputError:
        if len(lines) < 2:
            raise
        return [parse_json(line, path, number, _EXPECTED) for number, line in lines]  # not one value: JSON Lines
    return whole if isinstance(whole, list) else [whole]


def corpus_references(
    paragraphs: Iterable[str], answers: Sequence[str], per_answer: int = 20, limit: int = 5000
) -> References:
    """Takes the paragraphs of a corpus that name an answer, as whole words in any case, as its reference texts.

    Args:
        paragraphs: The corpus.
        answers: All answers that will be looked up.
        per_answer: Maximum number of paragraphs per answer; the first ones are taken.
        limit: Maximum number of paragraphs read.

    Example:
        >>> references = corpus_references(["All roads lead to Rome.", "Romeo is young."], ["Rome", "Oslo"])
        >>> references["rome"], references["Oslo"]
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
            if len(by_words[words]) < per_answer:
                by_words[words].append(number)
    return References(documents, {normal(a): by_words[_words(a)] for a in answers if _words(a) in by_words})


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", normal(text)))
