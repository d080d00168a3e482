"""The data of an experiment's cells: streams and AlphaSet, drawn with a cell's seed into the experiment's folder."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aeplus.commands.alphaset.arguments import alphaset_parser
from aeplus.commands.alphaset.card import K0_FILE, SET_FILES
from aeplus.commands.stream.arguments import stream_parser
from aeplus.commands.stream.command import facts_path
from aeplus.data.world_facts import SOURCE
from aeplus.errors import InputError
from aeplus.utils.cache import digest
from aeplus.utils.fingerprint import path_stamp
from aeplus.utils.jsonl import read_json, write_json
from aeplus.utils.paths import check_output, is_listed, whole_file

FOLDER = "data"
"""The folder of drawn data, in the experiment's."""
_DRAWN = "drawn.json"
_LOADING = ("revision", "trust_remote_code", "device_map", "site")


@dataclass(frozen=True)
class Place:
    """Where a cell's data are.

    Attributes:
        fields: Fields of ``data``.
        facts: A file for ``model.preserved.facts``.
        command: The command that draws them, ``build-stream`` or ``build-alphaset``; empty where nothing is drawn.
        words: Its arguments.
        files: The files that it writes.
    """

    fields: dict[str, Any]
    facts: str | None = None
    command: str = ""
    words: tuple[str, ...] = ()
    files: tuple[Path, ...] = field(default=())


def slug(text: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.+=,-]+", "_", text)


def place_of(name: str, entry: Mapping[str, Any], seed: int, out: Path, settings: Mapping[str, Any]) -> Place:
    """Where the data of a cell are, or are to be drawn.

    Args:
        name: The data set's name.
        entry: What the experiment says of it.
        seed: The cell's seed.
        out: The experiment's folder.
        settings: The configuration: AlphaSet is measured on its model and layers, with its targets' numbers.
    """
    if "path" in entry:
        return Place(dict(entry))
    if "stream" in entry:
        if entry["stream"] == "inconsistent":
            _check_loaded(name, settings["model"])
        file = out / FOLDER / f"{slug(name)}_{seed}.jsonl"
        words = ["--kind", entry["stream"], "--data.path", SOURCE, "--seed", str(seed), "--out", str(file)]
        words += _options(entry, {"count": "--count", "share": "--share", "tests": "--tests"})
        words += ["--batch-size", str(settings["data"]["batch_size"]), *_measured(settings)]
        named = entry["stream"] == "preserved"
        files = (file, facts_path(file)) if named else (file,)
        facts = str(facts_path(file)) if named else None
        return Place({"path": str(file)}, facts, "build-stream", tuple(words), files)
    _check_loaded(name, settings["model"])
    options = {key: value for key, value in entry.items() if key not in ("alphaset", "protect")}
    folder = out / FOLDER / f"alphaset_{digest(options)[:8]}_{seed}"
    words = ["--edits", str(entry.get("edits", SOURCE)), "--k0", str(entry.get("k0", "corpus"))]
    words += ["--seed", str(seed), "--out", str(folder), *_measured(settings)]
    names = ("sizes", "k0_count", "corpus", "steps", "candidates", "rewriter")
    words += _options(entry, {key: f"--{key.replace('_', '-')}" for key in names})
    facts = str(folder / K0_FILE) if entry.get("protect") else None
    path = str(folder / f"alphaset{entry['alphaset']}.jsonl")
    return Place({"path": path}, facts, "build-alphaset", tuple(words), tuple(folder / file for file in SET_FILES))


def _check_loaded(name: str, model: Mapping[str, Any]) -> None:
    """Checks that the model is loaded by its name alone, as the commands that measure it load it.

    Raises:
        InputError: If it is not.
    """
    if given := [option for option in _LOADING if model.get(option) not in (None, False)]:
        msg = (
            f"expected a model that is loaded by its name alone, as the data set {name} is chosen by measuring it, got "
            f"model.{given[0]}; save the model that it gives to a folder, and name that."
        )
        raise InputError(msg)


def draw(place: Place, out: Path, others: Sequence[Path] = ()) -> None:
    """Draws data, unless that has been done with the same words, from files as they are.

    Args:
        place: The data.
        out: The experiment's folder.
        others: Folders of experiments whose data may be taken.

    Raises:
        InputError: If they cannot be drawn, or somebody has changed them since.
    """
    if not place.command:
        return
    record = out / FOLDER / _DRAWN
    known = _known(record)
    name = str(place.files[0].relative_to(out))
    if name in known and known[name] == _key(place):
        return
    if not any(_take_over(place, out, other) for other in others):
        _draw_anew(place)
    write_json(record, {**known, name: _key(place)}, overwrite=is_listed(record))


def _draw_anew(place: Place) -> None:
    if place.command == "build-stream":
        from aeplus.commands.stream.command import run

        run(stream_parser().parse_args(place.words))
    else:
        from aeplus.commands.alphaset.command import run

        run(alphaset_parser().parse_args(place.words))


def _take_over(place: Place, out: Path, other: Path) -> bool:
    """Copies what another experiment has drawn by the same words from the same files; whether there was that."""
    files = tuple(other / file.relative_to(out) for file in place.files)
    words = list(place.words)
    target = words.index("--out") + 1
    words[target] = str(other / Path(words[target]).relative_to(out))
    theirs = replace(place, words=tuple(words), files=files)
    if _known(other / FOLDER / _DRAWN).get(str(files[0].relative_to(other))) != _key(theirs):
        return False
    stamps = [path_stamp(file) for file in files]
    try:
        for file, own in zip(files, place.files, strict=True):
            with whole_file(own) as scratch:
                shutil.copyfile(file, scratch)
    except FileNotFoundError:  # it is being made again
        return False
    return [path_stamp(file) for file in place.files] == stamps


def _key(place: Place) -> str:
    """A digest of what the data are drawn by, and of the drawn files: words, and the content of what they name."""
    named = [[word, path_stamp(Path(word))] for word in place.words]
    return digest([place.command, named, [path_stamp(file) for file in place.files], version("aeplus")])


def _known(record: Path) -> dict[str, str]:
    """What has been drawn; nothing where that is not known, and is then drawn again."""
    try:
        known = read_json(record)
    except InputError:
        return {}
    return known if isinstance(known, dict) else {}


def check_place(place: Place) -> None:
    """Checks that what is drawn may be written.

    Raises:
        InputError: If something of the user's is in the way.
    """
    for file in place.files:
        check_output(file, "--out")


def _options(entry: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    words: list[str] = []
    for key, option in names.items():
        if key in entry:
            value = entry[key]
            words += [option, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def _measured(settings: Mapping[str, Any]) -> list[str]:
    """The model to measure on, and how its targets are learned."""
    model, targets = settings["model"], settings["model"]["targets"]
    layers = ",".join(map(str, model["layers"]))
    numbers = ["--learning-rate", str(targets["learning_rate"]), "--clamp", str(targets["clamp"])]
    return ["--model", str(model["model"]), "--layers", layers, *numbers]
