"""Speed and memory on this machine, each figure beside what it is measured against, in one run.

    python tools/bench.py                      what `make bench` runs
    python tools/bench.py --only encode import

Every figure is the median of n runs with the smallest and the largest, and ways to do the same thing take turns, so that
a busy moment meets them all; still, run it on a machine that does nothing else.
"""
from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "true"  # a batch is measured as it is used, on all cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
root = Path(__file__).resolve().parent.parent


def machine() -> str:
    "Processor, cores and the instruction sets that matter, in one line."
    try: info = Path("/proc/cpuinfo").read_text()
    except OSError: info = ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in fields.get("flags", "").split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{fields.get('model name') or platform.processor() or platform.machine()}, {cores} cores, {' '.join(flags)}"


def seconds(ways: dict, n: int) -> dict[str, list[float]]:
    "Times of each of `ways` in `n` rounds that take them in turn, after one round that does not count."
    times = {way: [] for way in ways}
    for i in range(n + 1):
        for way, action in ways.items():
            start = time.perf_counter()
            action()
            if i: times[way].append(time.perf_counter() - start)
    return times


def spread(values: list[float], form: str = "{:,.0f}") -> str:
    "Median of `values` with their range."
    show = form.format
    return f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))})"


def print_table(title: str, rows: list[dict], note: str = "") -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows: print("| " + " | ".join(map(str, row.values())) + " |")
    if note: print(f"\n{note}")
    sys.stdout.flush()


def shared(file: str) -> Path:
    "Where `file` of the real data lies, if it is here: the folder $COOKBOOK_SHARED, else `shared` beside the repository."
    return Path(os.environ.get("COOKBOOK_SHARED") or root.parent / "shared") / file


def vocabulary() -> tuple[Path, str]:
    "A sentencepiece model of ChatGLM2/3: the real one where it can be found, else the small bundled one."
    real = shared("golden/tokenizer/tokenizer.model")
    if real.is_file(): return real, "the real vocabulary of ChatGLM3, 64 789 pieces"
    from chatglm_cookbook.core import model_folder
    return Path(model_folder("tiny-v3")) / "tokenizer.model", "the small bundled vocabulary (the real one is not here)"


def short_rows(count: int = 2000) -> list[str]:
    "Rows of the length of an instruction, Chinese and English, from the bundled data."
    from chatglm_cookbook.core import data_file
    lines = data_file("tiny_tokenizer/text.txt").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in data_file("self_cognition.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line.strip()] + [f"{row['instruction']} {row['output']}" for row in rows]
    return (lines * (count // len(lines) + 1))[:count]


def long_rows(count: int = 2000) -> tuple[list[str], str]:
    "Rows of the length of an answer: Alpaca data where it is here, else several short rows in one."
    files = [shared(f"data/alpaca_{language}_demo.json") for language in ("zh", "en")]
    if not all(file.is_file() for file in files):
        rows = short_rows(15 * count)
        return ["\n".join(rows[i::count]) for i in range(count)], "bundled rows, 15 in one"
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = ["\n".join([row["instruction"], row["input"], row["output"]]) for pair in zip(*found) for row in pair]
    return rows[:count], "Alpaca, Chinese and English"


def row_by_row(file: Path, roles: dict[str, int]):
    """A tokenizer that takes the steps of the original class, on the Python base class of the transformers used here.

    The original splits at special tokens (base class), asks sentencepiece for the pieces of a text and then for the id
    of each piece by a call of its own, puts [gMASK] sop in front, and adds a mask and positions to every row.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizer

    class RowByRow(PreTrainedTokenizer):
        model_input_names = ["input_ids", "attention_mask", "position_ids"]

        def __init__(self):
            self.pieces, self.roles = SentencePieceProcessor(str(file)), roles
            super().__init__(pad_token="<unk>", unk_token="<unk>", eos_token="</s>", special_tokens_pattern="none")

        @property
        def vocab_size(self): return self.pieces.GetPieceSize()

        def get_vocab(self): return {self.pieces.IdToPiece(i): i for i in range(self.vocab_size)}

        def _tokenize(self, text, **kwargs): return self.pieces.EncodeAsPieces(text)

        def _convert_token_to_id(self, token):
            return self.roles[token] if token in self.roles else self.pieces.PieceToId(token)

        def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
            return [self.roles["[gMASK]"], self.roles["sop"]] + token_ids_0

        def _pad(self, encoded_inputs, *args, **kwargs):
            size = len(encoded_inputs["input_ids"])
            encoded_inputs["attention_mask"], encoded_inputs["position_ids"] = [1] * size, list(range(size))
            return encoded_inputs
    return RowByRow()


def encode_speeds(fast, file: Path, rows: list[str], n: int) -> list[dict]:
    "One row of the table for each way of encoding `rows`; raises `RuntimeError` where the ids differ."
    from sentencepiece import SentencePieceProcessor
    slow, raw, first = row_by_row(file, fast._control()), SentencePieceProcessor(str(file)), fast("").input_ids
    def by_pieces(row): return first + [raw.PieceToId(piece) for piece in raw.EncodeAsPieces(row)]
    ways = {"fast tokenizer, one batch": lambda: fast(rows)["input_ids"],
            "the same with truncation and padding to 512": lambda: fast(rows, truncation=True, max_length=512, padding=True),
            "tokenizer.encode, row by row": lambda: [fast.encode(row) for row in rows],
            "the steps of the original class, row by row": lambda: [slow.encode(row) for row in rows],
            "of these only sentencepiece's pieces and ids": lambda: [by_pieces(row) for row in rows],
            "sentencepiece straight to ids, row by row": lambda: [first + raw.EncodeAsIds(row) for row in rows],
            "sentencepiece straight to ids, one list, 2 threads": lambda: raw.EncodeAsIds(rows, num_threads=2)}
    want = ways["fast tokenizer, one batch"]()
    for way, action in list(ways.items())[2:6]:
        if action() != want: raise RuntimeError(f"{way}: ids differ")
    times = seconds(ways, n)
    base = statistics.median(times["the steps of the original class, row by row"])
    return [{"way": way, "rows/s": spread([len(rows) / t for t in found]),
             "× original": f"{base / statistics.median(found):.1f}"} for way, found in times.items()]


def bench_encode(n: int) -> None:
    import shutil
    import tempfile
    from transformers import AutoTokenizer

    from chatglm_cookbook.core import model_folder
    file, which = vocabulary()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model_folder("tiny-v3"), folder, dirs_exist_ok=True)
        shutil.copy(file, Path(folder) / "tokenizer.model")
        fast = AutoTokenizer.from_pretrained(folder)
    for kind, (rows, source) in {"short": (short_rows(), "bundled data"), "long": long_rows()}.items():
        tokens = statistics.mean(map(len, fast(rows)["input_ids"]))
        print_table(f"Encoding, {kind} rows", encode_speeds(fast, file, rows, n),
                    f"{len(rows):,} rows of {tokens:.0f} tokens on average ({source}), {which}; ids identical; goal for "
                    f"the batch: 4 × the original's steps; median of {n} (min–max).")


def fresh(code: str) -> list:
    "What `code` prints as JSON in a new process."
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench_import(n: int) -> None:
    code = """
import json, time
a = time.perf_counter(); import transformers
b = time.perf_counter(); import chatglm_cookbook
c = time.perf_counter(); from transformers import AutoModelForCausalLM, AutoTokenizer
d = time.perf_counter(); print(json.dumps([b - a, c - b, d - c]))"""
    plain = code.replace("import chatglm_cookbook", "pass")
    fresh(code)
    runs, bare = zip(*((fresh(code), fresh(plain)) for _ in range(n)), strict=True)
    first, ours, auto = zip(*runs, strict=True)
    alone = [run[2] for run in bare]
    rows = [("import transformers", first, ""), ("import chatglm_cookbook after it", ours, "≤ 0.3"),
            ("then from transformers import AutoModelForCausalLM, AutoTokenizer", auto, ""),
            ("the same without chatglm_cookbook", alone, "")]
    table = [{"statement": name, "seconds": spread(list(t), "{:.3f}"), "goal": goal} for name, t, goal in rows]
    print_table("Importing", table,
                f"New processes, n = {n}. The third row is where chatglm_cookbook registers its classes.")


def step_times(model, ids, steps: int) -> tuple[float, float]:
    "Seconds to read `ids`, and the median of the seconds that each of `steps` further tokens takes."
    import torch
    with torch.inference_mode():
        start = time.perf_counter()
        out = model(ids, use_cache=True, logits_to_keep=1)
        read, times = time.perf_counter() - start, []
        for _ in range(steps):
            token, start = out.logits[:, -1:].argmax(-1), time.perf_counter()
            out = model(token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
            times.append(time.perf_counter() - start)
    return read, statistics.median(times)


def bench_speed(n: int) -> None:
    import torch
    import transformers

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.tokens import encode_chat
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for name, dtype in [("tiny-v1", "float32"), ("tiny-v3", "float32"), ("smol", "float32"), ("smol", "bfloat16")]:
        model, start = load_model(name, dtype=getattr(torch, dtype)).eval(), encode_chat(
            load_tokenizer(name), [{"role": "user", "content": "Hello"}])
        ids = torch.tensor([(start * (256 // len(start) + 1))[-256:]])
        read, step = zip(*[step_times(model, ids, 16) for _ in range(n + 1)][1:], strict=True)
        rows.append({"model": name, "dtype": dtype, "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
                     "prefill tokens/s": spread([256 / t for t in read]),
                     "decode tokens/s": spread([1 / t for t in step], "{:,.1f}")})
    print_table("Running", rows, f"Batch 1, 256 tokens read at once, then 16 one by one (median of the 16), "
                                 f"{torch.get_num_threads()} threads; median of {n} (min–max).")


def original_folder(folder: Path, suffix: str) -> str:
    "A ChatGLM3 checkpoint of some 400 MB of random fp16 weights in the original layout, under `folder`."
    import torch
    from safetensors.torch import save_file

    from chatglm_cookbook.core import model_folder
    config = json.loads((Path(model_folder("tiny-v3")) / "config.json").read_text())
    size, layers, ffn, heads, groups, vocab = 1024, 8, 2816, 8, 2, 50_000
    config |= {"hidden_size": size, "num_layers": layers, "ffn_hidden_size": ffn, "num_attention_heads": heads,
               "multi_query_group_num": groups, "kv_channels": size // heads, "padded_vocab_size": vocab,
               "torch_dtype": "float16"}
    qkv = size + 2 * groups * size // heads
    layer = {"input_layernorm.weight": [size], "post_attention_layernorm.weight": [size],
             "self_attention.query_key_value.weight": [qkv, size], "self_attention.query_key_value.bias": [qkv],
             "self_attention.dense.weight": [size, size], "mlp.dense_h_to_4h.weight": [2 * ffn, size],
             "mlp.dense_4h_to_h.weight": [size, ffn]}
    shapes = {f"encoder.layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}
    shapes |= {"embedding.word_embeddings.weight": [vocab, size], "encoder.final_layernorm.weight": [size],
               "output_layer.weight": [vocab, size]}
    weights = {f"transformer.{name}": (torch.rand(shape) / 16 - 1 / 32).half() for name, shape in shapes.items()}
    weights["transformer.rotary_pos_emb.inv_freq"] = (
        1 / 10000 ** (torch.arange(0, size // heads // 2, 2) / (size // heads // 2))).half()
    (folder := folder / f"chatglm3{suffix}").mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if suffix == ".bin": torch.save(weights, folder / "pytorch_model.bin")
    else: save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def bench_load(n: int) -> None:
    import tempfile
    code = """
import json, resource, sys, time
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, GlmForCausalLM
from chatglm_cookbook.checkpoints import load_model
from chatglm_cookbook.core import model_folder
def peak():  # the kernel's other counter, ru_maxrss, begins with what the parent process had taken
    if not Path("/proc/self/status").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
load_model("tiny-v3")
folder = Path(model_folder(NAME))
file = sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))
before, start = peak(), time.perf_counter()
model = load_model(NAME, dtype=DTYPE)
loaded = time.perf_counter() - start
for p in model.parameters(): p.sum().item()
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([file, weights, loaded, time.perf_counter() - start, (peak() - before) / weights]))"""
    with tempfile.TemporaryDirectory() as folder:
        made = {suffix: original_folder(Path(folder), suffix) for suffix in (".safetensors", ".bin")}
        cases = [("smol, fp32 file → fp32", "smol", "torch.float32"), ("smol, fp32 file → bf16", "smol", "torch.bfloat16"),
                 ("original ChatGLM3, fp16 .safetensors → fp32", made[".safetensors"], "torch.float32"),
                 ("original ChatGLM3, fp16 .safetensors → fp16", made[".safetensors"], "torch.float16"),
                 ("original ChatGLM3, fp16 .bin → fp32", made[".bin"], "torch.float32")]
        rows = []
        for what, name, dtype in cases:
            runs = [fresh(code.replace("NAME", repr(name)).replace("DTYPE", dtype)) for _ in range(n)]
            file, weights, loaded, touched, peak = zip(*runs, strict=True)
            rows.append({"checkpoint": what, "file": f"{file[0] / 1e6:,.0f} MB", "weights": f"{weights[0] / 1e6:,.0f} MB",
                         "load, s": spread(loaded, "{:.2f}"), "and touch all, s": spread(touched, "{:.2f}"),
                         "peak, × weights": spread(peak, "{:.2f}")})
    print_table("Loading", rows, "New processes, warm page cache; peak of the resident memory above what the imports take, "
                                 "when every weight has been read once (a file that is only mapped costs nothing before "
                                 f"that); goal 1.2; median of {n} (min–max).")


def recombined_rows(file: Path, count: int, seed: int = 0) -> str:
    "Writes `count` Alpaca rows to `file`, a JSON a line, each put together from the bundled instructions; says from which."
    import random

    from chatglm_cookbook.core import data_file
    try: source = data_file("instructions.jsonl")
    except FileNotFoundError: source = data_file("self_cognition.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(seed)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            asked, told, *answers = rng.choices(rows, k=rng.randint(3, 4))
            row = {"instruction": asked["instruction"], "input": rng.choice(["", told["output"]]),
                   "output": "\n".join(answer["output"] for answer in answers)}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return source.name


def glm3_folder(folder: Path) -> str:
    "Puts the tokenizer of ChatGLM3, with the real vocabulary where it is here, under `folder`; says which it is."
    import shutil

    from chatglm_cookbook.core import model_folder
    file, which = vocabulary()
    shutil.copytree(model_folder("tiny-v3"), folder, dirs_exist_ok=True)
    shutil.copy(file, folder / "tokenizer.model")
    return which


def stream_times(ways: dict[str, str], tokenizer: Path, files: dict[int, Path], n: int) -> list[dict]:
    "For each of `ways` to go through rows that are read one by one: rows/s and the peak of the memory, for each file."
    code = """
import json, time
from pathlib import Path
import chatglm_cookbook
from transformers import AutoTokenizer
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.labels import encode_example
from chatglm_cookbook.validate import validate
def peak():
    if Path("/proc/self/status").exists():
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    import resource, sys
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
encode_example(tokenizer, {"instruction": "a", "output": "b"})
if Path("/proc/self/clear_refs").exists(): Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before, start = peak(), time.perf_counter()
rows = load_rows(FILE, "alpaca", streaming=True)
WAY
print(json.dumps([time.perf_counter() - start, peak() - before]))"""
    table = []
    for way, action in ways.items():
        row = {"way": way}
        for count, file in files.items():
            filled = code.replace("WAY", action).replace("FOLDER", repr(str(tokenizer))).replace("FILE", repr(str(file)))
            times, peaks = zip(*(fresh(filled) for _ in range(n)), strict=True)
            row |= {f"{count:,} rows: rows/s": spread([count / t for t in times]), f"{count:,} rows: peak, MB": spread(peaks)}
        table.append(row)
    return table


def encoded_alpaca(tokenizer, length: int) -> tuple[list[dict], str]:
    "English Alpaca rows, encoded with at most `length` tokens; where they are not here, the bundled instructions."
    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.data import load_rows
    from chatglm_cookbook.labels import encode_example
    file = shared("data/alpaca_en_demo.json")
    if not file.is_file(): file = data_file("instructions.jsonl")
    return [encode_example(tokenizer, row, max_length=length) for row in load_rows(file)], file.name


def batching_shares(tokenizer, examples: list[dict], length: int, size: int) -> list[dict]:
    "What each of four ways to make batches of `size` lines runs for the same `examples`, and how much of it is padding."
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    from chatglm_cookbook.labels import Collator, pack
    sizes, lines = [len(example["labels"]) for example in examples], pack(examples, length)
    shuffled = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    grouped = get_length_grouped_indices(sizes, size, generator=torch.Generator().manual_seed(0))
    ways = {f"every row padded to {length}, as the first scripts do": (examples, shuffled, length),
            "padded to the longest of its batch": (examples, shuffled, None),
            "the same, rows of like length together": (examples, grouped, None),
            f"packed into lines of {length}": (lines, range(len(lines)), length)}
    table = []
    for way, (rows, order, width) in ways.items():
        collate, order = Collator(tokenizer, length=width), list(order)
        batches = [collate([rows[i] for i in order[at:at + size]]) for at in range(0, len(order), size)]
        run = sum(batch["input_ids"].numel() for batch in batches)
        table.append({"batching": way, "lines": f"{len(rows):,}", "batches": len(batches), "tokens run": f"{run:,}",
                      "real": f"{sum(sizes) / run:.3f}", "padding": f"{1 - sum(sizes) / run:.1%}"})
    return table


def bench_data(n: int) -> None:
    import tempfile
    from transformers import AutoTokenizer
    ways = {"load_rows alone": "for row in rows: pass", "encode_example": "for row in rows: encode_example(tokenizer, row)",
            "validate": "validate(rows)",
            "validate with a tokenizer, which encodes each row": "validate(rows, tokenizer=tokenizer, max_length=512)"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        which, files = glm3_folder(folder / "tokenizer"), {count: folder / f"{count}.jsonl" for count in (10_000, 100_000)}
        source = [recombined_rows(file, count) for count, file in files.items()][0]
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        table = stream_times(ways, folder / "tokenizer", files, n)
    print_table("Reading, validating and encoding", table,
                f"Rows put together from {source}, read one by one from a file of JSON lines; {which}; new processes; peak of "
                f"the resident memory above what the imports and the tokenizer take; goal: at most 60 MB more for 100,000 "
                f"rows than for 10,000; median of {n} (min–max).")
    examples, source = encoded_alpaca(tokenizer, 1024)
    print_table("Batching at 1024 tokens", batching_shares(tokenizer, examples, 1024, 8),
                f"{len(examples):,} rows of {source}, {statistics.mean(len(e['labels']) for e in examples):.0f} tokens on "
                f"average, {which}; batches of 8 lines, shuffled with one seed; goal: at least 0.97 of a packed run is real.")


def elsewhere(name: str):
    "The measurement of this name in a file of its own beside this one, imported when it is run."
    return lambda n: getattr(importlib.import_module(name), name)(n)


benches = {"encode": (bench_encode, 5), "import": (bench_import, 3), "speed": (bench_speed, 5), "load": (bench_load, 2),
           "data": (bench_data, 1)}
benches |= {name: (elsewhere(f"bench_{name}"), n) for name, n in {
    "quantize": 3, "train": 3, "prompts": 2, "ptuning": 2, "ppo": 1, "choices": 2, "evaluate": 3, "serve": 2}.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=benches, default=list(benches), help="some of the measurements")
    parser.add_argument("--repeats", type=int, help="runs of each, instead of the default")
    given = parser.parse_args()
    if given.repeats is not None and given.repeats < 1: parser.error("--repeats must be at least 1")
    start = time.perf_counter()
    print(f"Machine: {machine()}")
    for name in given.only:
        bench, n = benches[name]
        bench(given.repeats or n)
    print(f"\n{time.perf_counter() - start:.0f} s in total.")
    return 0


if __name__ == "__main__": sys.exit(main())
