"""Kills runs at random moments, resumes them, and compares the weights they end with.

    python -m benchmarks kills --kills 200 --method alphaedit_plus --seed 0

A tiny random Llama, seven edits in batches of two. A run is killed (SIGKILL) at a random moment, resumed from what it
has left (``--ckpt_path``; every other chain of runs goes on by ``--model.journal`` instead), killed again, and so on. A
run that comes to its end is compared with one that nobody disturbed: the saved model must be the same file, its journal
whole, and nothing hidden may be left behind. Then the next chain begins.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import aeplus
from aeplus.commands.main import main as aeplus_main

TEXT = "The capital of France is Paris and people speak French in Lyon , as they did long ago in Gaul . "
SUBJECTS = ["France", "Lyon", "Gaul", "Paris", "people", "French", "capital"]
CALLBACKS = (
    "[{class_path: aeplus.callbacks.MetricsWriter}, {class_path: aeplus.callbacks.JournalWriter, init_args: "
    "{save_model: true, table: false}}, {class_path: aeplus.callbacks.EditCheckpoint}]"
)


def workplace(folder: Path, method: str) -> list[str]:
    """A model, edits, text and settings; gives the words of a run."""
    torch.manual_seed(0)
    core = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<eos>", "<unk>", *sorted(set(TEXT.split()))])}, "<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, eos_token_id=0, bos_token_id=0, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text("\n\n".join([TEXT] * 60))
    edits = [
        {
            "prompt": "The capital of {} is",
            "subject": subject,
            "target_new": SUBJECTS[i - 1],
            "rephrase": f"In {subject}",
        }
        for i, subject in enumerate(SUBJECTS)
    ]
    (folder / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    settings = {
        "model": {
            "model": f"{folder}/model",
            "layers": [0, 1],
            "method": {"threshold": 0.5, "threshold_kind": "dimensions", "ridge": 0.01, "smoothing_steps": 2},
            "targets": {"steps": 8, "contexts": 1, "context_length": 4, "learning_rate": 0.5, "clamp": 4.0},
            "preserved": {"corpus": f"{folder}/text.txt", "tokens": 1500, "window": 32},
        },
        "data": {"path": f"{folder}/edits.jsonl", "batch_size": 2, "preserved_count": 2},
        "trainer": {"accelerator": "cpu"},
    }
    (folder / "run.yaml").write_text(json.dumps(settings))
    words = ["fit", "--config", f"method/{method}", "--config", f"{folder}/run.yaml", "--trainer.callbacks", CALLBACKS]
    return [*words, "--model.method.smooth=true"] if method == "alphaedit_plus" else words  # several candidates a batch


def start(words: list[str], folder: Path) -> int:
    """Runs a command in a process of its own, in a folder; gives its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(folder)
        with (
            (folder / "said.txt").open("a") as said,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            try:
                status = aeplus_main(words)
            except BaseException:
                traceback.print_exc(file=said)
    finally:
        os._exit(status)


def ended(child: int, seconds: float | None) -> int | None:
    """The status of a process; ``None`` if it had to be killed after some seconds."""
    end = None if seconds is None else time.perf_counter() + seconds
    while end is None or time.perf_counter() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def weights(folder: Path) -> set[bytes]:
    """The saved models in a folder: of the last run, and of one that was killed when it had saved its own."""
    return {path.read_bytes() for path in folder.rglob("model/model.safetensors")}


def resumed(words: list[str], folder: Path, by_journal: bool) -> list[str]:
    """How the next run goes on from what the last has left."""
    if by_journal:
        return [*words, "--model.journal", str(folder / "journal")]
    kept = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return [*words, "--ckpt_path", str(kept[-1])] if kept else words


def main() -> None:
    """Kills until it has killed enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--method", default="alphaedit_plus")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, kills, chains, without_edits = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        os.environ["AEPLUS_CACHE"] = str(base / "cache")
        words = workplace(base, options.method)
        for name in ("warm", "whole"):  # the first fills the cache of statistics
            (base / name).mkdir()
            began = time.perf_counter()
            if ended(start(words, base / name), None):
                sys.exit((base / name / "said.txt").read_text())
            duration = time.perf_counter() - began
        expected = weights(base / "whole")
        while kills < options.kills:
            folder, by_journal = base / f"chain{chains}", chains % 2 == 1
            folder.mkdir()
            chain, status = 0, None
            while status is None:
                limit = rng.uniform(0, 0.8 * duration) if kills < options.kills else None
                status = ended(start(resumed(words, folder, by_journal), folder), limit)
                if status is None:
                    kills, chain = kills + 1, chain + 1
                    without_edits += not list(folder.rglob("*.ckpt"))
            if status:
                said = (folder / "said.txt").read_text()
                sys.exit(f"chain {chains} ended with status {status} after {chain} kills:\n{said}")
            if weights(folder) != expected:
                sys.exit(f"chain {chains}, after {chain} kills, ended with other weights")
            for journal in {path.parent for path in folder.rglob("journal/*.safetensors")}:
                aeplus.Journal.open(journal).verify()
            hidden = [path for path in folder.rglob(".*") if path.is_dir() or path.suffix == ".tmp"]
            if hidden:
                sys.exit(f"chain {chains}, after {chain} kills, has left {hidden}")
            chains += 1
            shutil.rmtree(folder)
    print(
        f"{options.method}, seed {options.seed}: {kills} kills, {without_edits} of them before the first checkpoint; "
        f"{chains} chains of runs came to their end, all with the weights of a run that nobody killed"
    )


if __name__ == "__main__":
    main()
