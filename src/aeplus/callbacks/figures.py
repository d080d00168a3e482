"""Writes ``edits.jsonl``, a record per edit, and the figures of a run."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from aeplus.callbacks.report import run_folder
from aeplus.edits import still_holding
from aeplus.errors import InputError, require_count
from aeplus.evaluation.questions import edit_success
from aeplus.methods.layer_targets import residual_threshold
from aeplus.methods.parts import null_space
from aeplus.models.predict import collect_hidden
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, came_late, goes_on, session_of
from aeplus.run.records import FILE, EditRecord, Success, write_records
from aeplus.run.session import EditSession
from aeplus.utils.cache import save_tensors
from aeplus.utils.jsonl import write_json
from aeplus.utils.paths import check_output


class FigureWriter(EditCallback):
    """Writes ``edits.jsonl``, a line per edit, and figures, to ``figures/`` in the run's folder and to TensorBoard.

    It watches and measures; nothing in the run depends on it. A checkpoint holds the records so far; a run that goes on
    from edits which nobody recorded says so, and leaves them out. What other callbacks measure (capabilities,
    retention) is drawn if they are there too, in whatever order they are listed.

    Args:
        figures: Which figures; see :data:`aeplus.figures.from_run.FIGURES`. By default all whose data there are.
        bins: Bins of the conflict that the score is drawn against.
        every: Draw after every N batches too; 0 for the end only.
        projection: How hidden states come onto a plane: ``pca``, or ``tsne`` (needs scikit-learn).
        hidden_layer: Behind which decoder layer; negative ones count from the end.
        hidden_prompts: How many of the neighborhood and validation prompts, which no edit should change, to take.
        keep_hidden: Whether to write the hidden states themselves too (``figures/hidden.safetensors``), so that
            those of several runs can be drawn in one plane.
    """

    def __init__(
        self,
        figures: list[str] | None = None,
        bins: int = 5,
        every: int = 0,
        projection: Literal["pca", "tsne"] = "pca",
        hidden_layer: int = -1,
        hidden_prompts: int = 200,
        keep_hidden: bool = False,
    ) -> None:
        from aeplus.figures.from_run import check_names

        check_names(figures)
        require_count(bins, "FigureWriter's bins", 1)
        require_count(every, "FigureWriter's every")
        require_count(hidden_prompts, "FigureWriter's hidden_prompts", 2)
        if projection not in ("pca", "tsne"):
            msg = f"expected FigureWriter's projection pca or tsne, got {projection!r}; choose one of these."
            raise InputError(msg)
        self.figures, self.bins, self.every, self.projection = figures, bins, every, projection
        self.hidden_layer, self.hidden_prompts = hidden_layer, hidden_prompts
        self.keep_hidden = keep_hidden
        self._clear()

    def _clear(self) -> None:
        self._records: list[EditRecord] = []
        self._added: dict[int, Counter[int]] = {}  # by layer, how many batches added each eigenvector
        self._before: list[Success] = []
        self._prompts: list[str] = []
        self._hidden: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets a previous run, and makes sure that nothing of the user's is in the way."""
        if not goes_on(pl_module):
            self._clear()
        folder = run_folder(trainer)
        if stage == "fit" and trainer.is_global_zero:
            check_output(folder / FILE, "the run")

    def on_unedited_model(self, trainer: Trainer, module: EditingModule) -> None:
        """Measures each edit and reads hidden states."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        session = module.session
        if missing := session.data.cursor - len(self._records):
            warnings.warn(
                f"nothing is recorded of {missing} of the {session.data.cursor} edits that the run goes on from, as "
                f"they were made without FigureWriter or come from a journal; {FILE} and the figures leave them out",
                stacklevel=2,
            )
        self._before = self._success(session)
        if self._wanted("hidden"):
            self._prompts = _unrelated(session, self.hidden_prompts)
            if not -len(session.decoder.layers) <= self.hidden_layer < len(session.decoder.layers):
                msg = (
                    "expected FigureWriter's hidden_layer to be one of the model's "
                    f"{len(session.decoder.layers)} layers, got {self.hidden_layer}; -1 is the last."
                )
                raise InputError(msg)
            self._hidden = self._states(session)

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Keeps the batch's records."""
        if not self._before:
            return
        session = module.session
        layers = [edit.report for edit in commit.candidate.layers]
        for report in layers:
            if report.added is not None:
                places = report.added.nonzero().flatten().tolist()
                self._added.setdefault(report.layer, Counter()).update(places)
        norms = torch.tensor(commit.residual_norms, dtype=torch.float64)
        learned = session.method.closed_form
        above = norms > residual_threshold(norms, session.method)
        columns = zip(
            commit.requests,
            torch.stack([report.preserved.cpu() for report in layers]).mean(0).tolist(),
            torch.stack([report.prior.cpu() for report in layers]).mean(0).tolist(),
            commit.residual_norms,
            (above & (learned and session.method.smooth)).tolist(),
            strict=True,
        )
        first = session.data.cursor - len(commit.requests)
        for index, (request, preserved, prior, norm, smoothed) in enumerate(columns, start=first):
            self._records.append(
                EditRecord(
                    edit=index + 1,
                    id=request.id,
                    batch=commit.index + 1,
                    prompt=request.question,
                    subject=request.subject,
                    target=request.target_new,
                    s_K0=preserved,
                    s_Kp=prior,
                    residual=norm if learned else None,
                    smoothed=smoothed,
                    before=self._before[index],
                )
            )
        if self.every and (commit.index + 1) % self.every == 0:
            self._write(trainer, session)
            self._draw(trainer, commit.index + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures each edit again and writes the records."""
        if not self._before:
            came_late(self, "records nothing")
            return
        session = session_of(pl_module)
        after, holding = self._success(session), still_holding(session.data.edited)
        for record in self._records:
            record.after = after[record.edit - 1]
            record.superseded = not holding[record.edit - 1]
        folder = run_folder(trainer) if trainer.is_global_zero else None
        self._write(trainer, session, hidden=None if self._hidden is None else self._projected(session, folder))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draws, now that every callback has written what it measured."""
        if stage == "fit" and self._records:
            self._draw(trainer, len(session_of(pl_module).entries))

    def state_dict(self) -> dict[str, Any]:
        """The records so far, for a checkpoint."""
        added = {str(layer): {str(place): n for place, n in counts.items()} for layer, counts in self._added.items()}
        return {"records": [record.as_dict() for record in self._records], "added": added}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the records of a checkpoint's run."""
        self._records = [EditRecord(**values) for values in state_dict["records"]]
        self._added = {
            int(layer): Counter({int(place): n for place, n in counts.items()})
            for layer, counts in state_dict["added"].items()
        }

    def _wanted(self, name: str) -> bool:
        return self.figures is None or name in self.figures

    def _success(self, session: EditSession) -> list[Success]:
        data = session.data
        return edit_success(session.decoder, session.tokenizer, data.requests, session.measuring.baseline, data.overlap)

    def _states(self, session: EditSession) -> Tensor | None:
        if len(self._prompts) < 2:
            return None
        return collect_hidden(session.decoder, session.tokenizer, self._prompts, self.hidden_layer)

    def _projected(self, session: EditSession, folder: Path | None) -> dict[str, Any]:
        from aeplus.figures.from_run import HIDDEN
        from aeplus.figures.hidden import moved, project

        states = (cast(Tensor, self._hidden), cast(Tensor, self._states(session)))
        if self.keep_hidden and folder is not None:
            save_tensors(folder / HIDDEN, dict(zip(("before", "after"), states, strict=True)), {})
        before, after = (tensor.numpy() for tensor in states)
        projection = project(before, after, self.projection, session.seed)
        return {
            "layer": self.hidden_layer % len(session.decoder.layers),
            "moved": moved(before, after),
            "axes": list(projection.axes),
            "before": _rounded(projection.before),
            "after": _rounded(projection.after),
        }

    def _spectra(self, session: EditSession) -> list[dict[str, Any]]:
        """For each edited layer the spectrum of C, how much of it is null space, and what P̃ added."""
        spectra = []
        for site, statistics in zip(session.sites, session.statistics, strict=True):
            ends = session.method.has_null_space
            null = int(null_space(session.method, statistics.spectrum).sum()) if ends else None
            added = {str(place): count for place, count in sorted(self._added.get(site.layer, Counter()).items())}
            values = _rounded(statistics.spectrum.values)
            spectra.append({"layer": site.layer, "values": values, "null": null, "added": added})
        return spectra

    def _write(self, trainer: Trainer, session: EditSession, hidden: dict[str, Any] | None = None) -> None:
        from aeplus.figures.from_run import DATA

        if not trainer.is_global_zero:
            return
        folder = run_folder(trainer)
        write_records(self._records, folder)
        data = {"spectra": self._spectra(session) if self._wanted("spectrum") else [], "hidden": hidden}
        write_json(folder / DATA, data, indent=None)

    def _draw(self, trainer: Trainer, step: int) -> None:
        if not trainer.is_global_zero:
            return
        from aeplus.figures import save_figure
        from aeplus.figures.from_run import figures_of_run

        folder = run_folder(trainer)
        for name, figure in figures_of_run(folder, self.figures, self.bins).items():
            image = save_figure(figure, folder / "figures" / f"{name}.png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # whose add_figure would draw again, through pyplot
                    logger.experiment.add_image(f"figures/{name}", image, step, dataformats="HWC")


def _unrelated(session: EditSession, count: int) -> list[str]:
    """At most ``count`` prompts that no edit should change, spread over those there are."""
    neighbors = [probe.prompt for request in session.data.requests for probe in request.neighborhood]
    prompts = list(dict.fromkeys([*neighbors, *(probe.prompt for probe in session.data.validation.preserved)]))
    return [prompts[i * len(prompts) // count] for i in range(count)] if len(prompts) > count else prompts


def _rounded(values: Any) -> Any:
    """Numbers to six digits, which is more than a figure shows."""
    rows = values.tolist()
    return [[float(f"{x:.6g}") for x in row] if isinstance(row, list) else float(f"{row:.6g}") for row in rows]
