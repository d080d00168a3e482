"""A progress bar for long work, which tests and libraries can leave out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Shows nothing. :class:`BarProgress` shows a bar."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Starts work of ``total`` units; the block gets a function that reports units done."""
        yield lambda _: None


class BarProgress(Progress):
    """A tqdm bar on standard error."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows a bar of ``total`` units while the block runs."""
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=name, unit_scale=True, leave=False) as bar:

            def advance(done: int) -> None:
                bar.update(done)

            yield advance
