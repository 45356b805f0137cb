"""Loading, refusing, saving: everything around the weights of `chatglm_cookbook.checkpoints`."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import chatglm_cookbook  # noqa: F401
from chatglm_cookbook.checkpoints import (
    fingerprint,
    _fuse_qkv,
    generation_of,
    load_model,
    load_tokenizer,
    save_hf,
    save_original,
    split_qkv,
)

LATER = ["v2-base", "v2-rope-ratio", "v3-base", "v3-rope-ratio", "v3-mha", "v3-flag-no-qkv-bias", "v3-flag-kv-channels"]
ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


@pytest.fixture
def copy(golden, tmp_path):
    "Copy a golden folder's model, with settings changed and files added."
    def make(case="v3-base", name="model", files=(), **settings):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(golden / case / "model.safetensors", folder)
        config = {**json.loads((golden / case / "config.json").read_text()), **settings}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        for file, text in dict(files).items(): (folder / file).write_text(text)
        return folder
    return make


@torch.no_grad()
def logits(model): return model(ids.to(model.device)).logits


def run(code, **env):
    "Output of `code` in a fresh process."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# --- formats -------------------------------------------------------------------------------------------------------

def sharded(folder, suffix):
    "Rewrite the one weight file as two shards with an index."
    state, index = load_file(folder / "model.safetensors"), {}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    for i, names in enumerate((sorted(state)[::2], sorted(state)[1::2])):
        part, file = {k: state[k] for k in names}, f"{stem}-0000{i + 1}-of-00002.{suffix}"
        if suffix == "bin": torch.save(part, folder / file)
        else: save_file(part, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("case", ["v1-base", "v3-base", "v3-mha"])
def test_sharded_formats_load_alike(copy, golden, case, suffix):
    from transformers import AutoModelForCausalLM
    plain = load_model(golden / case)
    folder = sharded(copy(case), suffix)
    assert torch.equal(logits(load_model(folder)), logits(plain))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(plain))
    assert fingerprint(folder).weight_hash == fingerprint(golden / case).weight_hash


def test_one_old_style_bin_file(copy, golden):
    folder = copy()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()
    assert torch.equal(logits(load_model(folder)), logits(load_model(golden / "v3-base")))


def test_pickled_code_in_a_bin_file_is_not_run(copy, tmp_path):
    class Bad:
        def __reduce__(self): return (os.mkdir, (str(tmp_path / "was run"),))
    folder = copy()
    torch.save({"x": Bad()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Exception, match="weights_only|Unsupported"): load_model(folder)
    assert not (tmp_path / "was run").exists()


def test_a_name_with_dots_and_spaces(copy):
    assert logits(load_model(copy(name="chatglm3-6b v1.1"))).shape == (1, 8, 512)


@pytest.mark.parametrize("case", ["v1-base", "v3-base"])
def test_other_auto_classes(golden, case):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
    whole = AutoModelForCausalLM.from_pretrained(golden / case)
    base = AutoModel.from_pretrained(golden / case)
    assert torch.equal(base(ids).last_hidden_state, getattr(whole, whole.base_model_prefix)(ids).last_hidden_state)
    classifier = AutoModelForSequenceClassification.from_pretrained(golden / case, num_labels=3)
    assert classifier(ids.repeat(2, 1)).logits.shape == (2, 3)


@pytest.mark.parametrize("kind", ["GlmForCausalLM", "GlmModel", "GlmForSequenceClassification"])
def test_glm_classes_read_originals_without_an_auto_class(golden, kind):
    code = f"""
import chatglm_cookbook
from transformers import {kind} as Glm
_, info = Glm.from_pretrained({str(golden / "v3-base")!r}, output_loading_info=True)
print(sorted(info["missing_keys"]))
"""
    missing = run(code).strip().splitlines()[-1]
    assert missing == ("['score.weight']" if kind.endswith("Classification") else "[]")


@pytest.mark.parametrize("case", ["v1-base", "v2-rope-ratio", "v3-mha"])
def test_models_and_configs_are_copied_and_pickled(golden, tmp_path, case):
    import copy as copies
    import pickle
    model = load_model(golden / case)
    torch.save(model, tmp_path / "model.pt")
    for again in (copies.deepcopy(model), pickle.loads(pickle.dumps(model)),
                  torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(logits(again), logits(model))
        again.save_pretrained(tmp_path / "saved")
        assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))
    for again in (copies.deepcopy(model.config), pickle.loads(pickle.dumps(model.config))):
        assert type(again) is type(model.config) and again.to_dict() == model.config.to_dict()
    assert json.loads(model.config.to_json_string())["model_type"] == model.config.model_type


@pytest.mark.parametrize("case", ["v1-base", "v3-mha"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_casting_through_the_auto_class(copy, golden, case, suffix):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
    plain, folder = load_model(golden / case), sharded(copy(case), suffix)
    for dtype in (torch.float16, "bfloat16"):
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        wanted = load_model(golden / case, dtype=dtype)
        assert not info["missing_keys"] and torch.equal(logits(model), logits(wanted)) and not model.training
        assert model.generation_config.eos_token_id == plain.generation_config.eos_token_id
        assert model.name_or_path == str(folder)
    base = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(base(ids)[0], getattr(wanted, wanted.base_model_prefix)(ids)[0])
    judge = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16, num_labels=2)
    judge.save_pretrained(folder.parent / "judge")
    again = AutoModelForSequenceClassification.from_pretrained(folder.parent / "judge", dtype=torch.float32)
    assert torch.equal(again.score.weight, judge.score.weight.float())


def test_glm4_weights_in_the_original_layout(copy):
    folder = copy(rope_ratio=500, chatglm_generation=4, eos_token_id=[500, 501], layernorm_epsilon=1.5625e-7)
    model = load_model(folder)
    assert model.config.rope_parameters["rope_theta"] == 5e6 and model.generation_config.eos_token_id == [500, 501]
    with pytest.raises(ValueError, match="-hf folder"): load_tokenizer(folder)
    assert generation_of({"padded_vocab_size": 151552, "rope_ratio": 500}) == 4


def test_stop_tokens(copy, golden):
    stop = lambda folder: load_model(folder).generation_config.eos_token_id
    assert stop(golden / "v1-base") == 505 and stop(golden / "v2-base") == 2
    assert stop(copy(eos_token_id=[2, 300])) == [2, 300]
    from chatglm_cookbook.checkpoints import glm_settings
    assert glm_settings({"padded_vocab_size": 65024, "num_layers": 1}, 3)["eos_token_id"] == [2, 64795, 64797]
    assert glm_settings({"padded_vocab_size": 65024, "num_layers": 1}, 2)["eos_token_id"] == 2
    user, observation = load_tokenizer("tiny-v3").convert_tokens_to_ids(["<|user|>", "<|observation|>"])
    assert load_model("tiny-v3").generation_config.eos_token_id == [2, user, observation]


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_quantised_while_loading(golden, quantize):
    full, small = load_model(golden / "v3-base"), load_model(golden / "v3-base", quantize=quantize)
    assert small.is_quantized
    assert torch.nn.functional.cosine_similarity(logits(full).flatten(), logits(small).flatten().float(), dim=0) > 0.9


@pytest.mark.skipif(bool(importlib.util.find_spec("bitsandbytes")), reason="bitsandbytes is installed")
def test_quantising_without_bitsandbytes_names_the_cure(golden):
    with pytest.raises(ImportError, match="pip install bitsandbytes"): load_model(golden / "v3-base", quantize="nf4")


def test_dtypes(copy, capsys, monkeypatch):
    folder = copy(torch_dtype="float16")
    half = {k: v.half() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder, device="cpu").dtype == torch.float32 and "loading as float32" in capsys.readouterr().out
    assert load_model(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, device="cpu", dtype=torch.float16).dtype == torch.float16
    import psutil
    little = type("memory", (), {"available": 2**10})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    assert load_model(folder, device="cpu").dtype == torch.bfloat16 and "loading as bfloat16" in capsys.readouterr().out
    for bad in ("fp32", "half precision", torch.int8):
        with pytest.raises(ValueError, match="dtype must be"): load_model(folder, dtype=bad)


# --- which generation ----------------------------------------------------------------------------------------------

unnamed = dict(rope_ratio=4, _name_or_path=None)


def theta(model): return model.config.rope_parameters["rope_type"], model.config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("files, settings, kind", [
    ({"modeling_chatglm.py": "seq_idx = torch.arange(n) / self.rope_ratio"}, {}, "linear"),
    ({"modeling_chatglm.py": "base = base * self.rope_ratio"}, {}, "default"),
    ({"tokenization_chatglm.py": 'special = ["[MASK]", "[gMASK]", "sop"]'}, {}, "linear"),
    ({"tokenization_chatglm.py": 'special = ["[MASK]", "[gMASK]", "<|user|>"]'}, {}, "default"),
    ({"tokenizer_config.json": '{"added": "<|user|>"}'}, {}, "default"),
    ({}, {"_name_or_path": "THUDM/chatglm2-6b-32k"}, "linear"),
    ({}, {"_name_or_path": "THUDM/chatglm3-6b-32k"}, "default"),
    # the code that would run is trusted more than a name
    ({"modeling_chatglm.py": "base = base * self.rope_ratio"}, {"_name_or_path": "THUDM/chatglm2-6b"}, "default"),
])
def test_rope_ratio_is_read_as_the_folder_means_it(copy, files, settings, kind):
    from transformers import AutoModelForCausalLM
    folder = copy(files=files, **{**unnamed, **settings})
    for model in (load_model(folder), AutoModelForCausalLM.from_pretrained(folder)):
        assert theta(model) == (kind, 10000 if kind == "linear" else 40000)


def test_the_folder_name_counts_last(copy):
    assert theta(load_model(copy(name="chatglm2-6b-32k", **unnamed))) == ("linear", 10000)


def test_undecided_is_an_error_and_the_caller_decides(copy):
    from transformers import AutoConfig, AutoModelForCausalLM
    folder = copy(**unnamed)
    for load in (load_model, AutoConfig.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=r"load_model\(name, generation=2\)"): load(folder)
    assert theta(load_model(folder, generation=2)) == ("linear", 10000)
    assert theta(load_model(folder, generation=3)) == ("default", 40000)
    assert theta(AutoModelForCausalLM.from_pretrained(folder, generation=2)) == ("linear", 10000)


def test_without_a_ratio_nothing_needs_deciding(copy):
    model = load_model(copy(_name_or_path=None))
    assert model.config.chatglm_generation is None and theta(model) == ("default", 10000)


def test_wrong_generation(copy, golden):
    with pytest.raises(ValueError, match="generation must be"): load_model(copy(), generation=5)
    with pytest.raises(ValueError, match="generation=3 does not fit"): load_model(golden / "v1-base", generation=3)
    with pytest.raises(ValueError, match="generation=1 does not fit"): load_model(golden / "v3-base", generation=1)


# --- saving --------------------------------------------------------------------------------------------------------

alone = """
import sys
from transformers import AutoModelForCausalLM
import torch
model, info = AutoModelForCausalLM.from_pretrained({folder!r}, output_loading_info=True)
assert type(model).__name__ == "GlmForCausalLM" and not info["missing_keys"] and not info["unexpected_keys"], info
assert "chatglm_cookbook" not in sys.modules
print(model(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])).logits.double().sum().item(), model.generation_config.eos_token_id)
"""


@pytest.mark.parametrize("case", ["v2-rope-ratio", "v3-mha"])
def test_saved_folders_load_in_a_process_without_this_package(golden, tmp_path, case):
    from transformers import AutoModelForCausalLM
    model = load_model(golden / case)
    save_hf(model, tmp_path / "hf")
    AutoModelForCausalLM.from_pretrained(golden / case).save_pretrained(tmp_path / "plain")
    wanted = logits(model).double().sum().item()
    for folder in ("hf", "plain"):
        out = run(alone.format(folder=str(tmp_path / folder))).split()
        assert abs(float(out[0]) - wanted) < 1e-3 and out[1].strip("[]") == "2"
        assert sorted(load_file(tmp_path / folder / "model.safetensors")) == sorted(model.state_dict())
    again = load_model(tmp_path / "hf")
    assert torch.equal(logits(again), logits(model))
    save_original(again, tmp_path / "back")
    same_tensors(tmp_path / "back", golden / case)


def test_plain_glm_models_of_the_same_process_are_left_alone(golden, tmp_path):
    from transformers import AutoModelForCausalLM, GlmConfig, GlmForCausalLM
    load_model(golden / "v3-base")
    model = GlmForCausalLM(GlmConfig(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, head_dim=8,
                                     num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=1))
    model.save_pretrained(tmp_path)
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(model.state_dict())
    for again in (AutoModelForCausalLM.from_pretrained(tmp_path), load_model(tmp_path)):
        assert torch.equal(logits(again), logits(model))
        again.save_pretrained(tmp_path / "again")
        assert sorted(load_file(tmp_path / "again" / "model.safetensors")) == sorted(model.state_dict())


def same_tensors(ours, theirs):
    ours, theirs = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert sorted(ours) == sorted(theirs)
    for name, tensor in theirs.items(): assert tensor.dtype == ours[name].dtype and torch.equal(tensor, ours[name]), name


@pytest.mark.parametrize("case", ["v1-base", *LATER])
def test_round_trip_is_bit_for_bit(golden, tmp_path, case):
    save_original(load_model(golden / case), tmp_path)
    same_tensors(tmp_path, golden / case)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (golden / case, tmp_path))
    assert {k: after.get(k) for k in before if k != "transformers_version"} == {
        k: v for k, v in before.items() if k != "transformers_version"}
    assert torch.equal(logits(load_model(tmp_path)), logits(load_model(golden / case)))


@pytest.mark.parametrize("case", ["v1-base", "v3-base"])
def test_round_trip_of_half_precision(copy, golden, tmp_path, case):
    folder = copy(case, torch_dtype="float16")
    frequency = lambda n: 1 / (10000 ** (torch.arange(0, 2 * n, 2).half() / (2 * n)))  # as ChatGLM3 stores it in half
    state = load_file(folder / "model.safetensors")
    half = {k: frequency(len(v)) if k == "transformer.rotary_pos_emb.inv_freq" else v.half() for k, v in state.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    for i, dtype in enumerate(("auto", torch.float16)):
        save_original(load_model(folder, dtype=dtype, device="cpu"), tmp_path / f"out{i}")
        same_tensors(tmp_path / f"out{i}", folder)


def test_sharded_original_over_the_folder_it_came_from(copy, golden):
    folder = copy()
    wanted = logits(model := load_model(folder))
    save_original(model, folder, max_shard_size=200_000)
    assert not (folder / "model.safetensors").exists() and len([*folder.glob("model-*.safetensors")]) > 2
    assert torch.equal(logits(model), wanted) and torch.equal(logits(load_model(folder)), wanted)
    save_original(model, folder)
    assert not [*folder.glob("model-*")] and torch.equal(logits(load_model(folder)), wanted)
    same_tensors(folder, golden / "v3-base")


def test_glm_models_of_other_origin(tmp_path):
    from transformers import GlmConfig, GlmForCausalLM
    small = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=1, pad_token_id=0, eos_token_id=1)
    rope = lambda **kw: dict(rope_type="default", rope_theta=100000.0, partial_rotary_factor=0.5) | kw
    model = GlmForCausalLM(GlmConfig(**small, head_dim=16, tie_word_embeddings=True, attention_bias=False,
                                     rope_parameters=rope())).eval()
    save_original(model, tmp_path)
    again = load_model(tmp_path)
    assert theta(again) == ("default", 100000) and (logits(again) - logits(model)).abs().max() < 1e-6
    for kw, name in [(dict(rope_parameters=rope(partial_rotary_factor=1.0)), "partial_rotary_factor=1.0"),
                     (dict(hidden_act="gelu"), "hidden_act='gelu'"),
                     (dict(rope_parameters=rope(rope_type="linear", factor=2.0)), "rope_type='linear'")]:
        with pytest.raises(ValueError, match=name):
            save_original(GlmForCausalLM(GlmConfig(**{**small, "head_dim": 16, **kw})), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()


def test_resized_models_write_what_changed(golden, tmp_path):
    model = load_model(golden / "v3-base")
    model.resize_token_embeddings(520, mean_resizing=False)
    save_original(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["padded_vocab_size"] == 520
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


def test_adapters_must_be_merged_first(golden, tmp_path):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(load_model(golden / "v3-base"), LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(ValueError, match="merge_and_unload"): save_original(model, tmp_path)
    save_original(model.merge_and_unload(), tmp_path)
    same_tensors(tmp_path, golden / "v3-base")


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("shape", [(48, 5), (48,)])
def test_fuse_inverts_split(per_head, shape):
    fused, groups = torch.randn(shape), 4 if per_head else 1
    heads = 4
    assert torch.equal(_fuse_qkv(list(split_qkv(fused, heads, groups, per_head)), heads, per_head), fused)


# --- refusals, before memory is taken ------------------------------------------------------------------------------

@pytest.fixture
def loads_nothing(monkeypatch):
    from transformers import PreTrainedModel
    def fail(*args, **kwargs): raise AssertionError("weights were read")
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", fail)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(TypeError, match="demo name"): load_model(None)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no NVIDIA GPU"): load_model("tiny-v3", device="cuda")
    folder = save_hf(load_model("tiny-v3"), tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="tokenizer.save_pretrained"): load_tokenizer(folder)
    save_hf(load_model("tiny-v3"), tmp_path / "b", load_tokenizer("tiny-v3"))
    assert load_tokenizer(tmp_path / "b")("Hello").input_ids == load_tokenizer("tiny-v3")("Hello").input_ids


@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_model_fails_fast(tmp_path, monkeypatch, offline):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.time()
    for name, cure in (("nobody/no-such-model", "hf download nobody"), (str(tmp_path / "nowhere"), "no folder .*nowhere"),
                       ("smoll", "there are tiny, .*smol")):
        with pytest.raises(FileNotFoundError, match=cure): load_model(name)
    with pytest.raises(FileNotFoundError, match="hub's cache"): fingerprint("nobody/no-such-model")
    assert time.time() - start < 20  # the hub's own retries take longer


def test_git_lfs_pointer(copy, loads_nothing):
    folder = copy()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"): load_model(folder)
    with pytest.raises(ValueError, match="git lfs pull"): fingerprint(folder)


def test_the_auto_class_says_the_same(copy, golden):
    from transformers import AutoModelForCausalLM
    def refused(folder, message):
        with pytest.raises((ValueError, OSError), match=message): AutoModelForCausalLM.from_pretrained(folder)
    folder = copy(name="pointer")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    refused(folder, "git lfs pull")
    os.truncate((folder := copy(name="cut")) / "model.safetensors", 100_000)
    refused(folder, "not whole")
    refused(copy(name="shape", padded_vocab_size=640), "config.json asks for")
    for ours, theirs in (("v1-base", "v3-base"), ("v3-base", "v1-base")):  # transformers would start from random weights
        folder = copy(ours, name=f"mixed {ours}")
        shutil.copy(golden / theirs / "model.safetensors", folder)
        refused(folder, "tensors are missing")
    refused(copy(name="tokens", files={"ice_text.model": "\n"}), "belongs to ChatGLM-6B")
    folder = sharded(copy(name="shards"), "safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "1 of 2 weight files are missing")


@pytest.mark.parametrize("file, content", [
    ("model.safetensors", b"<html>not found</html>" * 50), ("model.safetensors", (20).to_bytes(8, "little") + b"not json " * 9),
    ("pytorch_model.bin", b"<html>not found</html>" * 50), ("pytorch_model.bin", b"")])
def test_a_web_page_or_nothing_in_place_of_weights(copy, loads_nothing, file, content):
    folder = copy()
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content)
    for load in (load_model, fingerprint):
        with pytest.raises(ValueError, match="not whole.*download it again"): load(folder)


def test_git_lfs_pointer_for_the_index(copy, loads_nothing):
    folder = sharded(copy(), "safetensors")
    (folder / "model.safetensors.index.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"): load_model(folder)


def test_git_lfs_pointer_for_the_vocabulary(copy, loads_nothing):
    folder = copy(files={"tokenizer.model": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"})
    with pytest.raises(ValueError, match="git lfs pull"): load_model(folder)


@pytest.mark.parametrize("size", [0, 5, 300, 100_000])
def test_truncated_file(copy, loads_nothing, size):
    folder = copy()
    os.truncate(folder / "model.safetensors", size)
    with pytest.raises(ValueError, match="not whole; delete it and download it again"): load_model(folder)


def test_truncated_bin(copy, loads_nothing):
    folder = copy()
    torch.save(load_file(folder / "model.safetensors"), file := folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match="not whole"): load_model(folder)


def test_missing_shard_and_missing_weights(copy, loads_nothing):
    folder = sharded(copy(), "safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 weight files are missing.*model-00002"): load_model(folder)
    for file in folder.glob("model*"): file.unlink()
    with pytest.raises(FileNotFoundError, match="no weights in"): load_model(folder)


def test_missing_tensor(copy, loads_nothing):
    folder = copy()
    state = load_file(folder / "model.safetensors")
    del state["transformer.encoder.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="1 of 25 tensors are missing.*dense_h_to_4h"): load_model(folder)


@pytest.mark.parametrize("case, key", [("v1-base", "vocab_size"), ("v3-base", "padded_vocab_size")])
def test_weights_of_another_vocabulary(copy, loads_nothing, case, key):
    with pytest.raises(ValueError, match=r"has shape \(512, 64\), but config.json asks for \(640, 64\)"):
        load_model(copy(case, **{key: 640}))


def test_prefix_only(copy, loads_nothing):
    folder = copy(pre_seq_len=8)
    save_file({"transformer.prefix_encoder.embedding.weight": torch.zeros(8, 4)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="P-Tuning prefix"): load_model(folder)


def test_tokenizer_of_another_generation(copy, loads_nothing):
    with pytest.raises(ValueError, match="belongs to ChatGLM-6B, the weights beside it to ChatGLM2 or later"):
        load_model(copy(files={"ice_text.model": "\n"}))
    with pytest.raises(ValueError, match="belongs to ChatGLM2 or later, the weights beside it to ChatGLM-6B"):
        load_model(copy("v1-base", name="first", files={"tokenizer.model": "\n"}))
    with pytest.raises(ValueError, match="base64 lines.*does not fit weights of generation 3 and 512 rows"):
        load_model(copy(name="glm4 tokens", files={"tokenizer.model": "IQ== 0\nIg== 1\n"}))


def test_config_and_weights_that_disagree_about_quantisation_are_refused(copy, loads_nothing):
    from transformers import AutoModelForCausalLM
    for load in (load_model, AutoModelForCausalLM.from_pretrained):
        for case in ("v1-base", "v3-base"):
            with pytest.raises(ValueError, match="quantization_bit=4, which its weights are not"):
                load(copy(case, name=f"{case}-{load.__name__}", quantization_bit=4))
    folder = copy(name="codes")
    state = load_file(folder / "model.safetensors")
    state["transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"] = torch.zeros(192, 64, dtype=torch.int8)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="quantization_bit=None, which its weights are not"): load_model(folder)


# --- what it is and what it costs ----------------------------------------------------------------------------------

def test_fingerprint(golden, tmp_path):
    three, two = fingerprint(golden / "v3-base"), fingerprint(golden / "v2-base")
    assert (three.generation, two.generation, fingerprint(golden / "v1-base").generation) == (3, 2, 1)
    assert (three.layout, three.vocabulary, three.dtype, three.quantization) == ("original", 512, "float32", None)
    model = load_model(golden / "v3-base")
    assert three.parameters == sum(p.numel() for p in model.parameters()) and three.weight_hash != two.weight_hash
    save_hf(model, tmp_path)
    saved = fingerprint(tmp_path)
    assert (saved.layout, saved.generation, saved.parameters) == ("hf", 3, three.parameters)
    assert "| parameters | 1" in three._repr_markdown_()


def test_fingerprint_counts_the_numbers_in_packed_weights(copy):
    plain = copy(torch_dtype="float16")
    state, wanted = load_file(plain / "model.safetensors"), fingerprint(plain).parameters
    for bits in (8, 4):
        folder, packed = copy(name=f"int{bits}", quantization_bit=bits), {}
        for name, tensor in state.items():
            packed[name] = tensor
            if ".layers." not in name or tensor.ndim != 2: continue
            packed[name] = torch.zeros(len(tensor), tensor.shape[1] * bits // 8, dtype=torch.int8)
            packed[f"{name}_scale"] = torch.ones(len(tensor))
        save_file(packed, folder / "model.safetensors")
        assert fingerprint(folder).parameters == wanted and fingerprint(folder).quantization == f"int{bits}"


def test_import_is_lazy():
    "What it costs in seconds is measured by `make bench`."
    assert run("import sys, chatglm_cookbook; print('torch' in sys.modules, 'transformers' in sys.modules)").split() == ["False"] * 2
    added = run("import sys, transformers; old = set(sys.modules); import chatglm_cookbook; print(*set(sys.modules) - old)").split()
    assert not [name for name in added if name.split(".")[0] in ("torch", "transformers", "numpy", "tokenizers")]


measure = r"""
import re, sys
import chatglm_cookbook
from chatglm_cookbook.checkpoints import load_model
from transformers import AutoModelForCausalLM
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024  # ru_maxrss is inherited
load = load_model if sys.argv[4] == "load_model" else AutoModelForCausalLM.from_pretrained
load(sys.argv[1], dtype="bfloat16")  # what loading a first model needs in code and buffers is not counted
before = peak()
model = load(sys.argv[2], dtype=sys.argv[3])
for parameter in model.parameters(): parameter.sum()  # a mapped file counts once it is touched
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


def big_checkpoint(golden, folder):
    "0.4 GB of bfloat16 in the original layout, in shards, both as .safetensors and as .bin."
    config = {**json.loads((golden / "v3-base" / "config.json").read_text()), "hidden_size": 1024, "kv_channels": 128,
              "num_attention_heads": 8, "ffn_hidden_size": 2736, "num_layers": 12, "padded_vocab_size": 32000,
              "torch_dtype": "bfloat16"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    from transformers import AutoConfig, AutoModelForCausalLM
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters(): parameter.data.fill_(0.01)
    save_original(model, folder, max_shard_size=10**8)
    (other := folder.parent / "bin").mkdir()
    for file in folder.glob("model-*.safetensors"): torch.save(load_file(file), other / f"pytorch_{file.stem}.bin")
    index = (folder / "model.safetensors.index.json").read_text().replace("model-", "pytorch_model-")
    (other / "pytorch_model.bin.index.json").write_text(index.replace(".safetensors", ".bin"))
    shutil.copy(folder / "config.json", other)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_peak_memory_while_loading(golden, tmp_path):
    big_checkpoint(golden, tmp_path / "safetensors")
    ways = [(suffix, dtype, "load_model") for suffix in ("safetensors", "bin") for dtype in ("auto", "float32", "float16")]
    for suffix, dtype, how in [*ways, ("safetensors", "float16", "AutoModelForCausalLM"), ("bin", "auto", "AutoModelForCausalLM")]:
        done = subprocess.run([sys.executable, "-c", measure, golden / "v3-base", tmp_path / suffix, dtype, how],
                              capture_output=True, text=True, check=True)
        ratio = float(done.stdout.split()[-1])
        print(f"peak memory of {how}, {suffix} as {dtype}: {ratio:.2f} x the weights")
        assert 0.9 < ratio <= 1.2
