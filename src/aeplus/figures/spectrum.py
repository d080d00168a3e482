"""The spectrum of preserved keys, the end of its null space, and the eigenvectors that P̃ added."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from aeplus.figures.style import finish, new_figure, nothing, series


def spectrum(
    values: Sequence[float], null: int | None = None, added: Mapping[int, int] | None = None, title: str = ""
) -> Figure:
    """Eigenvalues of ``C``, smallest first, with τ and the eigenvectors that P̃ added.

    Args:
        values: Eigenvalues σ, ascending, ``[d]``.
        null: How many eigenvectors are in the null space; τ is drawn after them. ``None`` where the method's filter
            has no cutoff.
        added: The indices of eigenvectors that P̃ added, with the number of batches in which it did.
        title: The title, such as the layer.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    finish(axes, "eigenvector of C, smallest eigenvalue first", "eigenvalue σ", title)
    sigma = np.asarray(values, dtype=float)
    positive = sigma[sigma > 0]
    if not len(positive):
        nothing(axes, "all eigenvalues are 0")
        return figure
    floor = float(positive.min()) / 2  # 0 has no logarithm
    sigma = np.clip(sigma, floor, None)
    axes.set_yscale("log")
    axes.plot(np.arange(1, len(sigma) + 1), sigma, color=series(0).color, lw=1.6, label="σ")
    if null is not None and 0 < null < len(sigma):
        tau = float(np.sqrt(sigma[null - 1] * sigma[null]))
        share = f"{100 * null / len(sigma):.0f} % of the directions"
        label = f"null space ({null} of {len(sigma)}, {share})"
        axes.axvspan(0.5, null + 0.5, facecolor="0.93", edgecolor="0.7", zorder=0, label=label)
        axes.axhline(tau, color="0.35", linestyle="--", lw=1, label=f"τ ({_between(sigma, null)})")
    if added:
        indices = np.array(sorted(added))
        counts = np.array([added[index] for index in indices])
        sizes = 14 + 50 * counts / counts.max()
        batches = f", in up to {counts.max()} batches" if counts.max() > 1 else ""
        axes.scatter(
            *(indices + 1, sigma[indices]),
            s=sizes, marker="^", facecolors="none", edgecolors=series(3).color, zorder=3,
            label=f"added by P̃ ({len(indices)}{batches})",
        )  # fmt: skip
    axes.set_xlim(0.5, len(sigma) + 0.5)
    axes.legend(fontsize="small", frameon=False, loc="upper left")
    return figure


def _between(sigma: np.ndarray, null: int) -> str:
    low, high = f"{sigma[null - 1]:.3g}", f"{sigma[null]:.3g}"
    return f"about {low}" if low == high else f"between {low} and {high}"
