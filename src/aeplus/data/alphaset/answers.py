"""What sets are made of: one record per subject, and other answers for a fact, of the right kind."""

import random
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from aeplus.data.alphaset.sizes import Supply
from aeplus.data.paraphrase import paraphrases
from aeplus.data.request import SLOT, EditRequest
from aeplus.data.rewriter import Rewriter, gives_away
from aeplus.data.validation import held_out_prompts, normal
from aeplus.progress import Progress


def one_per_subject(requests: Iterable[EditRequest], taken: Container[str] = ()) -> list[EditRequest]:
    """The first edit of every subject that is not ``taken``; case does not matter.

    An edit out of a case of several goes without the questions that test them together.
    """
    first: dict[str, EditRequest] = {}
    for request in requests:
        if (subject := normal(request.subject)) not in taken:
            first.setdefault(subject, replace(request, case="", axes=()) if request.case else request)
    return list(first.values())


def as_present(fact: EditRequest) -> EditRequest:
    """A fact of preserved knowledge with what is true now, ``target_true`` or without one ``target_new``, as both."""
    answer = fact.target_true or fact.target_new
    return replace(fact, target_new=answer, target_true=answer)


class Answers:
    """Answers by the form of prompt that asks for them, and so of the same kind.

    Args:
        records: Records whose targets may serve.
    """

    def __init__(self, records: Iterable[EditRequest]) -> None:
        self._by_form: dict[str, dict[str, str]] = {}
        for record in records:
            form = self._by_form.setdefault(normal(record.prompt), {})
            form.setdefault(normal(record.target_new), record.target_new)

    def others(self, fact: EditRequest) -> list[str]:
        """Answers to the fact's form of prompt that are none of its own, case aside."""
        own = {normal(answer) for answer in (fact.target_new, fact.target_true, *fact.aliases) if answer}
        own.add(normal(fact.subject))
        return [answer for key, answer in self._by_form.get(normal(fact.prompt), {}).items() if key not in own]

    def changed(self, fact: EditRequest, seed: int) -> EditRequest | None:
        """The fact with another answer; ``None`` where there is no other, or the prompt is too long to be rewritten.

        Test prompts that ask for the old answer, and other names of it, are dropped.
        """
        others = self.others(fact)
        if not others or not paraphrases(fact.prompt, fact.subject):
            return None
        answer = random.Random(f"{seed} {fact.question}").choice(others)
        return replace(fact, target_new=answer, aliases=(), axes=())


Change = tuple[EditRequest, EditRequest]
"""A fact as it is, and with another answer."""


@dataclass(frozen=True)
class Material:
    """What the sets are made of.

    Attributes:
        pool: Edits on different subjects, none of them a subject of ``facts``.
        facts: Preserved facts on different subjects, with what is true now.
        fact_changes: Those facts that can be changed, and their changes.
        prior_changes: Those edits that can be, and their changes.
    """

    pool: list[EditRequest]
    facts: list[EditRequest]
    fact_changes: list[Change]
    prior_changes: list[Change]

    @property
    def supply(self) -> Supply:
        """How much there is."""
        return Supply(len(self.pool), len(self.prior_changes), len(self.fact_changes))


def gather(pool: Iterable[EditRequest], facts: Iterable[EditRequest], seed: int) -> Material:
    """What a pool of edits and a file of preserved facts offer; ``seed`` draws the changed answers."""
    known = [as_present(fact) for fact in one_per_subject(facts)]
    edits = one_per_subject(pool, {normal(fact.subject) for fact in known})
    answers = Answers([*known, *edits])

    def changes(records: list[EditRequest]) -> list[Change]:
        pairs = ((record, answers.changed(record, seed)) for record in records)
        return [(record, change) for record, change in pairs if change is not None]

    return Material(edits, known, changes(known), changes(edits))


def rewritten(changes: Sequence[Change], rewriter: Rewriter, own_tests: bool, progress: Progress) -> list[Change]:
    """Facts and their changes in other words; those of which no rewriting passes the checks are left out.

    Args:
        changes: Facts and the same with changed answers.
        rewriter: What rewrites.
        own_tests: Whether the prompt as it was tests facts that have no rephrasing.
        progress: Where to show how far it is.
    """
    old = {change.question: fact.target_new for fact, change in changes}

    def refuse(change: EditRequest, text: str) -> str | None:
        if normal(text) in {normal(test) for test in held_out_prompts([change])}:
            return "a test prompt"
        return "answer given away" if gives_away(change, text, old[change.question]) else None

    done: list[Change] = []
    found = rewriter.rewrite([change for _, change in changes], 1, refuse, progress)
    for (fact, change), texts in zip(changes, found, strict=True):
        for text in texts:
            head, _, tail = text.rpartition(change.subject)  # of several places the last, as the readers take it
            tests = change.rephrase or ((change.question,) if own_tests else ())
            done.append((fact, replace(change, prompt=f"{head}{SLOT}{tail}", rephrase=tests)))
    return done
