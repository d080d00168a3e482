"""What ``import aeplus`` offers, and the shipped configs by name."""

import inspect
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import aeplus
from aeplus.api import EditOptions
from aeplus.commands.configs import FOLDER, expand_configs, find_config, method_flags, shipped_configs, with_method
from aeplus.errors import InputError
from aeplus.methods.method import Method
from aeplus.preserved.statistics import PreservedOptions
from aeplus.targets.optimizer import TargetOptions
from small import ROOT

FACE = ["METHODS", "EditResult", "Journal", "Method", "__version__", "edit", "functional", "register_method"]


def test_the_face() -> None:
    assert aeplus.__all__ == FACE
    assert dir(aeplus) == sorted(FACE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert aeplus.__version__ == project["version"]
    assert aeplus.functional.solve_update is not None
    with pytest.raises(AttributeError, match="module 'aeplus' has no attribute 'edits_'"):
        aeplus.edits_  # noqa: B018


def test_nothing_heavy_is_imported_with_it() -> None:
    code = "import sys, aeplus; aeplus.METHODS, aeplus.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_typed_options_of_edit_are_those_it_takes() -> None:
    data = {"neighbors", "validation", "validation_share", "preserved", "preserved_count", "snippet_corpus"}
    data |= {"validation_earlier", "skip_unusable", "join", "chat_template"}
    method = {f.name for f in fields(Method)} - {"name", "selection"}
    targets, preserved = ({f.name for f in fields(options)} for options in (TargetOptions, PreservedOptions))
    assert set(EditOptions.__annotations__) == method | targets | (preserved - {"seed"}) | data
    named = list(inspect.signature(aeplus.edit).parameters)
    assert named == [
        "model", "tokenizer", "edits", "method", "layers", "batch_size", "seed", "selection", "edited_dtype",
        "site", "callbacks", "journal", "preserve", "options",
    ]  # fmt: skip


# ---- configs by name


def test_every_shipped_config_is_found_by_its_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = shipped_configs()
    assert {"method/alphaedit_plus", "model/llama3-8b", "data/counterfact", "trainer/gpu", "demo"} <= names.keys()
    assert len(names) == len(set(FOLDER.rglob("*.yaml")) - set((FOLDER / "experiment").iterdir()))
    for name, path in names.items():
        assert find_config(name) == find_config(f"{name}.yaml") == str(path)


def test_a_file_of_the_users_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "alphaedit.yaml").write_text("model: {}\n")
    assert find_config("method/alphaedit.yaml") == "method/alphaedit.yaml"
    assert find_config("method/alphaedit") == str(FOLDER / "method" / "alphaedit.yaml")
    assert find_config("{model: {seed: 1}}") == "{model: {seed: 1}}"  # YAML itself


def test_a_name_that_is_none_is_refused_with_what_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = r"expected a config file, or a shipped config by its name .*, got 'method/alphaedit-plus' \(did you mean "
    with pytest.raises(InputError, match=text + r"method/alphaedit_plus or .*\?\); check the path"):
        find_config("method/alphaedit-plus")


def test_arguments_are_expanded_wherever_a_config_stands() -> None:
    path = str(FOLDER / "demo.yaml")
    arguments = ["fit", "--config", "demo", "-c", "demo", "--config=demo", "--data.path", "demo"]
    assert expand_configs(arguments) == ["fit", "--config", path, "-c", path, f"--config={path}", "--data.path", "demo"]


def test_where_nothing_names_a_method_the_default_comes_behind_the_models(tmp_path: Path) -> None:
    default = ["--config", str(FOLDER / "method" / "alphaedit_plus.yaml")]
    model = ["--config", str(FOLDER / "model" / "smollm2-135m.yaml")]
    own = tmp_path / "own.yaml"
    own.write_text("model: {method: {prior_strength: 3.0}}")
    mine, rest = [f"--config={own}"], ["--model.method.smooth", "true"]  # a switch changes the default
    assert with_method(["fit", *rest]) == ["fit", *default, *rest]
    assert with_method(["fit", *model, *rest]) == ["fit", *model, *default, *rest]
    assert with_method(["fit", *model, *mine]) == ["fit", *model, *default, *mine]
    assert with_method(["fit", *mine, *rest]) == ["fit", *default, *mine, *rest]
    named = ["-c", "model: {method: {name: mine}}"]
    assert with_method(["fit", *model, *named]) == ["fit", *model, *named]
    assert with_method(["fit", *model, "--model.method.name=blue"]) == ["fit", *model, "--model.method.name=blue"]
    for odd in ("model: [", "3: 4", "model: {method: ", "{model: {method: 3}}"):
        assert with_method(["fit", "-c", odd]) == ["fit", *default, "-c", odd]


def test_fields_of_the_method_are_seen_in_both_forms() -> None:
    given = [
        "--model.method.alpha",
        "3",
        "--model.method.ridge=1",
        "--model.methods",
        "--model.method.gradient.steps=1",
    ]
    assert method_flags(given) == ["alpha", "ridge", "gradient"]


def test_the_wheel_holds_the_configs() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["aeplus"]
    shipped = {path for pattern in patterns for path in FOLDER.parent.glob(pattern)}
    assert set(shipped_configs().values()) <= shipped
