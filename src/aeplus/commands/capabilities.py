"""``aeplus capabilities``: its words and its help. Nothing heavy is imported before it runs."""

import argparse

HELP = """\
usage: aeplus capabilities --model NAME --data FOLDER [options]
       aeplus capabilities --model NAME --harness TASKS [options]

Measures a model, edited or not, on SST-2, MRPC, MMLU, RTE, CoLA and NLI: weighted F1, accuracy, and Matthews'
correlation for CoLA. docs/capabilities.md shows the prompts.

options:
  --model NAME     hub id, folder (such as the model that JournalWriter saves), .gguf file or smollm2-135m
  --data FOLDER    a folder with <task>.jsonl for each task, or hub for their data sets on the hub
  --tasks LIST     tasks out of sst2, mrpc, mmlu, rte, cola and nli, separated by commas or spaces, or all
                   (default: all)
  --limit NUMBER   items of each task, drawn by the seed, or all (default: 100; with --harness all)
  --shots NUMBER   solved examples before each item (default: 0; with --harness what each task asks for)
  --scoring WORD   likelihood takes the likeliest option, generation the first that a greedy continuation names
                   (default: likelihood)
  --seed NUMBER    seed of the items and the examples (default: 0)
  --batch-tokens NUMBER
                   tokens run at once (default: 2048)
  --dtype WORD     dtype of the weights: auto, float32, bfloat16 or float16 (default: auto, the checkpoint's)
  --device NAME    such as cpu or cuda:0 (default: cuda if there is one, else cpu)
  --out FILE       write the figures as JSON
  --harness TASKS  run tasks of EleutherAI's harness (pip install 'lm-eval>=0.4.13') instead: their names, or task files
                   (.yaml), separated by commas or spaces

examples:
  aeplus capabilities --model lightning_logs/edits/version_0/model --data data/capabilities --out after.json
  aeplus capabilities --model smollm2-135m --harness hellaswag,piqa --limit 200
"""


def run(words: list[str]) -> int:
    """Measures a model on general tasks.

    Args:
        words: The words behind ``aeplus capabilities``.
    """
    parser = argparse.ArgumentParser("aeplus capabilities", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=["all"])
    parser.add_argument("--limit")
    parser.add_argument("--shots", type=int)
    parser.add_argument("--scoring", default="likelihood")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--device")
    parser.add_argument("--out")
    parser.add_argument("--harness", nargs="+")
    given = parser.parse_args(words)
    from aeplus.capabilities.command import measure_model

    measure_model(given)
    return 0
