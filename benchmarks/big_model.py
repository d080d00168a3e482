"""How long each phase of an edit takes on a model of given shapes, beside the least that the hardware allows.

    python -m benchmarks big_model --shapes llama3-8b --edits 100 --json 8b.json

The model is random, made on the device: of full size on a GPU, scaled down on a CPU. Its edits are synthetic, of a
dozen tokens. The first call computes the statistics, the second, which has them, is timed phase by phase. The floor is
the arithmetic and the reading of weights that cannot be avoided (`floors.py`), at the speeds that a matrix
product and a copy reach here.
"""

import argparse
import copy
import json
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

import aeplus
from aeplus.callbacks import EditCallback
from aeplus.methods import batch as batch_module
from aeplus.methods.batch import BatchEdit
from aeplus.models.costs import ModelShape
from aeplus.models.decoder import Decoder
from aeplus.run.hooks import session_of
from aeplus.run.selection import Best
from aeplus.run.session import EditSession
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import TargetOptions, Targets
from aeplus.targets.passes import Passes
from aeplus.targets.rows import BatchRows
from floors import Work, forward_work, keys_work, solve_work, statistics_work, targets_work
from reference_targets import plain_targets

LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
SHAPES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "llama3-8b": (LLAMA3, [4, 5, 6, 7, 8]),
    "gpt-j-6b": (
        {
            "model_type": "gptj",
            "vocab_size": 50400,
            "n_embd": 4096,
            "n_layer": 28,
            "n_head": 16,
            "rotary_dim": 64,
            "n_positions": 2048,
        },
        [3, 4, 5, 6, 7, 8],
    ),
    "smollm2": (
        {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
        [3, 4, 5],
    ),
    "tiny": (
        {
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
        },
        [1, 2],
    ),
}
"""Config and edited layers of each shape."""

PHASES = ("fixed", "statistics", "targets", "keys", "solve", "validate", "other")
CPU_SCALE = 16
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def scaled(config: dict[str, Any]) -> dict[str, Any]:
    """The config with a sixteenth of the widths and all layers, for a machine without an accelerator."""
    small = dict(config)
    widths = ("hidden_size", "intermediate_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads")
    for name in (*widths, "vocab_size"):
        if name in small:
            small[name] = max(1, small[name] // CPU_SCALE)
    return small


def tokenizer(vocabulary: int) -> Any:
    """A tokenizer with a word for each token, so that rows are as long as they look."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "<unk>", ".", "the", "city", "of", "lies", "in", "is", "a"]
    words += [f"w{i}" for i in range(len(words), vocabulary)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", unk_token="<unk>")


def records(count: int, vocabulary: int) -> list[dict[str, Any]]:
    """Edits with subjects of three tokens, three tokens of relation and answers of two."""
    word = [f"w{10 + (i * 7919) % (vocabulary - 10)}" for i in range(5 * count + 5)]
    return [
        {
            "prompt": "the city of {} lies in the",
            "subject": " ".join(word[3 * i : 3 * i + 3]),
            "target_new": f"{word[-1 - i]} {word[-2 - i]}",
            "rephrase": f"the city {' '.join(word[3 * i : 3 * i + 3])} is in",
        }
        for i in range(count)
    ]


class Clock:
    """Time by phase, each without the phases inside it, and what the calls of some were given and gave back."""

    kept: ClassVar = ("targets", "validate")  # the floor asks what they did; others would hold memory of the device

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.calls: dict[str, list[tuple[tuple[Any, ...], Any]]] = {}
        self.counts: Counter[str] = Counter()  # calls of each function
        self._inside: list[float] = []

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            began = now()
            self._inside.append(0.0)
            try:
                result = function(*args, **kwargs)
            finally:
                took = now() - began
                self.seconds[phase] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took
            self.counts[function.__name__] += 1
            self.calls.setdefault(phase, []).append((args, result) if phase in self.kept else ((), None))
            return result

        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Times the phases of every batch within the block."""
        with (
            patch.object(batch_module, "find_targets", self.timed("targets", batch_module.find_targets)),
            patch.object(KeyReader, "__init__", self.timed("keys", KeyReader.__init__)),
            patch.object(KeyReader, "read", self.timed("keys", KeyReader.read)),
            patch.object(BatchEdit, "candidate", self.timed("solve", BatchEdit.candidate)),
            patch.object(BatchEdit, "final", self.timed("solve", BatchEdit.final)),
            patch.object(EditSession, "validate", self.timed("validate", EditSession.validate)),
        ):
            yield


def now() -> float:
    """The time once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class EveryCandidate(EditCallback):
    """No batch stops smoothing before its last candidate."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Sets the rule."""
        session_of(pl_module).select = lambda: Best(0.0, 1000)


class Bench:
    """One model and its edits."""

    corpus: ClassVar[str] = "corpus.txt"

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.device = options, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config, self.layers = SHAPES[options.shapes]
        full = self.device.type != "cpu" or options.shapes in ("smollm2", "tiny")
        config = config if full else scaled(config)
        self.notes = [] if full else [f"scaled down for a CPU: 1/{CPU_SCALE} of the widths and of the vocabulary"]
        torch.manual_seed(0)
        made = AutoConfig.for_model(**copy.deepcopy(config))
        with self.device:
            self.model = AutoModelForCausalLM.from_config(made, dtype=DTYPES[options.dtype]).eval()
        self.decoder = Decoder(self.model)
        self.shape = ModelShape.of(self.decoder)
        vocabulary = int(config["vocab_size"])
        self.tokenizer = tokenizer(vocabulary)
        self.edits = records(options.edits, vocabulary)
        self.tokens = options.tokens or (100_000 if self.device.type != "cpu" else 6_000)
        words = torch.randint(10, vocabulary, (self.tokens // 100 + 2, 110)).tolist()
        self.folder, self.calls = folder, 0
        self.corpus_file = folder / self.corpus
        self.corpus_file.write_text("\n\n".join(" ".join(f"w{i}" for i in row) for row in words), encoding="utf-8")

    def edit(self, method: str, *, every: bool = False, **more: Any) -> dict[str, Any]:
        """One call; the model is afterwards as before."""
        self.calls += 1
        result = aeplus.edit(
            *(self.model, self.tokenizer, self.edits, method),
            layers=self.layers,
            batch_size=self.options.batch,
            callbacks=[EveryCandidate()] if every else [],
            corpus=str(self.corpus_file),
            tokens=self.tokens,
            window=min(512, self.tokens),
            contexts=5,
            steps=self.options.steps,
            threshold=0.9,
            threshold_kind="dimensions",
            smoothing_steps=10,
            smoothing_mode=self.options.smoothing_mode,
            keep=self.options.keep,
            graphs=self.options.graphs,
            journal=self.folder / f"journal-{self.calls}" if self.options.journal else None,
            **more,
        )
        result.undo()
        return result.metrics

    def phases(self, method: str, *, every: bool = False, **more: Any) -> Clock:
        """The seconds of each phase of a call that finds its statistics in the cache."""
        clock = Clock()
        reset_peak(self.device)
        with clock.watching():
            began = now()
            metrics = self.edit(method, every=every, **more)
            wall = now() - began
        seconds = [entry["seconds"]["total"] for entry in metrics["batches"]]
        clock.seconds["fixed"] = wall - sum(seconds)
        clock.seconds["other"] = sum(seconds) - sum(clock.seconds[p] for p in ("targets", "keys", "solve", "validate"))
        return clock

    def profile(self) -> str:
        """The operators of the targets' third step, without graphs, by the time that the device spent in them."""
        run, steps, found = Passes.run, 0, ""
        device = self.device.type == "cuda"

        def profiled(passes: Passes, runs_left: int) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal steps, found
            steps += 1
            if steps != 3:
                return run(passes, runs_left)
            now()
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device else [])]
            with profile(activities=kinds) as seen:
                result = run(passes, runs_left)
                now()
            found = seen.key_averages().table(sort_by=f"self_{self.device.type}_time_total", row_limit=60)
            return result

        with patch.object(Passes, "run", profiled), patch.object(self.options, "graphs", False):
            self.edit(self.options.method)
        return found

    def floor(self, clock: Clock, flops: float, moved: float, double: float) -> dict[str, float]:
        """The least that each phase takes at some speeds."""
        shape, works = self.shape, dict.fromkeys(PHASES, Work())
        done, batch = 0, None
        for arguments, found in clock.calls["targets"]:
            rows: BatchRows = arguments[1]
            works["targets"] += self._targets(rows, arguments[2], found)
            if rows is batch:  # where each layer has its own targets, a batch is asked for them once for each
                continue
            batch = rows
            heads = [len(ids) for ids in rows.up_to_subject()]
            works["keys"] += keys_work(shape, self.layers, sum(heads), sum(heads[:: rows.contexts]))
            works["solve"] += solve_work(shape, len(self.layers), rows.edits, done, shape.intermediate // 10)
            done += rows.edits
        for (_, items), _found in clock.calls["validate"]:
            tokens = sum(len(str(prompt).split()) + len(str(answer).split()) for _, prompt, answer, *_ in items)
            works["validate"] += forward_work(shape, tokens, shape.layers, 2 * len(items))
        works["statistics"] = statistics_work(shape, self.layers, self.tokens, 16 * 512)
        works["fixed"] = Work(0.0, float(shape.weight_bytes))  # the digest reads every weight
        return {phase: work.seconds(flops, moved, double) for phase, work in works.items()}

    def _targets(self, rows: BatchRows, layer: int, found: Targets) -> Work:
        evaluated = (found.steps + 1).clamp(max=self.options.steps).tolist()
        own = [rows.prompts[i * rows.contexts : (i + 1) * rows.contexts] for i in range(rows.edits)]
        tokens = [sum(len(row.ids) - 1 - row.mark for row in edit) + 1 for edit in own]
        asked = [sum(len(row.answer_ids) for row in edit) + 1 for edit in own]
        recorded = sum(len(row.ids) for row in (*rows.prompts, *rows.essence))
        each = [[e > step for e in evaluated] for step in range(max(evaluated))]
        run = [sum(t for t, active in zip(tokens, step, strict=True) if active) for step in each]
        predicted = [sum(t for t, active in zip(asked, step, strict=True) if active) for step in each]
        return targets_work(self.shape, layer + 1, run, predicted, recorded)

    def reference(self, count: int) -> float:
        """Seconds per edit of the plain optimizer, in the same dtype, on some of the edits."""
        from aeplus.data.readers import requests_from_records
        from aeplus.targets.rows import batch_rows, sample_contexts

        contexts = sample_contexts(self.model, self.tokenizer, 5)
        rows = batch_rows(self.tokenizer, requests_from_records(self.edits[:count]), contexts)
        self.model.requires_grad_(False)
        began = now()
        plain_targets(self.decoder, rows, self.layers[-1], TargetOptions(steps=self.options.steps))
        return (now() - began) / count


def peaks(device: torch.device, dtype: torch.dtype) -> tuple[float, float, float]:
    """Operations a second of a matrix product, bytes of a copy (read and written), operations in float64."""
    size = 8192 if device.type != "cpu" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    c, d = a.double(), b.double()
    data = torch.empty(2**30 if device.type != "cpu" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(data)

    def fastest(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            began = now()
            run()
            times.append(now() - began)
        return min(times)

    products = [2 * size**3 / fastest(run) for run in (lambda: a @ b, lambda: c @ d)]
    return products[0], 2 * data.numel() / fastest(lambda: target.copy_(data)), products[1]


def reset_peak(device: torch.device) -> None:
    """Counts the most memory in use from here on; a CPU's counts for the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Times one model, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="llama3-8b")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--batch", type=int, default=100, help="edits in a batch")
    parser.add_argument("--steps", type=int, default=25, help="gradient steps of a target")
    parser.add_argument("--method", default="alphaedit")
    parser.add_argument("--tokens", type=int, help="tokens of preserved text; by default 100,000, or 6,000 on a CPU")
    parser.add_argument(
        *("--plus",),
        nargs="*",
        choices=("last", "own"),
        metavar="TARGETS",
        help="time AlphaEdit+ with smoothing too, T = 10, every candidate, with targets last, own, or by default both",
    )
    parser.add_argument("--smoothing-mode", choices=("parallel", "sequential"), default="parallel")
    parser.add_argument("--keep", choices=("all", "outside"), default="all", help="directions of preserved knowledge")
    parser.add_argument("--journal", action="store_true", help="write a journal, as aeplus fit does (phase other)")
    parser.add_argument("--reference", type=int, default=0, help="time the plain optimizer on so many edits too")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="record no CUDA graphs")
    parser.add_argument("--profile", type=Path, help="file for what one step of the targets, without graphs, runs")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", message="targets are learned without")
    with tempfile.TemporaryDirectory() as name, patch.dict("os.environ", {"AEPLUS_CACHE": f"{name}/cache"}):
        bench = Bench(options, Path(name))
        flops, moved, double = peaks(bench.device, DTYPES[options.dtype])
        reset_peak(bench.device)
        statistics = bench.edit(options.method)["seconds"]["statistics"]
        first_peak = peak_bytes(bench.device)
        clock = bench.phases(options.method)
        clock.seconds["statistics"] = statistics
        peak = peak_bytes(bench.device)
        floor = bench.floor(clock, flops, moved, double)
        report(bench, clock, floor, flops, moved, peak)
        print(f"peak memory of the first call, which computes the statistics: {first_peak / 2**30:.2f} GiB")
        if options.profile is not None:
            options.profile.write_text(bench.profile(), encoding="utf-8")
        if options.plus is not None:
            for targets in options.plus or ("last", "own"):  # beside AlphaEdit with as many targets
                base = clock if targets == "last" else bench.phases("alphaedit", targets=targets)
                plus = bench.phases("alphaedit_plus", every=True, smooth=True, targets=targets)
                ratio = editing(plus) / editing(base)
                candidates = plus.counts["candidate"] / -(-options.edits // options.batch)
                print(f"AlphaEdit+, targets {targets}, {candidates:g} candidates a batch: {editing(plus):.3f} s, "
                      f"{ratio:.2f} times AlphaEdit with such targets")  # fmt: skip
                print("  " + ", ".join(f"{phase} {plus.seconds[phase]:.3f}" for phase in PHASES[2:]))
        if options.reference:
            plain = bench.reference(options.reference)
            own = clock.seconds["targets"] / options.edits
            print(f"plain optimizer: {plain:.3f} s for an edit's targets, {plain / own:.1f} times as long")
    if options.json is not None:
        figures = {
            "device": device_name(bench.device),
            "dtype": options.dtype,
            "edits": options.edits,
            "seconds": clock.seconds,
            "floor": floor,
            "peak_bytes": peak,
            "first_call_peak_bytes": first_peak,
            "weight_bytes": bench.shape.weight_bytes,
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def editing(clock: Clock) -> float:
    """Seconds of the batches."""
    return sum(clock.seconds[phase] for phase in PHASES[2:])


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def report(bench: Bench, clock: Clock, floor: dict[str, float], flops: float, moved: float, peak: int) -> None:
    """Prints the table."""
    options = bench.options
    print(f"{options.shapes}, {options.dtype}, {options.edits} edits in batches of {options.batch}, {options.method}")
    print(f"{device_name(bench.device)}: {flops / 1e9:.0f} GFLOP/s, {moved / 1e9:.1f} GB/s; torch {torch.__version__}")
    for note in bench.notes:
        print(note)
    print("| phase | seconds | floor | times | ms an edit |\n| --- | ---: | ---: | ---: | ---: |")
    for phase in PHASES:
        spent, least = clock.seconds[phase], floor[phase]
        times = f"{spent / least:.1f}" if least else "–"
        print(f"| {phase} | {spent:.3f} | {least:.3f} | {times} | {1000 * spent / options.edits:.1f} |")
    least = sum(floor[phase] for phase in PHASES[2:])
    print(f"| editing | {editing(clock):.3f} | {least:.3f} | {editing(clock) / least:.1f} | "
          f"{1000 * editing(clock) / options.edits:.1f} |")  # fmt: skip
    weights = bench.shape.weight_bytes
    print(f"peak memory {peak / 2**30:.2f} GiB, weights {weights / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
