"""`make bench`: answers to a test set, one at a time, in batches in the order of the file, and in batches of like length."""
from __future__ import annotations

import random
import statistics
import time

from bench import print_table, spread


def mixed_rows(count: int, seed: int = 0) -> list[dict]:
    "Bundled questions, every fourth with a paragraph of text to read in front of it, in an order drawn by `seed`."
    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.data import load_rows
    rows = [r for r in load_rows(data_file("instructions.jsonl")) if r["language"] == "en" and not r.get("history")]
    texts = [p for p in data_file("text_en.txt").read_text(encoding="utf-8").split("\n\n") if len(p) > 300]
    draw = random.Random(seed)
    short, long = draw.sample(rows, count - count // 4), draw.sample(texts, count // 4)
    found = [{"prompt": "\n".join(filter(None, (r["instruction"], r["input"]))), "response": r["output"]} for r in short]
    found += [{"prompt": f"{text}\n\nWhat is this text about?", "response": text[:100]} for text in long]
    draw.shuffle(found)
    return found


def padded_share(asked: list, size: int) -> float:
    "Share of the prompt columns that are padding in batches of `size`."
    lengths = [len(q.ids) for q in asked]
    batches = [lengths[at:at + size] for at in range(0, len(lengths), size)]
    return 1 - sum(lengths) / sum(len(b) * max(b) for b in batches)


def bench_evaluate(n: int) -> None:
    import torch
    import transformers

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.predict import predictions, questions
    transformers.utils.logging.disable_progress_bar()
    count, size, new = 48, 16, 32
    model, tokenizer = load_model("smol"), load_tokenizer("smol")
    asked = questions(model, tokenizer, mixed_rows(count), max_new_tokens=new)
    ways = {"one at a time (8 of the questions)": (asked[::6], dict(batch_size=1)),
            f"batches of {size}, order of the file": (asked, dict(batch_size=size, sort=False)),
            f"batches of {size}, sorted by length": (asked, dict(batch_size=size))}
    speeds, said = {way: [] for way in ways}, {}
    for turn in range(n + 1):  # the ways take turns; the first turn does not count
        for way, (some, how) in ways.items():
            start = time.perf_counter()
            said[way] = predictions(model, tokenizer, some, max_new_tokens=new, progress=False, **how)
            taken = time.perf_counter() - start
            if turn: speeds[way].append((sum(line["tokens"] + line["stopped"] for line in said[way]) / taken, len(some) / taken))
    _, plain, ordered = said.values()
    same = sum(a["predict"] == b["predict"] for a, b in zip(plain, ordered))
    shares = ["0 %", f"{padded_share(asked, size):.0%}", f"{padded_share(sorted(asked, key=lambda q: -len(q.ids)), size):.0%}"]
    rows, base = [], statistics.median(s for s, _ in [*speeds.values()][1])
    for (way, found), share in zip(speeds.items(), shares):
        tokens, items = zip(*found)
        rows.append({"way": way, "padding of the prompts": share, "tokens/s": spread([*tokens], "{:,.1f}"),
                     "rows/s": spread([*items], "{:,.2f}"), "× order of the file": f"{statistics.median(tokens) / base:.2f}"})
    lengths = sorted(len(q.ids) for q in asked)
    note = (f"smol in float32, {count} questions of {lengths[0]} to {lengths[-1]} tokens, at most {new} new ones, greedy, "
            f"{torch.get_num_threads()} threads; {same} of {count} answers equal in both orders; median of {n} (min–max).")
    print_table("Answers to a test set", rows, note)


if __name__ == "__main__": bench_evaluate(3)
