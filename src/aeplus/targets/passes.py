"""The passes of a gradient step: what each bundle of rows adds to the edits' losses and to their gradient.

On a GPU a pass over the short rows of edits is thousands of launches, which take longer than their arithmetic. With
``targets.graphs`` a pass is recorded there as a CUDA graph
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs) and replayed until rows leave its bundle.

Notation: ``n`` targets, ``o`` hidden size.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aeplus.models.costs import POSITIONS
from aeplus.models.decoder import Decoder, at_least_float32
from aeplus.models.kernels import Fused
from aeplus.models.placing import devices_of
from aeplus.targets.packing import TargetPart, bundle_parts

_WORTH = 2  # runs that a recording must serve: to record costs the launches of one

_FAILED: dict[torch.device, str] = {}
"""Where recording has failed, and why: the process's allocator is then not as it was, so it is not tried again."""

Found = tuple[Tensor, Tensor, Tensor]
"""Terms of the loss and tokens not on top, ``[n]`` each, and the gradient ``[n, o]``."""
Pass = Callable[[], Found]


class Recorder(Protocol):
    """What records passes, to be replayed."""

    def first(self, run: Pass) -> Found:
        """Runs a pass as usual, before the first is recorded: libraries set up things, and kernels are compiled."""

    def record(self, run: Pass) -> Pass:
        """What replays a pass.

        Raises:
            RuntimeError: If it cannot be recorded, such as one that waits for the device.
        """


class Passes:
    """Runs the bundles of some parts, one after the other.

    Args:
        decoder: The model.
        delta: δ ``[n, o]``, a leaf that is changed in place only.
        kl_factor: Weight of the KL term.
        tokens: How many tokens a bundle may have.
        fused: What runs as one kernel in the layers that are run.
        plain: Whether the layers are copies in bfloat16 on a CPU, where fused attention is slow on the way back.
        record: What records passes, if they are to be; from :func:`recorder`.
    """

    def __init__(
        self,
        decoder: Decoder,
        delta: Tensor,
        kl_factor: float,
        tokens: int,
        fused: Fused,
        *,
        plain: bool = False,
        record: Recorder | None = None,
    ) -> None:
        self._decoder, self._delta, self._kl_factor, self._tokens = decoder, delta, kl_factor, tokens
        self._fused, self._plain, self._record = fused, plain, record
        self._bundles: list[list[TargetPart]] = []
        # With its parts, whose memory a recording reads, and whose names are theirs only while they are there.
        self._recorded: dict[tuple[int, ...], tuple[list[TargetPart], Pass]] = {}

    def take(self, parts: Sequence[TargetPart]) -> None:
        """From now on runs these parts; what has been recorded of bundles that stay is kept."""
        self._bundles = bundle_parts(parts, self._tokens)
        stay = {_name(bundle) for bundle in self._bundles}
        self._recorded = {name: kept for name, kept in self._recorded.items() if name in stay}

    def run(self, runs_left: int) -> tuple[Tensor, Tensor]:
        """Every target's loss without its decay, and how many of its tokens are not on top, ``[n]`` each.

        The gradient is added to that of δ.

        Args:
            runs_left: How often the parts can be run still, this time included; 0 asks for no gradient.
        """
        loss = self._delta.new_zeros(len(self._delta))
        misses = torch.zeros_like(loss, dtype=torch.long)
        for bundle in self._bundles:
            terms, missed, gradient = self._once(bundle, runs_left)
            loss, misses = loss + terms, misses + missed
            if gradient is not None:
                self._delta.grad = gradient if self._delta.grad is None else self._delta.grad + gradient
        return loss, misses

    def _once(self, bundle: list[TargetPart], runs_left: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if not runs_left:
            with torch.no_grad(), self._fused.applied():
                return _loss(self._decoder, bundle, self._delta, self._kl_factor)
        name = _name(bundle)
        if self._record is not None and name not in self._recorded and runs_left >= _WORTH:
            # Libraries keep what they set up for each thread.
            setting = threading.get_ident(), self._delta.device, bundle[0].replay.dtype
            known = self._decoder.tried.recorded
            if setting not in known:
                found = self._record.first(lambda: self._there_and_back(bundle))
                known.add(setting)
                return found
            try:
                self._recorded[name] = bundle, self._record.record(lambda: self._there_and_back(bundle))
            except RuntimeError as error:
                reason = str(error.__context__ or error).splitlines()[0]  # to end a recording that failed fails too
                warnings.warn(f"targets are learned without CUDA graphs, as recording failed: {reason}", stacklevel=2)
                self._record, _FAILED[self._delta.device] = None, reason
                self._recorded.clear()  # what draws numbers cannot be replayed any more
        if name in self._recorded:
            return self._recorded[name][1]()
        return self._there_and_back(bundle)

    def _there_and_back(self, bundle: list[TargetPart]) -> Found:
        with torch.enable_grad(), _attention(self._plain), self._fused.applied():
            # A leaf of its own, made on the stream that records, shares δ's memory.
            delta = self._delta.detach().requires_grad_()
            terms, missed, gradient = _loss(self._decoder, bundle, delta, self._kl_factor)
        assert gradient is not None
        return terms, missed, gradient


def recorder(decoder: Decoder, device: torch.device, first: int) -> Recorder | None:
    """What records passes, on one GPU; ``None`` elsewhere, as where processes or devices share the layers.

    Args:
        decoder: The model.
        device: Where δ is.
        first: The first layer that is run.
    """
    if device.type != "cuda" or device in _FAILED or decoder.ranks.sharded:
        return None
    if devices_of([*decoder.layers[first:], *decoder.after], device) != [device]:
        return None
    return CudaGraphs(device)


class CudaGraphs:
    """Records passes on a GPU, all in one pool of memory: they are replayed one after the other.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        torch.cuda.empty_cache()  # the pool is another than that of passes that are not recorded
        self._device, self._stream = device, _stream(device, threading.get_ident())
        self._pool = torch.cuda.graph_pool_handle()
        # All are kept: a pool whose last graph is gone cannot be used again, and one that goes takes the workspace of
        # its stream's matrix products along (https://github.com/pytorch/pytorch/issues/193402).
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def first(self, run: Pass) -> Found:
        """Runs a pass as usual where passes are recorded: libraries have a workspace for each stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = run()
        current.wait_stream(self._stream)
        for tensor in found:
            tensor.record_stream(current)
        torch.cuda.empty_cache()  # what it has used lies idle while the recordings have a pool of their own
        return found

    def record(self, run: Pass) -> Pass:
        """What replays a pass.

        Raises:
            RuntimeError: If it cannot be recorded, such as one that waits for the device.
        """
        graph = torch.cuda.CUDAGraph()
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        generator = torch.cuda.default_generators[index]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            before = generator.clone_state()
            try:
                # By hand: torch.cuda.graph empties the cache of memory each time.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    found = run()
                finally:
                    graph.capture_end()
            except RuntimeError:
                generator.graphsafe_set_state(before)  # it would take itself as recorded for good, and draw nothing
                torch._C._cuda_endAllocateToPool(index, self._pool)  # which a failed end leaves open
                raise
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._graphs.append(graph)

        def replay() -> Found:
            graph.replay()
            return found

        return replay


@functools.cache
def _stream(device: torch.device, thread: int) -> torch.cuda.Stream:
    """Where a thread records a device's passes, alone; it is kept, as matrix products keep a workspace for it."""
    return torch.cuda.Stream(device)


def _name(bundle: list[TargetPart]) -> tuple[int, ...]:
    return tuple(id(part) for part in bundle)


def _attention(plain: bool) -> AbstractContextManager[None]:
    """On a CPU, the backward pass of fused attention takes seventy times as long in bfloat16 as in float32."""
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def _loss(
    decoder: Decoder, parts: list[TargetPart], delta: Tensor, kl_factor: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The terms of every target's loss that some parts hold and how many tokens are not on top, ``[n]`` each.

    Where δ needs one, also the gradient of their sum, ``[n, o]``. Logits, the largest tensors, are there for some
    positions at a time: their gradient is taken at once, and goes on from the states that they are read from.
    """
    answers, essence = [], []
    for part in parts:
        hidden = part.replay.hidden
        subjects = torch.arange(len(hidden), device=hidden.device), part.mark
        moved = hidden[subjects] + delta[part.edit].to(hidden.dtype)
        hidden = hidden.index_put(subjects, moved)
        hidden = part.replay.run(hidden, part.replay.first, len(decoder.layers))
        answers.append(hidden[part.row, part.column])
        essence.append(hidden[part.essence, part.mark[part.essence]])
    target, share, reference = (torch.cat([vars(p)[name] for p in parts]) for name in ("target", "share", "reference"))
    learning, keeping = (torch.cat([p.edit[vars(p)[name]] for p in parts]) for name in ("row", "essence"))
    loss, misses = torch.zeros_like(delta[:, 0]), torch.zeros(len(delta), dtype=torch.long, device=delta.device)
    above: list[Tensor] = []  # gradients of the states

    def learned(logits: Tensor, at: slice) -> Tensor:
        wanted = target[at].to(logits.device)  # the logits stay where the head is
        misses.index_add_(0, learning[at], (logits.argmax(-1) != wanted).to(misses))
        return F.cross_entropy(logits, wanted, reduction="none") * share[at].to(logits)

    def kept(logits: Tensor, at: slice) -> Tensor:
        logp = logits.log_softmax(-1)  # KL(now ‖ before), as in ROME
        return kl_factor * (logp.exp() * (logp - reference[at])).sum(-1)

    states = torch.cat(answers), torch.cat(essence)
    # The divergence keeps nearly twice as much for a position.
    most = POSITIONS, POSITIONS // 2
    for given, edit, judge, few in zip(states, (learning, keeping), (learned, kept), most, strict=True):
        for begin in range(0, len(given), few):
            at = slice(begin, begin + few)
            read = given[at].detach().requires_grad_(given.requires_grad)
            terms = judge(at_least_float32(decoder.logits(read)), at)
            loss = loss.index_add(0, edit[at], terms.detach().to(loss))
            if given.requires_grad:
                above += torch.autograd.grad(terms.sum(), read)
    if not above:
        return loss, misses, None
    (gradient,) = torch.autograd.grad(torch.cat(states), delta, torch.cat(above))
    return loss, misses, gradient
