"""The base model of a journal, for commands."""

from typing import Any

from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.models.loading import LOADING, load_model


def load_base(journal: Journal, name: str | None) -> tuple[Any, Any]:
    """Loads the model that a journal's edits belong to, and its tokenizer.

    Args:
        journal: The journal.
        name: Where the model is now; by default where the journal had it from.

    Raises:
        InputError: If it cannot be loaded.
    """
    options = dict(journal.chain.header["model"])
    if name is not None:
        options["model"] = name
    try:
        return load_model(*(options[option] for option in LOADING))
    except InputError as error:
        if name is not None:
            raise
        msg = f"expected the base model of the journal, got none ({error}) Say where it is: --model NAME."
        raise InputError(msg) from error
