"""Editing a loaded model from Python, in one call."""

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Unpack, cast
from weakref import ref

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from aeplus.api.arguments import alone, called_once, check_call
from aeplus.api.options import EditOptions, method_with, plain, sorted_options
from aeplus.api.result import STANDING, EditResult
from aeplus.callbacks.smoothing import SmoothingStop
from aeplus.data.datamodule import EditDataModule
from aeplus.data.readers import requests_from_records
from aeplus.errors import InputError
from aeplus.methods.method import Method
from aeplus.methods.registry import Selections
from aeplus.models.checks import check_model, check_tokenizer
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot, kept_modes
from aeplus.module import EditModule
from aeplus.preserved.statistics import PreservedOptions
from aeplus.run.report import environment
from aeplus.run.session import EditSession
from aeplus.targets.optimizer import TargetOptions
from aeplus.trainer import alone_in_cluster, interruptible, quiet_lightning
from aeplus.utils.paths import expanded
from aeplus.utils.signals import uninterrupted
from aeplus.utils.tables import counted


def edit(
    model: Any,
    tokenizer: Any,
    edits: Sequence[Mapping[str, Any]],
    method: str | Method = "alphaedit_plus",
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 10,
    seed: int = 0,
    selection: Selections | None = None,
    edited_dtype: Literal["same", "float32"] = "same",
    site: str | None = None,
    callbacks: Sequence[Callback] = (),
    journal: str | Path | None = None,
    preserve: Sequence[Mapping[str, Any]] = (),
    **options: Unpack[EditOptions],
) -> EditResult:
    """Edits a loaded model in place.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer (a fast one).
        edits: Records as in the plain JSON Lines: ``prompt`` with ``{}``, ``subject``, ``target_new``, and
            optionally ``rephrase`` and ``neighborhood``.
        method: A named method, one's own from a YAML file (its path), or a composition as an object.
        layers: Layers to edit; by default five from an eighth of the depth on.
        batch_size: Edits in a sequential batch.
        seed: Seed of the contexts and the validation set.
        selection: Which candidate a method that smooths commits: ``best``, ``converge`` or ``highest``; by default the
            method's. What else a :class:`~aeplus.callbacks.SmoothingStop` sets, by one among ``callbacks``.
        edited_dtype: ``float32`` keeps the edited weights of a model in half precision in float32 from now on: small
            updates are otherwise rounded away.
        site: The module to edit where inspection does not find it, or a mixture of experts leaves a choice, such as
            ``model.layers.{}.mlp.shared_expert.down_proj`` with ``{}`` in place of the layer's number.
        callbacks: Further callbacks.
        journal: Folder of a journal, which every batch is written to as soon as it is committed; see
            :class:`~aeplus.journal.Journal`. If it has one, its edits are put into the model first, which must be the
            unedited one, and these come after them. If something is raised, the call's batches are taken out of it
            again, as out of the model; only a process that is killed leaves them, for the next call to go on from.
        preserve: Facts that must survive, as records like those of ``edits`` (``target_new`` is the present answer).
            Their keys count as preserved knowledge, each with the weight ``facts_weight``. ``facts`` names a file of
            such facts; those of ``validation_facts`` only score Specificity on the validation set.
        **options: See :class:`EditOptions`.

    Returns:
        Metrics, updates and the way back.

    Raises:
        InputError: If something cannot be used. Whatever is raised, the model is then as it was before the call, and
            so are the edits that the journal counts.
    """
    began = time.perf_counter()
    check_call(model, tokenizer, edits, method, layers, site, callbacks, journal, preserve)
    check_model(model)
    check_tokenizer(tokenizer, model)
    decoder = Decoder(model, site)
    known = [site.layer for site in decoder.sites]
    first = len(known) // 8
    chosen = [int(layer) for layer in layers] if layers is not None else known[first : first + 5]
    sites = decoder.select(chosen)
    numbers = called_once({name: plain(value) for name, value in options.items()}, protected=bool(preserve))
    seed, batch_size = plain(seed), plain(batch_size)
    method_options, target_options, preserved_options, data_options = sorted_options(
        numbers, signature(edit).parameters
    )
    if journal is not None:
        journal = expanded(journal).absolute()  # the caller may go to another folder before the edits are undone
        if standing := STANDING.get(model):  # the model of its header could not be loaded again
            msg = (
                "expected the unedited model with a journal, got one with the edits of "
                f"{counted(len(standing), 'call')}; undo them first, or load the model again."
            )
            raise InputError(msg)
    module = EditModule(
        model=str(getattr(model, "name_or_path", "") or "model"),
        layers=chosen,
        method=method_with(method, method_options, selection),  # which a SmoothingStop of the caller's follows
        targets=TargetOptions(**target_options),
        preserved=PreservedOptions(**preserved_options),
        edited_dtype=edited_dtype,
        seed=seed,
        site=site,
        journal=None if journal is None else str(journal),
    ).attach(model, tokenizer, preserve=requests_from_records(list(preserve), "preserve"))
    data = EditDataModule(batch_size=batch_size, seed=seed, **data_options).attach(
        requests_from_records(
            list(edits),
            join=data_options.get("join", "auto"),
            skip_unusable=data_options.get("skip_unusable", False),
        )
    )
    stops = [callback for callback in callbacks if isinstance(callback, SmoothingStop)]
    if selection is not None and any(stop.selection not in (None, selection) for stop in stops):
        msg = f"expected one selection, got {selection} and that of a SmoothingStop; set it in one place."
        raise InputError(msg)
    if not stops:
        callbacks = [SmoothingStop(selection=selection), *callbacks]
    with alone(model):
        before, result = Snapshot(sites), None
        try:
            _run(module, data, model, decoder.device, callbacks)
            module.session.report.seconds["total"] = time.perf_counter() - began
            result = _result(module.session, before, model, journal)
            module.session.release()
            with uninterrupted():
                result._standing.append(result._mark)
        except BaseException:
            with uninterrupted():
                before.restore()
                module.forget()
                if result is not None and result._mark in result._standing:
                    result._standing.remove(result._mark)
            raise
    return result


def _result(session: EditSession, before: Snapshot, model: Any, journal: Path | None) -> EditResult:
    updates = [entry.updates for entry in session.entries[session.resumed :]]
    written = None if journal is None else (journal, list(session.recording.numbers))
    standing = STANDING.setdefault(model, [])
    session.report.environment = environment(session.decoder.device)
    return EditResult(session.report.as_dict(), updates, before, standing, _model=ref(model), _journal=written)


def _run(
    module: EditModule, data: EditDataModule, model: Any, device: torch.device, callbacks: Sequence[Callback]
) -> None:
    """Edits the stream and leaves everything but the weights as it was.

    It computes in the model's own precision, whatever ``torch.autocast`` surrounds it.
    """
    handler = signal.getsignal(signal.SIGINT)
    generators = [device] if device.type == "cuda" else []
    rank = cast(Any, rank_zero_only).rank  # which alone_in_cluster sets
    try:
        with (
            kept_modes(model),
            torch.enable_grad(),  # which Lightning switches on and leaves
            torch.autocast(device.type, enabled=False),
            torch.autocast("cpu", enabled=False),
            quiet_lightning(),
            torch.random.fork_rng(generators),  # data loaders draw a seed
        ):
            trainer = _trainer(device, callbacks)
            with interruptible(trainer):  # an exit would end the caller
                trainer.fit(module, data)
            if not data.exhausted:
                msg = (
                    f"expected to reach the end of the {len(data.requests)} edits, got {data.cursor}, as a callback "
                    "ended the run; leave it out, or give fewer edits."
                )
                raise InputError(msg)
            module.session.finish()
    finally:
        cast(Any, rank_zero_only).rank = rank
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _trainer(device: torch.device, callbacks: Sequence[Callback]) -> Trainer:
    return Trainer(
        accelerator={"cuda": "gpu", "mps": "mps"}.get(device.type, "cpu"),
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_epochs=-1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        callbacks=list(callbacks),
        plugins=alone_in_cluster(),
    )
