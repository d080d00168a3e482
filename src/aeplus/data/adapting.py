"""A stream made for one model: what it cannot read is refused or left out, and chats are rendered."""

import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from aeplus.data.chat import ChatTemplate
from aeplus.data.readability import ModelLimits, find_problems, message, refuse, without
from aeplus.edits import EditRequest, held_out_prompts
from aeplus.errors import InputError


def check_turns(requests: Iterable[EditRequest], template: ChatTemplate | None, source: str = "") -> None:
    """Prompts of several turns need a template.

    Args:
        requests: The edits, or facts.
        template: Renders them as chats; ``None`` where they are plain text.
        source: What the message calls their source.

    Raises:
        InputError: If there is one without it.
    """
    if template is None and (chats := [edit for edit in requests if edit.turns and not edit.asked]):
        msg = (
            f"{source}record {chats[0].id or 1}: expected data.chat_template: true for a prompt of several turns, got "
            "false; set it, or write the prompt as one text."
        )
        raise InputError(msg)


def usable_edits(
    requests: Sequence[EditRequest], limits: ModelLimits, template: ChatTemplate | None, join: str, skip_unusable: bool
) -> tuple[list[EditRequest], list[EditRequest]]:
    """The edits that a model can read, as they were and as it reads them.

    Args:
        requests: The edits.
        limits: The model.
        template: Renders them as chats; ``None`` where they are plain text.
        join: What stands between prompt and answer where an edit does not say it.
        skip_unusable: Whether edits that cannot be read are left out, with a warning.

    Raises:
        InputError: If something cannot be read and may not be left out.
    """
    check_turns(requests, template)
    ruled = [replace(r, join=join) if r.join == "auto" and join != "auto" else r for r in requests]
    rendered = ruled if template is None else [template.edit(request) for request in ruled]
    problems = find_problems(limits, rendered, tests=False)
    if not problems:
        return list(ruled), rendered
    if not skip_unusable:
        refuse(problems[0], rendered)
    left = without(rendered, problems)
    lost = sum(request is None for request in left)
    if lost == len(left):
        refuse(next(problem for problem in problems if problem.test is None), rendered)
    if lost:
        first = next(problem for problem in problems if problem.test is None)
        warnings.warn(
            f"{lost} of {len(left)} edits cannot be read by this model and are left out, first "
            f"{message(first, rendered)}",
            stacklevel=4,
        )
    before = [request for request, now in zip(without(ruled, problems), left, strict=True) if now is not None]
    return [r for r in before if r is not None], [request for request in left if request is not None]


def readable_tests(requests: list[EditRequest], limits: ModelLimits, skip_unusable: bool) -> list[EditRequest]:
    """The edits without test prompts that a model cannot read; a warning counts those.

    Args:
        requests: The edits.
        limits: The model.
        skip_unusable: Whether such prompts may be left out.

    Raises:
        InputError: If there are some and they may not be left out.
    """
    problems = [problem for problem in find_problems(limits, requests) if problem.test]
    if not problems:
        return requests
    if not skip_unusable:
        refuse(problems[0], requests)
    first = message(problems[0], requests)
    left = [request for request in without(requests, problems) if request is not None]
    remain = any(True for _ in held_out_prompts(left))
    warnings.warn(
        f"{len(problems)} test prompts cannot be read by this model and are left out, first "
        f"{first}{'' if remain else ' No test prompt is left.'}",
        stacklevel=3,
    )
    return left


def continued(earlier: Sequence[EditRequest], new: Sequence[EditRequest]) -> int:
    """How many of the last edits made the new ones begin with.

    Args:
        earlier: The edits made.
        new: Those to come, which may repeat the last of them.
    """
    same = min(len(earlier), len(new))
    while not all(map(_same_edit, earlier[len(earlier) - same :], new)):
        same -= 1
    return same


def with_own_cases(earlier: Sequence[EditRequest], new: Sequence[EditRequest]) -> list[EditRequest]:
    """The new edits, with other names for cases that the edits made have too: files count their cases from 1.

    Args:
        earlier: The edits made.
        new: Those to come; where they begin with the last of those made, their cases are the same.
    """
    same = continued(earlier, new)
    names = {edit.case: made.case for edit, made in zip(new, earlier[len(earlier) - same :], strict=False)}
    taken = {edit.case for edit in earlier}
    for case in dict.fromkeys(edit.case for edit in new if edit.case and edit.case not in names):
        name = case
        while name in taken:
            name += "+"
        names[case] = name
        taken.add(name)
    return [replace(edit, case=names[edit.case]) if edit.case else edit for edit in new]


def warn_of_repeats(
    earlier: Iterable[EditRequest], undone: Iterable[tuple[int, EditRequest]], new: Sequence[EditRequest]
) -> None:
    """Counts the edits to come that were made before, in a warning.

    Args:
        earlier: The edits made, without those that the new ones continue.
        undone: Edits that were taken out, each with the entry of the journal that took it out.
        new: Those to come.
    """
    present = set(map(edit_key, earlier))
    counts = [f"{held} in the model already"] if (held := sum(edit_key(edit) in present for edit in new)) else []
    if taken := taken_out([edit for edit in new if edit_key(edit) not in present], undone):
        counts.append(taken)
    if counts:
        warnings.warn(f"of the data's edits {', '.join(counts)}: they are made again", stacklevel=3)


def taken_out(edits: Iterable[EditRequest], undone: Iterable[tuple[int, EditRequest]]) -> str:
    """How many edits were taken out of a journal, and by which entries; empty if none was.

    Args:
        edits: The edits.
        undone: Those taken out, each with the entry that did it.
    """
    by = {edit_key(edit): number for number, edit in undone}
    entries = [by[edit_key(edit)] for edit in edits if edit_key(edit) in by]
    names = ", ".join(map(str, sorted(set(entries))))
    return f"{len(entries)} taken out by {'entry' if len(set(entries)) == 1 else 'entries'} {names}" if entries else ""


def edit_key(edit: EditRequest) -> Hashable:
    """What two edits have in common that are the same, whatever their tests."""
    return edit.asked or edit.prompt, edit.subject, edit.target_new, edit.turns


def _same_edit(a: EditRequest, b: EditRequest) -> bool:
    return edit_key(a) == edit_key(b)
