"""Edits as every other module sees them, when two are of the same fact, and which of a stream still hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from aeplus.errors import InputError
from aeplus.texts import canonical, check_join, find_word

SLOT = "{}"

PARAPHRASES = ("openings", "statements", "rephrase")
"""The fields with prompts that measure Generalization."""

Turn = tuple[str, str]
"""A turn of a chat: role and content."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A test prompt other than the edit's own.

    Attributes:
        prompt: The complete prompt.
        answer: The answer expected after it; ``None`` or an empty text means whatever the unedited model answers.
        aliases: Other answers that count as right.
        axis: What the prompt tests, where a data set names it (KnowEdit's ``portability/Reasoning``, RippleEdits'
            ``Compositionality_I``, MQuAKE's ``multi_hop``); empty for a neighborhood prompt.
    """

    prompt: str
    answer: str | None = None
    aliases: tuple[str, ...] = ()
    axis: str = ""

    def __post_init__(self) -> None:
        if self.answer is not None and not self.answer.strip():
            object.__setattr__(self, "answer", None)  # as an empty field of a record

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that count as right; none where the unedited model's answer does."""
        return () if self.answer is None else (self.answer, *self.aliases)


@dataclass(frozen=True)
class EditRequest:
    """One fact to write into the model.

    Attributes:
        prompt: The prompt with one ``{}`` in place of the subject, such as ``"The capital of {} is"``.
        subject: The subject, which replaces ``{}``.
        target_new: The answer to be learned, joined to the prompt by ``join``.
        rephrase: Complete prompts on the same fact in other words, as the data set has them. Test prompts: they
            measure Generalization and reach nothing else.
        neighborhood: Prompts on other facts. Test prompts: they measure Specificity and reach nothing else.
        axes: Further test prompts, each with the axis it tests; reported axis by axis.
        generation: Prompts for free generation (CounterFact's ``generation_prompts``). Test prompts: they
            measure fluency and consistency and reach nothing else.
        aliases: Other spellings of ``target_new`` that count as right where prompts ask for it.
        target_true: The answer that was true before the edit, where known.
        fact: Identifies the fact where edits in other words may change the same one; a later edit of a fact
            replaces the previous one. If empty, the prompt and the subject identify it.
        case: Name of a record that makes several edits (MQuAKE); its questions test them together.
        id: The record's name in its source; used in messages.
        join: How a prompt and what follows it are joined; see :func:`aeplus.texts.separator`.
        turns: What a chat says before the prompt, which is the user's last turn; only for a chat template.
        context_at: Where in the prompt sampled contexts go, an index before the subject.
        asked: The prompt as it was read, where a chat template has rendered it.
        openings: Test prompts as ``rephrase``: the edit's own prompt behind an opening, such as "It is said that ".
        statements: Test prompts as ``rephrase``: other statements of the fact, which the answer completes.
        attribute: Wikidata's relation and answer, such as ``"P103 Q1860"``, by which ROME's attribute snippets are
            found; they measure consistency.

    Raises:
        InputError: If ``prompt`` does not contain exactly one ``{}``, or a field is empty.
    """

    prompt: str
    subject: str
    target_new: str
    rephrase: tuple[str, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    axes: tuple[Probe, ...] = ()
    generation: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    target_true: str | None = None
    fact: str = ""
    case: str = ""
    id: str = ""
    join: str = "auto"
    turns: tuple[Turn, ...] = ()
    context_at: int = 0
    asked: str = ""
    openings: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    attribute: str = ""

    def __post_init__(self) -> None:
        name = f"record {self.id}" if self.id else "the record"
        for field in ("prompt", "subject", "target_new"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                msg = f"{name}: expected {field!r} to be a non-empty string, got {value!r}; fill it in."
                raise InputError(msg)
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                msg = f"{name}: expected {field!r} to be text, got half of a character (a lone surrogate); correct it."
                raise InputError(msg)
        if (slots := self.prompt.count(SLOT)) != 1:
            msg = (
                f"{name}: expected 'prompt' to contain one {SLOT} in place of the subject, got {slots} in "
                f"{self.prompt!r}; write it like 'The capital of {SLOT} is'."
            )
            raise InputError(msg)
        check_join(self.join, f"{name}: 'join'")

    def without_tests(self) -> "EditRequest":
        """The edit alone, without anything that tests it."""
        bare = replace(self, rephrase=(), openings=(), statements=(), neighborhood=(), axes=(), generation=())
        return replace(bare, aliases=(), target_true=None, attribute="")

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Every prompt that measures Generalization, whichever way it asks."""
        return (*self.openings, *self.statements, *self.rephrase)

    def is_subject_of(self, prompt: str) -> bool:
        """Whether a prompt contains the edit's subject, as a word; of a rendered one what the user says last counts."""
        if self.asked:
            end = self.context_at + len(self.asked.replace(SLOT, self.subject).strip())
            prompt = prompt[self.context_at :].removesuffix(self.question[end:].lstrip())
        return find_word(normal(prompt), normal(self.subject)) is not None

    @cached_property  # every batch asks for those of all edits so far
    def fact_key(self) -> tuple[str, ...]:
        """Equal for edits of the same fact: those with the same ``fact``, else with the same prompt and subject."""
        return ("fact", self.fact) if self.fact else (normal(self.prompt), normal(self.subject))

    @property
    def question(self) -> str:
        """The complete prompt: ``{}`` replaced by the subject, which may contain braces itself."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def subject_end(self) -> int:
        """Index in :attr:`question` just after the subject's last character."""
        return self.prompt.index(SLOT) + len(self.subject)


def normal(text: str) -> str:
    """The form in which texts are compared: composed Unicode, case folded, each run of whitespace one space."""
    return " ".join(canonical(canonical(text).casefold()).split())


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are equal but for whitespace and Unicode form. Case matters: it changes the tokens."""
    return a == b or canonical(a).split() == canonical(b).split()


def still_holding(requests: Sequence[EditRequest]) -> list[bool]:
    """Which edits of a stream still hold: those with the same answer as the last edit of their fact.

    Args:
        requests: The edits, in order.

    Returns:
        For each edit whether it holds. An edit repeated with the same answer holds.
    """
    last = {request.fact_key: request.target_new for request in requests}
    return [same_answer(request.target_new, last[request.fact_key]) for request in requests]


def rewordings(requests: Sequence[EditRequest], batch_size: int, done: int = 0) -> list[list[int]]:
    """Edits that may change a fact of an earlier batch in other words, which nothing says.

    Args:
        requests: The edits, in order.
        batch_size: Edits in a batch.
        done: How many of them are made already; nothing is said of these.

    Returns:
        For each edit the places, from 0, of those of earlier batches with the same subject, another answer and another
        prompt. Where both have a ``fact`` of the data's own, that decides.
    """
    subjects = [normal(request.subject) for request in requests]
    places: dict[str, list[int]] = {}
    found: list[list[int]] = []
    for place, (request, subject) in enumerate(zip(requests, subjects, strict=True)):
        begin = done + (place - done) // batch_size * batch_size
        earlier = [i for i in places.get(subject, []) if i < begin] if place >= done else []
        found.append([i for i in earlier if _may_reword(request, requests[i])])
        places.setdefault(subject, []).append(place)
    return found


def _may_reword(new: EditRequest, old: EditRequest) -> bool:
    named = new.fact and old.fact and not new.asked  # what was rendered as a chat has been given one
    return not named and new.fact_key != old.fact_key and not same_answer(new.target_new, old.target_new)


def broken_cases(requests: Sequence[EditRequest]) -> set[str]:
    """The cases of several edits of which one no longer holds: their questions lose their answers.

    Args:
        requests: The edits, in order.
    """
    return {
        request.case
        for request, holds in zip(requests, still_holding(requests), strict=True)
        if request.case and not holds
    }


def held_out_prompts(requests: Iterable[EditRequest]) -> Iterator[str]:
    """Every prompt that tests some edits: rephrasings, neighborhoods, axes and generation prompts."""
    for request in requests:
        yield from request.paraphrases
        yield from (probe.prompt for probe in (*request.neighborhood, *request.axes))
        yield from request.generation
