"""Attention of short rows as matrix products, beside torch's own, and where it is used."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from aeplus.models import attention
from aeplus.models.attention import grouped_attention, short_attention, without_cudnn_attention
from aeplus.models.decoder import Decoder
from aeplus.models.replay import Replay
from families import CONFIGS, random_model
from tiny import tiny_model

OWN = ALL_ATTENTION_FUNCTIONS["sdpa"]


def drawn(rows: int, groups: int, share: int, tokens: int, prefix: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    shapes = (groups * share, tokens), (groups, prefix + tokens), (groups, prefix + tokens)
    return tuple(torch.randn(rows, heads, length, 6).to(dtype).requires_grad_() for heads, length in shapes)


def masked(rows: int, tokens: int, prefix: int) -> torch.Tensor:
    mask = torch.ones(rows, 1, tokens, prefix + tokens, dtype=torch.bool).tril(prefix)
    mask[::2, :, :, : prefix // 2] = False  # padded on the left
    return mask


@settings(max_examples=30, deadline=None)
@given(
    *(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 7)),
    st.sampled_from(["bool", "added", "by head", "for all rows"]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_products_give_what_torch_gives_there_and_back(
    rows: int, groups: int, share: int, tokens: int, prefix: int, kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows + 10 * tokens)
    leaves = drawn(rows, groups, share, tokens, prefix, dtype)
    mask = masked(rows, tokens, prefix)
    if kind != "bool":
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -1e9)
    if kind == "by head":
        mask = mask + torch.randn(rows, groups * share, 1, prefix + tokens).to(dtype)
    if kind == "for all rows":
        mask = mask[-1:]
    back = torch.randn(rows, groups * share, tokens, 6)
    found = short_attention(*leaves, mask, 0.3)
    results = [(found, *torch.autograd.grad(found, leaves, back.to(dtype)))]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    query, key, value = wide
    added = mask if mask.dtype == torch.bool else mask.double()
    expected = F.scaled_dot_product_attention(
        *(query, key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)), attn_mask=added, scale=0.3
    )
    results.append((expected, *torch.autograd.grad(expected, wide, back.double())))
    rounding = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for short, own in zip(*results, strict=True):
        assert short.dtype == dtype
        torch.testing.assert_close(short.double(), own, rtol=rounding, atol=rounding)


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    query, key, value = (leaf.detach() for leaf in drawn(2, 1, 2, 3, 4, torch.float32))
    found = short_attention(query.requires_grad_(), key, value, masked(2, 3, 4), 1.0)
    (gradient,) = torch.autograd.grad(found.sum(), query)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gptj"])
def test_a_replay_behind_a_prefix_runs_it_for_every_layer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        used.append(arguments[0].shape[2])
        return short_attention(*arguments)

    decoder = Decoder(tiny_model(kind))
    if decoder.config._attn_implementation != "sdpa":
        pytest.skip(f"{kind} has no sdpa")
    monkeypatch.setattr(attention, "short_attention", counted)
    replay = Replay(decoder, [[5, 6, 7, 8, 9], [7, 8, 9]], 1, [2, 1])
    assert not used  # the model's own pass runs as it does
    output = replay.run(replay.hidden.requires_grad_(), 1, len(decoder.layers))
    assert used == [2] * (len(decoder.layers) - 1)
    torch.testing.assert_close(decoder.final_norm(output)[0], replay.output[0], rtol=1e-5, atol=1e-5)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is OWN


def test_single_tokens_without_a_mask_run_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.Tensor] = []
    monkeypatch.setattr(attention, "short_attention", lambda *a: used.append(a[3]) or short_attention(*a))
    decoder = Decoder(tiny_model("llama"))
    replay = Replay(decoder, [[5, 6, 7], [7, 8, 9]], 1, [1, 1])
    output = replay.run(replay.hidden, 1, len(decoder.layers))
    assert len(used) == len(decoder.layers) - 1
    torch.testing.assert_close(decoder.final_norm(output), replay.output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"attention_mask": None},
        {"dropout": 0.5},
        {"position_bias": torch.zeros(1, 4, 2, 5)},
        {"attention_mask": torch.ones(2, 1, 2, 4, dtype=torch.bool)},
        {"attention_mask": torch.zeros(2, 1, 2, 5, dtype=torch.float64)},
    ],
    ids=["no mask", "dropout", "biases", "a mask of another length", "a mask of another dtype"],
)
def test_what_it_does_not_understand_is_left_to_torch(changed: dict[str, Any]) -> None:
    asked: list[dict[str, Any]] = []

    def own(_: Any, query: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, None]:
        asked.append(more)
        return query, None

    query, key, value = drawn(2, 2, 2, 2, 3, torch.float32)
    options = {"attention_mask": masked(2, 2, 3), "scaling": 1.0, "sliding_window": 7, **changed}
    attention._attention(own, torch.nn.Identity(), query, key, value, **options)
    assert len(asked) == 1
    assert asked[0]["scaling"] == 1.0
    attention._attention(own, torch.nn.Identity(), query, key, value, masked(2, 2, 3), sliding_window=7)
    assert len(asked) == 1


def test_long_rows_are_left_to_torch() -> None:
    long = drawn(1, 1, 1, 200, 0, torch.float32)
    assert not attention._fits(*long, masked(1, 200, 0))


def test_afterwards_and_after_an_error_attention_is_torchs_again() -> None:
    def fails() -> None:
        with grouped_attention(), grouped_attention():
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not OWN
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is OWN
    AttentionInterface.register("sdpa", len)  # what somebody registers for all is found
    try:
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is len
    finally:
        AttentionInterface.register("sdpa", OWN)


def test_an_attention_that_somebody_put_there_is_there_again() -> None:
    def other(*_: Any) -> None: ...

    ALL_ATTENTION_FUNCTIONS["sdpa"] = other
    try:
        with grouped_attention():
            pass
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is other
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is OWN


def test_layers_below_the_first_are_not_kept() -> None:
    decoder = Decoder(random_model("llama", CONFIGS["llama"] | {"num_hidden_layers": 4}))
    replay = Replay(decoder, [[5, 6, 7, 8], [7, 8, 9]], 2, [2, 1])
    assert replay._cache is not None
    assert [layer.keys is not None for layer in replay._cache.layers] == [True, False, True, True]
    some = replay.select(torch.tensor([1]))
    output = some.run(some.hidden, 2, 4)
    torch.testing.assert_close(decoder.final_norm(output)[:, :1], some.output[:, :1], rtol=1e-5, atol=1e-5)


def test_passes_go_without_cudnns_attention() -> None:
    decoder = Decoder(tiny_model("llama"))
    allowed: list[bool] = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled()))
    replay = Replay(decoder, [[1, 2, 3, 4]], 0)
    replay.run(replay.hidden.requires_grad_(), 0, 2)
    assert not any(allowed)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_where_no_other_attention_is_allowed_cudnns_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "mem_efficient_sdp_enabled", lambda: False)
    with without_cudnn_attention():
        assert torch.backends.cuda.cudnn_sdp_enabled()
