"""The HTTP interface as clients meet it: the official library, raw bytes, and everything that is refused."""
import asyncio
import contextlib
import copy
import json
import logging
import queue
import random
import re
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

from chatglm_cookbook.api import Limits, Service, _Reply, serve, serving
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.deploy import chat, process_response, stop_ids
from chatglm_cookbook.serve import Engine, Piece
from chatglm_cookbook.tokens import encode_chat
from chatglm_cookbook.toolbox import calculate
from chatglm_cookbook.tools import run_tools, served_model
from chatglm_cookbook.wire import read_reply

openai = pytest.importorskip("openai", reason="openai is not installed")
names = ("tiny-v1", "tiny-v3")
weather = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


@pytest.fixture(scope="module")
def served():
    "Model, tokenizer, service and address of each small model."
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
            service = Service(stack.enter_context(Engine(model, tokenizer, slots=4, waiting=6)), name, limits=Limits(body=2**16))
            found[name] = model, tokenizer, service, stack.enter_context(serving(service))
        yield found


def client(address, key="none"): return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=30)


def empty(service, seconds=5):
    "Waits until nothing runs in `service` any more; True where that happens."
    end = time.monotonic() + seconds
    while service.engine.busy and time.monotonic() < end: time.sleep(0.005)
    return not service.engine.busy and not service.engine.cache.lengths


class Said:
    "A model that writes each of `texts` and stops, whatever it is asked; one stream at a time."
    def __init__(self, model, tokenizer, *texts, pause=0.0):
        end = tokenizer.get_vocab()["<|observation|>"]
        marks = {t: tokenizer.get_vocab()[t] for t in ("<|assistant|>",)}
        ids = lambda part: [marks[part]] if part in marks else tokenizer._text_ids(part, "\ufdd0")
        self.ids = [i for text in texts for part in [*re.split(r"(<\|assistant\|>)", text), None]
                    for i in ([end] if part is None else ids(part))]
        self.model, self.pause = model, pause

    def __enter__(self):
        old, ids = self.model.forward, list(self.ids)
        self.old = old

        def forward(*args, **kwargs):
            time.sleep(self.pause)
            out = old(*args, **kwargs)
            out.logits = torch.full_like(out.logits, -100.0)
            out.logits[..., ids.pop(0)] = 100.0
            return out
        self.model.forward = forward

    def __exit__(self, *error): self.model.forward = self.old


@pytest.mark.parametrize("name", names)
def test_chat_whole_and_streamed_are_what_chat_returns(served, name):
    model, tokenizer, _, address = served[name]
    ask = client(address).chat.completions.create
    history = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hello 👋"}]
    for settings in ({"temperature": 0}, {"seed": 5, "temperature": 1.5, "top_p": 0.9}):
        want, _ = chat(model, tokenizer, "测试 test", history, max_new_tokens=24, **settings)
        options = {"model": name, "messages": [*history, {"role": "user", "content": "测试 test"}], "max_tokens": 24, **settings}
        whole = ask(**options)
        assert whole.choices[0].message.content == want
        chunks = list(ask(**options, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == want
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices
        ends = [c.choices[0].finish_reason for c in chunks[:-1]]
        assert ends == [None] * (len(ends) - 1) + [whole.choices[0].finish_reason]
        assert len(chunks) > 8, "it streams"


@pytest.mark.parametrize("name", names)
def test_several_choices_scores_and_stop(served, name):
    _, tokenizer, _, address = served[name]
    ask = client(address).chat.completions.create
    options = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}
    three = ask(**options, n=3, seed=7, temperature=1.5)
    single = [ask(**options, seed=7 + i, temperature=1.5).choices[0].message.content for i in range(3)]
    assert [c.message.content for c in three.choices] == single and len(set(single)) == 3
    assert three.usage.completion_tokens == sum(len(c.message.content) > 0 for c in three.choices) * 12
    scored = ask(**options, temperature=0, logprobs=True, top_logprobs=2).choices[0]
    tokens = scored.logprobs.content
    assert len(tokens) == 12 and all(t.logprob == t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob for t in tokens)
    assert b"".join(bytes(t.bytes) for t in tokens).decode("utf-8", "replace").strip()[:3] == scored.message.content[:3]
    stop = scored.message.content[4:6]
    cut = ask(**options, temperature=0, stop=[stop]).choices[0]
    assert cut.message.content == scored.message.content.partition(stop)[0].rstrip(" ,!:;?") and cut.finish_reason == "stop"
    chunks = list(ask(**options, n=2, seed=7, temperature=1.5, stream=True))
    texts = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == i) for i in range(2)]
    assert texts == single[:2]


@pytest.mark.parametrize("name", names)
def test_completions_models_and_embeddings(served, name):
    _, tokenizer, _, address = served[name]
    c = client(address)
    assert [m.id for m in c.models.list()] == [name] and c.models.retrieve(name).id == name
    options = {"model": name, "max_tokens": 6, "temperature": 0}
    both = c.completions.create(prompt=["abc", "def"], logprobs=2, **options)
    ids = c.completions.create(prompt=tokenizer("def")["input_ids"], **options)
    assert both.choices[1].text == ids.choices[0].text and len(both.choices[0].logprobs.tokens) == 6
    streamed = list(c.completions.create(prompt="abc", stream=True, **options))
    assert "".join(chunk.choices[0].text for chunk in streamed) == both.choices[0].text
    vectors = [e.embedding for e in c.embeddings.create(model=name, input=["red apple", "red apples", "unlike"]).data]
    assert all(abs(sum(x * x for x in v) - 1) < 1e-5 for v in vectors) and vectors[0] != vectors[2]
    floats = c.embeddings.create(model=name, input="red apple", encoding_format="float").data[0].embedding
    assert floats == pytest.approx(vectors[0], abs=1e-6)


def test_tool_calls_out_and_back(served):
    model, tokenizer, service, address = served["tiny-v3"]
    ask = client(address).chat.completions.create
    messages = [{"role": "user", "content": "北京天气？"}]
    options = {"model": "tiny-v3", "messages": messages, "tools": [weather], "temperature": 0}
    said = "\n 我来查。<|assistant|>get_weather\n```python\ntool_call(city='北京')\n```"
    with Said(model, tokenizer, said): whole = ask(**options).choices[0]
    with Said(model, tokenizer, said): chunks = list(ask(**options, stream=True))
    call = whole.message.tool_calls[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", "我来查。")
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "北京"})
    deltas = [c.choices[0].delta for c in chunks]
    streamed = [d.tool_calls[0] for d in deltas if d.tool_calls]
    assert streamed[0].function.arguments == call.function.arguments and streamed[0].id.startswith("call_")
    assert "".join(d.content or "" for d in deltas) == "我来查。" and chunks[-1].choices[0].finish_reason == "tool_calls"
    back = [*messages, whole.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 21}'}]
    seen = []
    old = service.engine.prepare
    service.engine.prepare = lambda ids, **more: seen.append(ids) or old(ids, **more)
    try: ask(**{**options, "messages": back}, max_tokens=2)
    finally: service.engine.prepare = old
    turns = [*messages, {"role": "assistant", "content": "我来查。"},
             {"role": "assistant", "metadata": "get_weather", "content": "```python\ntool_call(city='北京')\n```"},
             {"role": "observation", "content": '{"celsius": 21}'}]
    assert seen == [encode_chat(tokenizer, turns, [weather])], "what the model wrote comes back as it wrote it"


def test_what_tools_said_stands_in_the_order_of_the_calls(served):
    _, tokenizer, service, address = served["tiny-v3"]
    call = lambda name, key: {"id": key, "type": "function", "function": {"name": name, "arguments": "{}"}}
    told = lambda key, text: {"role": "tool", "tool_call_id": key, "content": text}
    begin = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call("f", "1"), call("g", "2")]}]
    seen, old = [], service.engine.prepare
    service.engine.prepare = lambda ids, **more: seen.append(ids) or old(ids, **more)
    ask = lambda *more: client(address).chat.completions.create(model="tiny-v3", messages=[*begin, *more], max_tokens=1)
    try:
        ask(told("1", "ONE"), told("2", "TWO"), {"role": "user", "content": "y"})
        ask(told("2", "TWO"), told("1", "ONE"), {"role": "user", "content": "y"})
    finally: service.engine.prepare = old
    assert seen[0] == seen[1]
    with pytest.raises(openai.BadRequestError, match="'3' is none of the calls before it: 1, 2"): ask(told("3", "x"))


def test_one_call_at_a_time_where_the_client_asks_for_that(served):
    model, tokenizer, _, address = served["tiny-v3"]
    said = "get_weather\n```python\ntool_call(city='A')\n```<|assistant|>get_weather\n```python\ntool_call(city='B')\n```"
    options = {"model": "tiny-v3", "messages": [{"role": "user", "content": "x"}], "tools": [weather], "temperature": 0}
    for asked, count in (({}, 2), ({"parallel_tool_calls": True}, 2), ({"parallel_tool_calls": False}, 1)):
        with Said(model, tokenizer, said): found = client(address).chat.completions.create(**options, **asked).choices[0]
        assert len(found.message.tool_calls) == count and found.finish_reason == "tool_calls"
    with pytest.raises(openai.BadRequestError, match="functions"):
        client(address).chat.completions.create(**options | {"tools": openai.NOT_GIVEN}, functions=[{"name": "f"}])


def test_a_field_that_is_not_sent_keeps_the_models_own_value(served):
    model, _, service, address = served["tiny-v3"]
    seen, old = [], service.engine.prepare
    own, model.generation_config = model.generation_config, copy.deepcopy(model.generation_config)
    model.generation_config.update(do_sample=True, temperature=0.1, top_p=0.7)
    service.engine.prepare = lambda ids, **more: seen.append(more) or old(ids, **more)
    ask = lambda **more: client(address).chat.completions.create(model="tiny-v3", messages=[{"role": "user", "content": "x"}], max_tokens=1, **more)
    try: ask(top_p=0.9); ask(temperature=0.5)
    finally: service.engine.prepare, model.generation_config = old, own
    assert [(s.get("temperature"), s.get("top_p")) for s in seen] == [(0.1, 0.9), (0.5, None)]


def test_tools_may_be_forced_forbidden_or_unreadable(served):
    model, tokenizer, _, address = served["tiny-v3"]
    ask = client(address).chat.completions.create
    options = {"model": "tiny-v3", "messages": [{"role": "user", "content": "x"}], "tools": [weather], "temperature": 0, "max_tokens": 12}
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        assert ask(**options, tool_choice=choice).choices[0].message.content.startswith("get_weather\n")
    free = ask(**options, tool_choice="none")
    assert free.usage.prompt_tokens < ask(**options).usage.prompt_tokens, "the model is not told of them"
    broken = "get_weather\n```python\ntool_call(city=open('/etc/passwd').read())\n```"
    with Said(model, tokenizer, broken): whole = ask(**options | {"max_tokens": 60}).choices[0]
    assert (whole.message.content, whole.message.tool_calls, whole.finish_reason) == (broken, None, "stop")
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        ask(**options, tool_choice={"type": "function", "function": {"name": "another"}})
    with pytest.raises(openai.BadRequestError, match="no tool format"):
        client(served["tiny-v1"][3]).chat.completions.create(**options | {"model": "tiny-v1"})


@pytest.mark.parametrize("generation", (None, 1, 2, 3))
def test_what_is_streamed_never_has_to_be_taken_back(generation):
    texts = ["你好,世界!  好:吗?ok, then!\n", "\n 我生于[[训练时间]]年 [[训练", "\n hello\nget_weather\nx", "get_weather", "get_weather\nnot a call", " "]
    for text in texts:
        for tools in ((), ("get_weather",)):
            sent = ""
            for end in range(len(text) + 1):
                now, calls = read_reply(text[:end], generation, tools, done=False)
                assert now.startswith(sent) and not calls, (text[:end], sent, now)
                sent = now
            assert read_reply(text, generation, tools)[0].startswith(sent)
    assert read_reply("你好,世界", 1)[0] == process_response("你好,世界", [], 1)[0] == "你好，世界"


@pytest.mark.parametrize("generation", (None, 1, 3, 4))
def test_piece_by_piece_is_the_same_as_at_once(generation):
    parts = ["你好", "hello", " ", "\n", "\u3000", "\xa0", "\u2028", "\x0b", ",", "!", "?", ":", ".", "[[训练", "时间]]", "<|assistant|>", "f", "f\n", "get", "{",
             '{"a": 1}', "```python\n", "tool_call(a='x')", "\n```", "x = 1", '"']
    rng = random.Random(generation)
    for _ in range(4000):
        said = rng.choices(parts, k=rng.randint(1, 7))
        whole, slow = _Reply(None, generation, ("f", "get")), _Reply(None, generation, ("f", "get"))
        want = whole.put(Piece("".join(said), finish="stop"))
        got = [slow.put(Piece(part)) for part in said] + [slow.put(Piece(finish="stop"))]
        assert ("".join(text for text, _ in got), got[-1][1], slow.finish) == (*want, whole.finish), said


def test_a_client_that_does_not_read_is_let_go(served):
    model, tokenizer, service, _ = served["tiny-v3"]
    ask = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4000, "stream": True, "logprobs": True, "top_logprobs": 20,
           "temperature": 0, "logit_bias": {str(i): -100 for i in stop_ids(model, tokenizer)}}
    raw = json.dumps(ask).encode()
    with serving(Service(service.engine, "m", limits=Limits(patience=0.5))) as address:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       + f"Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        end = time.monotonic() + 60
        while not service.engine.running: assert time.monotonic() < end
        assert empty(service, 60)
        client.settimeout(20)
        seen = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(2**16): seen += part
        assert seen.startswith(b"HTTP/1.1 200") and b"[DONE]" not in seen
        assert httpx.get(f"{address}/health").json()["status"] == "ok"


def test_many_texts_to_embed_hold_nobody_up_and_end_with_their_client(served, monkeypatch):
    _, _, service, _ = served["tiny-v3"]
    texts, chat = {"model": "m", "input": ["ab"] * 200}, {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    working = threading.Event()
    monkeypatch.setattr("chatglm_cookbook.api._pooled", lambda model, ids: working.set() or time.sleep(0.03) or [1.0])  # six seconds for all
    with serving(Service(service.engine, "m", limits=Limits(seconds=2))) as address, ThreadPoolExecutor(1) as apart:
        with pytest.raises(httpx.ReadTimeout): httpx.post(f"{address}/v1/embeddings", json=texts, timeout=0.3)
        assert empty(service, 1), "nobody works for a client that has left"
        working.clear()
        late = apart.submit(httpx.post, f"{address}/v1/embeddings", json=texts, timeout=30)
        assert working.wait(20)
        assert httpx.post(f"{address}/v1/chat/completions", json=chat, timeout=30).status_code == 200 and not late.done()
        assert late.result().status_code == 504
        assert empty(service, 1)


def test_more_texts_than_may_wait_are_refused(served):
    engine, hold = served["tiny-v3"][2].engine, threading.Event()
    first = engine.call(hold.wait)
    while engine.calls: time.sleep(0.001)
    waits = [engine.call(int) for _ in range(engine.queue + 1)]
    try:
        with pytest.raises(queue.Full): engine.call(int)
    finally: hold.set()
    assert first.result(5) and [w.result(5) for w in waits] == [0] * len(waits)


refusals = [
    ({"model": "nope"}, openai.NotFoundError, "no model 'nope'"), ({"messages": []}, openai.BadRequestError, "messages"),
    ({"messages": [{"role": "human", "content": "x"}]}, openai.BadRequestError, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, openai.BadRequestError, "content"), ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
    ({"max_tokens": 10**6}, openai.BadRequestError, "window has"), ({"temperature": 3}, openai.BadRequestError, "temperature"),
    ({"temperature": float("nan")}, openai.BadRequestError, "temperature|body"), ({"n": 99}, openai.BadRequestError, "at most 8"),
    ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias"), ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "forces no form"),
    ({"messages": [{"role": "user", "content": "x" * 2**17}]}, openai.APIStatusError, "larger than 65,536 bytes"),
    ({"messages": [{"role": "user", "content": "1 2 " * 9000}]}, openai.BadRequestError, "window has"),
]


@pytest.mark.parametrize("change, kind, words", refusals)
def test_refusals_have_a_status_a_field_and_words(served, change, kind, words):
    _, _, service, address = served["tiny-v1"]
    steps = service.engine.steps
    body = {"model": "tiny-v1", "messages": [{"role": "user", "content": "x"}]} | change
    for stream in (False, True):
        with pytest.raises(kind, match=words):
            if body.get("temperature", 1) == body.get("temperature", 1): client(address).chat.completions.create(**body, stream=stream)
            else: raise openai.BadRequestError(str(httpx.post(f"{address}/v1/chat/completions", content=json.dumps(body)).json()),
                                               response=httpx.post(f"{address}/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}), body=None)
    assert service.engine.steps == steps


def test_raw_bodies_that_are_no_requests(served):
    address = served["tiny-v3"][3]
    url, kind = f"{address}/v1/chat/completions", {"content-type": "application/json"}
    bodies = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"\\ud800"', b"[" * 50_000, b'{"model": "tiny-v3", "messages": [{"role": "user", "content": "\\ud800"}]}',
              b'{"model": "tiny-v3", "messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5000 + b"}"]
    for body in bodies:
        answer = httpx.post(url, content=body, headers=kind)
        assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error", body[:40]
    assert httpx.get(url).status_code == 405 and httpx.get(f"{address}/nope").json()["error"]["type"] == "not_found_error"

    def pieces():
        for _ in range(200): yield b" " * 1000
    assert httpx.post(url, content=pieces(), headers=kind).status_code == 413, "without a content-length too"


def test_a_client_that_leaves_frees_its_slot(served):
    _, _, service, address = served["tiny-v3"]
    body = {"model": "tiny-v3", "messages": [{"role": "user", "content": "x"}], "max_tokens": 8000, "temperature": 0,
            "logit_bias": {str(i): -100 for i in service.engine.ends}}  # it would stop of itself
    for stream in (True, False):
        with httpx.Client() as c:
            with contextlib.suppress(httpx.ReadTimeout):
                with c.stream("POST", f"{address}/v1/chat/completions", json=body | {"stream": stream}, timeout=0.3) as answer:
                    next(answer.iter_lines())
        start, steps = time.monotonic(), service.engine.steps
        assert empty(service, 2) and time.monotonic() - start < 2, f"stream={stream}"
        assert service.engine.steps - steps < 500


def test_too_many_requests_and_too_slow_ones(served):
    model, tokenizer, _, _ = served["tiny-v1"]
    old = model.forward
    model.forward = lambda *args, **kwargs: time.sleep(0.02) or old(*args, **kwargs)
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1500, "temperature": 0,
            "logit_bias": {str(i): -100 for i in served["tiny-v1"][2].engine.ends}}
    try:
        with Engine(model, tokenizer, slots=1, waiting=1) as engine, serving(Service(engine, "m", limits=Limits(seconds=0.6))) as address:
            url = f"{address}/v1/chat/completions"

            async def burst():
                async with httpx.AsyncClient(timeout=20) as c:
                    return await asyncio.gather(*(c.post(url, json=body) for _ in range(4)))
            answers = asyncio.run(burst())
            assert sorted(a.status_code for a in answers) == [429, 429, 504, 504]
            full = next(a for a in answers if a.status_code == 429)
            assert full.headers["retry-after"] == "1" and full.json()["error"]["code"] == "queue_full"
            with pytest.raises(openai.APIError, match="longer than this server allows"):
                list(client(address).chat.completions.create(**body, stream=True))
            assert client(address).chat.completions.create(**body | {"max_tokens": 3}).usage.completion_tokens == 3
            with pytest.raises(openai.BadRequestError, match="at most 2"): client(address).chat.completions.create(**body, n=3)
    finally: model.forward = old


def test_keys_and_hosts(served):
    _, _, service, _ = served["tiny-v3"]
    with serving(Service(service.engine, "m", keys=("secret", "第二"), hosts=("127.0.0.1",))) as address:
        ask = lambda key: client(address, key).chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=1)
        assert ask("secret").model == "m"
        for scheme, status in (("bearer", 200), ("Bearer ", 200), ("Basic", 401), ("", 401)):
            assert httpx.get(f"{address}/v1/models", headers={"authorization": f"{scheme} secret".strip()}).status_code == status
        for wrong in ("secre", "secrets", "SECRET"):
            with pytest.raises(openai.AuthenticationError, match="Bearer KEY"): ask(wrong)
        assert httpx.get(f"{address}/metrics").status_code == 401 == httpx.get(f"{address}/v1/models").status_code
        assert httpx.get(f"{address}/v1/models", headers={"authorization": b"Bearer " + "第二".encode()}).status_code == 200
        assert httpx.get(f"{address}/health").status_code == 200 == httpx.get(f"{address}/docs").status_code
        strange = httpx.get(f"{address}/v1/models", headers={"host": "evil.example", "authorization": "Bearer secret"})
        assert strange.json()["error"]["code"] == "unknown_host"


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1", 200), ("127.0.0.1:99", 200), ("LOCALHOST:8000", 200), ("localhost.", 200), ("[::1]", 200), ("[::1]:8000", 200),
    ("localhost.evil.example", 400), ("localhost:80:evil", 400), ("::1", 400), ("", 400)])
def test_names_of_this_machine(served, host, status):
    with serving(Service(served["tiny-v3"][2].engine, "m", hosts=("127.0.0.1", "localhost", "[::1]"))) as address:
        assert httpx.get(f"{address}/health", headers={"host": host}).status_code == status


def test_pages_that_may_read_the_answers(served):
    engine, page = served["tiny-v3"][2].engine, {"Origin": "https://chat.example"}
    asks = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(Service(engine, "m", keys=("secret",), origins=("https://chat.example",))) as address:
        before = httpx.options(f"{address}/v1/chat/completions", headers=asks)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == page["Origin"]
        assert "access-control-allow-origin" in httpx.get(f"{address}/v1/models", headers=page).headers, "a refusal can be read too"
        other = httpx.get(f"{address}/health", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert httpx.head(f"{address}/health").status_code == 200 and not httpx.head(f"{address}/health").content
        assert "HTTPBearer" in httpx.get(f"{address}/openapi.json").json()["components"]["securitySchemes"]
        assert 'path="/v1/models",status="401"' in httpx.get(f"{address}/metrics", headers={"Authorization": "Bearer secret"}).text
    with serving(Service(engine, "m")) as address:
        assert "access-control-allow-origin" not in httpx.get(f"{address}/health", headers=page).headers
        assert "securitySchemes" not in httpx.get(f"{address}/openapi.json").json()["components"]


def test_what_clients_leave_empty_is_empty(served):
    ask = client(served["tiny-v3"][3]).chat.completions.create
    options = {"model": "tiny-v3", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "max_tokens": 2}
    bare = [{"type": "function", "function": {"name": "now"}}]
    nulls = [{"type": "function", "function": {"name": "now", "description": None, "parameters": None}}]
    assert ask(**options, tools=bare).usage == ask(**options, tools=nulls).usage


@pytest.mark.parametrize("change, place", [
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content.0.type"),
    ({"stop": ["a"] * 17}, "stop"), ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"), ({"seed": "x"}, "seed")])
def test_a_refusal_names_the_field_and_not_its_type(served, change, place):
    body = {"model": "tiny-v3", "messages": [{"role": "user", "content": "x"}]} | change
    error = httpx.post(f"{served['tiny-v3'][3]}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == place and error["message"].startswith(f"{place}: ")


def test_what_can_never_be_is_not_told_to_come_again(served):
    engine = served["tiny-v3"][2].engine
    with serving(Service(engine, "m", limits=Limits(choices=128))) as address:
        with pytest.raises(openai.BadRequestError, match="at most 10 replies"):
            client(address).chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], n=engine.slots + engine.queue + 1)
    with pytest.raises(ValueError, match="choose another"), Engine(engine.model, engine.tokenizer, prefixes={"m": []}) as other: Service(other, "m")


def test_other_addresses_need_a_key(served):
    with pytest.raises(ValueError, match="give an API key"): serve(Service(served["tiny-v3"][2].engine, "m"), "0.0.0.0")


def test_metrics_count_and_the_log_is_silent_about_texts(served, caplog):
    _, _, service, address = served["tiny-v3"]
    read = lambda: {line.split(" ")[0]: float(line.split(" ")[1]) for line in httpx.get(f"{address}/metrics").text.splitlines() if line[0] != "#"}
    before = read()
    with caplog.at_level(logging.DEBUG, "chatglm_cookbook"):
        client(address).chat.completions.create(model="tiny-v3", messages=[{"role": "user", "content": "hunter2 密码"}], max_tokens=5)
        httpx.get(f"{address}/hunter2")
        assert empty(service)
    after = read()
    grown = lambda key: after.get(key, 0) - before.get(key, 0)
    assert grown('chatglm_tokens_total{kind="reply"}') == 5 and grown('chatglm_first_token_seconds_count') == 1
    assert grown('chatglm_requests_total{path="/v1/chat/completions",status="200"}') == 1
    assert after["chatglm_running"] == 0 == after["chatglm_cache_tokens"]
    assert "/v1/chat/completions 200" in caplog.text and "hunter2" not in caplog.text and "密码" not in caplog.text


def test_a_failure_of_the_model_is_a_500_that_tells_nothing_and_the_next_request_works(served, caplog):
    model, _, _, address = served["tiny-v3"]
    secret = "hunter2"
    def broken(*args, **kwargs): raise KeyError(secret)
    old, model.forward = model.forward, broken
    ask = lambda **more: client(address).chat.completions.create(model="tiny-v3", messages=[{"role": "user", "content": "x"}], max_tokens=2, **more)
    try:
        with pytest.raises(openai.InternalServerError, match="the model failed"): ask()
        with pytest.raises(openai.APIError, match="the model failed"): list(ask(stream=True))
    finally: model.forward = old
    assert "KeyError in" in caplog.text and "in broken" in caplog.text and "hunter2" not in caplog.text
    assert ask().usage.completion_tokens == 2


@pytest.mark.parametrize("name", names)
def test_curl_shows_the_stream_as_it_comes(served, name):
    address = served[name][3]
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "stream": True, "temperature": 0})
    try: out = subprocess.run(["curl", "-sN", f"{address}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body],
                              capture_output=True, text=True, timeout=20).stdout
    except FileNotFoundError: pytest.skip("curl is not installed")
    events = [line.removeprefix("data: ") for line in out.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]" and json.loads(events[0])["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("name", names)
def test_langchain(served, name):
    chat_models = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = chat_models.ChatOpenAI(base_url=f"{served[name][3]}/v1", api_key="none", model=name, temperature=0, max_tokens=6)
    whole = model.invoke("hello")
    assert whole.content and whole.usage_metadata["output_tokens"] == 6
    assert "".join(part.content for part in model.stream("hello")) == whole.content


def test_langchain_embeds_texts_and_not_ids_of_another_vocabulary(served):
    embeddings = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed").OpenAIEmbeddings
    address = f"{served['tiny-v3'][3]}/v1"
    found = embeddings(base_url=address, api_key="none", model="tiny-v3", check_embedding_ctx_length=False).embed_query("red apple")
    want = client(served["tiny-v3"][3]).embeddings.create(model="tiny-v3", input="red apple").data[0].embedding
    assert found == pytest.approx(want, abs=1e-6)


def test_scores_of_a_completion_count_on_while_it_streams(served):
    ask = client(served["tiny-v3"][3]).completions.create
    options = {"model": "tiny-v3", "prompt": "a", "logprobs": 1, "max_tokens": 6, "temperature": 0}
    whole = ask(**options).choices[0].logprobs
    parts = [c.choices[0].logprobs for c in ask(**options, stream=True) if c.choices[0].logprobs]
    joined = {name: [x for part in parts for x in getattr(part, name)] for name in ("tokens", "text_offset", "token_logprobs")}
    assert joined["tokens"] == whole.tokens and joined["text_offset"] == whole.text_offset
    assert joined["token_logprobs"] == pytest.approx(whole.token_logprobs)
    assert whole.text_offset[0] == 0 and whole.text_offset[-1] == sum(map(len, whole.tokens[:-1])) > 0


def test_langchain_calls_a_tool(served):
    chat_models = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def get_weather(city: str) -> str:
        "The weather in a city."
        return f"sunny in {city}"
    loaded, tokenizer, _, address = served["tiny-v3"]
    model = chat_models.ChatOpenAI(base_url=f"{address}/v1", api_key="none", model="tiny-v3", temperature=0).bind_tools([get_weather])
    call, asked = "get_weather\n```python\ntool_call(city='Paris')\n```", [HumanMessage("Weather in Paris?")]
    with Said(loaded, tokenizer, call): streamed = list(model.stream(asked))
    with Said(loaded, tokenizer, call, "It is sunny."):
        said = model.invoke(asked)
        result = get_weather.invoke(said.tool_calls[0])
        last = model.invoke([*asked, said, result])
    assert (said.tool_calls[0]["name"], said.tool_calls[0]["args"]) == ("get_weather", {"city": "Paris"})
    assert isinstance(result, ToolMessage) and result.content == "sunny in Paris" and last.content == "It is sunny."
    whole = sum(streamed[1:], streamed[0])
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [("get_weather", {"city": "Paris"})]


def test_the_loop_of_the_tools_lesson_runs_through_the_server(served):
    loaded, tokenizer, _, address = served["tiny-v3"]
    model = served_model(f"{address}/v1", "tiny-v3", temperature=0, max_tokens=80)
    messages = [{"role": "user", "content": "What is 17 times 23?"}]
    call = "calculate\n```python\ntool_call(expression='17*23')\n```"
    with Said(loaded, tokenizer, call, "It is 391."): run = run_tools(model, None, messages, [calculate])
    assert (run.ended, run.answer) == ("answer", "It is 391.")
    assert [(t["name"], t["parameters"], t["observation"], t["problem"]) for t in run.trace] == [
        ("calculate", {"expression": "17*23"}, "391", "")]
    here = run_tools(loaded, tokenizer, messages, [calculate], max_rounds=1, max_new_tokens=3, temperature=0)
    there = run_tools(served_model(f"{address}/v1", "tiny-v3", temperature=0, max_tokens=3), None, messages, [calculate], max_rounds=1)
    assert here.answer == there.answer, "the same loop, the same words, with and without the server between"
