"""A loaded model that can be edited: taken apart, its layers chosen, with all that is known of it without edits."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.methods.method import Method
from aeplus.methods.parts import SITES, kept_eigenvectors
from aeplus.models.checks import check_model, check_tokenizer
from aeplus.models.decoder import Decoder
from aeplus.models.sites import EditSite
from aeplus.preserved.facts import Statement
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions
from aeplus.run.batches import Adaptable
from aeplus.run.by_layer import check_alone
from aeplus.run.preservation import named_statements, preserved_statistics
from aeplus.run.reading import Reading
from aeplus.run.unedited import UneditedModel
from aeplus.targets.optimizer import TargetOptions
from aeplus.targets.rows import sample_contexts
from aeplus.utils.progress import Progress
from aeplus.utils.ranks import Ranks


class EditableModel:
    """A model and how it would be edited; what is read of it here needs no stream.

    All of the model's parameters are frozen, and it stays in evaluation mode.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        layers: Decoder layers to edit, ascending; a method may take the first and the last only.
        method: The composition of the update.
        targets: How targets are learned.
        preserved: Where preserved knowledge comes from.
        edited_dtype: ``float32`` keeps the edited weights in float32, ``same`` leaves them as they are.
        site: The module to edit where inspection does not find it; see :class:`~aeplus.models.decoder.Decoder`.
        seed: Seed of the sampled contexts.
        progress: Where to show how far the statistics are.
        preserve: Facts that must survive, beside those of ``preserved.facts``; the present answer is ``target_new``.
        unedited_cache: Where runs of one model keep what they find out about it unedited; by default each has its own.
        ranks: The processes that edit it together, each with the same model; by default there is no other.

    Attributes:
        decoder: The model taken apart.
        sites: The edited layers.
        unedited: The model as it was.

    Raises:
        InputError: If the model, its tokenizer or its layers cannot be edited, ``edited_dtype`` is unknown, or several
            processes are to choose layer by layer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layers: Sequence[int],
        method: Method,
        targets: TargetOptions = TargetOptions(),  # noqa: B008 - frozen
        preserved: PreservedOptions = PreservedOptions(),  # noqa: B008
        *,
        edited_dtype: Literal["same", "float32"] = "same",
        site: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        preserve: Sequence[EditRequest] = (),
        unedited_cache: dict[tuple[Hashable, ...], Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.model = model
        self.method, self.target_options, self.preserved, self.seed = method, targets, preserved, seed
        if edited_dtype not in ("same", "float32"):
            msg = f"expected edited_dtype same or float32, got {edited_dtype!r}; choose one of these."
            raise InputError(msg)
        if method.by_layer:
            check_alone(ranks is None or ranks.alone)
        check_model(model)
        check_tokenizer(tokenizer, model)
        model.requires_grad_(False).eval()
        self.decoder = Decoder(model, site, ranks=ranks)
        self.sites: list[EditSite] = self.decoder.select(SITES[method.sites].run(list(layers)))
        self._edited_dtype = edited_dtype
        if edited_dtype == "float32":
            for edited in self.sites:
                edited.upcast()
        self.unedited = UneditedModel(self.decoder, unedited_cache)
        self._preserve, self._progress = list(preserve), progress or Progress()
        self._reading = Reading(self.decoder, tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; for chats one that adds nothing to what the template has written."""
        return self._reading.tokenizer

    def readable(self, data: Adaptable, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """Edits as this model would edit them, where no run is prepared: checked, and rendered if they are chats.

        Raises:
            InputError: If something cannot be read and may not be left out.
        """
        return self._reading.readable(data, requests, self.contexts())

    def contexts(self) -> list[str]:
        """The sampled contexts.

        Raises:
            InputError: If they do not fit the model.
        """
        options, limit = self.target_options, self.decoder.context_length
        if options.contexts and limit is not None and options.context_length >= limit:
            msg = (
                f"expected targets.context_length to fit the context of {limit} tokens, got {options.context_length}; "
                "lower it."
            )
            raise InputError(msg)
        return self.unedited.once(
            ("contexts", options.contexts, options.context_length, self.seed),
            lambda: self.decoder.ranks.first(
                sample_contexts(self.model, self.tokenizer, options.contexts, options.context_length, self.seed)
            ),
        )

    def load_statistics(self, contexts: Sequence[str]) -> list[LayerStatistics]:
        """Statistics of preserved knowledge for each edited layer, with the facts that must survive.

        Args:
            contexts: Prefixes behind which a fact must survive.

        Raises:
            InputError: If the corpus, a fact, their file or a cache file cannot be used.
        """
        run = self.decoder, self.tokenizer, self.sites, self.preserved, self._preserve
        kept = kept_eigenvectors(self.method, self.preserved.keep)
        unedited, template = self.unedited.fingerprint, self._reading.template
        return preserved_statistics(*run, contexts, self._progress, unedited, kept, template)

    def statements(self) -> list[Statement]:
        """The facts that must survive, as statements; rendered where the edits are chats.

        Raises:
            InputError: If the file of facts cannot be read, or one cannot be rendered.
        """
        return named_statements(self.preserved, self._preserve, self._reading.template)
