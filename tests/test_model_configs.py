"""The numbers of configs/model: known keys, layers that exist, and a source for every value."""

import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from aeplus.methods.method import GradientOptions, Method
from aeplus.models.decoder import Decoder
from aeplus.module import EditModule
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions
from small import ROOT
from tiny import CONFIGS as TINY
from tiny import tiny_model

FILES = sorted((ROOT / "configs" / "model").glob("*.yaml"))
OPTIONS: dict[str, type] = {"method": Method, "targets": TargetOptions, "preserved": PreservedOptions}
SWITCHES = {"name", "update", "sites", "targets", "filter", "relax", "prior", "smooth", "selection", "treatment"}
IDS = {"model", "revision", "dtype", "trust_remote_code"}
OWN = "Every value is our measurement"
SOURCE = re.compile(r"  # (paper \(.+\)|code \(.+\)|not published: taken from .+|chosen here: .+)")


@dataclass(frozen=True)
class Shape:
    """What a hub model's config.json says.

    Attributes:
        kind: ``model_type``.
        layers: Depth.
        hidden: Outputs of the edited linear, ``o``.
        intermediate: Its inputs, ``d``.
    """

    kind: str
    layers: int
    hidden: int
    intermediate: int


SHAPES = {
    "gpt2-xl": Shape("gpt2", 48, 1600, 6400),
    "EleutherAI/gpt-j-6b": Shape("gptj", 28, 4096, 16384),
    "meta-llama/Meta-Llama-3-8B-Instruct": Shape("llama", 32, 4096, 14336),
    "Qwen/Qwen3-4B-Thinking-2507": Shape("qwen3", 36, 2560, 9728),
    "Qwen/Qwen3-8B": Shape("qwen3", 36, 4096, 12288),
    "Qwen/Qwen2.5-7B-Instruct": Shape("qwen2", 28, 3584, 18944),
    "google/gemma-2-9b-it": Shape("gemma2", 42, 3584, 14336),
    "mistralai/Mistral-7B-v0.1": Shape("mistral", 32, 4096, 14336),
    "smollm2-135m": Shape("llama", 30, 576, 1536),
}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def _model(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["model"]


def _head(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


def _without_source(text: str) -> list[str]:
    """The lines that give a value, ids apart, and do not say where it comes from."""
    values = re.findall(r"^ +(\w+):( +[^#\s].*)$", text, re.MULTILINE)
    return [key for key, rest in values if key not in IDS and not SOURCE.search(rest)]


def test_every_known_model_has_a_file() -> None:
    assert {_model(path)["model"] for path in FILES} == set(SHAPES)


@every_file
def test_keys_are_known_and_values_valid(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert set(config) == {"model"}
    model = config["model"]
    assert set(model) <= set(inspect.signature(EditModule.__init__).parameters) - {"self"}
    groups = [(options, model.get(name, {})) for name, options in OPTIONS.items()]
    groups.append((GradientOptions, groups[0][1].pop("gradient", {})))
    for options, numbers in groups:
        assert set(numbers) <= {field.name for field in fields(options)}
        options(**numbers)  # refuses values out of range
        for key, value in numbers.items():
            default = getattr(options(), key)
            # YAML 1.1 reads 3e-4 as text and 10 as an integer.
            assert default is None or isinstance(value, type(default)), key
    assert not set(model.get("method", {})) & SWITCHES  # these belong to configs/method


@every_file
def test_layers_exist_and_text_is_long_enough(path: Path) -> None:
    model = _model(path)
    shape, layers = SHAPES[model["model"]], model["layers"]
    assert layers == sorted(set(layers))
    assert layers[0] >= 0
    assert layers[-1] < shape.layers
    assert model["preserved"]["tokens"] >= 10 * shape.intermediate


@every_file
def test_head_names_the_shape_and_what_was_measured(path: Path) -> None:
    head, shape = " ".join(_head(path)), SHAPES[_model(path)["model"]]
    assert f"{shape.layers} layers, hidden {shape.hidden}, intermediate {shape.intermediate}" in head
    assert (OWN in head) != ("not measured here" in head)


@every_file
def test_every_value_names_its_source(path: Path) -> None:
    if OWN in " ".join(_head(path)):
        return
    text = path.read_text()
    assert _without_source(text) == []
    for line in text.splitlines():
        assert ("not published" in line) == ("unmeasured; run aeplus tune" in line), line
    factor = re.search(r"tokens: (\d+)  # chosen here: (\d+) times d$", text, re.MULTILINE)
    assert factor is not None
    assert int(factor[1]) // SHAPES[_model(path)["model"]].intermediate == int(factor[2])


def test_a_value_without_a_source_is_found() -> None:
    text = """
model:
  model: gpt2-xl
  layers: [1, 2]
  method:
    # paper (the line above a value does not count)
    ridge: 10.0
    alpha: 1.0  # as usual
    threshold: 0.02  # paper (AlphaEdit)
"""
    assert _without_source(text) == ["layers", "ridge", "alpha"]


@every_file
def test_each_layer_of_the_architecture_has_an_edit_site(path: Path) -> None:
    model = _model(path)
    kind, layers = SHAPES[model["model"]].kind, model["layers"]
    depth = "n_layer" if "n_layer" in TINY[kind] else "num_hidden_layers"
    tiny = tiny_model(kind, attention="eager", **{depth: layers[-1] + 1})
    assert tiny.config.model_type == kind
    sites = Decoder(tiny).select(layers)
    assert [site.layer for site in sites] == layers
    intermediate = 4 * tiny.config.hidden_size if depth == "n_layer" else tiny.config.intermediate_size
    assert {tuple(site.weight.shape) for site in sites} == {(tiny.config.hidden_size, intermediate)}
