"""The validation set, which scores the model while edits are smoothed.

It is made from the edits' own prompts, subjects and targets and from preserved facts or text. It never uses an edit's
``rephrase``, ``neighborhood`` or ``target_true``: those are test data, and a candidate selected by them would be
selected by the test.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aeplus.data.paraphrase import Rewriter, paraphrases, too_similar
from aeplus.edits import EditRequest, Probe, held_out_prompts, normal
from aeplus.errors import InputError
from aeplus.texts import unspaced
from aeplus.utils.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidationItem:
    """A paraphrase of an edit's prompt.

    Attributes:
        request_index: The edit's index in the stream, from 0.
        prompt: The complete prompt.
        answer: The edit's target.
    """

    request_index: int
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """The prompts that a batch is scored on while it is smoothed.

    Attributes:
        rewrites: Paraphrases of some edits of every batch, in the stream's order. An item is due once its batch is
            edited, for as long as its edit still holds.
        preserved: Prompts on preserved knowledge.
        firsts: One further paraphrase of every edit that has one, by the edit's index in the stream.
        join: How the prompts on preserved facts and their answers are joined, as a chat template may say. Paraphrases
            are joined as their edits are.
        joins: The same of those whose facts say it themselves, by prompt.
    """

    rewrites: tuple[ValidationItem, ...]
    preserved: tuple[Probe, ...]
    firsts: Mapping[int, ValidationItem] = field(default_factory=dict)
    join: str = "auto"
    joins: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        """Every prompt of the set."""
        paraphrased = [item.prompt for item in (*self.firsts.values(), *self.rewrites)]
        return paraphrased + [probe.prompt for probe in self.preserved]

    def preserved_join(self, probe: Probe) -> str:
        """How a preserved prompt and its answer are joined; a beginning of text goes on as the model has it."""
        return "auto" if probe.answer is None else self.joins.get(probe.prompt, self.join)


def build_validation(
    requests: Sequence[EditRequest],
    preserved: Sequence[EditRequest] = (),
    batch_size: int = 10,
    share: float = 0.1,
    preserved_count: int = 30,
    per_edit: int = 3,
    seed: int = 0,
) -> ValidationSet:
    """Paraphrases a share of the edits and some preserved facts, by templates.

    Args:
        requests: The stream of edits.
        preserved: True facts: ``target_true``, else ``target_new``, is the present answer. Facts on an edited subject
            are skipped: an edit may rightly change them.
        batch_size: Edits per sequential batch; of each batch at least one edit is paraphrased.
        share: The share of each batch's edits to paraphrase; 0 for none at all.
        preserved_count: Maximum number of preserved facts; each gives one prompt, in rotating templates.
        per_edit: Maximum number of paraphrases of an edit. (One would score a batch of ten as 0 or 100.)
        seed: Seed of the draw of edits, templates and facts.

    Raises:
        InputError: If a number is out of its range.
    """
    _check(batch_size, share, preserved_count, per_edit)
    rng = random.Random(seed)
    by_subject: dict[str, list[str]] = {}
    for request in requests:
        by_subject.setdefault(normal(request.subject), []).append(request.question)

    def usable(request: EditRequest) -> list[str]:
        # A fact may be edited again in other words: avoid those prompts as well.
        others = by_subject[normal(request.subject)]
        return [text for text in paraphrases(request.prompt, request.subject) if not too_similar(text, others)]

    rewrites = []
    firsts: dict[int, ValidationItem] = {}
    for start in range(0, len(requests), batch_size) if share > 0 else ():
        batch = range(start, min(start + batch_size, len(requests)))
        for index in sorted(rng.sample(batch, max(1, round(share * len(batch))))):
            texts = usable(requests[index])
            for text in rng.sample(texts, min(per_edit, len(texts))):
                rewrites.append(ValidationItem(index, text, requests[index].target_new))

    if share > 0:
        for index, request in enumerate(requests):
            if texts := usable(request):
                firsts[index] = ValidationItem(index, texts[(seed + index) % len(texts)], request.target_new)

    facts = [fact for fact in preserved if normal(fact.subject) not in by_subject]
    probes, joins = [], {}
    for number, fact in enumerate(rng.sample(facts, min(preserved_count, len(facts)))):
        if texts := paraphrases(fact.prompt, fact.subject):
            probes.append(Probe(texts[number % len(texts)], fact.target_true or fact.target_new))
            joins[probes[-1].prompt] = fact.join
    return ValidationSet(tuple(rewrites), tuple(probes), firsts, joins=joins)


def compose_validation(
    requests: Sequence[EditRequest],
    facts: Sequence[EditRequest],
    rewriter: Rewriter,
    share: float = 0.1,
    preserved_count: int = 200,
    portion: tuple[int, int] = (1, 1),
    snippets: Sequence[Probe] = (),
    per_edit: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> ValidationSet:
    """A validation set for a file (appendix B.1).

    Paraphrases of a share of the edited facts, spread over the stream, and of preserved facts; different portions
    have no fact in common. None of them is a test prompt of the edits, nor is the own prompt of a preserved fact:
    those that happen to be are skipped.

    Args:
        requests: The edits, in their order.
        facts: True facts: ``target_true``, else ``target_new``, is the present answer.
        rewriter: The source of the paraphrases.
        share: The share of the edited facts. Of a fact that is edited several times every edit is paraphrased.
        preserved_count: Maximum number of preserved facts.
        portion: The number of the portion, from 1, and the number of portions.
        snippets: Sentence beginnings, in place of preserved facts.
        per_edit: Maximum number of paraphrases of an edit, besides the one that asks for it in its own batch.
        seed: Seed of the draw of edits, facts and templates.
        progress: Where to report progress.

    Raises:
        InputError: If a number is out of its range.
    """
    _check(1, share, preserved_count, per_edit)
    tests = {normal(prompt) for prompt in held_out_prompts(requests)}
    edits = [request.without_tests() for request in requests]  # nothing below can use the tests
    by_subject: dict[str, list[str]] = {}
    for edit in edits:
        by_subject.setdefault(normal(edit.subject), []).append(edit.question)

    def refuse(fact: EditRequest, text: str) -> str | None:
        if normal(text) in tests:
            return "a test prompt"
        others = by_subject.get(normal(fact.subject), ())
        return "like an edit" if too_similar(text, others) else None

    keys = list(dict.fromkeys(edit.fact_key for edit in edits))
    drawn = set(_spread(keys, share, portion, seed))
    chosen = [index for index, edit in enumerate(edits) if edit.fact_key in drawn]
    rewrites: list[ValidationItem] = []
    firsts: dict[int, ValidationItem] = {}
    texts_of = rewriter.rewrite([edits[index] for index in chosen], per_edit + 1, refuse, progress)
    for index, texts in zip(chosen, texts_of, strict=True):
        items = [ValidationItem(index, text, edits[index].target_new) for text in texts]
        if items:
            firsts[index] = items[0]
            rewrites += items[1:] or items  # a single one is used twice

    known = {
        normal(fact.question): replace(fact, target_new=fact.target_true or fact.target_new).without_tests()
        for fact in facts
        if normal(fact.subject) not in by_subject and normal(fact.question) not in tests
    }
    own = _slice(list(known.values()), preserved_count, portion, seed)
    answers = zip(own, rewriter.rewrite(own, 1, refuse, progress), strict=True)
    probes = [Probe(text, fact.target_new) for fact, texts in answers for text in texts]
    free = [probe for probe in snippets if normal(probe.prompt) not in tests]
    return ValidationSet(tuple(rewrites), (*probes, *_slice(free, preserved_count, portion, seed)), firsts)


def _spread(keys: Sequence[T], share: float, portion: tuple[int, int], seed: int) -> list[T]:
    """A portion's share of some keys, spread evenly over them: of every ten the same number."""
    number, portions = portion
    if share == 0:
        return []
    size = max(10, round(1 / share))
    each = max(1, round(share * size))
    if not 1 <= number <= portions or portions * each > size:
        msg = (
            f"expected a portion i/n with i from 1 to n and n at most {size // each} for a share of {share}, got "
            f"{number}/{portions}; choose fewer portions or a smaller share."
        )
        raise InputError(msg)
    rng = random.Random(f"{seed} edits")
    drawn: list[T] = []
    for start in range(0, len(keys), size):
        block = list(keys[start : start + size])
        each = max(1, round(share * len(block)))
        rng.shuffle(block)
        drawn += block[(number - 1) * each : number * each]
    return drawn


def _slice(items: Sequence[T], count: int, portion: tuple[int, int], seed: int) -> list[T]:
    """A portion's items: ``count`` or, if there are too few for all portions, an equal part."""
    number, portions = portion
    count = min(count, len(items) // portions)
    shuffled = random.Random(f"{seed} preserved").sample(items, len(items))
    return shuffled[(number - 1) * count : number * count]


def _check(batch_size: int, share: float, preserved_count: int, per_edit: int) -> None:
    if not 0 <= share <= 1:
        msg = f"expected a validation share from 0 to 1, got {share}; choose for example 0.1, a tenth of the edits."
        raise InputError(msg)
    for name, value, minimum in (
        ("'batch_size'", batch_size, 1),
        ("a number of preserved facts", preserved_count, 0),
        ("a number of paraphrases per edit", per_edit, 1),
    ):
        if value < minimum:
            msg = f"expected {name} of at least {minimum}, got {value}; give a larger number."
            raise InputError(msg)


def preserved_snippets(texts: Iterable[str], count: int, seed: int, words: int = 12) -> list[Probe]:
    """Sentence beginnings of preserved text, for users without a file of preserved facts.

    Args:
        texts: The texts; each is read once and not kept.
        count: Number of beginnings.
        seed: Seed of the draw.
        words: Their length, twice as many characters in a script without spaces; sentences that are not longer are
            skipped.

    Returns:
        Probes without an answer: the unedited model's continuation is the correct one.
    """
    rng = random.Random(seed)
    drawn: list[str] = []
    seen: set[str] = set()
    for text in texts:
        for sentence in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", text):
            parts, length, space = sentence.split(), words, " "
            if 2 * sum(map(unspaced, sentence)) > len(sentence):
                parts, length, space = list(sentence.strip()), 2 * words, ""
            start = space.join(parts[:length])
            if len(parts) <= length or start in seen:
                continue
            seen.add(start)
            # Reservoir sampling: every sentence is drawn with the same probability, however many there are.
            index = len(drawn) if len(drawn) < count else rng.randrange(len(seen))
            if index < count:
                drawn[index : index + 1] = [start]
    return [Probe(start) for start in drawn]


def overlap(validation: ValidationSet, requests: Iterable[EditRequest]) -> set[str]:
    """Test prompts of the edits that are validation prompts too; case and whitespace do not matter.

    The evaluation excludes them; editing never uses them.

    Returns:
        The test prompts as the edits have them.
    """
    used = set(map(normal, validation.prompts))
    return {prompt for prompt in held_out_prompts(requests) if normal(prompt) in used}
