"""One record per edit, and the figures of a run."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from aeplus.callbacks.report import run_folder
from aeplus.errors import InputError
from aeplus.evaluation.questions import edit_success
from aeplus.methods.closed_form import residual_threshold
from aeplus.methods.layer import base_filter
from aeplus.models.predict import collect_hidden
from aeplus.run.hooks import BatchCommit, EditCallback
from aeplus.run.records import EditRecord, Success, write_records
from aeplus.utils.paths import whole_file

if TYPE_CHECKING:
    from aeplus.module import EditModule


class FigureWriter(EditCallback):
    """Writes ``edits.jsonl``, a line per edit, and figures, to ``figures/`` in the run's folder and to TensorBoard.

    It watches and measures; nothing in the run depends on it. What other callbacks measure (capabilities, retention) is
    drawn if they are there too, in whatever order they are listed.

    Args:
        figures: Which figures; see :data:`aeplus.figures.from_run.FIGURES`. By default all whose data there are.
        bins: Bins of the conflict that the score is drawn against.
        every: Draw after every so many batches too; 0 for the end only.
        projection: How hidden states come onto a plane: ``pca``, or ``tsne`` (needs scikit-learn).
        hidden_layer: Behind which decoder layer; negative ones count from the end.
        hidden_prompts: How many of the neighbourhood and validation prompts, which no edit should change, to take.
    """

    def __init__(
        self,
        figures: list[str] | None = None,
        bins: int = 5,
        every: int = 0,
        projection: Literal["pca", "tsne"] = "pca",
        hidden_layer: int = -1,
        hidden_prompts: int = 200,
    ) -> None:
        from aeplus.figures.from_run import check_names

        check_names(figures)
        for name, value, least in (("bins", bins, 1), ("every", every, 0), ("hidden_prompts", hidden_prompts, 2)):
            if value < least:
                msg = f"FigureWriter's {name} must be at least {least}, but {value} came; choose a larger number."
                raise InputError(msg)
        if projection not in ("pca", "tsne"):
            msg = f"FigureWriter's projection must be pca or tsne, but {projection!r} came; choose one of these."
            raise InputError(msg)
        self.figures, self.bins, self.every, self.projection = figures, bins, every, projection
        self.hidden_layer, self.hidden_prompts = hidden_layer, hidden_prompts
        self._records: list[EditRecord] = []
        self._added: dict[int, Counter[int]] = {}  # by layer, how many batches added each eigenvector
        self._before: list[Success] = []
        self._prompts: list[str] = []
        self._hidden: Tensor | None = None

    def on_unedited_model(self, trainer: Trainer, module: "EditModule") -> None:
        """Measures each edit and reads hidden states."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._before = self._success(module)
        if self._wanted("hidden"):
            self._prompts = _unrelated(module, self.hidden_prompts)
            if not -len(module.decoder.layers) <= self.hidden_layer < len(module.decoder.layers):
                msg = (
                    f"FigureWriter's hidden_layer must be one of the model's {len(module.decoder.layers)} layers, but "
                    f"{self.hidden_layer} came; -1 is the last."
                )
                raise InputError(msg)
            self._hidden = self._states(module)

    def on_batch_committed(self, trainer: Trainer, module: "EditModule", commit: BatchCommit) -> None:
        """Keeps the batch's records."""
        layers = [edit.report for edit in commit.candidate.layers]
        for report in layers:
            if report.added is not None:
                places = report.added.nonzero().flatten().tolist()
                self._added.setdefault(report.layer, Counter()).update(places)
        norms = torch.tensor(commit.residual_norms, dtype=torch.float64)
        learnt = module.method.update == "closed_form"
        above = norms > residual_threshold(norms, module.method)
        columns = zip(
            commit.requests,
            torch.stack([report.preserved for report in layers]).mean(0).tolist(),
            torch.stack([report.prior for report in layers]).mean(0).tolist(),
            commit.residual_norms,
            (above & (learnt and module.method.smooth)).tolist(),
            strict=True,
        )
        first = module.data.cursor - len(commit.requests)
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
                    residual=norm if learnt else None,
                    smoothed=smoothed,
                    before=self._before[index],
                )
            )
        if self.every and (commit.index + 1) % self.every == 0:
            self._write(trainer, module)
            self._draw(trainer, commit.index + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures each edit again and writes the records."""
        module = cast("EditModule", pl_module)
        after = self._success(module)
        last = {request.fact_key: index for index, request in enumerate(module.data.edited)}
        for record in self._records:
            record.after = after[record.edit - 1]
            record.superseded = last[module.data.requests[record.edit - 1].fact_key] != record.edit - 1
        self._write(trainer, module, hidden=None if self._hidden is None else self._projected(module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draws, now that every callback has written what it measured."""
        if stage == "fit" and self._records:
            self._draw(trainer, len(cast("EditModule", pl_module).journal.entries))

    def state_dict(self) -> dict[str, Any]:
        """The records so far, for a checkpoint."""
        added = {str(layer): {str(place): n for place, n in counts.items()} for layer, counts in self._added.items()}
        return {"records": [record.as_dict() for record in self._records], "added": added}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the records of a checkpoint's run."""
        self._records = [EditRecord(**values) for values in state_dict["records"]]
        self._added = {
            int(layer): Counter({int(place): n for place, n in counts.items()})
            for layer, counts in state_dict["added"].items()
        }

    def _wanted(self, name: str) -> bool:
        return self.figures is None or name in self.figures

    def _success(self, module: "EditModule") -> list[Success]:
        data = module.data
        return edit_success(module.decoder, module.tokenizer, data.requests, module.baseline, data.overlap)

    def _states(self, module: "EditModule") -> Tensor | None:
        if len(self._prompts) < 2:
            return None
        return collect_hidden(module.decoder, module.tokenizer, self._prompts, self.hidden_layer)

    def _projected(self, module: "EditModule") -> dict[str, Any]:
        from aeplus.figures.hidden import project

        before, after = (cast(Tensor, states).numpy() for states in (self._hidden, self._states(module)))
        found = project(before, after, self.projection, module.seed)
        return {
            "layer": self.hidden_layer % len(module.decoder.layers),
            "axes": list(found.axes),
            "before": _rounded(found.before),
            "after": _rounded(found.after),
        }

    def _spectra(self, module: "EditModule") -> list[dict[str, Any]]:
        """For each edited layer the spectrum of C, how much of it is null space, and what P̃ added."""
        spectra = []
        for site, statistics in zip(module.sites, module.statistics, strict=True):
            edged = module.method.update == "closed_form" and module.method.filter == "null_space"
            null = int(base_filter(module.method, statistics.spectrum).sum()) if edged else None
            added = {str(place): count for place, count in sorted(self._added.get(site.layer, Counter()).items())}
            values = _rounded(statistics.spectrum.values)
            spectra.append({"layer": site.layer, "values": values, "null": null, "added": added})
        return spectra

    def _write(self, trainer: Trainer, module: "EditModule", hidden: dict[str, Any] | None = None) -> None:
        from aeplus.figures.from_run import DATA

        folder = run_folder(trainer)
        write_records(self._records, folder)
        data = {"spectra": self._spectra(module) if self._wanted("spectrum") else [], "hidden": hidden}
        with whole_file(folder / DATA) as scratch:
            scratch.write_text(json.dumps(data) + "\n", encoding="utf-8")

    def _draw(self, trainer: Trainer, step: int) -> None:
        from aeplus.figures import save_figure
        from aeplus.figures.from_run import figures_of_run

        folder = run_folder(trainer)
        for name, figure in figures_of_run(folder, self.figures, self.bins).items():
            image = save_figure(figure, folder / "figures" / f"{name}.png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # whose add_figure would draw again, through pyplot
                    logger.experiment.add_image(f"figures/{name}", image, step, dataformats="HWC")


def _unrelated(module: "EditModule", count: int) -> list[str]:
    """Up to so many prompts that no edit should change, spread over those there are."""
    neighbors = [probe.prompt for request in module.data.requests for probe in request.neighborhood]
    prompts = list(dict.fromkeys([*neighbors, *(probe.prompt for probe in module.data.validation.preserved)]))
    return [prompts[i * len(prompts) // count] for i in range(count)] if len(prompts) > count else prompts


def _rounded(values: Any) -> Any:
    """Numbers to six digits, which is more than a figure shows."""
    rows = values.tolist()
    return [[float(f"{x:.6g}") for x in row] if isinstance(row, list) else float(f"{row:.6g}") for row in rows]
