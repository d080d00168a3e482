"""Hidden states before and after, in two dimensions (Fig. 5 of AlphaEdit+)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aeplus.errors import InputError
from aeplus.figures.style import finish, new_figure, series

Way = Literal["pca", "tsne"]
_BINS = 24


@dataclass(frozen=True)
class Projection:
    """Hidden states in the plane.

    Attributes:
        before: Points of the unedited model, ``[n, 2]``.
        after: Points of the edited model for the same prompts, ``[n, 2]``.
        axes: The labels of the two axes.
    """

    before: np.ndarray
    after: np.ndarray
    axes: tuple[str, str]


def project(before: np.ndarray, after: np.ndarray, way: Way = "pca", seed: int = 0) -> Projection:
    """Projects hidden states of both models onto one plane.

    Args:
        before: Hidden states of the unedited model, ``[n, o]``.
        after: Those of the edited model for the same prompts, ``[n, o]``.
        way: ``pca``: the first two principal components of both together, with fixed signs, reproducible on every
            machine. ``tsne``: t-SNE by scikit-learn, which depends on the seed and the version.
        seed: Seed of t-SNE.

    Raises:
        InputError: If the two differ in shape, there are fewer than two prompts, a value is not finite, or
            scikit-learn is missing.
    """
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if before.shape != after.shape or before.ndim != 2 or len(before) < 2:
        msg = (
            "expected hidden states [n, o] of the same n prompts before and after, n at least 2, got "
            f"{list(before.shape)} and {list(after.shape)}; collect both for the same prompts."
        )
        raise InputError(msg)
    both = np.concatenate([before, after])
    if not np.isfinite(both).all():
        msg = "expected finite hidden states, got NaN or infinity; check the model's weights and dtype."
        raise InputError(msg)
    points, axes = _pca(both) if way == "pca" else (_tsne(both, seed), ("t-SNE 1", "t-SNE 2"))
    return Projection(points[: len(before)], points[len(before) :], axes)


def moved(before: np.ndarray, after: np.ndarray) -> float:
    """How far hidden states move: ‖h′ − h‖ / ‖h‖, in the mean over the prompts, in all dimensions.

    Args:
        before: Hidden states h of the unedited model, ``[n, o]``, none of them 0.
        after: Those h′ of the edited model for the same prompts, ``[n, o]``.
    """
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    return float((np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)).mean())


@dataclass(frozen=True)
class Plane:
    """Hidden states of the unedited model and of several edited ones in one plane.

    Attributes:
        before: Points of the unedited model, ``[n, 2]``.
        after: Points of each edited model, by its name, for the same prompts, ``[n, 2]``.
        axes: The labels of the two axes.
    """

    before: np.ndarray
    after: Mapping[str, np.ndarray]
    axes: tuple[str, str]


def project_several(before: np.ndarray, after: Mapping[str, np.ndarray]) -> Plane:
    """Projects hidden states of a model and of several edited ones onto the first two principal components of all.

    Args:
        before: Hidden states of the unedited model, ``[n, o]``.
        after: Those of each edited model, by its name, for the same prompts.

    Raises:
        InputError: If one differs in shape, there are fewer than two prompts, or a value is not finite.
    """
    together = project(np.concatenate([before] * len(after)), np.concatenate(list(after.values())))
    parts = np.split(together.after, len(after))
    return Plane(together.before[: len(before)], dict(zip(after, parts, strict=True)), together.axes)


def _pca(both: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    centered = both - both.mean(0)
    _, sizes, directions = np.linalg.svd(centered, full_matrices=False)
    shares = 100 * sizes[:2] ** 2 / max(float((sizes**2).sum()), np.finfo(float).tiny)
    top = np.zeros((2, both.shape[1]))
    top[: min(2, len(directions))] = directions[:2]
    largest = np.abs(top).argmax(1)
    signs = np.where(top[np.arange(2), largest] < 0, -1.0, 1.0)
    names = [f"principal component {i + 1} ({share:.0f} % of the variance)" for i, share in enumerate(shares)]
    return centered @ (top * signs[:, None]).T, (names[0], names[1] if len(names) > 1 else "nothing")


def _tsne(both: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        msg = (
            "expected scikit-learn for t-SNE, got an installation without it; run: pip install scikit-learn, or "
            "choose the projection pca."
        )
        raise InputError(msg) from error
    perplexity = min(30.0, (len(both) - 1) / 3)
    points = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(both)
    return np.asarray(points)


def hidden_states(projection: Projection, title: str = "") -> Figure:
    """Points before and after, with the marginal distributions at the sides.

    Args:
        projection: What :func:`project` returned.
        title: The title, such as the layer.
    """
    return _overlaid({"before": projection.before, "after": projection.after}, projection.axes, title)


def hidden_overlay(plane: Plane, title: str = "") -> Figure:
    """Points before editing and after that by each of several methods, with the marginal distributions at the sides.

    Args:
        plane: What :func:`project_several` returned.
        title: The title.
    """
    return _overlaid(
        {"before": plane.before, **{f"after {name}": p for name, p in plane.after.items()}}, plane.axes, title
    )


def _overlaid(clouds: Mapping[str, np.ndarray], names: tuple[str, str], title: str) -> Figure:
    figure = new_figure(5.6, 5.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(4, 1), height_ratios=(1, 4))
    points = figure.add_subplot(grid[1, 0])
    top = figure.add_subplot(grid[0, 0], sharex=points)
    side = figure.add_subplot(grid[1, 1], sharey=points)
    finish(points, *names)
    points.grid(axis="x", color="0.9", linewidth=0.6)
    for index, (label, states) in enumerate(clouds.items()):
        look = series(index)
        filled = look.color if not index else "none"
        x, y = states.T
        points.scatter(
            x, y, s=22, marker=look.marker, facecolors=filled, edgecolors=look.color, alpha=0.75, label=label
        )
    points.legend(fontsize="small", frameon=False)
    _marginal(top, list(clouds.values()), 0)
    _marginal(side, list(clouds.values()), 1)
    if title:
        figure.suptitle(title, fontsize="medium", x=0.02, ha="left")
    return figure


def _marginal(axes: Axes, clouds: Sequence[np.ndarray], dimension: int) -> None:
    """Histograms of one coordinate of each cloud, beside the points."""
    both = np.concatenate([points[:, dimension] for points in clouds])
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    orientation: Literal["horizontal", "vertical"] = "horizontal" if dimension else "vertical"
    for index, states in enumerate(clouds):
        look = series(index)
        x, colors = states[:, dimension], {"color": look.color, "linestyle": look.line}
        axes.hist(x, edges.tolist(), histtype="step", orientation=orientation, lw=1.4, **colors)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelbottom=bool(dimension), labelleft=not dimension, labelsize="small")
    (axes.set_xlabel if dimension else axes.set_ylabel)("prompts", fontsize="small")
