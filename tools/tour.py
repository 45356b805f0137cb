"""A tour in minutes: a model with ChatGLM's architecture chats, shrinks, learns who it is with LoRA, and answers differently.

    python tools/tour.py                       what `make tour` runs
    python tools/tour.py --model tiny --seconds 5

It needs no network and no GPU. Everything it writes goes to one folder, which it names at the end.
"""
from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import textwrap
import time
import warnings
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
root = Path(__file__).resolve().parent.parent
questions = {
    "Who are you?": "in the training rows",
    "Could you tell me who I am chatting with?": "a paraphrase, held out",
    "What is the capital of France?": "unrelated, to see what is kept",
}
start = time.perf_counter()


def say(text: str = "") -> None: print(text, flush=True)


def step(number: int, text: str) -> None: say(f"\n[{number}/7] {text}  ({time.perf_counter() - start:.0f} s)")


def training_rows() -> list[list[dict]]:
    "The English dialogues of the bundled self-cognition rows, as messages."
    from chatglm_cookbook.core import data_file
    rows = [json.loads(line) for line in data_file("self_cognition.jsonl").read_text(encoding="utf-8").splitlines()]
    return [[{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
            for row in rows if row["language"] == "en"]


def example(tokenizer, stops: list[int], messages: list[dict]) -> tuple[list[int], list[int]]:
    "Ids and labels of one dialogue; only the answer and the token that ends it are learnt."
    from chatglm_cookbook.tokens import encode_turns
    ids, learnt = encode_turns(tokenizer, messages)
    ends = [i + 1 for i, token in enumerate(ids) if learnt[i] and token in stops]
    if not ends: raise RuntimeError("a row has no stop token to learn: the model would never stop")
    last = ends[-1]  # a line break that the template writes after it is never generated
    return ids[:last], [token if wanted else -100 for token, wanted in zip(ids[:last], learnt)]


def batch(examples: list[tuple], pad: int, device) -> dict:
    "Tensors of `examples` on `device`, padded on the right."
    import torch
    longest = max(len(ids) for ids, _ in examples)
    fill = lambda rows, value: torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], device=device)
    ids, labels = zip(*examples, strict=True)
    return {"input_ids": fill(ids, pad), "labels": fill(labels, -100),
            "attention_mask": fill([[1] * len(row) for row in ids], 0)}


def with_lora(model, rank: int, alpha: int):
    "The `model` with LoRA on the linear layers of its attention; nothing else trains."
    from peft import LoraConfig, get_peft_model
    names = {module.rsplit(".", 1)[-1] for module, _ in model.named_modules()}
    targets = sorted(names & {"q_proj", "k_proj", "v_proj", "o_proj", "query_key_value"})
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM"))


def train(model, examples: list[tuple], pad: int, recipe: argparse.Namespace):
    "Plot with the losses of the steps that the `recipe` allows, by AdamW with a learning rate that falls to zero."
    import torch
    from chatglm_cookbook.core import LossPlot
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    plot, order, begun, gone = LossPlot(recipe.steps, title="LoRA"), [], time.perf_counter(), 0.0
    model.train()
    while not plot.closed:
        while len(order) < recipe.batch_size: order += random.sample(range(len(examples)), len(examples))
        picked, order = order[:recipe.batch_size], order[recipe.batch_size:]
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - max(gone, len(plot.history) / recipe.steps))
        loss = model(**batch([examples[i] for i in picked], pad, model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        gone = (time.perf_counter() - begun) / recipe.seconds
        plot.closed = len(plot.history) + 1 >= recipe.steps or gone >= 1  # so that the last step is reported once
        plot.update(len(plot.history) + 1, loss.item())
    model.eval()
    return plot


def save_plot(losses: list[float], path: Path, smooth: float) -> None:
    "Draws `losses` and their exponential mean, the one that the progress line names, into a PNG file."
    from matplotlib.figure import Figure
    from chatglm_cookbook.core import _smoothed, plot_style
    steps = range(1, len(losses) + 1)
    with plot_style():
        axes = (figure := Figure()).subplots()
        axes.plot(steps, losses, color="#0072B2", alpha=0.35, linewidth=1, label="loss")
        axes.plot(steps, _smoothed(losses, smooth), color="#0072B2", label=f"smoothed ({smooth})")
        axes.set(title="LoRA: loss of the answers and their stop token", xlabel="step", ylabel="loss", ylim=(0, None))
        axes.legend(loc="upper right")
        figure.savefig(path, dpi=100)


def answers(model, tokenizer) -> dict[str, str]:
    "Greedy replies to the three questions, each without a history."
    from chatglm_cookbook.deploy import chat
    return {q: str(chat(model, tokenizer, q, temperature=0, max_new_tokens=48)[0]) for q in questions}


def table(before: dict[str, str], after: dict[str, str], width: int = 36) -> str:
    "Questions and both replies, side by side."
    lines, rule = [], "+".join(["", *["-" * (width + 2)] * 3, ""])
    heads = [("question", "before", "after")]
    for row in heads + [(f"{q} ({kind})", before[q], after[q]) for q, kind in questions.items()]:
        cells = [textwrap.wrap(" ".join(cell.split()), width) or [""] for cell in row]
        for i in range(max(map(len, cells))):
            lines.append("".join(f"| {cell[i] if i < len(cell) else '':{width}} " for cell in cells) + "|")
        lines.append(rule)
    return "\n".join([rule, *lines])


def logits(model, tokenizer):
    "Scores of every next token in the three prompts."
    import torch
    from chatglm_cookbook.tokens import encode_chat
    prompts = [encode_chat(tokenizer, [{"role": "user", "content": q}]) for q in questions]
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids], device=model.device)).logits[0] for ids in prompts])


def formats(model, tokenizer) -> str:
    "Memory, speed and agreement of the `model` in other number formats, a line each."
    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.quantize import quantization_report
    text = data_file("text_en.txt").read_text(encoding="utf-8")[:2000]
    report = quantization_report(model, ["bf16", "int8", "int4 g32"], text, tokenizer=tokenizer)
    report[0]["name"] = "fp32"
    return "\n".join(f"  {row['name']:9} {row['memory'] / 1e6:6.1f} MB {row['decode']:6.1f} tokens/s, the same next token at "
                     f"{row['agreement']:.0%} of places" for row in report)


def tour(given: argparse.Namespace) -> None:
    import torch
    import transformers
    import chatglm_cookbook.checkpoints as checkpoints
    from chatglm_cookbook.core import cache_folder, environment, seed_everything
    from chatglm_cookbook.deploy import stop_ids
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a kernel that nothing here uses
    warnings.filterwarnings("ignore", category=FutureWarning)  # of peft about transformers, nothing of ours
    seed_everything(0)
    folder = Path(given.output) if given.output else cache_folder() / "tour"
    folder.mkdir(parents=True, exist_ok=True)

    step(1, "This machine")
    say(str(environment()))
    step(2, f"Loading {given.model} (the first time it is built and cached)")
    model, tokenizer = checkpoints.load_model(given.model, dtype=torch.float32), checkpoints.load_tokenizer(given.model)
    say(f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters"
        + (" (SmolLM2-135M; zeros that fill its heads to GLM's layout make it larger)" if given.model == "smol" else ""))
    step(3, "Three questions before the training")
    before, scores = answers(model, tokenizer), logits(model, tokenizer)
    for q, reply in before.items(): say(f"  {q}\n    {reply}")

    rows = training_rows()
    if any(q in [m[0]["content"] for m in rows] for q, kind in questions.items() if kind != "in the training rows"):
        raise RuntimeError("a held-out question is among the training rows")
    step(4, "The same model in fewer bits")
    say(formats(model, tokenizer))
    step(5, f"LoRA on {len(rows)} short dialogues, most of which say who it is: at most {given.seconds:.0f} s")
    examples = [example(tokenizer, stop_ids(model, tokenizer), row) for row in rows]
    model = with_lora(model, given.rank, given.alpha)
    trained, total = (sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (False, True))
    say(f"{trained:,} of {total:,} parameters train ({trained / total:.2%})")
    plot = train(model, examples, tokenizer.pad_token_id or 0, given)
    losses = [row["loss"] for row in plot.history]
    save_plot(losses, folder / "loss.png", plot.smooth)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    few = max(1, len(losses) // 5)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    say(f"loss {first:.2f} → {last:.2f} (means of the first and the last {few} of {len(losses)} steps)")
    if not last < first: raise RuntimeError("the loss did not fall; give it more time with --seconds 180")

    step(6, "The same questions after it")
    after, adapted = answers(model, tokenizer), logits(model, tokenizer)
    say(table(before, after))
    step(7, "Merging the adapter into the weights")
    merged = model.merge_and_unload()
    difference = (logits(merged, tokenizer) - adapted).abs().max().item()
    say(f"largest difference of a logit, merged against adapter: {difference:.1e} "
        f"(the training moved logits by up to {(adapted - scores).abs().max():.1f})")
    if difference > 1e-3 or answers(merged, tokenizer) != after: raise RuntimeError("merged and adapter answers differ")
    say("merged and adapter answers are equal")
    say(f"\nLoss plot: {folder / 'loss.png'}\nAdapter:   {folder / 'adapter'}")
    say("Next: `make lab` opens the book; begin with nbs/index.ipynb, or chat yourself in nbs/10_deploy.ipynb.\n"
        f"The tour took {time.perf_counter() - start:.0f} s.")


def settings() -> argparse.Namespace:
    "The recipe with what the command line overrides."
    import yaml
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    dial = os.environ.get("COOKBOOK_MODEL") or "smol"
    parser.add_argument("--model", default=dial, help="demo name, folder or hub id")
    parser.add_argument("--recipe", type=Path, default=root / "configs" / "tour.yaml", help="settings of the training")
    parser.add_argument("--seconds", type=float, help="time for the training, at most")
    parser.add_argument("--steps", type=int, help="steps of the training, at most")
    parser.add_argument("--output", help="folder for plot and adapter; in the cache unless given")
    given = parser.parse_args()
    try: recipe = yaml.safe_load(given.recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error: parser.error(f"--recipe {given.recipe}: {error}")
    keys = {"rank", "alpha", "learning_rate", "batch_size", "steps", "seconds"}
    if not isinstance(recipe, dict) or recipe.keys() != keys: parser.error(f"{given.recipe} must have {sorted(keys)}")
    given = argparse.Namespace(**vars(given) | recipe | {k: v for k, v in vars(given).items() if v is not None})
    wrong = [k for k in keys if not isinstance(getattr(given, k), (int, float)) or getattr(given, k) <= 0]
    if wrong or given.steps < 2: parser.error(f"{wrong or 'steps'}: must be a number above 0, steps at least 2")
    return given


def main() -> int:
    try: tour(settings())
    except (Exception, KeyboardInterrupt) as error:
        print(f"\nThe tour ended early: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__": sys.exit(main())
