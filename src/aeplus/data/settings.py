"""What a stream of edits may be set to, checked before anything is read."""

import re
from typing import Any

from aeplus.errors import InputError, require_count, require_seed
from aeplus.texts import check_join


def check_settings(settings: dict[str, Any]) -> None:
    """Refuses settings of :class:`~aeplus.data.datamodule.EditDataModule` that mean nothing.

    Args:
        settings: The settings, by their names.

    Raises:
        InputError: If one is of another kind or out of its range.
    """
    require_seed(settings["seed"], "data.seed")
    require_count(settings["batch_size"], "data.batch_size", 1)
    for name in ("neighbors", "preserved_count", "validation_earlier"):
        require_count(settings[name], f"data.{name}")
    share = settings["validation_share"]
    if isinstance(share, bool) or not isinstance(share, int | float):
        msg = f"expected data.validation_share to be a number from 0 to 1, got {share!r}; correct it."
        raise InputError(msg)
    for name in ("validation", "preserved", "snippet_corpus", "subset"):
        if not isinstance(settings[name], str | None):
            msg = f"expected data.{name} to be a text, got {settings[name]!r:.60}; correct it."
            raise InputError(msg)
    for name in ("shuffle", "skip_unusable", "chat_template"):
        if not isinstance(settings[name], bool):
            msg = f"expected data.{name} to be true or false, got {settings[name]!r:.60}; correct it."
            raise InputError(msg)
    check_join(settings["join"], "data.join")
    if (protocol := settings["protocol"]) not in ("published", "plain"):
        msg = f"expected data.protocol published or plain, got {protocol!r}; choose one of these."
        raise InputError(msg)
    record_range(settings["subset"], settings["limit"])


def record_range(subset: str | None, limit: int | None) -> tuple[int, int | None]:
    """The first record to take, and the one to stop before.

    Args:
        subset: ``start:stop``; either may be left out.
        limit: Maximum number of records.

    Raises:
        InputError: If ``subset`` is written differently, or one of them takes nothing.
    """
    if limit is not None:
        require_count(limit, "data.limit", 1)
    parts = re.fullmatch(r"(\d*):(\d*)", ":" if subset is None else subset)
    first = int(parts[1] or 0) if parts else 0
    last = int(parts[2]) if parts and parts[2] else None
    if parts is None or (last is not None and last <= first):
        msg = (
            f"expected data.subset as start:stop with a start below the stop, got {subset!r}; write for instance "
            "100:200, or :100 for the first hundred records."
        )
        raise InputError(msg)
    ends = [end for end in (last, None if limit is None else first + limit) if end is not None]
    return first, min(ends, default=None)
