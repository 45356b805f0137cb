"""What trains and what it costs: counts, plans against the allocator, the loss at labels."""
import json
import subprocess
import sys
import textwrap

import pytest
import torch

from chatglm_cookbook import memory
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.labels import Collator, encode_example, pack
from chatglm_cookbook.memory import adapt, find_targets, memory_plan, supervised_loss, trainable_parameters

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def test_published_counts():
    assert trainable_parameters("chatglm-6b", rank=8) == (3_670_016, 6_173_286_400)
    assert trainable_parameters("chatglm-6b", "prefix", prefix_length=16)[0] == 3_670_016
    assert trainable_parameters("chatglm-6b", "freeze")[0] == 268_476_416
    for name in ("chatglm2-6b", "chatglm3-6b"):
        assert trainable_parameters(name, original=True) == (1_949_696, 6_243_584_000)
        assert trainable_parameters(name, "prefix")[0] == 1_835_008
    assert trainable_parameters("chatglm3-6b", "full") == (6_243_584_000, 6_243_584_000)


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
@pytest.mark.parametrize("method", ["lora", "dora", "freeze", "full", "prefix"])
def test_counts_without_weights_are_those_of_the_real_model(name, method):
    model = load_model(name)
    counted, total = trainable_parameters(model.config, method, rank=4, prefix_length=3)
    assert total == sum(p.numel() for p in model.parameters())
    assert counted == sum(p.numel() for p in adapt(model, method, rank=4, prefix_length=3).parameters() if p.requires_grad)


def test_targets_of_quantised_layers_and_names():
    model = load_model("tiny")
    assert find_targets(model, ["v_proj", "q_proj"]) == ["v_proj", "q_proj"]
    assert find_targets(adapt(model, "lora"), "attention") == ["q_proj", "k_proj", "v_proj"]
    with pytest.raises(ValueError, match="no layer 'query_key_value' in GlmForCausalLM, which has .*: take q_proj, k_proj, v_proj"):
        adapt(load_model("tiny"), targets="query_key_value")


@pytest.mark.parametrize("blocks, wanted", [(1, {1}), ("last 1", {1}), ("first 1", {0}), ("0,1", {0, 1}), ([0], {0})])
def test_blocks(blocks, wanted):
    model = adapt(load_model("tiny"), "freeze", blocks=blocks, part="all")
    assert {int(n.split(".")[2]) for n, p in model.named_parameters() if p.requires_grad} == wanted


@pytest.mark.parametrize("blocks", [0, 3, "2", "5", "0,0", [2]])
def test_impossible_blocks(blocks):
    if blocks == "2": blocks = "first 3"
    with pytest.raises(ValueError, match="this model has blocks 0 to 1"): adapt(load_model("tiny"), "freeze", blocks=blocks)


def test_prefix_is_refused_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "chatglm_cookbook.ptuning", None)
    with pytest.raises(ValueError, match="needs add_prefix of chatglm_cookbook.ptuning"): adapt(load_model("tiny"), "prefix")


def test_packed_rows_have_the_loss_of_the_rows():
    tokenizer, model = load_tokenizer("tiny"), load_model("tiny")
    examples = [encode_example(tokenizer, {"instruction": q, "output": a}) for q, a in [("a?", "b."), ("c d?", "e f g.")]]
    batch = Collator(tokenizer)(pack(examples, 128))
    alone = [supervised_loss(model, Collator(tokenizer)([e]), items=1).item() for e in examples]
    assert supervised_loss(model, batch, items=1).item() == pytest.approx(sum(alone), abs=1e-3)


def test_logits_are_computed_only_where_a_label_follows(monkeypatch):
    tokenizer, model = load_tokenizer("tiny"), load_model("tiny")
    batch = Collator(tokenizer)([encode_example(tokenizer, {"instruction": "a?", "output": "b."})])
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    plain = supervised_loss(model, batch)
    assert seen.pop() == (1, 1, model.config.vocab_size)  # one row, which nobody reads: the loss makes its scores itself
    class Head(torch.nn.Linear): pass
    model.lm_head.__class__ = Head
    assert abs(supervised_loss(model, batch) - plain) < 1e-5
    assert seen == [(1, int((batch["labels"][:, 1:] != -100).sum()), model.config.vocab_size)]
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("at_once", [1, 2**24])
@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_loss_and_all_gradients_in_pieces(name, at_once, monkeypatch):
    monkeypatch.setattr(memory, "_scores_at_once", at_once)
    tokenizer, model = load_tokenizer(name), load_model(name)
    rows = [{"instruction": f"What is {i}?", "output": "It is a number, and a small one. " * (i + 1)} for i in range(4)]
    batch = Collator(tokenizer)([encode_example(tokenizer, row) for row in rows])
    assert (batch["labels"] != -100).sum() > 32
    own = model(**batch, use_cache=False).loss
    wanted = torch.autograd.grad(own, list(model.parameters()), allow_unused=True)
    ours = supervised_loss(model, batch)
    found = torch.autograd.grad(3 * ours, list(model.parameters()), allow_unused=True)
    assert abs(own - ours) < 1e-5
    for a, b in zip(wanted, found): assert (a is None and b is None) or (3 * a - b).abs().max() < 3e-5
    with torch.no_grad(): assert abs(supervised_loss(model, batch) - own) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.5}, {"method": "dora"}, {"method": "rslora", "rank": 3}, {"method": "pissa"}])
@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_adapters_in_one_piece_are_the_adapters(name, settings):
    from chatglm_cookbook.memory import quick_adapters
    model = adapt(load_model(name), targets="all-linear", **settings).train()
    for n, p in model.named_parameters():
        if "lora_B" in n: p.data += 0.05 * torch.randn_like(p)
    ids = torch.randint(5, 200, (2, 9))
    def run():
        torch.manual_seed(0)
        loss = supervised_loss(model, {"input_ids": ids, "labels": ids})
        return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]
    plain = run()
    with quick_adapters(model) as count:
        assert (count == 0) == (settings.get("method") == "dora")
        for a, b in zip(plain, run()): assert (a - b).abs().max() < 1e-4
        with model.disable_adapter(), torch.no_grad(): base = model(ids).logits
        model.merge_adapter()
        with torch.no_grad(): merged = model(ids).logits
        model.unmerge_adapter()
        with torch.no_grad(): assert (model.eval()(ids).logits - merged).abs().max() < 1e-4 < (base - merged).abs().max()
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_plan_of_a_quantised_model_knows_its_bits():
    from chatglm_cookbook.quantize import quantize_model
    plans = {bits: memory_plan(quantize_model(load_model("tiny"), bits), length=32) for bits in (8, 4)}
    plain = memory_plan(load_model("tiny"), length=32)
    assert plans[4].base < plans[8].base < plain.base and plain == memory_plan(load_model("tiny"), length=32, dtype="float32")
    assert plans[8] == memory_plan(load_model("tiny"), length=32, bits=8)
    with pytest.raises(ValueError, match="quantised weights cannot be trained"):
        memory_plan(quantize_model(load_model("tiny"), 8), "full")
    half = memory_plan(load_model("tiny", dtype="bfloat16"), length=32)
    assert 2 * half.base == plain.base


def held(model) -> int:
    "Bytes of all that `model` keeps, with what bitsandbytes keeps beside its weights."
    tensors = [*model.parameters(), *model.buffers()]
    for w in model.parameters():
        state = getattr(w, "quant_state", None)
        tensors += [getattr(w, "SCB", None), *(getattr(s, k, None) for s in (state, getattr(state, "state2", None)) for k in ("absmax", "code"))]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, torch.Tensor)}.values())


@pytest.mark.parametrize("kind", ["chatglm", "group", "nf4_model", "nf4", "int8"])
@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_a_plan_of_a_quantised_base_has_its_bytes(name, kind):
    from chatglm_cookbook.qlora import nf4_model
    from chatglm_cookbook.quantize import quantize_model
    if kind in ("nf4", "int8"):
        pytest.importorskip("bitsandbytes")
        bases = {4 if kind == "nf4" else 8: load_model(name, quantize=kind)}
    elif kind == "nf4_model": bases = {4: nf4_model(load_model(name))}
    else: bases = {bits: quantize_model(load_model(name), bits, method=kind) for bits in (8, 4)}
    for bits, model in bases.items():
        plan = memory_plan(model, length=32)
        assert plan.base == pytest.approx(held(model), rel=0.015), bits
        assert plan.base == memory_plan(model.config, length=32, bits=bits).base


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "paged_adamw_8bit", "lion", "lion_8bit", "adafactor", "sgd"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_plan_has_the_states_that_a_run_keeps(optimizer, tmp_path, monkeypatch):
    from chatglm_cookbook import recipe, train
    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.data import load_rows
    if recipe._missing(optimizer): pytest.skip(recipe._missing(optimizer))
    made, real = [], train._trainer
    monkeypatch.setattr(train, "_trainer", lambda run: made.append(real(run)) or made[-1])
    rows = load_rows(str(data_file("self_cognition.jsonl")))[:8]
    result = train.finetune(load_model("tiny"), load_tokenizer("tiny"), rows, "full", output=tmp_path, steps=1, length=64, show=False,
                            optimizer=optimizer)
    states = [t for state in made[0].optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor) and t.numel() > 1]
    kept = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in states if t.shape != (256,)}.values())
    assert result.plan.optimizer == pytest.approx(kept, rel=0.01, abs=100)


def test_a_plan_grows_as_it_should():
    small = {"batch": 2, "length": 64}
    config = load_model("tiny").config
    plan = memory_plan(config, **small)
    assert memory_plan(config, batch=4, length=64).activations == pytest.approx(2 * plan.activations, rel=0.05)
    assert memory_plan(config, learned=0.25, **small).logits == pytest.approx(plan.logits / 4, rel=0.05)
    assert memory_plan(config, dtype="bfloat16", **small).base * 2 == plan.base
    full = memory_plan(config, "full", **small)
    assert full.optimizer == 2 * plan.base and memory_plan(config, "full", optimizer="sgd", **small).optimizer == 0
    # what bitsandbytes holds after a run of `finetune`; transformers keeps the states of embeddings in float32
    assert memory_plan(config, "full", optimizer="adamw_8bit", **small).optimizer == pytest.approx(3_339_776, rel=0.01)
    assert memory_plan(config, "lora", optimizer="adamw_8bit", **small).optimizer <= plan.optimizer
    assert memory_plan(config, bits=4, **small).base < memory_plan(config, bits=8, **small).base < plan.base
    assert "**peak**" in plan._repr_markdown_() and "lora, batch 2 × 64" in str(plan)


measure = textwrap.dedent("""
    import json, os, sys
    os.environ["KINETO_LOG_LEVEL"] = "99"
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import GlmConfig, GlmForCausalLM
    from chatglm_cookbook.checkpoints import glm_settings
    from chatglm_cookbook.glm import ChatGLMConfig, ChatGLMForCausalLM
    from chatglm_cookbook.memory import adapt, memory_plan, quick_adapters, supervised_loss

    def config(first):
        if first: return ChatGLMConfig(vocab_size=4096, hidden_size=256, num_layers=4, num_attention_heads=4, inner_hidden_size=1024,
                                       bos_token_id=89, eos_token_id=90, mask_token_id=85, gmask_token_id=86)
        return GlmConfig(**glm_settings({"padded_vocab_size": 4096, "hidden_size": 256, "ffn_hidden_size": 856, "num_layers": 4,
            "num_attention_heads": 4, "kv_channels": 64, "add_qkv_bias": True, "multi_query_attention": True,
            "multi_query_group_num": 2}, 3))

    def run(settings, first, method, rows, length, dtype, checkpointing, learned):
        torch.set_default_dtype(dtype)
        try: model = (ChatGLMForCausalLM if first else GlmForCausalLM)(settings)
        finally: torch.set_default_dtype(torch.float32)
        model = adapt(model, method).train()
        if checkpointing: model.enable_input_require_grads(), model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        ids = torch.randint(100, 4000, (rows, length))
        labels = ids.clone()
        labels[:, :length - round(length * learned)] = -100
        more = {"position_ids": torch.zeros(rows, 2, length, dtype=torch.long)} if first else {}
        with quick_adapters(model):
            for _ in range(2):
                supervised_loss(model, {"input_ids": ids, "labels": labels, **more}).backward()
                optimizer.step(), optimizer.zero_grad()

    for first, method, rows, length, dtype, checkpointing, learned in json.loads(sys.argv[1]):
        settings, dtype = config(first), getattr(torch, dtype)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            run(settings, first, method, rows, length, dtype, checkpointing, learned)
        now = peak = 0
        for _, size in sorted((e.start_ns(), e.nbytes()) for e in found.profiler.kineto_results.events() if e.name() == "[memory]"):
            now += size
            peak = max(peak, now)
        plan = memory_plan(settings, method, rows, length, dtype, checkpointing=checkpointing, learned=learned)
        print("RATIO", plan.peak / peak, first, method, rows, length, dtype, checkpointing, learned)
""")


def test_plans_are_within_a_tenth_of_the_allocator():
    cases = [[False, "lora", 1, 64, "float32", False, 1], [False, "lora", 4, 128, "float32", False, .25], [True, "lora", 4, 64, "float32", False, 1],
             [False, "lora", 2, 128, "bfloat16", False, 1], [False, "dora", 2, 64, "float32", False, 1], [False, "full", 1, 32, "float32", False, 1],
             [False, "full", 4, 128, "float32", False, 1], [True, "full", 2, 64, "float32", True, 1], [False, "freeze", 4, 128, "float32", False, .5],
             [True, "freeze", 2, 64, "bfloat16", False, 1], [False, "lora", 4, 128, "float32", True, 1], [True, "lora", 2, 128, "float32", True, .5],
             [False, "prefix", 2, 64, "float32", False, 1], [True, "prefix", 2, 64, "float32", False, 1]]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", measure, json.dumps(cases)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=280)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("RATIO")]
    assert len(lines) == len(cases), done.stderr[-2000:]
    assert all(abs(float(ratio) - 1) < 0.10 for _, ratio, *_ in lines), lines


def test_process_growth_sees_a_block_that_is_gone():
    code = ("import torch; from chatglm_cookbook.memory import _resident, process_growth\n"
            "if not _resident(): print(100)\n"
            "else:\n"
            "    with process_growth() as growth:\n"
            "        block = torch.ones(100_000_000, dtype=torch.uint8); del block\n"
            "        print(growth() / 1e6)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, timeout=100, check=True)
    assert 90 < float(done.stdout.split()[-1]) < 130


def test_freed_memory_is_kept_and_handed_back():
    if not memory.keep_freed_memory(False) or not memory._resident(): pytest.skip("this C library cannot, or the system does not say")
    code = """
import torch
from chatglm_cookbook import memory
def left():
    before = memory._resident()
    block = torch.ones(80_000_000, dtype=torch.uint8)
    del block
    return memory._resident() - before
print(memory.keep_freed_memory(False), left(), memory.keep_freed_memory(), left())"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == told[2] == "True" and int(told[1]) < 20e6 and int(told[3]) > 60e6  # in a process with a heap of its own
