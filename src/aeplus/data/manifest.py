"""A validation set as a file, with a manifest that says what it uses and what it was checked against.

The manifest contains hashes, not prompts: it can be shared without revealing a test set.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aeplus.data.validation import ValidationItem, ValidationSet
from aeplus.edits import EditRequest, Probe, held_out_prompts, normal
from aeplus.errors import InputError
from aeplus.utils.jsonl import read_json, read_jsonl, write_json, write_jsonl

_KINDS = ("first", "rewrite", "preserved")


@dataclass(frozen=True)
class Manifest:
    """The manifest of a validation file.

    Attributes:
        prompts: Hashes of the validation prompts.
        tests: Hashes of the test prompts, none of which is a validation prompt.
        edits: Hashes of the edits whose test prompts these are.
        settings: How the file was made.
    """

    prompts: tuple[str, ...]
    tests: tuple[str, ...]
    edits: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def prompt_hash(text: str) -> str:
    """A prompt's hash, 32 hexadecimal digits of blake2b; case and whitespace do not matter."""
    return hashlib.blake2b(normal(text).encode(), digest_size=16).hexdigest()


def manifest_path(path: Path) -> Path:
    """The path of a validation file's manifest."""
    return path.with_name(f"{path.name}.manifest.json")


def write_validation(
    path: Path,
    validation: ValidationSet,
    requests: Sequence[EditRequest],
    settings: dict[str, Any],
    overwrite: bool = False,
) -> Manifest:
    """Writes a validation set as JSON Lines and its manifest; each complete or not at all.

    Args:
        path: The file; the manifest goes to :func:`manifest_path`.
        validation: The set; its items point into ``requests``.
        requests: The edits that it was made for and is checked against.
        settings: How it was made.
        overwrite: Whether files of the user's may be replaced.

    Raises:
        InputError: If a prompt is a test prompt, or a file cannot be written.
    """
    check_overlap(validation, requests, str(path))
    lines: list[dict[str, str | None]] = [
        {"kind": kind, "prompt": item.prompt, "answer": item.answer, "edit": requests[item.request_index].question}
        for kind, items in (("first", validation.firsts.values()), ("rewrite", validation.rewrites))
        for item in items
    ]
    lines += [{"kind": "preserved", "prompt": p.prompt, "answer": p.answer} for p in validation.preserved]
    manifest = Manifest(
        prompts=_hashes(validation.prompts),
        tests=_hashes(held_out_prompts(requests)),
        edits=_hashes(map(_edit, requests)),
        settings=settings,
    )
    write_jsonl(path, lines, overwrite=overwrite, mark=False)
    write_json(manifest_path(path), asdict(manifest), indent=1, overwrite=overwrite, mark=False)
    return manifest


def read_validation(path: Path, requests: Sequence[EditRequest], before: int | Collection[int] = 0) -> ValidationSet:
    """Reads a validation set for a stream of edits.

    Items of edits that are not in the stream are left out: the stream may be a part of what the file was made for.

    Args:
        path: A file that :func:`write_validation` has written.
        requests: The stream, in its order.
        before: How many edits of the stream were made by an earlier run, which the file need not know; or which ones,
            by their places.

    Raises:
        InputError: If the file or its manifest is missing or damaged, the two do not match each other or the stream,
            or a validation prompt is a test prompt of the stream.
    """
    lines, manifest = list(_lines(path)), _read_manifest(path)
    if _hashes(line["prompt"] for line in lines) != manifest.prompts:
        msg = (
            f"expected a manifest that matches {path}, got one with other prompts (one of the two files was changed); "
            "run aeplus build-validation again."
        )
        raise InputError(msg)
    others = range(before) if isinstance(before, int) else before
    known, own = set(manifest.edits), {i: request for i, request in enumerate(requests) if i not in others}
    if unknown := [request for request in own.values() if prompt_hash(_edit(request)) not in known]:
        msg = (
            f"expected edits that the manifest of {path} was checked against, got {len(unknown)} of {len(own)} "
            f"others, the first {unknown[0].question!r}; run aeplus build-validation on these edits."
        )
        raise InputError(msg)
    indices: dict[str, list[int]] = {}
    for index, request in own.items():
        indices.setdefault(_key(request.question, request.target_new), []).append(index)
    items: dict[str, list[ValidationItem]] = {kind: [] for kind in _KINDS}
    for line in lines:
        if line["kind"] != "preserved":
            for index in indices.get(_key(line["edit"], line["answer"]), ()):
                items[line["kind"]].append(ValidationItem(index, line["prompt"], line["answer"]))
    if not items["first"] and not items["rewrite"] and any(line["kind"] != "preserved" for line in lines):
        msg = (
            f"expected paraphrases of the edits in {path}, got none for any of these {len(own)}; run aeplus "
            "build-validation on these edits."
        )
        raise InputError(msg)
    validation = ValidationSet(
        tuple(sorted(items["rewrite"], key=lambda item: item.request_index)),
        tuple(Probe(line["prompt"], line["answer"]) for line in lines if line["kind"] == "preserved"),
        {item.request_index: item for item in items["first"]},
    )
    check_overlap(validation, requests, str(path))
    return validation


def check_overlap(validation: ValidationSet, requests: Iterable[EditRequest], source: str) -> None:
    """Checks that no validation prompt is a test prompt of the edits; case and whitespace do not matter.

    Raises:
        InputError: If one is; the message gives their number and the first.
    """
    tests = {normal(prompt) for prompt in held_out_prompts(requests)}
    if shared := [prompt for prompt in dict.fromkeys(validation.prompts) if normal(prompt) in tests]:
        msg = (
            f"expected the validation set {source} to contain no test prompt of the edits, got an overlap in "
            f"{len(shared)} of its prompts, the first {shared[0]!r}; run aeplus build-validation on these edits."
        )
        raise InputError(msg)


def _hashes(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({prompt_hash(text) for text in texts}))


def _edit(request: EditRequest) -> str:
    return _key(request.question, request.target_new)


def _key(question: str, target: str) -> str:
    return f"{normal(question)}\x1f{normal(target)}"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in read_jsonl(path, "a validation file (written by aeplus build-validation)"):
        kind = line.get("kind") if isinstance(line, dict) else None
        needed = ("prompt",) if kind == "preserved" else ("prompt", "answer", "edit")
        if kind not in _KINDS or not all(isinstance(line.get(name), str) for name in needed):
            msg = (
                f"{path}, line {number}: expected an item of a validation set, with kind ({', '.join(_KINDS)}) and "
                f"prompt, got {line!r:.60}; write the file with aeplus build-validation."
            )
            raise InputError(msg)
        yield {"answer": None, **line}


def _read_manifest(path: Path) -> Manifest:
    saved = read_json(manifest_path(path), f"the manifest of {path} (written by aeplus build-validation)")
    try:
        prompts, tests, edits = (tuple(map(str, saved[name])) for name in ("prompts", "tests", "edits"))
        return Manifest(prompts, tests, edits, saved["settings"])
    except (TypeError, KeyError) as error:
        msg = (
            f"expected the manifest of {path} in {manifest_path(path)}, got something else (field {error}); run aeplus "
            "build-validation again."
        )
        raise InputError(msg) from error
