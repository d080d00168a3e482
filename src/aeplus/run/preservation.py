"""What a run knows of preserved knowledge: named facts, statistics of the edited layers, how much the edits leak."""

from collections.abc import Sequence
from typing import Any

from aeplus.data.adapting import check_turns
from aeplus.data.chat import ChatTemplate
from aeplus.data.readers import read_requests
from aeplus.edits import EditRequest
from aeplus.models.decoder import Decoder
from aeplus.models.sites import EditSite
from aeplus.preserved.facts import Statement, statement_keys
from aeplus.preserved.statistics import Kept, LayerStatistics, PreservedOptions, energy_of
from aeplus.preserved.stored import load_or_collect, load_with_statements
from aeplus.run.committed.entries import Entries
from aeplus.utils.progress import Progress


def named_statements(
    options: PreservedOptions, more: Sequence[EditRequest] = (), template: ChatTemplate | None = None
) -> list[Statement]:
    """The facts that must survive, as statements.

    Args:
        options: Names their file, if there is one.
        more: Others, whose present answer is ``target_new``.
        template: Renders them as the edits are, so that their keys are those which an edit of them would have;
            ``None`` where the edits are plain text.

    Raises:
        InputError: If the file of facts cannot be read, one cannot be rendered, or one has several turns without a
            template.
    """
    facts = [*(read_requests(options.facts) if options.facts else ()), *more]
    check_turns(facts, template, "facts that must survive, ")
    read = facts if template is None else [template.edit(fact.without_tests()) for fact in facts]
    return [Statement(f.question, f.target_new, f.subject_end, f.join, f.context_at) for f in read]


def preserved_statistics(
    decoder: Decoder,
    tokenizer: Any,
    sites: Sequence[EditSite],
    options: PreservedOptions,
    preserve: Sequence[EditRequest],
    contexts: Sequence[str],
    progress: Progress,
    fingerprint: str | None = None,
    kept: Kept | None = None,
    template: ChatTemplate | None = None,
) -> list[LayerStatistics]:
    """Statistics of preserved knowledge for each edited layer, with the facts that must survive.

    Args:
        decoder: The unedited model.
        tokenizer: Its tokenizer.
        sites: The edited layers.
        options: Where preserved knowledge comes from.
        preserve: Facts that must survive beside those of ``options``.
        contexts: Prefixes behind which a fact must survive.
        progress: Where to show how far it is.
        fingerprint: The unedited weights' fingerprint, if it has been computed already.
        kept: Which eigenvectors are held; all by default. With facts, those of the text alone are all in the cache.
        template: Renders the facts as the edits are; ``None`` where these are plain text.

    Raises:
        InputError: If the corpus, a fact, their file or a cache file cannot be used.
    """
    facts = named_statements(options, preserve, template)  # a bad file is reported before the work
    run = decoder, tokenizer, sites, options, progress, fingerprint, kept
    if not facts:
        return load_or_collect(*run)
    keys = statement_keys(decoder, tokenizer, sites, facts, contexts)
    return load_with_statements(*run, keys, options.facts_weight / len(contexts))


class LeakageMeter:
    """Measures ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``, ``Δ`` the sum of all updates of a layer, ``W`` its unedited weight.

    Args:
        sites: The edited layers, unedited still.
        statistics: Preserved knowledge of each.
    """

    def __init__(self, sites: Sequence[EditSite], statistics: Sequence[LayerStatistics]) -> None:
        self._layers = [(s, stats, energy_of(stats, s.weight)) for s, stats in zip(sites, statistics, strict=True)]

    @property
    def energies(self) -> list[float]:
        """``tr(W C Wᵀ)`` of each site's unedited weight."""
        return [energy for _, _, energy in self._layers]

    def measure(self, entries: Entries) -> float | None:
        """The mean over the layers; ``None`` if nothing was edited."""
        totals = entries.totals([site for site, _, _ in self._layers])
        if not totals:
            return None
        shares = [
            energy_of(stats, total) / energy for (_, stats, energy), total in zip(self._layers, totals, strict=True)
        ]
        return sum(shares) / len(shares)
