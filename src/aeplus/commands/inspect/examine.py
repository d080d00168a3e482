"""Looking at a stream of edits before any of them is made; all of it on the unedited model.

Only prompt, subject and target of an edit are used. The model changes as the stream is edited: keys of the upper edited
layers, ‖r‖ and the answers of later batches will have moved by the time they are edited.

Notation: ``n`` edits, ``d`` inputs of a layer, ``l`` edited layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aeplus.commands.inspect.findings import Finding, clashes, token_notes
from aeplus.edits import EditRequest
from aeplus.functional import nearest
from aeplus.methods.closed_form import residual_threshold
from aeplus.models.decoder import Decoder, Snapshot
from aeplus.models.generate import generate
from aeplus.module import EditModule
from aeplus.preserved.statistics import collect_excerpts
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import find_targets
from aeplus.targets.rows import BatchRows, batch_rows, sample_contexts
from aeplus.utils.progress import Progress

_ASKED = 64  # prompts between two steps of the bar


def examine(
    module: EditModule,
    requests: Sequence[EditRequest],
    batch_size: int,
    progress: Progress,
    *,
    targets: bool = True,
    length: int = 6,
) -> list[Finding]:
    """Looks at a stream of edits; the weights are afterwards as before.

    Args:
        module: The run's settings, with the language model attached.
        requests: The stream; whatever could test an edit is dropped before anything else.
        batch_size: Edits in a sequential batch.
        progress: Where to show how far it is.
        targets: Whether to learn targets, for ‖r‖; this takes longest. A method without targets has none.
        length: New tokens in what the model answers now.

    Raises:
        InputError: If the model, its layers, a prompt or the corpus cannot be used.
    """
    requests = [request.without_tests() for request in requests]
    notes, same = token_notes(module.tokenizer, requests), clashes(requests, batch_size)
    with Snapshot(Decoder(module.language_model).select(module.layers)):  # configure_model may widen the weights
        module.configure_model()
        batches = _Batches(module, requests, batch_size)
        preserved = collect_excerpts(module.decoder, module.tokenizer, module.sites, module.preserved, progress)
        keys = batches.keys(progress)
        norms = batches.residuals(progress) if targets and module.method.update == "closed_form" else None
        answers = _answers(module, requests, length, progress)
    smoothed = None if norms is None else _smoothed(module, norms)
    residuals = None if norms is None else torch.cat(norms).tolist()
    with_preserved = _Closest.of([nearest(k, others) for k, others in zip(keys, preserved.keys, strict=True)])
    with_prior = _Closest.of([_among_batches(k, batch_size, inside=False) for k in keys])
    with_batch = _Closest.of([_among_batches(k, batch_size, inside=True) for k in keys])
    return [
        Finding(
            edit=i + 1,
            id=request.id,
            batch=i // batch_size + 1,
            prompt=request.question,
            subject=request.subject,
            target=request.target_new,
            s_K0=with_preserved.s[i],
            nearest_K0=preserved.texts[with_preserved.place[i]],
            s_Kp=with_prior.s[i],
            nearest_Kp=with_prior.number(i),
            s_batch=with_batch.s[i],
            nearest_batch=with_batch.number(i),
            residual=None if residuals is None else residuals[i],
            smoothed=None if smoothed is None else smoothed[i],
            answer=answers[i],
            contradictions=same[i][0],
            doubles=same[i][1],
            notes=notes[i],
            layers={"s_K0": with_preserved.layers[i], "s_Kp": with_prior.layers[i], "s_batch": with_batch.layers[i]},
        )
        for i, request in enumerate(requests)
    ]


class _Batches:
    """The stream's batches as ``aeplus fit`` would run them, contexts included."""

    def __init__(self, module: EditModule, requests: Sequence[EditRequest], size: int) -> None:
        self._module, self._requests, options = module, requests, module.target_options
        contexts = sample_contexts(
            module.language_model, module.tokenizer, options.contexts, options.context_length, module.seed
        )
        limit = module.decoder.context_length
        self._rows: list[BatchRows] = [
            batch_rows(module.tokenizer, requests[start : start + size], contexts, limit)
            for start in range(0, len(requests), size)
        ]

    def keys(self, progress: Progress) -> list[Tensor]:
        """The keys of all edits at each edited layer, ``[d, n]``."""
        module = self._module
        read: list[list[Tensor]] = [[] for _ in module.sites]
        with progress.task("keys", len(self._requests)) as advance:
            for rows in self._rows:
                reader = KeyReader(module.decoder, rows, module.sites)
                for found, site in zip(read, module.sites, strict=True):
                    found.append(reader.read(site, site)[0])
                advance(rows.edits)
        return [torch.cat(found, 1) for found in read]

    def residuals(self, progress: Progress) -> list[Tensor]:
        """‖r‖ of each batch's edits at the last edited layer, ``[n]``."""
        module, options = self._module, self._module.target_options
        norms = []
        with progress.task("targets", len(self._requests)) as advance:
            for rows in self._rows:
                found = find_targets(module.decoder, rows, module.sites[-1].layer, options)
                norms.append((found.values - found.initial).norm(dim=0))
                advance(rows.edits)
        return norms


@dataclass(frozen=True)
class _Closest:
    """What each edit is most like: the mean s over the layers, the place at the layer of the largest s, every s."""

    s: list[float]
    place: list[int]
    layers: list[list[float]]

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]]) -> "_Closest":
        """From s and places of each layer, ``[n]`` each."""
        s, places = (torch.stack(list(part)) for part in zip(*layers, strict=True))  # [l, n]
        place = places.gather(0, s.argmax(0, keepdim=True))[0]
        return cls(s.mean(0).tolist(), place.tolist(), s.T.tolist())

    def number(self, edit: int) -> int | None:
        """The place from 1 of what an edit is most like; ``None`` if there is nothing to be like."""
        return self.place[edit] + 1 if self.place[edit] >= 0 else None


def _among_batches(keys: Tensor, size: int, *, inside: bool) -> tuple[Tensor, Tensor]:
    """The edit of earlier batches (or of its own) that each edit ``[d, n]`` is most like: s and places ``[n]``."""
    found = []
    for start in range(0, keys.shape[1], size):
        mine = keys[:, start : start + size]
        s, place = nearest(mine, mine, own=True) if inside else nearest(mine, keys[:, :start])
        found.append((s, place + start * (place >= 0) if inside else place))
    s, place = (torch.cat(part) for part in zip(*found, strict=True))
    return s, place


def _smoothed(module: EditModule, norms: Sequence[Tensor]) -> list[bool]:
    """Which edits are above their batch's ``τ_r``; none if the method does not smooth."""
    above = [module.method.smooth & (part > residual_threshold(part, module.method)) for part in norms]
    return [bool(value) for value in torch.cat(above).tolist()]


def _answers(module: EditModule, requests: Sequence[EditRequest], length: int, progress: Progress) -> list[str]:
    answers = []
    with progress.task("answers", len(requests)) as advance:
        for start in range(0, len(requests), _ASKED):
            part = [request.question for request in requests[start : start + _ASKED]]
            answers += generate(module.decoder, module.tokenizer, part, length)
            advance(len(part))
    return answers
