"""`make bench`: quantised weights on a CPU, beside bfloat16 and, where it is installed, chatglm.cpp on the same weights.

chatglm.cpp is looked for in the folder that $CHATGLM_CPP names. It builds outside the project with
`CMAKE_POLICY_VERSION_MINIMUM=3.5 pip install --no-deps --target FOLDER chatglm-cpp tabulate`.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import print_table, spread, step_times


def middle_folder(folder: Path) -> Path:
    "A ChatGLM3 of 639M random parameters in float16, in the original layout, under `folder`."
    import torch
    from safetensors.torch import save_file
    size, layers, ffn, head, groups, vocab = 1536, 18, 4096, 128, 2, 65024
    config = {"model_type": "chatglm", "hidden_size": size, "num_layers": layers, "ffn_hidden_size": ffn, "kv_channels": head,
              "num_attention_heads": size // head, "multi_query_attention": True, "multi_query_group_num": groups,
              "padded_vocab_size": vocab, "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True,
              "post_layer_norm": True, "layernorm_epsilon": 1e-5, "seq_length": 8192, "torch_dtype": "float16",
              "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    def draw(*shape): return (torch.randn(*shape) * 0.02).half()
    qkv, tables = size + 2 * groups * head, {"embedding.word_embeddings": draw(vocab, size), "output_layer": draw(vocab, size)}
    weights = {f"transformer.{name}.weight": table for name, table in tables.items()}
    weights["transformer.encoder.final_layernorm.weight"] = torch.ones(size).half()
    for i in range(layers):
        layer = {"input_layernorm.weight": torch.ones(size).half(), "post_attention_layernorm.weight": torch.ones(size).half(),
                 "self_attention.query_key_value.weight": draw(qkv, size), "self_attention.query_key_value.bias": draw(qkv),
                 "self_attention.dense.weight": draw(size, size), "mlp.dense_h_to_4h.weight": draw(2 * ffn, size),
                 "mlp.dense_4h_to_h.weight": draw(size, ffn)}
        weights |= {f"transformer.encoder.layers.{i}.{name}": tensor for name, tensor in layer.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def read_bandwidth() -> float:
    "Best bytes/s at which a sum goes through half a gigabyte of memory."
    import torch
    big, best = torch.ones(2**27), 0.0
    for _ in range(5):
        start = time.perf_counter()
        big.sum()
        best = max(best, big.nbytes / (time.perf_counter() - start))
    return best


def read_bytes(model) -> int:
    "Bytes that one token reads: all weights but the embedding table, which gives one row."
    table = model.get_input_embeddings().weight
    skip = None if table is model.get_output_embeddings().weight else id(table)
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()) if id(t) != skip)


def chatglm_cpp(folder: Path, formats: list[str], n: int) -> dict[str, dict]:
    "Decode and prefill speeds of chatglm.cpp with the weights in `folder`, for each of its `formats`; empty where it is not."
    place = os.environ.get("CHATGLM_CPP")
    if not place: return {}
    code = """
import json, random, statistics, sys, time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
import chatglm_cpp._C as engine
from chatglm_cpp.convert import ChatGLM3Converter, GGMLType
from safetensors.torch import load_file
folder, formats, n, pieces = json.loads(sys.argv[1])
config = json.loads((Path(folder) / "config.json").read_text())
config = SimpleNamespace(apply_residual_connection_post_layernorm=False, original_rope=True, **config)
weights = {name: tensor.float() for name, tensor in load_file(f"{folder}/model.safetensors").items()}
model = SimpleNamespace(config=config, state_dict=lambda: weights)
proto = SimpleNamespace(serialized_model_proto=lambda: Path(pieces).read_bytes())
tokenizer = SimpleNamespace(tokenizer=SimpleNamespace(sp_model=proto))
random.seed(0)
ids, found = [random.randrange(1000, 60000) for _ in range(256)], {}
for name in formats:
    file = Path(folder) / f"{name}.bin"
    with file.open("wb") as out, redirect_stdout(sys.stderr): ChatGLM3Converter.convert(out, model, tokenizer, GGMLType[name])
    running, how = engine.Pipeline(str(file), 1024).model, engine.GenerationConfig(max_length=1024, do_sample=False)
    read, write = [], []
    for _ in range(n + 1):
        some, start = list(ids), time.perf_counter()
        some.append(running.generate_next_token(some, None, how, 0, 256))
        read.append(256 / (time.perf_counter() - start))
        steps = []
        for i in range(16):
            start = time.perf_counter()
            some.append(running.generate_next_token(some, None, how, 256 + i, 256))
            steps.append(time.perf_counter() - start)
        write.append(1 / statistics.median(steps))
    found[name] = {"read": file.stat().st_size, "prefill": read[1:], "decode": write[1:]}
    file.unlink()
print(json.dumps(found))"""
    from chatglm_cookbook.core import model_folder
    asked = json.dumps([str(folder), formats, n, str(Path(model_folder("tiny-v3")) / "tokenizer.model")])
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": place})
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench_quantize(n: int) -> None:
    import copy
    import tempfile

    import torch
    import transformers

    from chatglm_cookbook.checkpoints import load_model
    from chatglm_cookbook.quantize import quantize_model
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        base = load_model(middle_folder(Path(folder) / "chatglm3"), dtype=torch.bfloat16)
        theirs = chatglm_cpp(Path(folder) / "chatglm3", ["F16", "Q8_0", "Q4_0", "Q4_1"], n)
    group = dict(bits=4, method="group")
    plans = {"int8": dict(bits=8), "int8, head int8": dict(bits=8, head=8), "int4 by rows, head int8": dict(bits=4, head=8),
             "int4 g32, zero points, head int8": dict(**group, head=8),
             "int4 g128, head int8": dict(**group, group=128, zero=False, head=8),
             "int4 g32, zero points, head int4": dict(**group, head=4)}
    models = {"bfloat16": base} | {name: quantize_model(copy.deepcopy(base), **plan) for name, plan in plans.items()}
    sizes = (256, 1024)
    texts = {size: torch.randint(0, 60_000, (1, size), generator=torch.Generator().manual_seed(0)) for size in sizes}
    speed = {name: {size: [] for size in (*sizes, "decode")} for name in models}
    for turn in range(n + 1):
        for name, model in models.items():
            for size, ids in texts.items():
                read, step = step_times(model, ids, 16 if size == 256 else 1)
                if turn: speed[name][size].append(size / read)
                if turn and size == 256: speed[name]["decode"].append(1 / step)
    limit, rows = read_bandwidth(), []
    for name, model in models.items():
        times = {key: statistics.median(v) / statistics.median(speed["bfloat16"][key]) for key, v in speed[name].items()}
        share = statistics.median(speed[name]["decode"]) * read_bytes(model) / limit
        rows.append({"weights": name, "read for a token": f"{read_bytes(model) / 1e6:,.0f} MB",
                     "decode tokens/s": spread(speed[name]["decode"], "{:,.1f}"), "× bf16": f"{times['decode']:.2f}",
                     "of the bandwidth": f"{share:.0%}",
                     **{f"prefill {k}, tokens/s (× bf16)": f"{spread(speed[name][k])} ({times[k]:.2f})" for k in sizes}})
    decode, read = (statistics.median(speed["bfloat16"][key]) for key in ("decode", 256))
    for name, found in theirs.items():
        times = statistics.median(found["decode"]) / decode, statistics.median(found["prefill"]) / read
        cells = (f"chatglm.cpp {name}", f"{found['read'] / 1e6:,.0f} MB, all of the file", spread(found["decode"], "{:,.1f}"),
                 f"{times[0]:.2f}", "", f"{spread(found['prefill'])} ({times[1]:.2f})", "")
        rows.append(dict(zip(rows[0], cells, strict=True)))
    print_table("Quantised weights", rows, f"A random ChatGLM3 of 639M parameters, batch 1, {torch.get_num_threads()} threads, "
                f"reading at {limit / 1e9:.1f} GB/s; goals: decode int8 1.6, int4 2.4, prefill 0.8; median of {n} (min–max).")
