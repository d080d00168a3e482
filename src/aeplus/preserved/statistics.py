"""Statistics of preserved knowledge K0: what is kept of the keys of the edited layers on ordinary text.

That is, for each layer, the eigenbasis of the mean ``C [d, d]`` of ``k kᵀ`` and a sample of keys for s(k, K0) (Eq. 3).

Notation: ``d`` inputs of an edited weight, ``s`` sampled keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.errors import InputError, require_positive, require_seed, require_types
from aeplus.functional import Spectrum
from aeplus.preserved.corpus import WIKI_SAMPLE


@dataclass(frozen=True)
class PreservedOptions:
    """Where the preserved knowledge comes from.

    Attributes:
        corpus: ``wiki-sample``, a text file, a MediaWiki dump or a ``datasets`` id.
        tokens: Tokens of text to read; at least a few times ``d``, the inputs of an edited weight.
        window: Tokens in a row of text.
        sample: Number of keys kept for s(k, K0).
        batch: Rows run at once.
        seed: Seed of the key sample.
        keep: Which eigenvectors of ``C`` are held, in memory and on disk: ``all``, or those ``outside`` the method's
            null space. Edits are the same; reported leakage then takes the null space at its mean eigenvalue.
        facts: A file of facts that must survive, in any format of edits; the present answer is ``target_new`` (or the
            format's own field). Their keys enter C and the sample for s(k, K0).
        facts_weight: How much each of them counts in C: the share of all the text that it weighs as much as.
    """

    corpus: str = WIKI_SAMPLE
    tokens: int = 100_000
    window: int = 256
    sample: int = 2048
    batch: int = 8
    seed: int = 0
    keep: Literal["all", "outside"] = "all"
    facts: str | None = None
    facts_weight: float = 0.01

    def __post_init__(self) -> None:
        require_types(self, "preserved")
        require_positive(self, "preserved", "tokens", "window", "sample", "batch", "facts_weight")
        require_seed(self.seed, "preserved.seed")
        if self.keep not in ("all", "outside"):
            msg = f"expected preserved.keep all or outside, got {self.keep!r}; choose one of these."
            raise InputError(msg)


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of the preserved keys of one layer.

    Attributes:
        spectrum: Eigenvalues (ascending) and eigenvectors of ``C``.
        keys: A uniform sample of the preserved keys, ``[d, s]``.
        tokens: Number of tokens that ``C`` is the mean of.
    """

    spectrum: Spectrum
    keys: Tensor
    tokens: int

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "LayerStatistics":
        """The same on a device, with eigenvalues in a dtype.

        Eigenvectors and keys stay in theirs: the functions that use them cast a part at a time.
        """
        values = self.spectrum.values.to(device, dtype or self.spectrum.values.dtype)
        return LayerStatistics(Spectrum(values, self.spectrum.vectors.to(device)), self.keys.to(device), self.tokens)

    def leading(self, count: int) -> "LayerStatistics":
        """The same with the eigenvectors of the ``count`` largest eigenvalues only."""
        return replace(self, spectrum=self.spectrum.leading(count))


@dataclass(frozen=True)
class Kept:
    """Which eigenvectors of a layer's statistics are held.

    Attributes:
        name: What decides it, for the names of files.
        count: How many, those of the largest eigenvalues, of a layer's spectrum.
    """

    name: str
    count: Callable[[Spectrum], int]

    def of(self, statistics: LayerStatistics) -> LayerStatistics:
        """A layer's statistics with these only."""
        return statistics.leading(self.count(statistics.spectrum))


@torch.no_grad()
def energy_of(statistics: LayerStatistics, matrix: Tensor) -> float:
    """``tr(A C Aᵀ)`` of ``A [o, d]``: the mean squared output of a weight or an update on preserved keys."""
    spectrum = statistics.to(matrix.device, torch.promote_types(matrix.dtype, torch.float32)).spectrum
    return float(fn.preserved_energy(matrix.to(spectrum.values.dtype), spectrum))
