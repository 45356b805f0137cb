"""Prefixes against outputs of the original code (see tests/golden), through training, writing and files."""
import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.labels import Collator, encode_example
from chatglm_cookbook.ptuning import PrefixEncoder, add_prefix, load_prefix, prefix_parameters, remove_prefix, save_prefix

CASES = ["v1-prefix", "v1-prefix-proj", "v3-prefix", "v3-prefix-proj"]


@pytest.fixture(params=CASES, scope="module")
def folder(request, golden):
    "The bundled case, else the one of the full set (the fixture `shared` skips where that is not here)."
    here = golden / request.param
    return here if here.is_dir() else request.getfixturevalue("shared") / "golden" / request.param


@pytest.fixture(params=["sdpa", "eager"])
def case(folder, request):
    given, expected = (load_file(folder / f"{kind}.safetensors") for kind in ("inputs", "expected"))
    model = load_model(str(folder))
    model.set_attn_implementation(request.param)
    given["batch.attention_mask"] = given.pop("batch.valid", given["batch.attention_mask"])
    return load_prefix(model, folder), given, expected, json.loads((folder / "expected.json").read_text())


@pytest.fixture(params=["tiny-v1", "tiny-v2", "tiny-v3"])
def tiny(request): return load_model(request.param), load_tokenizer(request.param)


def close(ours, theirs): assert (ours[:, -theirs.shape[1]:] - theirs).abs().max() <= 1e-4


def batch_of(tokenizer, count=4, side="right", start=0):
    rows = load_rows(data_file("adgen_train.jsonl"))[start:start + count]
    return Collator(tokenizer, padding_side=side)([encode_example(tokenizer, row) for row in rows])


def prompts(tokenizer):
    "Two prompts of different lengths, padded on the left, and each alone."
    texts = [tokenizer(text)["input_ids"] for text in ("类型#裤*材质#棉", "类型#裙")]
    width = max(map(len, texts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(t)) + t for t in texts])
    mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts])
    return ids, mask, [torch.tensor([t]) for t in texts]


@torch.no_grad()
def test_logits(case):
    model, given, expected, _ = case
    close(model(given["single.input_ids"]).logits, expected["single.logits"])
    mask = given["batch.attention_mask"]
    for positions in (given["batch.position_ids"], None):  # without positions the padding is not counted either
        out = model(given["batch.input_ids"], attention_mask=mask, position_ids=positions).logits
        kept = expected["batch.logits"].shape[1]
        real = mask[:, -kept:].bool()
        assert (out[:, -kept:][real] - expected["batch.logits"][real]).abs().max() <= 1e-4


def test_loss_and_gradients(case):
    model, given, expected, numbers = case
    encoder = model.base_model.prefix_encoder
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.train()
            encoder.eval()
        model.zero_grad()
        loss = model(given["loss.input_ids"], labels=given["loss.labels"]).loss
        loss.backward()
        assert abs(loss.item() - numbers["loss"]) <= 1e-5
        for name, parameter in encoder.named_parameters():
            theirs = expected[f"loss.grad.transformer.prefix_encoder.{name}"]
            assert (parameter.grad - theirs).norm() <= 1e-5 * theirs.norm() > 0
        assert {n for n, p in model.named_parameters() if p.grad is not None} == {
            n for n, _ in model.named_parameters() if "prefix_encoder" in n}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["single", "batch"])
def test_cached_decode_and_greedy(case, kind):
    model, given, expected, _ = case
    ids, mask = given[f"{kind}.input_ids"], given["batch.attention_mask"] if kind == "batch" else None
    cache, logits = DynamicCache(), []
    for step in [ids, *expected_steps(given, kind)]:
        if mask is not None and logits: mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
        logits.append(model(step, attention_mask=mask, past_key_values=cache, use_cache=True).logits[:, -1])
    close(torch.stack(logits, 1), expected[f"decode_{kind}.logits"])
    assert cache.get_seq_length() == ids.shape[1] + len(logits) - 1  # the text and nothing else

    model.generation_config.eos_token_id = None
    mask = given["batch.attention_mask"] if kind == "batch" else None
    for use_cache in (True, False):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False, pad_token_id=0, use_cache=use_cache)
        assert out[:, ids.shape[1]:].tolist() == expected[f"greedy_{kind}.tokens"].tolist()


def expected_steps(given, kind): return given[f"decode_{kind}.continuation"].T[..., None]


def test_saved_like_the_original(case, folder, tmp_path):
    "What is written has the names, shapes and settings of the checkpoint that was read; a reload gives the same bits."
    model, given, _, _ = case
    save_prefix(model, tmp_path)
    theirs = {k: v for k, v in load_file(folder / "model.safetensors").items() if "prefix_encoder" in k}
    ours = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert ours.keys() == theirs.keys() and all(ours[k].equal(v) for k, v in theirs.items())
    config, original = (json.loads((f / "config.json").read_text()) for f in (tmp_path, folder))
    assert original.items() <= config.items()
    encoder = model.base_model.prefix_encoder
    count = sum(v.numel() for v in theirs.values())
    assert count == prefix_parameters(model.config, encoder.length, encoder.projection)
    with torch.no_grad():
        before = model(given["single.input_ids"]).logits
        load_prefix(remove_prefix(model), tmp_path)
        assert model(given["single.input_ids"]).logits.equal(before)


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
def test_a_whole_model_is_saved_with_its_prefix(name, tmp_path):
    "The original layout with the original's name and settings; base and prefix are read again, each to the bit."
    from chatglm_cookbook.checkpoints import save_original
    model, ids = load_model(name), torch.tensor([[5, 6, 7, load_tokenizer(name).bos_token_id or 8, 9]])
    if name == "tiny-v1": ids = torch.tensor([load_tokenizer(name)("裙")["input_ids"]])
    with torch.no_grad(): plain = model(ids).logits
    add_prefix(model, 3, projection=True)
    with torch.no_grad(): ours = model(ids).logits
    save_original(model, tmp_path, dtype=torch.float32)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {n for n in names if "prefix" in n} == {f"transformer.prefix_encoder.{n}" for n in model.base_model.prefix_encoder.state_dict()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["pre_seq_len"], config["prefix_projection"]) == (3, True)
    again = load_model(tmp_path)
    with torch.no_grad(): assert again(ids).logits.equal(plain)
    load_prefix(again, tmp_path)
    with torch.no_grad(): assert again(ids).logits.equal(ours)
    save_original(remove_prefix(again), tmp_path, dtype=torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not config.get("pre_seq_len") and not config.get("prefix_projection")
    assert not any("prefix" in n for n in load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("kind, projection", [("greedy", True), ("sampled", False), ("beams", False), ("static", False)])
def test_a_batch_says_what_its_rows_say_alone(tiny, kind, projection):
    model, tokenizer = tiny
    if kind == "static" and model.config.model_type == "chatglm": pytest.skip("ChatGLM-6B keeps a dynamic cache")
    torch.manual_seed(0)
    add_prefix(model, 5, projection)
    ids, mask, alone = prompts(tokenizer)
    how = {"greedy": {}, "sampled": dict(do_sample=True, top_k=1), "beams": dict(num_beams=3),
           "static": dict(cache_implementation="static")}[kind]
    write = lambda ids, **more: model.generate(ids, **{"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0,
                                                       "eos_token_id": -1} | how | more)[:, ids.shape[1]:].tolist()
    together = write(ids, attention_mask=mask)
    assert together == [write(row)[0] for row in alone]
    with torch.no_grad(): assert (model(alone[0]).logits - remove_prefix(model)(alone[0]).logits).abs().max() > 1e-3


def test_packed_rows_see_the_prefix_and_not_each_other():
    from chatglm_cookbook.labels import pack
    model, tokenizer = load_model("tiny"), load_tokenizer("tiny")
    add_prefix(model, 6)
    examples = [encode_example(tokenizer, row) for row in load_rows(data_file("adgen_train.jsonl"))[:3]]
    with torch.no_grad():
        packed = model(**Collator(tokenizer)(pack(examples, 1000))).logits[0]
        each = torch.cat([model(torch.tensor([e["input_ids"]])).logits[0] for e in examples])
    assert (packed - each).abs().max() <= 1e-5


def test_two_calls_before_one_backward(tiny):
    "With dropout and checkpointing: each call is recomputed with the prefix that it had."
    model, tokenizer = tiny
    torch.manual_seed(0)
    add_prefix(model, 4).train()
    weight, batches = model.base_model.prefix_encoder.embedding.weight, [batch_of(tokenizer, 2, start=i) for i in (0, 5)]

    def gradient():
        torch.manual_seed(1)
        model.zero_grad()
        sum(model(**batch).loss for batch in batches).backward()
        return weight.grad.clone()
    plain = gradient()
    model.gradient_checkpointing_enable()
    assert (gradient() - plain).norm() <= 1e-5 * plain.norm() > 0


def test_a_cropped_cache_goes_on(tiny):
    "`crop`, which assisted generation uses, counts text only."
    model, tokenizer = tiny
    if model.config.model_type == "chatglm": pytest.skip("ChatGLM-6B refuses a cropped cache without positions")
    add_prefix(model, 4)
    ids = prompts(tokenizer)[0][:1]
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        cache.crop(-2)
        again = model(ids[:, -2:], past_key_values=cache).logits
        assert (again - model(ids).logits[:, -2:]).abs().max() <= 1e-5


def test_training_with_trainer(tiny, tmp_path):
    from transformers import Trainer, TrainingArguments
    model, tokenizer = tiny
    torch.manual_seed(0)
    add_prefix(model, 8)
    base = {n: p.detach().clone() for n, p in model.named_parameters() if "prefix_encoder" not in n}
    data = [encode_example(tokenizer, row, max_length=96) for row in load_rows(data_file("adgen_train.jsonl"))[:8]]
    check = Collator(tokenizer)(data)
    with torch.no_grad(): before = model(**check).loss.item()
    settings = TrainingArguments(str(tmp_path), max_steps=12, per_device_train_batch_size=4, learning_rate=0.5, report_to=[],
                                 save_strategy="no", disable_tqdm=True, gradient_checkpointing=True, use_cpu=True)
    Trainer(model, settings, train_dataset=data, data_collator=Collator(tokenizer)).train()
    model.eval()
    with torch.no_grad(): assert model(**check).loss.item() < before - 0.02
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)


def test_finetune_and_its_folder(tmp_path):
    "The engine trains a prefix; its folder, a checkpoint and `save_prefix` hold the same one."
    from chatglm_cookbook.train import finetune
    for name in ("tiny-v1", "tiny-v3"):
        rows, out = load_rows(data_file("adgen_train.jsonl"))[:8], tmp_path / name
        result = finetune(load_model(name), load_tokenizer(name), rows, "prefix", output=out, show=False, steps=2, save_every=2,
                          prefix_length=4, length=160)
        want = result.model.base_model.prefix_encoder.embedding.weight
        saved = save_prefix(result.model, tmp_path / f"{name}-saved")
        for source in (result.folder, result.folder / "trained.safetensors", out / "checkpoint-2", saved):
            assert load_prefix(load_model(name), source).base_model.prefix_encoder.embedding.weight.equal(want)
        torch.manual_seed(0)
        assert not want.equal(add_prefix(load_model(name), 4).base_model.prefix_encoder.embedding.weight)


@pytest.mark.parametrize("bits, method", [(8, "chatglm"), (4, "group")])
def test_on_a_quantised_base(bits, method):
    "Gradients reach the prefix through packed weights, and are those of the same weights in float32."
    from chatglm_cookbook.quantize import dequantize_model, quantize_model
    torch.manual_seed(0)
    packed, plain = (add_prefix(quantize_model(load_model("tiny-v3"), bits, method=method), 4) for _ in range(2))
    dequantize_model(plain)
    encoders = [m.base_model.prefix_encoder for m in (packed, plain)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    batch = batch_of(load_tokenizer("tiny-v3"), 2)
    for model in (packed, plain): model(**batch).loss.backward()
    ours, theirs = (e.embedding.weight.grad for e in encoders)
    assert (ours - theirs).norm() <= 0.02 * theirs.norm() > 0


def test_dtype_copy_and_pickle(tiny):
    model, tokenizer = tiny
    add_prefix(model.bfloat16(), 4)
    encoder = model.base_model.prefix_encoder
    assert encoder.embedding.weight.dtype == torch.float32
    ids = prompts(tokenizer)[0][1:]
    with torch.no_grad(): here = model(ids).logits
    assert here.dtype == torch.bfloat16 and here.isfinite().all()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert other(ids).logits.equal(here)
            other.base_model.prefix_encoder.embedding.weight.add_(1)
            assert not other(ids).logits.equal(here) and model(ids).logits.equal(here)
    half = model.float().base_model.prefix_encoder.half()
    with torch.no_grad(): assert model(ids).logits.dtype == torch.float32 and half.embedding.weight.dtype == torch.float16


def test_dropout_is_only_for_training(tiny):
    model, tokenizer = tiny
    add_prefix(model, 4)
    ids = prompts(tokenizer)[0][1:]
    with torch.no_grad():
        assert model(ids).logits.equal(model(ids).logits)
        model.train()
        assert not model(ids).logits.equal(model(ids).logits)
        model.base_model.prefix_encoder.dropout.p = 0.0
        assert model(ids).logits.equal(model(ids).logits)


def test_peft_and_back(tmp_path):
    from peft import PeftModel
    for name in ("tiny-v2", "tiny-v3"):
        model, tokenizer = load_model(name), load_tokenizer(name)
        torch.manual_seed(0)
        add_prefix(model, 6, projection=True)
        ids, mask, alone = prompts(tokenizer)
        with torch.no_grad(): ours = [model(row).logits for row in alone]
        table = model.base_model.prefix_encoder.table().detach()
        folder = save_prefix(model, tmp_path / name, layout="peft")
        other = PeftModel.from_pretrained(load_model(name), str(folder)).eval()
        with torch.no_grad():
            for row, logits in zip(alone, ours): assert (other(row).logits - logits).abs().max() <= 1e-5
        load_prefix(model, folder)
        assert (model.base_model.prefix_encoder.embedding.weight - table).abs().max() <= 1e-5
        model.generation_config.eos_token_id = other.get_base_model().generation_config.eos_token_id = -1
        write = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert other.generate(input_ids=alone[0], **write).tolist() == model.generate(alone[0], **write).tolist()


@pytest.mark.parametrize("name", ["tiny-v2", "tiny-v3"])
def test_a_prefix_that_peft_made(name, tmp_path):
    "peft's own prefix, read, says what peft says; from there it goes through the original layout and back to peft."
    from peft import PeftModel, PrefixTuningConfig, get_peft_model
    model, row = load_model(name), prompts(load_tokenizer(name))[2][0]
    _, heads, size = PrefixEncoder(model.config, 1).shape
    torch.manual_seed(0)
    theirs = get_peft_model(load_model(name), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_attention_heads=heads,
                                                                 token_dim=heads * size, encoder_hidden_size=heads * size)).eval()
    theirs.save_pretrained(tmp_path / "peft")
    save_prefix(load_prefix(model, tmp_path / "peft"), tmp_path / "original")
    again = load_prefix(load_model(name), tmp_path / "original")
    back = PeftModel.from_pretrained(load_model(name), str(save_prefix(again, tmp_path / "back", layout="peft"))).eval()
    with torch.no_grad():
        want = theirs(row).logits
        assert all((other(row).logits - want).abs().max() <= 1e-5 for other in (model, again, back))
        assert (load_model(name)(row).logits - want).abs().max() > 1e-3


@pytest.mark.parametrize("projection", [False, True])
def test_files_of_chatglm2(projection, tmp_path):
    "Names, shapes and settings of ChatGLM2's own checkpoints, from its config; read again, the same bits."
    model, tokenizer = load_model("tiny-v2"), load_tokenizer("tiny-v2")
    folder, row = save_prefix(add_prefix(model, 3, projection), tmp_path), prompts(tokenizer)[2][0]
    config = json.loads((folder / "config.json").read_text())
    width = 2 * config["num_layers"] * config["multi_query_group_num"] * config["kv_channels"]
    hidden = config["hidden_size"]
    network = {"trans.0.weight": (hidden, width), "trans.0.bias": (hidden,), "trans.2.weight": (width, hidden), "trans.2.bias": (width,)}
    shapes = {k: tuple(v.shape) for k, v in torch.load(folder / "pytorch_model.bin", weights_only=True).items()}
    assert shapes == {f"transformer.prefix_encoder.{k}": v for k, v in ({"embedding.weight": (3, width)} | (network if projection else {})).items()}
    assert (config["model_type"], config["pre_seq_len"], config["prefix_projection"]) == ("chatglm", 3, projection)
    with torch.no_grad(): assert load_prefix(load_model("tiny-v2"), folder)(row).logits.equal(model(row).logits)


def test_another_base_is_noticed(tmp_path):
    model = load_model("tiny-v3")
    save_prefix(add_prefix(model, 3), tmp_path)
    with pytest.warns(UserWarning, match="another base"):
        with torch.no_grad(): model.get_input_embeddings().weight.mul_(1.2)
        load_prefix(model, tmp_path)
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_prefix(load_model("tiny-v3").bfloat16(), tmp_path)


def changed(folder: Path, **tensors) -> Path:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state = {k: tensors.get(k.rpartition("prefix_encoder.")[2], v) for k, v in state.items()}
    save_file({k: v for k, v in state.items() if v is not None}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    return folder


def test_refusals(tmp_path):
    model = load_model("tiny-v3")
    for length in (0, -1, 2.0, True, "4"):
        with pytest.raises(ValueError, match="length must be"): add_prefix(model, length)
    with pytest.raises(ValueError, match="add_prefix or load_prefix comes first"): save_prefix(model, tmp_path)
    with pytest.raises(ValueError, match="has no prefix"): remove_prefix(model)
    add_prefix(model, 4, projection=True)
    with pytest.raises(ValueError, match="has a prefix of 4"): add_prefix(model, 4)
    here = lambda name: save_prefix(model, tmp_path / name)
    with pytest.raises(ValueError, match="trans.2.bias is missing"): load_prefix(model, changed(here("a"), **{"trans.2.bias": None}))
    bad = torch.full((4, 256), float("nan"))
    columns = model.base_model.prefix_encoder.embedding.weight.shape[1]
    with pytest.raises(ValueError, match="holds nan or inf"):
        load_prefix(model, changed(here("b"), **{"embedding.weight": bad[:, :1].expand(4, columns).contiguous()}))
    with pytest.raises(ValueError, match="belongs to another one"): load_prefix(model, changed(here("c"), **{"embedding.weight": torch.ones(4, 3)}))
    folder = here("d")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"prefix_projection": False}))
    with pytest.raises(ValueError, match="prefix_projection=False, the tensors say True"): load_prefix(model, folder)
    with pytest.raises(ValueError, match="no tensor transformer.prefix_encoder"): load_prefix(model, model.name_or_path)
    with pytest.raises(ValueError, match="holds a model"): save_prefix(model, model.name_or_path)
    with pytest.raises(FileNotFoundError): load_prefix(model, tmp_path / "nowhere")
    (tmp_path / "prefix.txt").write_text("")
    with pytest.raises(ValueError, match="is no .bin or .safetensors"): load_prefix(model, tmp_path / "prefix.txt")
    with pytest.raises(ValueError, match="layout must be"): save_prefix(model, tmp_path / "e", layout="hf")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="needs attention 'sdpa' or 'eager'"): model(torch.tensor([[1, 2]]))


def test_refused_models(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ValueError, match="not model type 'llama'"): add_prefix(llama, 2)
    with pytest.raises(TypeError, match="not Linear"): add_prefix(torch.nn.Linear(1, 1), 2)
    lora = get_peft_model(load_model("tiny-v3"), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="carries an adapter of peft"): add_prefix(lora, 2)
    with pytest.raises(ValueError, match="is no prefix"):
        lora.save_pretrained(tmp_path / "lora")
        load_prefix(load_model("tiny-v3"), tmp_path / "lora")
    with pytest.raises(ValueError, match="not for ChatGLM-6B"): save_prefix(add_prefix(load_model("tiny-v1"), 2), tmp_path, layout="peft")
    model = add_prefix(load_model("tiny-v3"), 2).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="gives a prefix no gradient"): model(torch.tensor([[1, 2]]))


def test_failed_load_changes_nothing(tmp_path):
    model = load_model("tiny-v3")
    save_prefix(add_prefix(load_model("tiny-v1"), 2), tmp_path)
    trainable = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match="belongs to another one"): load_prefix(model, tmp_path)
    assert [p.requires_grad for p in model.parameters()] == trainable and not hasattr(model.base_model, "prefix_encoder")
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_replacing_keeps_what_was_trainable(tmp_path):
    model = load_model("tiny-v3")
    model.lm_head.requires_grad_(False)
    save_prefix(add_prefix(model, 3), tmp_path)
    load_prefix(load_prefix(model, tmp_path), tmp_path)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 1 + model.config.num_hidden_layers
    remove_prefix(model)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {n for n, _ in model.named_parameters() if "lm_head" in n}
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_encoder_by_its_formula():
    from chatglm_cookbook.glm import ChatGLMConfig
    config = ChatGLMConfig(hidden_size=8, num_layers=2, num_attention_heads=2)
    encoder = PrefixEncoder(config, 3, projection=True).eval()
    a, b = encoder.trans[0], encoder.trans[2]
    table = torch.tanh(encoder.embedding.weight @ a.weight.T + a.bias) @ b.weight.T + b.bias
    states = encoder(2)
    assert encoder.embedding.weight.shape == (3, 8)
    for layer in range(2):
        for part in range(2):
            start = (2 * layer + part) * 8
            want = table[:, start:start + 8].view(3, 2, 4).transpose(0, 1)
            assert (states[layer][part] - want).abs().max() < 1e-6


@pytest.mark.parametrize("name, length, rate", [("official", 128, 2e-2), ("short", 8, 1e-2), ("fair", 16, 1e-2), ("long", 128, 2e-2)])
def test_recipes(name, length, rate):
    from chatglm_cookbook.train import read_recipe
    recipe = read_recipe(Path(__file__).resolve().parent.parent / f"configs/recipes/ptuning_adgen_{name}.yaml")
    assert (recipe.method, recipe.prefix_length, recipe.learning_rate) == ("prefix", length, rate)
    assert recipe.batch_size * recipe.accumulate == 16 and not recipe.projection
    assert len(load_rows(recipe.data, recipe.format)) == 4200 and len(load_rows(recipe.dev, recipe.format)) == 300


def test_a_recipe_runs_on_tiny(tmp_path):
    from chatglm_cookbook.train import train_recipe
    path = Path(__file__).resolve().parent.parent / "configs/recipes/ptuning_adgen_short.yaml"
    result = train_recipe(path, "model=tiny-v1", "quantize=", "steps=2", "accumulate=1", f"output={tmp_path}", "dtype=float32", "dev=", "length=160")
    assert result.steps == 2 and load_prefix(load_model("tiny-v1"), result.folder).base_model.prefix_encoder.length == 8
