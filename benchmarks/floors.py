"""What the phases of an edit take at least, from the model's shape: arithmetic and reading of weights.

Counted is what cannot be avoided: matrix products of the tokens that have to be run (two operations for each weight and
token, as much again on the way back, which goes through activations only), and one reading of the weights for each
pass. Attention between tokens, norms and launches are left out; for the short rows of edits they are small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aeplus.models.costs import ModelShape

_EIGH = 4  # operations of an eigendecomposition, in d³ (tridiagonal form, divide and conquer, back)


@dataclass(frozen=True)
class Work:
    """Operations and bytes moved.

    Attributes:
        flops: Floating-point operations.
        bytes: Bytes that are read.
        double: Floating-point operations in float64, which a GPU has another speed for.
    """

    flops: float = 0.0
    bytes: float = 0.0
    double: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.double + other.double)

    def __mul__(self, times: float) -> "Work":
        """The same several times."""
        return Work(self.flops * times, self.bytes * times, self.double * times)

    def seconds(self, flops_per_second: float, bytes_per_second: float, double_per_second: float) -> float:
        """The least time it takes: arithmetic and reading overlap."""
        return max(self.flops / flops_per_second + self.double / double_per_second, self.bytes / bytes_per_second)


def forward_work(shape: ModelShape, tokens: int, layers: int, predicted: int = 0) -> Work:
    """One pass of some tokens through some layers, and of predicted positions through the head."""
    head = shape.hidden * shape.vocabulary if predicted else 0
    return Work(
        2.0 * (tokens * layers * shape.layer_weights + predicted * head),
        float(shape.width) * (layers * shape.layer_weights + head),
    )


def targets_work(
    shape: ModelShape, first: int, tokens: Sequence[int], predicted: Sequence[int], recorded: int, passes: int = 1
) -> Work:
    """Learning targets: the rows are recorded once, then run from layer ``first`` on, there and back, step by step.

    Args:
        shape: The model.
        first: The first layer that is repeated.
        tokens: Tokens that each step runs.
        predicted: Positions whose logits each step needs.
        recorded: Tokens of all rows, prefixes included.
        passes: Into how many parts a step is divided, each of which reads the weights.
    """
    work = forward_work(shape, recorded, shape.layers)
    for step, (run, asked) in enumerate(zip(tokens, predicted, strict=True)):
        once = forward_work(shape, run, shape.layers - first, asked)
        both = once if step == len(tokens) - 1 else once * 2
        work += Work(both.flops, both.bytes * passes)
    return work


def keys_work(shape: ModelShape, sites: Sequence[int], tokens: int, bare: int) -> Work:
    """Reading keys, from below to above, while the layers change.

    Args:
        shape: The model.
        sites: The edited layers, ascending.
        tokens: Tokens of all rows, up to the subjects' last.
        bare: Those of the bare prompts, which are run on to the last site for the values there.
    """
    work = forward_work(shape, tokens, sites[-1] + 1) + forward_work(shape, tokens, sites[-1] - sites[0])
    for site in sites:
        work += forward_work(shape, bare, sites[-1] + 1 - site)
    return work


def solve_work(shape: ModelShape, sites: int, edits: int, earlier: int, outside: int) -> Work:
    """Solving the layers: keys without their share outside the null space, a system of all keys, the update.

    Args:
        shape: The model.
        sites: How many layers are edited.
        edits: Edits of the batch.
        earlier: Edits before it.
        outside: Directions outside the null space.
    """
    d, o, keys = shape.intermediate, shape.hidden, edits + earlier
    flops = 4.0 * d * outside * keys + 2.0 * d * keys**2 + keys**3 / 3 + 2.0 * o * d * edits
    read = 4.0 * d * (outside + keys) + shape.width * o * d
    return Work(flops, read) * sites


def statistics_work(shape: ModelShape, sites: Sequence[int], tokens: int, batch: int) -> Work:
    """Statistics of preserved keys: passes up to the last site, ``K Kᵀ`` and its eigenvectors for each site.

    Args:
        shape: The model.
        sites: The edited layers, ascending.
        tokens: Tokens of text.
        batch: Tokens of a pass.
    """
    d = shape.intermediate
    passes = -(-tokens // batch)
    once = forward_work(shape, batch, sites[-1] + 1)
    sums = Work(2.0 * d * d * tokens, 8.0 * d * d * passes)
    return once * passes + (sums + Work(0.0, 4.0 * d * d, float(_EIGH) * d**3)) * len(sites)
