"""The keys of earlier edits of one layer, and what is kept up to date of them so that no batch reads them all anew."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Self, TypeVar, overload

import torch
from torch import Tensor

from aeplus import functional as fn

T = TypeVar("T")

_CAST = 1024  # columns cast at a time
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
        self._nearest: tuple[Tensor, torch.dtype | None, Tensor, Tensor] | None = None
        self._kept_for: tuple[Tensor, Tensor] | None = None  # eigenvectors and filter of the products of keys
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

    def forget(self) -> None:
        """Lets go of everything but the keys."""
        self._folds.clear()
        self._nearest = self._kept_for = None

    def moment(self, dtype: torch.dtype) -> Tensor:
        """``Kp Kpᵀ``, ``[d, d]``, in a dtype; not to be written to."""
        self._folds.pop("gram", None)  # whoever asks for this needs no products of keys anymore
        d = self._blocks[0].shape[0]
        return self.fold(("moment", dtype), lambda: torch.zeros(d, d, dtype=dtype, device=self.device), fn.add_moment)

    def gram(self, spectrum: fn.Spectrum, filter: Tensor) -> Tensor:  # noqa: A002
        """``Kpᵀ U diag(f) Uᵀ Kp``, ``[m, m]``, in the dtype of the filter; not to be written to.

        Kept for one spectrum and filter: of others it is computed anew.
        """

        def step(state: tuple[Tensor, int], keys: Tensor) -> tuple[Tensor, int]:
            products, done = state
            count = done + keys.shape[1]
            if count > len(products):
                products = products.new_zeros(count + count // 4, count + count // 4)
                products[:done, :done] = state[0][:done, :done]
            left = fn.filtered(keys.to(filter.dtype), spectrum, filter).T
            rows, start = products[done:count, :count], 0
            for block in self._pieces(count):
                torch.matmul(left, block.to(filter.dtype), out=rows[:, start : start + block.shape[1]])
                start += block.shape[1]
            products[:done, done:count] = rows[:, :done].T
            return products, count

        kept = self._kept_for
        if kept is None or kept[0] is not spectrum.vectors or not torch.equal(kept[1], filter):
            self._folds.pop("gram", None)
            self._kept_for = spectrum.vectors, filter
        products, count = self.fold("gram", lambda: (filter.new_zeros(0, 0), 0), step)
        return products[:count, :count]

    def _pieces(self, count: int) -> Iterator[Tensor]:
        """The first keys, so many, in order, some at a time."""
        for block in self.blocks():
            yield from block[:, : max(0, count)].split(_CAST, 1)
            count -= block.shape[1]
            if count <= 0:
                return

    def factor(self, dtype: torch.dtype) -> Tensor:
        """``d`` columns or fewer with the moment ``Kp Kpᵀ``, ``[d, r]``, by QR decompositions: nothing is squared."""
        d = self._blocks[0].shape[0]

        def step(columns: Tensor, keys: Tensor) -> Tensor:
            return torch.linalg.qr(torch.cat([columns, keys.to(dtype)], 1).T, mode="r").R.T

        return self.fold(("factor", dtype), lambda: torch.zeros(d, 0, dtype=dtype, device=self.device), step)

    def nearest(self, keys: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """The largest |cosine| of each new key with an earlier one, and of each earlier key with a new one (Eq. 3).

        In one pass over the earlier keys; the last answer is remembered, as all candidates of a batch have the same
        keys at the first layer, and reports ask again.

        Args:
            keys: New keys, ``[d, n]``.
            dtype: What to compute in; by default that of the earlier keys.

        Returns:
            ``s(k, Kp) [n]`` and ``s(kp, K1) [m]``, between 0 and 1.
        """
        known = self._nearest
        same = known is not None and known[1] == dtype and len(known[3]) == self.columns
        if known is None or not same or not torch.equal(known[0], keys):
            blocks = self.blocks() if dtype is None else (piece.to(dtype) for piece in self._pieces(self.columns))
            ours, theirs = fn.mutual_conflict(keys if dtype is None else keys.to(dtype), blocks)
            known = self._nearest = keys.clone(), dtype, ours, theirs
        return known[2], known[3]
