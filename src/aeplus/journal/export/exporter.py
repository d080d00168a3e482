"""``aeplus export``: the edited model, or its edits, as a folder with a card."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aeplus.edits import still_holding
from aeplus.errors import InputError
from aeplus.journal.base import BaseModel
from aeplus.journal.export.adapter import PREFIX, Adapter
from aeplus.journal.export.card import ServedProbe, card
from aeplus.journal.export.delta import delta_tensors, write_delta
from aeplus.journal.export.gguf import write_gguf
from aeplus.models.generate import generate
from aeplus.models.loading import gguf_source, write_model
from aeplus.run.committed.entries import Entries, request_from
from aeplus.run.committed.store import ReadOnlyStore
from aeplus.run.measuring import JournalMeasure, asking
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.paths import whole_folder

Format = Literal["huggingface", "peft", "delta", "gguf"]
_ANSWER = 12  # tokens of the probe's answers


@dataclass(frozen=True)
class ExportOptions:
    """What an export looks like.

    Attributes:
        rank: Rank of an adapter; by default the smallest that loses at most ``tolerance``.
        tolerance: Largest relative error of a layer's change in an adapter.
        prefix: What stands before the modules' names in an adapter.
        per_batch: One adapter per batch, in ``batch_N``, so that unloading one takes its batch out.
        shard: Largest file of a saved model, such as ``5GB``.
        source: The base model's GGUF file, for ``gguf``; by default the one that the journal names.
    """

    rank: int | None = None
    tolerance: float = 1e-6
    prefix: str = PREFIX
    per_batch: bool = False
    shard: str = "5GB"
    source: str | None = None


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        folder: Where.
        probe: A prompt with both answers.
        lost: The relative error of each layer's change, for an adapter.
        rank: The adapter's rank with its padding; ``None`` for other formats.
    """

    folder: Path
    probe: ServedProbe
    lost: dict[int, float]
    rank: int | None = None


def export(
    store: ReadOnlyStore, form: Format, folder: Path, model: Any, tokenizer: Any, command: str, options: ExportOptions
) -> Exported:
    """Writes a journal's edits in a form that others read; the model is edited afterwards.

    Raises:
        InputError: If there are no edits, the model is another, the journal is damaged, the folder may not be written,
            or what was saved is not what was edited.
    """
    entries = store.entries()
    if not entries:
        msg = f"expected edits in the journal {store.folder}, got none; there is nothing to export."
        raise InputError(msg)
    with BaseModel(store.chain, model) as base, whole_folder(folder) as scratch:
        model.requires_grad_(False).eval()
        requests = [request_from(edit) for entry in entries for edit in entry.edits]
        measure = JournalMeasure(base.decoder, tokenizer, requests)
        holding = [request for request, holds in zip(requests, still_holding(requests), strict=True) if holds]
        prompt, tokens = holding[-1].question, asking(tokenizer, requests)
        joins = [holding[-1].join]
        before = measure(requests), generate(base.decoder, tokens, [prompt], _ANSWER, joins=joins)[0]
        entries.apply(base.sites)
        after = measure(requests), generate(base.decoder, tokens, [prompt], _ANSWER, joins=joins)[0]
        probe, lost, rank = ServedProbe(prompt, before[1], after[1]), dict[int, float](), None
        scratch.mkdir()
        notes = []
        if form == "huggingface":
            write_model(model, tokenizer, scratch, options.shard)
            _compare(model, scratch, store.chain.header["model"]["trust_remote_code"])
        elif form == "peft":
            rank, lost = _adapters(store, entries, base, scratch, options)
            notes = [f"rank {rank}; largest relative error of a layer's change {max(lost.values()):.1e}"]
        elif form == "gguf":
            source = gguf_source(options.source or store.chain.header["model"]["model"])
            write_gguf(source, scratch / "model.gguf", {site.name: site.weight for site in base.sites})
            notes = [f"everything but the edited weights is that of {source.name}"]
        else:
            tensors = delta_tensors(entries, base.sites)
            write_delta(scratch / "delta.safetensors", tensors, {"base": store.chain.header["fingerprint"]})
        text = card(
            f"{store.chain.header['model']['model']}, edited",
            store.chain.header,
            [edit for entry in entries for edit in entry.edits],
            sorted({record.content["settings"]["model"]["method"]["name"] for record, _ in store.active}),
            (before[0], after[0]),
            probe,
            command,
            notes,
        )
        (scratch / "README.md").write_text(text, encoding="utf-8")
        base.keep()
    return Exported(folder, probe, lost, rank)


def _compare(model: Any, folder: Path, trusted: bool) -> None:
    """Reads a saved model back: it must be what was edited."""
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=trusted)
    expected = {name: tensor.to(saved.state_dict()[name].dtype) for name, tensor in model.state_dict().items()}
    if weights_fingerprint(saved) != weights_fingerprint(_State(expected)):
        msg = (
            "expected the saved folder to hold the edited model, got other weights when it was read back; export again."
        )
        raise InputError(msg)


class _State:
    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state


def _adapters(
    store: ReadOnlyStore, entries: Entries, base: BaseModel, folder: Path, options: ExportOptions
) -> tuple[int, dict[int, float]]:
    header, modules = store.chain.header["model"], [name for name, _ in base.decoder.model.named_modules()]
    rank, lost = 0, dict[int, float]()
    for place, part in _parts(store, entries, folder, options.per_batch):
        adapter = Adapter(part, base.sites, options.rank, options.tolerance, options.prefix)
        adapter.write(place, adapter.config(header["model"], header["revision"], modules))
        rank = max(rank, adapter.rank)
        lost = {layer: max(error, lost.get(layer, 0.0)) for layer, error in adapter.lost.items()}
    return rank, lost


def _parts(store: ReadOnlyStore, entries: Entries, folder: Path, per_batch: bool) -> Iterator[tuple[Path, Entries]]:
    if not per_batch:
        yield folder, entries
        return
    for (record, _), entry in zip(store.active, entries, strict=True):
        yield folder / f"batch_{record.number}", Entries([entry])
