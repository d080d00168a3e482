from dataclasses import replace

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import BatchRows, batch_rows
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
