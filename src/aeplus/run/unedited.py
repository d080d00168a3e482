"""What a run asks of its model before the first edit: that it is whole and can be edited; what it then knows of it."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import torch

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.replay import freezes_prefix, response_of, row_groups
from aeplus.models.sites import EditSite
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.shards import local

T = TypeVar("T")


class UneditedModel:
    """The model as it was, and what runs of it may share.

    Args:
        decoder: The model.
        cache: Where runs of one model keep what they find out; by default this run alone does.
    """

    def __init__(self, decoder: Decoder, cache: dict[tuple[Hashable, ...], Any] | None = None) -> None:
        self._decoder, self._cache = decoder, {} if cache is None else cache

    @cached_property
    def fingerprint(self) -> str:
        """Of its weights, which are read once: ask before the first edit."""
        return weights_fingerprint(self._decoder.model)

    @property
    def dtype(self) -> str:
        """In which the model is loaded, such as ``bfloat16``."""
        return str(self._decoder.model.get_input_embeddings().weight.dtype).removeprefix("torch.")

    def check(self, sites: Sequence[EditSite]) -> None:
        """Reads the weights, and tries what editing needs.

        Args:
            sites: The layers to edit.

        Raises:
            InputError: If weights are not finite, or the stream does not follow the edited layers' outputs.
        """
        self._check_finite()
        self._decoder.check()
        if self._decoder.ranks.sharded:  # tried by all processes together, which share the layers
            for cached in (True, False) if freezes_prefix(self._decoder) else (False,):
                row_groups(self._decoder, cached=cached)
        for edited in sites:
            response_of(self._decoder, edited)  # a layer that cannot be steered is reported before the work
        _ = self.fingerprint

    def once(self, what: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        """What depends on the unedited model only: made once, as it may be asked for when the model is edited.

        Args:
            what: Its name, and all else that it depends on.
            make: Makes it.
        """
        key = (self.fingerprint, *what)
        if key not in self._cache:
            self._cache[key] = make()
        return cast("T", self._cache[key])

    def _check_finite(self) -> None:
        weights = self._decoder.model.named_parameters()
        named = [(name, weight) for name, weight in weights if weight.is_floating_point()]
        finite = [torch.isfinite(local(weight)).all().to(self._decoder.device) for _, weight in named]
        for (name, _), good in zip(named, torch.stack(finite).tolist(), strict=True):
            if not good:
                msg = f"expected finite weights, got NaN or infinity in {name}; load another checkpoint."
                raise InputError(msg)
