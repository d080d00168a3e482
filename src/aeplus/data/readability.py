"""What of a stream a model cannot read, found before anything is edited: by record and field."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from aeplus.data.validation import ValidationSet
from aeplus.edits import PARAPHRASES, SLOT, EditRequest, Probe
from aeplus.errors import InputError
from aeplus.models.tokens import Tokenized, encode, first_answer_token, subject_token, tokenize
from aeplus.texts import joined


@dataclass(frozen=True)
class ModelLimits:
    """What bounds what a model can read.

    Attributes:
        tokenizer: Its tokenizer.
        limit: Its context length in tokens, if it has one.
        vocabulary: Number of tokens that it has an embedding of, if that is known.
        contexts: Prefixes that prompts are edited after; the first is empty.
    """

    tokenizer: Any
    limit: int | None = None
    vocabulary: int | None = None
    contexts: tuple[str, ...] = ("",)


class Problem(NamedTuple):
    """A text that a model cannot read.

    Attributes:
        edit: The index of its edit.
        field: The field, with its number from 1 where it has several.
        reason: What is wrong, as a sentence.
        test: Whether it only tests the edit: the place of the text among the tests, else ``None``.
    """

    edit: int
    field: str
    reason: str
    test: tuple[str, int] | None = None


def find_problems(limits: ModelLimits, requests: Sequence[EditRequest], tests: bool = True) -> list[Problem]:
    """Everything of some edits that a model cannot read, in their order.

    Args:
        limits: The model.
        requests: The edits.
        tests: Whether to look at what tests them too: only a measurement may.
    """
    found = [*_edits(limits, requests), *(_tests(limits, requests) if tests else ())]
    return sorted(found, key=lambda problem: problem.edit)


def without(requests: Sequence[EditRequest], problems: Sequence[Problem]) -> list[EditRequest | None]:
    """The edits without what cannot be read: ``None`` for one that goes with its whole record.

    A test prompt loses itself alone. Edits of a case stay together: their questions need all of them.

    Args:
        requests: The edits.
        problems: What was found.
    """
    lost = {problem.edit for problem in problems if problem.test is None}
    cases = {requests[index].case for index in lost} - {""}
    tests: dict[int, set[tuple[str, int]]] = {}
    for problem in problems:
        if problem.test is not None:
            tests.setdefault(problem.edit, set()).add(problem.test)
    return [
        None if index in lost or request.case in cases else _stripped(request, tests.get(index, set()))
        for index, request in enumerate(requests)
    ]


def readable_validation(
    limits: ModelLimits, validation: ValidationSet, requests: Sequence[EditRequest]
) -> ValidationSet:
    """The validation prompts that a model can read.

    Args:
        limits: The model.
        validation: The set.
        requests: The edits, in the stream's order.
    """

    def fits(items: Sequence[tuple[str, str | None, str]]) -> list[bool]:
        tokenized = tokenize(limits.tokenizer, [joined(*item) for item in items])
        pairs = zip(tokenized, items, strict=True)
        return [_problem_of(limits, tokens, prompt, answer) is None for tokens, (prompt, answer, _) in pairs]

    rewrites = fits([(item.prompt, item.answer, requests[item.request_index].join) for item in validation.rewrites])
    firsts = fits([(item.prompt, item.answer, requests[i].join) for i, item in validation.firsts.items()])
    preserved = fits([(p.prompt, p.answer, validation.preserved_join(p)) for p in validation.preserved])
    if all((*rewrites, *firsts, *preserved)):
        return validation
    return replace(
        validation,
        rewrites=tuple(item for item, good in zip(validation.rewrites, rewrites, strict=True) if good),
        preserved=tuple(probe for probe, good in zip(validation.preserved, preserved, strict=True) if good),
        firsts={i: item for (i, item), good in zip(validation.firsts.items(), firsts, strict=True) if good},
    )


# ---- edits


def _edits(limits: ModelLimits, requests: Sequence[EditRequest]) -> list[Problem]:
    texts = [joined(request.question, request.target_new, request.join) for request in requests]
    longest = max((len(tokens.ids) for tokens in tokenize(limits.tokenizer, limits.contexts)), default=0)
    problems = []
    for index, (request, tokens) in enumerate(zip(requests, tokenize(limits.tokenizer, texts), strict=True)):
        found = _subject(limits, request, tokens) or _length(limits, request, len(tokens.ids), longest)
        if found is not None:
            problems.append(Problem(index, *found))
    return problems


def _subject(limits: ModelLimits, request: EditRequest, tokens: Tokenized) -> tuple[str, str] | None:
    start, end = request.prompt.index(SLOT), request.subject_end
    mark = subject_token(limits.tokenizer, tokens, end)
    if mark is None or not any(a < end and b > start for a, b in tokens.spans[tokens.added :]):
        return "subject", f"expected a subject that the tokenizer keeps, got {request.subject!r:.60}; write another."
    answer = first_answer_token(limits.tokenizer, tokens, len(request.question))
    if not limits.tokenizer.decode(tokens.ids[answer:]).strip():
        return (
            "target_new",
            f"expected an answer that the tokenizer keeps, got {request.target_new!r:.60}; write another.",
        )
    if answer <= mark:
        token = limits.tokenizer.decode([tokens.ids[answer]])
        return "target_new", (
            f"expected subject and answer to have tokens of their own, got {token!r} for the end of the one and the "
            "beginning of the other; put a word between them or choose another data.join."
        )
    return _unknown(limits, request, tokens)


def _unknown(limits: ModelLimits, request: EditRequest, tokens: Tokenized) -> tuple[str, str] | None:
    outside = [i for i, token in enumerate(tokens.ids) if limits.vocabulary is not None and token >= limits.vocabulary]
    if not outside:
        return None
    place = tokens.spans[outside[0]][1] - 1  # a token may begin with the space before
    field = "target_new" if place >= len(request.question) else "prompt"
    if request.prompt.index(SLOT) <= place < request.subject_end:
        field = "subject"
    return field, _outside(limits, tokens.ids[outside[0]])


def _outside(limits: ModelLimits, token: int) -> str:
    return (
        f"expected tokens that the model has an embedding of, {limits.vocabulary} of them, got token {token} "
        f"({limits.tokenizer.convert_ids_to_tokens(token)!r}); load the tokenizer of this model."
    )


def _length(limits: ModelLimits, request: EditRequest, length: int, longest: int) -> tuple[str, str] | None:
    limit = limits.limit
    if limit is None:
        return None
    if length > limit:
        return "prompt", (
            f"expected prompt and answer to fit the model's context of {limit} tokens, got {length}; shorten either."
        )
    if length + longest + 4 <= limit:  # tokens may join at the border, in either direction
        return None
    at = request.context_at
    texts = [request.question[:at] + context + request.question[at:] for context in limits.contexts]
    rows = encode(limits.tokenizer, texts, [request.target_new] * len(texts), joins=[request.join] * len(texts))
    most = max(len(row.ids) for row in rows)
    if most <= limit:
        return None
    return "prompt", (
        f"expected prompt and answer behind the longest sampled context to fit the model's context of {limit} tokens, "
        f"got {most}, {length} without it; shorten either, or lower targets.context_length or targets.contexts."
    )


# ---- tests


def _tests(limits: ModelLimits, requests: Sequence[EditRequest]) -> list[Problem]:
    asked: list[tuple[int, str, int, str, str | None, str]] = []  # edit, field, position, prompt, answer, join

    def ask(edit: int, field: str, position: int, prompt: str, answers: Sequence[str | None]) -> None:
        for answer in answers or (None,):
            asked.append((edit, field, position, prompt, answer, requests[edit].join))

    for index, request in enumerate(requests):
        ask_own = [("aliases", i, alias) for i, alias in enumerate(request.aliases)]
        if request.target_true is not None:
            ask_own.append(("target_true", 0, request.target_true))
        for field, position, answer in ask_own:
            ask(index, field, position, request.question, (answer,))
        for field in PARAPHRASES:
            for position, prompt in enumerate(getattr(request, field)):
                ask(index, field, position, prompt, (request.target_new, *request.aliases))
        for field in ("neighborhood", "axes"):
            probes: tuple[Probe, ...] = getattr(request, field)
            for position, probe in enumerate(probes):
                ask(index, field, position, probe.prompt, probe.answers)
        for position, prompt in enumerate(request.generation):
            ask(index, "generation", position, prompt, ())
    texts = [joined(prompt, answer, join) for *_, prompt, answer, join in asked]
    problems: dict[tuple[int, str, int], Problem] = {}
    for (edit, field, position, prompt, right, _), tokens in zip(asked, tokenize(limits.tokenizer, texts), strict=True):
        reason = _problem_of(limits, tokens, prompt, right)
        if reason is not None:
            name = field if field == "target_true" else f"{field} {position + 1}"
            problems.setdefault((edit, field, position), Problem(edit, name, reason, (field, position)))
    return list(problems.values())


def _problem_of(limits: ModelLimits, tokens: Tokenized, prompt: str, answer: str | None) -> str | None:
    """Why a model cannot read a prompt with its answer."""
    ids = tokens.ids
    if limits.limit is not None and len(ids) > limits.limit:
        return (
            f"expected prompt and answer to fit the model's context of {limits.limit} tokens, got {len(ids)}; shorten "
            "either."
        )
    outside = [token for token in ids if limits.vocabulary is not None and token >= limits.vocabulary]
    if outside:
        return _outside(limits, outside[0])
    first = first_answer_token(limits.tokenizer, tokens, len(prompt)) if answer else len(ids)
    if answer and not limits.tokenizer.decode(ids[first:]).strip():
        return f"expected an answer that the tokenizer keeps, got {answer!r:.60}; write another."
    if first == 0:
        return f"expected a prompt that the tokenizer keeps, got {prompt!r:.60}; write another."
    return None


def _stripped(request: EditRequest, lost: set[tuple[str, int]]) -> EditRequest:
    """The request without some of its tests."""
    if not lost:
        return request
    changes: dict[str, Any] = {
        field: tuple(item for i, item in enumerate(getattr(request, field)) if (field, i) not in lost)
        for field in (*PARAPHRASES, "neighborhood", "axes", "generation", "aliases")
    }
    if ("target_true", 0) in lost:
        changes["target_true"] = None
    return replace(request, **changes)


def message(problem: Problem, requests: Sequence[EditRequest]) -> str:
    """A problem as a sentence that names record and field."""
    return f"record {requests[problem.edit].id or problem.edit + 1}, {problem.field}: {problem.reason}"


def refuse(problem: Problem, requests: Sequence[EditRequest]) -> None:
    """Ends the run.

    Raises:
        InputError: Always.
    """
    msg = f"{message(problem, requests)[:-1]} (data.skip_unusable: true leaves it out)."
    raise InputError(msg)
