"""Every YAML under configs/ is found and runs small; the documented callback example works."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from aeplus.commands.main import main
from aeplus.methods.compositions import method_switches
from aeplus.methods.method import METHODS
from small import ROOT, records

CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set((ROOT / "configs" / "experiment").iterdir()))


def test_all_are_found() -> None:
    names = {str(path.relative_to(ROOT / "configs")) for path in CONFIGS}
    assert {"demo.yaml", "method/alphaedit.yaml", "method/alphaedit_plus.yaml", "model/smollm2-135m.yaml"} <= names
    assert {Path(name).stem for name in names if name.startswith("method/")} == set(METHODS)


QUICK = ("demo", "alphaedit_plus", "kde", "smollm2-135m", "llama3-8b")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow) for path in CONFIGS],
    ids=lambda p: str(p.relative_to(ROOT / "configs")),
)
def test_config_runs_small(path: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config under test first, then what makes it small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    small = [f"--config={workplace}/tiny.yaml", "--data.preserved=null", "--data.limit=2", "--trainer.accelerator=cpu"]
    assert main(["fit", f"--config={path}", *small]) == 0
    (metrics,) = tmp_path.rglob("metrics.json")
    assert len(json.loads(metrics.read_text())["batches"]) == 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page(name: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert f"configs/method/{name}.yaml" in page
    assert f"docs/methods/{name}.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_method_files_are_the_named_methods(name: str) -> None:
    config = yaml.safe_load((ROOT / "configs" / "method" / f"{name}.yaml").read_text())
    assert config == {"model": {"method": method_switches(name)}}


def test_the_documented_callback_runs_from_a_config(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "callbacks.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    config = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "my_callbacks.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    assert main(["fit", f"--config={workplace}/tiny.yaml", "--config=mine.yaml"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "conflicts.jsonl").read_text().splitlines()]
    assert [line["subject"] for line in lines] == [record["subject"] for record in records()]
    assert all(line["conflict"] > 0 and "score" in line for line in lines)
    assert lines[0]["norm"] > 0  # the last batch's only edit may hold already, depending on the machine's rounding
    assert (tmp_path / "lightning_logs").is_dir()  # the default callbacks are still there
    assert list(tmp_path.rglob("metrics.json"))
