"""Edits as everything after the readers works with them, and when two are of the same fact."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aeplus.errors import InputError

if TYPE_CHECKING:
    pass

SLOT = "{}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A test prompt beside the edit's own.

    Attributes:
        prompt: The complete prompt.
        answer: The answer expected after it; ``None`` means whatever the unedited model answers.
        aliases: Other answers that count as right.
        axis: What the prompt tests, where a data set names it (KnowEdit's ``portability/Reasoning``, RippleEdits'
            ``Compositionality_I``, MQuAKE's ``multi_hop``); empty for a neighbourhood prompt.
    """

    prompt: str
    answer: str | None = None
    aliases: tuple[str, ...] = ()
    axis: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """All that count as right; none where the unedited model's answer does."""
        return () if self.answer is None else (self.answer, *self.aliases)


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One fact to write into the model.

    Attributes:
        prompt: The prompt with one ``{}`` where the subject stands, such as ``"The capital of {} is"``.
        subject: The subject, which takes the place of ``{}``.
        target_new: The answer to be learnt, without a leading space.
        rephrase: Complete prompts on the same fact in other words. Test prompts: they measure
            Generalization and reach nothing else.
        neighborhood: Prompts on other facts. Test prompts: they measure Specificity and reach nothing else.
        axes: Further test prompts, each with the axis it tests; reported axis by axis.
        generation: Prompts to go on from freely (CounterFact's ``generation_prompts``). Test prompts: they
            measure fluency and consistency and reach nothing else.
        aliases: Other spellings of ``target_new`` that count as right where prompts ask for it.
        target_true: The answer that was true before the edit, where known.
        fact: Which fact this is, where edits in other words may change the same one; a later edit of a fact
            replaces an earlier one. Empty: the prompt and the subject tell.
        case: What a record is called that makes several edits (MQuAKE); its questions test them together.
        id: What the source calls the record; used in messages.

    Raises:
        InputError: If ``prompt`` does not hold exactly one ``{}``, or a field is empty.
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

    def __post_init__(self) -> None:
        name = f"record {self.id}" if self.id else "the record"
        for field in ("prompt", "subject", "target_new"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                msg = f"{name}: {field!r} must be a text that is not empty, but is {value!r}; fill it in."
                raise InputError(msg)
        if (slots := self.prompt.count(SLOT)) != 1:
            msg = (
                f"{name}: 'prompt' must hold one {SLOT} where the subject stands, "
                f"but {self.prompt!r} holds {slots}; write it like 'The capital of {SLOT} is'."
            )
            raise InputError(msg)

    def without_tests(self) -> "EditRequest":
        """The edit alone, with nothing that could test it."""
        return replace(self, rephrase=(), neighborhood=(), axes=(), generation=(), aliases=(), target_true=None)

    @property
    def fact_key(self) -> tuple[str, ...]:
        """Equal for edits of the same fact."""
        return (self.fact,) if self.fact else (self.prompt.casefold(), self.subject.casefold())

    @property
    def question(self) -> str:
        """The prompt with the subject in its place, even one that holds braces."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def subject_end(self) -> int:
        """Index in :attr:`question` just behind the subject's last character."""
        return self.prompt.index(SLOT) + len(self.subject)


def latest_edits(requests: Iterable[EditRequest]) -> list[EditRequest]:
    """The edits that still hold: those whose fact no later edit gives another answer.

    A case of several edits, one of which no longer holds, loses its questions: their answers follow from all of them.
    """
    stream = list(requests)
    latest = {request.fact_key: request.target_new for request in stream}
    held = [request for request in stream if latest[request.fact_key] == request.target_new]
    broken = {request.case for request in stream if request.case and latest[request.fact_key] != request.target_new}
    return [replace(request, axes=()) if request.case in broken else request for request in held]


def held_out_prompts(requests: Iterable[EditRequest]) -> Iterator[str]:
    """Every prompt that tests some edits: rephrasings, neighbours, axes and generation prompts."""
    for request in requests:
        yield from request.rephrase
        yield from (probe.prompt for probe in (*request.neighborhood, *request.axes))
        yield from request.generation


def normal(text: str) -> str:
    """A text by which prompts are compared: without regard to case and blanks."""
    return " ".join(text.casefold().split())
