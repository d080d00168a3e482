"""A validation set as a file, with a manifest beside it that says what it uses and what it was checked against.

The manifest holds hashes, not prompts: it can be shared without giving a test set away.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aeplus.data.validation import ValidationItem, ValidationSet
from aeplus.edits import EditRequest, Probe, held_out_prompts, normal
from aeplus.errors import InputError
from aeplus.utils.paths import whole_file

_KINDS = ("first", "rewrite", "preserved")


@dataclass(frozen=True)
class Manifest:
    """What stands beside a validation file.

    Attributes:
        prompts: Hashes of the validation prompts.
        tests: Hashes of the test prompts that none of them is.
        edits: Hashes of the edits whose test prompts these are.
        settings: How the file was made.
    """

    prompts: tuple[str, ...]
    tests: tuple[str, ...]
    edits: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def prompt_hash(text: str) -> str:
    """A prompt's hash, 32 hexadecimal digits of blake2b; case and blanks do not matter."""
    return hashlib.blake2b(normal(text).encode(), digest_size=16).hexdigest()


def manifest_path(path: Path) -> Path:
    """Where the manifest of a validation file lies."""
    return path.with_name(f"{path.name}.manifest.json")


def write_validation(
    path: Path, validation: ValidationSet, requests: Sequence[EditRequest], settings: dict[str, Any]
) -> Manifest:
    """Writes a validation set as JSON Lines and its manifest; each whole or not at all.

    Args:
        path: The file; its manifest is :func:`manifest_path`.
        validation: The set; its items point into ``requests``.
        requests: The edits that it was made for and checked against.
        settings: How it was made.

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
    with whole_file(path) as scratch:
        scratch.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    with whole_file(manifest_path(path)) as scratch:
        scratch.write_text(json.dumps(asdict(manifest), indent=1) + "\n", "utf-8")
    return manifest


def read_validation(path: Path, requests: Sequence[EditRequest]) -> ValidationSet:
    """Reads a validation set for a stream of edits.

    Items of edits that are not in the stream are left out: the stream may be a part of what the file was made for.

    Args:
        path: A file that :func:`write_validation` has written.
        requests: The stream, in its order.

    Raises:
        InputError: If the file or its manifest is missing or damaged, the two do not fit each other, they do not fit
            the stream, or a validation prompt is a test prompt of the stream.
    """
    lines, manifest = list(_lines(path)), _read_manifest(path)
    if _hashes(line["prompt"] for line in lines) != manifest.prompts:
        msg = f"the manifest of {path} does not fit it: one of the two was changed; run aeplus build-validation again."
        raise InputError(msg)
    known = set(manifest.edits)
    if strangers := [request for request in requests if prompt_hash(_edit(request)) not in known]:
        msg = (
            f"the manifest of {path} does not fit the edits: {len(strangers)} of {len(requests)} are none of those it "
            f"was checked against, the first {strangers[0].question!r}; run aeplus build-validation on these edits."
        )
        raise InputError(msg)
    places: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        places.setdefault(_key(request.question, request.target_new), []).append(index)
    found: dict[str, list[ValidationItem]] = {kind: [] for kind in _KINDS}
    for line in lines:
        if line["kind"] != "preserved":
            for index in places.get(_key(line["edit"], line["answer"]), ()):
                found[line["kind"]].append(ValidationItem(index, line["prompt"], line["answer"]))
    if not found["first"] and not found["rewrite"] and len(lines) > sum(line["kind"] == "preserved" for line in lines):
        msg = f"expected paraphrases of the edits in {path}, but it holds none of these {len(requests)}; build it anew."
        raise InputError(msg)
    validation = ValidationSet(
        tuple(sorted(found["rewrite"], key=lambda item: item.request_index)),
        tuple(Probe(line["prompt"], line["answer"]) for line in lines if line["kind"] == "preserved"),
        {item.request_index: item for item in found["first"]},
    )
    check_overlap(validation, requests, str(path))
    return validation


def check_overlap(validation: ValidationSet, requests: Iterable[EditRequest], source: str) -> None:
    """No validation prompt is a test prompt of the edits, but for case and blanks.

    Raises:
        InputError: If one is; the message gives their number and the first.
    """
    tests = {normal(prompt) for prompt in held_out_prompts(requests)}
    if both := [prompt for prompt in dict.fromkeys(validation.prompts) if normal(prompt) in tests]:
        msg = (
            f"the validation set {source} overlaps with the edits' test prompts in {len(both)} of its prompts, the "
            f"first {both[0]!r}; run aeplus build-validation on these edits."
        )
        raise InputError(msg)


def _hashes(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({prompt_hash(text) for text in texts}))


def _edit(request: EditRequest) -> str:
    return _key(request.question, request.target_new)


def _key(question: str, target: str) -> str:
    return f"{normal(question)}\x1f{normal(target)}"


def _text_of(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        msg = f"expected {what} at {path}, but it cannot be read ({reason}); write it with aeplus build-validation."
        raise InputError(msg) from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(_text_of(path, "a validation file").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        kind = line.get("kind") if isinstance(line, dict) else None
        needed = ("prompt",) if kind == "preserved" else ("prompt", "answer", "edit")
        if kind not in _KINDS or not all(isinstance(line.get(name), str) for name in needed):
            msg = (
                f"expected an item of a validation set, with kind ({', '.join(_KINDS)}) and prompt, in line {number} "
                f"of {path}, but {text[:60]!r} came; write the file with aeplus build-validation."
            )
            raise InputError(msg)
        yield {"answer": None, **line}


def _read_manifest(path: Path) -> Manifest:
    place = manifest_path(path)
    text = _text_of(place, f"the manifest of {path}")
    try:
        saved = json.loads(text)
        prompts, tests, edits = (tuple(map(str, saved[name])) for name in ("prompts", "tests", "edits"))
        return Manifest(prompts, tests, edits, saved["settings"])
    except (ValueError, TypeError, KeyError) as error:
        msg = f"expected a manifest in {place}, but it is damaged ({error}); run aeplus build-validation again."
        raise InputError(msg) from error
