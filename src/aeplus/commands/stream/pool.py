"""The pool of a stream: its records, split by subject, and the test prompts that they give each other."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from aeplus.data.paraphrase import inside_sentence
from aeplus.edits import SLOT, EditRequest, Probe, normal
from aeplus.errors import InputError
from aeplus.texts import find_word

SPLITS = ("test", "tuning", "all")
TESTS = ("openings", "statements", "rephrase")
"""Ways of asking for Generalization."""
TUNING_SHARE = 0.15
NEIGHBORS = 5
"""Prompts of other records that an edit without a neighborhood gets at most."""

REWRITE = "It is said that {}"
_OPENINGS = (REWRITE, "According to the latest news, {}")
_QUESTIONS = ("A visitor asked: {}", "The quiz goes on. {}")


@dataclass(frozen=True)
class Pool:
    """Records to draw a stream from.

    Attributes:
        records: Those that may be edited, one per fact.
        spare: Others, whose prompts may serve as neighbors where the records are too few.
        barred: Subjects about which nothing may be asked.
    """

    records: list[EditRequest]
    spare: list[EditRequest]
    barred: frozenset[str] = frozenset()

    @cached_property
    def _by_form(self) -> dict[str, list[EditRequest]]:
        """The records by their form of prompt, then the spare ones."""
        found: dict[str, list[EditRequest]] = defaultdict(list)
        for record in (*self.records, *self.spare):
            found[normal(record.prompt)].append(record)
        return found

    @cached_property
    def _of_subject(self) -> dict[str, list[EditRequest]]:
        found: dict[str, list[EditRequest]] = defaultdict(list)
        for record in self.records:
            found[normal(record.subject)].append(record)
        return found

    def ordered(self, seed: int) -> list[EditRequest]:
        """The records in an order of the seed, which depends neither on their number nor on their order."""
        return sorted(self.records, key=lambda record: _digest(f"{seed} {record.question} {record.target_new}"))

    def one_per_subject(self, seed: int) -> list[EditRequest]:
        """The first of every subject, in the order of the seed."""
        first: dict[str, EditRequest] = {}
        for record in self.ordered(seed):
            first.setdefault(normal(record.subject), record)
        return list(first.values())

    def by_subject(self, seed: int) -> list[list[EditRequest]]:
        """The facts of every subject that has several with different answers, in the order of the seed."""
        groups: dict[str, list[EditRequest]] = defaultdict(list)
        for record in self.ordered(seed):
            own = groups[normal(record.subject)]
            if all(_another_fact(record, other) for other in own):
                own.append(record)
        return [group for group in groups.values() if len(group) > 1]

    def neighbors(self, edit: EditRequest, record: EditRequest, edited: "Edited", seed: int) -> tuple[Probe, ...]:
        """What must stay as it is: prompts of other records, and other facts of the same subject.

        A record's own neighborhood is kept, without what the stream edits; where fewer than five prompts on other
        subjects are left, prompts of the same form on subjects that are not edited are added. The answer to what
        is added is the unedited model's, since a small model knows only a part of a pool.

        Args:
            edit: The edit.
            record: Its record.
            edited: What the stream edits.
            seed: Seed of the draw.
        """
        own = self._allowed(record.neighborhood, record.subject, edited)
        have = {normal(probe.prompt) for probe in own if not record.is_subject_of(probe.prompt)}
        more = [probe for probe in self._alike(record, edited, seed) if normal(probe.prompt) not in have]
        own += more[: max(0, NEIGHBORS - len(have))]
        same = [
            Probe(other.question) for other in self._of_subject[normal(record.subject)] if _another_fact(other, record)
        ]
        kept = {normal(probe.prompt): probe for probe in (*own, *same) if edited.keeps(probe, record.subject)}
        kept.pop(normal(edit.question), None)
        return tuple(kept.values())

    def axes(self, edit: EditRequest, edited: "Edited") -> tuple[Probe, ...]:
        """An edit's further test prompts, without those that ask for what the stream edits."""
        return tuple(self._allowed(edit.axes, edit.subject, edited))

    def _allowed(self, probes: Iterable[Probe], subject: str, edited: "Edited") -> list[Probe]:
        own = normal(subject)
        kept = (probe for probe in probes if edited.keeps(probe, subject))
        return [probe for probe in kept if not _names(normal(probe.prompt), self.barred, own)]

    def _alike(self, record: EditRequest, edited: "Edited", seed: int) -> list[Probe]:
        """Prompts of the same form: of the records while there are any, else of the spare ones."""
        spare = {id(other) for other in self.spare}
        alike = [o for o in self._by_form[normal(record.prompt)] if normal(o.subject) not in edited.subjects]
        alike.sort(key=lambda o: (id(o) in spare, _digest(f"{seed} {record.question} {o.question}")))
        return [Probe(question) for question in dict.fromkeys(other.question for other in alike)]


@dataclass(frozen=True)
class Edited:
    """What a stream edits.

    Attributes:
        subjects: The subjects.
        questions: The complete prompts, of rewrites those of the facts as well.
    """

    subjects: frozenset[str]
    questions: frozenset[str]

    @classmethod
    def of(cls, edits: Iterable[EditRequest]) -> "Edited":
        """Of some edits."""
        edits = list(edits)
        return cls(frozenset(normal(e.subject) for e in edits), frozenset(normal(e.question) for e in edits))

    def keeps(self, probe: Probe, subject: str) -> bool:
        """Whether a probe asks nothing that is edited: no edit's prompt, and no edited subject but the own."""
        text = normal(probe.prompt)
        return text not in self.questions and not _names(text, self.subjects, normal(subject))


def make_pool(requests: Sequence[EditRequest], split: str = "test") -> Pool:
    """The records of one side of a pool.

    A digest of the subject decides the side, so that whatever the seed, the kind or the rest of the file, no subject
    is edited in streams of both. The tuning side never sees a subject of the other, not even as a neighbor.

    Args:
        requests: Every record, in any order.
        split: ``test``, ``tuning`` (15 % of the subjects) or ``all``.

    Raises:
        InputError: If there is no such side, or it has no record.
    """
    if split not in SPLITS:
        msg = f"expected --split to be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {split!r}; choose one of them."
        raise InputError(msg)
    facts: dict[tuple[str, ...], EditRequest] = {}
    for request in requests:
        # The questions of a case test its edits together, and here they part.
        facts.setdefault(request.fact_key, replace(request, case="", axes=() if request.case else request.axes))
    tuning = [fact for fact in facts.values() if is_tuning(fact.subject)]
    test = [fact for fact in facts.values() if not is_tuning(fact.subject)]
    pools = {
        "test": Pool(test, tuning),
        "tuning": Pool(tuning, [], frozenset(normal(fact.subject) for fact in test)),
        "all": Pool(list(facts.values()), []),
    }
    if not pools[split].records:
        msg = f"expected records of the split {split!r}, got none among {len(facts)} facts; give a larger file."
        raise InputError(msg)
    return pools[split]


def is_tuning(subject: str) -> bool:
    """Whether a subject is of the tuning side."""
    return int(_digest(normal(subject))[:8], 16) < TUNING_SHARE * 16**8


def with_tests(
    edit: EditRequest,
    record: EditRequest,
    neighbors: tuple[Probe, ...],
    axes: tuple[Probe, ...],
    tests: Collection[str],
) -> EditRequest:
    """An edit with its test prompts.

    Args:
        edit: The edit, of which prompt and answer are taken.
        record: Its record, which has statements and rephrasings.
        neighbors: Its neighborhood.
        axes: Its further test prompts.
        tests: The ways to ask for Generalization, of :data:`TESTS`.
    """
    ways = {
        "openings": (*record.openings, record.question, *(opened(record, i).question for i in range(len(_OPENINGS)))),
        "statements": record.statements,
        "rephrase": record.rephrase,
    }
    own = normal(edit.question)
    asked = {
        way: tuple(dict.fromkeys(text for text in texts if way in tests and normal(text) != own))
        for way, texts in ways.items()
    }
    return replace(
        edit,
        neighborhood=neighbors,
        axes=axes,
        openings=asked["openings"],
        statements=asked["statements"],
        rephrase=asked["rephrase"],
    )


def opened(record: EditRequest, opening: int = 0) -> EditRequest:
    """The record with its prompt behind an opening; questions have others than statements."""
    if "?" in record.prompt:
        return replace(record, prompt=_QUESTIONS[opening].replace(SLOT, record.prompt))
    return replace(record, prompt=_OPENINGS[opening].replace(SLOT, inside_sentence(record.prompt)))


def _names(text: str, subjects: Iterable[str], own: str) -> bool:
    """Whether a text names one of some subjects, as a word, which the own subject does not name."""
    return any(s in text and find_word(text, s) is not None and find_word(own, s) is None for s in subjects)


def _another_fact(record: EditRequest, other: EditRequest) -> bool:
    """Whether two records of one subject are known to be of different facts, by their true answers."""
    a, b = record.target_true, other.target_true
    return a is not None and b is not None and normal(a) != normal(b) and normal(record.prompt) != normal(other.prompt)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
