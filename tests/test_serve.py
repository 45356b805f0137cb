"""The engine: every stream gets what it would get alone, whoever joins, leaves or fails beside it."""
import queue
import random
import threading
import time

import pytest
import torch

from chatglm_cookbook import deploy
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.serve import Engine, _overlap, attach_adapters, cache_bytes
from chatglm_cookbook.tokens import encode_chat

names = ("tiny-v1", "tiny-v2", "tiny-v3")


@pytest.fixture(scope="module")
def loaded():
    return {name: (load_model(name, dtype=torch.float32), load_tokenizer(name)) for name in names}


def ids_of(tokenizer, text): return encode_chat(tokenizer, [{"role": "user", "content": text}])


def alone(model, tokenizer, text, **settings):
    return deploy._generate(model, tokenizer, deploy._request(model, tokenizer, text, None, **settings))


def endless(engine): return {"temperature": 0, "bias": {i: -100.0 for i in engine.ends}}


def text_of(stream): return "".join(piece.text for piece in stream)


class Slow:
    "A model whose every pass takes `seconds` more, so that a test can come in between."
    def __init__(self, model, seconds=0.02): self.model, self.seconds = model, seconds

    def __enter__(self):
        old = self.old = self.model.forward
        self.model.forward = lambda *args, **kwargs: time.sleep(self.seconds) or old(*args, **kwargs)

    def __exit__(self, *error): self.model.forward = self.old


@pytest.mark.parametrize("name", names)
def test_every_stream_gets_what_it_would_get_alone(loaded, name):
    model, tokenizer = loaded[name]
    rng = random.Random(name)
    asked = [("word " * rng.randint(1, 30) + str(i), rng.randint(1, 24),
              {"temperature": 0} if i % 3 else {"seed": i, "temperature": 1.3, "top_p": 0.9, "top_k": 40}) for i in range(20)]
    with Engine(model, tokenizer, slots=5, budget=40) as engine:
        streams, gone = [], set()
        for i, (text, count, settings) in enumerate(asked):
            streams.append(engine.submit(ids_of(tokenizer, text), max_new_tokens=count, **settings))
            if i % 4 == 3: gone.add(k := rng.randrange(i + 1)); streams[k].cancel()
            time.sleep(0.003)
        for stream in streams: list(stream)
        assert engine.steps < engine.tokens, "streams shared steps"
        assert engine.call(lambda: (engine.running, engine.cache.lengths)).result() == ([], [])
    for i, (stream, (text, count, settings)) in enumerate(zip(streams, asked)):
        whole = alone(model, tokenizer, text, max_new_tokens=count, **settings)
        if i not in gone: assert stream.new == whole and stream.finish in ("length", "stop")
        assert whole[:len(stream.new)] == stream.new


@pytest.mark.parametrize("name", ("tiny-v1", "tiny-v3"))
def test_eager_attention_and_repetition_penalty(loaded, name):
    model, tokenizer = loaded[name]
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with Engine(model, tokenizer) as engine:
            options = {"max_new_tokens": 12, "temperature": 0, "repetition_penalty": 1.3}
            streams = [engine.submit(ids_of(tokenizer, "a" * n), **options) for n in (1, 9, 30)]
            for stream in streams: list(stream)
        assert [s.new for s in streams] == [alone(model, tokenizer, "a" * n, **options) for n in (1, 9, 30)]
    finally: model.set_attn_implementation(before)


@pytest.mark.parametrize("name", ("tiny-v1", "tiny-v3"))
def test_adapters_prefix_and_base_in_one_batch(name, tmp_path):
    from peft import LoraConfig, get_peft_model

    from chatglm_cookbook.ptuning import add_prefix, save_prefix
    tokenizer, texts, folders = load_tokenizer(name), ("hello", "a longer question, to be sure"), {}
    fresh = lambda: load_model(name, dtype=torch.float32)
    run = lambda model: [alone(model, tokenizer, t, max_new_tokens=8, temperature=0) for t in texts]
    want = {None: run(fresh())}
    for kind in ("first", "second"):
        torch.manual_seed(len(kind))
        targets = ["query_key_value"] if name == "tiny-v1" else ["q_proj", "v_proj"]
        model = get_peft_model(fresh(), LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"))
        model.save_pretrained(folders.setdefault(kind, tmp_path / kind))
        want[kind] = run(model)
    model = add_prefix(fresh(), 5)
    torch.nn.init.normal_(model.base_model.prefix_encoder.embedding.weight)
    want["prefix"] = run(model.eval())
    folders["prefix"] = save_prefix(model, tmp_path / "prefix")
    assert len({str(v) for v in want.values()}) == 4, "each answers in its own way"

    model, adapters = attach_adapters(fresh(), folders)
    with Engine(model, tokenizer, **adapters) as engine:
        streams = [(k, i, engine.submit(ids_of(tokenizer, t), model=k, max_new_tokens=8, temperature=0))
                   for i, t in enumerate(texts) for k in want]
        for *_, stream in streams: list(stream)
        assert engine.steps < 20, "all of them share their steps"
        with pytest.raises(ValueError, match="no adapter 'third'; there are first, second, prefix"):
            engine.submit([1, 2], model="third")
    for kind, i, stream in streams: assert stream.new == want[kind][i], (kind, i)
    with pytest.raises(ValueError, match="__base__"): attach_adapters(model, {"__base__": tmp_path})


@pytest.mark.parametrize("options, told", [
    ({"bias": "all"}, "change the base for everybody"), ({"bias": "lora_only"}, "change the base for everybody"),
    ({"use_dora": True}, "cannot share a batch"), ({"modules_to_save": ["lm_head"]}, "cannot share a batch|change the base")])
def test_adapters_that_would_change_what_others_get_are_refused(options, told, tmp_path):
    import peft
    for name, more in (("plain", {}), ("odd", options)):
        model = load_model("tiny-v3", dtype=torch.float32)
        tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **more))
        with torch.no_grad():
            for p in tuned.parameters():
                if p.requires_grad: p.add_(0.3)
        tuned.save_pretrained(tmp_path / name)
    folders = {name: tmp_path / name for name in ("plain", "odd")}
    with pytest.raises(ValueError, match=told): attach_adapters(load_model("tiny-v3", dtype=torch.float32), folders)
    assert attach_adapters(load_model("tiny-v3", dtype=torch.float32), {"plain": tmp_path / "plain"})[1]["adapters"] == ("plain",)


def test_a_cancelled_stream_frees_its_row_before_the_next_token(loaded):
    model, tokenizer = loaded["tiny-v3"]
    with Engine(model, tokenizer, slots=1) as engine, Slow(model):
        first = engine.submit(ids_of(tokenizer, "a"), max_new_tokens=4000, **endless(engine))
        pieces = iter(first)
        next(pieces)
        second = engine.submit(ids_of(tokenizer, "b"), max_new_tokens=3, temperature=0)
        first.cancel()
        written, start = len(first.new), time.monotonic()
        assert len(list(second)) == 3 and time.monotonic() - start < 2
        assert first.finish == "cancelled" and len(first.new) <= written + 1


def test_a_newcomer_does_not_wait_for_the_others(loaded):
    model, tokenizer = loaded["tiny-v1"]
    with Engine(model, tokenizer, slots=2) as engine, Slow(model, 0.005):
        long = engine.submit(ids_of(tokenizer, "a"), max_new_tokens=400, **endless(engine))
        next(iter(long))
        short = engine.submit(ids_of(tokenizer, "b"), max_new_tokens=3, temperature=0)
        list(short)
        assert long.finish is None and len(long.new) < 100
        long.cancel()


def test_queue_and_time_have_limits(loaded):
    model, tokenizer = loaded["tiny-v3"]
    ids = ids_of(tokenizer, "a")
    with Engine(model, tokenizer, slots=1, waiting=1) as engine, Slow(model):
        first = engine.submit(ids, max_new_tokens=4000, **endless(engine))
        next(iter(first))
        late = engine.submit(ids, max_new_tokens=5, seconds=0.05)
        with pytest.raises(queue.Full, match="1 requests wait"): engine.submit(ids)
        assert [piece.finish for piece in late] == ["timeout"]
        first.cancel()
        over = engine.submit(ids, max_new_tokens=4000, seconds=0.2, **endless(engine))
        assert list(over)[-1].finish == "timeout" and 0 < len(over.new) < 100


def test_refusals_come_before_the_model_runs(loaded):
    model, tokenizer = loaded["tiny-v1"]
    with Engine(model, tokenizer) as engine:
        window = engine.window
        with pytest.raises(ValueError, match=f"window has {window}"): engine.submit([5] * (window - 3), max_new_tokens=4)
        with pytest.raises(ValueError, match="the prompt is empty"): engine.submit([])
        with pytest.raises(ValueError, match="temperature must be"): engine.submit([5], temperature=-1)
        with pytest.raises(TypeError, match="did you mean 'top_p'"): engine.submit([5], topp=0.5)
        assert engine.submit([5] * (window - 1), max_new_tokens=1).limit == 1
        assert engine.steps == 0
    with pytest.raises(RuntimeError, match="closed"): engine.submit([5])
    with pytest.raises(RuntimeError, match="closed"): engine.call(lambda: 1)
    with pytest.raises(ValueError, match="at least 1"): Engine(model, tokenizer, slots=0)


def test_stop_strings_are_found_across_tokens_and_not_shown(loaded):
    model, tokenizer = loaded["tiny-v3"]
    with Engine(model, tokenizer) as engine:
        ask = lambda **more: engine.submit(ids_of(tokenizer, "tell me"), max_new_tokens=30, temperature=0, **more)
        whole = text_of(ask())
        for start, length in ((3, 1), (5, 6), (len(whole) - 4, 4)):
            stop = whole[start:start + length]
            stream = ask(stop=("never in there", stop))
            assert text_of(stream) == whole[:whole.find(stop)] and stream.finish == "stop"
        assert text_of(ask(stop=(whole + "x", whole[-2:] + "more"))) == whole, "what was held back comes at the end"
    assert [_overlap("ab", "bc"), _overlap("abc", "bc"), _overlap("", "x")] == [1, 0, 0]


def test_log_probabilities_are_those_of_the_whole_text(loaded):
    model, tokenizer = loaded["tiny-v3"]
    ids = ids_of(tokenizer, "hello there")
    with Engine(model, tokenizer) as engine:
        beside = engine.submit(ids_of(tokenizer, "x" * 50), max_new_tokens=30, temperature=0)
        stream = engine.submit(ids, max_new_tokens=8, seed=1, temperature=2.0, top_p=1.0, logprobs=3)
        scores = [s for piece in stream for s in piece.scores]
        list(beside)
    with torch.no_grad(): logits = model(torch.tensor([ids + stream.new])).logits[0, len(ids) - 1:-1]
    unknown = [i for i in range(logits.shape[-1]) if i not in set(tokenizer.get_vocab().values())]
    logits[:, unknown] = -torch.inf
    logs = logits.log_softmax(-1)
    assert [s["id"] for s in scores] == stream.new
    for row, s in zip(logs, scores):
        assert abs(float(row[s["id"]]) - s["logprob"]) < 1e-4
        assert [i for i, _ in s["top"]] == row.topk(3).indices.tolist()


def test_penalties_and_biases_and_forced_beginnings(loaded):
    model, tokenizer = loaded["tiny-v3"]
    ids = ids_of(tokenizer, "a")
    with Engine(model, tokenizer) as engine:
        run = lambda **more: (s := engine.submit(ids, max_new_tokens=12, temperature=0, **more), list(s))[0].new
        first = run()[0]
        assert run(bias={first: -100.0})[0] != first and run(bias={77: 100.0}) == [77] * 12
        assert len(set(run(presence=100.0))) == 12, "no token twice"
        assert len(set(run(bias={77: 50.0, 78: 49.0}, frequency=2.0))) == 2, "they take turns"
        assert run(forced=[[5, 6, 7], [5, 9]])[:2] in ([5, 6], [5, 9])
        assert run(forced=[[11, 12, 13]])[:3] == [11, 12, 13]


def test_an_error_ends_the_stream_that_has_it_and_no_other(loaded):
    model, tokenizer = loaded["tiny-v3"]
    ids = ids_of(tokenizer, "a")
    want = alone(model, tokenizer, "a", max_new_tokens=20, temperature=0)
    with Engine(model, tokenizer) as engine:
        bad = engine.prepare(ids, max_new_tokens=20, seed=1)
        bad.chooser.choose = lambda *args: 1 // 0
        good = engine.submit(ids, max_new_tokens=20, temperature=0)
        engine.enter(bad)
        with pytest.raises(ZeroDivisionError): list(bad)
        list(good)
        assert good.new == want
        old, model.forward = model.forward, lambda *args, **kwargs: 1 // 0
        with pytest.raises(ZeroDivisionError): list(engine.submit(ids))
        model.forward = old
        again = engine.submit(ids, max_new_tokens=20, temperature=0)
        list(again)
        assert again.new == want, "the next request works"


def test_closing_tells_everybody(loaded):
    model, tokenizer = loaded["tiny-v3"]
    engine = Engine(model, tokenizer, slots=1)
    with Slow(model):
        streams = [engine.submit([5, 6], max_new_tokens=4000, **endless(engine)) for _ in range(3)]
        future = engine.call(threading.get_ident)
        next(iter(streams[0]))
        engine.close()
    assert future.result() == engine.thread.ident
    for stream in streams:
        with pytest.raises(RuntimeError, match="engine is closed"): list(stream)


@pytest.mark.parametrize("name", ("tiny-v1", "tiny-v3"))
def test_memory_is_given_back(loaded, name):
    model, tokenizer = loaded[name]
    held = lambda cache: sum(t.numel() * t.element_size() for part in cache.layers if part.size[0] for t in (part.keys, part.values))
    with Engine(model, tokenizer, slots=16) as engine:
        never = {i: -1e9 for i in engine.ends}
        short = [engine.submit([5, 6, 7], max_new_tokens=4, temperature=0, bias=never) for _ in range(15)]
        long = engine.submit([5, 6, 7], max_new_tokens=400, temperature=0, bias=never)
        for stream in short: list(stream)
        widest = 0
        for n, _ in enumerate(long):
            if n > 8: widest = max(widest, held(engine.cache))
        assert 0 < widest <= cache_bytes(model.config, 2 * 2 * (403 + 64), 4), "one stream does not pay for sixteen rows"
        while engine.busy: time.sleep(0.001)
        assert held(engine.cache) == 0
        again = engine.submit([5, 6, 7], max_new_tokens=400, temperature=0, bias=never)
        list(again)
        assert again.new == long.new


def test_the_longest_stream_makes_room_for_the_others(loaded, monkeypatch):
    model, tokenizer = loaded["tiny-v3"]
    alone, old, full = {}, model.forward, []

    def forward(*args, **kwargs):
        if full and kwargs["input_ids"].shape[0] == 3 and full.pop(): raise torch.OutOfMemoryError("CUDA out of memory")
        return old(*args, **kwargs)
    with Engine(model, tokenizer) as engine:
        never = {i: -1e9 for i in engine.ends}
        ask = lambda n: engine.prepare(list(range(5, 5 + n)), max_new_tokens=30, temperature=0, bias=never)
        for n in (3, 9, 20):
            engine.enter(stream := ask(n))
            list(stream)
            alone[n] = stream.new
        streams = {n: ask(n) for n in alone}
        monkeypatch.setattr(model, "forward", forward)
        full.append(True)
        engine.enter(*streams.values())
        with pytest.raises(MemoryError, match="the longest"): list(streams[20])
        for n in (3, 9): list(streams[n])
        assert {n: streams[n].new for n in (3, 9)} == {n: alone[n] for n in (3, 9)}


def test_a_deadline_that_passes_while_the_queue_is_looked_through_is_told(loaded, monkeypatch):
    model, tokenizer = loaded["tiny-v3"]
    with Engine(model, tokenizer) as engine:
        clock, now = iter(range(100)), time.monotonic
        stream = engine.prepare([5, 6, 7], max_new_tokens=3, seconds=1000)
        stream.deadline = 0.5
        engine.waiting.append(stream)  # the engine's thread sleeps: nobody has told it
        monkeypatch.setattr("chatglm_cookbook.serve.time.monotonic", lambda: next(clock))
        engine._sweep()
        engine._sweep()
        monkeypatch.setattr("chatglm_cookbook.serve.time.monotonic", now)
        assert stream.finish == "timeout" and not engine.waiting
