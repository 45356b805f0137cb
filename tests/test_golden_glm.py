"""ChatGLM2 and ChatGLM3 through the Auto classes against outputs of the original code (see tests/golden)."""
import json

import pytest
import torch
from safetensors.torch import load_file

import chatglm_cookbook  # noqa: F401

CASES = ["v2-base", "v2-rope-ratio", "v3-base", "v3-rope-ratio", "v3-mha", "v3-flag-no-qkv-bias", "v3-flag-kv-channels"]
REFUSED = {"v3-flag-bias-linear": "add_bias_linear=True", "v3-flag-layernorm": "rmsnorm=False",
           "v3-flag-no-post-layernorm": "post_layer_norm=False",
           "v3-flag-residual-post-ln": "apply_residual_connection_post_layernorm=True"}


@pytest.fixture(params=CASES)
def case(request, golden):
    folder = golden / request.param
    return folder, load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")


@pytest.fixture(params=["sdpa", "eager"])
def model(case, request):
    from transformers import AutoModelForCausalLM, GlmForCausalLM
    model = AutoModelForCausalLM.from_pretrained(case[0], attn_implementation=request.param)
    assert type(model) is GlmForCausalLM and not model.training and model.dtype == torch.float32
    return model


def close(ours, theirs): assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-4


@torch.no_grad()
def test_logits(model, case):
    _, given, expected = case
    kept = expected["single.logits"].shape[1]  # long sequences keep their last positions only
    close(model(given["single.input_ids"]).logits[:, -kept:], expected["single.logits"])
    out = model(given["batch.input_ids"], attention_mask=given["batch.attention_mask"],
                position_ids=given["batch.position_ids"]).logits
    real = given["batch.attention_mask"].bool()[:, -kept:]
    close(out[:, -kept:][real], expected["batch.logits"][real])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["single", "batch"])
def test_cached_decode(model, case, kind):
    _, given, expected = case
    ids, mask = given[f"{kind}.input_ids"], given[f"{kind}.attention_mask"]
    positions, steps = given[f"{kind}.position_ids"], given[f"decode_{kind}.continuation"]
    out = model(ids, attention_mask=mask, position_ids=positions, use_cache=True)
    logits, last = [out.logits[:, -1]], positions[:, -1:]
    for step in steps.T:
        mask, last = torch.cat([mask, torch.ones_like(mask[:, :1])], 1), last + 1
        out = model(step[:, None], attention_mask=mask, position_ids=last, past_key_values=out.past_key_values)
        logits.append(out.logits[:, -1])
    close(torch.stack(logits, 1), expected[f"decode_{kind}.logits"])


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_greedy(model, case, kind):
    _, given, expected = case
    ids = given[f"{kind}.input_ids"]
    model.generation_config.eos_token_id = None
    out = model.generate(ids, attention_mask=given[f"{kind}.attention_mask"], max_new_tokens=20, do_sample=False,
                         pad_token_id=0)
    assert out[:, ids.shape[1]:].tolist() == expected[f"greedy_{kind}.tokens"].tolist()


def test_loss_and_gradients(model, case):
    folder, given, expected = case
    numbers = json.loads((folder / "expected.json").read_text())
    out = model(given["loss.input_ids"], labels=given["loss.labels"])
    assert abs(out.loss.item() - numbers["loss"]) <= 1e-5
    out.loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    # Glm gives the row of the padding token no gradient, the original does
    row = expected.get("loss.grad.transformer.embedding.word_embeddings.weight.pad_row", torch.zeros(1)).norm().item()
    assert grads["model.embed_tokens.weight"][0].abs().max() == 0
    relative(norm(*grads.values()), (numbers["loss.grad_norm"] ** 2 - row**2) ** 0.5)
    each = numbers["loss.per_param_grad_norm"]
    relative(norm(grads["lm_head.weight"]), each["transformer.output_layer.weight"])
    for i in range(model.config.num_hidden_layers):
        ours, theirs = f"model.layers.{i}", f"transformer.encoder.layers.{i}"
        relative(norm(*(grads[f"{ours}.self_attn.{x}_proj.weight"] for x in "qkv")),
                 each[f"{theirs}.self_attention.query_key_value.weight"])
        relative(norm(grads[f"{ours}.mlp.gate_up_proj.weight"]), each[f"{theirs}.mlp.dense_h_to_4h.weight"])


def test_loss_of_a_left_padded_batch(model, case):
    "In the original a padding row sees the whole row, so the label of the first real token is predicted from padding."
    folder, given, _ = case
    numbers = json.loads((folder / "expected.json").read_text())
    model.get_input_embeddings().padding_idx = None  # the original gives the padding row its gradient
    ids, mask, positions = (given[f"batch.{name}"] for name in ("input_ids", "attention_mask", "position_ids"))
    labels, real = given["loss_padded.labels"], mask.bool()
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    seen = (causal & real[:, None]) | ~real[:, :, None]  # a padding query sees everything, as in the original
    out = model(ids, attention_mask=torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None],
                position_ids=positions, labels=labels)
    assert abs(out.loss.item() - numbers["loss_padded"]) <= 1e-5
    out.loss.backward()
    relative(norm(*(p.grad for p in model.parameters())), numbers["loss_padded.grad_norm"])

    first = torch.nn.functional.pad(~real[:, :-1] & real[:, 1:], (1, 0))  # first real token after padding
    assert first.sum() == (~real[:, 0]).sum() > 0
    labels = labels.masked_fill(first, -100)
    plain = model(ids, attention_mask=mask, position_ids=positions, labels=labels).loss
    shift = labels[:, 1:].flatten()
    theirs = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), shift)
    assert abs((plain - theirs).item()) <= 1e-5


def norm(*tensors): return torch.stack([t.norm() for t in tensors]).norm().item()


def relative(ours, theirs): assert abs(ours - theirs) <= 1e-5 * theirs


@pytest.mark.parametrize("name", REFUSED)
def test_flags_that_glm_cannot_honour_are_refused(golden, name):
    from transformers import AutoConfig, AutoModelForCausalLM

    from chatglm_cookbook.checkpoints import load_model
    for load in (AutoConfig.from_pretrained, AutoModelForCausalLM.from_pretrained, load_model):
        with pytest.raises(ValueError, match=REFUSED[name]): load(golden / name)
