"Copies the golden model cases that the tests use, trimmed: `python tools/golden.py FOLDER_OF_ORIGINALS`."
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

cases = """v1-base v1-long v1-1d v2-base v2-rope-ratio v3-base v3-rope-ratio
v3-mha v3-flag-no-qkv-bias v3-flag-kv-channels""".split()
refused = "v3-flag-bias-linear v3-flag-layernorm v3-flag-residual-post-ln v3-flag-no-post-layernorm".split()
embedding_grad = "loss.grad.transformer.embedding.word_embeddings.weight"
prefixes = ["v3-prefix"]  # the other three of this kind are tested where the originals are at hand
quantised = "v1-int8 v1-int4 v3-int8 v3-int4".split()
longest, kept = 24, 16


def wanted(case, name):
    "True for an expected tensor that a test compares."
    if case in prefixes: return "prefix_encoder" in name or name.startswith(("single.log", "batch.log", "decode", "greedy"))
    if name.startswith("loss."): return name == embedding_grad
    if name.startswith(("single.past", "decode_")) and case == "v1-1d": return False
    if case == "v1-1d" and name == "infill.logits": return False
    if name == "batch_nomask.logits": return case == "v1-base"
    if name == "single.hidden_states": return case in ("v1-base", "v3-base")
    return not name.startswith(("single.past", "rotary")) or case == "v1-base"


def trimmed(case, name, tensor, pad):
    "The part of an expected tensor that is kept."
    if name == embedding_grad: return name + ".pad_row", tensor[pad].clone()
    if case in prefixes and name in ("single.logits", "batch.logits"): return name, tensor[:, -6:].clone()
    if name.endswith(".logits") and tensor.shape[1] > longest: return name, tensor[:, -kept:].clone()
    return name, tensor


def copy_case(source, target):
    "Writes the trimmed case `source` into the folder `target`."
    target.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors"): shutil.copyfile(source / file, target / file)
    pad = json.loads((source / "config.json").read_text()).get("pad_token_id") or 0
    expected = load_file(source / "expected.safetensors")
    save_file(dict(trimmed(source.name, k, v, pad) for k, v in expected.items() if wanted(source.name, k)),
              target / "expected.safetensors")
    small = {k: v for k, v in load_file(source / "inputs.safetensors").items() if v.numel() < 50_000}
    save_file(small, target / "inputs.safetensors")
    facts = json.loads((source / "expected.json").read_text())
    (target / "expected.json").write_text(json.dumps(facts, indent=0, sort_keys=True) + "\n")


def copy_quantised(source, target):
    "Writes a quantised case: its files, the logits in float32 maths, and for int4 the float weights it was made from."
    target.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "inputs.safetensors"): shutil.copyfile(source / file, target / file)
    if source.name.endswith("int4"): shutil.copyfile(source / "source_fp16.safetensors", target / "source_fp16.safetensors")
    expected = load_file(source / "expected.safetensors")
    save_file({k: v for k, v in expected.items() if k.endswith("fp32_math")}, target / "expected.safetensors")


def main(originals, target):
    "Copies every case and prints the size of the copy."
    for case in cases + prefixes: copy_case(originals / case, target / case)
    for case in quantised: copy_quantised(originals / case, target / case)
    (target / "quant-linear").mkdir(exist_ok=True)
    for file in ("quant.safetensors", "int4_all_codes.safetensors"):
        shutil.copyfile(originals / "quant-linear" / file, target / "quant-linear" / file)
    for case in refused:
        (target / case).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(originals / case / "config.json", target / case / "config.json")
    (target / "rope-tables").mkdir(exist_ok=True)
    tables = load_file(originals / "rope-tables/rope.safetensors")
    first = {k: v for k, v in tables.items() if k.startswith("v1.") or k == "positions_v1"}
    save_file(first, target / "rope-tables/rope.safetensors")
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"{len(cases) + len(prefixes) + len(quantised) + 1 + len(refused)} cases, {size / 1e6:.2f} MB in {target.name}/")


if __name__ == "__main__":
    if len(sys.argv) != 2: raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).resolve().parents[1] / "tests/golden")
