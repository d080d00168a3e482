"""The one reader of YAML that is not an option of ``aeplus fit``, and the bound on all YAML that is read."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from aeplus.errors import InputError
from aeplus.utils.jsonl import read_utf8

_VALUES, _DEPTH = 100_000, 50


def read_yaml(path: Path, expected: str, loader: type = yaml.SafeLoader) -> Any:
    """The value of a YAML file; nothing in it is executed.

    Args:
        path: The file.
        expected: What messages say the file should contain.
        loader: A safe loader.

    Raises:
        InputError: If the file cannot be read, is no YAML, or expands without bound.
    """
    text = read_utf8(path, expected)
    require_moderate(text, str(path))
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        reason = " ".join(str(problem or error).split())[:100]
        if mark is not None:
            reason += f", line {mark.line + 1}"
        msg = f"expected {expected} in {path}, got something that is not YAML ({reason}); correct it."
        raise InputError(msg) from error


def require_moderate(text: str, name: str) -> None:
    """A few lines of YAML can expand to gigabytes, by aliases of aliases.

    Args:
        text: The YAML; what is none is left to the parser, which reports its place.
        name: What messages call it.

    Raises:
        InputError: If it holds too many values, or in too many levels.
    """
    depth, sizes, open_anchors, total = 0, dict[str, int](), list[tuple[str | None, int]](), 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            anchor = getattr(event, "anchor", None)
            if isinstance(event, yaml.AliasEvent):
                total += sizes.get(str(anchor), 1)
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                open_anchors.append((anchor, total))
                total += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
                begun, before = open_anchors.pop()
                if begun is not None:
                    sizes[begun] = total - before
            elif isinstance(event, yaml.ScalarEvent):
                total += 1
            if total > _VALUES or depth > _DEPTH:
                msg = (
                    f"expected a config of at most {_VALUES} values, {_DEPTH} levels deep, got a larger one in {name}; "
                    "leave out what is not an option."
                )
                raise InputError(msg)
    except yaml.YAMLError:
        return
