"""Freeze and full tuning: bytes by kind, activations by block, blocks by budget, losses by row, weights that moved."""
import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from chatglm_cookbook import freeze
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.freeze import (blocks_that_fit, bytes_per_parameter, row_losses, saved_activations, training_bytes,
                                     weight_change)
from chatglm_cookbook.labels import Collator, encode_example
from chatglm_cookbook.memory import adapt, memory_plan, supervised_loss
from chatglm_cookbook.recipe import read_recipe

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.mark.parametrize("way, optimizer, wanted", [
    ("float32", "adamw", 16), ("autocast", "adamw", 18), ("mixed", "adamw", 16), ("bfloat16", "adamw", 8), ("mixed", "lion", 12),
    ("mixed", "sgd", 8), ("bfloat16", "adamw_8bit", 4 + 2 + 8 / 256), ("float32", "lion_8bit", 8 + 1 + 4 / 256)])
def test_bytes_per_parameter(way, optimizer, wanted):
    assert sum(bytes_per_parameter(way, optimizer).values()) == pytest.approx(wanted)


@pytest.mark.parametrize("asked, message", [(("fp16",), "way must be one of float32, autocast, mixed, bfloat16, not 'fp16'"),
                                            (("mixed", "adam"), "optimizer must be one of adamw, lion, sgd, or one with _8bit")])
def test_unknown_ways(asked, message):
    with pytest.raises(ValueError, match=message): bytes_per_parameter(*asked)


def stepped(model, kind=torch.optim.AdamW):
    optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.arange(100, 148)[None]
    supervised_loss(model, {"input_ids": ids, "labels": ids}).backward()
    optimizer.step()
    return optimizer


def test_training_bytes_by_hand():
    model = nn.Linear(3, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    assert training_bytes(model) == {"weights": 80, "master": 0, "gradients": 0, "optimizer": 0}
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert training_bytes(model, optimizer) == {"weights": 80, "master": 0, "gradients": 80, "optimizer": 160}
    optimizer.zero_grad()
    assert training_bytes(model, optimizer)["gradients"] == 0


def test_master_copies_and_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False, dtype=torch.bfloat16), nn.Linear(4, 4, bias=False, dtype=torch.bfloat16))
    model[1].weight = model[0].weight
    master = model[0].weight.detach().float().requires_grad_()
    master.grad = torch.ones_like(master)
    optimizer = torch.optim.AdamW([master])
    optimizer.step()
    assert training_bytes(model, optimizer) == {"weights": 32, "master": 64, "gradients": 64, "optimizer": 128}


@pytest.mark.parametrize("method, kind, numbers", [("full", torch.optim.AdamW, 2), ("freeze", torch.optim.AdamW, 2),
                                                   ("full", torch.optim.SGD, 0), ("lora", torch.optim.AdamW, 2)])
def test_training_bytes_are_those_of_the_plan(method, kind, numbers):
    model = adapt(load_model("tiny"), method).train()
    held, trained = training_bytes(model, stepped(model, kind)), sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert held["gradients"] == 4 * trained and held["optimizer"] == 4 * numbers * trained
    plan = memory_plan(load_model("tiny").config, method, 1, 48, optimizer="adamw" if numbers else "sgd")
    assert held["optimizer"] == plan.optimizer
    assert held["weights"] - plan.weights == sum(b.nbytes for b in model.buffers())


def kept(method, name="tiny", **settings):
    model = adapt(load_model(name), method, **settings).train()
    ids = torch.arange(100, 164).view(2, 32)
    return saved_activations(model, lambda: supervised_loss(model, {"input_ids": ids, "labels": ids}))


def test_nothing_is_kept_below_the_first_open_block():
    (low, high), rest = kept("freeze", blocks="last 1")
    assert low == 0 and high > 0 and rest > 0
    assert all(kept("freeze", blocks="first 1")[0])


def test_frozen_layers_keep_less_than_trained_ones():
    full, first, last = (kept(*a)[0] for a in (("full",), ("freeze",), ("lora",)))
    assert full[0] > first[0] > 0 and full[1] > last[1] > 0
    assert sum(kept("freeze", blocks="last 1")[0]) < sum(kept("freeze", blocks="first 1")[0]) < sum(full)


def test_saved_activations_of_a_layer_by_hand():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)])
        def forward(self, x):
            for block in self.blocks: x = block(x)
            return x
    model, x = Two(), torch.randn(4, 8)
    assert saved_activations(model, lambda: model(x).sum()) == ([4 * 8 * 4, 4 * 8 * 4], 0)
    model.blocks[0].requires_grad_(False)
    assert saved_activations(model, lambda: model(x).sum()) == ([0, 4 * 8 * 4], 0)
    model.blocks[0].requires_grad_(True), model.blocks[1].requires_grad_(False)
    assert saved_activations(model, lambda: model(x).sum()) == ([4 * 8 * 4, 0], 0)  # its weight is kept, not its input


def test_no_hook_is_left_behind():
    model = load_model("tiny")
    ids = torch.arange(100, 132)[None]
    with pytest.raises(ValueError, match="no label"):
        saved_activations(model, lambda: supervised_loss(model, {"input_ids": ids, "labels": torch.full_like(ids, -100)}))
    saved_activations(model, lambda: supervised_loss(model, {"input_ids": ids, "labels": ids}))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_blocks_that_fit_against_a_search(monkeypatch):
    asked = []
    class Plan:
        def __init__(self, n): self.peak = 10 + 3 * n
    monkeypatch.setattr(freeze, "memory_plan", lambda *a, blocks, **kw: asked.append(blocks) or Plan(blocks))
    for memory in (13, 15.9, 16, 40, 93, 94, 1000):
        wanted = max(n for n in range(1, 29) if 10 + 3 * n <= memory)
        assert blocks_that_fit("chatglm3-6b", memory) == wanted
    assert len(asked) <= 7 * 7
    with pytest.raises(ValueError, match="one open block takes 0.0 GB .* train an adapter on a base of 4 bits"):
        blocks_that_fit("chatglm3-6b", 12.9)


def test_blocks_that_fit_on_a_real_plan():
    config = load_model("tiny").config
    one = memory_plan(config, "freeze", 1, 64, "float32", blocks=1).peak
    assert blocks_that_fit(config, one, 1, 64, "float32") == 1
    assert blocks_that_fit(config, 10 * one, 1, 64, "float32", part="all") == 2


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
def test_row_losses_are_those_of_each_row_alone(name):
    model, tokenizer = load_model(name), load_tokenizer(name)
    rows = [{"instruction": "Count.", "output": "One, two, three."}, {"instruction": "你好", "output": "你好！"},
            {"instruction": "Name a colour of the sky at noon.", "output": "Blue."}]
    model.train()
    together = row_losses(model, tokenizer, rows, batch_size=3)
    assert model.training
    for row, loss in zip(rows, together):
        batch = Collator(tokenizer)([encode_example(tokenizer, row)])
        with torch.no_grad(): assert supervised_loss(model, batch).item() == pytest.approx(loss, abs=1e-5)
    assert row_losses(model, tokenizer, [encode_example(tokenizer, r) for r in rows], 1) == pytest.approx(together, abs=1e-5)


def test_row_losses_are_exact_over_a_large_vocabulary():
    class Fixed(nn.Module):  # cross-entropy over a dimension that is not the last adds 49 152 terms one by one: 6e-5 off
        device = torch.device("cpu")
        def forward(self, input_ids, **_): return SimpleNamespace(logits=logits[None].expand(len(input_ids), -1, -1))
    torch.manual_seed(0)
    logits, ids = 3 * torch.randn(20, 49_152), list(range(20))
    wanted = nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(ids[1:])).item()
    found = row_losses(Fixed(), load_tokenizer("tiny"), [{"input_ids": ids, "labels": ids, "length": 20}] * 2)
    assert found.tolist() == pytest.approx([wanted] * 2, abs=5e-6)


def test_weight_change():
    before = load_model("tiny")
    after = copy.deepcopy(before)
    assert weight_change(after, before) == [0.0, 0.0]
    with torch.no_grad():
        for p in after.model.layers[1].parameters(): p *= 1.5
    assert weight_change(after, before) == pytest.approx([0.0, 0.5])
    with pytest.raises(ValueError, match="merge the adapter first"): weight_change(adapt(after), before)
    with pytest.raises(ValueError, match="its blocks have other weights"): weight_change(load_model("tiny-v1"), before)


def test_weight_change_of_a_merged_adapter_is_its_product():
    before, model = load_model("tiny"), adapt(load_model("tiny"), rank=2, targets="output")
    for name, p in model.named_parameters():
        if "lora_B" in name and "layers.0" in name: nn.init.ones_(p)
    found = weight_change(model.merge_and_unload(), before)
    assert found[0] > 0 and found[1] == 0


@pytest.mark.parametrize("name, dtype, trained", [("full_smol", "float32", 16), ("full_chatglm3", "float32", 16),
                                                  ("full_chatglm3_bf16", "bfloat16", 4)])
def test_recipes_of_full_tuning(name, dtype, trained):
    root = Path(__file__).resolve().parent.parent
    recipe = read_recipe(root / f"configs/recipes/{name}.yaml")
    assert recipe.method == "full" and recipe.dtype == dtype and recipe.quantize is None and recipe.learning_rate <= 1e-4
    size = {"adamw": 2, "adafactor": 0}[recipe.optimizer] * (4 if dtype == "float32" else 2)
    assert sum(bytes_per_parameter(dtype, "sgd").values()) + size == trained
    assert (root / recipe.data).is_file()
