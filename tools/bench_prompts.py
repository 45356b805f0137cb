"""`make bench`: dialogues with tools learned two at a time, padded side by side and behind one prompt by `share_prompts`."""
from __future__ import annotations

from bench import machine, print_table, seconds, spread


def bench_prompts(n: int, name: str = "smol-glm3", count: int = 16) -> None:
    "Seconds, tokens and loss of one reading of `count` dialogues of `tool_pairs`, forward and backward."
    import torch

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.data import load_rows
    from chatglm_cookbook.labels import encode_example, share_prompts
    from chatglm_cookbook.memory import adapt, quick_adapters, supervised_loss
    from chatglm_cookbook.train import _Batches
    torch.manual_seed(0)
    model, tokenizer, losses = load_model(name, dtype=torch.bfloat16), load_tokenizer(name), {}
    model = adapt(model, "lora", rank=16, targets="all-linear").train()
    examples, collate = [encode_example(tokenizer, row) for row in load_rows("tool_pairs")[:count]], _Batches(tokenizer)
    lines = share_prompts(examples, 4096, tokenizer, 2)
    batches = {"two rows side by side": [collate(examples[i:i + 2]) for i in range(0, count, 2)],
               "two behind one prompt": [collate([line]) for line in lines]}
    learned = sum(k != -100 for e in examples for k in e["labels"])

    def read(way: str) -> None:
        losses[way] = 0.0
        with quick_adapters(model):
            for batch in batches[way]:
                loss = supervised_loss(model, batch, items=learned)
                loss.backward()
                losses[way] += loss.item()
        model.zero_grad()
    times = seconds({way: lambda way=way: read(way) for way in batches}, n)
    first = next(iter(times))
    rows = [{"dialogues": way, "tokens, padding included": sum(b["input_ids"].numel() for b in batches[way]),
             "dialogues/s": spread([count / t for t in times[way]], "{:.2f}"),
             "× the first": f"{sum(times[first]) / sum(times[way]):.2f}", "loss": f"{losses[way]:.4f}"} for way in batches]
    print_table(f"{count} dialogues with tools, forward and backward", rows,
                f"{name} in bfloat16, LoRA of rank 16 on all linear layers, {machine()}; median of {n} (min–max).")
