"""Quantised weights: bytes and logits of the original code, every path of the layer, adapters, saving, refusals."""
import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from chatglm_cookbook import quantize
from chatglm_cookbook.checkpoints import load_model, save_original
from chatglm_cookbook.compare import memory_table, quantization_report
from chatglm_cookbook.quantize import (QuantizedEmbedding, QuantLinear, dequantize_model, gptq_weight, pack_int4,
                                       quantize_model, quantize_weight, unpack_int4)

CASES = ["v1-int8", "v1-int4", "v3-int8", "v3-int4"]
FORMATS = [(8, None, False), (8, 32, False), (8, 64, True), (4, None, False), (4, 32, False), (4, 32, True), (4, 128, True)]


@pytest.fixture(scope="module")
def quant(golden):
    return load_file(golden / "quant-linear/quant.safetensors"), load_file(golden / "quant-linear/int4_all_codes.safetensors")


def layer(weight, bits, group=None, zero=False, bias=None):
    codes, scale, points = quantize_weight(weight, bits, group, zero)
    return QuantLinear(codes if bits == 8 else pack_int4(codes), scale, bias, points, in_features=weight.shape[1])


def steps(layer):
    scale = layer.weight_scale.float()
    return scale[:, None] if layer.group is None else scale.repeat_interleave(layer.group, 1)[:, :layer.in_features]


def off(ours, theirs): return ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["v1.fp16", "v1.fp32", "v23.fp16", "v23.fp32", "v23.bf16"])
def test_bytes_and_steps_of_the_original(quant, kind, bits):
    data, _ = quant
    weight = data["weight_fp16"] if kind.endswith("fp16") else data["weight_fp32"]
    if kind.endswith("bf16"): weight = weight.bfloat16()
    half = torch.float16 if kind.startswith("v1") else None
    codes, scale, zero = quantize_weight(weight, bits, scale_dtype=half, faults=True)
    stored = codes if bits == 8 else pack_int4(codes)
    assert zero is None and torch.equal(stored, data[f"{kind}.int{bits}.weight"])
    assert torch.equal(scale, data[f"{kind}.int{bits}.weight_scale"])
    ours = QuantLinear(stored, scale, in_features=32)
    if f"{kind}.int{bits}.dequantized" in data: assert torch.equal(ours.dequantized(), data[f"{kind}.int{bits}.dequantized"])
    if f"{kind}.int{bits}.output_fp32_math" in data:
        own = lambda name: data[name].to(weight.dtype).float()
        out = F.linear(own("input_fp16"), ours.dequantized().float(), own("bias_fp16"))
        assert (out - data[f"{kind}.int{bits}.output_fp32_math"]).abs().max() < (0.1 if kind == "v23.bf16" else 1e-4)


def test_the_sign_that_the_original_loses_in_bfloat16_is_kept(quant):
    weight = quant[0]["weight_fp32"].bfloat16()
    codes, scale, _ = quantize_weight(weight, 8)
    theirs = quant[0]["v23.bf16.int8.weight"]
    where = codes != theirs
    assert (codes[where].abs() == 127).all() and (theirs[where] == -128).all() and (codes[where] == 127).any()
    assert (weight.float() - codes.float() * scale.float()[:, None]).abs().max() < scale.float().max()


def test_all_bytes_unpack_as_the_original_reads_them(quant):
    _, table = quant
    assert torch.equal(unpack_int4(table["codes"]), table["unpacked"])
    assert torch.equal(pack_int4(table["unpacked"]), table["codes"])
    odd = torch.tensor([[1, -8, 7]], dtype=torch.int8)
    assert pack_int4(odd).tolist() == [[0x18, 0x70]] and torch.equal(unpack_int4(pack_int4(odd), 3), odd)
    for wrong in (torch.tensor([[8]], dtype=torch.int8), torch.tensor([[1]])):
        with pytest.raises(ValueError, match="codes must be int8 from -8 to 7"): pack_int4(wrong)


@pytest.mark.parametrize("bits,group,zero", FORMATS)
@pytest.mark.parametrize("shape", [(128, 256), (65, 33), (3, 100)])
def test_no_weight_moves_by_more_than_half_a_step(bits, group, zero, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape) * 0.02
    weight[0], weight[1], weight[2, 0] = 0, 0.3, 5.0  # a row of zeros, one that is constant, an outlier
    ours = layer(weight, bits, group, zero)
    lost = (weight - ours.dequantized(torch.float32)).abs()
    assert (lost <= steps(ours) / 2 * 1.0001 + 1e-9).all()
    assert (ours.dequantized(torch.float32)[0] == 0).all()
    assert lost.max() > 0  # something was rounded


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_steps_too_small_for_their_dtype_do_not_overflow(dtype):
    weight = torch.tensor([[1e-7, -3e-6, 2.4e-6, 0.0], [6e-8, 0, 0, 0], [0.5, 0.25, -0.5, 0.1]]).to(dtype)
    for bits in (8, 4):
        codes, scale, _ = quantize_weight(weight, bits)
        assert codes.abs().max() <= 2 ** (bits - 1) - 1 and scale.isfinite().all()
        assert ((codes.float() * scale.float()[:, None] - weight.float()).abs() <= 0.56 * scale.float()[:, None]).all()


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bits,group,zero", FORMATS)
def test_every_path_gives_the_product_and_its_gradient(bits, group, zero, dtype, rows):
    torch.manual_seed(1)
    for out, size in ((128, 256), (64, 512), (65, 33), (20, 100)):
        bias = torch.randn(out)
        ours = layer(torch.randn(out, size) * 0.02, bits, group, zero, bias)
        exact = ours.dequantized(torch.float32)
        x = torch.randn((2, rows, size) if rows == 3 else (rows, size)).to(dtype).requires_grad_()
        y = ours(x)
        grad = torch.randn_like(y)
        y.backward(grad)
        limit = {torch.float32: 2e-6, torch.float64: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
        assert y.dtype == dtype and off(y, F.linear(x.detach().float(), exact, bias)) < limit
        assert off(x.grad, grad.float() @ exact) < limit


def test_large_layers_are_multiplied_piece_by_piece(monkeypatch):
    torch.manual_seed(2)
    monkeypatch.setattr(quantize, "_block", 2**12)
    for bits, group, zero in FORMATS:
        for dtype in (torch.float32, torch.bfloat16):
            ours = layer(torch.randn(448, 128), bits, group, zero)
            x = torch.randn(16, 128).to(dtype).requires_grad_()
            y, exact = ours(x), ours.dequantized(torch.float32)
            y.backward(torch.ones_like(y))
            assert off(y, x.detach().float() @ exact.T) < 8e-3
            assert off(x.grad, exact.sum(0).expand_as(x)) < 8e-3


def test_non_contiguous_weights_and_inputs():
    torch.manual_seed(3)
    weight, x = torch.randn(64, 128).T, torch.randn(64, 5).bfloat16().T
    for bits, group, zero in FORMATS:
        ours, again = layer(weight, bits, group, zero), layer(weight.contiguous(), bits, group, zero)
        assert torch.equal(ours.weight, again.weight) and torch.equal(ours(x), again(x.contiguous()))
        assert ours(x[:0]).shape == (0, 128)


def test_a_change_of_dtype_leaves_the_steps_alone():
    ours = layer(torch.randn(64, 64).half(), 8, bias=torch.randn(64))
    before = ours.weight_scale.clone()
    ours.bfloat16()
    assert ours.weight_scale.dtype == torch.float16 and torch.equal(ours.weight_scale, before)
    assert ours.bias.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16): assert ours(torch.randn(2, 64)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_original_checkpoints(golden, tmp_path, name):
    from transformers import AutoModelForCausalLM
    folder = golden / name
    ids = load_file(folder / "inputs.safetensors")["input_ids"]
    expected = load_file(folder / "expected.safetensors")
    model = load_model(folder, dtype=torch.float32)
    logits = model(ids).logits
    assert (logits - expected["logits.fp32_math"]).abs().max() < 1e-4
    assert (logits - expected["unquantized_logits.fp32_math"]).abs().max() > 1e-3  # the codes were used
    auto = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(auto) is type(model) and torch.equal(auto(ids).logits, logits)
    load_model(folder, dtype=torch.bfloat16)(ids)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        some = load_model(folder, dtype=dtype)
        before = some(ids).logits
        some(ids[:, :1])  # packed for one row by now, where that is done
        save_original(some, tmp_path / str(dtype))
        again = load_model(tmp_path / str(dtype), dtype=dtype)
        assert torch.equal(again(ids).logits, before)
        if dtype == torch.bfloat16: continue
        ours, theirs = load_file(tmp_path / str(dtype) / "model.safetensors"), load_file(folder / "model.safetensors")
        assert ours.keys() == theirs.keys()
        for key in theirs: assert ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("name", ["v1-int4", "v3-int4"])
def test_quantising_here_gives_the_bytes_of_the_original(golden, tmp_path, name):
    folder = golden / name
    shutil.copy(folder / "source_fp16.safetensors", tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_bit")
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, before = (load_model(tmp_path, dtype=torch.float16) for _ in range(2))
    assert quantize_model(model, 4, "chatglm") is model
    model.save_pretrained(tmp_path / "int4")
    ours, theirs = load_file(tmp_path / "int4/model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert (tmp_path / "int4/model.safetensors").stat().st_size < 1.02 * (folder / "model.safetensors").stat().st_size
    assert json.loads((tmp_path / "int4/config.json").read_text())["quantization_bit"] == 4

    losses = dequantize_model(model, before)
    assert len(losses) == len([n for n, m in before.named_modules() if type(m) is nn.Linear and ".layers." in f".{n}"])
    assert all(0.05 < loss < 0.2 for loss in losses.values()) and "mean loss" in repr(losses)
    ids = load_file(folder / "inputs.safetensors")["input_ids"]
    with torch.no_grad(): floats = model.float()(ids).logits
    assert (floats - load_file(folder / "expected.safetensors")["logits.fp32_math"]).abs().max() < 1e-3
    save_original(model, tmp_path / "floats")
    assert "quantization_bit" not in json.loads((tmp_path / "floats/config.json").read_text())
    assert type(load_model(tmp_path / "floats").get_submodule(next(iter(losses)))) is nn.Linear


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
@torch.no_grad()
def test_quantised_tables_are_saved_and_read(tmp_path, name, bits):
    model = quantize_model(load_model(name, dtype=torch.float32), bits, head=bits, embeddings=bits)
    assert isinstance(model.get_input_embeddings(), QuantizedEmbedding) and isinstance(model.get_output_embeddings(), QuantLinear)
    ids = torch.arange(20)[None] + 5
    before = model(ids).logits
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, dtype=torch.float32)
    assert isinstance(again.get_input_embeddings(), QuantizedEmbedding) and torch.equal(again(ids).logits, before)
    assert again.bfloat16()(ids).logits.dtype == torch.bfloat16
    dequantize_model(model)
    assert (model(ids).logits - before).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [dict(bits=4, method="group"), dict(bits=8, method="group", group=64, head=8)])
@torch.no_grad()
def test_groups_are_saved_and_read(tmp_path, settings):
    model = quantize_model(load_model("tiny-v3", dtype=torch.bfloat16), **settings)
    ids = torch.arange(12)[None] + 5
    one, many = model(ids[:, :1]).logits, model(ids).logits
    save_original(model, tmp_path)
    again = load_model(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(again(ids[:, :1]).logits, one) and torch.equal(again(ids).logits, many)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [dict(bits=8), dict(bits=4), dict(bits=4, method="group"), dict(bits=8, method="bnb"),
                                      dict(bits=4, method="bnb")])
def test_adapters_get_the_gradient_of_the_dequantised_copy(settings, dtype):
    from peft import LoraConfig, get_peft_model
    if settings.get("method") == "bnb": pytest.importorskip("bitsandbytes")
    base = quantize_model(load_model("tiny-v3", dtype=dtype), **settings)
    floats = copy.deepcopy(base)
    if settings.get("method") == "bnb":
        import bitsandbytes as bnb
        for name, old in list(floats.named_modules()):
            if not isinstance(old, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)): continue
            eye = torch.eye(old.in_features, dtype=dtype)
            weight = (bnb.functional.dequantize_4bit(old.weight.data, old.weight.quant_state) if settings["bits"] == 4
                      else bnb.functional.int8_vectorwise_dequant(old.weight.data, old.weight.SCB))
            new = nn.Linear(old.in_features, old.out_features, bias=False)
            new.weight, new.bias = nn.Parameter(weight.to(dtype).reshape(old.out_features, -1)), old.bias
            quantize._put(floats, name, new)
            assert eye.shape[0] == new.weight.shape[1]
    else: dequantize_model(floats)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj", "gate_up_proj"], init_lora_weights=False)
    grads = []
    for model in (base, floats):
        torch.manual_seed(0)
        model = get_peft_model(model, config)
        ids = torch.arange(24).view(2, 12) + 5
        found = []
        for train in (True, False, True):
            model.train(train)
            model.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            found.append(torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]))
            with torch.no_grad(): model.generate(input_ids=ids[:1], attention_mask=torch.ones_like(ids[:1]), max_new_tokens=3, pad_token_id=0)
        grads.append(found)
    for ours, theirs in zip(*grads): assert F.cosine_similarity(ours, theirs, dim=0) > (0.999 if settings.get("method") != "bnb" or settings["bits"] == 4 else 0.99)


def test_gradient_checkpointing_and_the_input_gradient_by_hand():
    ours = layer(torch.tensor([[0.5, -1.0], [2.0, 1.0]]), 8)
    x = torch.tensor([[1.0, 1.0]], requires_grad=True)
    torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=False).backward(torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(x.grad, ours.dequantized()[:1])
    assert torch.autograd.gradcheck(ours, torch.randn(3, 2, dtype=torch.float64, requires_grad=True))


def test_gptq_loses_less_than_rounding_and_equals_it_without_correlation():
    torch.manual_seed(5)
    mix = torch.randn(96, 96) / 3 + torch.eye(96)
    inputs, weight = torch.randn(400, 96) @ mix, torch.randn(48, 96)
    for group, zero in ((None, False), (32, True)):
        def lost(found, group=group):
            codes, scale, points = found
            return ((quantize._floats(codes, scale, points, group) - weight) @ inputs.T).norm()
        plain, ours = quantize_weight(weight, 4, group, zero), gptq_weight(weight, inputs.T @ inputs, 4, group, zero)
        assert lost(ours) < 0.8 * lost(plain)
        alone = gptq_weight(weight, torch.eye(96), 4, group, zero)
        assert torch.equal(alone[0], plain[0]) and torch.equal(alone[1], plain[1])
    with pytest.raises(ValueError, match="q: hessian must be a finite 96 x 96"): gptq_weight(weight, torch.eye(4), name="q")


@torch.no_grad()
def test_gptq_of_a_model():
    model, plain = load_model("tiny-v3", dtype=torch.float32), load_model("tiny-v3", dtype=torch.float32)
    before, texts = copy.deepcopy(model), ["The sea is calm and the wind is low. " * 20]
    quantize_model(model, 4, "gptq", texts=texts)
    quantize_model(plain, 4)
    name = "model.layers.0.self_attn.q_proj"
    assert torch.equal(model.get_submodule(name).weight_scale, plain.get_submodule(name).weight_scale)
    assert not torch.equal(model.get_submodule(name).weight, plain.get_submodule(name).weight)
    assert dequantize_model(model, before)[name] > dequantize_model(plain, before)[name]  # it serves the output, not the weight


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_cannot_be_quantised_is_named(bad):
    model = load_model("tiny-v3", dtype=torch.float32)
    with torch.no_grad(): model.model.layers[1].mlp.down_proj.weight[7, 3] = bad
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down_proj\.weight: row 7 holds nan or inf"): quantize_model(model, 8)
    for wrong, kind, text in [(torch.zeros(3), TypeError, "matrix of floats"), (torch.zeros(2, 2, dtype=torch.int8), TypeError, "int8"),
                              (torch.zeros(2, 0), ValueError, "nothing to quantise"), (torch.zeros(2, 1), ValueError, "nothing to quantise")]:
        with pytest.raises(kind, match=text): quantize_weight(wrong, 4)


def test_requests_are_checked_before_anything_changes():
    model = load_model("tiny-v3", dtype=torch.float32)
    for given, text in [(dict(bits=3), "bits must be 4 or 8"), (dict(method="awq"), "method must be"),
                        (dict(method="chatglm", group=32), "one step a row"), (dict(method="group", group=48), "group must be one of"),
                        (dict(method="gptq"), "needs texts"), (dict(zero=True), "zero points are method="),
                        (dict(skip=("layers",)), "no linear layer|no layer")]:
        with pytest.raises(ValueError, match=text): quantize_model(model, **{"bits": 4, **given})
    assert not any(isinstance(m, QuantLinear) for m in model.modules())
    with pytest.raises(ValueError, match="no layer of this model is quantised"): dequantize_model(model)
    quantize_model(model, 8, skip=("down_proj",))
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    with pytest.raises(ValueError, match="quantised already"): quantize_model(model, 8)
    with pytest.raises(RuntimeError, match="floating point"): model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model
    with pytest.raises(ValueError, match="before you add adapters"):
        quantize_model(get_peft_model(load_model("tiny-v3"), LoraConfig(target_modules=["q_proj"])), 8)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    for method in ("bnb", "torchao"):
        with pytest.raises(ImportError, match="pip install"): quantize_model(load_model("tiny-v3"), 8, method)


def test_checkpoints_that_do_not_fit_are_refused(golden, tmp_path):
    from transformers import AutoModelForSequenceClassification
    folder = golden / "v3-int8"
    with pytest.raises(ValueError, match="int8 weights already"): load_model(folder, quantize="nf4")
    with pytest.raises(ValueError, match="causal language model only"): AutoModelForSequenceClassification.from_pretrained(folder)
    shutil.copytree(folder, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text()) | {"ffn_hidden_size": 100}
    (tmp_path / "odd/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="different releases"): load_model(tmp_path / "odd")


def test_the_report_counts_and_compares():
    model = load_model("tiny-v3", dtype=torch.float32)
    report = quantization_report(model, ["bf16", "int8", "int4"], "The sea is calm and the wind is low. " * 40, length=32, prompts=["Hello"])
    rows = {row["name"]: row for row in report}
    assert rows["reference"]["kl"] == 0 and rows["reference"]["agreement"] == 1 and rows["reference"]["change"] == 0
    assert 0 < rows["int8"]["kl"] < rows["int4"]["kl"]
    assert rows["bf16"]["memory"] < 0.6 * rows["reference"]["memory"] and rows["int4"]["memory"] < rows["int8"]["memory"] < rows["bf16"]["memory"]
    assert rows["int8"]["kl_interval"][0] <= rows["int8"]["kl"] <= rows["int8"]["kl_interval"][1]
    assert len(report._repr_markdown_().splitlines()) == 6 and set(report.samples) == set(rows)
    assert report.plot().axes[0].get_xlabel().startswith("memory")
    with pytest.raises(ValueError, match="'int3' is no preset"): quantization_report(model, ["int3"], "text")
    with pytest.raises(ValueError, match="at least two tokens"): quantization_report(model, ["int8"], "")


def test_the_memory_of_the_published_sizes():
    from transformers import AutoConfig
    import chatglm_cookbook  # noqa: F401
    from chatglm_cookbook.glm import ChatGLMConfig
    table = memory_table(ChatGLMConfig())
    assert table["FP16"]["weights"] == 2 * 6_173_286_400
    assert [round(row["weights"] / 1e9, 1) for row in table.values()] == [12.3, 6.7, 3.9]
    assert all(row["run"] == row["weights"] + row["cache"] + row["work"] for row in table.values())
    tiny = load_model("tiny-v3", dtype=torch.float16)
    expected = memory_table(AutoConfig.for_model("glm", **{k: v for k, v in tiny.config.to_dict().items() if k != "model_type"}))
    quantize_model(tiny, 4)
    assert sum(p.nbytes for p in tiny.parameters()) + sum(m.weight_scale.nbytes for m in tiny.modules() if isinstance(m, QuantLinear)) == expected["INT4"]["weights"]


def test_nothing_changes_before_a_refusal():
    for given, text in [(dict(head=16), "head must be 4, 8 or None"), (dict(embeddings=2), "embeddings must be"), (dict(bits=4.0), "bits must"),
                        (dict(skip=("nowhere",)), "no layer has 'nowhere'"), (dict(method="bnb", group=32), "groups and zero points"),
                        (dict(method="group", group=48), "group must be one of"), (dict(method="gptq", texts=[""]), "needs texts")]:
        model = load_model("tiny-v3", dtype=torch.float32)
        with pytest.raises(ValueError, match=text): quantize_model(model, **{"bits": 4, **given})
        assert not any(isinstance(m, QuantLinear) for m in model.modules())
    model = load_model("tiny-v3", dtype=torch.float32)
    with torch.no_grad(): model.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(ValueError, match="head: row 3"): quantize_model(model, 8, head=8)
    assert not any(isinstance(m, QuantLinear) for m in model.modules())
    assert any(isinstance(m, QuantLinear) for m in quantize_model(model, 8, skip="o_proj").modules())


def test_saving_as_others_call_it(tmp_path):
    model = quantize_model(load_model("tiny-v3", dtype=torch.float32), 4, "group", head=8, embeddings=8)
    model.save_pretrained(save_directory=tmp_path / "a", max_shard_size="100KB")
    assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 1
    again, ids = load_model(tmp_path / "a"), torch.arange(20, 40)[None]
    assert again.dtype == torch.float32  # not that of the steps
    with torch.no_grad(): assert torch.equal(again(ids).logits, model(ids).logits)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"quantization_bit": 8}))
    with pytest.raises(ValueError, match="weights are int4, and config.json says quantization_bit=8"): load_model(tmp_path / "a")


def test_what_bitsandbytes_made_is_not_saved_and_not_quantised_again(tmp_path):
    pytest.importorskip("bitsandbytes")
    model = quantize_model(load_model("tiny-v3", dtype=torch.float32), 8, "bnb")
    with pytest.raises(ValueError, match="for running only"): model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quantised already"): quantize_model(model, 8)


def test_a_float_state_dict_does_not_reach_the_codes():
    model = load_model("tiny-v3", dtype=torch.float32)
    floats = model.state_dict()
    before = {k: v.clone() for k, v in quantize_model(model, 8).state_dict().items()}
    with pytest.raises((ValueError, RuntimeError), match="quantised and the state dict holds float32"):
        model.load_state_dict(floats, strict=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_dequantising_below_an_adapter():
    from peft import LoraConfig, get_peft_model
    original = load_model("tiny-v3", dtype=torch.float32)
    model = get_peft_model(quantize_model(copy.deepcopy(original), 8), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    ids = torch.arange(20, 40)[None]
    with torch.no_grad(): before = model(ids).logits
    with pytest.raises(ValueError, match="quantised itself"): dequantize_model(model, quantize_model(copy.deepcopy(original), 8))
    with pytest.raises(ValueError, match="original has no layer"): dequantize_model(model, load_model("tiny-v1"))
    losses = dequantize_model(model, original)
    assert 0 < max(losses.values()) < 0.02
    with torch.no_grad(): assert off(model.merge_and_unload()(ids).logits, before) < 1e-5


def test_tied_tables_stay_one_when_copied():
    model = load_model("tiny-v3", dtype=torch.float32)
    model.lm_head.weight = model.get_input_embeddings().weight
    model.config.tie_word_embeddings = True
    quantize_model(model, 8, head=8)
    other, ids = copy.deepcopy(model.bfloat16()), torch.arange(20, 40)[None]
    with torch.no_grad(): assert torch.equal(other(ids).logits, model(ids).logits)
    assert other.lm_head.weight is other.get_input_embeddings().weight
    assert other.get_memory_footprint() == model.get_memory_footprint()


def test_saving_while_others_generate():
    from concurrent.futures import ThreadPoolExecutor
    model, ids = quantize_model(load_model("tiny-v3", dtype=torch.bfloat16), 4, "group"), torch.arange(20, 28)[None]
    with torch.no_grad(): want = model(ids).logits
    before = {k: v.clone() for k, v in model.state_dict().items()}
    def talk(_):
        with torch.inference_mode(): return all(torch.equal(model(ids).logits, want) for _ in range(60))
    with ThreadPoolExecutor(2) as pool:
        talking = pool.map(talk, range(2))
        saved = [{k: v.clone() for k, v in model.state_dict().items()} for _ in range(30)]
        assert all(talking)
    assert all(torch.equal(v, before[k]) for state in saved for k, v in state.items())


def test_reports_are_refused_before_anything_is_copied(monkeypatch):
    from chatglm_cookbook import compare
    model = load_model("tiny-v3", dtype=torch.float32)
    monkeypatch.setattr(compare, "_variant", lambda *_: pytest.fail("copied"))
    for variants, text in [({"a": {"bits": 8}, "b": {"bits": 3}}, "bits must be"), (["int8", "int4 gptq"], "needs texts"),
                           ({"a": {"bit": 8}}, "no setting 'bit'"), ({"a": "int3"}, "'int3' is no preset"), ("int3", "'int3' is no preset")]:
        with pytest.raises(ValueError, match=text): quantization_report(model, variants, "some text to read")
    with pytest.raises(ValueError, match="length must be"): quantization_report(model, "int8", "some text", length=0)
