"""The training engine: losses, guards, kill and resume, recipes and result."""
import errno
import gc
import json
import re
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from chatglm_cookbook import recipe as recipes
from chatglm_cookbook import train
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.memory import adapt, memory_plan, supervised_loss, trainable_parameters
from chatglm_cookbook.quantize import quantize_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module", autouse=True)
def settled():
    "Leaves what the libraries hold out of the collections that each run makes, which are half of a short run's time."
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401
    gc.collect(), gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tokenizer(): return load_tokenizer("tiny")


@pytest.fixture(scope="module")
def rows(): return load_rows(str(data_file("self_cognition.jsonl")))[:24]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return load_model("tiny")


def quick(model, tokenizer, rows, output, **settings):
    given = {"steps": 4, "learning_rate": 1e-3, "show": False, "length": 64, **settings}
    return train.finetune(model, tokenizer, rows, output=output, **given)


def events(path): return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# --- what a run does

@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "pissa", "freeze", "full", "prefix"])
def test_every_method_learns_and_its_file_brings_the_logits_back(method, tokenizer, rows, tmp_path):
    model, dev = load_model("tiny"), rows[:4]
    result = quick(model, tokenizer, rows, tmp_path, method=method, dev=dev, steps=8, blocks="last 1", prefix_length=4,
                   learning_rate=2e-2 if method == "prefix" else 3e-3)
    assert result.after < result.before
    ids = torch.tensor([train.encode_example(tokenizer, rows[0])["input_ids"]])
    with torch.no_grad(): expected = result.model(ids).logits
    base = load_model("tiny")
    if hasattr(result.model, "peft_config"):
        from peft import PeftModel
        again = PeftModel.from_pretrained(base, result.folder).eval()
    else: again = train.load_trained(adapt(base, method, blocks="last 1", prefix_length=4), result.folder).eval()
    with torch.no_grad(): assert (again(ids).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
def test_loss_and_gradients_equal_the_model_s_own(name, rows):
    tokenizer, model = load_tokenizer(name), load_model(name)
    examples = [train.encode_example(tokenizer, r) for r in rows[:3]]
    plain = train.Collator(tokenizer)(examples)
    lean = train._Batches(tokenizer)(examples)
    assert "attention_mask" in plain and "attention_mask" not in lean and (plain["attention_mask"] == 0).any()
    own = model(**plain, use_cache=False).loss
    own.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    ours = supervised_loss(model, lean)
    ours.backward()
    assert abs((own - ours).item()) < 1e-5
    for n, p in model.named_parameters(): assert (p.grad - grads[n]).abs().max() < 1e-5, n


def test_accumulated_steps_equal_one_large_step(tokenizer, rows, tmp_path):
    weights = []
    for n, (batch, times) in enumerate([(8, 1), (2, 4)]):
        result = quick(load_model("tiny"), tokenizer, rows, tmp_path / str(n), batch_size=batch, accumulate=times, steps=2,
                       method="full", group=False, optimizer="sgd")
        weights.append({k: v.detach().clone() for k, v in result.model.named_parameters()})
    assert all((weights[0][k] - weights[1][k]).abs().max() < 1e-6 for k in weights[0])


def test_checkpointing_gives_the_same_gradients(tokenizer, rows, tmp_path):
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        result = quick(load_model("tiny"), tokenizer, rows, tmp_path / str(on), checkpointing=on, steps=3)
        found.append({k: v.detach().clone() for k, v in result.model.named_parameters() if v.requires_grad})
    assert all((found[0][k] - found[1][k]).abs().max() < 1e-6 for k in found[0])
    assert any(v.abs().max() > 0 for k, v in found[0].items() if "lora_B" in k)


def test_log_result_and_samples(model, tokenizer, rows, tmp_path):
    result = quick(model, tokenizer, rows, tmp_path, dev=rows[:4], eval_every=2, samples=1, sample_tokens=4, save_every=2)
    log = events(result.log)
    assert [e["event"] for e in log if e["event"] in ("start", "end")] == ["start", "end"]
    losses = {e["step"]: e["loss"] for e in log if "loss" in e}
    assert sorted(losses) == [1, 2, 3, 4] and all(v > 0 for v in losses.values())
    assert sum(e["event"] == "sample" for e in log) == 2
    assert [e["eval_loss"] for e in log if "eval_loss" in e][-1] == pytest.approx(result.after, abs=1e-6)
    assert {f.name for f in (tmp_path / "checkpoint-4").iterdir()} >= {"adapter_model.safetensors", "optimizer.pt", "complete"}
    assert not list(tmp_path.glob("checkpoint-*/model*.safetensors"))
    assert "before" in str(result) and "| **method** | lora" in result._repr_markdown_()


def test_held_out_loss_is_the_mean_over_tokens(model, tokenizer, rows):
    examples = [train.encode_example(tokenizer, r) for r in rows[:5]]
    total = count = 0
    for e in examples:
        with torch.no_grad(): logits = model(torch.tensor([e["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(e["labels"][1:])
        total, count = total + F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100), count + (labels != -100).sum()
    ours = train.held_out_loss(model, train._Batches(tokenizer).in_order(examples, 2))
    assert ours == pytest.approx(float(total / count), abs=1e-5)


def test_order_is_a_permutation_that_depends_on_seed_and_epoch():
    lengths = [(7 * i) % 23 + 1 for i in range(103)]
    order = train._Order(lengths, 4, True, seed=0)
    first = list(order)
    assert sorted(first) == list(range(103)) and first == list(order)
    order.set_epoch(1)
    assert list(order) != first
    padding = lambda o: sum(max(lengths[i] for i in o[k:k + 4]) * len(o[k:k + 4]) for k in range(0, 103, 4)) - sum(lengths)
    assert padding(first) * 3 < padding(list(train._Order(lengths, 4, False, seed=0)))


@pytest.mark.parametrize("group", [True, False])
def test_a_grouped_epoch_weighs_every_token_alike(group, tokenizer, rows, tmp_path):
    long = [{**row, "output": row["output"] * (1 + i % 4)} for i, row in enumerate(rows)]
    result = quick(load_model("tiny"), tokenizer, long, tmp_path, method="full", steps=None, epochs=1, batch_size=4, group=group,
                   optimizer="sgd", learning_rate=1e-12, length=None)
    logged = [row for row in events(result.log) if "grad_norm" in row]
    examples, model, batches = [train.encode_example(tokenizer, row) for row in long], load_model("tiny"), train._Batches(tokenizer)
    order = list(train._Order([len(e["labels"]) for e in examples], 4, group, 0))
    usual = sum(k != -100 for e in examples for k in e["labels"][1:]) / 6
    for at, told in zip(range(0, 24, 4), logged, strict=True):
        batch = batches([examples[i] for i in order[at:at + 4]])
        own = int((batch["labels"][:, 1:] != -100).sum())
        (loss := supervised_loss(model, batch)).backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        assert told["loss"] == pytest.approx(loss.item(), rel=1e-4)  # the log speaks of the batch's own tokens
        assert told["grad_norm"] == pytest.approx(float(norm) * (own / usual if group else 1), rel=1e-3)
        model.zero_grad()


def test_seconds_end_a_run_and_packing_keeps_every_label(tokenizer, rows, tmp_path):
    result = quick(load_model("tiny"), tokenizer, rows, tmp_path / "a", steps=200, seconds=0.01)
    assert result.steps == 1
    whole = quick(load_model("tiny"), tokenizer, rows, tmp_path / "b", packing=True, length=200, epochs=1, steps=None, batch_size=1)
    assert whole.steps < len(rows) and whole.recipe.packing


def test_a_shared_prompt_learns_what_rows_alone_learn(tmp_path):
    reader, rows = load_tokenizer("tiny-v3"), load_rows("tool_pairs")[:6]
    given = {"length": 2048, "dev": rows, "group": False}
    alone = quick(load_model("tiny-v3"), reader, rows, tmp_path / "alone", batch_size=6, **given)
    shared = quick(load_model("tiny-v3"), reader, rows, tmp_path / "shared", batch_size=3, share_prompts=2, **given)
    assert shared.tokens < 0.75 * alone.tokens
    assert shared.before == pytest.approx(alone.before, abs=1e-5) and shared.after == pytest.approx(alone.after, abs=1e-4)
    eager = load_model("tiny-v3")
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="this model has eager: model.set_attn_implementation"):
        quick(eager, reader, rows, tmp_path / "eager", share_prompts=2, **given)


# --- guards

def test_a_row_without_labels_is_refused_by_number(model, tokenizer, rows, tmp_path):
    bad = {"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}
    with pytest.raises(ValueError, match="row 1 has no label"):
        quick(model, tokenizer, [train.encode_example(tokenizer, rows[0]), bad], tmp_path)
    batch = {"input_ids": torch.ones(2, 3), "labels": torch.tensor([[1, 2, 3], [4, -100, -100]])}
    with pytest.raises(ValueError, match="row 1 of a batch has no label"): train._check_batch(batch)


def test_packed_rows_with_a_cache_are_refused(model):
    batch = {"labels": torch.ones(1, 4), "position_ids": torch.tensor([[0, 1, 0, 1]])}
    with pytest.raises(ValueError, match="packed rows with use_cache"): train._check_batch(batch, model)
    train._check_batch({**batch, "use_cache": False}, model)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_own_quantised_bases_train_through(bits, method, tokenizer, rows, tmp_path):
    model = quantize_model(load_model("tiny"), bits)
    codes = [m.weight.clone() for m in model.modules() if hasattr(m, "weight_scale")]
    result = quick(model, tokenizer, rows, tmp_path, method=method, dev=rows[:4], steps=8, prefix_length=4, targets="all-linear",
                   learning_rate=2e-2 if method == "prefix" else 3e-3)
    assert result.after < result.before and result.plan.base < 4 * result.plan.total
    now = [m.weight for m in result.model.modules() if hasattr(m, "weight_scale")]
    assert codes and all(torch.equal(a, b) for a, b in zip(codes, now))
    again = quantize_model(load_model("tiny"), bits)
    if method == "lora":
        from peft import PeftModel
        again = PeftModel.from_pretrained(again, result.folder).eval()
    else: again = train.load_trained(adapt(again, method, prefix_length=4), result.folder).eval()
    ids = torch.tensor([train.encode_example(tokenizer, rows[0])["input_ids"]])
    with torch.no_grad(): assert (again(ids).logits - result.model(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("method, told", [("full", "train an adapter"), ("freeze", "train an adapter"), ("dora", "whole numbers of 4 bits"),
                                          ("pissa", "whole numbers of 4 bits")])
def test_what_own_quantised_bases_cannot_do_is_refused(method, told, tokenizer, rows, tmp_path):
    with pytest.raises(ValueError, match="quantised weights cannot be trained|" + told):
        quick(quantize_model(load_model("tiny"), 4), tokenizer, rows, tmp_path, method=method)


@pytest.mark.parametrize("value, code", [(float("nan"), "loss_not_finite"), (float("inf"), "loss_not_finite"), (0.0, "loss_zero")])
def test_a_bad_loss_stops_the_run_and_keeps_what_was_learned(value, code, model, tokenizer, rows, tmp_path, monkeypatch):
    calls, real = [], train.supervised_loss
    def broken(*args, **kwargs):
        calls.append(1)
        loss = real(*args, **kwargs)
        return loss * 0 + value if len(calls) == 3 else loss
    monkeypatch.setattr(train, "supervised_loss", broken)
    with pytest.raises(train.TrainingStopped, match=f"{code} at step 3") as caught: quick(model, tokenizer, rows, tmp_path)
    result = caught.value.result
    assert (result.steps, result.stopped) == (2, code) and events(result.log)[-1]["code"] == code
    assert all(p.isfinite().all() for p in result.model.parameters())
    assert (result.folder / "adapter_model.safetensors").stat().st_size > 1000


def test_a_gradient_that_is_missing_or_no_number_is_named(model, tokenizer, rows, tmp_path):
    class Cut(torch.nn.Module):
        def forward(self, x): return x.detach()
    layer = model.model.layers[1].self_attn
    layer.o_proj = torch.nn.Sequential(Cut(), layer.o_proj)
    with pytest.raises(train.TrainingStopped, match=r"no_gradient at step 1: no gradient reaches .*layers\.1\.self_attn"):
        quick(model, tokenizer, rows, tmp_path)
    model = load_model("tiny")
    model.model.layers[0].mlp.down_proj.weight.requires_grad_(True)
    wrong = adapt(model, "full")
    guard = train._Guard()
    for p in wrong.parameters(): p.grad = torch.ones_like(p)
    guard.gradients(wrong, 1)
    next(wrong.parameters()).grad[0] = float("inf")
    with pytest.raises(train.TrainingStopped, match="gradient_not_finite at step 2: the gradient of model.embed_tokens"):
        guard.gradients(wrong, 2)


def test_a_gradient_that_stays_zero_is_found(model):
    model = adapt(model, "lora")
    guard = train._Guard(patience=3)
    for step in (1, 2, 3):
        for n, p in model.named_parameters():
            if p.requires_grad: p.grad = torch.zeros_like(p) if "layers.1.self_attn.q_proj" in n else torch.ones_like(p)
        if step < 3: guard.gradients(model, step)
    with pytest.raises(train.TrainingStopped, match="no_gradient at step 3: .*layers.1.self_attn.q_proj"): guard.gradients(model, 3)


def test_mixed_formats_and_half_precision_are_refused(model):
    model.lm_head.to(torch.bfloat16)
    with pytest.raises(ValueError, match="mix number formats .*lm_head.weight is bfloat16"): train.check_model(adapt(model, "lora"))
    train.check_model(model, precision="bf16")
    half = load_model("tiny", dtype=torch.bfloat16).to(torch.float16)
    with pytest.raises(ValueError, match="is float16 and would be trained"): train.check_model(adapt(half, "full"))
    train.check_model(adapt(load_model("tiny", dtype=torch.bfloat16), "lora"))


def test_learning_rate_of_p_tuning(model, tokenizer, rows, tmp_path):
    with pytest.raises(ValueError, match="belongs to P-Tuning.*for lora take about 0.0001"):
        quick(model, tokenizer, rows, tmp_path, learning_rate=2e-2)
    assert train._rate(train.Recipe("lora", learning_rate=2e-2, allow="learning_rate")) == 2e-2
    assert train._rate(train.Recipe("prefix")) == 2e-2 and train._rate(train.Recipe("lora")) == 1e-4


def test_quantised_bases(tokenizer, rows, tmp_path):
    pytest.importorskip("bitsandbytes")
    model = load_model("tiny", quantize="nf4")
    with pytest.raises(ValueError, match="quantised"): quick(model, tokenizer, rows, tmp_path, method="full")
    layer = next(m for m in model.modules() if hasattr(m, "support_avx512bf16_for_cpu"))
    layer.support_avx512bf16_for_cpu = True
    train.check_model(model)
    assert layer.support_avx512bf16_for_cpu is False
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="repacked these 4-bit weights"): train.check_model(model)
    layer.weight.quant_state.packing_format_for_cpu = False
    result = quick(model, tokenizer, rows, tmp_path / "lora", dev=rows[:4])
    assert result.after < result.before


def test_a_full_disk_leaves_the_checkpoint_before_it(model, tokenizer, rows, tmp_path, monkeypatch):
    real = train.save_trained
    def save(model, folder, state=None):
        if Path(folder).name == "checkpoint-2":
            Path(folder).mkdir()
            Path(folder, "half").touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(model, folder)
    monkeypatch.setattr(train, "save_trained", save)
    with pytest.raises(train.TrainingStopped, match="disk_full at step 2") as caught:
        quick(model, tokenizer, rows, tmp_path, save_every=1)
    assert caught.value.result.steps == 2
    assert [f.name for f in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    monkeypatch.setattr(train.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ValueError, match="MB free and the checkpoints take"): train._room(tmp_path, 10**9)


def test_what_does_not_fit_is_refused_before_anything_changes(tmp_path):
    torch.manual_seed(0)
    folders = {n: tmp_path / n for n in ("prefix", "lora", "freeze", "rank4")}
    train.save_trained(adapt(load_model("tiny"), "prefix", prefix_length=4), folders["prefix"])
    train.save_trained(adapt(load_model("tiny"), "lora"), folders["lora"])
    train.save_trained(adapt(load_model("tiny"), "lora", rank=4), folders["rank4"])
    train.save_trained(adapt(load_model("tiny"), "freeze", blocks="last 1"), folders["freeze"])
    with pytest.raises(ValueError, match="prefix_encoder.* is missing in one .*load_prefix of chatglm_cookbook.ptuning puts a prefix on a bare"):
        train.load_trained(load_model("tiny"), folders["prefix"])
    with pytest.raises(ValueError, match="holds an adapter: PeftModel.from_pretrained"): train.load_trained(load_model("tiny"), folders["lora"])
    with pytest.raises(ValueError, match="and this model has an adapter"): train.load_trained(adapt(load_model("tiny"), "lora"), folders["freeze"])
    with pytest.raises(FileNotFoundError): train.load_trained(load_model("tiny"), tmp_path)
    for other in (adapt(load_model("tiny"), "lora"), adapt(load_model("tiny"), "lora", rank=4, targets="attention+output")):
        before = {n: p.clone() for n, p in other.named_parameters()}
        with pytest.raises(ValueError, match="does not belong to this model: .*lora_[AB].weight"): train.load_trained(other, folders["rank4"])
        assert all(p.equal(before[n]) for n, p in other.named_parameters())
    bare = load_model("tiny-v1")
    before = {n: p.clone() for n, p in bare.named_parameters()}
    with pytest.raises(ValueError, match="does not belong to this model"): train.load_trained(bare, folders["freeze"])
    assert all(p.equal(before[n]) for n, p in bare.named_parameters())


def test_a_folder_in_use_or_with_an_earlier_run(model, tokenizer, rows, tmp_path):
    from filelock import FileLock
    (tmp_path / "busy").mkdir()
    with FileLock(str(tmp_path / "busy" / ".lock")), pytest.raises(ValueError, match="another run is writing"):
        quick(model, tokenizer, rows, tmp_path / "busy")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "log.jsonl").touch()
    with pytest.raises(ValueError, match="holds an earlier run"): quick(model, tokenizer, rows, tmp_path / "old")


# --- recipes

def test_a_step_that_does_not_fit_is_refused_before_it(model, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_memory", lambda: (10**9, 1000))
    with pytest.raises(ValueError, match=r"memory: a step needs .* and 0.0 GB are free; take a smaller batch_size"):
        quick(model, tokenizer, rows, tmp_path / "a")
    assert quick(load_model("tiny"), tokenizer, rows, tmp_path / "b", allow="memory", steps=1).steps == 1


@pytest.mark.parametrize("error, code", [(torch.OutOfMemoryError("CUDA out of memory. Tried"), "out_of_memory at step 3: CUDA out of memory;"),
                                         (KeyboardInterrupt(), "interrupted at step 2")])
def test_what_ends_a_run_from_outside_keeps_what_was_learned(error, code, model, tokenizer, rows, tmp_path, monkeypatch):
    calls, real = [], train.supervised_loss
    def broken(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3: raise error
        return real(*args, **kwargs)
    monkeypatch.setattr(train, "supervised_loss", broken)
    with pytest.raises(train.TrainingStopped, match=code) as caught: quick(model, tokenizer, rows, tmp_path)
    assert caught.value.result.steps == 2 and (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not any("forward" in vars(m) for m in caught.value.result.model.modules())


def test_a_full_disk_at_the_end_leaves_the_model(model, tokenizer, rows, tmp_path, monkeypatch):
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(train, "save_trained", full)
    with pytest.raises(train.TrainingStopped, match="disk_full at step 4: no space left for .*adapter") as caught:
        quick(model, tokenizer, rows, tmp_path)
    assert any(p.abs().max() > 0 for n, p in caught.value.result.model.named_parameters() if "lora_B" in n)


def test_float16_may_overflow_some_times_while_its_scale_is_found(model):
    model = adapt(model, "lora")
    def give(value):
        for p in model.parameters():
            if p.requires_grad: p.grad = torch.full_like(p, value)
    guard = train._Guard(scaled=True)
    for step in range(20): give(float("inf")), guard.gradients(model, step)
    give(1.0), guard.gradients(model, 20)
    assert guard.overflows == 0
    give(float("nan"))
    with pytest.raises(train.TrainingStopped, match="gradient_not_finite at step 41"):
        for step in range(21, 60): guard.gradients(model, step)


def test_a_resumed_run_must_be_the_same_run(model, tokenizer, rows, tmp_path):
    first = quick(model, tokenizer, rows, tmp_path, save_every=2)
    with pytest.raises(ValueError, match="resume: rank was 8 so far and is 4 now"):
        quick(load_model("tiny"), tokenizer, rows, tmp_path, rank=4, resume=True)
    with pytest.raises(ValueError, match="resume: these are not the rows"):
        quick(load_model("tiny"), tokenizer, rows[1:], tmp_path, resume=True)
    longer = quick(load_model("tiny"), tokenizer, rows, tmp_path, resume=True, steps=6)
    assert longer.steps == 6 and longer.tokens > first.tokens
    log = [e for e in events(longer.log) if "grad_norm" in e]
    assert [e["step"] for e in log] == [1, 2, 3, 4, 5, 6]
    assert all(a["real_tokens"] < b["real_tokens"] <= b["tokens"] for a, b in zip(log, log[1:]))


def test_old_checkpoints_go_marker_first(model, tokenizer, rows, tmp_path, monkeypatch):
    gone, real = [], train.shutil.rmtree
    def rmtree(folder, **kwargs):
        gone.append((Path(folder).name, (Path(folder) / "complete").exists(), (tmp_path / "checkpoint-2" / "complete").exists()))
        real(folder, **kwargs)
    monkeypatch.setattr(train.shutil, "rmtree", rmtree)
    quick(model, tokenizer, rows, tmp_path, save_every=1, steps=2, keep=1)
    assert gone == [("checkpoint-1", False, True)]


def test_plan_and_first_row_come_before_and_the_peak_after(model, tokenizer, rows, tmp_path, capsys):
    quick(model, tokenizer, rows, tmp_path, show=True, steps=2)
    said = capsys.readouterr().out
    plan, read, learned, after = (said.index(text) for text in ("lora, batch 4 ×", "read  '", "learned  '", "MB planned, "))
    assert plan < read < learned < after and said.rstrip().endswith("MB measured")


def test_tensorboard_has_the_curve(model, tokenizer, rows, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    quick(model, tokenizer, rows, tmp_path, report="tensorboard", dev=rows[:4], eval_every=2)
    events_file = next(tmp_path.rglob("events.out.tfevents*"))
    found = EventAccumulator(str(events_file.parent)).Reload()
    assert [e.step for e in found.Scalars("train/loss")] == [1, 2, 3, 4] and "eval/loss" in found.Tags()["scalars"]


def test_recipe_files_values_and_overrides(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: rslora\nlearning_rate: 1e-4\ntargets: [q_proj, v_proj]\nsteps: 10\n")
    recipe = train.read_recipe(path, "rank=16", "steps=", "rank=32")
    assert (recipe.rank, recipe.steps, recipe.learning_rate, recipe.targets) == (32, None, 1e-4, "q_proj,v_proj")
    for overrides, told in [(["ranks=3"], "did you mean rank"), (["rank=big"], "rank: needs int, not 'big'"), (["rank=0"], "at least 1"),
                            (["rank"], "write key=value"), (["group=3"], "group: needs bool"), (["rank=1.5"], "needs int"),
                            (["optimizer=adamv"], "did you mean adamw"), (["precision=half"], "precision must be"), (["packing=true", "share_prompts=2"], "not both"), (["share_prompts=-1"], "a number of rows or 0"),
                            (["epochs=0"], "epochs must be above 0"), (["seconds=-1"], "seconds must be above 0")]:
        with pytest.raises(ValueError, match=told): train.read_recipe(path, *overrides)
    path.write_text("learning_rat: 1")
    with pytest.raises(ValueError, match="r.yaml: no setting 'learning_rat', did you mean learning_rate"): train.read_recipe(path)
    path.write_text("- a\n- b")
    with pytest.raises(ValueError, match="key: value"): train.read_recipe(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="this is no YAML"): train.read_recipe(path)


def test_train_recipe_runs_a_file(tmp_path):
    path = tmp_path / "r.yaml"
    data, out = data_file("self_cognition.jsonl"), tmp_path / "out"
    path.write_text(f"model: tiny\ndata: {data}\nsteps: 2\nlength: 64\n")
    with pytest.raises(ValueError, match="output is missing"): train.train_recipe(path)
    result = train.train_recipe(path, f"output={out}", "rank=2")
    assert result.steps == 2 and result.recipe.rank == 2 and (out / "adapter" / "adapter_model.safetensors").is_file()


def test_optimizers_say_what_is_missing(model, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="galore_adamw.*pip install galore-torch"):
        quick(model, tokenizer, rows, tmp_path, method="full", optimizer="galore_adamw")
    with pytest.raises(ValueError, match="report: wandb is not installed: pip install wandb"):
        quick(model, tokenizer, rows, tmp_path, report="wandb")
    table = dict((row[0], row[1]) for row in recipes.optimizers()[1:])
    assert table["adamw"] == "yes" and table["schedule_free_adamw"] == "pip install schedulefree"


@pytest.mark.parametrize("optimizer", ["lora+", "adafactor", "sgd", "adamw_8bit", "lion", "lion_8bit", "schedule_free_adamw",
                                       "stable_adamw", "grokadamw"])
def test_optimizers_that_are_here_move_the_weights(optimizer, model, tokenizer, rows, tmp_path):
    if recipes._missing(optimizer): pytest.skip(recipes._missing(optimizer))
    result = quick(model, tokenizer, rows, tmp_path, optimizer=optimizer, steps=2, neftune=5.0)
    assert all(p.abs().max() > 0 for n, p in result.model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("optimizer", ["galore_adamw", "apollo_adamw"])
def test_low_rank_optimizers_train_whole_matrices(optimizer, tokenizer, rows, tmp_path):
    with pytest.raises(ValueError, match="method full or freeze, not lora"): recipes.Recipe(optimizer=optimizer)
    if recipes._missing(optimizer): pytest.skip(recipes._missing(optimizer))
    result = quick(load_model("tiny"), tokenizer, rows, tmp_path, method="full", optimizer=optimizer, steps=6, dev=rows[:4])
    assert result.after < result.before
    states = result.model and json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert states["recipe"]["optimizer"] == optimizer


def test_lora_plus_gives_b_a_rate_of_its_own(tokenizer, rows, tmp_path, monkeypatch):
    seen, real = {}, torch.optim.AdamW.step
    def step(self, *args, **kwargs):
        seen.update({id(p): group["lr"] for group in self.param_groups for p in group["params"]})
        return real(self, *args, **kwargs)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    result = quick(load_model("tiny"), tokenizer, rows, tmp_path, optimizer="lora+", lora_plus=4.0, schedule="constant", steps=1)
    rates = {kind: {seen[id(p)] for n, p in result.model.named_parameters() if kind in n} for kind in ("lora_A", "lora_B")}
    assert rates["lora_A"] == {1e-3} and rates["lora_B"] == {4e-3}


configs = Path(train.__file__).resolve().parent.parent / "configs"
shipped = sorted(path for path in configs.glob("recipes/*.yaml") if not path.stem.startswith(("eval_", "rlhf_")))  # other forms


@pytest.mark.parametrize("path", shipped, ids=lambda path: path.stem)
def test_a_shipped_recipe_names_what_exists(path):
    recipe, text = train.read_recipe(path), path.read_text(encoding="utf-8")
    assert text.startswith("# ") and len(text[2:].partition("\nmodel:")[0]) > 80, "a recipe begins with what it is, whose, and what it needs"
    assert path.stem.split("_")[0] in ("lora", "qlora", "ptuning", "freeze", "full") and recipe.output == f"run/{path.stem}"
    assert recipe.model in ("smol", "smol-glm3", "zai-org/chatglm-6b", "zai-org/chatglm2-6b", "zai-org/chatglm3-6b")
    registry = json.loads((configs.parent / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    for name in [part for names in (recipe.data, recipe.dev) if names for part in names.split(",")]:
        assert name in registry or (configs.parent / name).is_file(), name
    assert train._rate(recipe) == recipe.learning_rate and (recipe.quantize is None or path.stem.startswith(("qlora", "ptuning")))
    tiny = "tiny-v1" if recipe.model.endswith("chatglm-6b") else "tiny-v3"
    blocks = "last 1" if recipe.method == "freeze" else recipe.blocks
    trained, total = trainable_parameters(load_model(tiny).config, recipe.method, **{**train._adapting(recipe), "blocks": blocks})
    assert 0 < trained <= total or recipe.method == "lora"


def test_shipped_recipes_differ_and_the_tour_reads_its_own():
    found = [{**asdict(train.read_recipe(path)), "output": None} for path in shipped]
    assert len(found) > 10 and all(a != b for i, a in enumerate(found) for b in found[:i])
    assert train.read_recipe(configs / "tour.yaml").rank == 8


@pytest.mark.parametrize("name", ["lora_alpaca_tutorial", "freeze_chatglm", "ptuning_adgen_official"])
def test_a_recipe_says_what_its_step_takes(name):
    path = configs / f"recipes/{name}.yaml"
    recipe, told = train.read_recipe(path), re.search(r"planned\s(?:#\s)?at\s(?:#\s)?([0-9.]+)\s(?:#\s)?GB", path.read_text(encoding="utf-8"))
    plan = memory_plan(recipe.model.split("/")[1], recipe.method, recipe.batch_size, recipe.length, recipe.dtype, 4 if recipe.quantize else None,
                       recipe.optimizer, recipe.checkpointing, learned=0.5, **train._adapting(recipe))
    assert plan.peak / 1e9 == pytest.approx(float(told[1]), rel=0.05)


def test_launch_files_are_read_by_accelerate():
    from accelerate.commands.config.config_args import load_config_from_file
    found = {p.stem: load_config_from_file(str(p)) for p in sorted(configs.glob("accelerate/*.yaml"))}
    kinds = {name: str(c.distributed_type).split(".")[-1] for name, c in found.items()}
    assert kinds == {"cpu": "MULTI_CPU", "fsdp": "FSDP", "multi_gpu": "MULTI_GPU", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    for name in kinds:
        assert f"accelerate launch --config_file configs/accelerate/{name}.yaml" in (configs / "accelerate" / f"{name}.yaml").read_text()
    for name in ("zero2", "zero3"):
        assert (configs.parent / found[name].deepspeed_config["deepspeed_config_file"]).name == f"{name}.json"
    lessons = "".join(p.read_text(encoding="utf-8") for p in (configs.parent / "nbs").glob("*.ipynb"))
    assert all(f"configs/accelerate/{name}.yaml" in lessons for name in kinds)


def test_the_fsdp_file_makes_a_plugin_that_wraps_our_blocks(monkeypatch):
    import argparse
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(configs / "accelerate/fsdp.yaml"), "train.py"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    args, *_ = _validate_launch_command(args)
    assert args.use_fsdp and isinstance(args, argparse.Namespace)
    for name, value in prepare_multi_gpu_env(args).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")): monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True and "FULL" in str(plugin.state_dict_type)
    assert plugin.transformer_cls_names_to_wrap == ["GlmDecoderLayer"] and not plugin.cpu_ram_efficient_loading
    for name, block in (("tiny-v3", "GlmDecoderLayer"), ("tiny-v1", "ChatGLMBlock")):
        assert sum(type(m).__name__ == block for m in load_model(name).modules()) == 2


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_files_agree_with_the_trainer_s_arguments(stage, tmp_path, monkeypatch):
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from transformers.integrations import deepspeed
    found = json.loads((configs / f"deepspeed/zero{stage}.json").read_text())
    assert found["zero_optimization"]["stage"] == stage
    args = train._arguments(train.Recipe(batch_size=2, accumulate=3, clip=0.5), tmp_path, 1e-4, [], torch.device("cpu"), False)
    monkeypatch.setattr(deepspeed, "dep_version_check", lambda name: None)  # the first class has no base without the package
    filled = type("Filled", (deepspeed.HfTrainerDeepSpeedConfig, HfDeepSpeedConfig), {})(found)
    filled.trainer_config_process(args)
    assert not filled.mismatches
    assert [filled.get_value(k) for k in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")] == [2, 3, 0.5]
    assert filled.is_zero3() == (stage == 3) and filled.get_value("bf16.enabled") is False


# --- kill and resume, and two processes: one process imports the libraries and forks all the others

driver = textwrap.dedent("""
    import gc, json, os, random, signal, sys, time
    from pathlib import Path
    from chatglm_cookbook import train
    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.core import data_file
    from chatglm_cookbook.data import load_rows
    import peft, transformers.trainer
    gc.freeze()
    root, rows = Path(sys.argv[1]), load_rows(str(data_file("self_cognition.jsonl")))[:32]

    def child(folder, method="lora", env={}, **settings):
        pid = os.fork()
        if pid: return pid
        try:
            os.environ.update(env)
            train.finetune(load_model("tiny"), load_tokenizer("tiny"), rows, method, dev=rows[:4], output=folder, show=False,
                           learning_rate=3e-3, length=48, save_every=3, **settings)
        except BaseException as e:
            print(repr(e), flush=True)
            os._exit(1)
        os._exit(0)

    def weights(folder): return next((folder / "adapter").glob("*.safetensors")).read_bytes()
    def wait(*pids): return sum(os.waitpid(pid, 0)[1] for pid in pids)
    def step(folder):
        log = folder / "log.jsonl"
        return log.read_text().count('"grad_norm"') if log.exists() else 0

    def killed(method, kills, draw):
        settings = dict(method=method, steps=16, batch_size=4, eval_every=4, dropout=0.1, neftune=5.0, blocks="last 1")
        whole = root / method
        assert wait(child(whole, **settings)) == 0
        for n in range(kills):
            folder, at = root / f"{method}{n}", draw.randint(1, 15)
            pid = child(folder, **settings)
            while step(folder) < at: time.sleep(0.002)
            time.sleep(draw.random() * 0.05)
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            left = sorted(f.name for f in folder.glob("checkpoint-*"))
            assert wait(child(folder, resume=True, **settings)) == 0
            steps = [e["step"] for e in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "grad_norm" in e]
            print(method, "killed at", at, left, "equal" if weights(folder) == weights(whole) else "DIFFERENT", steps == list(range(1, 17)))

    draw = random.Random(0)
    killed("lora", 5, draw), killed("freeze", 1, draw)
    shared = dict(steps=6, group=False)
    ranks = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": "2"} for i in range(2)]
    pair = wait(*[child(root / "two", env=env, batch_size=4, **shared) for env in ranks])
    print("PAIR", pair, wait(child(root / "one", batch_size=8, **shared)))
""")


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    import os
    import socket
    if not hasattr(os, "fork"): pytest.skip("this system cannot fork, and importing anew for each process takes minutes")
    folder = tmp_path_factory.mktemp("forked")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", driver, str(folder)], env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder, done.stdout.splitlines()


@pytest.mark.parametrize("method, kills", [("lora", 5), ("freeze", 1)])
def test_killed_and_resumed_is_bit_equal(method, kills, forked):
    lines = [line for line in forked[1] if line.startswith(f"{method} killed at")]
    assert len(lines) == kills and all("equal True" in line and "DIFFERENT" not in line for line in lines), lines
    assert method == "freeze" or len({line.split()[3] for line in lines}) > 2


def test_two_processes_equal_one(forked):
    from safetensors.torch import load_file
    folder, lines = forked
    assert "PAIR 0 0" in lines, lines
    a, b = (load_file(folder / f / "adapter" / "adapter_model.safetensors") for f in ("one", "two"))
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-5
    assert max(a[k].abs().max() for k in a if "lora_B" in k) > 1e-3
    losses = [[e["loss"] for e in events(folder / f / "log.jsonl") if "grad_norm" in e] for f in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) == 6
    assert 0.3 < events(folder / "two/log.jsonl")[-1]["tokens"] / events(folder / "one/log.jsonl")[-1]["tokens"] < 0.7  # the rows were shared out
