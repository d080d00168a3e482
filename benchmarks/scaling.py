"""Memory and time of each phase for models that do not run here, from formulas.

    python -m benchmarks scaling

The tables of docs/scaling.md.
"""

from dataclasses import dataclass

from aeplus.models.costs import Memory, ModelShape, memory
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.packing import MOST_MEMORY
from floors import Work, forward_work, keys_work, solve_work, statistics_work, targets_work

GIB = 2**30
CONTEXTS, STEPS, EDITS, BATCH_TOKENS = 6, 25, 100, 8192
SUFFIX, ANSWER, HEAD, PREFIX = (
    5,
    2,
    8,
    11,
)  # tokens: from the subject's last on, of answers, up to the subject, contexts
CACHED = (HEAD - 1 + PREFIX) / SUFFIX  # cached tokens for each that is run, padded
PROMPTS, PROMPT = 150, 12  # of the validation set
EARLIER = 10_000  # edits, for what is kept of them


@dataclass(frozen=True)
class Card:
    """Speeds that matrix products, copies and products in float64 reach."""

    name: str
    flops: float
    bytes: float
    double: float


CARD = Card("400 TFLOP/s in bfloat16, 40 in float64, 3 TB/s", 4e14, 3e12, 4e13)
SHAPES = {
    "Llama 3 8B": (ModelShape(32, 4096, 14336, 128256, 218_103_808, 1_050_673_152, 2, 2048), range(4, 9)),
    "Llama 3 70B": (ModelShape(80, 8192, 28672, 128256, 855_638_016, 2_101_346_304, 2, 2048), range(10, 15)),
}


def works(shape: ModelShape, sites: range, candidates: int = 1) -> dict[str, Work]:
    """The work of one batch by phase; statistics once for a model, the digest once for a call."""
    first, bare = sites[-1] + 1, EDITS * HEAD
    heads = EDITS * (CONTEXTS * HEAD + (CONTEXTS - 1) * PREFIX)
    run, asked = EDITS * (CONTEXTS * SUFFIX + 1), EDITS * (CONTEXTS * ANSWER + 1)
    passes = -(-run // tokens_at_once(shape, first))
    recorded = heads + EDITS * CONTEXTS * SUFFIX
    keys = keys_work(shape, sites, heads, bare)
    again = keys_work(shape, range(sites[0], sites[0] + len(sites)), heads, bare)
    extra = Work(again.flops - forward_work(shape, heads, sites[-1] + 1).flops, 0.0) * (candidates - 1)
    validation = forward_work(shape, PROMPTS * PROMPT * candidates, shape.layers, PROMPTS * ANSWER * candidates)
    return {
        "digest": Work(0.0, shape.weight_bytes),
        "statistics": statistics_work(shape, sites, 100_000, BATCH_TOKENS),
        "targets": targets_work(shape, first, [run] * STEPS, [asked] * STEPS, recorded, passes),
        "keys": keys + extra,
        "solve": solve_work(shape, len(sites), EDITS, 0, shape.intermediate // 10) * candidates,
        "validate": validation,
    }


def tokens_at_once(shape: ModelShape, first: int) -> int:
    """Tokens of a step that fit its memory."""
    return shape.tokens_within(MOST_MEMORY, shape.layers - first, ANSWER / SUFFIX, CACHED, fused=True)


def sizes(shape: ModelShape, sites: range, earlier: int = 0) -> Memory:
    """The memory of editing above the weights, after some earlier edits."""
    first = sites[-1] + 1
    tokens = min(tokens_at_once(shape, first), EDITS * (CONTEXTS * SUFFIX + 1))
    return memory(
        *(shape, first, len(sites), tokens, tokens * ANSWER // SUFFIX, shape.intermediate // 10),
        attended=round(tokens * CACHED),
        sample=PreservedOptions().sample,
        fused=True,
        earlier=earlier,
    )


def scaling_tables() -> str:
    """Both tables, as Markdown."""
    names = list(SHAPES)
    line = "| --- |" + " ---: |" * len(names)
    held = {name: sizes(*SHAPES[name]) for name in names}
    rows = {"weights": [SHAPES[name][0].weight_bytes for name in names]}
    for part in ("activations", "logits", "preserved", "snapshot"):
        rows[part] = [getattr(held[name], part) for name in names]
    rows["editing, above the weights"] = [held[name].editing for name in names]
    rows[f"after {EARLIER:,} edits, more"] = [sizes(*SHAPES[name], earlier=EARLIER).earlier for name in names]
    rows["statistics, once"] = [held[name].statistics for name in names]
    text = [f"| GiB | {' | '.join(names)} |", line]
    text += [f"| {part} | {' | '.join(f'{value / GIB:.1f}' for value in values)} |" for part, values in rows.items()]
    text += ["", f"| seconds | {' | '.join(names)} |", line]
    once = {name: works(*SHAPES[name]) for name in names}
    for phase in once[names[0]]:
        spent = [once[name][phase].seconds(CARD.flops, CARD.bytes, CARD.double) for name in names]
        text.append(f"| {phase} | {' | '.join(f'{value:.3f}' for value in spent)} |")
    each, plus = [], []
    for name in names:
        editing = [
            sum(
                w.seconds(CARD.flops, CARD.bytes, CARD.double)
                for p, w in works(*SHAPES[name], n).items()
                if p in _EDITING
            )
            for n in (1, 11)
        ]
        each.append(f"{editing[0] / EDITS:.3f}")
        plus.append(f"{editing[1] / editing[0]:.2f}")
    text += [
        f"| an edit | {' | '.join(each)} |",
        f"| AlphaEdit+ with smoothing, T = 10 / AlphaEdit | {' | '.join(plus)} |",
    ]
    return "\n".join(text)


_EDITING = ("targets", "keys", "solve", "validate")


def main() -> None:
    """Prints the tables."""
    print(scaling_tables())


if __name__ == "__main__":
    main()
