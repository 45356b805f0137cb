"""The tour and the benchmark, run as `make` runs them, on a tiny model in a few seconds."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent


def run(tmp_path, *arguments):
    env = {**os.environ, "COOKBOOK_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"),
           "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=env, capture_output=True, text=True,
                          encoding="utf-8", timeout=300)


@pytest.mark.slow
def test_tour(tmp_path):
    done = run(tmp_path, "tools/tour.py", "--model", "tiny", "--seconds", "10", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = map(float, re.search(r"loss ([\d.]+) → ([\d.]+)", done.stdout).groups())
    assert last < first
    assert "| question " in done.stdout and "What is the capital of France?" in done.stdout
    assert "merged and adapter answers are equal" in done.stdout and "make lab" in done.stdout
    assert (tmp_path / "out" / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_tour_says_what_is_wrong(tmp_path):
    done = run(tmp_path, "tools/tour.py", "--model", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "The tour ended early" in done.stderr and "nowhere" in done.stderr
    assert run(tmp_path, "tools/tour.py", "--seconds", "0").returncode == 2
    (tmp_path / "recipe.yaml").write_text("rank: 8\nlr: 0.001\n")
    done = run(tmp_path, "tools/tour.py", "--recipe", str(tmp_path / "recipe.yaml"))
    assert done.returncode == 2 and "learning_rate" in done.stderr


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_only_the_answer_and_its_stop_are_learnt(generation):
    sys.path.insert(0, str(root / "tools"))
    import tour

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.deploy import stop_ids
    model, tokenizer = load_model(f"tiny-v{generation}"), load_tokenizer(f"tiny-v{generation}")
    stops = stop_ids(model, tokenizer)
    ids, labels = tour.example(tokenizer, stops, tour.training_rows()[0])
    learnt = [i for i in labels if i != -100]
    assert learnt == ids[-len(learnt):] and learnt[-1] in stops and not set(learnt[:-1]) & set(stops)
    assert tokenizer.decode(learnt[:-1]).strip() == tour.training_rows()[0][1]["content"]


@pytest.mark.slow
def test_bench(tmp_path):
    done = run(tmp_path, "tools/bench.py", "--only", "encode", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert "fast tokenizer, one batch" in done.stdout and "ids identical" in done.stdout
