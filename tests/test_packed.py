"""The forms in which quantised weights are multiplied on a CPU: exact codes, right products, and the ways around them."""
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from chatglm_cookbook import packed
from chatglm_cookbook.packed import Int4Tiles, Int8Panels, packed_form, split_rows
from chatglm_cookbook.quantize import QuantLinear, pack_int4, quantize_weight

panels = pytest.mark.skipif(not packed._exact(), reason="this processor has no exact int8 product")
tiles = pytest.mark.skipif(not packed._tile(), reason="this processor lays packed int4 out in a way of its own")


def layer(out, columns, bits, group=None, zero=False, bias=None, seed=0):
    torch.manual_seed(seed)
    codes, step, points = quantize_weight(torch.randn(out, columns) / columns**0.5, bits, group, zero)
    return QuantLinear(codes if bits == 8 else pack_int4(codes), step, bias, points, in_features=columns)


def off(ours, theirs): return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
def test_parts_of_a_row_add_up_to_it(rows, columns, parts, seed, half):
    torch.manual_seed(seed)
    x = torch.randn(rows, columns) * 10 ** torch.empty(rows, columns).uniform_(-4, 4)
    if half: x = x.bfloat16()
    whole, step = split_rows(x, parts)
    back = step.double() * sum(q.double() / 254**i for i, q in enumerate(whole))
    assert whole.shape == (parts, rows, columns) and whole.dtype == torch.int8 and whole.abs().max() <= 127
    assert ((back - x.double()).abs() <= 0.505 * step / 254 ** (parts - 1) + 5e-7 * x.abs().double()).all()


def test_a_split_in_pieces_equals_a_split_at_once(monkeypatch):
    x = torch.randn(700, 512).bfloat16()  # more than fits into one piece
    whole, step = split_rows(x, 2)
    for i in (0, 511, 512, 699):
        alone = split_rows(x[i:i + 1], 2)
        assert torch.equal(alone[0][:, 0], whole[:, i]) and torch.equal(alone[1], step[i:i + 1])
    given = torch.empty(2, 700, 512, dtype=torch.int8)
    assert split_rows(x, 2, given)[0] is given and torch.equal(given, whole)


@panels
@pytest.mark.parametrize("out,columns", [(4096, 96), (4100, 33), (5000, 7)])
@pytest.mark.parametrize("rows", [1, 2, 31, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_panels_give_the_product(out, columns, rows, dtype):
    bias = torch.randn(out)
    ours = layer(out, columns, 8, bias=bias)
    exact, x = ours.dequantized(torch.float32), torch.randn(rows, columns).to(dtype)
    x[0] = 0
    with torch.no_grad(): y = ours(x)
    want = F.linear(x.float(), exact, bias)
    assert isinstance(ours._packed, Int8Panels) and y.dtype == dtype
    assert off(y, want) < (2e-6 if dtype == torch.float32 else 6e-3)
    assert (y[0].float() - bias).abs().max() < 0.02


@panels
def test_bfloat16_through_panels_is_no_worse_than_through_floats_with_outliers(monkeypatch):
    ours = layer(4096, 512, 8)
    exact = ours.dequantized(torch.float64)
    x = torch.randn(100, 512)
    x[:, 7] *= 300
    x = x.bfloat16()
    with torch.no_grad(): through = ours(x)
    floats = x @ exact.bfloat16().T
    assert off(through, x.double() @ exact.T) < 1.1 * off(floats, x.double() @ exact.T)


@pytest.mark.parametrize("bits,group,zero,out", [(8, None, False, 4096), (4, None, False, 128), (4, 32, True, 128), (4, 64, False, 128)])
def test_forms_are_lossless_and_leave_no_trace(bits, group, zero, out):
    ours = layer(out, 256, bits, group, zero)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    x = torch.randn(3, 256).bfloat16()
    with torch.inference_mode(): y = ours(x)
    if ours._packed is None: pytest.skip("this processor has no such form")
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert {k: torch.equal(v, before[k]) for k, v in other.state_dict().items()} == dict.fromkeys(before, True)
        with torch.no_grad(): assert torch.equal(other(x), y)
    with torch.no_grad(): ours(x)
    kept = [t for t in (ours.weight, ours.weight_scale) if t.layout == torch.strided]
    size = sum(s.nbytes() for s in {s.data_ptr(): s for s in (t.untyped_storage() for t in kept)}.values())
    assert ours.weight.numel() * ours.weight.element_size() == out * 256 * bits // 8 and size <= out * 256 + 8 * out
    ours.load_state_dict(before)
    with torch.no_grad(): assert torch.equal(ours(x), y)


@pytest.mark.parametrize("bits,group,zero,out", [(8, None, False, 4096), (4, None, False, 192), (4, 32, True, 192)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_through_a_form(bits, group, zero, out, dtype):
    ours = layer(out, 128, bits, group, zero)
    exact = ours.dequantized(torch.float32)
    for _ in range(2):  # before and after it was used for inference
        x = torch.randn(5, 128).to(dtype).requires_grad_()
        y = ours(x)
        grad = torch.randn_like(y)
        y.backward(grad)
        limit = 3e-6 if dtype == torch.float32 else 8e-3
        assert off(x.grad, grad.float() @ exact) < limit and off(y, x.detach().float() @ exact.T) < limit
        with torch.inference_mode(): ours(x.detach())


@tiles
@pytest.mark.parametrize("group,zero", [(None, False), (32, False), (32, True), (128, True)])
@pytest.mark.parametrize("rows", [1, 16, 17, 90])
def test_tiles_in_one_block_or_many(group, zero, rows, monkeypatch):
    torch.manual_seed(5)
    codes, step, points = quantize_weight(torch.randn(5 * packed._tile(), 256).bfloat16(), 4, group, zero)
    form = Int4Tiles(lambda some: codes[some], step, points, 256, group)
    exact = QuantLinear(pack_int4(codes), step, zero=points, in_features=256).dequantized(torch.float32)
    x = torch.randn(rows, 256).bfloat16()
    once = form.product(x)
    monkeypatch.setattr(packed, "_block", 2 * packed._tile() * 256)
    assert off(once, x.float() @ exact.T) < 6e-3 and off(form.product(x), x.float() @ exact.T) < 6e-3
    assert torch.equal(form.codes(), codes) and torch.equal(form.codes(slice(packed._tile(), None)), codes[packed._tile():])


@pytest.mark.parametrize("bits,out", [(8, 4096), (4, 128)])
def test_without_the_instructions_floats_are_used(bits, out, monkeypatch):
    monkeypatch.setattr(packed, "_exact", lambda: False)
    monkeypatch.setattr(packed, "_tile", lambda: 0)
    ours = layer(out, 64, bits)
    exact = ours.dequantized(torch.float32)
    for rows in (1, 20):
        x = torch.randn(rows, 64).bfloat16()
        with torch.no_grad(): y = ours(x)
        assert ours._packed is None and off(y, x.float() @ exact.T) < 6e-3


def test_what_has_no_form():
    assert packed_form(layer(4096, 64, 8), torch.float16) is None
    assert packed_form(layer(4096, 64, 8, group=32), torch.bfloat16) is None
    assert packed_form(layer(4095, 64, 8), torch.bfloat16) is None  # narrow
    assert packed_form(layer(100, 64, 4), torch.bfloat16) is None  # rows fill no tile
    assert packed_form(layer(128, 64, 4), torch.float32) is None
    assert packed_form(layer(4096, 64, 8).to("meta"), torch.bfloat16) is None


def test_not_a_number_does_not_become_one():
    for bits, out in ((8, 4096), (4, 128)):
        x = torch.ones(2, 64).bfloat16()
        x[0, 3] = float("nan")
        with torch.no_grad(): y = layer(out, 64, bits)(x)
        assert y[0].isnan().all() and y[1].isfinite().all()


def test_threads_do_not_share_buffers():
    ours = [layer(4096, 64, 8, seed=1), layer(256, 256, 4, 32, True, seed=2)]
    exact = [one.dequantized(torch.float32) for one in ours]
    def work(seed):
        gen, found = torch.Generator().manual_seed(seed), []
        for i in range(20):
            rows = int(torch.randint(1, 100, (), generator=gen))
            x = torch.randn(rows, exact[i % 2].shape[1], generator=gen).bfloat16()
            with torch.inference_mode(): found.append(off(ours[i % 2](x), x.float() @ exact[i % 2].T))
        return max(found)
    with ThreadPoolExecutor(4) as pool: assert max(pool.map(work, range(8))) < 8e-3
