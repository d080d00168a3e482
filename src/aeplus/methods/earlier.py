"""The keys of earlier edits of one layer, and what is kept up to date of them so that no batch reads them all anew."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Self, TypeVar, overload

import torch
from torch import Tensor

from aeplus import functional as fn

T = TypeVar("T")

_FIRST, _LARGEST = 256, 4096  # columns of a block: blocks grow with what there is, so that little lies empty


class EarlierKeys(Sequence[Tensor]):
    """The keys of earlier batches, ``[d, n]`` each, in the order of the run.

    They lie side by side in a few blocks that are never moved, so a batch's keys, ``earlier[i]``, are a view.

    Args:
        batches: The keys of each batch, ``[d, n]``.
        device: Where to keep them; by default where the first batch's are.
    """

    def __init__(self, batches: Sequence[Tensor] = (), device: torch.device | None = None) -> None:
        self.device = device
        self._blocks: list[Tensor] = []  # [d, capacity] each
        self._used: list[int] = []  # columns of each block that hold keys
        self._views: list[Tensor] = []
        self._folds: dict[Hashable, tuple[int, Any]] = {}
        self._nearest: tuple[Tensor, Tensor, Tensor] | None = None
        for keys in batches:
            self.append(keys)

    @classmethod
    def of(cls, keys: "EarlierKeys | Sequence[Tensor] | Tensor", device: torch.device) -> Self:
        """Keys of earlier edits as this class, on a device: as they are if they fit, or else copied.

        Args:
            keys: Such keys, a list with those of each batch, or one batch's.
            device: Where they are needed.
        """
        if isinstance(keys, cls) and (not len(keys) or keys.device == device):
            return keys
        return cls([keys] if isinstance(keys, Tensor) else list(keys), device)

    @property
    def columns(self) -> int:
        """How many keys there are, ``m``."""
        return sum(self._used)

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        return self._views[index]

    def append(self, keys: Tensor) -> None:
        """Adds a batch's keys, ``[d, n]``; they are copied."""
        self.device = self.device or keys.device
        d, n = keys.shape
        if not self._blocks or self._used[-1] + n > self._blocks[-1].shape[1]:
            width = max(n, min(_LARGEST, max(_FIRST, self.columns)))
            self._blocks.append(torch.empty(d, width, dtype=keys.dtype, device=self.device))
            self._used.append(0)
        view = self._blocks[-1][:, self._used[-1] : self._used[-1] + n]
        view.copy_(keys)
        self._used[-1] += n
        self._views.append(view)

    def blocks(self) -> Iterator[Tensor]:
        """All keys in order, a few thousand at a time, ``[d, m_i]``."""
        for block, used in zip(self._blocks, self._used, strict=True):
            yield block[:, :used]

    def joined(self, like: Tensor) -> Tensor:
        """All keys, ``[d, m]``, where and in the dtype of a weight ``[o, d]``."""
        if not self._views:
            return like.new_zeros(like.shape[1], 0)
        return torch.cat([block.to(like) for block in self.blocks()], 1)

    def fold(self, name: Hashable, start: Callable[[], T], step: Callable[[T, Tensor], T]) -> T:
        """What is left when a function has taken in the keys of each batch, one after another.

        It is remembered by its name, so only batches that have come since are taken in. The order is that of the run:
        a resumed run arrives at the same bits.

        Args:
            name: What it is remembered by.
            start: Makes what there is before the first batch.
            step: From what there is and a batch's keys ``[d, n]`` to what there is then; it may work in place.
        """
        done, state = self._folds.pop(name) if name in self._folds else (0, start())
        for keys in self._views[done:]:  # a step that fails leaves nothing that holds a part of its keys
            state = step(state, keys)
        self._folds[name] = len(self._views), state
        return state

    def moment(self, dtype: torch.dtype) -> Tensor:
        """``Kp Kpᵀ``, ``[d, d]``, in a dtype; not to be written to."""
        d = self._blocks[0].shape[0]
        return self.fold(("moment", dtype), lambda: torch.zeros(d, d, dtype=dtype, device=self.device), fn.add_moment)

    def factor(self, dtype: torch.dtype) -> Tensor:
        """``d`` columns or fewer with the moment ``Kp Kpᵀ``, ``[d, r]``, by QR decompositions: nothing is squared."""
        d = self._blocks[0].shape[0]

        def step(columns: Tensor, keys: Tensor) -> Tensor:
            return torch.linalg.qr(torch.cat([columns, keys.to(dtype)], 1).T, mode="r").R.T

        return self.fold(("factor", dtype), lambda: torch.zeros(d, 0, dtype=dtype, device=self.device), step)

    def nearest(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The largest |cosine| of each new key with an earlier one, and of each earlier key with a new one (Eq. 3).

        In the dtype of the earlier keys, in one pass over them; the last answer is remembered, as all candidates of a
        batch have the same keys at the first layer, and reports ask again.

        Args:
            keys: New keys, ``[d, n]``.

        Returns:
            ``s(k, Kp) [n]`` and ``s(kp, K1) [m]``, between 0 and 1.
        """
        known = self._nearest
        if known is None or len(known[2]) != self.columns or not torch.equal(known[0], keys):
            ours, theirs = fn.mutual_conflict(keys, self.blocks())
            known = self._nearest = keys.clone(), ours, theirs
        return known[1], known[2]
