"""Prompts as a chat sends them: rendered by the tokenizer's own template."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aeplus.data.validation import ValidationSet
from aeplus.edits import SLOT, EditRequest, Probe, Turn
from aeplus.errors import InputError
from aeplus.models.tokens import CHAT_HEAD

_PROBE = "Rome"


class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.

    Attributes:
        join: How a rendered prompt and the answer are joined: as the template joins the assistant's turn.

    Raises:
        InputError: If the tokenizer has no template, or it cannot be used.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            msg = (
                "expected a tokenizer with a chat template for data.chat_template, got one without, as base models "
                "have it; leave the option out or choose the instruct model."
            )
            raise InputError(msg)
        self._tokenizer = tokenizer
        self._rendered: dict[tuple[tuple[Turn, ...], str], tuple[str, int]] = {}
        opened = self._apply([("user", _PROBE)], answer=True)
        answered = self._apply([("user", _PROBE), ("assistant", _PROBE)], answer=False)
        between = answered[len(opened) :].partition(_PROBE)[0] if answered.startswith(opened) else ""
        self.join = "space" if between == " " else "none"

    def text(self, prompt: str, turns: Sequence[Turn] = ()) -> str:
        """A user's turn after others, up to where the assistant's answer begins."""
        return self._render(prompt, tuple(turns))[0]

    def edit(self, request: EditRequest) -> EditRequest:
        """An edit whose prompts are rendered, all after its turns; one that is rendered already stays as it is."""
        if request.asked:
            return request
        question, start = request.question, request.prompt.index(SLOT)
        rendered, at = self._render(question, request.turns)
        start += at - (len(question) - len(question.lstrip()))
        end = start + len(request.subject)
        return replace(
            request,
            prompt=rendered[:start] + SLOT + rendered[end:],
            rephrase=self._texts(request.rephrase, request.turns),
            openings=self._texts(request.openings, request.turns),
            statements=self._texts(request.statements, request.turns),
            neighborhood=tuple(self._probe(probe, request) for probe in request.neighborhood),
            axes=tuple(self._probe(probe, request) for probe in request.axes),
            generation=self._texts(request.generation, request.turns),
            fact=request.fact or " ".join(request.fact_key),
            join=self.join,
            context_at=at,
            asked=request.prompt,
        )

    def validation(self, validation: ValidationSet, requests: Sequence[EditRequest]) -> ValidationSet:
        """A validation set whose questions are rendered; beginnings of preserved text are not, as they are no chat.

        Args:
            validation: The set.
            requests: The edits as they were read.
        """

        def item(one: Any) -> Any:
            return replace(one, prompt=self.text(one.prompt, requests[one.request_index].turns))

        return ValidationSet(
            tuple(map(item, validation.rewrites)),
            tuple(p if p.answer is None else replace(p, prompt=self.text(p.prompt)) for p in validation.preserved),
            {index: item(one) for index, one in validation.firsts.items()},
            self.join,
        )

    def tokenizer(self) -> Any:
        """The tokenizer for rendered prompts: the template alone says whether they begin with BOS."""
        other = self._apply([("user", "A")], answer=True)
        head = self._apply([("user", "B")], answer=True)
        length = next((i for i, (a, b) in enumerate(zip(head, other, strict=False)) if a != b), len(head))
        marked = copy.copy(self._tokenizer)
        setattr(marked, CHAT_HEAD, head[: min(length, 12)])
        return marked

    def _texts(self, prompts: Sequence[str], turns: Sequence[Turn]) -> tuple[str, ...]:
        return tuple(self.text(prompt, turns) for prompt in prompts)

    def _probe(self, probe: Probe, request: EditRequest) -> Probe:
        return replace(probe, prompt=self.text(probe.prompt, request.turns))

    def _render(self, prompt: str, turns: tuple[Turn, ...]) -> tuple[str, int]:
        """The rendered turns, and where the last one's text begins in them."""
        key = (turns, prompt)
        if key not in self._rendered:
            rendered = self._apply([*turns, ("user", prompt)], answer=True)
            at = rendered.rfind(prompt.strip())
            if at < 0:
                msg = (
                    f"expected a chat template that writes the user's turn as it is, got {rendered[-80:]!r} for "
                    f"{prompt[:60]!r}; leave data.chat_template out."
                )
                raise InputError(msg)
            self._rendered[key] = rendered, at
        return self._rendered[key]

    def _apply(self, turns: Sequence[Turn], *, answer: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
        except Exception as error:  # a template raises what it likes, for instance where it knows no system turn
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            roles = ", ".join(role for role, _ in turns)
            msg = (
                f"expected a chat template for the turns {roles}, got an error from the tokenizer's ({reason}); change "
                "the turns or leave data.chat_template out."
            )
            raise InputError(msg) from error
        return str(rendered)
