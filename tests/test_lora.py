"""LoRA: layers beside peft's, replies in batches, scores, tables, and the recipes of the literature."""
import math
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from chatglm_cookbook import lora
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.deploy import chat
from chatglm_cookbook.memory import find_targets
from chatglm_cookbook.train import finetune, read_recipe

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
recipes = sorted((Path(__file__).parent.parent / "configs" / "recipes").glob("lora_alpaca*.yaml"))
questions = ["Hi", "Who are you?", "你是谁？", "Tell me about the weather in Paris, and what to wear there.", "Count to three, please."]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return load_model("tiny")


def adapted(model, rank=4, noise=0.5, **settings):
    torch.manual_seed(1)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=find_targets(model, "attention+mlp"), **settings)
    model = get_peft_model(model, config)
    for name, p in model.named_parameters():
        if "lora_B" in name: nn.init.normal_(p, std=noise)
    return model.eval()


# --- LoRALinear

@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 16.0), (8, 8.0), (3, 0.5)])
def test_layer_equals_peft_in_output_gradient_and_merge(rank, alpha, bias):
    torch.manual_seed(0)
    base, x = nn.Linear(24, 16, bias=bias), torch.randn(5, 24, requires_grad=True)
    holder = nn.Sequential()
    holder.add_module("layer", nn.Linear(24, 16, bias=bias))
    holder.layer.load_state_dict(base.state_dict())
    theirs = get_peft_model(holder, LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"]))
    ours, their = lora.LoRALinear(base, rank, alpha), theirs.base_model.model.layer
    assert not ours.B.any() and torch.equal(ours(x), base(x))
    nn.init.normal_(ours.B)
    their.lora_A["default"].weight.data, their.lora_B["default"].weight.data = ours.A.data.clone(), ours.B.data.clone()
    for out in (ours(x), theirs(x)): (out ** 2).sum().backward()
    assert (ours(x) - theirs(x)).abs().max() < 1e-6 * max(1, ours(x).abs().max())
    for own, other in ((ours.A, their.lora_A), (ours.B, their.lora_B)):
        wanted = other["default"].weight.grad
        assert (own.grad - wanted).abs().max() < 1e-6 * wanted.abs().max()
    theirs.merge_adapter()
    assert (ours.merged().weight - their.base_layer.weight).abs().max() < 1e-6
    assert (ours.merged()(x) - ours(x)).abs().max() < 1e-5 * max(1, ours(x).abs().max())
    assert ours.base.weight.grad is None


def test_layer_of_a_half_precision_base_keeps_its_adapter_in_float32():
    torch.manual_seed(0)
    layer = lora.LoRALinear(nn.Linear(8, 8).bfloat16(), rank=2)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 8).bfloat16()
    assert layer(x).dtype == torch.bfloat16 and layer.A.dtype == torch.float32
    exact = x.float() @ (layer.base.weight.float() + layer.scale * layer.B @ layer.A).T + layer.base.bias.float()
    assert (layer(x).float() - exact).abs().max() < 0.02 * exact.abs().max()
    assert layer.merged().weight.dtype == torch.bfloat16


def test_dropout_acts_on_the_update_only_and_only_in_training():
    torch.manual_seed(0)
    layer, x = lora.LoRALinear(nn.Linear(32, 4), rank=2, dropout=0.5), torch.ones(1, 32)
    assert torch.equal(layer(x), layer.base(x))
    nn.init.normal_(layer.B)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(ValueError, match=f"rank must be from 1 to 4, the smaller side of this layer, not {rank}"):
        lora.LoRALinear(nn.Linear(4, 9), rank)


def test_counts_by_hand_and_beside_peft(model):
    assert lora.lora_parameters([(3, 5), (7, 2)], 2) == 2 * 8 + 2 * 9
    shapes = [(m.in_features, m.out_features) for n, m in model.named_modules()
              if n.split(".")[-1] in find_targets(model, "attention+mlp")]
    assert lora.lora_parameters(shapes, 4) == adapted(model).get_nb_trainable_parameters()[0]
    with pytest.raises(ValueError, match="rank must be at least 1, not 0"): lora.lora_parameters([(1, 1)], 0)


# --- replies

@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
@pytest.mark.parametrize("size", [1, 2, 16])
def test_replies_in_batches_equal_a_chat_without_padding(name, size):
    torch.manual_seed(0)
    model, tokenizer = load_model(name), load_tokenizer(name)
    for p in model.parameters():
        if p.dim() > 1: p.data.mul_(3)  # so that replies depend on the prompt
    alone = [str(chat(model, tokenizer, q, temperature=0, max_new_tokens=10)[0]) for q in questions]
    assert len(set(alone)) == len(alone)
    assert lora.replies(model, tokenizer, questions, max_new_tokens=10, batch_size=size) == alone


def test_replies_end_at_the_first_stop_token_and_keep_their_order(model):
    tokenizer = load_tokenizer("tiny")
    stop, paris, rome = (tokenizer.convert_tokens_to_ids("<|user|>"), *(tokenizer(t)["input_ids"][2:] for t in ("Paris", "Rome")))
    long, short = [*paris, stop, *rome, 5], [*rome, *paris, stop]
    width = max(len(long), len(short))
    def generate(input_ids, **settings):  # the shorter prompt comes first
        new = [row + [stop] * (width - len(row)) for row in (short, long)]
        return torch.cat([input_ids, torch.tensor(new)], 1)
    model.generate = generate
    assert lora.replies(model, tokenizer, ["A long question, is it not?", "Hi"]) == ["Paris", tokenizer.decode([*rome, *paris]).strip()]


def test_replies_leave_mode_and_random_state_alone(model):
    model.train()
    state = torch.random.get_rng_state()
    lora.replies(model, load_tokenizer("tiny"), questions[:2], max_new_tokens=2)
    assert model.training and torch.equal(state, torch.random.get_rng_state())


def test_replies_refuse_what_is_no_question(model):
    tokenizer = load_tokenizer("tiny")
    with pytest.raises(TypeError, match="questions must be a list, not one str"): lora.replies(model, tokenizer, "Hi")
    with pytest.raises(ValueError, match=re.escape("questions[1] must be a string")):
        lora.replies(model, tokenizer, ["Hi", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]])
    with pytest.raises(ValueError, match=re.escape("questions[0] must be")): lora.replies(model, tokenizer, [[]])
    assert lora.replies(model, tokenizer, []) == []


# --- scores and tables

def test_self_cognition_on_the_bundled_questions():
    rows = load_rows(str(data_file("self_cognition_heldout.jsonl")))
    assert lora.self_cognition_score([f"It is {row['expected']}." for row in rows]) == 100
    assert lora.self_cognition_score([f"It is {row['expected']}s." if row["language"] == "en" else "我不知道" for row in rows]) == 0
    half = lora.self_cognition_score([row["expected"].upper() if i % 2 else "" for i, row in enumerate(rows)], rows)
    assert half == 50 and half.interval()[0] < 50 < half.interval()[1]
    known = {row["instruction"] for row in load_rows(str(data_file("self_cognition.jsonl")))}
    assert not known & {row["instruction"] for row in rows}


def test_self_cognition_refuses_unequal_lists_and_rows_without_an_answer():
    with pytest.raises(ValueError, match="1 replies to 2 questions"): lora.self_cognition_score(["a"], [{"expected": "a"}] * 2)
    with pytest.raises(ValueError, match=re.escape("rows[1] lacks `expected`")):
        lora.self_cognition_score(["a", "b"], [{"expected": "a"}, {}])


def test_before_after_shows_each_adapter_and_leaves_the_active_one(model):
    tokenizer = load_tokenizer("tiny")
    plain = lora.replies(model, tokenizer, questions[:2], max_new_tokens=4)
    both = adapted(model)
    both.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    tuned = lora.replies(both, tokenizer, questions[:2], max_new_tokens=4)
    table = lora.before_after(both, tokenizer, questions[:2], ["second", "default"], max_new_tokens=4)
    assert table.columns == ["before", "second", "default"] and both.active_adapter == "default"
    assert [row[1] for row in table] == plain == [row[2] for row in table]  # a fresh adapter changes nothing
    assert [row[3] for row in table] == tuned != plain
    assert table._repr_markdown_().splitlines()[0] == "| question | before | second | default |"
    with pytest.raises(ValueError, match="adapters: no 'third'; there are default, second"):
        lora.before_after(both, tokenizer, questions[:1], ["third"])
    with pytest.raises(ValueError, match="model has no adapter to switch off"):
        lora.before_after(load_model("tiny"), tokenizer, questions[:1])


def test_a_table_survives_bars_and_line_breaks():
    table = lora._SideBySide(["before", "after"], [("a|b\nc", "", "d")])
    assert table._repr_markdown_().splitlines()[2] == "| a\\|b c |   | d |"
    assert "  after: d" in repr(table)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_update_sizes_are_norms_of_what_merging_changes(model, scale):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    tuned = adapted(model, noise=0.1 * scale)
    sizes = lora.update_sizes(tuned)
    merged = dict(tuned.merge_and_unload().named_parameters())
    assert len(sizes) == 2 * 5
    for path, size in sizes.items():
        old = before[path + ".weight"]
        assert size == pytest.approx(((merged[path + ".weight"] - old).norm() / old.norm()).item(), rel=1e-4)


def test_update_sizes_name_what_is_wrong(model, tmp_path):
    with pytest.raises(ValueError, match="no LoRA adapter"): lora.update_sizes(model)
    tuned = adapted(model)
    with pytest.raises(ValueError, match="no LoRA adapter 'other'"): lora.update_sizes(tuned, "other")
    first = next(p for n, p in tuned.named_parameters() if "lora_B" in n)
    first.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="is not finite"): lora.update_sizes(tuned)
    for n, p in tuned.named_parameters():
        if "lora_B" in n: p.data.zero_()
    with pytest.raises(ValueError, match="the adapter changes nothing"): lora.update_sizes(tuned)


def test_update_sizes_of_an_8_bit_base_are_those_of_its_float_weights():
    bnb = pytest.importorskip("bitsandbytes")
    full, small = adapted(load_model("tiny"), noise=0.1), adapted(load_model("tiny", quantize="int8"), noise=0.1)
    assert any(isinstance(m, bnb.nn.Linear8bitLt) for m in small.modules())
    for path, size in lora.update_sizes(small).items():
        assert size == pytest.approx(lora.update_sizes(full)[path], rel=0.05)


# --- adapters together

def test_several_adapters_chain_and_weighted_sum(tmp_path):
    tokenizer, rows = load_tokenizer("tiny"), load_rows(str(data_file("self_cognition.jsonl")))[:24]
    settings = {"steps": 4, "learning_rate": 5e-3, "show": False, "length": 64}
    first = finetune(load_model("tiny"), tokenizer, rows[:12], output=tmp_path / "a", **settings)
    second = finetune(load_model("tiny"), tokenizer, rows[12:], output=tmp_path / "b", **settings)
    ids = torch.arange(10, 30)[None]
    def logits(model):
        with torch.no_grad(): return model.eval()(ids).logits
    both = PeftModel.from_pretrained(load_model("tiny"), first.folder, adapter_name="a")
    both.load_adapter(second.folder, adapter_name="b")
    for name, alone in (("a", first.model), ("b", second.model), ("a", first.model)):
        both.set_adapter(name)
        assert (logits(both) - logits(alone)).abs().max() < 1e-5
    both.add_weighted_adapter(["a", "b"], [0.25, 0.75], "mix", "cat")
    weights = [(PeftModel.from_pretrained(load_model("tiny"), r.folder).merge_and_unload().state_dict()) for r in (first, second)]
    base = load_model("tiny")
    plain = base.state_dict()
    base.load_state_dict({n: w + 0.25 * (weights[0][n] - w) + 0.75 * (weights[1][n] - w) for n, w in plain.items()})
    both.set_adapter("mix")
    assert (logits(both) - logits(base)).abs().max() < 1e-5
    merged = PeftModel.from_pretrained(load_model("tiny"), first.folder).merge_and_unload()
    chained = finetune(merged, tokenizer, rows[12:], output=tmp_path / "c", **settings)
    wrong = PeftModel.from_pretrained(load_model("tiny"), chained.folder)
    assert (logits(wrong) - logits(chained.model)).abs().max() > 1e-4


# --- recipes

@pytest.mark.parametrize("path", recipes, ids=lambda path: path.stem)
def test_recipes_of_the_literature_run_on_a_tiny_model(path, tmp_path):
    recipe = read_recipe(path, "steps=2", "save_every=", "length=64")
    name = "tiny-v1" if recipe.model.endswith("chatglm-6b") else "tiny-v3"
    rows = load_rows(str(data_file("self_cognition.jsonl")))[:16]
    result = finetune(load_model(name, dtype=recipe.dtype), load_tokenizer(name), rows, recipe=recipe, output=tmp_path, show=False)
    assert result.steps == 2 and all(math.isfinite(size) for size in lora.update_sizes(result.model).values())


def test_the_recipes_have_the_settings_of_their_sources():
    found = {path.stem.removeprefix("lora_alpaca_"): read_recipe(path) for path in recipes}
    assert set(found) >= {"efficient", "tutorial", "chatglm3"}
    for name in ("efficient", "chatglm3"):
        r = found[name]
        assert (r.rank, r.alpha, r.dropout, r.learning_rate, r.schedule) == (8, 32, 0.1, 5e-5, "cosine")
        assert (r.batch_size, r.accumulate, r.epochs, r.length) == (4, 4, 3, 1024)
    r = found["tutorial"]
    assert (r.rank, r.learning_rate, r.batch_size, r.steps) == (8, 1e-4, 6, 52_000)
