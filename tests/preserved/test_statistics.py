from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch

from aeplus.errors import InputError
from aeplus.functional import Spectrum
from aeplus.models.decoder import Decoder
from aeplus.preserved import collection
from aeplus.preserved import stored as module
from aeplus.preserved.collection import Moment, collect_moments
from aeplus.preserved.corpus import read_texts
from aeplus.preserved.statistics import PreservedOptions
from aeplus.preserved.stored import load_or_collect
from aeplus.utils.progress import Progress
from collecting import collect
from second_device import SECOND, spread, start_second_device
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def options(workplace: Path) -> PreservedOptions:
    return PreservedOptions(corpus=str(workplace / "text.txt"), tokens=640, window=32, sample=50, batch=4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_one_pass_equals_whole_forward_passes(kind: str, options: PreservedOptions) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    decoder = Decoder(model)
    sites = decoder.select([1, 3])
    found = collect(decoder, tokenizer, sites, options, Progress())
    ids = [i for text in read_texts(options.corpus) for i in tokenizer(text)["input_ids"]][:640]
    rows = torch.tensor(ids).view(-1, 32)
    for site, statistics in zip(sites, found, strict=True):
        seen: list[torch.Tensor] = []
        hook = site.module.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].flatten(0, 1)))
        for row in rows:
            model(row[None])
        hook.remove()
        keys = torch.cat(seen).double()
        expected = keys.T @ keys / len(keys)
        spectrum = statistics.spectrum
        rebuilt = spectrum.vectors @ torch.diag(spectrum.values) @ spectrum.vectors.T
        torch.testing.assert_close(rebuilt, expected, rtol=1e-4, atol=1e-5)
        assert statistics.tokens == 640
        assert statistics.keys.shape == (site.weight.shape[1], 50)
        distances = torch.cdist(statistics.keys.T.double(), keys).min(1).values
        assert float(distances.max()) < 1e-4  # every sampled key is one of the text's


def test_the_pass_stops_at_the_deepest_layer(options: PreservedOptions) -> None:
    model = tiny_model("llama")
    model.model.layers[2].register_forward_pre_hook(lambda *_: pytest.fail("layer 2 ran"))
    decoder = Decoder(model)
    collect(decoder, tiny_tokenizer(), decoder.select([0, 1]), options, Progress())


def test_cache_is_used_and_never_for_another_model(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))
    passes: list[list[int]] = []

    def counted(decoder: Decoder, tokenizer: object, sites: list, *rest: object) -> object:
        passes.append([site.layer for site in sites])
        return collect_moments(decoder, tokenizer, sites, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "collect_moments", counted)
    tokenizer = tiny_tokenizer()

    def load(seed: int, layers: list[int]) -> list[module.LayerStatistics]:
        decoder = Decoder(tiny_model("llama", seed=seed))
        return load_or_collect(decoder, tokenizer, decoder.select(layers), options, Progress())

    first = load(0, [0, 1])
    again = load(0, [0, 1, 2])  # only missing layers are collected
    other = load(1, [0, 1])
    assert passes == [[0, 1], [2], [0, 1]]
    assert torch.equal(first[1].spectrum.values, again[1].spectrum.values)
    assert not torch.equal(first[1].spectrum.values, other[1].spectrum.values)


def test_a_cache_that_cannot_be_written_is_found_out_before_the_pass(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(module, "collect_moments", lambda *_: pytest.fail("reads"))
    decoder = Decoder(tiny_model("llama"))
    text = r"expected a cache to write to, got an error from .*/file/cache/.*; set AEPLUS_CACHE to another\."
    with pytest.raises(InputError, match=text):
        load_or_collect(decoder, tiny_tokenizer(), decoder.select([0]), options, Progress())


def test_statistics_belong_to_a_module_and_to_a_config(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))

    def values(site: str, **config: Any) -> torch.Tensor:
        decoder = Decoder(tiny_model("gpt_neox", intermediate_size=32, **config), f"gpt_neox.layers.{{}}.{site}")
        (found,) = load_or_collect(decoder, tiny_tokenizer(), decoder.select([1]), options, Progress())
        return found.spectrum.values

    first = values("mlp.dense_4h_to_h")
    assert torch.equal(values("mlp.dense_4h_to_h", use_cache=False), first)
    assert len(list(tmp_path.rglob("layer_1.safetensors"))) == 1
    assert not torch.equal(values("attention.dense"), first)
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
    assert not torch.equal(values("mlp.dense_4h_to_h", rope_parameters=rope), first)


def test_renamed_cache_file_is_refused(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    load_or_collect(decoder, tokenizer, decoder.select([0, 1]), options, Progress())
    (one,) = tmp_path.rglob("layer_1.safetensors")
    one.replace(one.with_name("layer_2.safetensors"))
    with pytest.raises(
        InputError, match=r"expected statistics of this model and corpus in .*, got those of another; delete the file"
    ):
        load_or_collect(decoder, tokenizer, decoder.select([2]), options, Progress())
    one.with_name("layer_0.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"cannot be read .*delete it and run again"):
        load_or_collect(decoder, tokenizer, decoder.select([0]), options, Progress())


def test_nan_on_ordinary_text_is_named(options: PreservedOptions) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    decoder = Decoder(model)
    with pytest.raises(InputError, match="expected finite keys at layer 1"):
        collect(decoder, tiny_tokenizer(), decoder.select([1]), options, Progress())


def test_wikipedia_sample_reads_as_prose() -> None:
    pytest.importorskip("gensim")
    texts = read_texts("wiki-sample")
    first = [next(texts) for _ in range(5)]
    assert all(len(text) >= 200 and "[[" not in text and "{{" not in text for text in first)


def test_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="expected text in the corpus"):
        list(read_texts(str(tmp_path / "empty.txt")))


def test_layers_are_collected_as_many_at_once_as_fit(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    sites = decoder.select([0, 1, 2])
    each = 8 * sites[0].weight.shape[1] ** 2
    assert module.layers_at_once(sites) == 3
    assert [module.layers_at_once(sites, lambda _, n=n: n * each) for n in (0, 9, 10, 14)] == [1, 1, 2, 3]
    found = []
    for most in (3, 2):
        passes: list[int] = []

        def counted(*given: Any, passes: list[int] = passes) -> Any:
            passes.append(len(given[2]))
            return collect_moments(*given)

        monkeypatch.setattr(module, "collect_moments", counted)
        monkeypatch.setattr(module, "layers_at_once", lambda sites, most=most: min(most, len(sites)))
        monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path / str(most)))
        found.append(load_or_collect(decoder, tokenizer, sites, options, Progress()))
        assert passes == ([3] if most == 3 else [2, 1])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.spectrum.vectors, other.spectrum.vectors)
        assert torch.equal(one.keys, other.keys)


def test_moments_are_let_go_of_once_decomposed(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))
    held: list[ref[torch.Tensor]] = []
    alive: list[int] = []

    def collected(*given: Any) -> list[Moment]:
        moments = collect_moments(*given)
        held.extend(ref(moment.covariance) for moment in moments)
        return moments

    original = Spectrum.from_covariance

    def decomposed(covariance: torch.Tensor) -> Spectrum:
        alive.append(sum(one() is not None for one in held))
        return original(covariance)

    monkeypatch.setattr(module, "collect_moments", collected)
    monkeypatch.setattr(Spectrum, "from_covariance", decomposed)
    decoder = Decoder(tiny_model("llama"))
    load_or_collect(decoder, tiny_tokenizer(), decoder.select([0, 1, 2]), options, Progress())
    assert alive == [3, 2, 1]


def test_on_a_device_without_float64_keys_are_summed_up_on_the_cpu(
    options: PreservedOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_second_device()
    decoder = Decoder(spread(tiny_model("llama"), 2))
    sites = decoder.select([1, 2])
    assert str(sites[1].weight.device) == SECOND
    given = (decoder, tiny_tokenizer(), sites, options, Progress())
    expected = collect_moments(*given)
    assert [str(moment.covariance.device) for moment in expected] == ["cpu", SECOND]
    monkeypatch.setattr(collection, "_WITHOUT_FLOAT64", (SECOND.partition(":")[0],))  # as Apple's GPU
    for moment, other in zip(collect_moments(*given), expected, strict=True):
        assert (moment.covariance.device.type, moment.covariance.dtype) == ("cpu", torch.float64)
        assert moment.keys.device == other.keys.device
        torch.testing.assert_close(moment.covariance, other.covariance.cpu(), rtol=1e-6, atol=1e-9)
        assert moment.statistics().spectrum.vectors.device.type == "cpu"
