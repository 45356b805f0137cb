"""`chatglm chat` at a pseudo-terminal and in a pipe: streaming, Ctrl-C, pasted texts, commands."""
import io
import json
import os
import subprocess
import sys
import threading

import pytest
from test_api import Said

from chatglm_cookbook import cli, terminal
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.deploy import chat
from chatglm_cookbook.terminal import Talk, _asked, _command, _keys, _say, _talk

pexpect = pytest.importorskip("pexpect")
greedy = ("--temperature", "0")


def talking(*options, name="tiny-v3"):
    child = pexpect.spawn(sys.executable, ["-m", "chatglm_cookbook.cli", "chat", name, *options], encoding="utf-8", timeout=30,
                          env={**os.environ, "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}, dimensions=(50, 400))
    child.setecho(False)
    child.expect("stop leaves")
    child.expect("> ")
    return child


def reply_to(child, text):
    child.sendline(text)
    child.expect("> ")
    return child.before.replace("\r\n", "\n").strip()


def test_chat_undo_clear_save_and_leave(tmp_path):
    file, model, tokenizer = tmp_path / "talk.json", load_model("tiny-v3"), load_tokenizer("tiny-v3")
    first, history = chat(model, tokenizer, "hello", temperature=0, max_new_tokens=6)
    second, both = chat(model, tokenizer, "again", history, temperature=0, max_new_tokens=6)
    child = talking(*greedy, "--max-tokens", "6")
    assert reply_to(child, "hello").endswith(first)
    assert reply_to(child, "again").endswith(second)
    assert "took back" in reply_to(child, "undo")
    assert reply_to(child, "again").endswith(second), "undo takes question and answer back"
    assert "4 messages" in reply_to(child, f"/save {file}") and json.loads(file.read_text()) == both
    assert "cleared" in reply_to(child, "/clear")
    assert reply_to(child, "hello").endswith(first)
    assert "No such file" in reply_to(child, "/load nowhere.json") and "4 messages from" in reply_to(child, f"/load {file}")
    assert "undo" in reply_to(child, "help")
    child.sendline("stop")
    child.expect(pexpect.EOF)
    assert child.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program():
    child = talking(*greedy, "--max-tokens", "8000")
    child.sendline("a long story")
    child.expect(r"\S{3}")
    child.sendintr()
    child.expect(r"\[stopped\]")
    child.expect("> ")
    assert "took back" in reply_to(child, "undo"), "what was said is in the history"
    for _ in range(10):  # Python sees a signal that falls between prompt and wait only at the next key, or at the next Ctrl-C
        child.sendintr()
        if child.expect(["Ctrl-D leaves", pexpect.TIMEOUT], timeout=3) == 0: break
    else: pytest.fail("Ctrl-C at the prompt says nothing")
    child.expect("> ")
    assert "nothing to take back" in reply_to(child, "undo")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert child.wait() == 0


def test_a_pasted_text_is_one_message(tmp_path):
    child, file = talking(*greedy, "--max-tokens", "2"), tmp_path / "talk.json"
    child.send("line one\nline two\nline three\n")
    child.expect("> ")
    reply_to(child, '"""a block\n\nof lines"""')
    reply_to(child, f"/save {file}")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    asked = [m["content"] for m in json.loads(file.read_text()) if m["role"] == "user"]
    assert asked == ["line one\nline two\nline three", "a block\n\nof lines"]


def piped(text, *options):
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "chatglm_cookbook.cli", "chat", "tiny-v3", *greedy, "--max-tokens", "5", *options],
                          input=text, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pipe_gets_answers_and_nothing_else(monkeypatch, capsys):
    model, tokenizer = load_model("tiny-v3"), load_tokenizer("tiny-v3")
    ask = lambda text, history=None: chat(model, tokenizer, text, history, temperature=0, max_new_tokens=5)
    assert piped("one\ntwo\n") == ask("one\ntwo")[0] + "\n"
    first, history = ask("one")
    for text, options, want in (("one\n\ntwo\n", ["--lines"], f"{first}\n{ask('two', history)[0]}\n"), ("", [], "")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert cli.main(["chat", "tiny-v3", *greedy, "--max-tokens", "5", *options]) == 0
        assert capsys.readouterr().out == want


@pytest.mark.parametrize("arguments, told", [
    (["chat", "tiny-v3", "--temperature", "-1"], "temperature must be"), (["chat", "tiny-v3", "--temperatur", "1"], "Did you mean"),
    (["chat", "tiny-v3", "--load", "nowhere.json"], "nowhere.json"), (["serve", "tiny-v3", "--host", "0.0.0.0"], "give an API key"),
    (["serve", "tiny-v3", "--adapter", "x"], "write NAME=FOLDER"), (["serve", "--adapter", "a=b", "--adapter", "a=c"], "a name of its own"),
    (["serve", "--api-key-file", "nowhere"], "nowhere"), (["serve", "tiny-v3", "--adapter", "tiny-v3=x"], "a name of its own"),
    (["serve", "some/tiny-v3/", "--adapter", "tiny-v3=x"], "a name of its own"), (["serve", "tiny-v3", "--name", "a", "--adapter", "a=x"], "a name of its own"),
    *((["serve", "tiny-v3", option, value], f"Invalid value for '{option}'") for option, value in (
        ("--port", "99999"), ("--port", "-1"), ("--slots", "0"), ("--queue", "-1"), ("--seconds", "0"), ("--max-tokens", "0"), ("--max-body", "0"),
        ("--grace", "-1")))])
def test_what_the_caller_can_mend_is_one_line(arguments, told, capsys, monkeypatch):
    monkeypatch.delenv("CHATGLM_API_KEYS", raising=False)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert told in said and len(said.splitlines()) == 1


def test_settings_are_checked_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(terminal, "_load", lambda *given: pytest.fail("loaded"))
    assert cli.main(["chat", "tiny-v3", "--top-p", "2"]) == 2


def test_keys_come_from_file_and_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATGLM_API_KEYS", "a, b,")
    (tmp_path / "keys").write_text("c\n\n d \n")
    assert _keys(str(tmp_path / "keys")) == ("a", "b", "c", "d") and _keys(None) == ("a", "b")
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ValueError, match="holds no key"): _keys(str(tmp_path / "keys"))


def test_an_error_of_the_model_does_not_end_the_conversation():
    from chatglm_cookbook.terminal import _converse
    said, lines = [], iter(["hello", "stop"])
    def broken(text, history, stop): raise ValueError("the window is full")
    _converse(Talk(broken, write=said.append), lambda prompt: next(lines), lambda: False)
    assert "".join(said) == "\nValueError: the window is full\n"


def test_text_that_changes_its_mind_is_written_once():
    said = []
    def answer(text, history, stop):
        for reply in ("你好,", "你好，世", "你好，世界", "你好，世界 "): yield reply, history
    _say(Talk(answer, write=said.append), "x")
    assert "".join(said) == "你好，世界 \n" and threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("calls", (True, False))
def test_calls_are_shown_to_a_person_and_not_to_a_pipe(calls):
    model, tokenizer, said = load_model("tiny-v3"), load_tokenizer("tiny-v3"), []
    talk = _talk(model, tokenizer, tools=("calculate", "weekday"), calls=calls, temperature=0)
    talk.write = said.append
    call = "Let me see.<|assistant|>calculate\n```python\ntool_call(expression='17*23')\n```"
    with Said(model, tokenizer, call, "cal ends 391."): _say(talk, "What is 17 times 23?")
    shown = 'Let me see.\n[calculate {"expression": "17*23"} -> 391]\n' if calls else ""
    assert "".join(said) == f"{shown}cal ends 391.\n"
    assert [m["role"] for m in talk.window.history] == ["user", "assistant", "assistant", "tool", "assistant"]
    assert talk.undo() and not talk.window.history
    with pytest.raises(ValueError, match="no tool 'rm'; there are .*calculate"): _talk(model, tokenizer, tools=("rm",))


def test_commands_and_messages_are_told_apart():
    assert [_command(t) for t in ("quit", "/save a", "stop it", " stop", "undo\n", "/save a\nb", "", "save the whales", "load x.json", "save a", "/save")] == [
        ("stop", ""), ("save", "a"), None, None, ("undo", ""), None, None, None, None, None, None]
    ends = iter(['"""', "x"])
    def read(prompt):
        try: return next(ends)
        except StopIteration: raise EOFError from None
    assert _asked("", read, lambda: False) == "x", "an unclosed block ends with the input"


@pytest.mark.parametrize("text, want", [('"""say "hi""""', 'say "hi"'), ('""""hi" she said"""', '"hi" she said'), ('"""\n"a"\n"""', '"a"'), ('""""""', "")])
def test_a_block_keeps_the_quotation_marks_inside(text, want):
    lines = iter(text.split("\n"))
    assert _asked("", lambda prompt: next(lines), lambda: False) == want


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    file, talk = tmp_path / "talk.json", Talk(None, [{"role": "user", "content": "a"}])
    file.write_text('[{"role": "user", "content": "other"}]')
    assert "is there already" in terminal._obey(talk, "save", str(file)) and "other" in file.read_text()
    talk.load(str(file))
    talk.clear()
    for _ in range(2): assert talk.save(str(file)) == f"1 messages in {file}", "what was read or written here may be"
    assert json.loads(file.read_text()) == [{"role": "user", "content": "a"}] and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("tty, want", [(True, "a[2Jb]52;c;\n\tc世\n"), (False, "a\x1b[2Jb\x9d]52;c;\x07\r\n\tc世\n")])
def test_a_terminal_gets_no_control_characters(tty, want, monkeypatch):
    out = io.StringIO(newline="")
    out.isatty = lambda: tty
    monkeypatch.setattr(sys, "stdout", out)
    def answer(text, history, stop): yield "a\x1b[2Jb\x9d]52;c;\x07\r\n\tc世", history
    _say(Talk(answer), "x")
    assert out.getvalue() == want


def test_the_end_of_the_window_names_what_helps_here():
    model, tokenizer = load_model("tiny-v3"), load_tokenizer("tiny-v3")
    talk = _talk(model, tokenizer, max_new_tokens=5)
    with pytest.raises(ValueError, match="say undo or clear") as error: _say(talk, "word " * 9000)
    assert "on_overflow" not in str(error.value) and "lower --max-tokens" in str(error.value)
    def broken(text, history, stop): raise ValueError("max_new_tokens is odd")
    with pytest.raises(ValueError, match="^max_new_tokens is odd$"): _say(Talk(broken), "x")


@pytest.mark.parametrize("locale", ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}))
def test_pipes_of_any_locale(locale):
    lines = ("import sys; from chatglm_cookbook import terminal; from chatglm_cookbook.terminal import Talk",
             "terminal._encoded(); terminal._pipe(Talk(lambda text, history, stop: [(text + '\\u5e2e\\ud800', history)]), True)")
    def told(given):
        return subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], input=given, capture_output=True,
                              env={k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIO"))} | locale)
    assert told("世".encode()).stdout.decode() == "世帮?\n"
    assert "line 2 of the input is no utf-8, but byte 0xff" in told(b"a\n\xff\nb").stderr.decode()
