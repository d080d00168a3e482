"""Folders as fit, compare and experiment leave them, written by hand: no model runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aeplus.commands.compare.tables import table_rows, write_tables
from aeplus.commands.runs.outcome import Outcome
from aeplus.run.records import EditRecord, write_records

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><rect width="4" height="2" fill="teal"/></svg>'


def made_metrics(method: str = "alphaedit", right: Sequence[int] = (1, 1, 0, 1), **more: Any) -> dict[str, Any]:
    """``metrics.json`` of a run whose edits are right or wrong as told; Specificity is 75 %."""
    count = len(right)
    efficacy = 100 * sum(right) / count
    after = {"efficacy": efficacy, "generalization": None, "specificity": 75.0, "score": (efficacy + 75) / 2}
    before = {"efficacy": 0.0, "generalization": None, "specificity": 100.0, "score": 50.0}
    unasked = {"value": None, "low": None, "high": None, "count": 0}
    interval = {"value": efficacy, "low": max(0.0, efficacy - 12.5), "high": 100.0, "count": count}
    batch = {
        "edits": 2, "conflict_preserved": 0.5, "conflict_preserved_max": 0.75, "conflict_prior": 0.25,
        "conflict_prior_max": 0.5, "residual_norm": 3.0, "residual_norm_max": 6.0, "rank": 4, "sigma_max": 0.1,
        "smoothing_iterations": 3, "committed_iteration": 1,
        "seconds": {"targets": 2.0, "solve": 0.5, "validate": 0.25, "total": 3.0},
    }  # fmt: skip
    values: dict[str, Any] = {
        "method": method,
        "model": "small-model",
        "seed": 0,
        "edits": count,
        "edits_done": count,
        "before": before,
        "after": after,
        "intervals": {"before": {}, "after": {"efficacy": interval, "generalization": unasked}},
        "hits": {
            "efficacy": {"edits": list(range(count)), "hits": list(map(float, right)), "prompts": [1] * count},
            "specificity": {"edits": [0, 1], "hits": [2.0, 1.0], "prompts": [2, 2]},
        },
        "batches": [batch, batch],
        "leakage": 0.004,
        "measures": {"retention": {"matrix": [[100.0, None], [50.0, 100.0]], "mean": [100.0, 75.0]}},
        "seconds": {"statistics": 5.0, "total": 20.0},
        "environment": {"device": "cpu (small)", "torch": "2.13.0"},
    }
    return {**values, **more}


def made_records(count: int = 4, **more: Any) -> list[EditRecord]:
    """Edits of a run."""
    return [
        EditRecord(**{
            "edit": i + 1, "id": str(i), "batch": 1 + i // 2, "prompt": f"The capital of Land{i} is",
            "subject": f"Land{i}", "target": "Paris", "s_K0": i / 10, "s_Kp": i / 20, "residual": 1.0 + i,
            "smoothed": False, "before": {"score": 50.0}, "after": {"score": 25.0 * i}, **more,
        })
        for i in range(count)
    ]  # fmt: skip


def made_run(folder: Path, metrics: dict[str, Any], records: Sequence[EditRecord] = (), **data: Any) -> Path:
    """A run's folder."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    config = {
        "model": {"model": metrics["model"], "layers": [1, 2], "method": {"name": metrics["method"]}, "dtype": "auto"},
        "data": {"path": "edits.jsonl", "batch_size": 2, **data},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }
    (folder / "config.yaml").write_text(f"# lightning.pytorch==2.6.6\n{json.dumps(config)}\n")
    if records:
        write_records(records, folder)
    return folder


def made_comparison(out: Path) -> Path:
    """Two methods with two seeds, one of them failed, and one run that is still to come."""
    outcomes = []
    for label, seed, right in (
        ("memit", 0, (1, 0, 0, 1)),
        ("blue:smooth=false", 0, (1, 1, 1, 1)),
        ("memit", 1, (1, 1, 0, 1)),
    ):
        metrics = made_metrics(label.split(":")[0], right, seed=seed)
        made_run(out / label.replace(":", ",") / f"seed_{seed}", metrics)
        outcomes.append(Outcome(label, seed, metrics["before"], metrics["after"], 6.0, 0.004, 20.0))
    outcomes.append(Outcome.failed("blue:smooth=false", 1, "expected more memory, got none", 1.0))
    notes = {
        "command": "`aeplus compare --methods memit,blue:smooth=false --seeds 0,1`",
        "seeds": "0, 1",
        "edits": "4 in batches of 2",
        "model": "small-model, layers 1, 2",
        "machine": "2 CPU cores",
        "runs": "4 of 5",
    }
    write_tables(out, table_rows(outcomes, ["memit", "blue:smooth=false"], 2), outcomes, notes)
    return out


def made_experiment(out: Path, **more: Any) -> Path:
    """Two data sets, two methods, two seeds: a cell failed and one was not made."""
    cells = []
    for data in ("plain", "rewrites"):
        for variant, extra in (("alphaedit", 0), ("alphaedit_plus", 1)):
            for seed in (0, 1):
                name = f"{data}/{variant}/seed_{seed}"
                status = {"rewrites/alphaedit/seed_1": "failed", "rewrites/alphaedit_plus/seed_1": "missing"}.get(
                    name, "done"
                )
                if status == "done":
                    made_run(out / name, made_metrics(variant, (1, extra, seed, 1), seed=seed))
                cells.append(
                    {
                        "folder": name, "data": data, "variant": variant, "set": {"method.ridge": 10}, "seed": seed,
                        "status": status, "error": "out of memory" if status == "failed" else None,
                        "minutes": 1.5 if status == "done" else None,
                    }
                )  # fmt: skip
    plain, rewrites = {"mean": 75.0, "sd": 8.8, "n": 2}, {"mean": 62.5, "sd": None, "n": 1}
    table = {
        "title": "Table 1",
        "note": "Score on 4 edits.",
        "columns": ["plain", "rewrites"],
        "rows": [
            {"label": "alphaedit", "values": [plain, rewrites], "paper": [91.25, None]},
            {"label": "alphaedit_plus", "values": [{"mean": 87.5, "sd": 4.4, "n": 2}, None], "paper": None},
        ],
    }  # fmt: skip
    content = {
        "name": "table1",
        "title": "Methods on two data sets",
        "scale": "small",
        "model": "small-model",
        "claim": "AlphaEdit+ is ahead where edits conflict.",
        "command": "aeplus experiment table1 --config model/small --scale small",
        "machine": "2 CPU cores",
        "versions": {"aeplus": "0.1.0", "torch": "2.13.0"},
        "seeds": [0, 1],
        "cells": cells,
        "tables": [table],
        "figures": ["figures/score.svg"],
    }
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "score.svg").write_text(SVG)
    (out / "experiment.json").write_text(json.dumps({**content, **more}))
    return out
