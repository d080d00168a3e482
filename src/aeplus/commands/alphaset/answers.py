"""The material of the sets: sizes, one record per subject, and other answers of the right kind for a fact."""

import random
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

from aeplus.data.formats.fields import placed
from aeplus.data.paraphrase import Rewriter, gives_away, paraphrases
from aeplus.edits import EditRequest, held_out_prompts, normal
from aeplus.errors import InputError
from aeplus.utils.progress import Progress


@dataclass(frozen=True)
class Sizes:
    """Records with conflict and other records (fill) of each set; the defaults are those of AlphaEdit+'s Table 5.

    The fill of the second set contains the previous edits that its conflicting records rewrite.

    Attributes:
        conflict: Records with conflict in AlphaSet1, 2 and 3.
        fill: Other records.

    Raises:
        InputError: If a number is below 1, or the second set's fill is smaller than its conflicting part.
    """

    conflict: tuple[int, int, int] = (200, 200, 300)
    fill: tuple[int, int, int] = (800, 800, 1200)

    def __post_init__(self) -> None:
        if min(*self.conflict, *self.fill) < 1 or self.fill[1] < self.conflict[1]:
            msg = (
                f"expected at least one record in each part, and in the second set no more with conflict than without, "
                f"got {self}; write for example 20+80,20+80,30+120."
            )
            raise InputError(msg)

    def __str__(self) -> str:
        return ", ".join(f"{a} + {b}" for a, b in zip(self.conflict, self.fill, strict=True))

    @classmethod
    def scaled(cls, scale: float) -> "Sizes":
        """Table 5's sizes times ``scale``, rounded, at least one record in each part."""
        if not 0 < scale <= 100:
            msg = f"expected a scale above 0 and up to 100, got {scale}; 0.1 makes sets of 100, 100 and 150."
            raise InputError(msg)
        whole = cls()
        conflict, fill = ([max(1, round(n * scale)) for n in part] for part in (whole.conflict, whole.fill))
        return cls((conflict[0], conflict[1], conflict[2]), (fill[0], fill[1], fill[2]))

    @classmethod
    def parse(cls, text: str) -> "Sizes":
        """Sizes as text: ``200+800,200+800,300+1200``.

        Raises:
            InputError: If the text is not of this form.
        """
        numbers = [int(n) for n in re.findall(r"\d+", text)]
        if not re.fullmatch(r"\s*\d+\s*\+\s*\d+\s*(,\s*\d+\s*\+\s*\d+\s*){2}", text):
            msg = f"expected three sizes (conflict + fill), got {text!r}; write for example 200+800,200+800,300+1200."
            raise InputError(msg)
        a, b, c, d, e, f = numbers
        return cls((a, c, e), (b, d, f))

    @property
    def edits(self) -> int:
        """Number of edits of the pool that the three sets take; none is taken twice."""
        return sum(self.fill) + self.conflict[2]


@dataclass(frozen=True)
class Supply:
    """The amount of material.

    Attributes:
        edits: Edits on different subjects.
        priors: Those of them that can be rewritten with another answer.
        facts: Preserved facts that can be.
    """

    edits: int
    priors: int
    facts: int

    def suffices(self, sizes: Sizes) -> bool:
        """Whether it is enough for sets of these sizes."""
        return self.edits >= sizes.edits and self.priors >= sizes.conflict[1] and self.facts >= sizes.conflict[0]

    def check(self, sizes: Sizes) -> None:
        """Checks that it is enough for sets of these sizes.

        Raises:
            InputError: If not; the message names the largest scale that works.
        """
        if self.suffices(sizes):
            return
        works = next((n / 1000 for n in range(1000, 0, -1) if self.suffices(Sizes.scaled(n / 1000))), None)
        advice = f"provide more, or use --scale {works:g}, the largest that works" if works else "provide more"
        msg = (
            f"expected {sizes.edits} edits on different subjects for sets of {sizes}, {sizes.conflict[1]} of them with "
            f"another answer to their form of prompt, and {sizes.conflict[0]} such K0 facts, got {self.edits}, "
            f"{self.priors} and {self.facts}; {advice}."
        )
        raise InputError(msg)


def one_per_subject(requests: Iterable[EditRequest], taken: Container[str] = ()) -> list[EditRequest]:
    """The first edit of every subject that is not ``taken``; case does not matter.

    An edit from a case of several loses the questions that test them together.
    """
    first: dict[str, EditRequest] = {}
    for request in requests:
        if (subject := normal(request.subject)) not in taken:
            first.setdefault(subject, replace(request, case="", axes=()) if request.case else request)
    return list(first.values())


def as_present(fact: EditRequest) -> EditRequest:
    """A preserved fact with its present answer, ``target_true`` or else ``target_new``, as both."""
    answer = fact.target_true or fact.target_new
    return replace(fact, target_new=answer, target_true=answer, attribute="")


class Answers:
    """Answers by their form of prompt, and so of the same kind.

    Args:
        records: Records whose targets may serve.
        kind: What answers have in common that may replace each other.
    """

    def __init__(
        self, records: Iterable[EditRequest], kind: Callable[[EditRequest], str] = lambda record: normal(record.prompt)
    ) -> None:
        self._kind = kind
        self._by_form: dict[str, dict[str, str]] = {}
        for record in records:
            form = self._by_form.setdefault(kind(record), {})
            form.setdefault(normal(record.target_new), record.target_new)

    def others(self, fact: EditRequest) -> list[str]:
        """Answers to the fact's form of prompt that are not its own, ignoring case."""
        own = {normal(answer) for answer in (fact.target_new, fact.target_true, *fact.aliases) if answer}
        own.add(normal(fact.subject))
        return [answer for key, answer in self._by_form.get(self._kind(fact), {}).items() if key not in own]

    def changed(self, fact: EditRequest, seed: int) -> EditRequest | None:
        """The fact with another answer; ``None`` where there is no other, or the prompt is too long to be rewritten.

        Test prompts that ask for the old answer, and its aliases, are dropped.
        """
        others = self.others(fact)
        if not others or not paraphrases(fact.prompt, fact.subject):
            return None
        answer = random.Random(f"{seed} {fact.question}").choice(others)
        return replace(fact, target_new=answer, aliases=(), axes=(), attribute="")


Change = tuple[EditRequest, EditRequest]
"""A fact as it is, and with another answer."""


@dataclass(frozen=True)
class Material:
    """The material of the sets.

    Attributes:
        pool: Edits on different subjects, none of them a subject of ``facts``.
        facts: Preserved facts on different subjects, with their present answers.
        fact_changes: Those facts that can be changed, and their changes.
        prior_changes: Those edits that can be changed, and their changes.
    """

    pool: list[EditRequest]
    facts: list[EditRequest]
    fact_changes: list[Change]
    prior_changes: list[Change]

    @property
    def supply(self) -> Supply:
        """Its amount."""
        return Supply(len(self.pool), len(self.prior_changes), len(self.fact_changes))


def gather(
    pool: Iterable[EditRequest],
    facts: Iterable[EditRequest],
    seed: int,
    kind: Callable[[EditRequest], str] | None = None,
) -> Material:
    """The material of a pool of edits and of preserved facts.

    Args:
        pool: The edits.
        facts: The preserved facts.
        seed: Draws the changed answers.
        kind: What answers of facts have in common that may replace each other; by default the form of prompt.
    """
    known = [as_present(fact) for fact in one_per_subject(facts)]
    edits = one_per_subject(pool, {normal(fact.subject) for fact in known})
    answers = Answers([*known, *edits])

    def changes(records: list[EditRequest], answers: Answers = answers) -> list[Change]:
        pairs = ((record, answers.changed(record, seed)) for record in records)
        return [(record, change) for record, change in pairs if change is not None]

    return Material(edits, known, changes(known, Answers(known, kind) if kind else answers), changes(edits))


def rewritten(changes: Sequence[Change], rewriter: Rewriter, own_tests: bool, progress: Progress) -> list[Change]:
    """Facts and their changes in other words; those without a rewriting that passes the checks are left out.

    Args:
        changes: Facts and the same with changed answers.
        rewriter: The rewriter.
        own_tests: Whether the original prompt tests facts that have no rephrasing.
        progress: Where progress is shown.
    """
    old = {change.question: fact.target_new for fact, change in changes}

    def refuse(change: EditRequest, text: str) -> str | None:
        if normal(text) in {normal(test) for test in held_out_prompts([change])}:
            return "a test prompt"
        return "answer given away" if gives_away(change, text, old[change.question]) else None

    done: list[Change] = []
    rewritings = rewriter.rewrite([change for _, change in changes], 1, refuse, progress)
    for (fact, change), texts in zip(changes, rewritings, strict=True):
        for text in texts:
            prompt, subject = placed(text, change.subject, "rewriting")
            tests = change.rephrase or ((change.question,) if own_tests else ())
            done.append((fact, replace(change, prompt=prompt, subject=subject, rephrase=tests)))
    return done
