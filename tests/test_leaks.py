"""No test prompt can reach an edit, by any route: validation, tuning, contexts, statistics, earlier edits, caches.

Every route is run on two versions of a file that differ in every field that tests, and must end the same. Meanwhile
a spy looks at all that is tokenized: outside the measurements before and after, nothing of those fields may be among
it. The last tests put a leak into each route and see it found.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from aeplus.callbacks import evaluation
from aeplus.commands.inspect import command as preflight
from aeplus.commands.main import main
from aeplus.commands.tune import search, trials
from aeplus.data import datamodule
from aeplus.data import paraphrase as rewriter
from aeplus.data.validation import ValidationSet
from aeplus.edits import PARAPHRASES, EditRequest, Probe, held_out_prompts
from aeplus.methods import batch as builder
from aeplus.preserved import collection
from aeplus.run import editable as run_editable
from aeplus.run.measuring import Measuring
from aeplus.targets import cache as target_cache
from small import ROOT, TARGETS
from small import SUBJECTS as NAMES

SUBJECTS = NAMES[:4]  # two batches
METHODS = {name: f"{ROOT}/configs/method/{name}.yaml" for name in ("alphaedit_plus", "alphaedit_plus_published", "kde")}
SECRET = "zq"  # begins every word that only tests hold
FACTS = [{"prompt": "The capital of {}", "subject": name, "target_new": "Rome"} for name in ("Peru", "Chad", "Cuba")]


class Leak(AssertionError):
    """A test prompt or test answer was tokenized where it must not be."""


def version(number: int) -> list[dict[str, Any]]:
    """Seven edits with every field that tests; versions differ in all of these and in nothing else."""
    mark = f"{SECRET}{number}"
    return [
        {
            "prompt": "The capital of {}",
            "subject": subject,
            "target_new": TARGETS[i % len(TARGETS)],
            "rephrase": [f"{mark}a in {subject} is"],
            "openings": [f"{mark}k the capital of {subject}"],
            "statements": [f"{mark}l of {subject} is"],
            "neighborhood": [{"prompt": f"{mark}b of Peru is", "answer": f"{mark}c"}, f"{mark}d of Peru is"],
            "axes": [
                {"prompt": f"{mark}e of {subject} is", "answer": f"{mark}f", "axis": "logic", "aliases": [f"{mark}g"]}
            ],
            "generation": [f"{mark}h about {subject}"],
            "aliases": [f"{mark}i"],
            "target_true": f"{mark}j",
        }
        for i, subject in enumerate(SUBJECTS)
    ]


MEASURING = {Measuring.begin.__code__, Measuring.score.__code__}
"""Where the model is measured before the first edit and after the last (and along the way, for the log)."""


def measuring() -> bool:
    """Whether the tokenizer was called by a measurement."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code in MEASURING or frame.f_code.co_filename == evaluation.__file__:
            return True
    return False


@contextmanager
def spied(measures: bool) -> Iterator[list[str]]:
    """Fails when test data are tokenized outside a measurement; gets the texts of those inside.

    Args:
        measures: Whether there may be measurements at all.
    """
    seen: list[str] = []
    encode = TokenizersBackend._encode_plus

    def watched(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        for part in [text] if isinstance(text, str) else text:
            if SECRET in part:
                if not (measures and measuring()):
                    raise Leak(part)
                seen.append(part)
        return encode(self, text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenizersBackend, "_encode_plus", watched)
        yield seen


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that two runs round alike; and with so little to do a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both versions and an empty cache: statistics are collected anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aeplus"])
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path / "cache"))
    for number in (1, 2):
        write(tmp_path / f"{number}.jsonl", version(number))
    write(tmp_path / "facts.jsonl", FACTS)
    return tmp_path


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


SAVE = "{class_path: aeplus.callbacks.JournalWriter, init_args: {save_model: true, table: false}}"


def fit(workplace: Path, number: int, *more: str, method: str = "alphaedit_plus", callbacks: str = SAVE) -> Path:
    """Edits by a version of the file in a folder of its own; the run's folder."""
    config = ["--config", f"{workplace}/tiny.yaml", "--config", METHODS[method]]
    if method == "alphaedit_plus":  # so that validation prompts choose among candidates
        config.append("--model.method.smooth=true")
    logger = f"{{class_path: TensorBoardLogger, init_args: {{save_dir: ., name: runs, version: v{number}}}}}"
    words = ["--data.path", f"{number}.jsonl", "--trainer.callbacks", f"[{callbacks}]", "--trainer.logger", logger]
    assert main(["fit", *config, *words, *more]) == 0
    return Path("runs") / f"v{number}"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()


def build_validation(number: int, *more: str) -> int:
    words = ["--edits", f"{number}.jsonl", "--k0", "facts.jsonl", "--out", f"validation{number}.jsonl"]
    return main(["build-validation", *words, "--share", "0.5", *more])


def tune(workplace: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tunes λ alone, by a version of the file; the YAML without its notes."""
    for name in ("LEARNING_RATES", "THRESHOLDS", "RIDGES"):
        monkeypatch.setattr(search, name, getattr(search, name)[:1])
    monkeypatch.setattr(trials.gc, "collect", lambda: 0)
    words = ["--data.path", f"{number}.jsonl", "--out", f"{number}.yaml", "--trials", f"trials{number}"]
    only = ["--for", "alphaedit", "--fixed-layers", "0,1"]
    assert main(["tune", "--config", f"{workplace}/tiny.yaml", *words, *only]) == 0
    lines = Path(f"{number}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def compare(workplace: Path, number: int) -> dict[str, Any]:
    """Compares one method with targets kept in a folder that all versions share; its metrics without seconds."""
    words = ["--data.path", f"{number}.jsonl", "--out", "compared", "--methods", "alphaedit_plus"]
    assert main(["compare", "--config", f"{workplace}/tiny.yaml", *words]) == 0
    metrics = json.loads(Path("compared/alphaedit_plus/seed_0/metrics.json").read_text())
    return {
        "leakage": metrics["leakage"],
        "batches": [{k: v for k, v in batch.items() if k != "seconds"} for batch in metrics["batches"]],
    }


def look(workplace: Path, number: int) -> str:
    """The report of a version's edits before any is made."""
    words = ["--data.path", f"{number}.jsonl", "--out", f"report{number}"]
    assert main(["inspect", "--config", f"{workplace}/tiny.yaml", "--config", METHODS["alphaedit_plus"], *words]) == 0
    return Path(f"report{number}/inspect.jsonl").read_text()


# ---- every route, with two versions of the tests


def test_versions_differ_in_every_test() -> None:
    one, two = (set(held_out_prompts(map(read, version(number)))) for number in (1, 2))
    assert len(one) == len(two) == 5 * len(SUBJECTS) + 2
    assert not one & two
    fields = (*PARAPHRASES, "neighborhood", "axes", "generation", "aliases", "target_true")
    for first, second in zip(map(read, version(1)), map(read, version(2)), strict=True):
        assert all(getattr(first, name) != getattr(second, name) for name in fields)
        assert first.without_tests() == second.without_tests()


def read(record: dict[str, Any]) -> EditRequest:
    from aeplus.data.readers import requests_from_records

    return requests_from_records([record])[0]


@pytest.mark.parametrize(
    ("method", "more", "callbacks"),
    [
        pytest.param("alphaedit_plus", [], SAVE, id="automatic validation, smoothing, contexts, statistics"),
        pytest.param(
            "alphaedit_plus_published",
            ["--model.method.smoothing_threshold", "0"],
            SAVE,
            id="candidates chosen layer by layer",
        ),
        pytest.param("kde", [], SAVE, id="earlier edits of KDE"),
        pytest.param(
            "alphaedit_plus",
            ["--data.preserved", "facts.jsonl"],
            f"{SAVE}, aeplus.callbacks.EvaluationWriter",
            id="preserved facts, the whole evaluation",
        ),
    ],
)
def test_edited_weights_do_not_feel_the_tests(
    workplace: Path, here: Path, method: str, more: list[str], callbacks: str
) -> None:
    with spied(measures=True) as seen:
        one, two = (weights(fit(workplace, n, *more, method=method, callbacks=callbacks)) for n in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for letter in "abd":  # the spy looked at what measures: rephrasings and neighbors
        assert any(f"{SECRET}1{letter}" in text for text in seen)


def test_a_validation_file_does_not_feel_the_tests(workplace: Path, here: Path) -> None:
    with spied(measures=True):
        for number in (1, 2):
            assert build_validation(number) == 0
        assert Path("validation1.jsonl").read_bytes() == Path("validation2.jsonl").read_bytes()
        one, two = (weights(fit(workplace, n, "--data.validation", f"validation{n}.jsonl")) for n in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_rewriting_model_never_reads_a_test(workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriter, "_EXAMPLES", ())  # so that the prompt fits the tiny model
    monkeypatch.setattr(rewriter.ModelRewriter.__init__, "__defaults__", ("", 0, 1, 32))
    with spied(measures=False):
        for number in (1, 2):
            assert build_validation(number, "--rewriter", "lm", "--rewriter-model", f"{workplace}/model") == 0
    assert Path("validation1.jsonl").read_bytes() == Path("validation2.jsonl").read_bytes()


def test_a_validation_file_that_overlaps_is_refused(
    workplace: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made for one version of the file, used with another that tests by one of its prompts."""
    assert build_validation(1) == 0
    prompt = json.loads(Path("validation1.jsonl").read_text().splitlines()[0])["prompt"]
    write(here / "3.jsonl", [{**record, "generation": [prompt.upper()]} for record in version(1)])
    words = ["--data.path", "3.jsonl", "--data.validation", "validation1.jsonl"]
    assert main(["fit", "--config", f"{workplace}/tiny.yaml", "--config", METHODS["alphaedit_plus"], *words]) == 2
    assert f"in 1 of its prompts, the first {prompt!r}" in capsys.readouterr().err
    Path("validation1.jsonl.manifest.json").unlink()
    assert main(["fit", "--config", f"{workplace}/tiny.yaml", "--config", METHODS["alphaedit_plus"], *words]) == 2
    assert "expected the manifest of validation1.jsonl" in capsys.readouterr().err


def test_tuning_reads_no_test_at_all(workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with spied(measures=False):
        one, two = (tune(workplace, number, monkeypatch) for number in (1, 2))
    assert one == two


def test_inspect_reads_no_test_at_all(workplace: Path, here: Path) -> None:
    with spied(measures=False):
        one, two = (look(workplace, number) for number in (1, 2))
    assert one == two
    assert SECRET not in one


def test_shared_targets_do_not_feel_the_tests(workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second version finds all its targets in the cache that the first has filled, and ends the same."""
    found: list[int] = []
    find = target_cache.find_targets

    def counted(*arguments: Any) -> Any:
        found.append(1)
        return find(*arguments)

    monkeypatch.setattr(target_cache, "find_targets", counted)
    with spied(measures=True):
        one = compare(workplace, 1)
        first = len(found)
        two = compare(workplace, 2)
    assert first == 2 * 2  # batches and layers
    assert len(found) == first
    assert one == two


# ---- deliberate leaks: each must be found

Patch = pytest.MonkeyPatch


def leak_validation(patch: Patch) -> None:
    """The automatic validation set takes a rephrasing."""
    build = datamodule.build_validation

    def leaking(requests: Any, *args: Any, **options: Any) -> ValidationSet:
        found = build(requests, *args, **options)
        return replace(found, rewrites=tuple(replace(i, prompt=requests[0].rephrase[0]) for i in found.rewrites))

    patch.setattr(datamodule, "build_validation", leaking)


def leak_file(patch: Patch) -> None:
    """The reader of validation files adds a generation prompt."""
    reader = datamodule.read_validation

    def leaking(path: Path, requests: Any, before: int = 0) -> ValidationSet:
        found = reader(path, requests, before)
        return replace(found, preserved=(*found.preserved, Probe(requests[0].generation[0], "Rome")))

    patch.setattr(datamodule, "read_validation", leaking)


def leak_contexts(patch: Patch) -> None:
    """A neighborhood prompt as context."""
    patch.setattr(run_editable, "sample_contexts", lambda *_: ["", version(1)[0]["neighborhood"][1] + ". "])


def leak_statistics(patch: Patch) -> None:
    """The axes' prompts as preserved text."""
    texts = [record["axes"][0]["prompt"] for record in version(1)]
    patch.setattr(collection, "read_texts", lambda _: iter(texts * 100))


def leak_sample(patch: Patch) -> None:
    """KDE looks at an earlier edit in the words of its rephrasing."""
    sample = builder.sample_previous

    def leaking(*arguments: Any) -> list[EditRequest]:
        return [replace(r, prompt=r.rephrase[0].replace(r.subject, "{}")) for r in sample(*arguments)]

    patch.setattr(builder, "sample_previous", leaking)


def leak_targets(patch: Patch) -> None:
    """Targets of an alias, or of what was true before."""
    rows = builder.batch_rows

    def leaking(tokenizer: Any, requests: Any, *more: Any) -> Any:
        wanted = [replace(r, target_new=r.aliases[0] if i % 2 else str(r.target_true)) for i, r in enumerate(requests)]
        return rows(tokenizer, wanted, *more)

    patch.setattr(builder, "batch_rows", leaking)


def leak_strip(patch: Patch) -> None:
    """Edits keep their tests where they should lose them."""
    patch.setattr(EditRequest, "without_tests", lambda self: self)


def leak_report(patch: Patch) -> None:
    """The report looks at edits in the words of their rephrasings."""
    strip = preflight.stripped

    def leaking(data: Any) -> list[EditRequest]:
        both = zip(strip(data), data.read(), strict=True)
        return [replace(bare, prompt=full.rephrase[0].replace(bare.subject, "{}")) for bare, full in both]

    patch.setattr(preflight, "stripped", leaking)


def leak_rewriter(patch: Patch) -> None:
    """The rewriting model is shown a rephrasing."""
    patch.setattr(EditRequest, "question", property(lambda self: self.rephrase[0] if self.rephrase else self.prompt))
    leak_strip(patch)


def run_fit(workplace: Path, _: Patch) -> None:
    fit(workplace, 1)


def run_kde(workplace: Path, _: Patch) -> None:
    fit(workplace, 1, method="kde")


def run_file(workplace: Path, _: Patch) -> None:
    assert build_validation(1) == 0
    fit(workplace, 1, "--data.validation", "validation1.jsonl")


def run_lm(workplace: Path, patch: Patch) -> None:
    build_validation(1, "--rewriter", "lm", "--rewriter-model", f"{workplace}/model")


def run_tune(workplace: Path, patch: Patch) -> None:
    tune(workplace, 1, patch)


def run_compare(workplace: Path, _: Patch) -> None:
    compare(workplace, 1)


def run_inspect(workplace: Path, _: Patch) -> None:
    look(workplace, 1)


@pytest.mark.parametrize(
    ("leak", "run", "measures"),
    [
        (leak_validation, run_fit, True),
        (leak_file, run_file, True),
        (leak_contexts, run_fit, True),
        (leak_statistics, run_fit, True),
        (leak_targets, run_compare, True),
        (leak_sample, run_kde, True),
        (leak_strip, run_tune, False),
        (leak_report, run_inspect, False),
        (leak_rewriter, run_lm, False),
    ],
)
def test_a_leak_is_found(
    workplace: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    leak: Callable[[Patch], None],
    run: Callable[[Path, Patch], None],
    measures: bool,
) -> None:
    leak(monkeypatch)
    with spied(measures), pytest.raises(Leak, match=SECRET):
        run(workplace, monkeypatch)


def test_a_leak_into_the_weights_is_found_without_the_spy(
    workplace: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak_targets(monkeypatch)
    one, two = (weights(fit(workplace, number)) for number in (1, 2))
    assert any(not torch.equal(one[name], two[name]) for name in one)
