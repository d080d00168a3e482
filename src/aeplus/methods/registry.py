"""The named methods: title, paper, and the switches that make each of them.

A method is data. What a switch does is looked up in tables of parts, each in the file that runs it: ``UPDATES`` in
:mod:`aeplus.methods.batch`, ``TARGETS`` in :mod:`aeplus.methods.layer_targets`, ``SITES``, ``FILTERS``, ``RELAXATIONS``
and ``PRIORS`` in :mod:`aeplus.methods.parts`, ``TREATMENTS`` in :mod:`aeplus.methods.treatments`. Nothing heavy is
imported here, so that ``aeplus --help`` can list the names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from aeplus.errors import InputError

F = TypeVar("F")
Selections = Literal["best", "converge", "highest"]
"""``method.selection``: the names of ``SELECTIONS`` in :mod:`aeplus.run.selection`, where the rules are."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Part(Generic[F]):
    """An entry of a table of parts.

    Attributes:
        run: What does it.
        numbers: The fields of :class:`~aeplus.methods.method.Method` that act on it.
        traits: What else holds for it, out of what its table names.
    """

    run: F
    numbers: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()


def with_trait(table: Mapping[str, Part[Any]], trait: str) -> list[str]:
    """The names of the parts of a table that have a trait."""
    return [name for name, part in table.items() if trait in part.traits]


@dataclass(frozen=True)
class NamedMethod:
    """A composition with a name.

    Attributes:
        name: What configs and tables call it.
        title: What it does, in a line.
        paper: Its source.
        url: Where the source is; empty if it is not public.
        switches: The fields of :class:`~aeplus.methods.method.Method` that make it; others are at their defaults.
    """

    name: str
    title: str = ""
    paper: str = ""
    url: str = ""
    switches: Mapping[str, Any] = field(default_factory=dict)


_PLAIN: dict[str, Any] = {"relax": "none", "smooth": False}
_MEMIT: dict[str, Any] = {**_PLAIN, "filter": "covariance", "prior": "none"}
_ALPHAEDIT: dict[str, Any] = {**_PLAIN, "prior": "equal", "prior_strength": 1.0}
_PLUS: dict[str, Any] = {"relax": "aligned", "prior": "conflict", "smooth": True}
_PUBLISHED: dict[str, Any] = {
    "relax": "paper",
    "relative": True,
    "search_block": 10,
    "search_unsmoothed": True,
    "threshold": 0.015,
    "threshold_kind": "absolute",
    "prior_by_place": True,
    "selection": "highest",
    "selection_scope": "layer",
    "smoothing_mode": "sequential",
    "smoothing_threshold": 30.0,
}
_BLUE: dict[str, Any] = {"sites": "ends", "targets": "own"}
_MEMIT_PAPER = ("MEMIT (Meng et al., ICLR 2023)", "https://arxiv.org/abs/2210.07229")
_RECT_PAPER = ("RECT (Gu et al., EMNLP 2024)", "https://arxiv.org/abs/2401.04700")
_PRUNE_PAPER = ("PRUNE (Ma et al., ICLR 2025)", "https://arxiv.org/abs/2405.16821")
_KDE_PAPER = ("KDE (Xu et al., ACL 2025)", "https://aclanthology.org/2025.acl-long.646/")
_ALPHAEDIT_PAPER = ("AlphaEdit (Fang et al., ICLR 2025)", "https://arxiv.org/abs/2410.02355")
_BLUE_PAPER = ("BLUE (Li et al., NeurIPS 2025)", "https://arxiv.org/abs/2502.03748")
_ENCORE_PAPER = ("ENCORE (Gupta et al., 2025)", "https://arxiv.org/abs/2502.01636")
_PLUS_PAPER = ("AlphaEdit+ (Liu et al., Findings of ACL 2026)", "https://aclanthology.org/2026.findings-acl.728/")

METHODS: dict[str, NamedMethod] = {
    method.name: method
    for method in (
        NamedMethod(
            "memit",
            "least squares with a covariance penalty on preserved keys",
            *_MEMIT_PAPER,
            _MEMIT,
        ),
        NamedMethod(
            "memit_sequential",
            "MEMIT that also penalizes changes to the keys of previous edits",
            *_MEMIT_PAPER,
            {**_MEMIT, "prior": "equal", "prior_strength": 1.0},
        ),
        NamedMethod(
            "rect",
            "MEMIT, keeping only the entries with the largest relative weight change",
            *_RECT_PAPER,
            {**_MEMIT, "treatment": "sparsify"},
        ),
        NamedMethod(
            "prune",
            "MEMIT, with the large singular values of the accumulated update damped after the last batch",
            *_PRUNE_PAPER,
            {**_MEMIT, "treatment": "restrain"},
        ),
        NamedMethod(
            "kde",
            "gradient-based; updates are projected orthogonal to the representations of previous edits",
            *_KDE_PAPER,
            {**_PLAIN, "update": "gradient", "prior": "none"},
        ),
        NamedMethod("alphaedit", "updates in the null space of preserved keys", *_ALPHAEDIT_PAPER, _ALPHAEDIT),
        NamedMethod(
            "blue",
            "AlphaEdit at the first and last layer only, each with its own target",
            *_BLUE_PAPER,
            {**_ALPHAEDIT, **_BLUE},
        ),
        NamedMethod(
            "memit_blue",
            "MEMIT with memory at the first and last layer only, each with its own target",
            *_BLUE_PAPER,
            {**_MEMIT, **_BLUE, "prior": "equal", "prior_strength": 1.0},
        ),
        NamedMethod(
            "encore",
            "MEMIT with memory and a ridge, for streams of thousands of edits",
            *_ENCORE_PAPER,
            {**_PLAIN, "filter": "soft", "prior": "equal", "prior_strength": 1.0},
        ),
        NamedMethod(
            "alphaedit_plus",
            "a relaxed null space (P̃), weights that let go of rewritten edits (Λp), and a target per layer",
            *_PLUS_PAPER,
            {**_PLUS, "targets": "own", "prior": "resolve", "prior_strength": 10.0, "smooth": False},
        ),
        NamedMethod(
            "alphaedit_plus_paper",
            "Algorithm 1: ε-only stopping, convergence-based selection",
            *_PLUS_PAPER,
            {**_PLUS, "relax": "paper", "selection": "converge"},
        ),
        NamedMethod(
            "alphaedit_plus_published",
            "the published code's own choices, but for selection on test prompts: validation prompts take their place",
            *_PLUS_PAPER,
            {**_PLUS, **_PUBLISHED},
        ),
        NamedMethod(
            "prune_plus",
            "PRUNE with the three components of AlphaEdit+'s paper, with our P̃",
            *_PLUS_PAPER,
            {**_PLUS, "treatment": "restrain"},
        ),
        NamedMethod(
            "blue_plus",
            "BLUE with the three components of AlphaEdit+'s paper, with our P̃",
            *_PLUS_PAPER,
            {**_PLUS, **_BLUE},
        ),
    )
}
"""The named methods, as in ``configs/method``. :func:`~aeplus.methods.compositions.register_method` adds one's own."""

DEFAULT_METHOD = "alphaedit_plus"
"""What edits where nothing says which method."""

_SHIPPED = tuple(METHODS)


def shipped_methods() -> tuple[str, ...]:
    """The names of the methods that come with aeplus."""
    return _SHIPPED


def find_method(name: str) -> NamedMethod:
    """A named method.

    Raises:
        InputError: If there is no such method.
    """
    if name not in METHODS:
        msg = f"expected a method out of {', '.join(sorted(METHODS))}, got {name!r}; choose one of these."
        raise InputError(msg)
    return METHODS[name]


def check_new_name(name: str) -> None:
    """A name that a further method may have.

    Raises:
        InputError: If it cannot name a file and a config, or is taken.
    """
    if not _NAME.fullmatch(name):
        msg = f"expected a method's name of small letters, digits and _, got {name!r}; choose another name."
        raise InputError(msg)
    if name in METHODS:
        msg = f"expected a new method's name, got {name!r}, which is registered; choose another name."
        raise InputError(msg)


def methods_table(link: str = "{name}.md") -> str:
    """The named methods as a Markdown table, for README and docs.

    Args:
        link: Where a method's page is, with ``{name}`` for its name.
    """
    lines = ["| method | what it does | source |", "| --- | --- | --- |"]
    for method in METHODS.values():
        source = f"[{method.paper}]({method.url})" if method.url else method.paper
        lines.append(f"| [`{method.name}`]({link.format(name=method.name)}) | {method.title} | {source} |")
    return "\n".join(lines)
