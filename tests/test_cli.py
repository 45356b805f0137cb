"""The command line: help without imports, errors in one line, a run that is killed and goes on."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import chatglm_cookbook
from chatglm_cookbook import cli
from chatglm_cookbook.core import data_file

root = Path(__file__).resolve().parent.parent


def chatglm(*arguments, **more):
    command = [sys.executable, "-W", "ignore", "-m", "chatglm_cookbook.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **more}, timeout=200)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(f"model: tiny\ndata: {data_file('self_cognition.jsonl')}\noutput: {tmp_path / 'run'}\nsteps: 2\nlength: 48\n")
    return path


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["train", "--help"], ["chat", "--help"], ["serve", "--help"], ["ui", "--help"], ["doctor", "--help"], ["data", "check", "-h"], ["--version"], []])
def test_help_and_version_import_neither_torch_nor_transformers(arguments):
    code = ("import sys; from chatglm_cookbook.cli import main; status = main(sys.argv[1:]);"
            "print(status, sorted({'torch', 'transformers', 'numpy', 'yaml'} & {*sys.modules}))")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{0 if arguments else 2} []"


def test_version_is_that_of_the_package_and_of_the_project():
    said = chatglm("--version").stdout
    assert said.startswith(f"chatglm-cookbook {chatglm_cookbook.__version__} (Python {sys.version.split()[0]}, torch ")
    assert "missing" not in said


def commands(group, words=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"): yield from commands(command, (*words, name))
        else: yield [*words, name], command


def test_every_command_is_there_and_has_help_of_its_own(capsys):
    assert [words for words, _ in commands(cli._chatglm)] == [["data", "check"], ["chat"], ["serve"], ["ui"], ["doctor"], ["train"], ["eval"], ["rlhf"]]
    for words, command in commands(cli._chatglm):
        assert cli.main([*words, "--help"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"Usage: chatglm {' '.join(words)} ") and command.help.splitlines()[0] in said


def test_the_options_of_data_check_are_those_of_its_module(capsys):
    from chatglm_cookbook import validate
    with pytest.raises(SystemExit): validate.main(["--help"])
    real = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    declared = cli._data.commands["check"].params
    assert real == {o for p in declared if p.param_type_name == "option" for o in p.opts}


@pytest.mark.parametrize("arguments, told", [
    (["trian", "a.yaml"], "chatglm: No such command 'trian'. Did you mean 'train'?"),
    (["data", "chek", "a"], "chatglm data: No such command 'chek'. Did you mean 'check'?"), (["juggle"], "No such command 'juggle'."),
    (["data", "check", "a.jsonl", "--fixx"], "No such option '--fixx'. Did you mean '--fix'?"),
    (["data", "check", "a.jsonl", "--max-length=x"], "'x' is not a valid integer"), (["data", "check"], "Missing argument 'FILE...'"),
    (["train"], "chatglm train: Missing argument 'RECIPE.yaml'"), (["train", "no.yaml", "b.yaml"], "no recipe no.yaml"),
    (["train", "a.yaml", "--rank=3"], "no option --rank=3; settings are written key=value, as in rank=16"),
    (["train", "a.yaml", "--resum"], "no option --resum; settings are written key=value"),
    (["train", "nothing.yaml"], "no recipe nothing.yaml; configs/recipes has some")])
def test_what_the_caller_can_mend_is_one_line_and_status_2(arguments, told, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert told in said.err and len(said.err.strip().splitlines()) == 1 and not said.out


def test_a_file_that_is_not_there_is_one_line(capsys):
    assert cli.main(["data", "check", "nothing.jsonl"]) == 2
    said = capsys.readouterr().err.strip()
    assert "nothing.jsonl" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("arguments, line", [([], "Usage: chatglm "), (["data"], "Usage: chatglm data ")])
def test_a_group_without_a_command_shows_its_help_and_is_an_error(arguments, line, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out.startswith(line) and "Commands:" in said.out and not said.err


def test_errors_of_ours_keep_their_stack_and_stopped_runs_their_status(monkeypatch, capsys):
    import chatglm_cookbook.train as train
    from chatglm_cookbook.train import TrainingStopped
    raised = []
    def function(*arguments, **more): raise raised[-1]
    monkeypatch.setattr(train, "train_recipe", function)
    for error, status in [(TrainingStopped("loss_zero", 3, "why", "cure"), 3), (TrainingStopped("interrupted", 3, "why", "cure"), 130),
                          (KeyboardInterrupt(), 130), (ImportError("pip install it"), 2)]:
        raised.append(error)
        assert cli.main(["train", "a.yaml"]) == status
    assert "chatglm train: loss_zero at step 3: why; cure" in capsys.readouterr().err
    for error in (RuntimeError("ours"), KeyError("ours")):
        raised.append(error)
        with pytest.raises(type(error)): cli.main(["train", "a.yaml"])
    raised.append(ValueError("mine"))
    monkeypatch.setenv("CHATGLM_DEBUG", "1")
    with pytest.raises(ValueError, match="mine"): cli.main(["train", "a.yaml"])


def test_advice_is_in_the_words_of_the_command(recipe, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").touch()
    assert cli.main(["train", str(recipe)]) == 2
    assert "holds an earlier run; go on with --resume, or take another folder" in capsys.readouterr().err.splitlines()[-1]


def test_train_hands_everything_on(monkeypatch, tmp_path, capsys):
    import chatglm_cookbook.train as train
    seen = []
    result = type("Result", (), {"folder": "F", "log": "L", "__repr__": lambda self: "a table"})()
    monkeypatch.setattr(train, "train_recipe", lambda *a, **kw: seen.append((a, kw)) or result)
    assert cli.main(["train", "a.yaml", "rank=2", "alpha=-1", "--resume", "steps="]) == 0
    assert seen == [(("a.yaml", "rank=2", "alpha=-1", "steps="), {"resume": True})]
    assert capsys.readouterr().out == "a table\nsaved in F, log in L\n"
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "a.yaml"]) == 0 and not capsys.readouterr().out and not seen[-1][1]["resume"]


def test_a_command_elsewhere_is_imported_when_it_runs_and_gets_what_was_typed(tmp_path, monkeypatch):
    (tmp_path / "later.py").write_text("seen = []\ndef main(words): seen.append(words); return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import click
    monkeypatch.setitem(cli._chatglm.commands, "later", cli._Elsewhere("later", "later:main", "Comes later."))
    monkeypatch.setitem(cli._chatglm.commands, "strict", cli._Elsewhere("strict", "later:main", "Knows its options.",
                                                                        click.Option(["--port"], type=int)))
    assert cli.main(["--help"]) == 0 and cli.main(["strict", "--help"]) == 0 and cli.main(["strict", "--port", "x"]) == 2
    assert "later" not in sys.modules
    assert cli.main(["later", "--help", "x", "-y", "--z=1"]) == 1 and cli.main(["strict", "--port", "7"]) == 1
    assert sys.modules.pop("later").seen == [["--help", "x", "-y", "--z=1"], ["--port", "7"]]


def test_settings_are_checked_before_a_model_is_loaded(recipe, monkeypatch, capsys):
    import chatglm_cookbook.checkpoints as checkpoints
    monkeypatch.setattr(checkpoints, "load_model", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    for override, told in [("rnak=4", "did you mean rank?"), ("learning_rate=2e-2", "belongs to P-Tuning"), ("rank=x", "needs int"),
                           ("precision=fp16", "needs a GPU"), ("report=mlflo", "no 'mlflo'"), ("data=no.jsonl", "no.jsonl")]:
        assert cli.main(["train", str(recipe), override]) == 2
        assert told in capsys.readouterr().err


def test_data_check_finds_and_mends(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "", "output": ""}\n')
    done = chatglm("data", "check", file, "--fix")
    assert done.returncode == 1 and "rows.jsonl" in done.stdout
    assert [json.loads(line)["instruction"] for line in (tmp_path / "rows.fixed.jsonl").read_text().splitlines()] == ["a"]
    assert cli.main(["data", "check", str(tmp_path / "rows.fixed.jsonl")]) == 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill a process at once")
def test_a_killed_command_goes_on_with_resume_to_the_same_weights(recipe, tmp_path):
    settings = ["steps=400", "save_every=5", "learning_rate=1e-3", "dropout=0.1", "schedule=constant"]
    command = [sys.executable, "-W", "ignore", "-m", "chatglm_cookbook.cli", "train", str(recipe), *settings]
    env, log = {**os.environ, "OMP_NUM_THREADS": "1"}, tmp_path / "run" / "log.jsonl"
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 100
    while not (log.exists() and log.read_text().count("grad_norm") > 12) and process.poll() is None and time.time() < end: time.sleep(0.01)
    process.kill()
    process.wait()
    reached = log.read_text().count("grad_norm")
    assert 12 < reached < 400
    steps = f"steps={reached + 3}"
    done = chatglm("train", recipe, *settings[1:], steps, "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    whole = chatglm("train", recipe, *settings[1:], steps, f"output={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr[-2000:]
    a, b = ((tmp_path / folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in ("run", "whole"))
    assert a == b
    logged = [e["step"] for e in map(json.loads, log.read_text().splitlines()) if "grad_norm" in e]
    assert logged == list(range(1, reached + 4))


def test_the_project_installs_the_command():
    assert '[project.scripts]\nchatglm = "chatglm_cookbook.cli:main"' in (root / "pyproject.toml").read_text()
    assert "console_scripts = chatglm=chatglm_cookbook.cli:main" in (root / "settings.ini").read_text()
