"""Reads edits: from a local file or the hub, in any of the accepted formats, told apart by their content.

- plain: ``prompt``, ``subject``, ``target_new``, and by choice ``rephrase``, ``neighborhood``,
  ``target_true``, ``fact``, ``id``;
- ZsRE, AlphaSet: ``src``, ``subject``, ``answers`` or ``alt``, and by choice ``rephrase``, ``loc``,
  ``loc_ans``;
- CounterFact, multi-CounterFact: ``requested_rewrite``, and by choice ``paraphrase_prompts``,
  ``neighborhood_prompts``.

Other fields are ignored. Texts lose the blanks at their ends: a prompt that ends in one is split into other
tokens than the model was trained on.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from aeplus.data.request import SLOT, EditRequest, Probe
from aeplus.errors import InputError

Target = Literal["answers", "alt"]
Record = Mapping[str, Any]

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")
_FILE_ENDINGS = {".json", ".jsonl", ".ndjson", ".gz", ".txt", ".csv"}
_LOC_PREFIX = "nq question: "


def read_requests(source: str | Path, limit: int | None = None, target: Target = "answers") -> list[EditRequest]:
    """Read the edits of a file or of a data set on the hub.

    Args:
        source: A file with a JSON array or JSON Lines, gzipped or not; or, where no such file exists, a hub
            id ``owner/name`` or ``owner/name:split`` (split ``train`` unless given).
        limit: How many records to read, from the first; ``None`` reads all.
        target: In ZsRE and AlphaSet records, where the new answer stands: the first of ``answers`` (as in
            ROME, MEMIT and AlphaEdit) or ``alt`` (as in EasyEdit). Other formats have only one.

    Raises:
        InputError: If the source cannot be read or a record cannot be used.
    """
    if limit is not None and limit < 1:
        msg = f"'limit' must be at least 1, or none for all records, but is {limit}; give a larger number."
        raise InputError(msg)
    path = Path(source).expanduser()
    hub = _HUB_ID.fullmatch(str(source))
    if path.is_dir():
        msg = f"Expected a file of edits, but {path} is a folder; give the path of the file inside it."
        raise InputError(msg)
    if path.exists():
        records = _file_records(path)
    elif hub and path.suffix.lower() not in _FILE_ENDINGS:
        records = _hub_records(hub["name"], hub["split"] or "train")
    else:
        msg = f"Expected a file of edits, but {path} does not exist; check the path."
        raise InputError(msg)
    requests = requests_from_records(islice(records, limit), str(source), target)
    if not requests:
        msg = f"Expected edits, but {source} holds no records; give a source with at least one."
        raise InputError(msg)
    return requests


def requests_from_records(
    records: Iterable[Any], source: str = "the edits", target: Target = "answers"
) -> list[EditRequest]:
    """Turn records, of any accepted format, into edits.

    Args:
        records: The records as JSON gives them.
        source: What messages call the records' origin.
        target: See :func:`read_requests`.

    Raises:
        InputError: If a record cannot be used; the message gives its number, from 1.
    """
    if target not in ("answers", "alt"):
        msg = f"'target' must be 'answers' or 'alt', but is {target!r}; choose one of them."
        raise InputError(msg)
    requests = []
    for number, record in enumerate(records, start=1):
        try:
            request = _parser(record)(record, target)
        except InputError as error:
            msg = f"{source}, record {number}: {str(error).removeprefix('the record: ')}"
            raise InputError(msg) from None
        name = next((record[key] for key in ("id", "case_id") if record.get(key) is not None), number)
        requests.append(replace(request, id=str(name)))
    return requests


def _file_records(path: Path) -> Iterator[Any]:
    """The JSON values of a file: the items of its one array, or its lines."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        msg = f"Expected a whole gzip file, but {path} is damaged ({error}); fetch or write it again."
        raise InputError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"Expected UTF-8 text, but {path} is not ({error.reason} at byte {error.start}); convert it."
        raise InputError(msg) from error
    except OSError as error:
        msg = f"Expected a readable file, but {path} cannot be read ({error.strerror}); check its permissions."
        raise InputError(msg) from error
    if not text.strip():
        msg = f"Expected edits, but {path} is empty; give a file with at least one record."
        raise InputError(msg)
    if text.lstrip().startswith("["):
        yield from _load(text, path)
        return
    # Not str.splitlines: it also breaks at U+2028 and the like, which JSON strings may hold unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if number == 1 and line.strip() == "{":  # one object printed over several lines
            yield _load(text, path)
            return
        yield _load(line, path, number)


def _load(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        why = getattr(error, "msg", str(error))
        msg = f"Expected a JSON array or JSON Lines, but line {line} of {path} is not JSON ({why}); correct it."
        raise InputError(msg) from error


def _hub_records(name: str, split: str) -> Iterator[Any]:
    try:
        from datasets import load_dataset  # takes seconds to import, and files need none of it

        data = load_dataset(name, split=split)
    except Exception as error:  # what fails depends on the network and on versions of three libraries
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = (
            f"Expected a file or a data set on the hub, but there is no file {name!r} and loading "
            f"that data set, split {split!r}, failed ({why}); check the name, the split and the connection."
        )
        raise InputError(msg) from error
    yield from data


def _text(record: Record, field: str, name: str | None = None) -> str:
    """A field that must hold a text, without blanks at its ends."""
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        msg = f"{name or field!r} must be a text that is not empty, but is {value!r}; fill it in."
        raise InputError(msg)
    return value.strip()


def _texts(record: Record, field: str) -> tuple[str, ...]:
    """A field that may be missing, one text or a list of texts; empty texts are left out."""
    value = record.get(field)
    items = [value] if isinstance(value, str) else value or []
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        msg = f"{field!r} must be a text or a list of texts, but is {value!r}; correct it."
        raise InputError(msg)
    return tuple(item.strip() for item in items if item.strip())


def _optional(record: Record, field: str) -> str | None:
    return next(iter(_texts(record, field)), None)


def _slotted(text: str, subject: str, field: str) -> str:
    """Put ``{}`` where the subject stands.

    Of several occurrences the last: a decoder has read the whole subject there, and what else the text says
    before it; an edit at an earlier one would change keys that the text's end hardly looks at.
    """
    if subject not in text:
        msg = f"{field!r} must hold the subject {subject!r}, but is {text!r}; correct either."
        raise InputError(msg)
    start = text.rindex(subject)
    before, after = text[:start], text[start + len(subject) :]
    if SLOT in before or SLOT in after:
        msg = f"{field!r} may not hold {SLOT}, which marks the subject's place, but is {text!r}; reword it."
        raise InputError(msg)
    return before + SLOT + after


def _plain(record: Record, target: Target) -> EditRequest:
    """A plain record. A prompt without ``{}`` is complete: the subject is looked for in it."""
    prompt, subject = _text(record, "prompt"), _text(record, "subject")
    probes = record.get("neighborhood")
    return EditRequest(
        prompt=prompt if SLOT in prompt else _slotted(prompt, subject, "prompt"),
        subject=subject,
        target_new=_text(record, "target_new"),
        rephrase=_texts(record, "rephrase"),
        neighborhood=tuple(_probe(item) for item in ([probes] if isinstance(probes, str) else probes or [])),
        target_true=_optional(record, "target_true"),
        fact=_optional(record, "fact") or "",
    )


def _probe(item: Any) -> Probe:
    if isinstance(item, str) and item.strip():
        return Probe(item.strip())
    if isinstance(item, Mapping):
        return Probe(_text(item, "prompt", "prompt of 'neighborhood'"), _optional(item, "answer"))
    msg = f"'neighborhood' must list texts or objects with prompt and answer, but holds {item!r}; correct it."
    raise InputError(msg)


def _zsre(record: Record, target: Target) -> EditRequest:
    """A ZsRE or AlphaSet record.

    ``loc`` is taken as it stands, without the prefix of its source. (ROME's reader appends a question mark
    to it; AlphaSet's questions mostly have theirs already.)
    """
    subject = _text(record, "subject")
    answer = _optional(record, target)
    loc = (_optional(record, "loc") or "").removeprefix(_LOC_PREFIX).strip()
    return EditRequest(
        prompt=_slotted(_text(record, "src"), subject, "src"),
        subject=subject,
        target_new=_text({target: answer or record.get(target)}, target),
        rephrase=_texts(record, "rephrase"),
        neighborhood=(Probe(loc, _optional(record, "loc_ans")),) if loc else (),
    )


def _counterfact(record: Record, target: Target) -> EditRequest:
    """A CounterFact record. Its neighbourhood asks of other subjects what was true of this one."""
    rewrite = record["requested_rewrite"]
    prompt, subject = _text(rewrite, "prompt"), _text(rewrite, "subject")
    new, true = rewrite.get("target_new"), rewrite.get("target_true")
    answer = _optional(true, "str") if isinstance(true, Mapping) else None
    return EditRequest(
        prompt=prompt if SLOT in prompt else _slotted(prompt, subject, "prompt"),
        subject=subject,
        target_new=_text(new if isinstance(new, Mapping) else {"str": new}, "str", "target_new"),
        rephrase=_texts(record, "paraphrase_prompts"),
        neighborhood=tuple(Probe(text, answer) for text in _texts(record, "neighborhood_prompts")),
        target_true=answer,
    )


class _Format(NamedTuple):
    name: str
    recognises: Callable[[Record], bool]
    parse: Callable[[Record, Target], EditRequest]


# What decides comes first: a record of a later format never has an earlier one's fields.
_FORMATS = (
    _Format(
        "CounterFact (requested_rewrite)",
        lambda r: isinstance(r.get("requested_rewrite"), Mapping),
        _counterfact,
    ),
    _Format("ZsRE (src, subject, answers or alt)", lambda r: {"src", "subject"} <= r.keys(), _zsre),
    _Format(
        "plain (prompt, subject, target_new)",
        lambda r: {"prompt", "subject", "target_new"} <= r.keys(),
        _plain,
    ),
)


def _parser(record: Any) -> Callable[[Record, Target], EditRequest]:
    names = f"{', '.join(form.name for form in _FORMATS[:-1])} or {_FORMATS[-1].name}"
    if not isinstance(record, Mapping):
        msg = f"expected an object with the fields of a format, {names}, but it is {record!r:.80}; correct it."
        raise InputError(msg)
    for form in _FORMATS:
        if form.recognises(record):
            return form.parse
    fields = ", ".join(map(str, record)) or "no fields"
    msg = f"expected the fields of a format, {names}, but it has {fields}; rename its fields."
    raise InputError(msg)
