"""Processes that work on one run together: who does what, and what all of them know.

Each has a copy of the model, and work is divided; or each has a part of every layer, and all run the model together.
"""

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
        sharded: Whether the model is sharded among them, so that no one can run it without the others.
    """

    def __init__(self, number: int = 0, count: int = 1, *, sharded: bool = False) -> None:
        self.number, self.count, self.sharded = number, count, sharded

    @classmethod
    def of_group(cls, *, sharded: bool = False) -> Self:
        """All processes of torch's default group, which has been set up."""
        return cls(distributed.get_rank(), distributed.get_world_size(), sharded=sharded)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.number == 0

    @property
    def divides(self) -> bool:
        """Whether work that runs the model is divided; otherwise every process does all of it."""
        return not self.alone and not self.sharded

    def takes(self, part: int) -> bool:
        """Whether this process runs the model on a part of some work, by the part's number."""
        return not self.divides or part % self.count == self.number

    def together(self, value: T) -> T:
        """What process 0 has found by running a sharded model, so that all go on alike; else each process's own."""
        return self.first(value) if self.sharded else value

    def split(
        self, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], *, runs_model: bool = True
    ) -> list[R]:
        """Has every process work on a share of some items, or on all together where a sharded model is run.

        Args:
            items: The same on every process; every ``count``-th is a process's own. Neighbors should be alike in size.
            work: Makes a result of each item of a share, which may be empty. Results are pickled; tensors among them
                should lie on the CPU.
            runs_model: Whether the work runs the model.

        Returns:
            The results of all items, in their order.
        """
        if self.alone:
            return list(work(items))
        if self.sharded and runs_model:
            return self.first(list(work(items)))
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
        """The sum of what all processes have made of the parts that they took (:meth:`takes`), in place."""
        if self.divides:
            distributed.all_reduce(tensor)
        return tensor
