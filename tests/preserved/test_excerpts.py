from pathlib import Path

import pytest
import torch

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.hooks import on_input
from aeplus.preserved.collection import collect_excerpts
from aeplus.preserved.statistics import PreservedOptions
from aeplus.utils.progress import Progress
from collecting import collect
from tiny import tiny_model, tiny_tokenizer

TEXT = "People speak English in London, and Rome is the capital of Italy, as the capital of France is Paris. "


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 40)
    return path


def test_the_sample_is_that_of_the_statistics(corpus: Path) -> None:
    decoder, tokenizer = Decoder(tiny_model()), tiny_tokenizer()
    options = PreservedOptions(corpus=str(corpus), tokens=640, window=32, sample=40, batch=4, seed=3)
    sites = decoder.select([1, 2])
    found = collect_excerpts(decoder, tokenizer, sites, options, Progress())
    for keys, statistics in zip(found.keys, collect(decoder, tokenizer, sites, options, Progress()), strict=True):
        torch.testing.assert_close(keys, statistics.keys)
    assert len(found.texts) == 40


def test_a_text_ends_with_the_token_whose_key_it_is(corpus: Path) -> None:
    """Where a text begins with its window, running the text gives the key."""
    decoder, tokenizer = Decoder(tiny_model("gpt2")), tiny_tokenizer()
    options = PreservedOptions(corpus=str(corpus), tokens=32, window=32, sample=32, seed=1)
    (site,) = decoder.select([2])
    found = collect_excerpts(decoder, tokenizer, [site], options, Progress())
    whole, checked = tokenizer(TEXT)["input_ids"], 0
    for text, key in zip(found.texts, found.keys[0].T, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        # A text that begins within a word, or after a space, becomes other tokens.
        if ids[0].tolist() != whole[: ids.shape[1]] or found.texts.count(text) > 1:
            continue
        read: list[torch.Tensor] = []
        with on_input([site.module], lambda _, x, read=read: read.append(x[0, -1]), stop=True):
            decoder.backbone(input_ids=ids)
        checked += 1
        torch.testing.assert_close(read[0], key, rtol=1e-4, atol=1e-5)
    assert checked >= 8


def test_a_corpus_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Too short.")
    options = PreservedOptions(corpus=str(tmp_path / "text.txt"), tokens=640, window=32)
    decoder = Decoder(tiny_model())
    with pytest.raises(InputError, match="at least 32 tokens of text"):
        collect_excerpts(decoder, tiny_tokenizer(), decoder.select([1]), options, Progress())
