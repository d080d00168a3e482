"""How ``metrics.json``, ``config.yaml`` and ``experiment.json`` look, as far as a report reads them."""

from typing import Any

from aeplus.commands.report.shapes import (
    Differs,
    anything,
    count,
    fields,
    items,
    mapping,
    number,
    one_of,
    or_none,
    text,
)
from aeplus.metrics.success import SCORES

_SUMMARY = {name: or_none(number) for name in SCORES}
_INTERVAL = fields({"value": or_none(number), "low": or_none(number), "high": or_none(number), "count": count})


def _hits(value: Any, place: str) -> None:
    """The prompts of each edit and how many of them were answered right."""
    fields({"edits": items(count), "hits": items(number), "prompts": items(number)})(value, place)
    same = len(value["edits"]) == len(value["hits"]) == len(value["prompts"]) == len(set(value["edits"]))
    if not same or not all(0 <= hit <= of and of > 0 for hit, of in zip(value["hits"], value["prompts"], strict=True)):
        raise Differs(place, "the hits and prompts of every edit", value)


_BATCH = fields(
    {
        "edits": count,
        "seconds": fields({"total": number}, targets=number, solve=number, validate=number),
        **dict.fromkeys(
            ("conflict_preserved", "conflict_preserved_max", "conflict_prior", "conflict_prior_max"), number
        ),
        **dict.fromkeys(("residual_norm", "residual_norm_max", "rank", "smoothing_iterations"), number),
        "committed_iteration": count,
    },
    chosen=items(fields({"iteration": count, "scores": items(or_none(number))})),
)
METRICS = fields(
    {
        "method": text,
        "model": text,
        "seed": count,
        "edits": count,
        "edits_done": count,
        "before": fields(_SUMMARY),
        "after": fields(_SUMMARY),
        "intervals": fields({"before": mapping(_INTERVAL), "after": mapping(_INTERVAL)}),
        "hits": mapping(_hits),
        "batches": items(_BATCH),
        "leakage": or_none(number),
        "measures": fields({}, retention=fields({"mean": items(or_none(number))})),
        "seconds": fields({"statistics": number, "total": number}, earlier=number),
    },
    environment=mapping(text),
)
CONFIG = fields(
    {
        "model": fields(
            {"model": text, "layers": anything, "method": fields({"name": text}, smoothing_steps=or_none(count))}
        ),
        "data": fields({}),
    }
)


def _paper(value: Any, place: str) -> None:
    """A number of the paper, as it stands there."""
    if value is not None and not isinstance(value, str):
        number(value, place)


_VALUE = or_none(fields({"mean": number, "sd": or_none(number), "n": count}))
_TABLE = fields(
    {"columns": items(text), "rows": items(fields({"label": text, "values": items(_VALUE)}, paper=items(_paper)))},
    title=text,
    note=text,
)
_CELL = fields(
    {"folder": text, "seed": count, "status": one_of("done", "failed", "missing")},
    data=text,
    variant=text,
    error=text,
    minutes=number,
)
EXPERIMENT = fields(
    {"name": text, "scale": text, "model": text, "command": text, "cells": items(_CELL), "tables": items(_TABLE)},
    title=text,
    claim=text,
    claimed=fields({"value": or_none(text), "pairs": items(fields({"higher": fields({}), "lower": fields({})}))}),
    machine=text,
    figures=items(text),
    pages=items(text),
)
