"""Finished runs with journals, made once, and copied for each test that changes one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aeplus.models.loading import load_model
from journals import fit


@pytest.fixture(scope="session")
def runs(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a method: three batches, of 3, 3 and 1 edits."""
    made: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in made:
            made[method] = fit(workplace, tmp_path_factory.mktemp(method), method)
        return made[method]

    return run


@pytest.fixture
def run(runs: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run of AlphaEdit+, to be changed."""
    folder = tmp_path / "run"
    shutil.copytree(runs("alphaedit_plus"), folder)
    return folder


@pytest.fixture
def base(workplace: Path) -> Callable[[], tuple[object, object]]:
    """Loads the base model anew, and its tokenizer."""
    return lambda: load_model(str(workplace / "model"))
