"""NF4, double quantisation, adapters on them and gradients through them."""
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from chatglm_cookbook import qlora
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file, seed_everything
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.memory import adapt, find_targets, supervised_loss
from chatglm_cookbook.qlora import (NF4Linear, bits_per_weight, dynamic_levels, gradient_agreement, nf4_levels, nf4_model,
                                    nf4_quantize, quantize_blocks)
from chatglm_cookbook.quantize import quantize_model
from chatglm_cookbook.recipe import read_recipe
from chatglm_cookbook.train import finetune

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*autograd kernel was not registered:UserWarning")


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")


def test_levels_are_quantiles():
    levels, normal = nf4_levels().double(), torch.distributions.Normal(0.0, 1.0)
    assert len(levels) == 16 and (levels.diff() > 0).all() and levels[0] == -1 and levels[7] == 0 and levels[15] == 1
    top = normal.icdf(torch.tensor(0.9677083))
    for half, n in ((levels[7:], 9), (-levels[:8].flip(0), 8)):  # equal steps of probability on either side
        assert torch.allclose(normal.cdf(half * top).diff(), torch.full((n - 1,), (0.9677083 - 0.5) / (n - 1)).double(), atol=1e-6)


def test_levels_are_those_of_bitsandbytes(theirs):
    assert torch.equal(nf4_levels(), theirs.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_levels(), theirs.create_dynamic_map())


def test_bits():
    assert bits_per_weight() == 4.5 and bits_per_weight(8, 64) == 8.5
    assert bits_per_weight(double=True) == pytest.approx(4.127, abs=1e-3)  # the paper's 0.127
    assert bits_per_weight(block=32) == 5


def test_blocks_by_hand():
    codes, scales = quantize_blocks(torch.tensor([1.0, 0.0, -4.0, 0.3, 5.0, 0.2]), nf4_levels(), 3)
    assert scales.tolist() == [4.0, 5.0]
    assert codes.tolist() == [10, 7, 0, 8, 15, 8 if 0.04 > nf4_levels()[8] / 2 else 7]


def test_nearest_level_against_a_search():
    torch.manual_seed(0)
    values = torch.randn(64 * 50)
    codes, scales = quantize_blocks(values, nf4_levels())
    shares = (values.view(-1, 64) / scales[:, None]).flatten()
    best = (shares[:, None] - nf4_levels()).abs()
    assert torch.allclose(best.gather(1, codes.long()[:, None])[:, 0], best.amin(1), atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_are_refused(bad):
    with pytest.raises(ValueError, match="nan or inf"): nf4_quantize(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 64), (512, 1024), (37, 36), (3, 5), (1, 1), (257, 64)])
@pytest.mark.parametrize("scale", [0.02, 1, 300])
def test_equal_to_bitsandbytes_bit_for_bit(theirs, dtype, shape, scale):
    torch.manual_seed(sum(shape))
    weight = (torch.randn(shape) * scale).to(dtype)
    for double in (False, True):
        ours = nf4_quantize(weight, double, table=True)
        packed, state = theirs.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double)
        assert torch.equal(ours.packed, packed.flatten()) and torch.equal(ours.scales, state.absmax)
        if double: assert torch.equal(ours.second, state.state2.absmax) and torch.equal(ours.mean, state.offset)
        assert torch.equal(ours.floats(dtype).flatten(), theirs.dequantize_4bit(packed, state).flatten())


def test_zero_blocks_and_outliers(theirs):
    weight = torch.zeros(4, 64)
    weight[1, 3], weight[2] = 1e30, 1e-30
    ours, (packed, state) = nf4_quantize(weight), theirs.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    assert torch.equal(ours.packed, packed.flatten()) and torch.equal(ours.floats(), theirs.dequantize_4bit(packed, state))
    assert (ours.floats()[0] == 0).all() and ours.floats()[1, 3] == 1e30


def test_the_error_stays_within_half_a_gap():
    torch.manual_seed(1)
    weight = torch.randn(128, 192) * 0.05
    found, largest = nf4_quantize(weight).floats(), weight.view(-1, 64).abs().amax(1, keepdim=True)
    assert ((found - weight).view(-1, 64).abs() <= largest * nf4_levels().diff().max() / 2 + 1e-7).all()
    assert (nf4_quantize(weight, True).floats() - found).norm() < 0.03 * found.norm()


def test_a_quantised_weight_stays_where_it_is():
    once = nf4_quantize(torch.randn(64, 64))
    assert torch.equal(nf4_quantize(once.floats()).packed, once.packed)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_forward_and_backward(double, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, dtype=dtype)
    layer, plain = NF4Linear(linear, double), nn.Linear(96, 40, dtype=dtype)
    plain.load_state_dict({"weight": layer.floats(dtype), "bias": linear.bias})
    xs = [torch.randn(2, 3, 96, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    for one, x in zip((layer, plain), xs): one(x).float().square().sum().backward()
    assert torch.allclose(layer(xs[0]), plain(xs[1]), atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert torch.allclose(xs[0].grad, xs[1].grad, atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert layer.weight.grad is None and layer.weight.dtype == torch.uint8


def test_no_float_weight_is_kept_for_the_backward_pass():
    layer, sizes = NF4Linear(nn.Linear(64, 64, bias=False)), []
    x = torch.randn(2, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t): layer(x).sum()
    assert 64 * 64 not in sizes


def test_layers_save_and_load():
    torch.manual_seed(0)
    one, other = (NF4Linear(nn.Linear(128, 64)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.floats(), other.floats())


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_adapters_find_their_layers(name):
    model = nf4_model(load_model(name))
    assert find_targets(model, "all-linear") == find_targets(load_model(name), "all-linear")
    adapted = adapt(model, "lora", targets="all-linear", rank=2)
    assert all("lora_" in n for n, p in adapted.named_parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="the weights are quantised"): adapt(nf4_model(load_model(name)), "full")
    with pytest.raises(ValueError, match="quantised already"): nf4_model(quantize_model(load_model(name), 8))
    with pytest.raises(ValueError, match="before you add adapters"): nf4_model(adapt(load_model(name)))


@pytest.mark.parametrize("base", ["nf4", "chatglm-8", "chatglm-4", "group-4"])
def test_finetune_learns_on_every_base(base, tmp_path):
    model, rows = load_model("tiny"), load_rows(data_file("self_cognition.jsonl"))
    kind, _, bits = base.partition("-")
    model = nf4_model(model) if base == "nf4" else quantize_model(model, int(bits), kind)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    result = finetune(model, load_tokenizer("tiny"), rows[8:40], dev=rows[:8], output=tmp_path, steps=6, show=False,
                      targets="all-linear", learning_rate=5e-3)
    assert result.after < result.before - 0.01
    after = result.model.unload().state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


def adapted(make):
    seed_everything(0)
    model = adapt(make(load_model("tiny-v3")), "lora", rank=2, targets=["o_proj", "gate_up_proj", "down_proj"])  # no biases
    for n, p in model.named_parameters():
        if "lora_B" in n: nn.init.normal_(p, std=0.02)
    return model


def some_batch():
    ids = torch.randint(100, 2000, (2, 32), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids}


def on_bnb(cured, theirs):
    model = adapted(lambda m: quantize_model(m, 4, "bnb"))
    for name, layer in model.named_modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = not cured and bool(theirs.has_avx512bf16()) and layer.bias is None
    with torch.no_grad(): model.eval()(**some_batch())
    return model.train()


def test_gradients_on_bitsandbytes_are_ours(theirs):
    ours = adapted(lambda m: nf4_model(m, double=False))
    assert min(gradient_agreement(on_bnb(True, theirs), ours, some_batch())) > 0.9999
    assert all(p.grad is None or not p.grad.any() for p in ours.parameters())


def test_repacked_weights_lose_the_gradient(theirs):
    if not theirs.has_avx512bf16(): pytest.skip("this CPU has no AVX512-BF16: bitsandbytes repacks nothing here")
    found = gradient_agreement(on_bnb(False, theirs), adapted(lambda m: nf4_model(m, double=False)), some_batch())
    assert found[0] < 0.9 and found[0] < found[1]


def test_agreement_by_hand_and_refusal():
    one = adapted(lambda m: m)
    assert gradient_agreement(one, adapted(lambda m: m), some_batch()) == pytest.approx([1, 1], abs=1e-5)
    other = adapted(lambda m: m)
    with torch.no_grad(): [p.neg_() for n, p in other.named_parameters() if "lora_A" in n or "lora_B" in n]
    found = gradient_agreement(other, one, some_batch())  # the same product, and both factors' gradients turned round
    assert found == pytest.approx([-1, -1], abs=1e-4)
    with pytest.raises(ValueError, match="a block trains nothing"):
        gradient_agreement(one, load_model("tiny").requires_grad_(False), some_batch())


@pytest.mark.parametrize("double, table", itertools.product([False, True], repeat=2))
def test_the_grid_changes_only_scales_of_scales(double, table):
    weight = torch.randn(256, 256)
    ours, near = nf4_quantize(weight, double, table=table), nf4_quantize(weight, double)
    assert torch.equal(ours.packed, near.packed)
    assert (ours.scales.float() - near.scales.float()).abs().max() <= (1 if double and table else 0)


def test_the_loss_of_the_doubled_base_is_that_of_the_plain_one():
    batch = some_batch()
    losses = [supervised_loss(nf4_model(load_model("tiny"), double), batch).item() for double in (False, True)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3) and qlora.bits_per_weight(double=True) < 4.2


@pytest.mark.parametrize("name, quantize", [("qlora_smol", "nf4"), ("qlora_chatglm", "nf4"), ("qlora_chatglm_int8", "int8"),
                                            ("qlora_chatglm3", "nf4")])
def test_recipes(name, quantize):
    root = Path(__file__).resolve().parent.parent
    recipe = read_recipe(root / f"configs/recipes/{name}.yaml")
    assert recipe.method == "lora" and recipe.quantize == quantize and (root / recipe.data).is_file()
    if name == "qlora_chatglm3": assert (recipe.rank, recipe.optimizer, recipe.schedule) == (64, "paged_adamw_8bit", "constant")


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_paged_optimizer_is_the_8bit_one_where_nothing_can_be_moved(tmp_path, theirs):
    if torch.cuda.is_available(): pytest.skip("there is a GPU here, where paging works")
    rows = load_rows(data_file("self_cognition.jsonl"))
    after = [finetune(load_model("tiny"), load_tokenizer("tiny"), rows[8:24], "full", dev=rows[:8], output=tmp_path / kind, steps=4,
                      optimizer=kind, learning_rate=1e-3, show=False) for kind in ("adamw_8bit", "paged_adamw_8bit", "adamw")]
    assert after[0].after == pytest.approx(after[1].after, abs=1e-5) and after[0].after < after[0].before
    assert after[0].after == pytest.approx(after[2].after, abs=0.02)
