"""Formulas of work and memory, against what models of three sizes do."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from aeplus.functional import Spectrum
from aeplus.methods.compositions import named_method
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.layer import LayerSolver
from aeplus.models.costs import ModelShape, memory
from aeplus.models.decoder import Decoder
from aeplus.models.kernels import Fused
from aeplus.models.replay import Replay, row_groups
from aeplus.models.tokens import TokenRow
from aeplus.preserved.collection import collect_moments
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import TargetOptions, find_targets
from aeplus.targets.rows import BatchRows
from aeplus.utils.progress import Progress
from counting import Operations
from floors import Work, forward_work, keys_work, solve_work, statistics_work, targets_work
from scaling import scaling_tables, sizes
from small import ROOT
from tiny import tiny_model, tiny_tokenizer

SIZES: list[dict[str, Any]] = [
    {"hidden_size": 64, "intermediate_size": 224, "num_hidden_layers": 5},
    {"hidden_size": 96, "intermediate_size": 320, "num_hidden_layers": 6},
    {"hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 8},
]
CONTEXTS = 2
METHOD = named_method("alphaedit", threshold=1e-3)


def sized(changes: dict[str, Any]) -> Decoder:
    return Decoder(tiny_model("llama", **changes))


def of_config(config: LlamaConfig, width: int = 2) -> ModelShape:
    """The shape that a config tells: grouped attention, gated MLP."""
    o, d, head = config.hidden_size, config.intermediate_size, config.hidden_size // config.num_attention_heads
    kv = 2 * config.num_key_value_heads * head
    layer = 2 * o * head * config.num_attention_heads + o * kv + 3 * o * d
    ends = config.vocab_size * o * (1 if config.tie_word_embeddings else 2)
    return ModelShape(config.num_hidden_layers, o, d, config.vocab_size, layer, ends, width, kv)


def batch() -> BatchRows:
    """Four edits: rows of eight tokens, the subject's last the fifth, two tokens of answer."""
    tokens = torch.arange(4 * CONTEXTS * 8).reshape(-1, 8).remainder(300).tolist()
    prompts = [TokenRow(tuple(ids), answer=6, mark=4) for ids in tokens]
    essence = [TokenRow((7 + i, 8, 9), answer=3, mark=0) for i in range(4)]
    return BatchRows(prompts, essence, CONTEXTS)


@pytest.fixture(params=SIZES, ids=lambda size: str(size["hidden_size"]))
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return sized(request.param)


def test_a_shape_counts_the_weights_of_the_model(decoder: Decoder) -> None:
    shape = ModelShape.of(decoder)
    matrices = sum(p.numel() for p in decoder.model.parameters() if p.ndim > 1)
    assert shape.weight_bytes == pytest.approx(4 * matrices, rel=1e-3)
    assert of_config(decoder.config, width=4) == shape


def test_a_forward_pass_takes_the_operations_counted(decoder: Decoder) -> None:
    shape, ids = ModelShape.of(decoder), torch.arange(24).reshape(2, 12)
    with Operations() as counter:
        decoder.model(input_ids=ids, use_cache=False)
    assert counter.flops == pytest.approx(forward_work(shape, 24, shape.layers, 24).flops, rel=0.1)


def test_a_step_of_targets_takes_the_operations_counted(decoder: Decoder) -> None:
    shape, rows, first = ModelShape.of(decoder), batch(), 3
    counted = []
    for steps in (1, 3, 8):  # the first call tries out how the model can be replayed
        with Operations() as counter:
            find_targets(decoder, rows, first - 1, TargetOptions(steps=steps, stop_loss=0.0))
        counted.append(counter.flops)
    # Of each row the subject's last token and what follows but the answer's last; one token of the KL term.
    tokens, predicted = 4 * (CONTEXTS * 3 + 1), 4 * (CONTEXTS * 2 + 1)
    few, many = (targets_work(shape, first, [tokens] * n, [predicted] * n, 0).flops for n in (3, 8))
    padded = 4 * (CONTEXTS + 1) * 3 / tokens  # the KL term's rows run with the others
    assert counted[2] - counted[1] == pytest.approx(padded * (many - few), rel=0.1)


def test_keys_take_the_operations_counted(decoder: Decoder) -> None:
    shape, rows, sites = ModelShape.of(decoder), batch(), decoder.select([1, 2, 3])
    decoder.tried.freezes_prefix = True
    row_groups(decoder, cached=False)  # tried once for a model
    with Operations() as counter:
        reader = KeyReader(decoder, rows, sites)
        for site in sites:
            reader.read(site, sites[-1])
    heads = [len(ids) for ids in rows.up_to_subject()]
    work = keys_work(shape, [1, 2, 3], sum(heads), sum(heads[::CONTEXTS]))
    assert 0.9 * work.flops < counter.flops < 1.6 * work.flops


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("prefix", [0, 48])
def test_a_step_keeps_the_activations_counted(decoder: Decoder, prefix: int, fused: bool) -> None:
    shape, first = ModelShape.of(decoder), 2
    rows = [[(i + j) % 300 for i in range(prefix + 16)] for j in range(2)]
    replay = Replay(decoder, rows, first, [16, 16])
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in decoder.model.parameters()}
    hidden = replay.hidden.clone().requires_grad_()
    kernels = Fused(decoder.layers, ("cpu",)).applied() if fused else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), kernels:
        output = replay.run(hidden, first, shape.layers)
    assert output.requires_grad
    held = sum(size for pointer, size in kept.items() if pointer not in weights)
    expected = memory(shape, first, 1, 32, 0, 0, 2 * prefix, fused=fused).activations
    assert 0.75 * expected < held < 1.25 * expected


def test_statistics_take_the_operations_counted(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(["The capital of France is Paris and people speak French. "] * 60))
    shape, sites = ModelShape.of(decoder), decoder.select([1, 2])
    options = PreservedOptions(corpus=str(tmp_path / "text.txt"), tokens=320, window=32, sample=50, batch=2)
    with Operations() as counter:
        collect_moments(decoder, tiny_tokenizer(), sites, options, Progress())
    without = statistics_work(shape, [1, 2], 320, 64).flops  # eigenvectors come later
    assert counter.flops == pytest.approx(without, rel=0.1)


@pytest.mark.parametrize("earlier", [0, 40])
def test_a_solve_takes_the_operations_counted(decoder: Decoder, earlier: int) -> None:
    site, shape, edits = decoder.sites[0], ModelShape.of(decoder), 10
    o, d = site.weight.shape
    keys, prior = torch.randn(d, edits), torch.randn(d, earlier)
    basis = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    for outside in (d // 10, d // 2):
        values = torch.cat([torch.full((d - outside,), 1e-6), torch.ones(outside)]).double()
        statistics = LayerStatistics(Spectrum(values, basis).leading(outside), torch.zeros(d, 1), 200)
        solver = LayerSolver(0, METHOD, statistics, site.weight, prior)
        with Operations() as counter:
            solver.solve(torch.randn(o, edits), keys).dense()
        expected = solve_work(shape, 1, edits, earlier, outside).flops
        assert 0.85 * expected < counter.flops < 1.3 * expected


def test_the_published_model_has_eight_billion_weights() -> None:
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8
    )
    shape = of_config(config)
    assert shape.weight_bytes == pytest.approx(16.06e9, rel=0.01)
    assert shape.layer_weights == pytest.approx(218e6, rel=0.01)


def test_work_overlaps_arithmetic_and_reading() -> None:
    work = Work(10.0, 100.0) * 2 + Work(4.0, 0.0, 3.0)
    assert (work.flops, work.bytes, work.double) == (24.0, 200.0, 3.0)
    assert work.seconds(24.0, 100.0, 3.0) == 2.0
    assert work.seconds(6.0, 1000.0, 1.0) == 7.0


def test_the_tables_of_the_documentation_are_the_formulas() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert text.split("<!-- scaling -->\n")[1].split("\n<!-- /scaling -->")[0] == scaling_tables()


def test_preserved_keys_are_counted_as_many_as_are_sampled() -> None:
    shape = of_config(LlamaConfig(hidden_size=4096, intermediate_size=14336, num_key_value_heads=8))
    few, by_default = (memory(shape, 9, 5, 0, 0, 0, **more).preserved for more in ({"sample": 1000}, {}))
    assert by_default == 5 * 4 * 14336 * PreservedOptions().sample > few
    assert sizes(shape, range(4, 9)).preserved == by_default + 5 * 4 * 14336 * (14336 // 10)


def test_earlier_edits_take_the_memory_counted() -> None:
    """Of a few what a run's keys and products hold; of 10,000 of an 8B model what the documentation says."""
    d, shape = 64, ModelShape.of(sized({"intermediate_size": 64}))
    keys = EarlierKeys([torch.randn(d, 16) for _ in range(3)])
    spectrum = Spectrum.from_covariance(torch.eye(d, dtype=torch.float64))
    products = keys.gram(spectrum, torch.ones(d, dtype=torch.float64))
    held = 4 * d * keys.columns + products.untyped_storage().nbytes()
    assert memory(shape, 2, 1, 0, 0, 0, earlier=48).earlier == pytest.approx(held, rel=0.3)
    big = ModelShape(32, 4096, 14336, 128256, 218_103_808, 1_050_673_152, 2, 2048)
    assert memory(big, 9, 5, 0, 0, 0, earlier=10_000).earlier / 2**30 == pytest.approx(2.7 + 5.8, abs=0.1)
    assert memory(big, 9, 5, 0, 0, 0).earlier == 0
    moments = 5 * 2 * 8 * 14336**2
    assert memory(big, 9, 5, 0, 0, 0, earlier=20_000).earlier == moments + 5 * 4 * 14336 * 20_000


def test_more_tokens_fit_more_memory() -> None:
    shape = ModelShape(32, 4096, 14336, 128256, 218_103_808, 1_050_673_152, 2, 2048)
    for free in (2**28, 2**30, 2**32):  # the first has room for fewer logits than are there at once
        tokens = shape.tokens_within(free, 23, 0.4, fused=True)
        held = memory(shape, 9, 5, tokens, tokens * 2 // 5, 0, fused=True)
        assert held.activations + held.logits == pytest.approx(free, rel=0.02)
        assert shape.tokens_within(free, 23, 0.4) < tokens
    assert shape.tokens_within(0, 23, 0.4) == 1


def test_keys_and_values_of_layers_that_differ_count_as_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Gemma 4's, whose config refuses to tell one width of all layers."""
    decoder = sized(SIZES[0])
    config, uniform = decoder.model.config, ModelShape.of(decoder)
    layers = [SimpleNamespace(head_dim=width) for width in (8, 24)]

    class Differing:
        num_attention_heads, num_key_value_heads, per_layer_config = config.num_attention_heads, 2, layers

        @property
        def head_dim(self) -> int:
            raise RuntimeError

    monkeypatch.setattr("aeplus.models.costs.text_config", lambda model: Differing())
    assert ModelShape.of(decoder) == replace(uniform, kv=2 * 2 * 24)
