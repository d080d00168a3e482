import pytest
import torch

from aeplus.models.decoder import Decoder
from aeplus.models.replay import Replay, freezes_prefix, row_groups
from families import CONFIGS as CONFIGS_OF_FAMILIES
from families import random_model
from tiny import CONFIGS, tiny_model

ROWS = [[7, 8, 9], [11] * 7, list(range(20, 32)), list(range(40, 65))]
SUFFIX = [3, 2, 3, 1]
EAGER_ONLY = ("gptj", "gemma2")
CASES = [(k, a) for k in CONFIGS for a in ("sdpa", "eager") if a == "eager" or k not in EAGER_ONLY]


@pytest.mark.parametrize(("kind", "attention"), CASES)
@pytest.mark.parametrize("first", [0, 2, 4])
def test_replay_repeats_the_models_logits(kind: str, attention: str, first: int) -> None:
    model = tiny_model(kind, attention=attention)
    decoder = Decoder(model)
    expected = [model(torch.tensor([row])).logits[0, -n:] for row, n in zip(ROWS, SUFFIX, strict=True)]
    replay = Replay(decoder, ROWS, first, SUFFIX)
    logits = decoder.logits(replay.run(replay.hidden, first, 4))
    for i, n in enumerate(SUFFIX):
        torch.testing.assert_close(logits[i, :n], expected[i], rtol=1e-4, atol=1e-5)
    again = decoder.logits(replay.run(replay.hidden, first, 4))
    torch.testing.assert_close(again, logits)  # the cache does not grow


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_selected_rows_keep_their_logits(kind: str) -> None:
    decoder = Decoder(tiny_model(kind))
    replay = Replay(decoder, ROWS, 2, SUFFIX)
    chosen = replay.select(torch.tensor([3, 1]))
    torch.testing.assert_close(
        chosen.run(chosen.hidden, 2, 4), replay.run(replay.hidden, 2, 4)[[3, 1]], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", ["bloom", "mpt", "falcon", "gemma3_text", "llama"])
def test_selected_rows_of_biases_by_head(kind: str, cached: bool) -> None:
    """BLOOM's are of rows times heads, MPT's of heads, which are as many as the rows here."""
    decoder = Decoder(random_model(kind, CONFIGS_OF_FAMILIES[kind]))
    rows = [ROWS[i] for i in (0, 1, 2, 1)]
    replay = Replay(decoder, rows, 0, [3, 2, 3, 1] if cached else None)
    whole = replay.run(replay.hidden, 0, len(decoder.layers))
    for some in ([3, 1], [2], [0, 1, 2, 3, 1]):
        chosen = replay.select(torch.tensor(some))
        again = chosen.select(torch.tensor([0, 0]))
        torch.testing.assert_close(chosen.run(chosen.hidden, 0, len(decoder.layers)), whole[some], rtol=1e-4, atol=1e-4)
        first = again.run(again.hidden, 0, len(decoder.layers))
        torch.testing.assert_close(first, whole[[some[0]] * 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_whole_rows_without_cache(kind: str) -> None:
    model = tiny_model(kind)
    decoder = Decoder(model)
    replay = Replay(decoder, ROWS, 1)
    logits = decoder.logits(replay.run(replay.hidden, 1, 4))
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(logits[i, -len(row) :], model(torch.tensor([row])).logits[0], rtol=1e-4, atol=1e-5)


def test_a_recording_that_ends_early_repeats_the_layers_before() -> None:
    decoder = Decoder(tiny_model("llama"))
    rows = [[5, 6, 7, 8, 9], [10, 11, 12]]
    ran: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(decoder.layers)
    ]
    whole = Replay(decoder, rows, 1)
    ran.clear()
    for suffix in (None, [2, 2]):
        part = Replay(decoder, rows, 1, suffix, last=2)
        assert max(ran) == 2
        if suffix is None:
            assert torch.equal(part.run(part.hidden, 1, 3), whole.run(whole.hidden, 1, 3))
    for handle in handles:
        handle.remove()


def test_what_a_forward_pass_does_is_tried_once_for_a_model_and_dtype() -> None:
    model = tiny_model("llama")
    passes: list[int] = []
    model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    assert freezes_prefix(Decoder(model))
    groups = row_groups(Decoder(model), cached=True)
    assert passes
    passes.clear()
    assert freezes_prefix(Decoder(model))
    assert row_groups(Decoder(model), cached=True) is groups
    assert not passes
    assert freezes_prefix(Decoder(model.bfloat16()))  # which rounds otherwise
    assert passes
