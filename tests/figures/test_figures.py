"""Figures from made-up numbers: what is drawn, its texts, and that series can be told apart in grayscale."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import _pylab_helpers, colors
from matplotlib.figure import Figure

from aeplus import figures as draw
from aeplus.errors import InputError
from aeplus.figures.hidden import moved
from aeplus.figures.style import series

RNG = np.random.default_rng(0)
EDITS = {name: RNG.random(40).tolist() for name in ("s_K0", "s_Kp", "residual")}
SCORES = (100 * RNG.random(40)).tolist()
SECONDS = [{"targets": 3.0, "solve": 1.0, "validate": 0.5, "total": 5.0}, {"targets": 2.0, "total": 2.0}]
STATES = RNG.normal(size=(12, 6))
RESULTS = [
    {"step": 0, "tasks": {"sst2": {"f1": 90.0, "accuracy": 91.0}, "rte": {"f1": 60.0}}},
    {"step": 1, "tasks": {"sst2": {"f1": 80.0, "accuracy": 81.0}}},
]
EFFECTS = [
    {"sigma_max": 0.1, "prior_weight_norm": 0.0, "smoothing_iterations": 3},
    {"sigma_max": 0.3, "prior_weight_norm": 2.0, "smoothing_iterations": 2},
]
ALL: dict[str, Callable[[], Figure]] = {
    "conflict": lambda: draw.conflict_distributions({"one": EDITS, "two": EDITS}),
    "score": lambda: draw.score_by_conflict(
        {"one": {**EDITS, "score": SCORES}, "two": {**EDITS, "score": SCORES[::-1]}}
    ),
    "stream": lambda: draw.conflict_along_stream([1] * 20 + [3] * 20, EDITS, [False] * 39 + [True]),
    "effort_by_batch": lambda: draw.effort_by_batch(SECONDS),
    "effort_by_run": lambda: draw.effort_by_run({"memit": SECONDS, "a method with quite a long name": SECONDS}),
    "hidden": lambda: draw.hidden_states(draw.project(STATES, STATES + 1)),
    "capabilities": lambda: draw.capability_bars(RESULTS),
    "retention": lambda: draw.retention_heat_map([[100.0, None], [50.0, 100.0]]),
    "spectrum": lambda: draw.spectrum([0.0, 0.1, 0.2, 5.0], 2, {2: 3}),
    "hidden_overlay": lambda: draw.hidden_overlay(draw.project_several(STATES, {"a": STATES + 1, "b": STATES - 1})),
    "components": lambda: draw.components({"plain": EFFECTS, "a data set of a long name": EFFECTS[:1], "none": []}),
}
EMPTY: dict[str, Callable[[], Figure]] = {
    "conflict": lambda: draw.conflict_distributions({"one": {"s_K0": [None]}}),
    "score": lambda: draw.score_by_conflict({"one": {"s_K0": [0.5], "score": [None]}}),
    "stream": lambda: draw.conflict_along_stream([1], {"s_K0": [None]}, [None]),
    "effort_by_batch": lambda: draw.effort_by_batch([]),
    "effort_by_run": lambda: draw.effort_by_run({"memit": []}),
    "capabilities": lambda: draw.capability_bars([]),
    "retention": lambda: draw.retention_heat_map([]),
    "spectrum": lambda: draw.spectrum([0.0, 0.0]),
    "components": lambda: draw.components({"one": [{}]}),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_is_drawn_with_named_axes(name: str, tmp_path: Path) -> None:
    figure = ALL[name]()
    image = draw.save_figure(figure, tmp_path / "deep" / "figure.png")
    assert image.shape[2] == 3
    assert image.std() > 0.01  # not an empty sheet
    assert draw.png(ALL[name]()) == (tmp_path / "deep" / "figure.png").read_bytes()
    named = [axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes]
    assert all(named)
    assert not _pylab_helpers.Gcf.figs  # pyplot, which keeps every figure, knows of none


@pytest.mark.parametrize("name", EMPTY)
def test_without_data_a_figure_says_so(name: str) -> None:
    texts = [text.get_text() for axes in EMPTY[name]().axes for text in axes.texts]
    assert any(text in ("no data", "all eigenvalues are 0") for text in texts)


def test_series_differ_in_gray_in_line_in_marker_and_in_hatch() -> None:
    looks = [series(i) for i in range(6)]
    for part in ("line", "marker", "hatch"):
        assert len({str(getattr(look, part)) for look in looks}) == 6
    lightness = [float(np.dot(colors.to_rgb(look.color), [0.2126, 0.7152, 0.0722])) for look in looks[:3]]
    assert min(abs(a - b) for i, a in enumerate(lightness) for b in lightness[:i]) > 0.08


def test_units_stand_at_the_axes() -> None:
    assert ALL["effort_by_batch"]().axes[0].get_ylabel() == "wall-clock time [s]"
    assert ALL["conflict"]().axes[0].get_ylabel() == "share of edits [%]"
    assert ALL["capabilities"]().axes[0].get_ylabel() == "weighted F1 [%]"
    assert draw.capability_bars(RESULTS, "accuracy").axes[0].get_ylabel() == "accuracy [%]"


def test_distributions_tell_number_and_mean_and_leave_out_what_is_missing() -> None:
    figure = draw.conflict_distributions({"own": {"s_K0": [0.2, None, 0.4], "residual": [7.0]}})
    labels = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in figure.axes if axes.get_legend()]
    assert labels == [["own (n = 2, mean 0.3)"], ["own (n = 1, mean 7)"]]


def test_smoothed_edits_are_marked_over_their_batch() -> None:
    values = {"s_K0": [0.1, 0.3, 0.5], "residual": [1.0, 9.0, 2.0]}
    axes = draw.conflict_along_stream([1, 1, 2], values, [False, True, None]).axes
    assert axes[0].lines[0].get_xydata().tolist() == [[1.0, 0.2], [2.0, 0.5]]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["edit", "mean of the batch"]
    assert axes[2].collections[1].get_offsets().tolist() == [[1.0, 9.0]]


def test_bins_hold_equally_many_edits_and_never_part_equal_ones() -> None:
    bins = draw.conflict_bins([0.1, 0.2, 0.3, 0.4, None], [100, 0, 100, 100, 50], bins=2)
    assert [(b.count, b.score, b.low, b.high) for b in bins] == [(2, 50.0, 0.1, 0.2), (2, 100.0, 0.3, 0.4)]
    assert bins[0].conflict == pytest.approx(0.15)
    assert bins[0].interval == (0.0, 100.0)
    assert bins[1].interval == (100.0, 100.0)
    # The first batch has no previous edits: many zeros.
    zeros = draw.conflict_bins([0, 0, 0, 0, 0, 0.5, 0.6], [100.0] * 5 + [0.0] * 2, bins=4)
    assert zeros[0].count == 5
    assert sum(b.count for b in zeros) == 7
    assert draw.conflict_bins([0.3, 0.3], [0, 100], bins=5)[0].count == 2
    assert draw.conflict_bins([None], [1.0]) == []


def test_intervals_are_repeatable_and_touch_no_random_state() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    conflicts, scores = RNG.random(30).tolist(), (100 * RNG.random(30)).tolist()
    assert draw.conflict_bins(conflicts, scores) == draw.conflict_bins(conflicts, scores)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    for b in draw.conflict_bins(conflicts, scores):
        assert b.interval[0] < b.score < b.interval[1]


def test_the_score_tells_how_many_edits_a_bin_holds() -> None:
    run = {**EDITS, "score": [50.0] * 40}
    texts = [text.get_text() for text in draw.score_by_conflict({"a": run, "b": run}, bins=4).axes[0].texts]
    assert texts == ["n=10"] * 4
    fewer = {**EDITS, "score": [50.0] * 20 + [None] * 20}
    texts = [text.get_text() for text in draw.score_by_conflict({"a": run, "b": fewer}, bins=2).axes[0].texts]
    assert texts == ["n=20", "n=20", "n=10", "n=10"]
    many = {"a": run, "b": fewer, "c": run}
    texts = [text.get_text() for text in draw.score_by_conflict(many, bins=2).axes[0].texts]
    assert len(texts) == 1
    assert texts[0].endswith(" edits in a point")


def test_effort_stacks_the_parts_up_to_the_total() -> None:
    axes = draw.effort_by_batch(SECONDS).axes[0]
    heights = [patch.get_height() for patch in axes.patches if patch.get_x() < 1]
    assert heights == [3.0, 1.0, 0.5, 0.5, 5.0]  # the rest is 0.5; the last one is the frame
    said = draw.effort_by_batch(SECONDS, ["t = 1\nof 2"] + [""] * (len(SECONDS) - 1)).axes[0].texts
    assert said[0].get_text() == "t = 1\nof 2"
    means = [text.get_text() for text in draw.effort_by_run({"memit": SECONDS, "none": []}).axes[0].texts]
    assert means == ["3.5 s"]


def test_principal_components_are_the_same_everywhere() -> None:
    spread = np.array([[-3.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    found = draw.project(spread, spread)
    np.testing.assert_allclose(found.before, spread[:, :2], atol=1e-12)
    np.testing.assert_allclose(draw.project(-spread, -spread).before, -spread[:, :2], atol=1e-12)  # signs are fixed
    assert found.axes == (
        "principal component 1 (90 % of the variance)",
        "principal component 2 (10 % of the variance)",
    )
    both = draw.project(STATES, STATES + 5)
    assert np.linalg.norm(both.after.mean(0) - both.before.mean(0)) == pytest.approx(5 * 6**0.5, rel=0.05)
    flat = draw.project(np.ones((2, 1)), np.zeros((2, 1)))
    assert flat.axes[1] == "nothing"
    assert np.isfinite(draw.project(np.ones((2, 3)), np.ones((2, 3))).before).all()


def test_several_edited_models_are_in_one_plane() -> None:
    both = draw.project_several(STATES, {"same": STATES, "moved": STATES + 5})
    np.testing.assert_allclose(both.after["same"], both.before)
    assert np.linalg.norm(both.after["moved"].mean(0) - both.before.mean(0)) == pytest.approx(5 * 6**0.5, rel=0.05)
    with pytest.raises(InputError, match="the same n prompts before and after"):
        draw.project_several(STATES, {"same": STATES, "fewer": STATES[:3]})


def test_components_are_means_over_the_batches() -> None:
    axes = draw.components({"plain": EFFECTS, "rewrites": EFFECTS[1:]}).axes
    heights = [[patch.get_height() for patch in panel.patches] for panel in axes]
    np.testing.assert_allclose(heights, [[0.2, 0.3], [1.0, 2.0], [2.5, 2.0]])
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["plain", "rewrites"]


def test_an_svg_repeats_itself_and_replaces_nothing_of_the_users(tmp_path: Path) -> None:
    draw.save_svg(ALL["components"](), tmp_path / "a.svg")
    first = (tmp_path / "a.svg").read_bytes()
    draw.save_svg(ALL["components"](), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == first
    assert "σ_max" in first.decode()
    (tmp_path / "b.svg").write_text("mine")
    with pytest.raises(InputError, match="which exists"):
        draw.save_svg(ALL["components"](), tmp_path / "b.svg")


def test_a_result_may_have_a_name_of_its_own() -> None:
    figure = draw.capability_bars([RESULTS[0], {**RESULTS[1], "label": "alphaedit"}])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["before editing", "alphaedit"]


def test_tsne_repeats_itself_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (draw.project(STATES, STATES + 1, "tsne", seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.after, second.after)
    assert first.axes == ("t-SNE 1", "t-SNE 2")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(InputError, match=r"expected scikit-learn for t-SNE.*pip install scikit-learn.*pca"):
        draw.project(STATES, STATES, "tsne")


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (STATES, STATES[:3], r"the same n prompts before and after.*\[12, 6\] and \[3, 6\]"),
        (STATES[:1], STATES[:1], "n at least 2"),
        (STATES, STATES * np.nan, "expected finite hidden states"),
    ],
)
def test_hidden_states_that_cannot_be_projected(before: np.ndarray, after: np.ndarray, text: str) -> None:
    with pytest.raises(InputError, match=text):
        draw.project(before, after)


def test_how_far_hidden_states_move_is_in_shares_of_their_own_norms() -> None:
    before = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 10.0]])
    after = np.array([[3.0, 4.0, 5.0], [0.0, 6.0, 18.0]])
    assert moved(before, before) == 0
    assert moved(before, after) == pytest.approx((5 / 5 + 10 / 10) / 2)
    assert moved(before, after / 2 + before / 2) == pytest.approx(0.5)


def test_capabilities_leave_a_gap_where_nothing_was_measured() -> None:
    figure = draw.capability_bars(RESULTS)
    bars = [patch.get_height() for patch in figure.axes[0].patches]
    assert bars[:3] == [90.0, 60.0, 80.0]
    assert np.isnan(bars[3])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["before editing", "after 1 batch"]
    alone = draw.capability_bars([{"step": None, "tasks": {"sst2": {"f1": 1.0}}}])
    assert [t.get_text() for t in alone.legends[0].get_texts()] == ["the model"]


def test_retention_is_blank_where_nothing_was_measured() -> None:
    axes = draw.retention_heat_map([[100.0], [49.6, 100.0], [None, 0.0, 70.0]]).axes[0]
    cells = axes.images[0].get_array()
    assert cells.mask.tolist() == [[False, True, True], [False, False, True], [True, False, False]]
    assert [text.get_text() for text in axes.texts] == ["100", "50", "100", "0", "70"]
    assert not draw.retention_heat_map([[1.0] * 40] * 40).axes[0].texts


def test_the_spectrum_tells_where_the_null_space_ends_and_what_was_added() -> None:
    figure = draw.spectrum([0.0, 0.01, 0.02, 1.0, 4.0], 3, {3: 2, 4: 1}, "layer 7")
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [
        "σ",
        "null space (3 of 5, 60 % of the directions)",
        "τ (between 0.02 and 1)",
        "added by P̃ (2, in up to 2 batches)",
    ]
    assert axes.collections[-1].get_offsets().tolist() == [[4.0, 1.0], [5.0, 4.0]]
    assert axes.get_title(loc="left") == "layer 7"
    assert len(draw.spectrum([0.01, 1.0]).axes[0].get_legend().get_texts()) == 1  # a filter without an edge
