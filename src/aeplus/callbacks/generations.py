"""What the model generates, before and after, side by side."""

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from aeplus.edits import still_holding
from aeplus.errors import require_count
from aeplus.models.generate import generate, has_room
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, session_of
from aeplus.run.session import EditSession
from aeplus.utils.tables import markdown_table, print_table

_HEADER = ("Prompt", "Target", "Before", "After")


class GenerationWriter(EditCallback):
    """Shows greedy continuations of some edit prompts before and after, in the terminal and as text in TensorBoard.

    Args:
        count: How many edits to show, spread over those of the stream that leave room to generate.
        length: New tokens per generation.
        every: Log the generations after every N batches too; 0 for the start and the end only.
        table: Whether to print the table at the end.
    """

    def __init__(self, count: int = 5, length: int = 12, every: int = 0, table: bool = True) -> None:
        self.count, self.length, self.every, self.table = count, length, every, table
        require_count(count, "GenerationWriter's count")
        require_count(length, "GenerationWriter's length", 1)
        require_count(every, "GenerationWriter's every")
        self._prompts: list[str] = []
        self._joins: list[str] = []
        self._before: list[str] = []
        self._after: list[str] = []

    def on_unedited_model(self, trainer: Trainer, module: EditingModule) -> None:
        """Asks the unedited model."""
        session = module.session
        requests = session.data.requests
        holding = [request for request, holds in zip(requests, still_holding(requests), strict=True) if holds]
        asked = [edit.question for edit in holding], self.length, [edit.join for edit in holding]
        room = has_room(session.decoder, session.tokenizer, *asked)
        edits = [edit for edit, fits in zip(holding, room, strict=True) if fits]
        chosen = [edits[i * len(edits) // self.count] for i in range(self.count)] if len(edits) > self.count else edits
        self._prompts = [edit.question for edit in chosen]
        self._joins = [edit.join for edit in chosen]
        self._targets = [edit.target_new for edit in chosen]
        self._before = self._generate(session)

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Logs the generations as text."""
        if self.every and (commit.index + 1) % self.every == 0:
            self._log(trainer, self._generate(module.session), commit.index + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generates and logs."""
        session = session_of(pl_module)
        self._after = self._generate(session)
        self._log(trainer, self._after, len(session.entries))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prints before and after, now that every callback has saved what it has."""
        if stage == "fit" and self.table and self._after and trainer.is_global_zero:
            rows = zip(self._prompts, self._targets, self._before, self._after, strict=True)
            cells = [[text.replace("\n", " ") for text in row] for row in rows]
            print_table("Generations", _HEADER, cells, left=_HEADER)

    def _generate(self, session: EditSession) -> list[str]:
        return generate(session.decoder, session.tokenizer, self._prompts, self.length, joins=self._joins)

    def _log(self, trainer: Trainer, now: list[str], step: int) -> None:
        rows = zip(self._prompts, self._targets, self._before, now, strict=True)
        text = markdown_table(
            [name.lower() for name in _HEADER[:3]] + ["now"], rows, left=[*map(str.lower, _HEADER), "now"]
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("generations", text, step)
