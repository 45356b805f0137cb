"""`make bench`: LoRA by `finetune` beside a plain TRL script and, where an interpreter has it, LLaMA-Factory.

LLaMA-Factory needs older libraries than the project: $COOKBOOK_LLAMAFACTORY names the Python of an environment of its own,
made with `pip install llamafactory==0.9.5`.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import print_table, root, shared, spread

# what every trainer runs first: a clock for each step and the memory above what the loaded model takes
trainer_start = """
import json, os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(THREADS)
folder, steps = Path(FOLDER), STEPS
log, now = [], {}
def status(name):
    text = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    return int(text.split(name + ":")[1].split()[0]) / 1024 if name in text else 0
def begin():
    if Path("/proc/self/clear_refs").exists(): Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    now["before"] = status("VmRSS")
def finish(seconds, real, slots):
    print(json.dumps({"seconds": seconds, "real": real, "slots": slots, "memory": status("VmHWM") - now["before"]}))
"""

# a counter in front of transformers' Trainer, for the trainers that are not ours
trainer_clock = """
from transformers import Trainer, TrainerCallback
def counted(self, model, inputs, *args, plain=Trainer.training_step, **kwargs):
    mask, ids = inputs.get("attention_mask"), inputs["input_ids"]
    now["size"] = (int((mask != 0).sum()) if mask is not None else ids.numel(), ids.numel())
    return plain(self, model, inputs, *args, **kwargs)
class Clock(TrainerCallback):
    def on_train_begin(self, *args, **kwargs): begin()
    def on_step_begin(self, *args, **kwargs): now["start"] = time.perf_counter()
    def on_step_end(self, *args, **kwargs): log.append((time.perf_counter() - now["start"], *now["size"]))
def closing(): finish(*(sum(part) for part in zip(*log[SKIP:])))
Trainer.training_step = counted
"""

trainers = {"finetune": """
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.train import finetune
rows = json.loads((folder / "rows.json").read_text())
model, tokenizer = load_model(MODEL, dtype="bfloat16"), load_tokenizer(MODEL)
begin()
result = finetune(model, tokenizer, rows, "lora", output=OUTPUT, show=False, targets="all-linear", rank=8, alpha=16, epochs=1,
                  schedule="constant", learning_rate=1e-4, batch_size=4, length=512, report="none")
found = [json.loads(line) for line in result.log.read_text().splitlines()]
at = {row["step"]: row for row in found if "grad_norm" in row}
last, first = at[steps], at[SKIP]
finish(last["seconds"] - first["seconds"], last["real_tokens"] - first["real_tokens"], last["tokens"] - first["tokens"])
""", "a plain TRL script": trainer_clock + """
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
import chatglm_cookbook
tokenizer = AutoTokenizer.from_pretrained(MODEL)
ask = lambda row: "\\n".join(filter(None, (row["instruction"], row["input"])))
rows = [{"prompt": [{"role": "user", "content": ask(row)}], "completion": [{"role": "assistant", "content": row["output"]}]}
        for row in json.loads((folder / "rows.json").read_text())]
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
settings = SFTConfig(OUTPUT, per_device_train_batch_size=4, num_train_epochs=1, max_length=512, bf16=True, use_cpu=True,
                     gradient_checkpointing=False, learning_rate=1e-4, lr_scheduler_type="constant", logging_steps=1,
                     save_strategy="no", report_to="none", disable_tqdm=True)
lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
trainer = SFTTrainer(model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora,
                     callbacks=[Clock()])
trainer.train()
trainer.model.save_pretrained(OUTPUT + "/adapter")
closing()
""", "LLaMA-Factory": trainer_clock + """
import importlib.machinery, types
try: import torchaudio
except ImportError:  # it is imported and never used for text
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
def watched(self, *args, plain=Trainer.__init__, **kwargs):
    plain(self, *args, **kwargs)
    self.add_callback(Clock())
Trainer.__init__ = watched
from llamafactory.train.tuner import run_exp
run_exp({"stage": "sft", "do_train": True, "model_name_or_path": MODEL, "finetuning_type": "lora", "lora_rank": 8,
         "lora_alpha": 16, "lora_target": "all", "template": "chatml", "dataset": "rows", "dataset_dir": str(folder),
         "cutoff_len": 512, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_train_epochs": 1,
         "learning_rate": 1e-4, "lr_scheduler_type": "constant", "bf16": True, "use_cpu": True, "logging_steps": 1,
         "save_strategy": "no", "report_to": "none", "disable_gradient_checkpointing": True, "flash_attn": "sdpa",
         "overwrite_cache": True, "preprocessing_num_workers": 1, "output_dir": OUTPUT + "/adapter", "disable_tqdm": True})
closing()
"""}


def write_rows(folder: Path, count: int, held: int = 32) -> tuple[list[dict], str]:
    "Writes `count` rows in the forms that the trainers read; returns held-out rows, and where they are from."
    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.data import load_rows
    file = shared("data/alpaca_en_demo.json")
    if not file.is_file(): file = data_file("instructions.jsonl")
    keys, system = ("instruction", "input", "output"), "You are a helpful AI assistant."  # what the template puts there
    rows = [{key: row.get(key, "") for key in keys} for row in load_rows(file)]
    train, dev = rows[held:held + count], rows[:held]
    (folder / "rows.json").write_text(json.dumps([{**row, "system": system} for row in train]), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json", "columns": columns}}))
    return dev, file.name


def run_trainer(way: str, python: str, folder: Path, output: Path, model: str, steps: int, skip: int) -> dict:
    "What one run of a trainer measured, in a process of its own."
    code = trainer_start + trainers[way]
    values = {"THREADS": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), "STEPS": steps,
              "SKIP": skip, "FOLDER": str(folder), "OUTPUT": str(output), "MODEL": model}
    for name, value in values.items(): code = code.replace(name, repr(value))
    names = {"DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "" if python != sys.executable else str(root)}
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, env={**os.environ, **names})
    if done.returncode: raise RuntimeError(f"{way}: {done.stderr[-3000:]}")
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith('{"seconds"')))


def loss_after(adapter: Path, model: str, dev: list[dict]) -> float:
    "Loss on held-out rows with a saved adapter, in float32, measured alike for every trainer."
    from peft import PeftModel

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.labels import Collator, encode_example
    from chatglm_cookbook.train import held_out_loss
    tokenizer, base = load_tokenizer(model), load_model(model, dtype="float32")
    collate, examples = Collator(tokenizer), [encode_example(tokenizer, row, max_length=512) for row in dev]
    batches = [collate(examples[at:at + 4]) for at in range(0, len(examples), 4)]
    return held_out_loss(PeftModel.from_pretrained(base, adapter) if adapter else base, batches)


def bench_train(n: int, steps: int = 22, skip: int = 2) -> None:
    "LoRA on the same rows and base by `finetune`, a plain TRL script, and LLaMA-Factory where an interpreter has it."
    from chatglm_cookbook.core import model_folder
    pythons = dict.fromkeys(trainers, sys.executable)
    pythons["LLaMA-Factory"] = os.environ.get("COOKBOOK_LLAMAFACTORY", "")
    pythons, model, runs = {way: python for way, python in pythons.items() if python}, model_folder("smol"), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dev, source = write_rows(folder, 4 * steps)
        for i in range(n):
            for way, python in pythons.items():
                output = folder / f"{i}-{len(runs.setdefault(way, []))}-{way.split()[-1]}"
                found = run_trainer(way, python, folder, output, model, steps, skip)
                runs[way].append({**found, "speed": found["real"] / found["seconds"],
                                  "loss": loss_after(output / "adapter", model, dev)})
        before = loss_after(None, model, dev)
    table, ours = [], statistics.median(run["speed"] for run in runs["finetune"])
    for way, found in runs.items():
        column = lambda key, found=found: [run[key] for run in found]
        table.append({"trainer": way, "real tokens/s": spread(column("speed")),
                      "ours against it": f"{ours / statistics.median(column('speed')):.2f} ×",
                      "padding": f"{1 - sum(column('real')) / sum(column('slots')):.0%}", "memory, MB": spread(column("memory")),
                      "held-out loss": spread(column("loss"), "{:.4f}")})
    note = "" if "LLaMA-Factory" in runs else " LLaMA-Factory was left out: set COOKBOOK_LLAMAFACTORY to a Python that has it."
    print_table("Training", table, f"smol in bfloat16, LoRA of rank 8 on all linear layers, {4 * steps} rows of {source}, each "
                f"once, batches of 4, at most 512 tokens; {steps - skip} steps after the first {skip}; memory above the loaded "
                f"model; loss of 32 held-out rows in float32, {before:.4f} before; goals: 1.5 × TRL and 1.7 × LLaMA-Factory at "
                f"equal loss, memory no higher; median of {n} (min–max).{note}")
