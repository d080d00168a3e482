"""The leakage of all edits together, against the dense formula."""

import pytest
import torch

from aeplus.functional import LowRankUpdate, Spectrum
from aeplus.models.decoder import Decoder
from aeplus.preserved.statistics import LayerStatistics
from aeplus.run.committed.entries import Entries, Entry
from aeplus.run.preservation import LeakageMeter
from tiny import tiny_model


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
