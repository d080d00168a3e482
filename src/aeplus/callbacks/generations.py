"""What the model says, before and after, side by side."""

from typing import TYPE_CHECKING, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from aeplus.edits import latest_edits
from aeplus.models.generate import generate
from aeplus.run.hooks import BatchCommit, EditCallback

if TYPE_CHECKING:
    from aeplus.module import EditModule


class GenerationWriter(EditCallback):
    """Shows greedy continuations of some edit prompts before and after, in the terminal and as text in TensorBoard.

    Args:
        count: How many edits to show, spread over the stream.
        length: New tokens per generation.
        every: Log the generations after every so many batches too; 0 for the start and the end only.
        table: Whether to print the table at the end.
    """

    def __init__(self, count: int = 5, length: int = 12, every: int = 0, table: bool = True) -> None:
        self.count, self.length, self.every, self.table = count, length, every, table
        self._prompts: list[str] = []
        self._before: list[str] = []

    def on_unedited_model(self, trainer: Trainer, module: "EditModule") -> None:
        """Asks the unedited model."""
        edits = latest_edits(module.data.requests)
        chosen = [edits[i * len(edits) // self.count] for i in range(self.count)] if len(edits) > self.count else edits
        self._prompts = [edit.question for edit in chosen]
        self._wanted = [edit.target_new for edit in chosen]
        self._before = generate(module.decoder, module.tokenizer, self._prompts, self.length)

    def on_batch_committed(self, trainer: Trainer, module: "EditModule", commit: BatchCommit) -> None:
        """Logs the generations as text."""
        if self.every and (commit.index + 1) % self.every == 0:
            now = generate(module.decoder, module.tokenizer, self._prompts, self.length)
            self._log(trainer, now, commit.index + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and logs before and after."""
        module = cast("EditModule", pl_module)
        after = generate(module.decoder, module.tokenizer, self._prompts, self.length)
        self._log(trainer, after, len(module.journal.entries))
        if self.table:
            table = Table("Prompt", "Wanted", "Before", "After", title="Generations", title_justify="left")
            for row in zip(self._prompts, self._wanted, self._before, after, strict=True):
                table.add_row(*(text.replace("\n", " ") for text in row))
            Console().print(table)

    def _log(self, trainer: Trainer, now: list[str], step: int) -> None:
        rows = zip(self._prompts, self._wanted, self._before, now, strict=True)
        cells = ["| " + " | ".join(t.replace("\n", " ").replace("|", "/") for t in row) + " |" for row in rows]
        text = "\n".join(["| prompt | wanted | before | now |", "| --- | --- | --- | --- |", *cells])
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("generations", text, step)
