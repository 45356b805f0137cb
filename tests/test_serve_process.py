"""`chatglm serve` as a process: many clients at once, clients that leave, signals, and a start after a crash."""
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest
import torch

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.deploy import chat, stop_ids

openai = pytest.importorskip("openai", reason="openai is not installed")


@contextlib.contextmanager
def server(name="tiny-v3", *options, port=0):
    "A server process and its address; killed at the end if it still runs."
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "chatglm_cookbook.cli", "serve", name, "--port", str(port), *options],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "http" in line, process.stderr.read()
        yield process, re.search(r"http://[\d.:]+", line)[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def never_ends():
    "A `logit_bias` with which tiny-v3 writes until it may not."
    return {str(i): -100 for i in stop_ids(load_model("tiny-v3"), load_tokenizer("tiny-v3"))}


def body(name, text, count, **more):
    return {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": count, "temperature": 0, **more}


async def streamed(client, address, request, leave_after=None):
    "Text of a streamed reply, or None for a client that left after some chunks."
    parts = []
    async with client.stream("POST", f"{address}/v1/chat/completions", json=request) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line == "data: [DONE]": return "".join(parts)
            if line.startswith("data: "): parts.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
            if leave_after and len(parts) > leave_after: return None
    raise AssertionError("the stream ended without [DONE]")


async def load(address, name, wanted, clients, seconds, rng):
    "Replies that clients got while they asked for `seconds`; a fifth of the requests are left in the middle."
    end, got = time.monotonic() + seconds, []

    async def one(client):
        while time.monotonic() < end:
            text, (count, want) = rng.choice(list(wanted.items()))
            leave = rng.randint(1, 4) if rng.random() < 0.2 else None
            got.append((text, want, await streamed(client, address, body(name, text, count, stream=True), leave)))
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return got


def memory(process): return int(open(f"/proc/{process.pid}/statm").read().split()[1]) * 4096 if os.path.exists("/proc") else 0


def test_32_clients_of_which_a_fifth_leaves():
    seconds, rng = float(os.environ.get("COOKBOOK_LOAD_SECONDS", 4)), random.Random(0)
    model, tokenizer = load_model("tiny-v3", dtype=torch.float32), load_tokenizer("tiny-v3")
    texts = {f"question {i} " + "word " * rng.randint(0, 40): rng.randint(4, 40) for i in range(24)}
    wanted = {t: (n, chat(model, tokenizer, t, temperature=0, max_new_tokens=n)[0]) for t, n in texts.items()}
    with server("tiny-v3", "--dtype", "float32", "--slots", "16", "--quiet") as (process, address):
        asyncio.run(load(address, "tiny-v3", wanted, 32, min(seconds / 2, 20), rng))
        before = memory(process)
        got = asyncio.run(load(address, "tiny-v3", wanted, 32, seconds, rng))
        whole = [(text, want, said) for text, want, said in got if said is not None]
        assert len(whole) > 10 and len(got) > len(whole)
        assert {(text, want, said) for text, want, said in whole if said != want} == set(), "none mixed up"
        health = {}
        for _ in range(100):
            if (health := httpx.get(f"{address}/health").json()) == {"status": "ok", "running": 0, "waiting": 0}: break
            time.sleep(0.05)
        assert health == {"status": "ok", "running": 0, "waiting": 0}, "no slot left behind"
        assert memory(process) - before < 40e6, "memory is flat"
        metrics = httpx.get(f"{address}/metrics").text
        assert "chatglm_cache_tokens 0.0" in metrics and 'chatglm_finishes_total{reason="cancelled"}' in metrics
        print(f"{len(got)} requests, {len(got) - len(whole)} left, {(memory(process) - before) / 1e6:+.1f} MB")


def test_a_signal_lets_what_runs_finish_and_the_grace_has_an_end():
    ask = lambda address, count: asyncio.run(_signalled(process, address, count))
    with server("tiny-v3", "--grace", "20", "--quiet") as (process, address):
        assert len(ask(address, 200)) > 100, "the reply was finished"
        assert process.wait(10) == -signal.SIGTERM
    with server("tiny-v3", "--grace", "0.5", "--quiet") as (process, address):
        start = time.monotonic()
        assert ask(address, 8000) == "the server is shutting down"
        process.wait(10)
        assert time.monotonic() - start < 8


async def _signalled(process, address, count):
    "What a client gets whose reply is being written when the signal comes: the text, or the message of an error."
    async with httpx.AsyncClient(timeout=60) as client, client.stream(
            "POST", f"{address}/v1/chat/completions", json=body("tiny-v3", "x", count, stream=True, logit_bias=never_ends())) as answer:
        text, sent = "", False
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"): continue
            event = json.loads(line[6:])
            if "error" in event: return event["error"]["message"]
            text += event["choices"][0]["delta"].get("content") or ""
            if text and not sent: process.send_signal(signal.SIGTERM); sent = True
        return text


def test_after_a_kill_clients_get_an_error_and_the_next_server_answers():
    with server("tiny-v3", "--quiet") as (process, address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(**body("tiny-v3", "x", 8000), logit_bias=never_ends(), stream=True)
        next(iter(stream))
        process.kill()
        with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError, httpx.ReadError)): list(stream)
        with pytest.raises(openai.APIConnectionError): client.chat.completions.create(**body("tiny-v3", "x", 3))
    with server("tiny-v3", "--quiet", port=address.rpartition(":")[2]):
        assert client.chat.completions.create(**body("tiny-v3", "x", 3)).usage.completion_tokens == 3
        with pytest.raises(subprocess.CalledProcessError) as taken:
            subprocess.run([sys.executable, "-W", "ignore", "-m", "chatglm_cookbook.cli", "serve", "tiny-v3", "--port", address.rpartition(":")[2]],
                           check=True, capture_output=True, text=True, timeout=60)
        assert taken.value.returncode == 2 and "in use" in taken.value.stderr


def test_smol_answers_every_client():
    with server("smol", "--name", "chat", "--quiet") as (_, address):
        ask = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0).chat.completions.create
        options = {"model": "chat", "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "max_tokens": 10}
        whole = ask(**options).choices[0].message.content
        assert "Paris" in whole
        assert "".join(c.choices[0].delta.content or "" for c in ask(**options, stream=True)) == whole
        with pytest.raises(openai.BadRequestError, match="no tool format"):
            ask(**options, tools=[{"type": "function", "function": {"name": "now"}}])
        with pytest.raises(openai.NotFoundError, match="there are chat"): ask(**options | {"model": "gpt"})
        told = subprocess.run(["curl", "-sN", f"{address}/v1/chat/completions", "-H", "Content-Type: application/json",
                               "-d", json.dumps(options | {"stream": True})], capture_output=True, text=True, timeout=60).stdout
        chunks = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == whole and "data: [DONE]" in told
        chat = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed").ChatOpenAI
        model = chat(base_url=f"{address}/v1", api_key="none", model="chat", temperature=0, max_tokens=10)
        assert model.invoke("What is the capital of France?").content == whole
