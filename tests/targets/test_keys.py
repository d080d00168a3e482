from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.functional import LowRankUpdate
from aeplus.models.costs import tokens_ahead
from aeplus.models.decoder import Decoder
from aeplus.models.variants import Variants
from aeplus.targets import keys as reading
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import find_targets
from aeplus.targets.rows import batch_rows, sample_contexts
from counting import counted_calls
from families import CONFIGS, OPTIONS, random_model
from families import REQUESTS as THREE
from tiny import tiny_model, tiny_tokenizer

REQUESTS = [EditRequest("The capital of {} is", "France", "Rome"), EditRequest("{} speaks", "London", "it")]
CONTEXTS = ["", "The man is. ", "You. "]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_keys_and_values_follow_the_layers_as_they_change(kind: str) -> None:
    """Against whole forward passes, one row at a time, after each layer's edit."""
    model = tiny_model(kind, attention="eager")
    decoder = Decoder(model)
    sites = decoder.select([1, 2])
    tokenizer = tiny_tokenizer()
    rows = batch_rows(tokenizer, REQUESTS, CONTEXTS)
    reader = KeyReader(decoder, rows, sites)
    for site in sites:
        keys, values = reader.read(site, sites[-1])
        for edit in range(len(REQUESTS)):
            parts = []
            for context in range(3):
                row = rows.prompts[edit * 3 + context]
                seen: dict[str, torch.Tensor] = {}
                hooks = [
                    site.module.register_forward_pre_hook(lambda _, x, seen=seen: seen.update(key=x[0][0, -1])),
                    decoder.layers[2].register_forward_hook(
                        lambda _, __, out, seen=seen: seen.update(
                            value=(out[0] if isinstance(out, tuple) else out)[0, -1]
                        )
                    ),
                ]
                model(torch.tensor([row.ids[: row.mark + 1]]))
                for hook in hooks:
                    hook.remove()
                parts.append(seen["key"])
                if context == 0:
                    torch.testing.assert_close(values[:, edit], seen["value"], rtol=1e-4, atol=1e-5)
            mean = (parts[0] + (parts[1] + parts[2]) / 2) / 2
            torch.testing.assert_close(keys[:, edit], mean, rtol=1e-4, atol=1e-5)
        site.weight.add_(0.05 * torch.randn(site.weight.shape))


def test_contexts_are_sampled_with_a_seed() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    state = torch.random.get_rng_state()
    first = sample_contexts(model, tokenizer, 3, 5, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == sample_contexts(model, tokenizer, 3, 5, seed=1)
    assert first != sample_contexts(model, tokenizer, 3, 5, seed=2)
    assert first[0] == ""
    assert len(first) == 4
    assert all(text.endswith(". ") for text in first[1:])


def many(count: int) -> list[EditRequest]:
    subjects = ["France", "London", "Italy", "Rome", "Spain the country"]
    return [EditRequest("The capital of {} is", subjects[i % len(subjects)], "Rome") for i in range(count)]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_parts_of_a_batch_give_what_the_whole_does(kind: str) -> None:
    decoder = Decoder(tiny_model(kind, attention="eager"))
    sites = decoder.select([1, 2])
    rows = batch_rows(tiny_tokenizer(), many(7), CONTEXTS)
    o, d = sites[0].weight.shape
    left = torch.randn(o, 1, generator=torch.Generator().manual_seed(0))
    updates = [LowRankUpdate(left, torch.full((1, d), scale)) for scale in (0.1, 0.2)]
    found = []
    for chunk in (4096, 16):
        reader = KeyReader(decoder, rows, sites, chunk)
        assert (len(reader._parts) == 1) is (chunk == 4096)
        keys, values = reader.read(sites[0], sites[1])
        wanted = values + 0.1
        parts = [keys, values, reader.left(sites[1], wanted, values)[None], reader.change(sites[:1], wanted, values)]
        parts += reader.follow(0.1 * torch.ones(o, 7))
        reader.restart()
        for own in reader.beside(2).read_each(sites[1], sites[1], Variants(sites[:1], [[u] for u in updates])):
            parts += own
        found.append(parts)
    for whole, split in zip(*found, strict=True):
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)


def test_no_more_tokens_run_at_once_than_asked_for() -> None:
    decoder = Decoder(tiny_model("llama"))
    sites, most = decoder.select([1, 2]), [0]

    def count(_: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        most[0] = max(most[0], hidden.shape[0] * hidden.shape[1])

    for layer in decoder.layers:
        layer.register_forward_pre_hook(count, with_kwargs=True)
    for edits in (8, 32, 64):
        KeyReader(decoder, batch_rows(tiny_tokenizer(), many(edits), CONTEXTS), sites, 64).read(sites[0], sites[1])
    assert 128 < most[0] <= 4 * 64


def test_keys_are_read_within_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(tiny_model("llama"))
    sites, rows = decoder.select([1, 2]), batch_rows(tiny_tokenizer(), many(32), CONTEXTS)
    counts = []
    for free in (2**36, 2**20):
        monkeypatch.setattr(reading, "tokens_ahead", partial(tokens_ahead, free=lambda _, free=free: free))
        reader = KeyReader(decoder, rows, sites)
        counts.append(len(reader._parts))
        fit = 0.3 * free / (4 * sites[0].weight.shape[1] * 4)
        assert max(part.tokens for part in reader._parts) <= fit
    assert counts[0] == 1 < counts[1]


def test_what_runs_at_once_is_bounded_by_the_free_memory() -> None:
    decoder = Decoder(tiny_model("llama"))
    each = 4 * decoder.sites[0].weight.shape[1] * 4
    assert tokens_ahead(decoder, 50, 80) == 50  # a CPU is not asked
    assert tokens_ahead(decoder, 50, 80, free=lambda _: 2**40) == 80
    assert tokens_ahead(decoder, 50, 80, free=lambda _: 100 * each) == 30
    assert tokens_ahead(decoder, 50, 80, 0.5, free=lambda _: 100 * each) < 30  # logits
    assert tokens_ahead(decoder, 50, 80, free=lambda _: 0) == 1


@pytest.mark.parametrize("kind", ["gemma2", "olmo2"])
def test_an_edit_that_is_there_already_asks_for_no_sweep(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(random_model(kind, CONFIGS[kind]))
    sites, rows = decoder.select([1, 2]), batch_rows(tiny_tokenizer(), THREE, CONTEXTS[:2])
    wanted = find_targets(decoder, rows, 2, replace(OPTIONS, clamp=0.05)).values
    sweeps, found = counted_calls(monkeypatch, reading, "_sweep"), []
    for edits in ([0, 1, 2], [0, 2]):
        reader = KeyReader(decoder, rows.some(edits), sites)
        _, values = reader.read(sites[0], sites[1])
        aims = wanted[:, edits].clone()
        if 1 in edits:
            aims[:, 1] = values[:, 1] * (1 + 1e-6)
            assert float(reader.left(sites[1], aims, values)[1]) == 0
        sweeps[0] = 0
        found.append((reader.change(sites, aims, values)[:, [0, -1]], sweeps[0]))
    (change, beside), (alone, expected) = found
    assert beside == expected < reading._SWEEPS
    torch.testing.assert_close(change, alone, rtol=1e-3, atol=1e-4)
