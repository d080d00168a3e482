"""Processes that share the layers of a model run the same passes, whatever each of them would have decided."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
import torch

import families
from aeplus.edits import EditRequest
from aeplus.functional import Spectrum
from aeplus.methods.closed_form import ClosedForm
from aeplus.methods.compositions import named_method
from aeplus.methods.gradient import GradientEdit, learn_updates
from aeplus.methods.measured import LayerEdit
from aeplus.methods.method import GradientOptions
from aeplus.models.decoder import Decoder
from aeplus.models.replay import Replay
from aeplus.models.sites import Snapshot
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets import optimizer
from aeplus.targets.keys import KeyReader, plan_change
from aeplus.targets.optimizer import TargetOptions, Targets, find_targets
from aeplus.targets.rows import batch_rows
from aeplus.utils.ranks import Ranks
from tiny import tiny_model, tiny_tokenizer

EDITS = [("The capital of {}", "France", "London"), ("{}", "London", "Paris"), ("In {}", "Paris the city", "Italy")]
ROWS = batch_rows(tiny_tokenizer(), [EditRequest(*edit) for edit in EDITS], ["", "The man is. ", "You. "])


class Threads(Ranks):
    """One of two threads in place of processes."""

    def __init__(self, number: int, barrier: Barrier, values: dict[int, Any]) -> None:
        super().__init__(number, 2, sharded=True)
        self._barrier, self._values = barrier, values

    def first(self, value: Any) -> Any:
        self._values[self.number] = value
        self._barrier.wait(10)
        found = self._values[0]
        self._barrier.wait(10)
        return found


def passes_of_two(make: Callable[[], Any], run: Callable[[Decoder], Any]) -> tuple[list[Any], list[list[Any]]]:
    """What each of two threads with a model of its own gets, and the shapes that its layers are run on.

    Models attend as they are written: torch's attention is replaced for all threads.
    """
    barrier, values = Barrier(2), {}
    decoders = [Decoder(make(), ranks=Threads(number, barrier, values)) for number in (0, 1)]
    seen: list[list[Any]] = [[], []]
    for decoder, shapes in zip(decoders, seen, strict=True):
        for index, layer in enumerate(decoder.layers):
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, own=shapes, index=index: own.append(
                    (index, tuple((args[0] if args else kwargs["hidden_states"]).shape))
                ),
                with_kwargs=True,
            )
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, decoders))
    return found, seen


@pytest.mark.parametrize("every", [1, 4])
def test_targets_are_learned_in_the_same_passes(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has less memory free, and edits that have converged sooner."""
    monkeypatch.setitem(optimizer._CHECK_EVERY, "cpu", every)
    monkeypatch.setattr(optimizer, "tokens_at_once", lambda decoder, *_, **__: (4096, 8)[decoder.ranks.number])
    options = TargetOptions(steps=15, clamp=3.0, kl_factor=0.01, stop_loss=1.5)

    def learn(decoder: Decoder) -> Targets:
        return find_targets(decoder, ROWS, 1, replace(options, stop_loss=(1.5, 3.0)[decoder.ranks.number]))

    found, seen = passes_of_two(lambda: tiny_model("llama", attention="eager"), learn)
    assert seen[0] == seen[1]
    assert len({shape for index, shape in seen[0] if index == 2}) > 1  # edits have left
    assert found[0].steps.tolist() == found[1].steps.tolist()
    alone = find_targets(Decoder(tiny_model("llama", attention="eager")), ROWS, 1, options)
    torch.testing.assert_close(found[0].values, alone.values)


@pytest.mark.parametrize("kind", ["gemma2", "gemma4_text"])
def test_changes_of_normalized_layers_are_planned_in_the_same_passes(kind: str) -> None:
    def plan(decoder: Decoder) -> torch.Tensor:
        sites, ids = decoder.select([0, 1]), [[5, 6, 7], [8, 9, 10]]
        replay, column = Replay(decoder, ids, 0, [3, 3]), torch.tensor([2, 2])
        values = replay.run(replay.hidden, 0, 2)[:, 2]
        # One's target is met as it is.
        return plan_change(replay, replay.hidden, column, sites, values + 0.05 * decoder.ranks.number)

    _, seen = passes_of_two(lambda: families.random_model(kind, families.CONFIGS[kind]), plan)
    assert seen[0] == seen[1]


def test_the_last_of_normalized_layers_goes_the_way_alone_on_both_or_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyReader, "left", lambda reader, *_: torch.tensor([float(reader.decoder.ranks.number)]))
    method = named_method("alphaedit", ridge=0.1, threshold=0.5, threshold_kind="dimensions")

    def propose(decoder: Decoder) -> list[LayerEdit]:
        sites = decoder.select([1, 2])
        keys = torch.eye(sites[0].weight.shape[1])
        statistics = [LayerStatistics(Spectrum.from_covariance(keys), keys, 200)] * 2
        o, n = sites[0].weight.shape[0], len(EDITS)
        done = torch.zeros(n)
        targets = Targets(torch.ones(o, n), torch.zeros(o, n), done, done, done.bool())
        priors = [torch.zeros(len(keys), 0)] * 2
        return ClosedForm(decoder, Snapshot(sites), ROWS, method, statistics, priors, lambda _: targets).propose(0)

    _, seen = passes_of_two(lambda: families.random_model("gemma2", families.CONFIGS["gemma2"]), propose)
    assert seen[0] == seen[1]


def test_gradient_steps_end_together() -> None:
    def learn(decoder: Decoder) -> GradientEdit:
        sites = decoder.select([1, 2])
        if not decoder.ranks.leads:
            decoder.model.lm_head.weight.mul_(0.8)
        bases = [torch.empty(site.weight.shape[1], 0) for site in sites]
        return learn_updates(
            decoder, sites, ROWS, None, bases, GradientOptions(steps=60, learning_rate=1e-2, contexts=1)
        )

    found, seen = passes_of_two(lambda: tiny_model("llama", attention="eager", tie_word_embeddings=False), learn)
    assert seen[0] == seen[1]
    assert found[0].steps == found[1].steps < 60
