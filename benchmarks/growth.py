"""How a batch's cost and what is on the disk grow with the edits made before.

    python benchmarks/growth.py --edits 5000 --method alphaedit_plus

A tiny random Llama (d = 256, two edited layers), targets cut short, batches of 50, one thread. For the first batch and
then every 500 edits: seconds of a batch, its seconds of the processor (which others on the machine disturb less) and
those of its phases, what the process holds in memory, and the journal's bytes. At the end the median of the last ten
batches against that of the third to twelfth, from when validation's sample is whole, and against a batch at no earlier
edits: the median of ten calls with one batch each, after two that load the code.

    python benchmarks/growth.py --solve-only

Of every closed-form method the solve of one such layer alone, with its report, for two candidates: seconds of the
processor after 0 to 10,000 earlier edits with random keys.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import aeplus
from aeplus.callbacks import BatchCommit, EditCallback
from aeplus.functional import Spectrum
from aeplus.methods.compositions import named_method
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.layer import LayerSolver
from aeplus.methods.registry import METHODS
from aeplus.preserved.statistics import LayerStatistics

SIZE = 50
WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]


def tokenizer() -> Any:
    """A tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "<unk>", "the", "city", "of", "lies", "in", *WORDS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", unk_token="<unk>")


def records(count: int) -> list[dict[str, Any]]:
    """Edits of distinct subjects of three words."""
    n = len(WORDS)
    subjects = (f"{WORDS[i % n]} {WORDS[i // n % n]} {WORDS[i // n**2 % n]}" for i in range(count))
    return [
        {"prompt": "the city of {} lies in", "subject": subject, "target_new": WORDS[i * 7 % n]}
        for i, subject in enumerate(subjects)
    ]


class Watch(EditCallback):
    """Prints a line for the first batch and every 500 edits, if asked to."""

    def __init__(self, folder: Path, *, prints: bool = True) -> None:
        self.folder, self.prints = folder, prints
        self.done, self.began = 0, (time.perf_counter(), time.process_time())
        self.seconds: list[dict[str, float]] = []

    def on_unedited_model(self, trainer: Any, module: Any) -> None:
        """Starts the clock of the first batch."""
        self.began = time.perf_counter(), time.process_time()

    def on_batch_committed(self, trainer: Any, module: Any, commit: BatchCommit) -> None:
        """Takes the time from the last commit to this one."""
        self.done += len(commit.requests)
        wall, processor = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        self.seconds.append({"batch": wall, "processor": processor, **commit.report["seconds"]})
        if self.prints and (self.done == SIZE or self.done % 500 == 0):
            seconds = commit.report["seconds"]
            size = sum(path.stat().st_size for path in self.folder.glob("*"))
            phases = " | ".join(f"{seconds[name]:.3f}" for name in ("targets", "solve", "validate"))
            held = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
            print(
                f"| {self.done} | {wall:.3f} | {processor:.3f} | {phases} | {held:.0f} | {size / 1e6:.1f} |", flush=True
            )
        self.began = time.perf_counter(), time.process_time()

    def growth(self, none: list[dict[str, float]]) -> str:
        """The last batches against the first ones and against some without earlier edits, by phase."""
        lines = []
        for name in ("batch", "processor", "targets", "solve", "validate"):
            zero, first, last = (
                statistics.median(seconds[name] for seconds in part)
                for part in (none, self.seconds[2:12], self.seconds[-10:])
            )
            grown = f"{last / first:.2f} times, {last / zero:.2f} of none"
            lines.append(f"{name} {zero:.3f}, {first:.3f} -> {last:.3f} s ({grown})")
        return "\n".join(lines)


def solve_only() -> None:
    """Times the solve of one layer by the number of earlier edits."""
    d, o = 256, 64
    counts = (0, 250, 500, 2500, 5000, 10_000)
    text = torch.randn(d, 4000) * torch.linspace(0.05, 2, d)[:, None]
    known = LayerStatistics(Spectrum.from_covariance(text @ text.T / 4000), text[:, :2048].contiguous(), 4000)
    weight = torch.randn(o, d) / 10
    print("| method [ms] | " + " | ".join(map(str, counts)) + " |\n| --- |" + " --- |" * len(counts))
    for name in sorted(METHODS):
        method = named_method(name)
        if not method.closed_form:
            continue
        if method.filter == "null_space":
            method = named_method(name, threshold=0.8, threshold_kind="dimensions")
        row = []
        for count in counts:
            earlier, seconds = EarlierKeys([torch.randn(d, SIZE) for _ in range(count // SIZE)]), []
            for _ in range(5):
                residual, keys = torch.randn(o, SIZE), torch.randn(d, SIZE)
                began = time.process_time()
                solver = LayerSolver(0, method, known, weight, earlier)
                for _ in range(2):
                    solver.report(solver.solve(residual, keys), residual, keys)
                seconds.append(time.process_time() - began)
                if count:
                    earlier.append(keys)
            row.append(min(seconds[1:]))
        print(f"| {name} | " + " | ".join(f"{1000 * s:.0f}" for s in row) + " |", flush=True)


def main() -> None:
    """Runs one method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=5000)
    parser.add_argument("--method", default="alphaedit_plus")
    parser.add_argument("--solve-only", action="store_true", help="time the solve alone, for every closed-form method")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    if options.solve_only:
        solve_only()
        return
    config = LlamaConfig(
        vocab_size=80,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus, journal = Path(folder) / "corpus.txt", Path(folder) / "journal"
        words = torch.randint(len(WORDS), (200, 50)).tolist()
        corpus.write_text("\n\n".join(" ".join(WORDS[i] for i in row) for row in words), encoding="utf-8")
        print(f"{options.method}, d = 256, batches of {SIZE}, one thread")
        print(
            "| edits | s a batch | of the processor | targets | solve | validate | resident [MB] | journal [MB] |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        model = LlamaForCausalLM(config)

        def edit(count: int, watch: Watch) -> aeplus.EditResult:
            return aeplus.edit(
                *(model, tokenizer(), records(count), options.method),
                layers=[1, 2],
                batch_size=SIZE,
                callbacks=[watch],
                journal=watch.folder,
                corpus=str(corpus),
                tokens=8000,
                window=64,
                contexts=1,
                steps=2,
                smoothing_steps=1,
                threshold=0.8,
                threshold_kind="dimensions",
            )

        none = []
        for call in range(12):
            alone = Watch(Path(folder) / f"alone-{call}", prints=False)
            edit(SIZE, alone).undo()
            none += alone.seconds
        watch = Watch(journal)
        edit(options.edits, watch)
        print(watch.growth(none[2:]))


if __name__ == "__main__":
    main()
