"""Bodies that nobody would send: whatever comes, the answer is no 5xx, and the server goes on."""
import contextlib

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from test_api import empty

from chatglm_cookbook.api import Limits, Service, serving
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.serve import Engine


@pytest.fixture(scope="module")
def address():
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine(load_model("tiny-v3", dtype=torch.float32), load_tokenizer("tiny-v3"), waiting=200))
        service = Service(engine, "tiny-v3", limits=Limits(tokens=3, seconds=20))
        yield stack.enter_context(serving(service)), service


texts = st.text(max_size=12) | st.sampled_from(["", "<|user|>", "[gMASK]", "你好", "\u0000", "get_weather\n", "a" * 300])
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)
calls = st.lists(st.fixed_dictionaries({"id": texts, "type": st.just("function"), "function": st.fixed_dictionaries({
    "name": texts, "arguments": st.sampled_from(['{"a": 1}', "{}", "[]", "", "x", '{"a b": NaN}', "1e999"])})}), max_size=2)
messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "observation"])},
                                          optional={"content": texts | values, "tool_calls": calls, "tool_call_id": texts}), max_size=4)
tools = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "get_weather", "a-b"])}, optional={"description": texts, "parameters": st.dictionaries(texts, values, max_size=3)})}), max_size=2)
small = st.integers(-1, 4)
shared = {"temperature": st.floats(-1, 3) | values, "top_p": st.floats(0, 1), "top_k": st.integers(-1, 9), "seed": st.integers(), "n": small,
          "stop": texts | st.lists(texts, max_size=3), "max_tokens": small | values, "presence_penalty": st.floats(-2, 2),
          "frequency_penalty": st.floats(-2, 2), "repetition_penalty": st.floats(-1, 11), "stream": st.booleans(),
          "stream_options": st.just({"include_usage": True}) | values, "logit_bias": st.dictionaries(st.sampled_from(["1", "2047", "9999", "-1", "x"]), st.floats(-100, 100))}
name = st.sampled_from(["tiny-v3"] * 19 + ["x"])
requests = st.one_of(
    st.tuples(st.just("/v1/chat/completions"), st.fixed_dictionaries({"model": name, "messages": messages}, optional={
        **shared, "tools": tools | values, "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]) | values,
        "logprobs": st.booleans(), "top_logprobs": st.integers(-1, 21), "max_completion_tokens": small})),
    st.tuples(st.just("/v1/completions"), st.fixed_dictionaries({"model": name, "prompt": texts | values | st.lists(st.integers(-1, 2100), max_size=5)}, optional={
        **shared, "logprobs": small, "echo": st.booleans(), "suffix": values})),
    st.tuples(st.just("/v1/embeddings"), st.fixed_dictionaries({"model": name, "input": texts | values | st.lists(texts, max_size=3)}, optional={
        "encoding_format": st.sampled_from(["float", "base64", "x"]), "dimensions": values})))


def test_no_body_makes_a_5xx(address):
    place, service = address
    client, seen = httpx.Client(base_url=place, timeout=30), {}

    @settings(max_examples=2000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(requests)
    def check(request):
        path, body = request
        answer = client.post(path, json=body)
        seen.setdefault(answer.status_code, []).append(path)
        assert answer.status_code in (200, 400, 404), (path, body, answer.text)
        if answer.status_code == 200 and body.get("stream"): assert '"error"' not in answer.text and answer.text.rstrip().endswith("[DONE]")
        if answer.status_code != 200: assert answer.json()["error"]["message"]
    check()
    assert len(set(seen[200])) == 3 and len(seen[200]) > 150, "many of them are proper requests"
    assert empty(service) and client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_schemathesis(address):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    place, service = address
    schema, seen = schemathesis.openapi.from_url(f"{place}/openapi.json"), []

    def run(operation, mode, examples):
        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            answer = case.call(base_url=place)
            seen.append((operation.label, answer.status_code))
            assert answer.status_code < 500, (operation.label, case.body, answer.text)
        check()
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(Unsatisfiable): run(operation, mode, 345 if operation.method == "post" else 20)
    assert len(seen) >= 2000 and {label for label, _ in seen} == {o.label for o in operations}
    assert {200, 400, 404} <= {status for _, status in seen} and empty(service)
