"""Every shell and Python block of README and docs: commands parse, blocks run or say what they need.

Blocks without a marker run here, each in a copy of one folder, on a tiny random model in place of SmolLM2; those that
need minutes do in the slow tier. A marker is a comment above the block, which no page shows: `<!-- needs: hub -->`.
"""

import glob
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import aeplus
from aeplus.commands.arguments import COMMANDS
from aeplus.commands.compare.specs import parse_seeds, parse_specs
from aeplus.commands.configs import shipped_configs
from aeplus.commands.experiment.grid import read_experiment
from aeplus.commands.fit import EditCLI
from aeplus.commands.main import main
from aeplus.commands.options import split_list
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.methods.compositions import find_composition
from aeplus.methods.parts import FILTERS
from aeplus.methods.registry import METHODS
from aeplus.models.decoder import Decoder
from aeplus.module import EditModule
from blocks import NEEDS, PAGES, Block, all_blocks, blocks_of, files_of_pages, shell_commands
from small import LEARNING, ROOT, records
from tiny import tiny_model, tiny_tokenizer

BLOCKS = all_blocks()
SHELL = [block for block in BLOCKS if block.language == "bash"]
CODE = [block for block in BLOCKS if block.language in ("bash", "python")]
TUTORIAL = "docs/tutorial.md"
PAST_PARSING = ("fit", "validate", "compare", "tune", "inspect")
VIEWERS = ("tensorboard",)  # they serve until they are stopped
SMALLER = {
    "--data.limit": "4",
    "--data.preserved_count": "2",
    "--model.targets.contexts": "1",
    "--model.targets.precision": "full",
    "--model.preserved.tokens": "600",
    "--model.preserved.window": "32",
}
"""What a tiny model runs with, over what the block says."""
OWN = {"edits.jsonl", "edits_0.jsonl", "edits_1.jsonl", "edits_2.jsonl", "tuning.jsonl", "facts.jsonl", "mine.yaml"}
"""Files that a reader has, which no page makes."""


class Parsed(EditCLI):
    """Parses the options of ``aeplus fit`` and ``aeplus validate`` as they do, and runs nothing."""

    def __init__(self, args: list[str]) -> None:
        self._name = args[0]
        super().__init__(
            EditModule, EditDataModule, args=args, seed_everything_default=False, auto_configure_optimizers=False
        )

    def subcommands(self) -> dict[str, set[str]]:  # each takes its time
        return {self._name: EditCLI.subcommands()[self._name]}

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture(scope="module")
def desk(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a reader of the documentation has: edits, configs and two runs of a tiny model."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(workplace / "model", folder / "my-model")
    for name in ("edits", "tuning", *(f"{kind}_{seed}" for kind in ("edits", "rewrites") for seed in range(3))):
        shutil.copy(workplace / "edits.jsonl", folder / f"{name}.jsonl")
    facts = [{"prompt": "The language of {}", "subject": name, "target_new": "French"} for name in ("France", "Gaul")]
    (folder / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    for name, text in files_of_pages().items():
        if name != "edits.jsonl":
            (folder / name).write_text(text)
    for block in SHELL:  # what `aeplus tune` writes
        for words in block.commands:
            if words[:2] == ["aeplus", "tune"]:
                shutil.copy(workplace / "tiny.yaml", folder / words[words.index("--out") + 1])
    for name in ("tiny.yaml", "text.txt"):
        shutil.copy(workplace / name, folder / name)
    before = os.getcwd()
    os.chdir(folder)
    try:
        writers = ["JournalWriter", "FigureWriter", "EditCheckpoint", "MetricsWriter"]
        given = {"JournalWriter": {"save_model": True}, "FigureWriter": {"figures": ["effort"]}}
        callbacks = [{"class_path": f"aeplus.callbacks.{name}", "init_args": given.get(name, {})} for name in writers]
        for method in ("alphaedit_plus", "alphaedit"):
            words = ["fit", "--config", "tiny.yaml", "--config", f"method/{method}", "--data.batch_size", "2"]
            assert main([*words, "--trainer.callbacks", json.dumps(callbacks)]) == 0
        assert main(["export", "lightning_logs/edits/version_0", "--format", "delta", "--out", "delta"]) == 0
        shutil.copytree("lightning_logs/edits/version_0/model", "edited")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the desk, as the current folder; methods and filters that a block registers are forgotten."""
    shutil.copytree(desk, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.syspath_prepend(tmp_path / "desk")
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    tables: tuple[dict[str, Any], ...] = (METHODS, FILTERS)
    known = [set(table) for table in tables]
    yield tmp_path / "desk"
    for table, names in zip(tables, known, strict=True):
        for name in set(table) - names:
            del table[name]
    for module in ("my_callbacks", "my_parts"):
        sys.modules.pop(module, None)


def ids(blocks: list[Block]) -> dict[str, Any]:
    return {"argvalues": blocks, "ids": [str(block) for block in blocks]}


# ---- what is found


def test_blocks_and_their_markers_are_found() -> None:
    page = (
        "# A\n\n```bash\naeplus log a \\\n    --edits  # more\n```\n\n"
        "<!-- needs: hub, gpu -->\n\n    aeplus fit --seed 3\n\n"
        "1. b\n\n   ~~~python\n   x = 1\n   ~~~\n\nF:\n\n    Δ = R\n"
    )
    found = [(b.line, b.language, b.text, b.needs) for b in blocks_of(page, "a.md")]
    assert found == [
        (3, "bash", "aeplus log a \\\n    --edits  # more\n", ()),
        (10, "bash", "aeplus fit --seed 3\n", ("hub", "gpu")),
        (14, "python", "x = 1\n", ()),
        (20, "", "Δ = R\n", ()),
    ]


def test_shell_is_taken_apart() -> None:
    text = """
M=a,b
for s in 0 1; do
    for t in x; do M=$M,$t; done  # twice
    aeplus compare --methods $M --out "${t}_{seed}" --seeds $s && aeplus log 'a b'
done
"""
    assert list(shell_commands(text)) == [
        ["aeplus", "compare", "--methods", "a,b,x", "--out", "x_{seed}", "--seeds", "0"],
        ["aeplus", "log", "a b"],
        ["aeplus", "compare", "--methods", "a,b,x,x", "--out", "x_{seed}", "--seeds", "1"],
        ["aeplus", "log", "a b"],
    ]


def test_markers_say_something_that_is_known() -> None:
    assert len(CODE) > 60
    for block in BLOCKS:
        assert set(block.needs) <= set(NEEDS), f"{block}: expected needs out of {NEEDS}"
        if not block.language:  # a command would hide from these tests
            assert not re.match(r"\$ |aeplus \w", block.text), f"{block}: expected a fence with a language"


# ---- what every command must pass, whether it runs or not


@pytest.mark.parametrize("block", **ids(SHELL))
def test_every_command_is_one(block: Block, here: Path) -> None:
    for words in block.commands:
        check_command(words, str(block))


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_a_file_is_made_before_it_is_read(page: str) -> None:
    assert not unmade([block for block in BLOCKS if block.page == page])


def test_a_file_that_nothing_makes_is_noticed() -> None:
    page = (
        "    aeplus build-stream --kind preserved --seed 0 --out a_0.jsonl\n\nB:\n\n"
        "    aeplus compare --data.path 'a_{seed}.jsonl' --seeds 0,1 --model.preserved.facts a_0.facts.jsonl\n"
        "    aeplus capabilities --model edited --data items --out c.json\n\n"
        "```yaml\ntrainer: {callbacks: b}\ndata: hub\n```\n\n```yaml\ndata: items\n```\n\n    aeplus log c.json\n"
    )
    assert unmade(blocks_of(page, "a.md")) == ["a.md:5: a_1.jsonl", "a.md:5: items", "a.md:13: items"]


def unmade(blocks: list[Block]) -> list[str]:
    """Where the blocks of a page read a file, or a folder of tasks, that no command before makes."""
    made, missing = OWN | set(files_of_pages()) | {"hub"}, list[str]()
    for block in blocks:
        read = re.findall(r"^ *data: (\w+)$", block.text, re.MULTILINE) if block.language == "yaml" else []
        missing += [f"{block}: {name}" for name in read if not _is_made(name, made)]
        for words in block.commands if block.language == "bash" else []:
            options = dict(pairwise(words))
            out = options.get("--out", "")
            named = [word for word in words if re.search(r"[\w}]\.(jsonl|json|yaml|csv|txt)$", word)]
            named += [options["--data"]] if "--data" in options else []
            seeds = options.get("--seeds", "").split(",")
            read = [
                name.replace("{seed}", seed)
                for name in named
                if name not in (out, options.get("--json"))
                for seed in seeds
            ]
            missing += [f"{block}: {name}" for name in read if not _is_made(name, made)]
            made |= {out, re.sub(r"\.jsonl$", ".facts.jsonl", out)}
    return list(dict.fromkeys(missing))


def _is_made(name: str, made: set[str]) -> bool:
    """Whether every part of a list is made, lies in a folder that is, or belongs to a run of the reader's."""
    parts = [part for part in name.split(",") if "." in part or part == name]
    return all({part, part.split("/")[0]} & made or part.startswith("lightning_logs/") for part in parts)


def test_the_examples_of_help_parse(here: Path) -> None:
    for name, command in COMMANDS.items():
        examples = [words for words in shell_commands(command.parser().epilog or "") if words[0] == "aeplus"]
        assert examples, name
        for words in examples:
            if "…" not in words:
                check_command(words, f"aeplus {name} --help")


def test_a_wrong_command_is_noticed(here: Path) -> None:
    for line in (
        "aeplus fit --config model/smollm3",
        "aeplus fit --config model/gpt2-xl --model.method.threshhold 3",
        "aeplus fit --config model/gpt2-xl --model.layers five",
        "aeplus log a --edit",
        "aeplus export a --format lora --out b",
        "aeplus compare --methods alphaedit:relax=some --config model/gpt2-xl",
        "aeplus compare --methods alphaedit3",
        "aeplus tune --for memit3 --out a.yaml",
        "aeplus inspect --config model/gpt2-xl --nonsense",
        "aeplus forget",
        "python benchmarks/gone.py",
        "python -m benchmarks growth --nonsense 3",
        "make everything",
        "pip install '.[nonsense]'",
        "pip install torch==1.0",
        "rm -rf /",
    ):
        with pytest.raises(AssertionError, match="a page"):
            check_command(next(shell_commands(line)), "a page")


def check_command(words: list[str], where: str) -> None:
    """Fails unless a command could be run: its options, configs, methods and files exist."""
    try:
        with redirect_stderr(io.StringIO()) as said:
            _check(words)
    except (Exception, SystemExit) as error:
        text = said.getvalue() or str(error)
        message = f"{where}: {' '.join(words)}: {text.strip()[-600:]}"
        raise AssertionError(message) from error


def _check(words: list[str]) -> None:
    while words[0] == "nice":
        words = words[3:]
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    checks: dict[str, Callable[[list[str]], None]] = {
        "aeplus": _check_aeplus,
        "python": _check_benchmark,
        "pip": _check_pip,
        "make": _check_make,
        "pre-commit": lambda rest: None,
        "vllm": lambda rest: None,
    }
    if program in VIEWERS:
        assert importlib.util.find_spec(program), f"{program} is not installed with aeplus"
        return
    assert program in checks, f"expected one of {', '.join(checks)}, got {program}"
    checks[program](rest)


def _check_aeplus(words: list[str]) -> None:
    name, arguments = words[0], [value for word in words[1:] for value in (sorted(glob.glob(word)) or [word])]
    if name in ("fit", "validate"):
        Parsed([name, *arguments])
        return
    assert name in COMMANDS, f"expected a command, got {name}"
    parser = COMMANDS[name].parser()
    options, rest = parser.parse_known_args(arguments)
    if parser.fit_options:
        searched = ["--model.layers", "[0]"] if name == "tune" else []  # it looks for the layers itself
        Parsed(["fit", *searched, *rest])
    assert parser.fit_options or not rest, f"unrecognized arguments: {rest}"
    if name == "compare":
        parse_seeds(" ".join(options.seeds))
        for spec in parse_specs(" ".join(options.methods)):
            spec.over({})
    elif name == "experiment":
        read_experiment(options.name, options.scale)
    elif name == "tune":
        for method in split_list(" ".join(options.methods)):
            find_composition(method)


def _check_benchmark(words: list[str]) -> None:
    if words[:2] == ["-m", "benchmarks"]:
        words = [f"benchmarks/{words[2]}.py", *words[3:]] if len(words) > 2 else ["benchmarks/__main__.py"]
    assert words[0].startswith("benchmarks/"), f"expected a benchmark, got {words[0]}"
    source = (ROOT / words[0]).read_text()
    for word in words[1:]:
        assert not word.startswith("--") or f'"{word}"' in source, f"{words[0]} has no option {word}"


def _check_make(words: list[str]) -> None:
    for word in words:
        assert re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {word}"


def _check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = (ROOT / "constraints.txt").read_text() + (ROOT / "Makefile").read_text()
    for word in words[1:]:
        for extra in re.findall(r"\[([\w,-]+)\]$", word):
            assert set(extra.split(",")) <= set(extras), f"expected extras out of {sorted(extras)}, got {word}"
        assert "==" not in word or word in pinned, f"{word} is pinned otherwise in constraints.txt or Makefile"


def test_options_that_the_text_names_exist() -> None:
    known = {"--no-deps", "--index-url", "--base", "--max-lora-rank", "--help", "--version"}  # some of other programs
    for path in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z][\w-]*)"', path.read_text()))
    parsed = (Parsed([name, "--config", "model/gpt2-xl"]) for name in ("fit", "validate"))
    for parser in [
        *(parser for cli in parsed for parser in cli._subcommand_parsers.values()),
        *(command.parser() for command in COMMANDS.values()),
    ]:
        known |= {option for action in parser._actions for option in action.option_strings}
    for page in PAGES:
        prose = re.sub(r"^ *(```|~~~).*?^ *\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        named = {option.rstrip(".") for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", prose)}
        assert named <= known, f"{page.name}: no command has {', '.join(sorted(named - known))}"


# ---- configs


@pytest.mark.parametrize("block", **ids([block for block in BLOCKS if block.language == "yaml"]))
def test_every_config_is_one(block: Block, here: Path) -> None:
    Path("my_callbacks.py").write_text("".join(b.text for b in BLOCKS if "class ConflictLog" in b.text))
    Path("block.yaml").write_text(block.text)
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict)
    if "scales" in content:
        assert read_experiment("block.yaml", "small").tables
        return
    check_command(["aeplus", "fit", "--config", "model/gpt2-xl", "--config", "block.yaml"], str(block))


# ---- what runs


def runs(block: Block, tier: tuple[str, ...]) -> bool:
    return block.needs == tier and block.page != TUTORIAL


@pytest.mark.parametrize("block", **ids([block for block in CODE if runs(block, ())]))
def test_blocks_without_a_marker_run(block: Block, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_block(block, here, monkeypatch)


def only_aeplus(block: Block) -> bool:
    return block.language == "bash" and all(words[0] in ("aeplus", *VIEWERS) for words in block.commands)


@pytest.mark.slow
@pytest.mark.parametrize("block", **ids([b for b in CODE if runs(b, ("minutes",)) and only_aeplus(b)]))
def test_blocks_that_take_minutes_run(block: Block, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_block(block, here, monkeypatch)


def for_the_tables(block: Block) -> bool:
    """Whether it makes a table of the demo's model; experiments, AlphaSet and chats run in tests of their own."""
    others = re.search("aeplus experiment|build-alphaset|chat_template", block.text)
    return {*block.needs} == {"minutes", "model"} and (block.language == "python" or only_aeplus(block)) and not others


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in CODE if for_the_tables(block)}))
def test_commands_of_tables_run_at_toy_size(page: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after the other, as a later one may use the streams of an earlier; one seed of each."""
    pytest.importorskip("gensim")
    for block in (block for block in CODE if block.page == page and for_the_tables(block)):
        if block.language == "python":
            run_block(block, here, monkeypatch)
            continue
        commands = list(fewer(block.commands))
        for words in commands:
            forget(words, here)
        for words in commands:
            arguments = smaller(words, here)
            assert main(arguments) == 0, f"{block}: aeplus {' '.join(arguments)}"


def fewer(commands: list[list[str]]) -> Iterator[list[str]]:
    """The commands with the first of their seeds and numbers, two or three methods, and layers of the tiny model."""
    seen = set[str]()
    for command in commands:
        words = command[1:]
        but_for_numbers = re.sub(r"\d+", "", " ".join(words))
        if but_for_numbers in seen:
            continue
        seen.add(but_for_numbers)
        options = dict(pairwise(words))
        kept, seeds = options.get("--against"), options.get("--seeds", "").split(",")
        methods = options.get("--methods", "").split(",")
        changes = {
            "--seeds": seeds[0],
            "--methods": ",".join(m for place, m in enumerate(methods) if place < 2 or m == kept),
            "--model.layers": "[0]",
            "--model.targets.anchor": "{0: 1.0, 1: 1.0}",
        }
        yield [changes.get(before, word) for before, word in pairwise(["", *words])]


def run_block(block: Block, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), names_of_a_reader(here, monkeypatch))
        return
    assert only_aeplus(block), f"{block}: expected commands of aeplus only, or a marker such as <!-- needs: hub -->"
    for words in block.commands:
        forget(words, here)
    for words in block.commands:
        if words[0] == "aeplus":
            arguments = smaller(words[1:], here)
            assert main(arguments) == 0, f"{block}: aeplus {' '.join(arguments)}"


def forget(words: list[str], here: Path) -> None:
    """Removes what a command would write: a reader has not run it before."""
    made = here / words[words.index("--out") + 1] if "--out" in words else here / "nothing"
    shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)


def smaller(words: list[str], here: Path) -> list[str]:
    """A command for the tiny model in place of SmolLM2 (and any other that has a config)."""
    configs = {name: str(here / "tiny.yaml") for name in shipped_configs() if name.startswith("model/")}
    places = {**configs, "smollm2-135m": str(here / "my-model"), "gpt2": str(here / "my-model"), "4,5,6,7,8": "0,1"}
    changed = [places.get(word, word) for word in words]
    found = [path for word in changed for path in (sorted(glob.glob(word)) or [word])]
    if words[0] not in PAST_PARSING:
        return found
    for option in SMALLER:
        if option in found:
            del found[found.index(option) : found.index(option) + 2]
    more = [] if words[0] == "validate" else [word for pair in SMALLER.items() for word in pair]
    if not {*words} & {*configs}:  # a model by its name: what the config would have said of the rest
        more = [
            "--model.preserved.corpus",
            str(here / "text.txt"),
            "--data.snippet_corpus",
            str(here / "text.txt"),
            *more,
        ]
    return [*found, *more, "--trainer.accelerator", "cpu"] if words[0] != "validate" else found


def names_of_a_reader(here: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Python blocks take for granted: a model and its tokenizer, edits, and settings that run within a second."""
    edit = aeplus.edit
    monkeypatch.setattr(aeplus, "edit", lambda *args, **more: edit(*args, **{**LEARNING, "steps": 3, **more}))
    model, tokenizer = tiny_model(num_hidden_layers=3), tiny_tokenizer()
    return {
        "__name__": "block",
        "aeplus": aeplus,
        "model": model,
        "base": tiny_model(num_hidden_layers=3),
        "tokenizer": tokenizer,
        "decoder": Decoder(model),
        "edits": records()[:2],
        "requests": requests_from_records(records()[:2]),
        "file": str(here / "delta" / "delta.safetensors"),
    }


@pytest.mark.slow
def test_the_tutorial_ends_with_the_model_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    from aeplus.models.loading import load_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    answers = ""
    for block in BLOCKS:
        if block.page != TUTORIAL or "hub" in block.needs:
            continue
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == "bash":
            assert all(main(words[1:]) == 0 for words in block.commands), str(block)
        elif block.language == "python":
            capsys.readouterr()
            exec(compile(block.text, str(block), "exec"), {})
            answers = capsys.readouterr().out
    assert [line.split()[0].strip(".,") for line in answers.splitlines() if line.startswith(" ")] == [
        "Rome",
        "Seoul",
        "Madrid",
    ]
    weights = load_model("smollm2-135m", "float32")[0].state_dict()
    for name, saved in load_file(tmp_path / "as-before" / "model.safetensors").items():
        assert weights[name].equal(saved), name
