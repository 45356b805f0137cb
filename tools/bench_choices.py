"""`make bench`: questions of multiple choice a second, five solved examples, beside lm_eval on the same model and questions."""
from __future__ import annotations

import contextlib
import io
import logging
import statistics
import tempfile
import time
from importlib.util import find_spec

from bench import print_table, shared, spread


def questions(count: int) -> tuple[dict, str]:
    "About `count` questions of real CMMLU where it is, else of the bundled ones, and where they come from."
    from chatglm_cookbook.choices import load_questions
    from chatglm_cookbook.core import data_file
    place = shared("data/cmmlu")
    if place.is_dir(): return load_questions(place, subjects=["agronomy", "computer_security"], max_samples=count // 2), "CMMLU"
    bundled = data_file("choices/test_zh_units.csv").parent
    return load_questions(bundled, subjects=["zh_idioms", "en_science_basics"], max_samples=count // 2), "bundled questions"


def theirs(model, tokenizer, asked: dict, batch_size: int, folder: str) -> tuple[list, float]:
    "The log-likelihoods that lm_eval finds, and the seconds it took without imports and without reading files."
    import lm_eval
    from datasets import disable_progress_bars
    from lm_eval.tasks import TaskManager

    from chatglm_cookbook.choices import lm_eval_model, lm_eval_tasks
    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    names, lm = lm_eval_tasks(asked, folder, 5), lm_eval_model(model, tokenizer, batch_size)
    manager = TaskManager(include_path=folder, include_defaults=False)
    real, spent = type(lm).loglikelihood, []

    def timed(self, requests, **options):
        start = time.perf_counter()
        found = real(self, requests, **options)
        spent.append(time.perf_counter() - start)
        return found
    type(lm).loglikelihood = timed
    with contextlib.redirect_stderr(io.StringIO()):
        found = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True)["samples"]
    rows = [s for name in names for s in sorted(found[name], key=lambda s: s["doc_id"])]
    return [[score for (score, _), in s["resps"]] for s in rows], sum(spent)


def bench_choices(n: int, count: int = 32, batch_size: int = 8) -> None:
    import torch
    import transformers

    from chatglm_cookbook.checkpoints import load_model, load_tokenizer
    from chatglm_cookbook.choices import multiple_choice
    transformers.utils.logging.disable_progress_bar()
    model, tokenizer = load_model("smol", dtype=torch.float32), load_tokenizer("smol")
    asked, source = questions(count)
    total, few = sum(len(s.test) for s in asked.values()), {k: v for k, v in [*asked.items()][:1]}
    plans = {"prefix read once": {}, "without the prefix cache": {"prefix_cache": False}}
    multiple_choice(model, tokenizer, few, style="input_output", batch_size=batch_size)  # warms up
    speed: dict[str, list[float]] = {name: [] for name in plans}
    speed |= {"lm_eval": []} if find_spec("lm_eval") else {}
    off, ours = 0.0, []
    for _ in range(n):
        for name, options in plans.items():
            start = time.perf_counter()
            found = multiple_choice(model, tokenizer, asked, style="input_output", batch_size=batch_size, **options)
            speed[name].append(total / (time.perf_counter() - start))
            ours = [list(a["scores"].values()) for a in found.answers]
        if "lm_eval" not in speed: continue
        with tempfile.TemporaryDirectory() as folder: scores, seconds = theirs(model, tokenizer, asked, batch_size, folder)
        speed["lm_eval"].append(total / seconds)
        assert [max(range(4), key=r.__getitem__) for r in ours] == [max(range(4), key=r.__getitem__) for r in scores]
        off = max(off, *(abs(a - b) for x, y in zip(ours, scores) for a, b in zip(x, y)))
    base = statistics.median(speed.get("lm_eval") or speed["without the prefix cache"])
    rows = [{"way": name, "questions/s": spread(v, "{:,.2f}"), "× lm_eval": f"{statistics.median(v) / base:.2f}"}
            for name, v in speed.items()]
    alone = "lm_eval is not installed: × the second line"
    said = f"choices equal, log-likelihoods within {off:.0e}" if "lm_eval" in speed else alone
    print_table("Multiple choice, five examples", rows, f"smol in float32, {total} questions of {source}, batch {batch_size}, "
                f"{torch.get_num_threads()} threads; {said}; goal 1.5 × lm_eval; median of {n} (min–max).")


if __name__ == "__main__":
    import sys
    bench_choices(int(sys.argv[1]) if len(sys.argv) > 1 else 1, int(sys.argv[2]) if len(sys.argv) > 2 else 32)
