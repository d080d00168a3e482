"""What ``import aeplus`` offers, and the shipped configs by name."""

import inspect
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import aeplus
from aeplus.api import EditOptions
from aeplus.commands.configs import FOLDER, expand_configs, find_config, method_flags, shipped_configs, with_method
from aeplus.commands.fit import BaseCLI
from aeplus.commands.inspect.command import InspectCLI
from aeplus.commands.main import main
from aeplus.errors import InputError
from aeplus.methods.compositions import method_switches
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
    data |= {"validation_facts"}
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


DEFAULT = ["--config", str(FOLDER / "method" / "alphaedit_plus.yaml")]
FRONT = ["--model.method.smooth=true", "--model.method.ridge", "2"]
MODEL = ["--config", str(FOLDER / "model" / "smollm2-135m.yaml")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--model.method.smooth", "true"], [*DEFAULT, "--model.method.smooth", "true"]),
        ([*MODEL, "--model.method.ridge=2"], [*MODEL, *DEFAULT, "--model.method.ridge=2"]),
        ([*MODEL, "--config=own.yaml"], [*MODEL, *DEFAULT, "--config=own.yaml"]),
        (["--config=own.yaml", *MODEL], [*DEFAULT, "--config=own.yaml", *MODEL]),
        # Options in front of the configs hold all the same.
        ([*FRONT, *MODEL], [*FRONT, *MODEL, *DEFAULT, *FRONT]),
        # Nothing that the parser will take, or no name.
        *(
            (["-c", odd], [*DEFAULT, "-c", odd])
            for odd in ("model: [", "3: 4", "{model: {method: 3}}", "x: 2026-13-45")
        ),
        (["--config"], [*DEFAULT, "--config"]),
    ],
)
def test_where_nothing_names_a_method_the_default_edits(
    given: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("model: {method: {prior_strength: 3.0, smooth: true}}")
    assert with_method(["fit", *given]) == ["fit", *expected]


@pytest.mark.parametrize(
    "given",
    [
        ["-c", "model: {method: {name: mine}}"],
        ["-c", "model: {method: mine.yaml}"],
        ["-c", "model: {method: {name: [blue]}}"],
        ["-c", "model: {method: {name: blue, filter: covariance}}"],
        ["--model.method.name=mine"],
        ["--model.method.name=memit", "--config", str(FOLDER / "method" / "blue.yaml")],
        ["--model.method", "mine.yaml"],
        ["--model={method: {name: mine}}"],
        ["--config", str(FOLDER / "method" / "blue.yaml")],
    ],
)
def test_what_names_a_method_is_left_alone(given: list[str]) -> None:
    assert with_method(["fit", *MODEL, *given]) == ["fit", *MODEL, *given]


_NAME = ["--model.method.name=memit"]
BLUE = ["--config", str(FOLDER / "method" / "blue.yaml")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--model.method.name=blue"], [*BLUE, "--model.method.name=blue"]),
        ([*DEFAULT, "--model.method.name", "blue"], [*DEFAULT, *BLUE, "--model.method.name", "blue"]),
        (["--config=own.yaml"], [*BLUE, "--config=own.yaml"]),
        (["--model.method.name=memit", "-c", "own.yaml"], [*_NAME, *BLUE, *_NAME, "-c", "own.yaml"]),
    ],
)
def test_a_method_that_is_only_named_edits(
    given: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("model: {method: {name: blue, ridge: 0.01}}")
    assert with_method(["fit", *MODEL, *given]) == ["fit", *MODEL, *expected]


def test_shipped_configs_are_known_by_their_paths_too() -> None:
    path = str(ROOT / "configs" / "model" / "smollm2-135m.yaml")  # a link, in a clone
    assert with_method(["fit", "--config", path]) == ["fit", "--config", path, *DEFAULT]


def test_a_name_is_the_whole_method(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.method.name", "alphaedit", "--model.method.smooth", "true"]
    with pytest.raises(SystemExit):
        main(["fit", *words, "--config", "model/smollm2-135m", "--data.path", "gensim:world-facts", "--print_config"])
    method = yaml.safe_load(capsys.readouterr().out)["model"]["method"]
    assert {**method_switches("alphaedit"), "smooth": True}.items() <= method.items()


@pytest.mark.parametrize(
    ("words", "expected"), [([], (False, 10.0)), (["--model.method.smooth", "true"], (True, 10.0))]
)
def test_a_run_without_a_method_is_the_defaults(
    words: list[str], expected: tuple[bool, float], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *words, "--config", "model/smollm2-135m", "--data.path", "gensim:world-facts", "--print_config"])
    method = yaml.safe_load(capsys.readouterr().out)["model"]["method"]
    assert (method["name"], method["targets"], method["prior"]) == ("alphaedit_plus", "own", "resolve")
    assert (method["smooth"], method["prior_strength"]) == expected


@pytest.mark.parametrize(("cli", "strength"), [(InspectCLI, 10.0), (BaseCLI, 1.0)])
def test_inspect_looks_by_the_default_and_a_comparison_leaves_numbers_to_its_methods(
    cli: type[BaseCLI], strength: float
) -> None:
    settings = cli(["--config", "model/smollm2-135m", "--data.path", "gensim:world-facts"]).settings
    assert settings["model"]["method"]["prior_strength"] == strength


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
