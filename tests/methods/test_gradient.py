"""Updates learned by gradient, against a plain loop over whole texts, and the model given back as it was."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import extend_basis
from aeplus.methods.gradient import GradientEdit, learn_updates
from aeplus.methods.method import GradientOptions
from aeplus.models.decoder import Decoder
from aeplus.models.hooks import on_input
from aeplus.models.replay import Replay
from aeplus.models.sites import EditSite
from aeplus.models.tokens import TokenRow
from aeplus.targets import packing as gradient_rows
from aeplus.targets.rows import BatchRows, batch_rows
from tiny import tiny_model, tiny_tokenizer

NEW = [
    EditRequest("The capital of {}", "France", "London"),
    EditRequest("{} speaks", "London", "French in Italy"),
    EditRequest("In {}", "Paris the city", "Italy"),
]
OLD = [EditRequest("The capital of {}", "Oslo", "Paris"), EditRequest("{} speaks", "Rome", "Paris")]
CONTEXTS = ["", "The man is. ", "You. "]
OPTIONS = GradientOptions(steps=60, learning_rate=1e-2, contexts=1)
LAYERS = [1, 2]
KINDS = ["gpt2", "llama"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # many small steps lose far more to waiting threads than they gain
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def decoder_of(kind: str, dtype: torch.dtype = torch.float32) -> Decoder:
    # GPT-2's head is tied to embeddings too small to be sure of anything
    return Decoder(tiny_model(kind, tie_word_embeddings=False).to(dtype))


def rows_of(requests: list[EditRequest], contexts: list[str] = CONTEXTS) -> BatchRows:
    return batch_rows(tiny_tokenizer(), requests, contexts)


def empty(sites: list[EditSite]) -> list[Tensor]:
    return [torch.empty(site.weight.shape[1], 0) for site in sites]


def random_bases(sites: list[EditSite], r: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.linalg.qr(torch.randn(s.weight.shape[1], r, generator=generator).double()).Q for s in sites]


def row_loss(row: TokenRow, logits: Tensor) -> Tensor:
    said = logits[row.answer - 1 : -1].log_softmax(-1)
    return -said.gather(1, torch.tensor(row.answer_ids)[:, None]).mean()


def plain_losses(model: Any, rows: BatchRows, contexts: int, weights: dict[str, Tensor] | None = None) -> Tensor:
    """The loss of each edit by the model's own forward pass, a text at a time."""
    losses = []
    for i in range(rows.edits):
        texts = rows.prompts[i * rows.contexts :][: contexts + 1]
        logits = [
            functional_call(model, weights or {}, (torch.tensor([r.ids]),), {"use_cache": False}).logits[0]
            for r in texts
        ]
        losses.append(torch.stack([row_loss(r, x) for r, x in zip(texts, logits, strict=True)]).mean())
    return torch.stack(losses)


def apply(sites: list[EditSite], edit: GradientEdit) -> None:
    for site, update in zip(sites, edit.updates, strict=True):
        site.add(update)


def state(decoder: Decoder) -> list[tuple[Tensor, bool, bool]]:
    return [(p.detach().clone(), p.requires_grad, p.grad is None) for p in decoder.model.parameters()]


def same(before: list[tuple[Tensor, bool, bool]], after: list[tuple[Tensor, bool, bool]]) -> bool:
    return all(torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_edits_are_learned(kind: str, dtype: torch.dtype) -> None:
    decoder = decoder_of(kind, dtype)
    sites, rows = decoder.select(LAYERS), rows_of(NEW)
    edit = learn_updates(decoder, sites, rows, None, empty(sites), OPTIONS)
    assert edit.converged.tolist() == [True] * 3
    assert 0 < edit.steps < OPTIONS.steps
    assert {u.right.dtype for u in edit.updates} == {torch.promote_types(dtype, torch.float32)}
    with torch.no_grad():
        assert not bool((plain_losses(decoder.model, rows, 1) < 1).any())
        apply(sites, edit)
        close = 0.02 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(plain_losses(decoder.model, rows, 1).to(edit.loss), edit.loss, rtol=0, atol=close)
        for row in rows.prompts[:: rows.contexts]:
            said = decoder.model(torch.tensor([row.ids])).logits[0, row.answer - 1 : -1].argmax(-1)
            assert tuple(said.tolist()) == row.answer_ids


def plain_updates(
    decoder: Decoder,
    sites: list[EditSite],
    rows: BatchRows,
    earlier: BatchRows | None,
    bases: list[Tensor],
    options: GradientOptions,
) -> tuple[list[Tensor], list[list[float]]]:
    """``D (I − M Mᵀ)`` with ``D`` learned through the projection by autograd; the losses of every step."""
    free = [torch.zeros_like(site.weight, requires_grad=True) for site in sites]
    outside = [torch.eye(len(m)).double() - m @ m.T for m in bases]
    start = {site.name: site.weight.clone() for site in sites}
    history: list[list[float]] = []
    n = rows.edits

    def current() -> Tensor:
        weights = {}
        for site, d, p in zip(sites, free, outside, strict=True):
            changed = start[site.name] + d @ p
            weights[site.name] = changed.T if "c_proj" in site.name else changed
        losses = plain_losses(decoder.model, rows, options.contexts, weights)
        if stage == 2 and earlier is not None:
            losses = torch.cat([losses, plain_losses(decoder.model, earlier, 0, weights)])
        return losses

    for stage in (1, 2) if earlier is not None else (1,):
        adam = torch.optim.AdamW(free, lr=options.learning_rate, weight_decay=options.weight_decay)
        broken: set[int] = set()
        for step in range(1 + (options.steps if stage == 1 else options.replay_steps)):
            losses = current()
            history.append(losses.tolist())
            above = {i for i, loss in enumerate(losses.tolist()) if loss >= options.stop_loss}
            broken |= {i for i in above if i >= n}
            if not above or step == (options.steps if stage == 1 else options.replay_steps):
                break
            counted = above if stage == 1 else {*range(n), *broken}
            adam.zero_grad()
            losses[sorted(counted)].sum().backward()
            adam.step()
    return [(d @ p).detach() for d, p in zip(free, outside, strict=True)], history


@pytest.mark.parametrize("kind", KINDS)
def test_learning_at_the_subject_only(kind: str) -> None:
    """The first gradient against one by hand: what reaches the layer's output at the subject, times the key there."""
    decoder = decoder_of(kind, torch.float64)
    sites, rows = decoder.select(LAYERS), rows_of(NEW)
    seen: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    wanted = {site.name: torch.zeros_like(site.weight) for site in sites}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Tensor], output: Tensor) -> None:
            seen[name] += [args[0], output]

        return hook

    for i in range(rows.edits):
        texts = rows.prompts[i * rows.contexts :][: OPTIONS.contexts + 1]
        for row in texts:
            for kept in seen.values():
                kept.clear()
            handles = [site.module.register_forward_hook(keep(site.name)) for site in sites]
            embedded = decoder.model.get_input_embeddings()(torch.tensor([row.ids])).detach().requires_grad_(True)
            logits = decoder.model(inputs_embeds=embedded, use_cache=False).logits[0]
            for handle in handles:
                handle.remove()
            outputs = [seen[site.name][1] for site in sites]
            arrived = torch.autograd.grad(row_loss(row, logits) / len(texts), outputs)
            for site, g in zip(sites, arrived, strict=True):
                wanted[site.name] += torch.outer(g[0, row.mark], seen[site.name][0][0, row.mark])
    # Adam's first step is the sign of the gradient
    options = replace(OPTIONS, steps=1, learning_rate=1e-3, positions="subject", stop_loss=1e-6)
    edit = learn_updates(decoder, sites, rows, None, empty(sites), options)
    whole = learn_updates(decoder, sites, rows, None, empty(sites), replace(options, positions="all"))
    for site, update, other in zip(sites, edit.updates, whole.updates, strict=True):
        gradient = wanted[site.name]
        clear = gradient.abs() > 1e-3 * gradient.abs().max()  # elsewhere Adam's ε and the noise gate have a say
        torch.testing.assert_close(update.dense()[clear], -1e-3 * gradient[clear].sign(), rtol=1e-2, atol=0)
        assert not torch.allclose(update.dense(), other.dense(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_plain_steps_through_the_projection(kind: str) -> None:
    decoder = decoder_of(kind, torch.float64)
    sites = decoder.select(LAYERS)
    bases = random_bases(sites)
    # one that stage one teaches, one that it does not, and one that contradicts the batch
    sample = [NEW[2], OLD[0], replace(NEW[0], target_new="Rome")]
    rows, earlier = rows_of(NEW), rows_of(sample, [""])
    options = replace(OPTIONS, steps=9, replay_steps=14, stop_loss=0.8, weight_decay=0.5)
    edit = learn_updates(decoder, sites, rows, earlier, bases, options)
    expected, history = plain_updates(decoder, sites, rows, earlier, bases, options)
    first, second = ([x for x in history if len(x) == size] for size in (3, 6))
    below = [tuple(loss < 0.8 for loss in losses) for losses in first]
    assert any(any(x) and not all(x) for x in below)  # an edit did not count while others did
    assert second[0][3] < 0.8 < second[0][4]  # nor does an earlier edit that is answered
    assert any(losses[4] < 0.8 for losses in second[:-1])  # one that is not counts even when it is learned
    for update, wanted in zip(edit.updates, expected, strict=True):
        assert (update.dense() - wanted).norm() / wanted.norm() < 1e-7
    torch.testing.assert_close(edit.loss.tolist(), history[-1][:3], rtol=1e-7, atol=1e-9)
    assert edit.steps == len(history) - 2
    assert edit.converged.tolist() == [loss < 0.8 for loss in history[-1][:3]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_updates_are_orthogonal_to_the_basis(kind: str, dtype: torch.dtype, close: float) -> None:
    decoder = decoder_of(kind, dtype)
    sites = decoder.select(LAYERS)
    bases = random_bases(sites)
    for update, basis in zip(
        learn_updates(decoder, sites, rows_of(NEW), rows_of(OLD, [""]), bases, OPTIONS).updates, bases, strict=True
    ):
        delta = update.dense().double()
        assert delta.norm() > 0
        assert (delta @ basis).norm() / delta.norm() < close


def all_keys(decoder: Decoder, sites: list[EditSite], rows: BatchRows) -> list[Tensor]:
    """The keys of every token of every text, ``[d, tokens]`` for each site."""
    keys: list[list[Tensor]] = [[] for _ in sites]
    for row in rows.prompts:
        with torch.no_grad(), on_input([s.module for s in sites], lambda i, x: keys[i].append(x[0].double().T)):
            decoder.model(torch.tensor([row.ids]))
    return [torch.cat(k, 1) for k in keys]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nothing_is_learned_where_the_basis_holds_all_keys(kind: str, dtype: torch.dtype) -> None:
    decoder = decoder_of(kind, dtype)
    sites, rows = decoder.select(LAYERS), rows_of(NEW[:2], [""])
    d = sites[0].weight.shape[1]
    bases = [extend_basis(torch.empty(d, 0).double(), k, 1.0) for k in all_keys(decoder, sites, rows)]
    assert all(basis.shape[1] < d for basis in bases)  # there is room left, but not for these texts
    before = plain_losses(decoder.model, rows, 0)
    edit = learn_updates(decoder, sites, rows, None, bases, replace(OPTIONS, steps=5))
    assert edit.steps == 5
    torch.testing.assert_close(edit.loss, before.to(edit.loss), rtol=0.02 if dtype == torch.bfloat16 else 1e-4, atol=0)
    assert [float(update.right.abs().max()) for update in edit.updates] == [0.0, 0.0]


def test_stage_two_repairs_an_earlier_edit_that_stage_one_breaks() -> None:
    decoder = decoder_of("llama")
    sites = decoder.select(LAYERS)
    rows, earlier = rows_of(NEW), rows_of(OLD, [""])
    apply(sites, learn_updates(decoder, sites, earlier, None, empty(sites), OPTIONS))
    start = [site.weight.clone() for site in sites]
    after = {}
    for replay_steps in (0, 20):
        options = replace(OPTIONS, replay_steps=replay_steps)
        edit = learn_updates(decoder, sites, rows, earlier, empty(sites), options)
        apply(sites, edit)
        with torch.no_grad():
            after[replay_steps] = plain_losses(decoder.model, earlier, 0)
            assert bool((plain_losses(decoder.model, rows, 1) < 0.7).all())
        for site, weight in zip(sites, start, strict=True):
            site.weight.copy_(weight)
    broken = after[0] > 0.7
    assert bool(broken.any())
    assert bool((after[20][broken] < 0.1).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_comes_back_as_it_was(kind: str) -> None:
    decoder = decoder_of(kind, torch.bfloat16)
    sites = decoder.select(LAYERS)
    next(iter(sites[1].module.parameters())).requires_grad_(True)
    decoder.model.get_input_embeddings().weight.requires_grad_(True)
    before = state(decoder)
    with torch.no_grad():  # what surrounds the call does not matter
        edit = learn_updates(decoder, sites, rows_of(NEW), rows_of(OLD), empty(sites), replace(OPTIONS, steps=3))
    assert edit.steps > 3
    assert same(before, state(decoder))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [0, 2, 7])
def test_the_model_comes_back_as_it_was_when_interrupted(error: type[BaseException], at: int) -> None:
    decoder = decoder_of("llama")
    sites = decoder.select(LAYERS)
    sites[0].module.requires_grad_(True)
    before, seen = state(decoder), []

    def interrupt(step: int, steps: int, learned: int) -> None:
        seen.append(step)
        moved = any(not torch.equal(site.weight, weight) for site, weight in zip(sites, start, strict=True))
        assert moved == (step > 0)
        if step == at:
            raise error

    start = [site.weight.detach().clone() for site in sites]
    with pytest.raises(error):
        learn_updates(decoder, sites, rows_of(NEW), rows_of(OLD), empty(sites), replace(OPTIONS, steps=5), interrupt)
    assert max(seen) == at
    assert same(before, state(decoder))


def test_progress_counts_both_stages() -> None:
    decoder = decoder_of("llama")
    sites = decoder.select(LAYERS)
    calls: list[tuple[int, int, int]] = []

    def watch(*call: int) -> None:
        calls.append((call[0], call[1], call[2]))

    options = replace(OPTIONS, steps=3, replay_steps=2)
    learn_updates(decoder, sites, rows_of(NEW), rows_of(OLD), empty(sites), options, watch)
    assert calls == [(step, 5, 0) for step in (0, 1, 2, 3, 3, 4, 5)]
    calls.clear()
    learn_updates(decoder, sites, rows_of(NEW), None, empty(sites), OPTIONS, watch)
    assert {steps for _, steps, _ in calls} == {OPTIONS.steps}
    assert calls[0][2] == 0
    assert calls[-1][2] == 3
    calls.clear()
    options = replace(OPTIONS, replay_steps=30)
    learn_updates(decoder, sites, rows_of(NEW[:1]), rows_of(OLD, [""]), empty(sites), options, watch)
    assert calls[-1][0] > OPTIONS.steps
    assert calls[-1][2] == 1  # earlier edits, learned as well, are not counted


def test_what_is_known_already_takes_no_step() -> None:
    decoder = decoder_of("llama")
    sites, rows = decoder.select(LAYERS), rows_of(NEW)
    apply(sites, learn_updates(decoder, sites, rows, None, empty(sites), OPTIONS))
    edit = learn_updates(decoder, sites, rows, rows_of(NEW[:1], [""]), empty(sites), OPTIONS)
    assert edit.steps == 0
    assert edit.converged.tolist() == [True] * 3
    assert all(not bool(update.right.any()) for update in edit.updates)


def test_contexts_are_the_first_ones() -> None:
    decoder = decoder_of("llama")
    sites = decoder.select(LAYERS)

    def learn(contexts: list[str], count: int) -> Tensor:
        options = replace(OPTIONS, steps=3, contexts=count)
        return learn_updates(decoder, sites, rows_of(NEW, contexts), None, empty(sites), options).updates[0].right

    two = learn(CONTEXTS[:2], 1)
    torch.testing.assert_close(learn(CONTEXTS, 1), two)
    torch.testing.assert_close(learn(CONTEXTS[:2], 5), two)  # no more than there are
    assert not torch.allclose(learn(CONTEXTS, 2), two)


@pytest.mark.parametrize("kind", KINDS)
def test_bundles_and_parts_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(kind, torch.float64)
    sites = decoder.select(LAYERS)

    def learn() -> list[Tensor]:
        options = replace(OPTIONS, steps=5, contexts=2)
        edit = learn_updates(decoder, sites, rows_of(NEW), rows_of(OLD), empty(sites), options)
        return [update.right for update in edit.updates]

    whole = learn()
    for tokens, cost in ((1, 20), (1024, 0), (1024, 1000)):
        monkeypatch.setattr(gradient_rows, "_BUNDLE_TOKENS", tokens)
        monkeypatch.setattr(gradient_rows, "_PART_COST", cost)
        for a, b in zip(learn(), whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_rows_of_similar_length_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, shapes = decoder_of("llama"), []
    monkeypatch.setattr(
        gradient_rows, "Replay", lambda *args: shapes.append([len(ids) for ids in args[1]]) or Replay(*args)
    )
    long = [EditRequest("The man of the city of Paris in France, as people say in Rome, is {}", "Gaul", "Italy")]
    rows = rows_of([*NEW, *long, *OLD], [""])
    sites = decoder.select(LAYERS)
    learn_updates(decoder, sites, rows, None, empty(sites), replace(OPTIONS, steps=1))
    assert sum(len(part) for part in shapes) == len(rows.prompts)
    assert len(shapes) > 1
    for part in shapes:
        assert sum(max(part) - length for length in part) <= 20 * len(part)


def test_bundles_bound_the_tokens_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_rows, "_BUNDLE_TOKENS", 40)
    rows = rows_of([*NEW, *OLD])
    edits = gradient_rows.token_rows(rows, 1)
    bundles = gradient_rows.bundle_rows(decoder_of("llama"), edits, 1)
    assert 1 < len(bundles) < len(edits)
    for bundle in bundles:
        assert sum(len(row.ids) for i in set(bundle.edit.tolist()) for row in edits[i]) <= 40
    assert sorted(i for bundle in bundles for i in set(bundle.edit.tolist())) == list(range(len(edits)))


def test_errors_name_what_to_do_and_give_the_model_back(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of("llama")
    sites, rows = decoder.select(LAYERS), rows_of(NEW)
    before = state(decoder)

    def refused(text: str, bases: list[Tensor], options: GradientOptions = OPTIONS) -> None:
        with pytest.raises(InputError, match=text):
            learn_updates(decoder, sites, rows, None, bases, options)
        assert same(before, state(decoder))

    unfit = [torch.empty(7, 0) for _ in sites]
    refused(r"basis of shape \[64, any\], got \[7, 0\]; pass orthonormal columns", unfit)
    wrong: Callable[..., Tensor] = lambda self, hidden, *_: hidden * -2  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "run", wrong)
        refused("expected the layers of LlamaForCausalLM to repeat its forward pass, got other", empty(sites))


@pytest.mark.parametrize("rate", [1e-2, 1e5])
def test_a_loss_that_is_not_finite_is_refused(rate: float) -> None:
    decoder = decoder_of("llama", torch.float16)
    sites, steps = decoder.select(LAYERS), []
    if rate < 1:  # what is wrong from the start; the other rate takes weights beyond float16
        decoder.model.model.layers[3].mlp.up_proj.weight[0, 0] = torch.nan
    before = state(decoder)
    options = replace(OPTIONS, learning_rate=rate)
    with pytest.raises(InputError, match="expected a finite loss, got NaN or infinity for some edit; use a smal"):
        learn_updates(decoder, sites, rows_of(NEW), None, empty(sites), options, lambda *call: steps.append(call[0]))
    assert steps == ([] if rate < 1 else [0])
    for (now, *_), (then, *_) in zip(state(decoder), before, strict=True):
        assert torch.equal(now.nan_to_num(), then.nan_to_num())
