"""The kinds of streams, each a function from a pool to edits in their order."""

import random
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from aeplus.commands.alphaset.answers import Answers
from aeplus.commands.stream.pool import TESTS, Edited, Pool, opened, with_tests
from aeplus.edits import EditRequest, normal
from aeplus.errors import InputError

Residuals = Callable[[Sequence[EditRequest]], Sequence[float]]
"""‖r‖ of each of some edits."""


@dataclass(frozen=True)
class Draw:
    """What a stream is drawn by.

    Attributes:
        count: Its edits.
        seed: Seed of every choice.
        tests: The ways to ask for Generalization.
        share: ``rewrites``: the share of the facts that is edited again.
        batch: ``same_subject``: edits of a batch.
        candidates: ``inconsistent``: edits to measure; ``None`` for three times those taken.
        residuals: ``inconsistent``: measures them.
    """

    count: int
    seed: int = 0
    tests: Collection[str] = TESTS
    share: float = 0.5
    batch: int = 10
    candidates: int | None = None
    residuals: Residuals | None = None


@dataclass(frozen=True)
class DrawnStream:
    """A stream.

    Attributes:
        edits: In their order.
        facts: What must survive, with its present answers; for ``preserved`` alone.
    """

    edits: list[EditRequest]
    facts: list[EditRequest]


Chosen = list[tuple[EditRequest, EditRequest]]
"""Edits in their order, each with its record."""


def build_stream(kind: str, pool: Pool, draw: Draw) -> DrawnStream:
    """A stream with its test prompts.

    Args:
        kind: One of :data:`KINDS`.
        pool: Where to draw from.
        draw: What to draw by.

    Raises:
        InputError: If the pool has too few records of the kind.
    """
    chosen = KINDS[kind](pool, draw)
    edited = Edited.of([*(edit for edit, _ in chosen), *(record for _, record in chosen)])
    last = {edit.fact_key: number for number, (edit, _) in enumerate(chosen)}
    edits, bare = [], []
    for number, (edit, record) in enumerate(chosen):
        if last[edit.fact_key] != number:  # edited again later: it is not asked
            edits.append(edit.without_tests())
            continue
        near = pool.neighbors(edit, record, edited, draw.seed)
        if not near and pool.neighbors(edit, record, Edited.of([edit, record]), draw.seed):
            bare.append(edit.question)
        edits.append(with_tests(edit, record, near, pool.axes(edit, edited), draw.tests))
    if bare:
        warnings.warn(
            f"no neighbors are left to {len(bare)} of {len(edits)} edits (such as {bare[0]!r:.80}), as every prompt "
            "that the pool has for them names a subject that the stream edits; Specificity is not measured there: "
            "choose a smaller --count, or a larger pool",
            stacklevel=2,
        )
    return DrawnStream(edits, _named_facts(pool, chosen, draw.seed) if kind == "preserved" else [])


def _plain(pool: Pool, draw: Draw) -> Chosen:
    """One edit per subject."""
    return _unchanged(_taken(pool.one_per_subject(draw.seed), draw.count, "facts of different subjects"))


def _long(pool: Pool, draw: Draw) -> Chosen:
    """One edit per fact, in an order in which a shorter stream begins a longer one."""
    return _unchanged(_taken(pool.ordered(draw.seed), draw.count, "facts"))


def _rewrites(pool: Pool, draw: Draw) -> Chosen:
    """Edits in random order, then for a share of their facts the same in other words with another answer."""
    facts = max(round(draw.count / (1 + draw.share)), -(-draw.count // 2))  # each is edited again at most once
    again = draw.count - facts
    answers = Answers([*pool.records, *pool.spare])
    order = pool.one_per_subject(draw.seed)
    usable = [record for record in order if answers.others(record)]
    rewritten = _taken(usable, again, "facts of different subjects with two other answers")
    kept = [record for record in order if record not in rewritten]
    first = [*rewritten, *_taken(kept, facts - again, "further facts of different subjects")]
    rng = random.Random(f"{draw.seed} rewrites")
    names = {record.question: record.fact or f"fact-{number}" for number, record in enumerate(first)}
    named = [(replace(record, fact=names[record.question]), record) for record in first]
    rng.shuffle(named)
    later = []
    for record in rewritten:
        new = replace(
            opened(record),
            target_new=rng.choice(sorted(answers.others(record))),
            attribute="",
            aliases=(),
            axes=(),
            fact=names[record.question],
            id=f"{record.id}-again",
        )
        later.append((new, record))
    return [*named, *later]


def _same_subject(pool: Pool, draw: Draw) -> Chosen:
    """All facts of a subject: those of every other subject in one batch, the rest spread over the batches."""
    groups, have = [], 0
    available = pool.by_subject(draw.seed)
    for group in available:
        if have < draw.count:
            groups.append(group[: draw.count - have])
            have += len(groups[-1])
    if have < draw.count:
        what = "facts of subjects with several, whose true answers are known"
        raise _too_few(draw.count, have, what)
    sizes = [min(draw.batch, draw.count - start) for start in range(0, draw.count, draw.batch)]
    batches: list[list[EditRequest]] = [[] for _ in sizes]

    def roomiest() -> list[int]:
        room = [size - len(batch) for size, batch in zip(sizes, batches, strict=True)]
        return sorted((i for i in range(len(sizes)) if room[i] > 0), key=lambda i: (-room[i], i))

    for number, group in sorted(enumerate(groups), key=lambda pair: (pair[0] % 2, pair[0])):
        together = number % 2 == 0
        rest = list(group)
        while rest:
            places = roomiest()
            for place in places[:1] if together else places[: len(rest)]:
                room = sizes[place] - len(batches[place])
                part = rest[: room if together else 1]
                batches[place] += part
                rest = rest[len(part) :]
    rng = random.Random(f"{draw.seed} same_subject")
    for batch in batches:
        rng.shuffle(batch)
    return _unchanged([record for batch in batches for record in batch])


def _preserved(pool: Pool, draw: Draw) -> Chosen:
    """One edit of each subject that has further facts, which are named."""
    first = [group[0] for group in pool.by_subject(draw.seed)]
    return _unchanged(_taken(first, draw.count, "subjects with several facts, whose true answers are known"))


def _named_facts(pool: Pool, chosen: Chosen, seed: int) -> list[EditRequest]:
    """The further facts of the edited subjects, as they are."""
    edited = {record.question for _, record in chosen}
    subjects = {normal(record.subject) for _, record in chosen}
    return [
        replace(fact.without_tests(), target_new=str(fact.target_true), fact="")
        for group in pool.by_subject(seed)
        for fact in group
        if normal(fact.subject) in subjects and fact.question not in edited
    ]


def _inconsistent(pool: Pool, draw: Draw) -> Chosen:
    """Of some edits on different subjects those with the largest ‖r‖."""
    order = pool.one_per_subject(draw.seed)
    _taken(order, draw.count, "facts of different subjects")
    tried = order[: max(draw.count, 3 * draw.count if draw.candidates is None else draw.candidates)]
    if draw.residuals is None:
        msg = "expected a model to measure the residuals with, got none; give --model and --layers."
        raise InputError(msg)
    norms = draw.residuals([record.without_tests() for record in tried])
    largest = sorted(range(len(tried)), key=lambda i: (-norms[i], i))[: draw.count]
    return _unchanged([tried[i] for i in sorted(largest)])


KINDS: dict[str, Callable[[Pool, Draw], Chosen]] = {
    "plain": _plain,
    "rewrites": _rewrites,
    "same_subject": _same_subject,
    "preserved": _preserved,
    "inconsistent": _inconsistent,
    "long": _long,
}
"""The kinds; the command line lists them."""


def _unchanged(records: Sequence[EditRequest]) -> Chosen:
    return [(record, record) for record in records]


def _taken(records: Sequence[EditRequest], count: int, what: str) -> list[EditRequest]:
    if len(records) < count:
        raise _too_few(count, len(records), what)
    return list(records[:count])


def _too_few(count: int, have: int, what: str) -> InputError:
    return InputError(f"expected a pool with {count} {what}, got {have}; choose a smaller --count, or a larger pool.")
