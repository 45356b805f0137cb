"""`make bench`: P-Tuning v2 by `finetune` beside the original script's padding, and what the claimed 3.7 times is made of."""
from __future__ import annotations

import statistics
import tempfile
import time

from bench import machine, print_table, seconds, shared, spread, vocabulary


def adgen_lengths(file, count: int) -> tuple[list[tuple[int, int]], str]:
    "Tokens of prompt and answer of ADGEN rows as the P-Tuning script cuts them, at 64 each, ends included; and whose rows."
    from sentencepiece import SentencePieceProcessor

    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.data import load_rows
    pieces, real = SentencePieceProcessor(str(file)), shared("data/advertise_gen_dev.jsonl")
    rows = load_rows(real if real.is_file() else data_file("adgen_train.jsonl"))[:count]
    size = lambda text, most: min(len(pieces.EncodeAsIds(text)), most)
    return ([(size(row["content"], 62) + 2, size(row["summary"], 63) + 1) for row in rows],
            "real ADGEN rows" if real.is_file() else "bundled ADGEN-like rows")


def random_rows(lengths: list[tuple[int, int]], vocabulary: int) -> list[dict]:
    "Encoded rows of random ids, with labels on the answer."
    import torch
    torch.manual_seed(0)
    rows = []
    for prompt, answer in lengths:
        ids = torch.randint(3, vocabulary, (prompt + answer,)).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def padded(rows: list[dict], width: int | None) -> dict:
    "A batch of `rows`, each as wide as `width`, or as the longest where that is None."
    import torch
    width = width or max(len(row["labels"]) for row in rows)
    fill = lambda part, value: part + [value] * (width - len(part))
    batch = {"input_ids": [fill(row["input_ids"], 0) for row in rows], "labels": [fill(row["labels"], -100) for row in rows],
             "attention_mask": [fill([1] * len(row["labels"]), 0) for row in rows]}
    return {key: torch.tensor(value) for key, value in batch.items()}


def original_run(name: str, rows: list[dict], length: int, width: int):
    "A run as the original script has it: every row at `width`, the prefix as a filled cache, logits everywhere. Seconds a step."
    import torch
    from torch.nn import functional as F
    from transformers import DynamicCache

    from chatglm_cookbook.checkpoints import load_model
    from chatglm_cookbook.ptuning import PrefixEncoder
    model, found = load_model(name, dtype=torch.float32).requires_grad_(False).train(), []
    encoder = PrefixEncoder(model.config, length)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-2, weight_decay=0.0)
    for at in range(0, len(rows), 4):
        start, batch, cache = time.perf_counter(), padded(rows[at:at + 4], width), DynamicCache()
        for layer, (key, value) in enumerate(encoder(len(batch["labels"]))): cache.update(key, value, layer)
        batch["position_ids"] = torch.arange(width).expand(len(batch["labels"]), -1)
        batch["attention_mask"] = F.pad(batch["attention_mask"], (length, 0), value=1)
        model(**batch, past_key_values=cache, use_cache=True).loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step(), optimizer.zero_grad()
        found.append(time.perf_counter() - start)
    return found


def our_run(name: str, rows: list[dict], length: int) -> list[float]:
    "The same rows by `finetune`. Seconds a step."
    import torch

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.train import finetune
    model = load_model(name, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(model, load_tokenizer(name), rows, "prefix", output=folder, show=False, prefix_length=length,
                          batch_size=4, epochs=1, length=None, report="none")
    return [result.seconds / result.steps] * result.steps


def ptuning_runs(name: str, rows: list[dict], n: int, long_steps: int, length: int = 128) -> list[dict]:
    "A table row for each way to train a prefix of `length` on the same rows: ours, and the original's two paddings."
    few = rows[:4 * long_steps]
    ways = {"finetune: longest of the batch, grouped, logits where a label is": (rows, lambda r: our_run(name, r, length)),
            "the original's way, every row 128": (rows, lambda r: original_run(name, r, length, 128)),
            "the original's way, every row 1024": (few, lambda r: original_run(name, r, length, 1024))}
    times = {way: [] for way in ways}
    for _ in range(n):
        for way, (some, run) in ways.items():
            if "1024" not in way or not times[way]: times[way].append(statistics.mean(run(some)))
    ours = statistics.median(next(iter(times.values())))
    return [{"way": way, "steps": len(ways[way][0]) // 4,
             "real tokens/s": spread([tokens_of(ways[way][0]) / t for t in found], "{:,.1f}"),
             "s/step": spread(found, "{:.2f}"), "× finetune": f"{statistics.median(found) / ours:.2f}"}
            for way, found in times.items()]


def tokens_of(rows: list[dict]) -> float:
    "Mean tokens in a batch of 4 of these rows."
    return 4 * statistics.mean(len(row["labels"]) for row in rows)


def tuned_model(name: str, method: str, size: int):
    "A model in training mode with LoRA of rank `size` on query, key and value, or with a prefix of `size` tokens."
    import torch

    from chatglm_cookbook.checkpoints import load_model
    from chatglm_cookbook.memory import adapt
    sizes = {"rank": size, "dropout": 0.1} if method == "lora" else {"prefix_length": size}
    return adapt(load_model(name, dtype=torch.float32), method, **sizes).train()


def training_step(model, batch: dict):
    "A function that runs one step: forward, backward and the optimizer."
    import torch
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    def step():
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return step


claim_cases = {  # what is varied against the first: method, its size, width of every row (None: the longest of the batch)
    "LoRA, rank 32, longest row": ("lora", 32, None),
    "rank: LoRA, rank 8": ("lora", 8, None),
    "method: prefix of 8": ("prefix", 8, None),
    "prefix length: prefix of 128": ("prefix", 128, None),
    "padding: LoRA, rank 32, every row 128": ("lora", 32, 128),
    "padding: LoRA, rank 32, every row 1024": ("lora", 32, 1024),
    "all of it: prefix of 128, every row 1024": ("prefix", 128, 1024),
}


def claim_apart(name: str, rows: list[dict], n: int) -> list[dict]:
    "A table row for each case of the claimed 3.7 times: seconds of the same step, and how many times those of the first case."
    models, ways = {}, {}
    for case, (method, size, width) in claim_cases.items():
        if (method, size) not in models: models[method, size] = tuned_model(name, method, size)
        ways[case] = training_step(models[method, size], padded(rows, width))
    short = {case: way for case, way in ways.items() if claim_cases[case][2] != 1024}
    times = seconds(short, 3 * n) | seconds({case: way for case, way in ways.items() if case not in short}, n)
    first = statistics.median(times["LoRA, rank 32, longest row"])
    return [{"case": case, "tokens computed": len(rows) * (claim_cases[case][2] or max(len(r["labels"]) for r in rows)),
             "s/step": spread(times[case], "{:.2f}"), "× first": f"{statistics.median(times[case]) / first:.2f}"}
            for case in claim_cases]


def bench_ptuning(n: int, steps: int = 20, long_steps: int = 5, name: str = "smol") -> None:
    from chatglm_cookbook.checkpoints import load_tokenizer
    file, kind = vocabulary()
    lengths, whose = adgen_lengths(file, 4 * steps)
    rows = random_rows(lengths, len(load_tokenizer(name)) - 50)
    sizes = sorted(sum(pair) for pair in lengths)
    note = (f"{machine()}; `{name}` in float32, batch 4, random ids; lengths of {whose} by {kind}, "
            f"{sizes[0]} to {sizes[-1]} tokens, median {statistics.median(sizes):.0f}; seed 0")
    print_table("P-Tuning, prefix of 128", ptuning_runs(name, rows, n, long_steps),
                f"{note}; median over {n} runs (range), the longest way once")
    print_table("Where LoRA's 3.7 times can come from", claim_apart(name, rows[:4], n),
                f"{note}; one batch of {', '.join(str(sum(p)) for p in lengths[:4])} tokens, {3 * n} steps in turn, at 1024 {n}")
