"""Speed and memory on this machine, each figure beside what it is measured against, in one run.

    python tools/bench.py                      what `make bench` runs
    python tools/bench.py --only encode import

Every figure is the median of n runs with the smallest and the largest; run it on a machine that does nothing else.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
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


def seconds(action, n: int) -> list[float]:
    "Times of `n` runs of `action`, after one that does not count."
    action()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
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


def vocabulary() -> tuple[Path, str]:
    "A sentencepiece model of ChatGLM2/3: the real one where it can be found, else the small bundled one."
    real = Path(os.environ.get("COOKBOOK_SHARED") or root.parent / "shared") / "golden/tokenizer/tokenizer.model"
    if real.is_file(): return real, "the real vocabulary of ChatGLM3, 64 789 pieces"
    from chatglm_cookbook.core import model_folder
    return Path(model_folder("tiny-v3")) / "tokenizer.model", "the small bundled vocabulary (the real one is not here)"


def texts(count: int = 2000) -> list[str]:
    "Rows of the length of an instruction or an answer, Chinese and English, from the bundled data."
    from chatglm_cookbook.core import data_file
    lines = data_file("tiny_tokenizer/text.txt").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in data_file("self_cognition.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line.strip()] + [f"{row['instruction']} {row['output']}" for row in rows]
    return (lines * (count // len(lines) + 1))[:count]


def row_by_row(file: Path, first: list[int]):
    """A tokenizer that works as the original class does, on the base class of the transformers installed here.

    The original asks sentencepiece for the pieces of a text, then for the id of each piece by a call of its own, and
    puts [gMASK] sop in front; the splitting at special tokens and the wrapping of the ids are the base class's work.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizer

    class RowByRow(PreTrainedTokenizer):
        def __init__(self):
            self.pieces = SentencePieceProcessor(str(file))
            super().__init__(pad_token="<unk>", unk_token="<unk>", eos_token="</s>", special_tokens_pattern="none")

        @property
        def vocab_size(self): return self.pieces.GetPieceSize()

        def get_vocab(self): return {self.pieces.IdToPiece(i): i for i in range(self.vocab_size)}

        def _tokenize(self, text, **kwargs): return self.pieces.EncodeAsPieces(text)

        def _convert_token_to_id(self, token): return self.pieces.PieceToId(token)

        def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None): return first + token_ids_0
    return RowByRow()


def bench_encode(n: int) -> None:
    import shutil
    import tempfile
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    from chatglm_cookbook.core import model_folder
    file, which = vocabulary()
    rows = texts()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model_folder("tiny-v3"), folder, dirs_exist_ok=True)
        shutil.copy(file, Path(folder) / "tokenizer.model")
        fast = AutoTokenizer.from_pretrained(folder)
    slow, raw, first = row_by_row(file, fast.encode("")[:2]), SentencePieceProcessor(str(file)), fast.encode("")[:2]
    ids = fast(rows)["input_ids"]
    if ids != [slow.encode(row) for row in rows]: raise RuntimeError("fast and row-by-row tokenizer differ")
    if ids != [first + row for row in raw.EncodeAsIds(rows)]: raise RuntimeError("fast and sentencepiece differ")
    ways = {"fast tokenizer, one batch": lambda: fast(rows),
            "the engine below it, one batch": lambda: fast.backend_tokenizer.encode_batch_fast(rows),
            "fast tokenizer, row by row": lambda: [fast.encode(r) for r in rows],
            "as the original class, row by row": lambda: [slow.encode(r) for r in rows],
            "raw sentencepiece, row by row": lambda: [raw.EncodeAsIds(r) for r in rows],
            "raw sentencepiece, one list, 2 threads": lambda: raw.EncodeAsIds(rows, num_threads=2)}
    speeds = {way: [len(rows) / t for t in seconds(action, n)] for way, action in ways.items()}
    base = statistics.median(speeds["as the original class, row by row"])
    table = [{"way": way, "rows/s": spread(s), "ratio": f"{statistics.median(s) / base:.1f}"}
             for way, s in speeds.items()]
    print_table("Encoding", table,
                f"{len(rows)} rows of {statistics.mean(map(len, ids)):.0f} tokens on average, {which}; "
                f"ids identical; ratio to the original's way (goal for the batch: 4); n = {n}.")


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


def bench_speed(n: int) -> None:
    import torch
    import transformers

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.deploy import running_cost
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for name, dtype in [("tiny-v1", "float32"), ("tiny-v3", "float32"), ("smol", "float32"), ("smol", "bfloat16")]:
        model, tokenizer = load_model(name, dtype=getattr(torch, dtype)), load_tokenizer(name)
        runs = [running_cost(model, tokenizer, repeats=1) for _ in range(n)]
        prefill, decode = spread([r.prefill for r in runs]), spread([r.decode for r in runs], "{:.1f}")
        rows.append({"model": name, "dtype": dtype, "parameters": f"{runs[0].parameters:,}",
                     "prefill tokens/s": prefill, "decode tokens/s": decode})
    print_table("Running", rows, f"Batch 1, 256 tokens read, 16 written, {torch.get_num_threads()} threads, n = {n}.")


def bench_load(n: int) -> None:
    code = """
import json, resource, sys, time
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, GlmForCausalLM
from chatglm_cookbook.checkpoints import load_model
from chatglm_cookbook.core import model_folder
unit = 1 if sys.platform == "darwin" else 1024
load_model("tiny-v3")
folder, peak = Path(model_folder(NAME)), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
size, before, start = sum(f.stat().st_size for f in folder.glob("*.safetensors")), peak(), time.perf_counter()
model = load_model(NAME, dtype=torch.float32)
print(json.dumps([size, time.perf_counter() - start, peak() - before]))"""
    rows = []
    for name in ("smol", "tiny-v3"):
        runs = [fresh(code.replace("NAME", repr(name))) for _ in range(n)]
        size, times, peaks = runs[0][0], [r[1] for r in runs], [r[2] / r[0] for r in runs]
        rows.append({"model": name, "file": f"{size / 1e6:,.1f} MB", "load seconds": spread(times, "{:.2f}"),
                     "peak above the imports, × file": spread(peaks, "{:.2f}") if size > 1e8 else "too small to tell"})
    print_table("Loading", rows, f"New processes, the file read before (warm page cache), n = {n}.")


benches = {"encode": (bench_encode, 5), "import": (bench_import, 5), "speed": (bench_speed, 3), "load": (bench_load, 3)}


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
