"""What `00_core` promises and its page would not want to read: other processes, threads, terminals, kernels."""
import importlib
import json
import math
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from chatglm_cookbook import core


def python(code: str, folder: Path | None = None, **environ: str) -> str:
    "Output of `code`, run by a fresh interpreter in `folder`."
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environ}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, cwd=folder, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def alone(code: str) -> str:
    "`code` after the module `core` alone was loaded, without the package around it."
    load = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("core", {core.__file__!r})
        core = sys.modules["core"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
    """
    return textwrap.dedent(load) + textwrap.dedent(code)


# importing

def test_importing_core_takes_only_the_standard_library():
    heavy = "{'torch', 'transformers', 'numpy', 'matplotlib', 'IPython', 'ipywidgets', 'peft', 'fastcore', 'nbdev'}"
    assert python(f"import sys, chatglm_cookbook.core; print({heavy} & set(sys.modules) or 'light')") == "light\n"


# environment

def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


meminfo = f"MemTotal:  {64 * 10**6} kB\nMemFree: 5 kB\nMemAvailable:  {60 * 10**6} kB\n"


@pytest.mark.parametrize("text, wanted", [("max 100000", None), ("150000 100000\n", 2), ("10000 100000", 1), ("", None)])
def test_cores_obey_the_quota_of_version_2(tmp_path, text, wanted):
    root = machine(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": text})
    usable = core._cores(tmp_path / "none")
    assert core._cores(root) == min(wanted or usable, usable)


def test_version_1_with_a_path_that_only_the_host_sees(tmp_path):
    files = {"proc/self/cgroup": "4:memory:/docker/x\n2:cpuacct,cpu:/docker/x\n1:name=systemd:/\n", "proc/meminfo": meminfo,
             "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
             "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000000\n",
             "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300000000\n",
             "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    root = machine(tmp_path, files)
    assert core._memory(root) == (2 * 10**9, 800 * 10**6)
    assert core._cores(root) == 1


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "nonsense"])
def test_a_group_without_a_limit_leaves_the_machine_as_it_is(tmp_path, limit):
    files = {"proc/self/cgroup": "0::/a\n", "proc/meminfo": meminfo, "sys/fs/cgroup/a/memory.max": limit,
             "sys/fs/cgroup/a/memory.current": "5"}
    assert core._memory(machine(tmp_path, files)) == (64 * 1024 * 10**6, 60 * 1024 * 10**6)


def test_more_used_than_allowed_is_no_negative_memory(tmp_path):
    files = {"proc/self/cgroup": "0::/a\n", "proc/meminfo": meminfo, "sys/fs/cgroup/a/memory.max": "1000",
             "sys/fs/cgroup/a/memory.current": "5000"}
    assert core._memory(machine(tmp_path, files)) == (1000, 0)


def test_a_format_that_is_imitated_refused_or_wrong_is_called_so():
    import torch

    def device(a, b):
        if a.dtype == torch.bfloat16: time.sleep(0.2)
        if a.dtype == torch.float16: raise RuntimeError("not implemented for 'Half'\nmore")
        return (a.int() @ b.int()) * 1.1 if a.dtype == torch.int8 else a @ b

    found = core._dtypes("cpu", device)
    assert found["bfloat16"] == "works, but slow: under half the speed of float32"
    assert found["float16"] == "no: not implemented for 'Half'"
    assert found["int8"] == "wrong: 10% off the float32 result"


def test_formats_take_turns_and_the_best_round_counts():
    calls, pauses = [], {"a": iter([0.05, 0.04, 0.03] + [0.001] * 40), "b": iter([0.0] + [0.02] * 40)}
    best = core._rounds({k: lambda k=k: (calls.append(k), time.sleep(next(pauses[k]))) for k in pauses}, "cpu")
    assert calls == ["a", "b"] * (len(calls) // 2) and len(calls) >= 8
    assert best["a"] < 0.02 <= best["b"]  # the first call, a warm-up, was the only quick one of b


def test_slow_formats_do_not_keep_the_reader_waiting():
    start = time.perf_counter()
    core._rounds({"slow": lambda: time.sleep(0.6), "quick": lambda: None}, "cpu")
    assert time.perf_counter() - start < 4  # eight rounds would take five seconds


def test_a_busy_moment_moves_no_verdict():
    chance = random.Random(0)

    def busy(a, b):
        if chance.random() < 0.6: time.sleep(0.01)  # most products are interrupted
        return a.float() @ b.float()

    found = core._dtypes("cpu", busy)
    assert all(not verdict.startswith("works, but slow") for verdict in found.values()), found


@pytest.mark.parametrize("speed, verdict", [
    (0.004, "works, but slow: under half the speed of float32"), (0.49, "works, but slow: under half the speed of float32"),
    (0.51, "works, about as fast as float32"), (1.49, "works, about as fast as float32"), (18, "works, faster than float32")])
def test_speeds_have_three_names(speed, verdict):
    assert core._verdict(0.0, speed) == verdict


def test_probing_leaves_seeds_and_threads_alone():
    import torch
    state, threads, seen = torch.random.get_rng_state(), torch.get_num_threads(), set()
    core._dtypes("cpu", lambda a, b: seen.add(torch.get_num_threads()) or a.float() @ b.float())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads and 1 in seen
    with pytest.raises(ZeroDivisionError): core._rounds({"x": lambda: 1 / 0}, "cpu")
    assert torch.get_num_threads() == threads


def test_environment_is_quick_and_prints_a_table():
    out = python("""
        import time, torch
        from chatglm_cookbook.core import environment
        start = time.perf_counter()
        here = environment()
        print(time.perf_counter() - start)
        print(here)
    """)
    seconds, table = out.split("\n", 1)
    assert float(seconds) < 15  # 0.3 to 1 s on a quiet machine
    assert all(row in table for row in ("versions ", "device ", "cores ", "memory ", "bfloat16 ", "int8 ", "GB free"))
    markdown = core.environment()._repr_markdown_()
    assert markdown.startswith("| | |\n|---|---|\n| **versions** | python ")


@pytest.mark.parametrize("gpu, free, dtypes, wanted", [
    ("A", 15.1e9, {"bfloat16": "works, faster", "float16": "works, faster"}, "fits in bfloat16 (12.5 GB)."),
    ("A", 15.1e9, {"bfloat16": "works, about", "float16": "works, about"}, "fits in bfloat16 (12.5 GB)."),
    ("A", 15.1e9, {"bfloat16": "works, about", "float16": "works, faster"}, "fits in float16 (12.5 GB)."),
    ("A", 15.1e9, {"bfloat16": "works, but slow", "float16": "works, about"}, "fits in float16 (12.5 GB)."),
    ("A", 14.9e9, {"bfloat16": "works, faster"}, "fits in int8 (6.8 GB)."),
    ("A", 60e9, {"bfloat16": "works, but slow", "float16": "no"}, "fits in float32 (25.0 GB)."),
    ("", 5e9, {"bfloat16": "works, faster"}, "fits in int4 (3.9 GB), but slowly"),
    ("", 2e9, {}, "does not, its weights take 3.9 GB even in int4"),
    ("", 0, {}, "No GPU, free memory unknown: start with tiny"),
])
def test_advice_follows_memory_and_formats(gpu, free, dtypes, wanted):
    assert wanted in core._advice(gpu, free, dtypes)


# seeds

def test_a_seed_repeats_a_run_in_another_process():
    code = """
        import random, numpy, torch
        from chatglm_cookbook.core import seed_everything
        seed_everything(7)
        print(random.random(), numpy.random.rand(), torch.randn(3).tolist())
    """
    assert python(code) == python(code)


def test_each_generator_is_seeded():
    import numpy
    import torch
    assert core.seed_everything(2**32 - 1) == 2**32 - 1
    core.seed_everything(5)
    assert random.random() == random.Random(5).random()
    assert numpy.random.rand() == numpy.random.RandomState(5).rand()
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("seed, error", [("1", TypeError), (1.0, TypeError), (None, TypeError), (True, TypeError),
                                         (-1, ValueError), (2**32, ValueError)])
def test_what_is_no_seed_is_refused_by_name(seed, error):
    with pytest.raises(error, match=f"seed .*{seed!r}"): core.seed_everything(seed)


# the dial and folders

@pytest.mark.parametrize("value, name", [(None, "smol"), ("", "smol"), ("  \n", "smol"), (" tiny-v1 ", "tiny-v1"),
                                         ("zai-org/chatglm3-6b", "zai-org/chatglm3-6b"), ("o/n.1_x", "o/n.1_x")])
def test_the_dial(monkeypatch, value, name):
    monkeypatch.delenv("COOKBOOK_MODEL", raising=False)
    if value is not None: monkeypatch.setenv("COOKBOOK_MODEL", value)
    assert core.demo_model() == name


def test_the_dial_takes_folders(monkeypatch, tmp_path):
    (tmp_path / "my.model v1").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COOKBOOK_MODEL", "~/my.model v1")
    assert core.demo_model() == str(tmp_path / "my.model v1")


@pytest.mark.parametrize("value", ["tini", "SMOL", "/no/such", "./no", "a/b/c", "a b/c", "https://x/y"])
def test_the_dial_refuses_what_nobody_knows(monkeypatch, value):
    monkeypatch.setenv("COOKBOOK_MODEL", value)
    with pytest.raises(ValueError, match="tiny-v1, tiny-v2, tiny-v3, smol") as error: core.demo_model()
    assert repr(value) in str(error.value)


def test_other_names_pass_through_model_folder():
    assert core.model_folder("zai-org/chatglm3-6b") == "zai-org/chatglm3-6b"
    assert core.model_folder(Path("some/folder")) == os.path.join("some", "folder")


def test_demo_names_become_folders(monkeypatch):
    from types import SimpleNamespace
    small = SimpleNamespace(demo_folder=lambda name: Path("built", name))
    monkeypatch.setitem(sys.modules, "chatglm_cookbook.small", small)
    assert core.model_folder("tiny") == os.path.join("built", "tiny-v3")
    assert core.model_folder("smol-glm3") == os.path.join("built", "smol-glm3")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COOKBOOK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert core.cache_folder() == tmp_path / ".cache" / "chatglm_cookbook"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert core.cache_folder() == tmp_path / "xdg" / "chatglm_cookbook"
    monkeypatch.setenv("COOKBOOK_CACHE", str(tmp_path / "mine"))
    assert core.cache_folder() == tmp_path / "mine"
    assert (tmp_path / "mine").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("COOKBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="cannot make the cache folder .*COOKBOOK_CACHE"): core.cache_folder()


@pytest.mark.parametrize("place", ["chatglm_cookbook/_data", "data"])
def test_data_file_in_a_wheel_and_in_a_clone(monkeypatch, tmp_path, place):
    import chatglm_cookbook
    (tmp_path / "chatglm_cookbook").mkdir()
    machine(tmp_path, {f"{place}/a.jsonl": "1", f"{place}/sub/b.txt": "2", f"{place}/.hidden": "3", "secret": "4"})
    monkeypatch.setattr(chatglm_cookbook, "__path__", [str(tmp_path / "chatglm_cookbook")])
    assert core.data_file("sub/b.txt").read_text() == "2"
    for name in ("c.txt", "../secret", str(tmp_path / "secret"), "sub", ""):
        with pytest.raises(FileNotFoundError, match="there are: a.jsonl, sub/b.txt$"): core.data_file(name)


# hooks

@pytest.fixture
def guests(tmp_path, monkeypatch):
    "A function that writes importable modules; imports and finders are put back afterwards."
    monkeypatch.syspath_prepend(str(tmp_path))
    finders, modules = list(sys.meta_path), set(sys.modules)

    def write(name, text=""):
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return name

    yield write
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules: del sys.modules[name]


def hooks() -> list: return [f for f in sys.meta_path if type(f).__name__ == "_Hook" and "guest" in f.module]


def test_a_hook_fires_once_after_the_module_and_goes(guests):
    guests("guest_one", "import sys\ncalls_so_far = list(sys.guest_calls)\nready = True")
    sys.guest_calls = calls = []
    core.when_imported("guest_one", lambda: calls.append(sys.modules["guest_one"].ready))
    assert importlib.util.find_spec("guest_one").origin.endswith("guest_one.py")
    assert calls == [] and len(hooks()) == 1
    module = importlib.import_module("guest_one")
    assert calls == [True] and module.calls_so_far == [] and hooks() == []
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    importlib.reload(module)
    assert calls == [True]
    core.when_imported("guest_one", lambda: calls.append("now"))
    assert calls == [True, "now"] and hooks() == []


def test_several_hooks_on_one_module_all_fire_and_equal_ones_once(guests):
    calls = []
    first, second = (lambda: calls.append(1)), (lambda: calls.append(2))
    for callback in (first, second, first): core.when_imported("guest_many", callback)
    importlib.import_module(guests("guest_many"))
    assert sorted(calls) == [1, 2] and hooks() == []


def test_a_hook_on_a_submodule_and_a_callback_by_name(guests):
    guests("guest_package.__init__")
    guests("guest_package.inner", "x = 1")
    guests("guest_registry", "done = []\ndef register():\n    import guest_package.inner as i\n    done.append(i.x)")
    core.when_imported("guest_package.inner", "guest_registry:register")
    importlib.import_module("guest_package")
    assert "guest_registry" not in sys.modules
    importlib.import_module("guest_package.inner")
    assert sys.modules["guest_registry"].done == [1] and hooks() == []


def test_a_module_that_fails_keeps_its_hook(guests):
    calls = []
    guests("guest_flaky", "import sys\nif not hasattr(sys, 'guest_may'): raise OSError('not yet')")
    core.when_imported("guest_flaky", lambda: calls.append(1))
    with pytest.raises(OSError, match="not yet"): importlib.import_module("guest_flaky")
    assert calls == [] and len(hooks()) == 1
    sys.guest_may = True
    importlib.import_module("guest_flaky")
    assert calls == [1]


def test_a_callback_that_fails_is_heard_each_time(guests):
    core.when_imported(guests("guest_sad"), "json:no_such_name")
    for _ in range(2):
        with pytest.raises(ImportError, match="json:no_such_name.*guest_sad was imported, failed: AttributeError"):
            importlib.import_module("guest_sad")


def test_no_module_no_call(guests):
    core.when_imported("guest_absent", lambda: pytest.fail("called"))
    with pytest.raises(ModuleNotFoundError, match="guest_absent"): importlib.import_module("guest_absent")
    assert importlib.util.find_spec("guest_absent") is None


def test_threads_that_import_together_call_once_and_see_the_result(guests):
    guests("guest_slow", "import time\ntime.sleep(0.1)\nx = 1")
    calls, seen = [], []

    def use():
        importlib.import_module("guest_slow")
        seen.append(len(calls))

    core.when_imported("guest_slow", lambda: (time.sleep(0.05), calls.append(1)))
    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert calls == [1] and seen == [1] * 8 and hooks() == []


def test_a_module_that_another_thread_still_executes_is_waited_for(guests):
    guests("guest_halfway", "import time\ntime.sleep(0.3)\nready = True")
    thread = threading.Thread(target=importlib.import_module, args=["guest_halfway"])
    thread.start()
    while "guest_halfway" not in sys.modules: time.sleep(0.001)
    found = []
    core.when_imported("guest_halfway", lambda: found.append(sys.modules["guest_halfway"].ready))
    assert found == [True]
    thread.join()


def test_modules_from_an_archive_and_built_in_ones(tmp_path):
    with zipfile.ZipFile(tmp_path / "guest.zip", "w") as archive:
        for name in ("zipped_one", "zipped_two"): archive.writestr(f"{name}.py", "import pickle\ndef f(): return 3")
    out = python(alone(f"""
        calls = []
        core.when_imported("zipped_one", lambda: calls.append("zip"))
        core.when_imported("_queue", lambda: calls.append("built-in"))
        sys.path.insert(0, {str(tmp_path / "guest.zip")!r})
        sys.modules.pop("_queue", None)
        import zipped_two, zipped_one, _queue, inspect
        restored = zipped_one.pickle.loads(zipped_one.pickle.dumps(zipped_one.f))
        print(calls, restored(), inspect.getsource(zipped_one.f))
    """))
    assert out.strip() == "['zip', 'built-in'] 3 def f(): return 3"


def test_a_module_run_as_a_script(guests, tmp_path):
    guests("guest_script", "print('runs', __name__)")
    out = python(alone("""
        import runpy
        core.when_imported("guest_script", lambda: print("called"))
        runpy.run_module("guest_script", run_name="__main__")
        import guest_script
    """), tmp_path)
    assert out.split("\n")[:3] == ["runs __main__", "runs guest_script", "called"]


def test_with_transformers_registration_waits_for_the_auto_classes():
    out = python(alone("""
        import time
        def register():
            from transformers import AutoConfig, PretrainedConfig
            AutoConfig.register("guest-glm", type("GuestConfig", (PretrainedConfig,), {"model_type": "guest-glm"}))
            print("registered")
        name = "transformers.models.auto.configuration_auto"
        core.when_imported(name, register)
        import transformers
        print("transformers is there", name in sys.modules, importlib.util.find_spec("transformers.models.auto") is not None)
        from transformers import AutoModelForCausalLM, AutoConfig
        print(type(AutoConfig.for_model("guest-glm")).__name__)
        print([f for f in sys.meta_path if type(f).__name__ == "_Hook"], type(sys.modules[name].__loader__).__name__)
    """))
    assert out.strip().split("\n") == ["transformers is there False True", "registered", "GuestConfig", "[] SourceFileLoader"]


def test_with_transformers_a_failing_callback_is_not_hidden():
    out = python(alone("""
        def register(): raise RuntimeError("the reason")
        core.when_imported("transformers.models.auto.configuration_auto", register)
        for _ in range(2):
            try: from transformers import AutoModelForCausalLM
            except ImportError as e: print(e)
    """))
    assert out.count("RuntimeError('the reason')") == 2


def test_what_is_no_callback_is_refused():
    for callback in ("json.dumps", "", None, 3, "a:b:c"):
        with pytest.raises(ValueError, match="package.module:function"): core.when_imported("guest_x", callback)
    assert hooks() == []


# plots

class Screen:
    "Takes what a notebook would show."
    def __init__(self): self.shown = []
    def display(self, bundle, raw): self.shown.append(("display", bundle))
    def update(self, bundle, raw): self.shown.append(("update", bundle))


def test_a_style_leaves_nothing_behind_and_needs_no_missing_font(recwarn):
    import matplotlib
    from matplotlib.figure import Figure
    before = dict(matplotlib.rcParams)
    with core.plot_style(width=5, height=2):
        figure = Figure()
        figure.subplots().set_title("loss −1")
        figure.canvas.draw()
    assert list(figure.get_size_inches()) == [5, 2]
    assert dict(matplotlib.rcParams) == before and not list(recwarn)


def test_in_a_file_a_line_for_each_tenth(capsys):
    with core.LossPlot(1000, title="run") as plot:
        for step in range(1, 1001):
            plot.update(step, 1 / step)
            plot._next = 0.0  # as if time had passed
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0].startswith("run: step 100 of 1000, loss 0.01 (smoothed ")
    assert lines[-1].startswith("run: step 1000 of 1000") and lines[-1].endswith("0:00:00 left")


def test_in_a_terminal_one_line_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with core.LossPlot(3) as plot:
        for step in range(1, 4):
            plot.update(step, step)
            plot._next = 0.0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.endswith("left\n") and out.count("\r") == 4


@pytest.mark.parametrize("terminal", [False, True])
def test_the_last_step_is_printed_once(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    with core.LossPlot(40) as plot:
        for step in range(1, 41):
            plot.update(step, 1 / step)
            plot._next = 0.0
    plot.close()
    plot.update(40, eval_loss=2.0)  # as a Trainer does that evaluates after training
    lines = [line.split("\r")[-1] for line in capsys.readouterr().out.split("\n")]  # what stays on a screen
    assert sum("step 40 of 40" in line for line in lines) == 1
    plot.update(41, 1.0)
    assert "step 41 of 40" in capsys.readouterr().out


def test_a_run_that_stops_between_tenths_prints_where(capsys):
    with core.LossPlot(1000) as plot:
        for step in range(1, 150):
            plot.update(step, 1.0)
            plot._next = 0.0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["loss: step 100 of 1000", "loss: step 149 of 1000"]


def test_drawing_is_rare(monkeypatch):
    plot, draws = core.LossPlot(10**6), []
    plot._handle = Screen()
    monkeypatch.setattr(core, "_png", lambda plot: draws.append(1) or time.sleep(0.05) or b"")
    start = time.perf_counter()
    while time.perf_counter() - start < 2.2: plot.update(1, 1.0)
    assert len(draws) <= 3  # each takes 0.05 s, so one second passes between them


def test_remaining_time_counts_from_the_first_step_seen():
    plot = core.LossPlot(1000)
    plot.update(500, 1.0)
    plot._first = (time.perf_counter() - 100, 500)
    plot.update(600, 1.0)
    assert core._status(plot).endswith("0:01:40 elapsed, 0:06:40 left")


def test_what_goes_in_is_kept_as_numbers(capsys):
    import numpy
    import torch
    plot = core.LossPlot(2)
    plot.update(1, torch.tensor(2.0, requires_grad=True) * 1)
    plot.update(2, numpy.float32(1.5), eval_loss=torch.tensor([3.0]))
    plot.update(2)
    assert plot.history == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "eval_loss": 3.0}]
    assert json.loads(json.dumps(plot.history)) == plot.history


def test_the_smoothed_loss_by_hand():
    assert core._smoothed([4, 2, 2], 0.5) == pytest.approx([4, 8 / 3, (4 / 8 + 2 / 4 + 2 / 2) / (7 / 8)])
    assert core._smoothed([4, 1, 7], 0) == [4, 1, 7]
    broken = core._smoothed([math.nan, 4, math.inf, 4], 0.9)
    assert broken[1::2] == pytest.approx([4, 4]) and math.isnan(broken[0]) and math.isnan(broken[2])


def test_losses_that_are_not_finite_are_marked(monkeypatch):
    from matplotlib.figure import Figure
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: seen.append(self.axes[0]))
    plot = core.LossPlot()
    plot.history = [{"step": i, "loss": v} for i, v in enumerate([1.0, math.nan, 2.0, math.inf], 1)]
    plot.closed = True
    core._png(plot)
    assert [t.get_text() for t in seen[0].get_legend().get_texts()][-1] == "not finite: 2, first at step 2"
    assert list(seen[0].lines[-1].get_xdata()) == [2, 4]


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0], [1.0, float("nan"), 2.0], [1.0]])
def test_every_kind_of_history_can_be_drawn(values, recwarn):
    plot = core.LossPlot(len(values) or None)
    plot._handle = Screen()
    with plot:
        for step, value in enumerate(values, 1): plot.update(step, value, eval_loss=value if step == 2 else None)
    pictures = [bundle["image/png"] for _, bundle in plot._handle.shown]
    assert len(pictures) == (2 if values else 0) and not list(recwarn)


def test_an_error_in_the_run_leaves_the_curve_and_passes():
    plot = core.LossPlot(10)
    plot._handle = Screen()
    with pytest.raises(KeyError), plot:
        plot.update(1, 1.0)
        raise KeyError("x")
    assert plot.closed and [kind for kind, _ in plot._handle.shown] == ["display", "update"]


def test_without_matplotlib_a_notebook_gets_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plot = core.LossPlot(10)
    plot._handle = Screen()
    plot.update(1, 1.0)
    (_, bundle), = plot._handle.shown
    assert "image/png" not in bundle and bundle["text/plain"].startswith("step 1 of 10, loss 1 ")


def test_a_stored_notebook_keeps_one_small_figure(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    cell = """
        import time
        from chatglm_cookbook.core import LossPlot
        with LossPlot(400, title="a run") as plot:
            for step in range(1, 401):
                plot.update(step, 1 / step, eval_loss=1 / step if step % 100 == 0 else None)
                time.sleep(0.01)
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell))])
    updates = []

    class Client(NotebookClient):
        def process_message(self, message, *args, **kwargs):
            if message["msg_type"] == "update_display_data": updates.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, *args, **kwargs)

    Client(notebook, timeout=120, kernel_name="python3").execute()
    output, = notebook.cells[0].outputs
    assert output.data["text/plain"] == "a run: 400 values"
    assert len(output.data["image/png"]) * 3 / 4 < 60_000
    assert len(updates) >= 2  # it moved while it ran


def test_the_trainer_reports_nan_as_nan(tmp_path):
    import torch
    from transformers import Trainer, TrainingArguments

    class Line(torch.nn.Linear):
        def forward(self, x, labels): return {"loss": (super().forward(x) - labels).pow(2).mean()}

    torch.manual_seed(0)
    rows = [{"x": torch.randn(1), "labels": torch.ones(1)} for _ in range(8)]
    broken = [{"x": row["x"], "labels": row["labels"] * math.nan} for row in rows]
    for data, finite in ((rows, True), (broken, False)):
        plot = core.LossPlot()
        plot._handle = Screen()
        args = TrainingArguments(str(tmp_path), max_steps=3, logging_steps=1, use_cpu=True, disable_tqdm=True,
                                 report_to="none", save_strategy="no", eval_strategy="steps", eval_steps=3)
        trainer = Trainer(Line(1, 1), args, train_dataset=data, eval_dataset=rows, callbacks=[core.loss_callback(plot)])
        trainer.train()
        assert [math.isfinite(r["loss"]) for r in plot.history if "loss" in r] == [finite] * 3
        assert [r["step"] for r in plot.history if "eval_loss" in r] == [3]
        assert plot.total == 3 and plot.closed
        trainer.evaluate()
        assert plot.history[-1]["eval_loss"] == pytest.approx(plot.history[-2]["eval_loss"], nan_ok=True)


@pytest.mark.parametrize("settings", [{"total": 0}, {"total": -3}, {"smooth": 1.0}, {"smooth": -0.1}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"): core.LossPlot(**settings)
