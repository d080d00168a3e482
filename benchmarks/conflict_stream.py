r"""Builds a stream in which edits are later rewritten with another answer (conflict with prior edits).

    python benchmarks/conflict_stream.py --edits counterfact.jsonl --out stream.jsonl
    aeplus fit --config configs/model/smollm2-135m.yaml --config configs/method/alphaedit_plus.yaml \
        --data.path stream.jsonl --data.batch_size 5

From plain JSON Lines with several records per prompt form it takes ``--count`` records and writes them, then as
many rewrites: the same fact in other words, with the answer of another record of the same form. The first words
are a rewrite's test paraphrase, beside a third form. Its neighbours are other records' prompts of the form.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

REWRITE, TEST = "It is said that {}", "According to the latest news, {}"


def main() -> None:
    """Writes the stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records = [json.loads(line) for line in Path(options.edits).read_text(encoding="utf-8").splitlines()]
    forms: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in records:
        forms[record["prompt"]].append(record)
    chance = random.Random(options.seed)
    usable = [r for r in records if len({other["target_new"] for other in forms[r["prompt"]]}) > 2]
    usable = [r for r in usable if r["prompt"].startswith("{}") or r["prompt"].startswith("The")]
    chosen = chance.sample(usable, options.count)
    stream = []
    for number, record in enumerate(chosen):
        base = {"subject": record["subject"], "fact": f"fact-{number}"}
        stream.append({**base, "prompt": record["prompt"], "target_new": record["target_new"]})
    subjects = {record["subject"] for record in chosen}
    for number, record in enumerate(chosen):
        others = [o for o in forms[record["prompt"]] if o["subject"] not in subjects]
        near = [o["prompt"].replace("{}", o["subject"]) for o in chance.sample(others, min(5, len(others)))]
        answers = sorted({o["target_new"] for o in forms[record["prompt"]]} - {record["target_new"]})
        prompt = record["prompt"]
        lowered = prompt[0].lower() + prompt[1:]
        question = lowered.replace("{}", record["subject"])
        stream.append(
            {
                "prompt": REWRITE.replace("{}", lowered),
                "subject": record["subject"],
                "target_new": chance.choice(answers),
                "rephrase": [prompt.replace("{}", record["subject"]), TEST.replace("{}", question)],
                "neighborhood": near,
                "fact": f"fact-{number}",
            }
        )
    lines = [json.dumps(record, ensure_ascii=False) for record in stream]
    Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{options.count} edits and their rewrites in {options.out}")


if __name__ == "__main__":
    main()
