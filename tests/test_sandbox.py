"""Programs that nobody has read: what they get at, how they end, and what is left of them."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chatglm_cookbook import sandbox
from chatglm_cookbook.sandbox import CodeRun, observation, run_code, turn_code

try: run_code("1")
except RuntimeError as error: pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize("code, output", [
    ("1 + 1", "2\n"), ("print('你好 🌍')\n{'a': [1]}", "你好 🌍\n{'a': [1]}\n"), ("x = 1", ""), ("None", ""), ("", ""), ("# no more", ""),
    ("'\\ud800'", "'\\ud800'\n"), ("__name__", "'__main__'\n"), ("def f(): return f.__name__\nf()", "'f'\n"),
    ("import sys\nsys.argv, sys.stdin.read()", "([''], '')\n"), ("import sys\nprint('e', file=sys.stderr)", "e\n"),
    ("import threading\nt = threading.Thread(target=print, args=('hi',))\nt.start()\nt.join()", "hi\n"),
    ("import asyncio\nasync def main(): return 7\nasyncio.run(main())", "7\n"),
    ("import decimal, hashlib, sqlite3, ssl, statistics\nsqlite3.connect(':memory:').execute('select 6*7').fetchone()", "(42,)\n")])
def test_it_runs_as_a_cell_does(code, output):
    run = run_code(code)
    assert (run.output, run.problem) == (output, "") and 0 < run.seconds < 10


@pytest.mark.parametrize("code, problem", [
    ("1 / 0", "ZeroDivisionError: division by zero"), ("x = (", "SyntaxError: '(' was never closed"), ("input()", "EOFError: EOF when reading a line"),
    ("import sys\nsys.exit(3)", "exit status 3"), ("raise SystemExit('enough')", "enough"), ("import os\nos._exit(7)", "exit status 7"),
    ("'\0'", "SyntaxError: source code string cannot contain null bytes"),
    ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"), ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ("bytearray(10**10)", "MemoryError"), ("x = []\nwhile True: x.append(bytearray(2**22))", "MemoryError"),
    ("f = open('a', 'wb')\nwhile True: f.write(bytes(2**20))", "OSError: [Errno 27] File too large"),
    ("n = 0\nwhile True:\n n += 1\n open(str(n), 'wb').write(bytes(2**22))", "OSError: [Errno 28] No space left on device"),
    ("import ctypes\nctypes.string_at(0)", "killed by SIGSEGV"), ("import os\nos.abort()", "killed by")])
def test_how_it_ends(code, problem):
    run = run_code(code, seconds=20)
    assert run.problem.startswith(problem) or problem.startswith("SyntaxError: source") and "null bytes" in run.output
    assert "sandbox.py" not in run.output, "nothing of ours in the traceback"


def test_system_exit_0_is_no_problem():
    assert run_code("import sys\nprint(1)\nsys.exit()") == CodeRun("1\n", "", pytest.approx(0, abs=9))


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)", "import os\nos.close(1)\nos.close(2)\nwhile True: pass",
                                  "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
                                  "import threading\nfor _ in range(3): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()"])
def test_the_time_is_over(code):
    start = time.monotonic()
    assert run_code(code, seconds=1).problem in ("stopped after 1 seconds", "killed by SIGKILL")
    assert time.monotonic() - start < 10


def test_what_was_printed_before_the_limit_is_kept():
    run = run_code("print('so far')\nwhile True: pass", seconds=1)
    assert str(run) == "so far\nstopped after 1 seconds"


def test_endless_output_is_cut_and_counted():
    run = run_code("while True: print('x' * 1000)", seconds=1, longest=50)
    assert run.output.startswith("x" * 50 + "\n… (") and run.output.endswith("more bytes)") and len(run.output) < 100
    assert run_code("print('é' * 3)", longest=3).output == "é\ufffd\n… (4 more bytes)"


def children():
    return {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and f"PPid:\t{os.getpid()}\n" in _status(p)}


def _status(path):
    try: return (path / "status").read_text()
    except OSError: return ""


@pytest.mark.parametrize("code", [
    "import os\nfor _ in range(2000): os.fork()", "import os\nos.posix_spawn('/usr/bin/sleep', ['sleep', '60'], {})",
    "import subprocess\nsubprocess.Popen(['/usr/bin/sleep', '60'])", "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()",
    "import os\nos.execv('/usr/bin/env', ['env'])", "import os\nos.setsid()", "import os\nos.setpgid(0, 0)",
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.vfork() < 0: raise PermissionError('vfork')",
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.unshare(0x10000000) < 0: raise PermissionError('unshare')",
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.umount2(b'/usr', 2) < 0: raise PermissionError('umount')"])
def test_no_process_is_started_and_no_group_left(code):
    before = children()
    run = run_code(code, seconds=5)
    assert run.problem.startswith("PermissionError"), run
    assert children() == before


def test_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before, files = children(), set(os.listdir("/proc/self/fd"))
    for code in ("open('a', 'w').write('x')", "1 / 0", "while True: pass"): run_code(code, seconds=0.5)
    assert not list(tmp_path.iterdir()) and children() == before and set(os.listdir("/proc/self/fd")) == files


def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 3)\n'reached'"
        assert run_code(connect, network=True).output == "'reached'\n", "the server is there"
        assert run_code(connect).problem == "PermissionError: [Errno 1] Operation not permitted"
    for code in ("socket.getaddrinfo('example.org', 80)", "socket.socket(socket.AF_UNIX)", "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"):
        assert run_code(f"import socket\n{code}").problem


def test_the_namespace_alone_keeps_the_network_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (f"from runpy import run_path\nenter = run_path({sandbox.__file__!r})['_enter']\n"
                f"enter({str(tmp_path)!r}, ['/usr', '/lib', {os.path.realpath(sys.base_prefix)!r}], 2**20)\nimport socket\n"
                f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 3)")
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().endswith(("Connection refused", "Network is unreachable"))


def test_no_secret_is_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSON_SECRET", "swordfish")
    (tmp_path / "secret").write_text("swordfish")
    look = ("import os, glob\nfound = [str(dict(os.environ))]\n"
            f"for path in [{str(tmp_path / 'secret')!r}, '/etc/passwd', {str(Path(__file__).resolve())!r}, *glob.glob('/proc/*/environ'), '/proc/self/environ']:\n"
            "    try: found.append(open(path).read())\n    except OSError: pass\nlen(found), 'swordfish' in str(found)")
    assert run_code(look).output == "(1, False)\n"


def test_files_outside_stay_as_they_are(tmp_path):
    target = os.path.realpath(sys.base_prefix)
    for code in (f"open({target!r} + '/mine', 'w')", "import os\nos.chmod('/usr', 0)", "open('/dev/mem')", f"open({str(tmp_path / 'x')!r}, 'w')"):
        assert run_code(code).problem.startswith(("OSError: [Errno 30]", "FileNotFoundError", "PermissionError"))
    assert not (Path(target) / "mine").exists() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("victim", ["os.getppid()", "os.getpid()", "-1", "0", "1"])
def test_no_signal_gets_out(victim):
    done = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: done.set())
    try:
        for kind in (15, 9): run_code(f"import os\nos.kill({victim}, {kind})", seconds=3)
        run_code(f"import os\nos.kill({os.getpid()}, 9)", seconds=3)
    finally: signal.signal(signal.SIGTERM, before)
    assert not done.is_set()


def test_runs_know_nothing_of_each_other():
    run_code("x = 1\nopen('kept', 'w').write('1')")
    assert run_code("import os\nos.listdir(), 'x' in dir()").output == "([], False)\n"


def test_a_machine_without_a_room_refuses(monkeypatch):
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    with pytest.raises(RuntimeError, match="(?s)on riscv64.*network=True"): run_code("1")
    assert run_code("1", network=True).output == "1\n"
    monkeypatch.undo()
    monkeypatch.setattr(sandbox, "_walls", lambda: "x86-65")
    with pytest.raises(RuntimeError, match="no room"): run_code("1")


def test_a_kernel_that_refuses_is_told_of(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "base_prefix", "/nowhere/at/all")
    with pytest.raises(RuntimeError, match="mount: No such file or directory.*pass network=True"): run_code("1")


@pytest.mark.parametrize("wrong, told", [({"seconds": 0}, "seconds"), ({"memory": 2**20}, "64 MB"), ({"longest": 0}, "longest")])
def test_refusals(wrong, told):
    with pytest.raises(ValueError, match=told): run_code("1", **wrong)
    with pytest.raises(TypeError, match="code is a text"): run_code(None)


def test_the_filter_of_both_machines_is_a_program_that_ends():
    for machine in ("x86_64", "aarch64"):
        steps = sandbox._filter(machine)
        assert len(steps) % 8 == 0 and len(steps) // 8 < 64
        assert _judged(machine, 0xC000003E if machine == "x86_64" else 0xC00000B7, 435, 0) == 0x50000 | 38
        assert _judged(machine, 0x1234, 0, 0) == 0x50001, "another architecture"
    fork, clone, read = 57, 56, 0
    assert [_judged("x86_64", 0xC000003E, n, a) for n, a in ((fork, 0), (clone, 17), (clone, 0x10000 | 17), (read, 0), (0x40000001, 0))] == [
        0x50001, 0x50001, 0x7FFF0000, 0x7FFF0000, 0x50001]


def _judged(machine, architecture, number, argument):
    "What the filter says of a system call, worked by hand."
    import struct
    steps = [struct.unpack("HBBI", sandbox._filter(machine)[i:i + 8]) for i in range(0, len(sandbox._filter(machine)), 8)]
    at, held = 0, 0
    while True:
        kind, yes, no, value = steps[at]
        at += 1
        if kind == 0x06: return value
        if kind == 0x20: held = {0: number, 4: architecture, 16: argument}[value]
        else: at += yes if {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[kind] else no


def test_many_at_once():
    found = {}
    def one(n): found[n] = run_code(f"import time\ntime.sleep(0.2)\n{n} * {n}").output
    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert found == {n: f"{n * n}\n" for n in range(6)}


def test_the_interpreters_turn():
    turn = {"role": "assistant", "metadata": "interpreter", "content": "Look:\n```python\nx = 1\n```\nthen\n```python\nprint(x)\nx\n```"}
    assert turn_code(turn) == "print(x)\nx" and turn_code({"role": "assistant", "content": "```python\n1\n```"}) is None
    assert turn_code(turn | {"metadata": "calculate"}) is None
    for content in ("", None, "x = 1", "```python\nx = 1"):
        with pytest.raises(ValueError, match="opened and closed"): turn_code(turn | {"content": content})
    assert observation(CodeRun("", "", 0.1))["content"] == "```result\n(nothing was printed)\n```"
    assert observation(CodeRun("5\n", "", 0.1)) == {"role": "tool", "content": "```result\n5\n```"}
    assert json.dumps(observation("x"))


def test_the_run_as_a_page():
    assert CodeRun("````\n", "killed by SIGKILL", 1.0)._repr_markdown_() == "`````text\n````\n`````\n\n**problem**: `killed by SIGKILL`"
