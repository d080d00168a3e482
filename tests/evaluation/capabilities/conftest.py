"""Items of all six tasks, written by hand in their published formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from aeplus.evaluation.capabilities.tasks import HubSource, Task

PLACES = ["Paris", "Rome", "London", "Italy", "France", "Oslo", "Spain", "Peru", "Lyon", "Kyoto", "Accra", "Quito"]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "sst2": [{"sentence": f"{p} is a fine film . ", "label": i % 2, "idx": i} for i, p in enumerate(PLACES)],
    "mrpc": [
        {"sentence1": f"{p} is a city .", "sentence2": f"A city is {p} .", "label": i % 2, "idx": i}
        for i, p in enumerate(PLACES)
    ],
    "mmlu": [
        {"question": f"Where is {p}?", "subject": "art", "choices": ["Here", "There", "Far", "Near"], "answer": i % 4}
        for i, p in enumerate(PLACES)
    ],
    "rte": [
        {"sentence1": f"People speak in {p}.", "sentence2": f"They speak in {p}.", "label": i % 2, "idx": i}
        for i, p in enumerate(PLACES)
    ],
    "cola": [{"sentence": f"{p} the I read.", "label": i % 2, "idx": i} for i, p in enumerate(PLACES)],
    "nli": [
        {
            "index": str(i),
            "sentence1": f"{p} is big.",
            "sentence2": f"{p} is small.",
            "label": "not_entailment" if i % 3 else "entailment",
        }
        for i, p in enumerate(PLACES)
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file for each task."""
    for name, records in RECORDS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def toy_task(*options: str) -> Task:
    """A task with other options; "Paris" and "Italy" are one token of the tiny tokenizer each."""
    return Task(
        name="toy",
        title="Toy",
        template="Text: {text}\nAnswer:",
        fields=("text",),
        options=options,
        labels=tuple((i,) for i in range(len(options))),
        shorten="text",
        hub=HubSource("owner/toy", "toy", "test"),
    )


@pytest.fixture
def toy() -> Any:
    """Makes a toy task of some options."""
    return toy_task
