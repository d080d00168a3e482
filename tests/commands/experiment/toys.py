"""Shipped experiments made small: the tiny model, two edits, one seed, and no more of an axis than the claim names,
or two values where a table or a figure sets several beside one another."""

import json
from pathlib import Path
from typing import Any

import yaml

from aeplus.commands.compare.specs import merged
from aeplus.commands.configs import FOLDER
from small import records

SMALLER = {"hidden_prompts": 2, "fluency_length": 3, "limit": 2}
"""Arguments of callbacks, where they have them."""


def shipped(name: str) -> dict[str, Any]:
    """The content of an experiment's file."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "experiment" / f"{name}.yaml").read_text())
    return content


def toy(name: str, folder: Path) -> Path:
    """Writes a small experiment with the tables, figures, callbacks and claim of a shipped one, and its edits."""
    content = shipped(name)
    scales = content.pop("scales")
    scale = scales["paper"] if "unavailable" in scales["small"] else scales["small"]
    content |= {key: value for key, value in scale.items() if key in ("data", "variants", "set", "callbacks")}
    claim = content["claim"] = merged(content["claim"], scale.get("claim", {}))
    named = [pair.get(side, {}) for pair in claim.get("pairs", [claim]) for side in ("higher", "lower")]

    def kept(axis: str, values: Any) -> list[Any]:
        if axis == "variant" and "hidden" in content.get("figures", []):
            return list(values)  # which the figure lays over one another
        wanted = list(dict.fromkeys(side[axis] for side in named if axis in side))
        several = axis.startswith("set.") or (axis == "data" and bool(content.get("figures")))  # beside one another
        return [value for value in values if value in wanted] or list(values)[: 2 if several else 1]

    axes = [{"prompt": "People speak", "answer": "Rome", "axis": "Logical_Generalization"}]
    edits = [{**record, "target_true": "Rome", "axes": axes} for record in records()[:2]]
    (folder / "pair.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    content["data"] = {data: {"path": str(folder / "pair.jsonl")} for data in kept("data", content["data"])}
    content["variants"] = kept("variant", content["variants"])
    content["set"] = {path: kept(f"set.{path}", values) for path, values in content.get("set", {}).items()}
    content["overrides"] = {"data": {"batch_size": 2}}
    for callback in content.get("callbacks", []):
        arguments = callback.get("init_args", {})
        if arguments.get("data") == "hub":
            arguments |= {"data": str(tasks(folder)), "tasks": "sst2,cola"}  # whose prompts the tiny model holds
        if callback["class_path"].endswith("EvaluationWriter"):
            arguments["fluency_length"] = SMALLER["fluency_length"]
        arguments |= {key: value for key, value in SMALLER.items() if key in arguments}
    if content.get("cases"):
        content["cases"] = {"count": 1, "length": 1}
    content |= {"seeds": [0], "scales": {"small": {}}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def tasks(folder: Path) -> Path:
    """A folder with two items of two general tasks."""
    place = folder / "tasks"
    place.mkdir(exist_ok=True)
    for name in ("sst2", "cola"):
        items = [{"sentence": f"{label} it is good .", "label": label} for label in (0, 1)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return place
