from dataclasses import replace
from typing import Any

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.targets import optimizer, packing
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.packing import target_parts
from aeplus.targets.rows import BatchRows, batch_rows
from aeplus.utils.ranks import Ranks
from counting import Operations
from reference_targets import plain_targets
from tiny import CONFIGS, tiny_model, tiny_tokenizer

REQUESTS = [
    EditRequest("The capital of {} is", "France", "Rome"),
    EditRequest("{} speaks", "London", "French in Italy"),
    EditRequest("In {}", "Paris the city", "one"),
]
# Answers of one token right after the subject, which a random model can learn.
EASY = [
    EditRequest("The capital of {}", "France", "London"),
    EditRequest("{}", "London", "Paris"),
    EditRequest("In {}", "Paris the city", "Italy"),
]
CONTEXTS = ["", "The man is. ", "You. "]
OPTIONS = TargetOptions(steps=7, learning_rate=0.5, clamp=3.0)


def rows_of(side: str = "right", bos: bool = False) -> BatchRows:
    return batch_rows(tiny_tokenizer(side, bos), REQUESTS, CONTEXTS)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("bos", [False, True])
def test_equal_to_the_plain_optimizer(kind: str, bos: bool) -> None:
    decoder = Decoder(tiny_model(kind, attention="eager"))
    rows = rows_of(bos=bos)
    found = find_targets(decoder, rows, 1, OPTIONS, reachable=False)  # the plain optimizer does not know of it
    expected, steps = plain_targets(decoder, rows, 1, OPTIONS)
    assert found.steps.tolist() == steps.tolist()
    moved = (expected - found.initial).norm()
    assert moved > 0
    assert (found.values - expected).norm() / moved < 2e-5


def test_converged_edits_are_frozen() -> None:
    decoder = Decoder(tiny_model("llama"))
    rows = batch_rows(tiny_tokenizer(), EASY, CONTEXTS)
    # A stopping loss that the edits reach one after the other.
    options = replace(OPTIONS, steps=15, stop_loss=1.5, kl_factor=0.01)
    found = find_targets(decoder, rows, 1, options)
    expected, steps = plain_targets(decoder, rows, 1, options)
    assert len(set(steps.tolist())) > 1
    assert found.steps.tolist() == steps.tolist()
    assert (found.values - expected).norm() / (expected - found.initial).norm() < 2e-5
    assert bool((found.loss[found.converged] < 1.5).all())


def test_early_stop_by_rank_ends_after_two_steps_on_top_behind_every_context() -> None:
    decoder = Decoder(tiny_model("llama"))
    rows = batch_rows(tiny_tokenizer(), EASY, CONTEXTS)
    whole = replace(OPTIONS, steps=14, stop_loss=0.0, kl_factor=0.0, clamp=6.0)

    def on_top(values: torch.Tensor) -> list[bool]:
        """Whether each edit's answer is the first choice behind every context, one plain pass per row."""
        found = []
        for edit in range(rows.edits):
            hits = []
            for row in rows.prompts[edit * rows.contexts :][: rows.contexts]:

                def move(_: object, __: object, output: object, row: object = row, edit: int = edit) -> object:
                    hidden = (output[0] if isinstance(output, tuple) else output).clone()
                    hidden[0, row.mark] += (values - initial)[:, edit]
                    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

                handle = decoder.layers[1].register_forward_hook(move)
                logits = decoder.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
                handle.remove()
                hits.append(logits[row.answer - 1 : len(row.ids) - 1].argmax(-1).tolist() == list(row.answer_ids))
            found.append(all(hits))
        return found

    initial = find_targets(decoder, rows, 1, replace(whole, steps=1)).initial
    history = [on_top(find_targets(decoder, rows, 1, replace(whole, steps=step)).values) for step in range(1, 15)]
    expected = []
    for edit in range(rows.edits):
        tops = [now[edit] for now in history]
        expected.append(next((i for i in range(1, 14) if tops[i - 1] and tops[i]), None))
    found = find_targets(decoder, rows, 1, replace(whole, stop="rank", chunk_tokens=5))
    assert any(step is not None and step < 10 for step in expected)
    for edit, step in enumerate(expected):
        assert bool(found.converged[edit]) == (step is not None)
        assert int(found.steps[edit]) == (13 if step is None else step)


def test_chunks_change_nothing() -> None:
    decoder = Decoder(tiny_model("llama"))
    whole = find_targets(decoder, rows_of(), 1, OPTIONS)
    parts = find_targets(decoder, rows_of(), 1, replace(OPTIONS, chunk_tokens=5))
    torch.testing.assert_close(whole.values, parts.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma2"])
def test_layers_above_in_bfloat16_give_nearly_the_same(kind: str) -> None:
    model = tiny_model(kind, attention="eager" if kind == "gemma2" else "sdpa")
    decoder, before = Decoder(model), {name: p.clone() for name, p in model.named_parameters()}
    full = find_targets(decoder, rows_of(), 1, OPTIONS)
    lowered = find_targets(decoder, rows_of(), 1, replace(OPTIONS, precision="bfloat16"))
    difference = (lowered.values - full.values).norm() / (full.values - full.initial).norm()
    assert 0 < difference < 0.15
    assert torch.equal(lowered.initial, full.initial)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_model_in_half_precision_stays_in_its_own() -> None:
    decoder = Decoder(tiny_model("llama").bfloat16())
    full = find_targets(decoder, rows_of(), 1, OPTIONS)
    assert torch.equal(find_targets(decoder, rows_of(), 1, replace(OPTIONS, precision="bfloat16")).values, full.values)


def test_bad_precision() -> None:
    with pytest.raises(InputError, match=r"expected targets\.precision full or bfloat16, got 'int8'"):
        TargetOptions(precision="int8")  # type: ignore[arg-type]


def test_last_layer_can_be_edited() -> None:
    decoder = Decoder(tiny_model("llama"))
    rows = batch_rows(tiny_tokenizer(), EASY, CONTEXTS)
    found = find_targets(decoder, rows, 3, OPTIONS)
    expected, _ = plain_targets(decoder, rows, 3, OPTIONS)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_the_target_predicts_the_new_answer() -> None:
    decoder = Decoder(tiny_model("llama"))
    rows = batch_rows(tiny_tokenizer(), EASY, CONTEXTS)
    found = find_targets(decoder, rows, 1, replace(OPTIONS, steps=60, clamp=8.0, kl_factor=0.0, weight_decay=0.0))
    assert bool(found.converged.all())
    assert bool((found.loss < 0.05).all())


def test_clamp_bounds_the_shift() -> None:
    decoder = Decoder(tiny_model("llama"))
    found = find_targets(decoder, rows_of(), 1, replace(OPTIONS, clamp=0.5))
    shift = (found.values - found.initial).norm(dim=0)
    assert bool((shift <= 0.5 * found.initial.norm(dim=0) * 1.0001).all())


def test_nan_weights_are_named() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="expected finite hidden states, got NaN"):
        find_targets(Decoder(model), rows_of(), 1, OPTIONS)


@pytest.mark.parametrize("name", ["steps", "learning_rate", "clamp"])
def test_bad_options(name: str) -> None:
    with pytest.raises(InputError, match=f"expected targets.{name} above 0, got 0"):
        TargetOptions(**{name: 0})


@pytest.mark.parametrize("joint", [False, True])
def test_targets_are_learned_as_many_together_as_fit(joint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, options = Decoder(tiny_model("llama")), replace(OPTIONS, joint=joint)
    rows = batch_rows(tiny_tokenizer(), [*REQUESTS, *EASY], CONTEXTS)
    whole = find_targets(decoder, rows, 1, options)
    most: list[int] = []

    def parts(*given: Any) -> Any:
        found = target_parts(*given)
        caches = [part.replay._cache for part in found[0] if part.replay._cache is not None]
        most.append(sum(x.keys.nbytes + x.values.nbytes for c in caches for x in c.layers[2:] if x.is_initialized))
        return found

    monkeypatch.setattr(optimizer, "target_parts", parts)
    find_targets(decoder, rows, 1, options)
    (all_together,) = most
    most.clear()
    monkeypatch.setattr(packing, "MOST_MEMORY", all_together // 2)
    split = find_targets(decoder, rows, 1, options)
    assert len(most) >= 2
    assert max(most) <= all_together // 2
    for name, tensor in vars(whole).items():
        torch.testing.assert_close(getattr(split, name), tensor, rtol=1e-4, atol=1e-5)


class Shared(Ranks):
    """As if another process had a share too, but there is none."""

    alone = False

    def split(self, items: Any, work: Any, *, runs_model: bool = True) -> Any:
        return list(work(items))


@pytest.mark.parametrize("edits", [2, 6])
def test_shared_targets_are_copied_to_the_host_together(edits: int) -> None:
    decoder = Decoder(tiny_model("llama"), ranks=Shared())
    rows = batch_rows(tiny_tokenizer(), [*REQUESTS, *EASY][:edits], CONTEXTS)
    with Operations() as operations:
        found = find_targets(decoder, rows, 1, OPTIONS)
    assert operations.waits["cpu"] == len(vars(found))
    alone = find_targets(Decoder(tiny_model("llama")), rows, 1, OPTIONS)
    assert torch.equal(found.values, alone.values)
