"""The edited model as a Hugging Face folder."""

from pathlib import Path
from typing import Any

from aeplus.paths import whole_folder


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Saves a model and its tokenizer, whole or not at all; plain transformers loads the folder.

    Raises:
        InputError: If the folder cannot be written, as when the disk is full.
    """
    with whole_folder(folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
