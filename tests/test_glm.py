"""The first ChatGLM-6B: against outputs of the original code (tests/golden), and used the ways that libraries use it."""
import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, DynamicCache

from chatglm_cookbook.glm import (
    ChatGLMConfig, ChatGLMForCausalLM, ChatGLMForSequenceClassification, glm_mask, glm_positions, rotary_tables,
)

cases = ["v1-base", "v1-long", "v1-1d"]
decoded = cases[:2]  # in 1-D the original's cached decoding contradicts its own full forward


class Case:
    "A golden case: its folder, inputs, expected tensors and facts."
    def __init__(self, folder):
        self.folder, self.facts = folder, json.loads((folder / "expected.json").read_text())
        self.given, self.expected = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "expected"))

    def ids(self, tag): return self.given[f"{tag}.input_ids"]
    def valid(self, tag): return self.given.get(f"{tag}.valid", torch.ones_like(self.ids(tag))).bool()

    def worst(self, logits, name, valid=None):
        "Largest difference from the expected logits, over their (last) positions."
        theirs = self.expected[f"{name}.logits"]
        ours = logits[:, -theirs.shape[1]:]
        real = slice(None) if valid is None else valid[:, -theirs.shape[1]:]
        return (ours - theirs)[real].abs().max().item()


def tiny(**changes):
    "A config of three layers."
    return ChatGLMConfig(**{**dict(
        vocab_size=512, hidden_size=64, num_layers=3, num_attention_heads=4, inner_hidden_size=256, bos_token_id=504,
        eos_token_id=505, mask_token_id=500, gmask_token_id=501, tie_word_embeddings=False), **changes})


@pytest.fixture(params=cases)
def case(request, golden): return Case(golden / request.param)


@pytest.fixture(params=["sdpa", "eager"])
def model(case, request):
    return ChatGLMForCausalLM.from_pretrained(case.folder, attn_implementation=request.param).eval()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return ChatGLMForCausalLM(tiny()).eval()


@pytest.fixture
def prompts():
    ids = torch.tensor([[11, 12, 13, 14, 501, 504, 21], [3, 3, 22, 23, 501, 504, 24]])
    return ids, (ids != 3).long()


def test_the_files_load_without_a_word(case):
    _, info = ChatGLMForCausalLM.from_pretrained(case.folder, output_loading_info=True)
    assert not any(info.values())  # rotary_emb.inv_freq is ignored


@torch.no_grad()
def test_logits_with_the_masks_and_positions_of_the_original(case, model):
    for tag in ("single", "full", "infill", "batch"):
        mask = case.given.get(f"{tag}.attention_mask")
        if mask is None or f"{tag}.logits" not in case.expected: continue
        out = model(case.ids(tag), attention_mask=mask, position_ids=case.given[f"{tag}.position_ids"])
        assert case.worst(out.logits, tag, case.valid(tag)) <= 1e-4


@torch.no_grad()
def test_logits_from_ids_and_a_plain_mask(case, model):
    for tag in ("single", "full", "infill", "batch"):
        if f"{tag}.logits" not in case.expected: continue
        valid = case.valid(tag)
        assert case.worst(model(case.ids(tag), attention_mask=valid.long()).logits, tag, valid) <= 1e-4
        if valid.all(): assert case.worst(model(case.ids(tag)).logits, tag) <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("case", ["v1-base"], indirect=True)
def test_padding_is_visible_without_a_mask_as_in_the_original(case, model):
    assert case.worst(model(case.ids("batch")).logits, "batch_nomask") <= 1e-4


def test_masks_and_positions_equal_the_original(case):
    config = ChatGLMConfig.from_pretrained(case.folder)
    for tag in ("single", "full", "infill", "batch", "loss"):
        valid, theirs = case.valid(tag), case.given[f"{tag}.position_ids"]
        ours = glm_positions(case.ids(tag), config, valid.long())
        assert torch.equal(ours if theirs.dim() == 3 else ours[:, 0], theirs)
        if f"{tag}.attention_mask" not in case.given: continue
        hidden, rows = glm_mask(ours[:, 1], valid.long()), valid[:, None, :, None]
        assert torch.equal(hidden & rows, case.given[f"{tag}.attention_mask"].bool() & rows)


@torch.no_grad()
@pytest.mark.parametrize("case", ["v1-base"], indirect=True)
def test_hidden_states(case, model):
    ours = model(case.ids("single"), output_hidden_states=True).hidden_states
    assert (torch.stack(ours) - case.expected["single.hidden_states"]).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("case", decoded, indirect=True)
@pytest.mark.parametrize("tag", ["single", "batch"])
@pytest.mark.parametrize("explicit", [True, False])
def test_cached_decoding(case, model, tag, explicit):
    mask, positions = case.valid(tag).long(), case.given[f"decode_{tag}.position_ids"]
    out = model(case.ids(tag), attention_mask=mask, use_cache=True)
    got = [out.logits[:, -1]]
    for i, token in enumerate(case.given[f"decode_{tag}.continuation"].T):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        given = {"position_ids": positions[..., i:i + 1]} if explicit else {}
        out = model(token[:, None], attention_mask=mask, past_key_values=out.past_key_values, **given)
        got.append(out.logits[:, -1])
    assert case.worst(torch.stack(got, 1), f"decode_{tag}") <= 1e-4


@pytest.mark.parametrize("case", decoded, indirect=True)
@pytest.mark.parametrize("tag", ["single", "batch"])
@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_greedy_tokens(case, model, tag, how):
    expected = case.expected[f"greedy_{tag}.tokens"]
    new = 5 if how else 20
    ids, settings = case.ids(tag), {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, **how}
    out = model.generate(ids, attention_mask=case.valid(tag).long(), **settings)
    assert torch.equal(out[:, ids.shape[1]:], expected[:, :new])
    if not how:
        embeds = model.get_input_embeddings()(ids)
        out = model.generate(inputs_embeds=embeds, attention_mask=case.valid(tag).long(), **settings)
        assert torch.equal(out, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients(case, model, masked):
    ids = case.ids("loss")
    mask = (ids != model.config.pad_token_id).long() if masked else None
    loss = model(ids, attention_mask=mask, labels=case.given["loss.labels"]).loss
    loss.backward()
    assert abs(loss.item() - case.facts["loss"]) <= 1e-5
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    total = sum(n * n for n in norms.values()) ** 0.5
    assert abs(total / case.facts["loss.grad_norm"] - 1) <= 1e-5
    for name, norm in case.facts["loss.per_param_grad_norm"].items(): assert abs(norms[name] / norm - 1) <= 2e-5


def test_rotary_tables_equal_the_original(golden):
    tables = load_file(golden / "rope-tables" / "rope.safetensors")
    for kind, dim in (("2d", 64), ("1d", 128)):
        for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            ours = rotary_tables(tables["positions_v1"], dim, dtype)
            for mine, part in zip(ours, ("cos", "sin")):
                assert (mine.float() - tables[f"v1.{kind}.{name}.{part}"].float()).abs().max() <= 1e-6


@torch.no_grad()
def test_1d_decoding_agrees_with_its_own_full_forward(golden):
    case = Case(golden / "v1-1d")
    model = ChatGLMForCausalLM.from_pretrained(case.folder).eval()
    for tag in ("full", "infill"):  # [gMASK] counts on, [MASK] freezes
        ids = case.ids(tag)
        out = model(ids[:, :-4], use_cache=True)
        steps = [model(ids[:, i:i + 1], past_key_values=out.past_key_values).logits for i in range(ids.shape[1] - 4, ids.shape[1])]
        assert (torch.cat(steps, 1) - model(ids).logits[:, -4:]).abs().max() <= 1e-5


@torch.no_grad()
def test_beams_and_samples_with_and_without_cache(small, prompts):
    ids, mask = prompts
    for how in ({"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}):
        outs = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            outs.append(small.generate(ids, attention_mask=mask, max_new_tokens=6, eos_token_id=None, use_cache=use_cache, **how))
        assert torch.equal(*outs)


@torch.no_grad()
def test_assisted_decoding_gives_the_greedy_tokens(small, prompts):
    ids, settings = prompts[0][:1], {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    assert torch.equal(small.generate(ids, prompt_lookup_num_tokens=3, **settings), small.generate(ids, **settings))


@torch.no_grad()
def test_generation_goes_on_from_a_given_cache(small, prompts):
    ids, mask = prompts
    settings = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    whole = small.generate(ids, attention_mask=mask, max_new_tokens=8, **settings).sequences
    first = small.generate(ids, attention_mask=mask, max_new_tokens=4, **settings)
    longer = torch.nn.functional.pad(mask, (0, 4), value=1)
    cache = copy.deepcopy(first.past_key_values)
    again = small.generate(first.sequences, attention_mask=longer, past_key_values=cache, max_new_tokens=4, **settings)
    assert torch.equal(again.sequences, whole)
    again = small.generate(first.sequences[:, -1:], attention_mask=longer, past_key_values=first.past_key_values,
                           max_new_tokens=4, **settings)  # only what the cache has not seen
    assert torch.equal(again.sequences[:, 1:], whole[:, -4:])


@torch.no_grad()
def test_a_changed_cache_is_refused(small, prompts):
    cache = small(prompts[0], use_cache=True).past_key_values
    cropped, selected = copy.deepcopy(cache), copy.deepcopy(cache)
    cropped.crop(-2)
    selected.batch_select_indices(torch.tensor([0]))
    for changed, ids in ((cropped, prompts[0][:, 5:6]), (selected, prompts[0][:1, :1])):
        with pytest.raises(ValueError, match="glm_positions"): small(ids, past_key_values=changed)
    positions = glm_positions(prompts[0], small.config)[..., 5:6]
    step = small(prompts[0][:, 5:6], past_key_values=cropped, position_ids=positions).logits
    assert torch.allclose(step[:, 0], small(prompts[0]).logits[:, 5], atol=1e-5)
    cache.reset()
    assert torch.isfinite(small(prompts[0], past_key_values=DynamicCache()).logits).all()


@torch.no_grad()
def test_a_prefix_in_the_cache_is_seen_by_all(small, prompts):
    ids, mask = prompts
    def prefix():
        torch.manual_seed(1)
        cache = DynamicCache()
        for layer in range(3): cache.update(*torch.randn(2, 2, 4, 5, 16), layer)
        return cache
    longer = torch.nn.functional.pad(mask, (5, 0), value=1)
    full = small(ids, attention_mask=longer, past_key_values=prefix()).logits
    assert torch.allclose(full, small(ids, attention_mask=mask, past_key_values=prefix()).logits, atol=1e-6)
    alone = small(ids[1:, 2:], past_key_values=copy.deepcopy(_rows(prefix(), [1]))).logits
    assert torch.allclose(full[1, 2:], alone[0], atol=1e-5)
    assert (full - small(ids, attention_mask=mask).logits).abs().max() > 1e-3


def _rows(cache, rows):
    cache.batch_select_indices(torch.tensor(rows))
    return cache


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(small):
    ids = torch.tensor([[22, 23, 501, 504, 24]])
    plain = small(ids).logits
    for before, after in ((3, 0), (0, 3), (2, 2)):
        padded = torch.nn.functional.pad(ids, (before, after), value=3)
        out = small(padded, attention_mask=(padded != 3).long()).logits
        assert torch.allclose(out[:, before:before + 5], plain, atol=1e-5) and torch.isfinite(out).all()


@torch.no_grad()
def test_text_without_sop_is_read_like_a_gpt(small, monkeypatch):
    from chatglm_cookbook import glm
    said = []
    monkeypatch.setattr(glm._logger, "warning_once", said.append)
    ids = torch.tensor([[11, 12, 13, 14]])
    full, changed = small(ids).logits, small(torch.tensor([[11, 12, 13, 77]])).logits
    assert torch.allclose(full[:, :3], changed[:, :3], atol=1e-6) and "<sop>" in said[0]
    left = torch.nn.functional.pad(ids, (2, 0), value=3)
    assert torch.allclose(small(left, attention_mask=(left != 3).long()).logits[:, 2:], full, atol=1e-5)


def test_what_is_refused_by_name(small, prompts):
    ids, _ = prompts
    with pytest.raises(ValueError, match="packing"): small(ids, position_ids=torch.arange(7)[None])
    with pytest.raises(ValueError, match="position_ids"): small(inputs_embeds=torch.randn(2, 7, 64))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"): small()
    with pytest.raises(ValueError, match="True = hidden"): small(ids, attention_mask=torch.zeros(2, 1, 7, 7))
    with pytest.raises(ValueError, match="one piece"): small.generate(ids, prefill_chunk_size=3, max_new_tokens=2)
    with pytest.raises((ValueError, ImportError), match="[Ff]lash"): small.set_attn_implementation("flash_attention_2")
    with pytest.raises((ValueError, ImportError), match="[Ff]lash"):
        ChatGLMForCausalLM(tiny(attn_implementation="flash_attention_2"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_half_precision_is_near_and_finite(golden, dtype, attention):
    case = Case(golden / "v1-base")
    model = ChatGLMForCausalLM.from_pretrained(case.folder, dtype=dtype, attn_implementation=attention).eval()
    logits = model(case.ids("batch"), attention_mask=case.valid("batch").long()).logits
    assert logits.dtype == dtype and torch.isfinite(logits).all()
    assert case.worst(logits.float(), "batch", case.valid("batch")) < 0.1
    model.generate(case.ids("batch"), attention_mask=case.valid("batch").long(), max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load(tmp_path, prompts, tied):
    model = ChatGLMForCausalLM(tiny(tie_word_embeddings=tied)).eval()
    model.save_pretrained(tmp_path)
    again = ChatGLMForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.tie_word_embeddings == tied
    assert (again.lm_head.weight is again.transformer.word_embeddings.weight) == tied
    assert torch.equal(again(prompts[0]).logits, model(prompts[0]).logits)


def test_two_different_matrices_in_a_file_stay_two(golden, tmp_path, caplog):
    model = ChatGLMForCausalLM.from_pretrained(golden / "v1-base")  # its config does not say
    assert not model.config.tie_word_embeddings and "NOT tie" not in caplog.text
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not torch.equal(saved["lm_head.weight"], saved["transformer.word_embeddings.weight"])


def test_resize_token_embeddings(prompts):
    for tied in (False, True):
        model = ChatGLMForCausalLM(tiny(tie_word_embeddings=tied)).eval()
        before = model(prompts[0]).logits
        model.resize_token_embeddings(520)
        after = model(prompts[0], labels=prompts[0])
        assert model.config.vocab_size == 520 and after.logits.shape[-1] == 520 and torch.isfinite(after.loss)
        assert torch.allclose(after.logits[..., :512], before, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(small, prompts):
    small.train()
    grads = []
    for on in (False, True):
        small.zero_grad()
        if on: small.gradient_checkpointing_enable()
        small(prompts[0], attention_mask=prompts[1], labels=prompts[0]).loss.backward()
        grads.append([p.grad.clone() for p in small.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads))


def test_logits_to_keep_attentions_and_items_in_batch(small, prompts):
    full = small(prompts[0]).logits
    assert torch.allclose(small(prompts[0], logits_to_keep=2).logits, full[:, -2:], atol=1e-6)
    assert torch.allclose(small(prompts[0], logits_to_keep=torch.tensor([1, 4])).logits, full[:, [1, 4]], atol=1e-6)
    mean, total = (small(prompts[0], labels=prompts[0], **kw).loss for kw in ({}, {"num_items_in_batch": 24}))
    assert torch.allclose(mean * 12 / 24, total)
    assert isinstance(small(prompts[0], return_dict=False), tuple)
    eager = ChatGLMForCausalLM(tiny(attn_implementation="eager"))
    attentions = eager(prompts[0], output_attentions=True).attentions
    assert len(attentions) == 3 and torch.allclose(attentions[0].sum(-1), torch.ones(2, 4, 7))


def test_a_lora_adapter_and_its_merge(small, prompts):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(small, config).eval()
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 3 * 2 * (64 + 192)
    with torch.no_grad():
        before = adapted(prompts[0], attention_mask=prompts[1]).logits
        adapted.generate(input_ids=prompts[0], attention_mask=prompts[1], max_new_tokens=3, do_sample=False)
        merged = adapted.merge_and_unload()(prompts[0], attention_mask=prompts[1]).logits
    assert torch.allclose(before, merged, atol=1e-5)


def test_trainer_learns(small, tmp_path):
    from transformers import Trainer, TrainingArguments
    row = {"input_ids": [11, 12, 501, 504, 31, 32, 33, 505], "labels": [-100] * 4 + [31, 32, 33, 505], "attention_mask": [1] * 8}
    arguments = TrainingArguments(tmp_path, max_steps=8, learning_rate=2e-2, lr_scheduler_type="constant", report_to=[],
                                  per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True, logging_steps=1, save_strategy="no")
    trainer = Trainer(small, arguments, train_dataset=[row] * 16)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_classification_scores_the_last_real_token():
    torch.manual_seed(0)
    model = ChatGLMForSequenceClassification(tiny(num_labels=3)).eval()
    ids = torch.tensor([[21, 22, 501, 504, 24]])
    plain = model(ids).logits
    assert plain.shape == (1, 3)
    for before, after in ((2, 0), (0, 2)):
        padded = torch.nn.functional.pad(ids, (before, after), value=3)
        mask = (padded != 3).long()
        assert torch.allclose(model(padded, attention_mask=mask).logits, plain, atol=1e-5)
        embeds = model.get_input_embeddings()(padded)
        assert torch.allclose(model(inputs_embeds=embeds, attention_mask=mask).logits, plain, atol=1e-5)
    assert torch.allclose(model(torch.nn.functional.pad(ids, (0, 2), value=3)).logits, plain, atol=1e-5)
    assert model(ids, labels=torch.tensor([1])).loss > 0


def test_the_base_model_loads_from_a_full_checkpoint(golden):
    base = AutoModel.from_pretrained(golden / "v1-base")
    full = ChatGLMForCausalLM.from_pretrained(golden / "v1-base")
    assert torch.equal(base.word_embeddings.weight, full.transformer.word_embeddings.weight)


def test_config_keeps_original_keys_and_answers_to_new_names():
    config = ChatGLMConfig.from_dict(tiny().to_dict())
    assert config.num_hidden_layers == config.num_layers == 3 and config.intermediate_size == 256
    assert config.max_position_embeddings == 2048 and "num_layers" in config.to_dict()
    assert ChatGLMConfig(num_layers=5).num_hidden_layers == 5
