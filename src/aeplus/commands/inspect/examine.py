"""Examines a stream of edits before editing; all of it on the unedited model.

Only prompt, subject and target of an edit are used. The model changes as the stream is edited: keys of the upper edited
layers, ‖r‖ and the answers of later batches will have changed by the time they are edited.

Notation: ``n`` edits, ``d`` inputs of a layer, ``l`` edited layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aeplus.commands.inspect.findings import Finding, clashes, token_notes
from aeplus.commands.stream_keys import read_keys, read_residuals, stream_rows
from aeplus.edits import EditRequest, rewordings
from aeplus.functional import nearest, null_share
from aeplus.methods.layer_targets import residual_threshold
from aeplus.methods.method import Method
from aeplus.methods.parts import PRIORS, null_space
from aeplus.models.generate import generate
from aeplus.models.tokens import readable
from aeplus.preserved.collection import collect_excerpts
from aeplus.preserved.facts import statement_keys, with_excerpts
from aeplus.run.editable import EditableModel
from aeplus.targets.rows import BatchRows
from aeplus.utils.progress import Progress

_PROMPTS = 64  # between two steps of the progress bar


def examine(
    model: EditableModel,
    requests: Sequence[EditRequest],
    batch_size: int,
    progress: Progress,
    *,
    targets: bool = True,
    length: int = 6,
) -> list[Finding]:
    """Examines a stream of edits; the weights are not changed.

    Args:
        model: The unedited model, which is not changed.
        requests: The stream; whatever tests an edit is dropped before anything else.
        batch_size: Edits in a sequential batch.
        progress: Where progress is shown.
        targets: Whether to optimize targets, for ‖r‖; this takes longest. A method without targets has none.
        length: New tokens in the model's current answer.

    Raises:
        InputError: If the model, its layers, a prompt or the corpus cannot be used.
    """
    decoder, tokenizer, sites = model.decoder, model.tokenizer, model.sites
    method, options = model.method, model.target_options
    requests = [request.without_tests() for request in requests]
    notes, same = token_notes(tokenizer, requests), clashes(requests, batch_size)
    maybe = rewordings(requests, batch_size) if PRIORS[method.prior].run.by_fact else [[] for _ in requests]
    contexts = model.contexts()
    batches = stream_rows(decoder, tokenizer, requests, contexts, batch_size)
    bare = [row for rows in batches for row in rows.prompts[:: rows.contexts]]
    shared = _one_key(batches)
    preserved = collect_excerpts(decoder, tokenizer, sites, model.preserved, progress)
    if facts := model.statements():
        named = statement_keys(decoder, tokenizer, sites, facts, contexts)
        preserved = with_excerpts(preserved, named, facts, contexts)
    keys = read_keys(decoder, sites, batches, progress)
    free = _free(model, keys, contexts)
    norms, lengths = None, None
    if targets and method.closed_form:
        found = read_residuals(decoder, batches, sites[-1].layer, options, progress, anchor=True)
        norms = [norm for norm, _ in found]
        known = [length for _, length in found if length is not None]
        lengths = torch.cat(known).tolist() if known else None
    answers = _answers(model, requests, length, progress)
    smoothed = None if norms is None else _smoothed(method, norms)
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
            free=None if free is None else free[i],
            conflicting=None if free is None else free[i] < method.aligned_share,
            nearest_K0=preserved.texts[with_preserved.index[i]],
            s_Kp=with_prior.s[i],
            nearest_Kp=with_prior.number(i),
            s_batch=with_batch.s[i],
            nearest_batch=with_batch.number(i),
            residual=None if residuals is None else residuals[i],
            length=None if lengths is None else lengths[i],
            smoothed=None if smoothed is None else smoothed[i],
            answer=answers[i],
            contradictions=same[i][0],
            doubles=same[i][1],
            notes=notes[i],
            one_key=shared[i],
            one_subject=[place + 1 for place in maybe[i]],
            layers={"s_K0": with_preserved.layers[i], "s_Kp": with_prior.layers[i], "s_batch": with_batch.layers[i]},
            tokens=readable(tokenizer, bare[i].ids),
            subject_token=bare[i].mark,
            target_token=bare[i].answer,
        )
        for i, request in enumerate(requests)
    ]


@dataclass(frozen=True)
class _Closest:
    """For each edit, the most similar other: the mean s over the layers, its index where s is largest, every s."""

    s: list[float]
    index: list[int]
    layers: list[list[float]]

    @classmethod
    def of(cls, layers: Sequence[tuple[Tensor, Tensor]]) -> "_Closest":
        """From s and indices of each layer, ``[n]`` each."""
        s, indices = (torch.stack(list(part)) for part in zip(*layers, strict=True))  # [l, n]
        index = indices.gather(0, s.argmax(0, keepdim=True))[0]
        return cls(s.mean(0).tolist(), index.tolist(), s.T.tolist())

    def number(self, edit: int) -> int | None:
        """The number, from 1, of an edit's most similar other; ``None`` if there is no other."""
        return self.index[edit] + 1 if self.index[edit] >= 0 else None


def _among_batches(keys: Tensor, size: int, *, inside: bool) -> tuple[Tensor, Tensor]:
    """The most similar edit of previous batches (or of its own) for each edit ``[d, n]``: s and indices ``[n]``."""
    parts = []
    for start in range(0, keys.shape[1], size):
        own = keys[:, start : start + size]
        s, index = nearest(own, own, own=True) if inside else nearest(own, keys[:, :start])
        parts.append((s, index + start * (index >= 0) if inside else index))
    s, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return s, index


def _free(model: EditableModel, keys: Sequence[Tensor], contexts: Sequence[str]) -> list[float] | None:
    """‖P k‖ / ‖k‖ of each edit, the mean over the layers; ``None`` where the method has no null space."""
    method = model.method
    if not method.has_null_space:
        return None
    shares = []
    for statistics, own in zip(model.load_statistics(contexts), keys, strict=True):
        moved = statistics.to(own.device, own.dtype)
        shares.append(null_share(own, moved.spectrum, null_space(method, moved.spectrum)).cpu())
    return torch.stack(shares).mean(0).tolist()


def _one_key(batches: Sequence[BatchRows]) -> list[list[int]]:
    """For each edit the numbers, from 1, of the others of its batch that have the same key."""
    found: list[list[int]] = []
    for rows in batches:
        groups, start = rows.groups, len(found) + 1
        found += [[start + j for j, g in enumerate(groups) if g == own and j != i] for i, own in enumerate(groups)]
    return found


def _smoothed(method: Method, norms: Sequence[Tensor]) -> list[bool]:
    """Which edits are above their batch's ``τ_r``; none if the method does not smooth."""
    above = [method.smooth & (part > residual_threshold(part, method)) for part in norms]
    return [bool(value) for value in torch.cat(above).tolist()]


def _answers(model: EditableModel, requests: Sequence[EditRequest], length: int, progress: Progress) -> list[str]:
    answers = []
    with progress.task("answers", len(requests)) as advance:
        for start in range(0, len(requests), _PROMPTS):
            part = requests[start : start + _PROMPTS]
            prompts, joins = [request.question for request in part], [request.join for request in part]
            answers += generate(model.decoder, model.tokenizer, prompts, length, joins=joins)
            advance(len(part))
    return answers
