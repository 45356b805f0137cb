"""`make bench`: `chatglm serve` beside `transformers serve`, the same model, requests and machine, clients at once."""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench import print_table, spread

prompts = ["Tell me about the sea.", "What is a fox?", "Name three colours and say where each is found.", "Why is the sky blue?"]
theirs = """import sys, chatglm_cookbook
from transformers.cli.transformers import main
sys.argv = ["transformers", "serve", FOLDER, "--port", PORT, "--dtype", "float32", "--device", "cpu", *MORE]
main()"""
servers = {
    "chatglm serve": """import sys
from chatglm_cookbook.cli import main
sys.exit(main(["serve", FOLDER, "--name", "m", "--port", PORT, "--dtype", "float32", "--quiet"]))""",
    "transformers serve": f"MORE = []\n{theirs}",
    "transformers serve --continuous-batching": f"MORE = ['--continuous-batching', '--cb-max-memory-percent', '0.2']\n{theirs}",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found: return found.getsockname()[1]


async def one(client: httpx.AsyncClient, name: str, text: str, tokens: int) -> tuple[float, float, str]:
    "Seconds to the first text and to the end of one streamed reply, and the reply."
    start, first, parts = time.perf_counter(), None, []
    body = {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0,
            "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200: raise RuntimeError((await answer.aread()).decode()[:300])
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"): continue
            event = json.loads(line[6:])
            if "error" in event: raise RuntimeError(str(event["error"])[:300])
            if text := (event["choices"][0]["delta"].get("content") if event["choices"] else None):
                first = first or time.perf_counter() - start
                parts.append(text)
    return first or 0.0, time.perf_counter() - start, "".join(parts)


async def round_of(address: str, name: str, clients: int, each: int, tokens: int) -> dict:
    "What `clients` get who each ask `each` times."
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        async def ask(i): return [await one(client, name, prompts[(i + k) % len(prompts)], tokens) for k in range(each)]
        start = time.perf_counter()
        found = [r for rows in await asyncio.gather(*(ask(i) for i in range(clients))) for r in rows]
        seconds = time.perf_counter() - start
    return {"replies/s": len(found) / seconds, "first text": statistics.median(f for f, _, _ in found)}


@contextlib.contextmanager
def running(kind: str, folder: str):
    "Address of a server of this `kind`, once it answers."
    port = free_port()
    code = f"FOLDER, PORT = {folder!r}, {str(port)!r}\n{servers[kind]}"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.DEVNULL,
                               stderr=(told := tempfile.TemporaryFile()), env={**os.environ, "HF_HUB_OFFLINE": "1"})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{address}/health", timeout=2)
                break
            if process.poll() is not None:
                told.seek(0)
                raise RuntimeError(f"{kind} ended: {told.read().decode(errors='replace')[-500:]}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


def figures(kind: str, rounds: dict, tokens: int) -> list[dict]:
    "One row for each number of clients, of the rounds of one server."
    return [{"server": kind, "clients": clients, "tokens/s": spread([r["replies/s"] * tokens for r in found], "{:.1f}"),
             "first text, s": spread([r["first text"] for r in found], "{:.2f}")} for clients, found in rounds.items() if found]


def measured(folder: str, n: int, counts: tuple[int, ...], each: int, tokens: int) -> dict[str, dict]:
    "Rounds of every server, by number of clients; servers take turns, one runs at a time."
    rounds = {kind: {c: [] for c in counts} for kind in servers}
    for _ in range(n):
        for kind in servers:
            with running(kind, folder) as address:
                name = "m" if kind == "chatglm serve" else folder
                try:
                    asyncio.run(round_of(address, name, 1, 1, 2))
                    for c in counts: rounds[kind][c].append(asyncio.run(round_of(address, name, c, each, tokens)))
                except RuntimeError as error: print(f"\n{kind} fails with {Path(folder).name}: {str(error).splitlines()[0]}")
    return rounds


def bench_serve(n: int, models=("smol", "tiny-v1"), counts=(1, 8), each: int = 2, tokens: int = 32) -> None:
    from chatglm_cookbook.core import model_folder
    for model in models:
        rounds = measured(model_folder(model), n, counts, each, tokens)
        rows = [row for kind, found in rounds.items() for row in figures(kind, found, tokens)]
        mine, theirs = ([r["replies/s"] for r in rounds[kind][max(counts)]] for kind in list(servers)[:2])
        note = f"float32, greedy, {each} streamed replies of {tokens} tokens a client, n={n}"
        ratio = statistics.median(mine) / statistics.median(theirs) if theirs else None
        if ratio: note += f"; with {max(counts)} clients `chatglm serve` writes {ratio:.2f} x what `transformers serve` does"
        print_table(f"Serving {model}", rows, note)
