"""Processes that work on one run together, each with a copy of the model: who does what, and what all of them know."""

from collections.abc import Callable, Sequence
from typing import Self, TypeVar, cast

import torch
from torch import Tensor, distributed

T = TypeVar("T")
R = TypeVar("R")


class Ranks:
    """This process among those that share its work; by default there is no other, and nothing is exchanged.

    Every method is called by all of them, in the same order.

    Args:
        number: The number of this process, from 0.
        count: How many there are.
    """

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count

    @classmethod
    def of_group(cls) -> Self:
        """All processes of torch's default group, which has been set up."""
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.number == 0

    def split(self, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
        """Has every process work on a share of some items.

        Args:
            items: The same on every process; every ``count``-th is a process's own. Neighbors should be alike in size.
            work: Makes a result of each item of a share, which may be empty. Results are pickled; tensors among them
                should lie on the CPU.

        Returns:
            The results of all items, in their order.
        """
        if self.alone:
            return list(work(items))
        results: list[R | None] = [None] * len(items)
        for number, part in enumerate(self.gathered(list(work(items[self.number :: self.count])))):
            results[number :: self.count] = part
        return cast("list[R]", results)

    def gathered(self, value: T) -> list[T]:
        """What every process has, by its number."""
        if self.alone:
            return [value]
        values: list[T | None] = [None] * self.count
        distributed.all_gather_object(values, value)
        return cast("list[T]", values)

    def first(self, value: T) -> T:
        """What process 0 has, on every process; it is pickled."""
        if self.alone:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def first_tensor(self, tensor: Tensor) -> Tensor:
        """The tensor that process 0 has, on every process, where its own is."""
        if self.alone:
            return tensor
        shape, dtype = self.first((tensor.shape, tensor.dtype))
        sent = tensor.contiguous() if self.leads else torch.empty(shape, dtype=dtype, device=tensor.device)
        distributed.broadcast(sent.view(torch.uint8) if dtype == torch.bool else sent, src=0)
        return sent

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place."""
        if not self.alone:
            distributed.all_reduce(tensor)
        return tensor
