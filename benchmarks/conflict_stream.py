"""Builds a stream in which later edits overwrite previous ones with another answer (conflict with previous edits).

    python benchmarks/conflict_stream.py --edits counterfact.jsonl --out stream.jsonl
    aeplus fit --config model/smollm2-135m --config method/alphaedit_plus --data.path stream.jsonl --data.batch_size 5

From plain JSON Lines with several records per prompt form it takes ``--count`` records that are overwritten later and
``--kept`` that are not, and writes them in random order, then the rewrites: a paraphrase of the same fact, with the
answer of another record of the same form. A method has to replace the first group and to preserve the second. The
rewrites' prompt form is a test paraphrase of the kept edits, and the original form one of the rewrites; a third form
tests both. Neighborhood prompts are those of other records of the same form.
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
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--kept", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records = [json.loads(line) for line in Path(options.edits).read_text(encoding="utf-8").splitlines()]
    forms: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in records:
        forms[record["prompt"]].append(record)
    rng = random.Random(options.seed)
    usable = [r for r in records if len({other["target_new"] for other in forms[r["prompt"]]}) > 2]
    usable = [r for r in usable if r["prompt"].startswith("{}") or r["prompt"].startswith("The")]
    chosen = rng.sample(usable, options.count + options.kept)
    subjects = {record["subject"] for record in chosen}

    def near(record: dict[str, str]) -> list[str]:
        others = [o for o in forms[record["prompt"]] if o["subject"] not in subjects]
        return [o["prompt"].replace("{}", o["subject"]) for o in rng.sample(others, min(5, len(others)))]

    first, later = [], []
    for number, record in enumerate(chosen):
        prompt, subject = record["prompt"], record["subject"]
        plain, lowered = prompt.replace("{}", subject), prompt[0].lower() + prompt[1:]
        news, rewrite = (form.replace("{}", lowered.replace("{}", subject)) for form in (TEST, REWRITE))
        base = {"subject": subject, "fact": f"fact-{number}"}
        edit = {**base, "prompt": prompt, "target_new": record["target_new"]}
        if number >= options.count:
            first.append({**edit, "rephrase": [rewrite, news], "neighborhood": near(record)})
            continue
        first.append(edit)
        answer = rng.choice(sorted({o["target_new"] for o in forms[prompt]} - {record["target_new"]}))
        tests = {"rephrase": [plain, news], "neighborhood": near(record)}
        later.append({**base, "prompt": REWRITE.replace("{}", lowered), "target_new": answer, **tests})
    rng.shuffle(first)
    stream = [*first, *later]
    lines = [json.dumps(record, ensure_ascii=False) for record in stream]
    Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{options.count} edits, their rewrites and {options.kept} edits that stay in {options.out}")


if __name__ == "__main__":
    main()
