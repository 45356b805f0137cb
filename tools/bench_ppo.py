"""Peak memory of PPO beside LoRA by `finetune`: the same base, rows at a time and tokens of a row, each in a process of its own.

    python tools/bench_ppo.py                     # smol, 8 rows of 64 + 64 tokens
    python tools/bench_ppo.py tiny 4 16 16        # model, rows, tokens of prompt and of reply
"""
from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
steps = 2


def supervised(model, tokenizer, prompts, reply: int, folder: str) -> float:
    "Bytes above the loaded model that LoRA took at most."
    from chatglm_cookbook.train import finetune
    ids = [p + (prompts[0] * reply)[:reply] for p in prompts]
    rows = [{"input_ids": row, "labels": [-100] * len(p) + row[len(p):]} for p, row in zip(prompts, ids)]
    return finetune(model, tokenizer, rows, output=folder, steps=steps, batch_size=len(rows), show=False, report="none").grown


def ppo(model, tokenizer, prompts, reply: int, folder: str) -> float:
    "Bytes above the loaded model that PPO took at most, generation included; every reply has its full length."
    from chatglm_cookbook.memory import keep_freed_memory, process_growth
    from chatglm_cookbook.ppo import PPOTrainer
    keep_freed_memory()
    trainer = PPOTrainer(model, tokenizer, prompts, lambda prompts, replies: [float(len(r)) for r in replies], output=folder,
                         batch_size=len(prompts), minibatch=len(prompts), max_new_tokens=reply, epochs=2, show=False,
                         report="none", kl_limit=100)
    trainer.ends = [trainer.ends[0]]
    trainer.shut[trainer.ends[0]] = True
    with process_growth() as growth:
        trainer.train(steps)
        return growth()


def measure(kind: str, name: str, rows: int, prompt: int, reply: int) -> None:
    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    model, tokenizer, draw = load_model(name, dtype="float32"), load_tokenizer(name), random.Random(0)
    prompts = [[draw.randrange(100, 1000) for _ in range(prompt)] for _ in range(rows)]
    train = {"sft": supervised, "ppo": ppo}[kind]
    with tempfile.TemporaryDirectory() as folder: grown = train(model, tokenizer, prompts, reply, folder)
    print(json.dumps({"grown": grown, "weights": sum(p.numel() * p.element_size() for p in model.parameters())}))


def main(name: str = "smol", rows: str = "8", prompt: str = "64", reply: str = "64") -> None:
    found = {}
    for kind in ("sft", "ppo"):
        command = [sys.executable, __file__, kind, name, rows, prompt, reply]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    whole = {kind: one["grown"] + one["weights"] for kind, one in found.items()}
    print(f"{name}, {rows} rows of {prompt} + {reply} tokens, float32, peak above the libraries")
    for kind, one in found.items(): print(f"  {kind}: weights {one['weights'] / 1e6:.0f} MB and {one['grown'] / 1e6:.0f} MB more")
    print(f"  PPO / LoRA: {whole['ppo'] / whole['sft']:.2f} (aim: at most 1.35)")


def bench_ppo(n: int) -> None:
    "The same from `make bench`, `n` times."
    for _ in range(n): main()


if __name__ == "__main__":
    if sys.argv[1:2] in (["sft"], ["ppo"]): measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
    else: main(*sys.argv[1:])
