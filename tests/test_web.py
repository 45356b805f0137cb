"""The page's conversation, its three modes, its refusals and its command, without a browser."""
import copy
import json
import socket
import threading
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("gradio", reason="the web extra is not installed")

from chatglm_cookbook import web  # noqa: E402
from chatglm_cookbook.checkpoints import load_model, load_tokenizer  # noqa: E402
from chatglm_cookbook.deploy import chat  # noqa: E402
from chatglm_cookbook.sandbox import run_code  # noqa: E402
from chatglm_cookbook.tokens import encode_chat  # noqa: E402
from chatglm_cookbook.toolbox import calculate, weekday  # noqa: E402
from chatglm_cookbook.web import Session, page_messages, serve_web, stream_code, web_command, web_demo  # noqa: E402


class Played(torch.nn.Module):
    "A stand-in that says `turns`, over and over, through `generate` and its streamer; no small model calls a tool by itself."
    def __init__(self, tokenizer, *turns, pause=0.0):
        super().__init__()
        self.turns, self.prompts, self.pause = [tokenizer.encode(t, add_special_tokens=False) for t in turns], [], pause
        self.end, self.device = tokenizer.convert_tokens_to_ids("<|user|>"), torch.device("cpu")
        self.config = self.generation_config = SimpleNamespace(eos_token_id=self.end, max_position_embeddings=8192)
        self.running = self.most = 0

    def generate(self, input_ids, stopping_criteria=(), streamer=None, **settings):
        self.prompts.append(input_ids[0].tolist())
        self.running += 1
        self.most = max(self.most, self.running)
        streamer.put(input_ids)
        for i in [*self.turns[(len(self.prompts) - 1) % len(self.turns)], self.end]:
            streamer.put(torch.tensor([i]))
            threading.Event().wait(self.pause)
            if any(bool(s(input_ids, None).all()) for s in stopping_criteria): break
        self.running -= 1
        return input_ids


@pytest.fixture(scope="module")
def tokenizer(): return load_tokenizer("tiny-v3")


@pytest.fixture(scope="module")
def model(): return load_model("tiny-v3")


program = "interpreter\n```python\nsum(range(101))\n```"


# ------------------------------------------------------------------------------------------------ text that stays text
@pytest.mark.parametrize("text, plain", [
    ("<script>x</script>", "&lt;script>x&lt;/script>"), ("![a](http://b/c)", "!\\[a](http://b/c)"), ("![a][b]", "!\\[a][b]"),
    ("`<b>` <b>", "`<b>` &lt;b>"), ("```\n<b>\n```\n<b>", "```\n<b>\n```\n&lt;b>"), ("~~~\n<b>\n~~~\n<b>", "~~~\n<b>\n~~~\n&lt;b>"),
    ("````\n```\n<b>\n````\n<b>", "````\n```\n<b>\n````\n&lt;b>"), ("```mermaid\ngraph\n```", "```text\ngraph\n```"),
    ("`unclosed <b>", "`unclosed &lt;b>"), ("a ``` <b>", "a ``` &lt;b>"), ("", ""), ("1 < 2\n\n**x**", "1 &lt; 2\n\n**x**")])
def test_markup_is_text_outside_of_code(text, plain): assert web._plain(text) == plain


def test_what_a_page_shows():
    call = {"role": "assistant", "metadata": "calculate", "content": '{"expression": "1"}'}
    shown = page_messages([{"role": "system", "content": "s"}, {"role": "user", "content": "<i>"}, call, {"role": "tool", "content": "``` <b>"}], "E: <b>")
    assert [m["role"] for m in shown] == ["user", "assistant", "assistant", "assistant"] and shown[0]["content"] == "&lt;i>"
    assert [m["metadata"]["title"] for m in shown[1:]] == ["Call of calculate", "Observation", "Error"]
    assert shown[1]["content"] == '```json\n{"expression": "1"}\n```' and shown[3]["content"] == "```\nE: <b>\n```"
    assert shown[2]["content"] == "````\n``` <b>\n````"
    content = lambda text: page_messages([call | {"content": text}])[0]["content"]
    assert content("```python\nx = '<b>'") == content("```python\nx = '<b>'\n```") == "```python\nx = '<b>'\n```", "open and closed"
    assert content("```python\na\n```\n<b>\n```\n```") == "````python\na\n```\n<b>\n```\n````"
    assert page_messages([call])[0]["metadata"]["status"] == "pending" and page_messages([]) == []


# ------------------------------------------------------------------------------------------------ a tab's conversation
def test_a_copy_of_a_session_is_a_new_one():
    first = Session()
    assert first.ask("one") and first.messages
    other = copy.deepcopy(first)
    assert (other.messages, other.asked) == ([], False) and other.halt is not first.halt


def test_a_question_without_an_answer_is_replaced_and_an_answer_is_not():
    s = Session()
    s.ask("one")
    list(web._answered(s, lambda m, h: 1 / 0))
    assert s.problem == "ZeroDivisionError: division by zero" and s.ask("two")
    assert [m["content"] for m in s.messages] == ["two"] and s.problem == ""
    list(web._answered(s, lambda m, h: iter([[*m, {"role": "assistant", "content": "2"}]])))
    assert s.ask("three") and [m["content"] for m in s.messages] == ["two", "2", "three"]


def test_stop_before_the_turn_ends_it_at_once():
    s, count = Session(), []
    s.ask("one")
    s.halt.set()
    def steps(messages, halt):
        for n in range(5): count.append(n); yield [*messages, {"role": "assistant", "content": str(n)}]
    list(web._answered(s, steps))
    assert count == [0] and not s.asked


def test_undo_and_clear_while_an_answer_is_written():
    for end in ("undo", "clear"):
        s = Session()
        s.ask("one")
        halt, run = s.halt, web._answered(s, lambda m, h: iter([[*m, {"role": "assistant", "content": c}] for c in "abc"]))
        next(run)
        got = getattr(s, end)()
        assert halt.is_set() and list(run) == [] and s.messages == [] and not s.asked and got == ("one" if end == "undo" else None)
        assert s.ask("two") and list(run) == [] and s.asked, "the old answer does not end the new question"


def test_a_closed_answer_frees_its_session():
    s, left = Session(), []
    def steps(messages, halt):
        try:
            while True: yield [*messages, {"role": "assistant", "content": "x"}]
        finally: left.append(1)
    s.ask("one")
    run = web._answered(s, steps)
    next(run)
    run.close()
    assert not s.asked and left == [1]


# ------------------------------------------------------------------------------------------------ three modes
def last_of(model, tokenizer, mode, text="What?", functions=(), run=run_code, system="", **settings):
    asked = [{"role": "user", "content": text}]
    for messages in web._steps(model, tokenizer, asked, threading.Event(), mode, list(functions), run, system, settings): pass
    return messages


def test_chat_says_what_chat_says(model, tokenizer):
    reply, history = chat(model, tokenizer, "hello", system="Be brief.", temperature=0, max_new_tokens=12)
    assert last_of(model, tokenizer, "Chat", "hello", system="Be brief.", temperature=0, max_new_tokens=12) == history
    assert history[-1]["content"] == reply
    a, b = (last_of(model, tokenizer, "Chat", "hello", temperature=1.0, seed=s, max_new_tokens=12) for s in (5, 5))
    assert a == b != last_of(model, tokenizer, "Chat", "hello", temperature=1.0, seed=6, max_new_tokens=12)


def test_tool_calls_the_function(tokenizer):
    played = Played(tokenizer, "calculate\n```python\ntool_call(expression='6*7')\n```", "\n 42.")
    assert [m["content"] for m in last_of(played, tokenizer, "Tool", functions=[calculate], temperature=0)[2:]] == ["42", "42."]


def test_the_interpreter_runs_and_corrects(tokenizer):
    seen = []
    def run(code): seen.append(code); return f"ran {len(seen)}"
    played = Played(tokenizer, program, "interpreter\n```python\n2\n```", "\n Done.")
    messages = last_of(played, tokenizer, "Code Interpreter", run=run, temperature=0)
    assert seen == ["sum(range(101))", "2"] and [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert messages[0]["content"] == web._room and messages[3]["content"] == "```result\nran 1\n```" and messages[-1]["content"] == "Done."
    assert played.prompts[1] == encode_chat(tokenizer, messages[:4]) and played.prompts[2] == encode_chat(tokenizer, messages[:6])
    assert last_of(Played(tokenizer, "\n x"), tokenizer, "Code Interpreter", system="Mine.", temperature=0)[0]["content"] == "Mine."


@pytest.mark.parametrize("turn, told", [("interpreter\n```python\nsum(", "opened and closed"), ("calculate\n```python\n1\n```", "no tool 'calculate'")])
def test_a_program_that_cannot_be_read_is_told_to_the_model(tokenizer, turn, told):
    *_, messages = stream_code(Played(tokenizer, turn, "\n Sorry."), tokenizer, [{"role": "user", "content": "?"}], lambda code: "no", temperature=0)
    assert told in messages[-2]["content"] and messages[-1]["content"] == "Sorry."


def test_rounds_and_stop(tokenizer):
    seen, halt, asked = [], threading.Event(), [{"role": "user", "content": "?"}]
    *_, messages = stream_code(Played(tokenizer, program), tokenizer, asked, lambda code: seen.append(code) or "x", 2, temperature=0)
    assert len(seen) == 2 and messages[-1]["metadata"] == "interpreter"
    *_, messages = stream_code(Played(tokenizer, program), tokenizer, asked, lambda code: halt.set() or "x", stop=halt, temperature=0)
    assert len([m for m in messages if m["role"] == "tool"]) == 1


def test_a_room_that_breaks_is_told_to_the_model(tokenizer):
    def broken(code): raise RuntimeError("no room for this code")
    *_, messages = stream_code(Played(tokenizer, program, "\n Sorry."), tokenizer, [{"role": "user", "content": "?"}], broken, temperature=0)
    assert "no room" in messages[-2]["content"]


# ------------------------------------------------------------------------------------------------ page and command
def test_what_is_on_the_page(model, tokenizer):
    parts = lambda page: [c.get("props", {}) for c in page.get_config_file()["components"]]
    modes = lambda page: next([v for _, v in p["choices"]] for p in parts(page) if p.get("label") == "Mode")
    assert modes(web_demo(model, tokenizer)) == ["Chat"]
    assert modes(web_demo(model, tokenizer, tools=[calculate], interpreter=lambda code: "")) == ["Chat", "Tool", "Code Interpreter"]
    page = web_demo(model, tokenizer, temperature=0, max_new_tokens=7, seed=3, system="Hi", name="Mine")
    values = {p.get("label"): p.get("value") for p in parts(page)}
    assert [values[k] for k in ("temperature", "max new tokens", "seed", "System message")] == [0, 7, 3, "Hi"]
    config = page.get_config_file()
    assert config["title"] == "Mine" and not page.analytics_enabled
    assert all(d["api_visibility"] == "private" for d in config["dependencies"])
    assert page.launch.keywords["share"] is False and "img" not in page.launch.keywords["head"]


def test_what_cannot_be_offered_is_refused(model, tokenizer, monkeypatch):
    old, words = load_model("tiny-v1"), load_tokenizer("tiny-v1")
    for more in ({"tools": [calculate]}, {"interpreter": True}):
        with pytest.raises(ValueError, match="no role for what a tool says"): web_demo(old, words, **more)
    with pytest.raises(TypeError, match="swapped"): web_demo(tokenizer, model)
    with pytest.raises(ValueError, match="two tools have one name"): web_demo(model, tokenizer, tools=[weekday, weekday])
    with pytest.raises(ValueError, match="num_beams has no place"): web_demo(model, tokenizer, num_beams=2)
    with pytest.raises(TypeError, match="did you mean 'temperature'"): web_demo(model, tokenizer, temprature=1)
    def broken(code): raise RuntimeError("no room for this code")
    with pytest.raises(RuntimeError, match="no room"): web_demo(model, tokenizer, interpreter=broken)
    monkeypatch.setattr("chatglm_cookbook.tools._form", lambda tokenizer: 4)
    with pytest.raises(ValueError, match="the interpreter's turn is ChatGLM3's"): web_demo(model, tokenizer, interpreter=True)


def test_without_gradio_it_says_what_to_install(monkeypatch, model, tokenizer):
    import_module = web.import_module
    def missing(name):
        if name == "gradio": raise ImportError(name)
        return import_module(name)
    monkeypatch.setattr(web, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'chatglm-cookbook\[web\]'"): web_demo(model, tokenizer)


def called(*arguments):
    from click.testing import CliRunner
    return CliRunner().invoke(web_command, list(arguments))


@pytest.mark.parametrize("arguments, told", [
    (["--host", "0.0.0.0"], "can be reached by others"), (["--auth", "ann"], "write USER:PASSWORD"), (["--auth", ":x"], "write USER:PASSWORD"),
    (["--tool", "rm"], "no tool 'rm'"), (["--tool", "TextSearch"], "no tool"), (["--temperature", "-1"], "temperature must be")])
def test_the_command_refuses(arguments, told, monkeypatch):
    loads = []
    monkeypatch.setattr(web, "_load", lambda *a: loads.append(a) or (load_model("tiny-v3"), load_tokenizer("tiny-v3"), "tiny-v3"))
    done = called("tiny-v3", "--port", "0", *arguments)
    assert told in str(done.exception) and isinstance(done.exception, ValueError)
    assert not loads or "temperature" in told, "refused before anything is loaded"


def test_a_taken_port_is_told_of_before_loading(monkeypatch):
    monkeypatch.setattr(web, "_load", lambda *a: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert isinstance(called("tiny-v3", "--port", str(taken.getsockname()[1])).exception, OSError)


def test_options_and_environment_reach_the_page(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(web, "_load", lambda name, *how: ("model", "tokenizer", name))
    monkeypatch.setattr(web, "_adapted", lambda model, folder: f"{model} with {folder}")
    monkeypatch.setattr(web, "serve_web", lambda *pair, **given: seen.update(given, pair=pair))
    monkeypatch.setenv("MODEL_PATH", "some/base")
    monkeypatch.setenv("PT_PATH", "prefix")
    monkeypatch.setenv("CHATGLM_WEB_AUTH", "ann:secret")
    done = called("--host", "0.0.0.0", "--port", "0", "--tool", "calculate", "--tool", "weekday", "--top-p", "0.5", "--max-tokens", "9")
    assert done.exit_code == 0 and seen["pair"] == ("model with prefix", "tokenizer")
    assert (seen["name"], seen["auth"], seen["tools"], seen["top_p"], seen["max_new_tokens"]) == ("base", "ann:secret", [calculate, weekday], 0.5, 9)
    called("other", "--adapter", "lora", "--port", "0")
    assert seen["pair"][0] == "model with lora" and seen["name"] == "other" and seen["port"] > 0
    assert json.dumps(seen["interpreter"]) == "false"


def test_the_page_answers_and_asks_for_a_password(model, tokenizer):
    import httpx
    found, done = [], threading.Event()
    def ready(url):
        client = httpx.Client(base_url=url, trust_env=False)
        found.extend([client.get("/").status_code, client.get("/config").status_code, client.get("/gradio_api/info").status_code])
        found.append(client.post("/login", data={"username": "ann", "password": "wrong"}).status_code)
        found.append(client.post("/login", data={"username": "ann", "password": "secret"}).status_code)
        found.append(client.get("/config").status_code)
        done.set()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): serve_web(model, tokenizer, port=0, auth="ann:secret", ready=ready)
    assert done.is_set() and found[1:] == [401, 401, 400, 200, 200]
