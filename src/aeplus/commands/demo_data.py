"""``aeplus demo-data``: its words and its help. Nothing heavy is imported before it runs."""

import argparse
import os

HELP = """\
usage: aeplus demo-data [--model NAME] [--out FOLDER]

Builds the demo's edits (edits.jsonl) and preserved facts (preserved.jsonl) from gensim's questions-words.txt,
with what the model knows.

options:
  --model NAME   hub id, folder, .gguf file or smollm2-135m (default: smollm2-135m)
  --out FOLDER   where to write (default: lightning_logs/demo/data)
"""


def run(words: list[str]) -> int:
    """Builds the demo's edits.

    Args:
        words: The words behind ``aeplus demo-data``.
    """
    parser = argparse.ArgumentParser("aeplus demo-data", add_help=False)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", default=os.path.join("lightning_logs", "demo", "data"))
    options = parser.parse_args(words)
    from pathlib import Path

    from aeplus.data.demo import build_demo, write_demo
    from aeplus.models.loading import load_model

    demo = build_demo(*load_model(options.model))
    edits, preserved = write_demo(demo, Path(options.out))
    print(f"{len(demo.edits)} edits in {edits}, {len(demo.preserved)} preserved facts in {preserved}")
    return 0
