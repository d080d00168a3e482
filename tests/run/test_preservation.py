"""Facts that must survive as edits are read, and the leakage of all edits together, against the dense formula."""

from pathlib import Path

import pytest
import torch

from aeplus.data.chat import ChatTemplate
from aeplus.data.datamodule import EditDataModule
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, Spectrum
from aeplus.models.decoder import Decoder
from aeplus.preserved.statistics import LayerStatistics
from aeplus.run.committed.entries import Entries, Entry
from aeplus.run.preservation import LeakageMeter
from aeplus.run.session import EditSession
from small import LEARNING, learning_options
from tiny import tiny_model, tiny_tokenizer
from tokenizers_of_kinds import byte_level


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_leakage_is_that_of_the_summed_updates_against_the_unedited_weights(kind: str) -> None:
    sites = Decoder(tiny_model(kind)).select([1, 2])
    generator = torch.Generator().manual_seed(0)
    o, d = sites[0].weight.shape
    keys = torch.randn(d, 200, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 2, d)[:, None]
    covariance = keys @ keys.T / 200
    statistics = LayerStatistics(Spectrum.from_covariance(covariance), keys[:, :5], 200)
    meter = LeakageMeter(sites, [statistics, statistics])
    assert meter.measure(Entries()) is None
    entries = [
        Entry(
            [],
            {
                s.layer: LowRankUpdate(torch.randn(o, 2, generator=generator), torch.randn(2, d, generator=generator))
                for s in sites
            },
            {},
            {},
        )
        for _ in range(2)
    ]
    shares = []
    for site in sites:
        total = sum(entry.updates[site.layer].dense().double() for entry in entries)
        weight = site.weight.double()
        shares.append(torch.trace(total @ covariance @ total.T) / torch.trace(weight @ covariance @ weight.T))
    committed = Entries(entries)
    committed.apply(sites)  # the meter has seen them unedited
    assert meter.measure(committed) == pytest.approx(float(sum(shares) / 2), rel=1e-5)


@pytest.mark.parametrize("chat", [True, False])
def test_the_keys_of_facts_are_those_of_what_a_chat_sends(
    chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))
    tokenizer = byte_level(added="both")
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>\\n{{ m.content }}<|end|>{% endfor %}"
    model = tiny_model("llama", vocab_size=400)
    fact = EditRequest("The capital of {} is", "Peru", "Rome")
    data = EditDataModule(chat_template=chat, preserved_count=0).attach([EditRequest("In {}", "Oslo", "Rome")])
    data.setup("fit")
    options = learning_options("alphaedit")
    run = EditSession(model, tokenizer, LEARNING["layers"], *options, preserve=[fact])
    run.prepare(data)
    rendered = ChatTemplate(tokenizer).edit(fact) if chat else fact
    assert ("<|user|>" in rendered.question) == chat
    at, end = rendered.context_at, rendered.subject_end
    for place, context in enumerate(run.contexts(), -len(run.contexts())):
        text = rendered.question[:at] + context + rendered.question[at:end]
        # A chat template says itself what a text begins with.
        ids = ([] if chat else [tokenizer.bos_token_id]) + tokenizer(text, add_special_tokens=False)["input_ids"]
        for site, statistics in zip(run.sites, run.statistics, strict=True):
            seen: list[torch.Tensor] = []
            handle = site.module.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0][0, -1]))
            model(torch.tensor([ids]))
            handle.remove()
            torch.testing.assert_close(statistics.keys[:, place], seen[0], rtol=1e-4, atol=1e-5)


def test_a_fact_of_several_turns_needs_the_template() -> None:
    fact = EditRequest("The capital of {} is", "Peru", "Rome", turns=(("system", "Be brief."),))
    options = learning_options("alphaedit")
    run = EditSession(tiny_model("llama"), tiny_tokenizer(), LEARNING["layers"], *options, preserve=[fact])
    data = EditDataModule(preserved_count=0).attach([EditRequest("In {}", "Oslo", "Rome")])
    data.setup("fit")
    with pytest.raises(InputError, match=r"facts that must survive, record 1: expected data.chat_template: true"):
        run.prepare(data)
