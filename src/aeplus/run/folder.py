"""A finished run's folder as the source of an edited model: its checkpoint's edits, or the model that it saved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aeplus.edits import EditRequest, still_holding
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.run.committed.chain import HEADER
from aeplus.run.committed.entries import Entries, request_from
from aeplus.run.committed.store import Store
from aeplus.run.records import EditRecord, read_records
from aeplus.run.resume import NOTES, Resume, read_checkpoint
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.yaml_files import read_yaml


@dataclass(frozen=True)
class Case:
    """An edit of a run, as a reader meets it.

    Attributes:
        edit: Its place in the stream, from 1.
        prompt: The prompt with the subject in its place.
        target: The target.
        others: A rephrased and a neighborhood prompt, and one for free text, by what they are, where the run knows
            them.
        superseded: Whether a later edit of the run gives the fact another answer.
        record: Its line of ``edits.jsonl``, if there is one.
        request: The edit; ``None`` where the run knows it by ``edits.jsonl`` alone.
    """

    edit: int
    prompt: str
    target: str
    others: dict[str, str]
    superseded: bool
    record: EditRecord | None
    request: EditRequest | None = None

    @property
    def join(self) -> str:
        """How its prompts and what follows are joined; see :func:`~aeplus.texts.separator`."""
        return "auto" if self.request is None else self.request.join


@dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Attributes:
        path: Its folder.
        method: Name of its method.
        model: What the unedited model is loaded by: name, dtype, revision, and whether its code is trusted.
        cases: Its edits, in order; none if it does not know them.
        entries: Its checkpoint's or its journal's edits; ``None`` where only an edited model was saved.
        site: The module that it edited, where its config names one.
    """

    path: Path
    method: str
    model: tuple[str, Any, str | None, bool]
    cases: list[Case]
    entries: Entries | None
    site: str | None
    _upcast: bool
    _resume: Resume | None

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Reads what a run left.

        Raises:
            InputError: If it is not a run folder, or holds neither a checkpoint nor a model.
        """
        try:
            model, site, method, upcast = _options(read_yaml(path / "config.yaml", "a run's config"))
        except (InputError, KeyError, TypeError, AttributeError) as error:
            msg = (
                f"expected a run folder with its config.yaml, got {path}, which is not one; give one such as "
                "lightning_logs/edits/version_0."
            )
            raise InputError(msg) from error
        checkpoints = sorted(path.glob("checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
        journal = _from_journal(path)
        changed = journal is not None and any(record.kind == "undo" for record in journal.journal.chain.records)
        resume = _checkpoint(checkpoints[-1]) if checkpoints and not changed else journal
        if resume is None and not (path / "model").is_dir():
            msg = (
                f"expected checkpoints/*.ckpt or a model in {path}, got neither; make the run with the callback "
                "EditCheckpoint, or with save_model of JournalWriter."
            )
            raise InputError(msg)
        entries = resume.entries if resume is not None else None
        return cls(path, method, model, _cases(entries, read_records(path)), entries, site, upcast, resume)

    @contextmanager
    def applied(self, decoder: Decoder) -> Iterator[None]:
        """The unedited model with the checkpoint's edits while the block runs, and as it was afterwards.

        Raises:
            InputError: If the edits belong to another model.
        """
        if self._resume is None or not self._resume.entries:
            yield
            return
        entries = self._resume.entries
        layers = list(entries[0].updates)
        sites = Decoder(decoder.model, self.site).select(layers)
        with Snapshot(sites):
            for site in sites if self._upcast else ():
                site.upcast()
            requests = [request_from(edit) for entry in entries for edit in entry.edits]
            self._resume.check(self.model[0], weights_fingerprint(decoder.model), layers, requests)
            entries.apply(sites)
            yield


def _options(config: Any) -> tuple[tuple[str, Any, str | None, bool], str | None, str, bool]:
    """How a run's config says that the model is loaded, the site, the method's name and whether it edits in float32."""
    options = config["model"]
    model = (options["model"], options.get("dtype", "auto"), options.get("revision"))
    site, method = options.get("site"), options["method"]["name"]
    if not all(text is None or isinstance(text, str) for text in (*model, site)) or not isinstance(method, str):
        msg = "expected texts in a run's config, got others; restore a copy of it."
        raise InputError(msg)
    return (*model, options.get("trust_remote_code") is True), site, method, options.get("edited_dtype") == "float32"


def labels(runs: Sequence[RunFolder]) -> list[str]:
    """What to call runs: by their methods, with the folder where that is not enough."""
    methods = [run.method for run in runs]
    return [m if methods.count(m) == 1 else f"{m} ({run.path})" for m, run in zip(methods, runs, strict=True)]


def _checkpoint(path: Path) -> Resume:
    content = read_checkpoint(path)
    notes = content.get(NOTES) if isinstance(content, dict) else None
    settings = notes.get("settings", {}) if isinstance(notes, dict) else {}
    return Resume.from_checkpoint(content, path, settings)  # no run is resumed: settings are compared with themselves


def _from_journal(path: Path) -> Resume | None:
    return Resume(Store.open(path)) if (path / "journal" / HEADER).is_file() else None


def _cases(entries: Entries | None, records: Sequence[EditRecord]) -> list[Case]:
    """The edits of a checkpoint, or of ``edits.jsonl`` where there is none."""
    if entries is None:
        return [Case(r.edit, r.prompt, r.target, {}, r.superseded, r) for r in records]
    edits = [edit for entry in entries for edit in entry.edits]
    requests = [request_from(edit) for edit in edits]
    holding = still_holding(requests)
    # In the order of the run; some edits may have been taken out since.
    left = list(records)
    cases = []
    for index, (edit, request) in enumerate(zip(edits, requests, strict=True)):
        others = {
            "in other words": next(iter(request.paraphrases), None),
            "neighbor": next((probe["prompt"] for probe in edit["neighborhood"]), None),
            "free text": next(iter(request.generation), None),
        }
        prompts = {name: prompt for name, prompt in others.items() if prompt is not None}
        place = next((place for place, record in enumerate(left) if _is_of(record, request)), None)
        record = None if place is None else left[place]
        left = left if place is None else left[place + 1 :]
        cases.append(
            Case(
                index + 1 if record is None else record.edit,
                request.question,
                request.target_new,
                prompts,
                not holding[index],
                record,
                request,
            )
        )
    return cases


def _is_of(record: EditRecord, request: EditRequest) -> bool:
    """Whether a record is the edit's: a checkpoint may stop before the run's end, or be another's."""
    return (record.prompt, record.target) == (request.question, request.target_new)
