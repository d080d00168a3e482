"""The card (``README.md``) of an exported model or adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aeplus.metrics.success import SCORES
from aeplus.utils.tables import markdown_table, shown

Summary = Mapping[str, float | None]


@dataclass(frozen=True)
class ServedProbe:
    """A prompt by which one can see whether the edits are served.

    Attributes:
        prompt: The prompt of an edit.
        before: What the base model continues it with, greedily.
        after: What the edited model continues it with.
    """

    prompt: str
    before: str
    after: str


def card(
    title: str,
    header: Mapping[str, Any],
    edits: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    scores: tuple[Summary, Summary],
    probe: ServedProbe,
    command: str,
    notes: Sequence[str] = (),
) -> str:
    """The card's text.

    Args:
        title: What was exported.
        header: The journal's header.
        edits: The edits in the model, as plain values.
        methods: Names of the methods that made them.
        scores: Efficacy, Generalization, Specificity and Score of them before and after.
        probe: A prompt with both answers.
        command: The command line.
        notes: Further lines.
    """
    base, revision = header["model"]["model"], header["model"]["revision"]
    rows = [[f"{edit['prompt'].replace('{}', edit['subject'])}", edit["target_new"]] for edit in edits]
    measured = [
        [when, *(shown(summary[name]) for name in SCORES)]
        for when, summary in zip(("before", "after"), scores, strict=True)
    ]
    return "\n".join(
        [
            *("---", f"base_model: {base}", "tags: [knowledge-editing, aeplus]", "---", ""),
            *(f"# {title}", ""),
            f"- base model: `{base}`" + (f", revision `{revision}`" if revision else ""),
            f"- digest of its weights: `{header['fingerprint']}`",
            f"- method: {', '.join(f'`{name}`' for name in methods)}; layers {', '.join(map(str, header['layers']))}",
            f"- edits: {len(edits)}",
            *(f"- {note}" for note in notes),
            *(f"- command: `{command}`", "", "## Is it served?", ""),
            "A server that drops an adapter whose names it does not know says nothing and serves the base model. Ask,",
            f"greedily: {probe.prompt!r}",
            *("", f"- with the edits: {probe.after!r}", f"- without them: {probe.before!r}", ""),
            *("## Scores (%)", "", markdown_table(["", *map(str.capitalize, SCORES)], measured, left=[""]), ""),
            *("## Edits", "", markdown_table(["prompt", "target"], rows, left=["prompt", "target"]), ""),
        ]
    )
