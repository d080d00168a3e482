"""What a run warns of: settings and edits that may not do what was meant."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from aeplus.edits import EditRequest, rewordings
from aeplus.methods.method import SWITCHES, Method
from aeplus.methods.parts import PRIORS
from aeplus.methods.registry import DEFAULT_METHOD
from aeplus.utils.tables import counted


def departures(method: Method) -> None:
    """Numbers of a named method that are others than it fixes; of its switches :attr:`Method.label` tells."""
    for number, (fixed, present) in method.departures.items():
        if number in SWITCHES:
            continue
        name = f"{method.name} (the default method)" if method.name == DEFAULT_METHOD else method.name
        _warn(
            f"method.{number} is {present}, where {name} fixes {fixed}, and {present} is used; to have {fixed}, "
            "leave it out, or give the method's config last"
        )


def not_smoothed(method: Method) -> None:
    """Batches of one edit, of which no share can be smoothed."""
    if method.smooth and method.smoothing_threshold is None:
        _warn(
            "batches of one edit are not smoothed, as method.smoothing_share takes the largest residuals of a batch; "
            "set method.smoothing_threshold to smooth by a number"
        )


def shared_keys(groups: Sequence[Sequence[int]], requests: Sequence[EditRequest], done: int, *, joint: bool) -> None:
    """Edits of a batch whose keys are one: whatever they are given, they are given together.

    Args:
        groups: The places of such edits in the batch.
        requests: The batch.
        done: The edits of the stream before it.
        joint: Whether they get one target.
    """
    what = "get one joint target" if joint else "get targets that one update cannot all reach"
    for members in groups:
        numbers = ", ".join(str(done + 1 + i) for i in members)
        _warn(f"edits {numbers} have one key ({requests[members[0]].subject!r}, in one batch) and {what}")


def left_behind(folder: Path, edits: int) -> None:
    """Edits that a run committed after the checkpoint that it goes on from."""
    _warn(
        f"the journal {folder} has {counted(edits, 'edit')} of this run behind those of the checkpoint: what is made "
        "now takes their place"
    )


def possible_rewrites(method: Method, requests: Sequence[EditRequest], batch_size: int, done: int) -> None:
    """Edits that a prior by facts (``resolve``) takes for other facts than they may be.

    Args:
        method: The method.
        requests: The edits of the stream.
        batch_size: Edits in a batch.
        done: How many are made already.
    """
    found = rewordings(requests, batch_size, done) if PRIORS[method.prior].run.by_fact else []
    if places := [place for place, earlier in enumerate(found) if earlier]:
        new, old = requests[places[0]], requests[found[places[0]][-1]]
        have = "edits have" if len(places) > 1 else "edit has"
        _warn(
            f"{len(places)} {have} the subject of an edit of an earlier batch, another answer and no 'fact' in common "
            f"(such as {_short(new)} after {_short(old)}): method.prior: {method.prior} takes them for different facts "
            "and keeps the earlier answers; where they ask for one fact, give both the same 'fact'"
        )


def _short(request: EditRequest) -> str:
    return repr(f"{request.question} {request.target_new}"[:80])


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
