"""The model that a journal's edits belong to, before any of them."""

from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_named
from aeplus.models.sites import Snapshot
from aeplus.run.committed.chain import Chain
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.paths import expanded
from aeplus.utils.signals import uninterrupted


def load_base(chain: Chain, name: str | None) -> tuple[Any, Any]:
    """Loads the model that a journal's edits belong to, and its tokenizer.

    Args:
        chain: The journal.
        name: Where the model is now; by default where the journal had it from.

    Raises:
        InputError: If it cannot be loaded.
    """
    options = dict(chain.header["model"])
    if name is not None:
        options["model"] = name
    try:
        return load_named(options)
    except InputError as error:
        if name is not None:
            raise
        msg = f"expected the base model of the journal, got none ({error}) Say where it is: --model NAME."
        raise InputError(msg) from error


def sources(chain: Chain, *models: str | None) -> list[Path]:
    """What a journal needs of this machine's files, and no output may take the place of: itself, and its model.

    Args:
        chain: The journal.
        models: Where else the model is read from.
    """
    named = (chain.folder, chain.header["model"]["model"], *models)
    return [path for name in named if name is not None and (path := expanded(name)).exists()]


class BaseModel:
    """A journal's base model while a block runs; afterwards it is as it was, unless :meth:`keep` was called.

    Args:
        chain: The journal.
        model: A loaded model.

    Attributes:
        decoder: The model taken apart.
        sites: The edited layers, in the dtype in which they are edited.

    Raises:
        InputError: If it is another model, or an edited one.
    """

    def __init__(self, chain: Chain, model: Any) -> None:
        header = chain.header
        self.decoder = Decoder(model, header["site"])
        if max(header["layers"]) >= len(self.decoder.layers):
            raise self._other(chain)
        self.sites = self.decoder.select(header["layers"])
        self._before = Snapshot(self.sites)
        if header["edited_dtype"] == "float32":
            for site in self.sites:
                site.upcast()
        if weights_fingerprint(model) != header["fingerprint"]:
            self._before.restore()
            raise self._other(chain)
        self._unedited = Snapshot(self.sites)
        self._kept = False

    @staticmethod
    def _other(chain: Chain) -> InputError:
        return InputError(
            f"expected {chain.header['model']['model']} unedited, as the journal {chain.folder} was made with, got a "
            "model of other weights; load that one anew."
        )

    def reset(self) -> None:
        """Takes out whatever was put in."""
        self._unedited.restore()

    def keep(self) -> None:
        """Leaves the model as it will be at the end of the block."""
        self._kept = True

    def __enter__(self) -> "BaseModel":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            with uninterrupted():
                self._before.restore()
