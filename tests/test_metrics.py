"""Metrics against nltk, rouge-chinese and sacrebleu on real pairs, intervals by simulation, perplexity and the probe."""
import json
import math
import os
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.metrics import (Score, Scores, _cuts, _jieba, _options, _windows, bleu4, bootstrap_interval, corpus_bleu,
                                      exact_match, forgetting_probe, perplexity, rouge_en, rouge_zh)

relaxed = settings(deadline=None, max_examples=60, derandomize=True)
rouges = ("rouge-1", "rouge-2", "rouge-l")


@pytest.fixture(scope="module")
def pairs(shared):
    "500 real advertisements: each against the next one, or half of itself followed by half of the next."
    file = shared / "data" / "advertise_gen_dev.jsonl"
    if not file.is_file(): pytest.skip("advertise_gen_dev.jsonl is not in the shared data")
    texts = [json.loads(line)["summary"] for line in file.read_text(encoding="utf-8").splitlines()[:501]]
    mixed = [b if i % 2 else a[:len(a) // 2] + b[len(b) // 2:] for i, (a, b) in enumerate(zip(texts, texts[1:]))]
    return mixed, texts[:500]


@pytest.fixture(scope="module", params=["tiny-v1", "tiny-v2", "tiny-v3"])
def tiny(request): return load_model(request.param), load_tokenizer(request.param)


@pytest.fixture(scope="module")
def v3(): return load_model("tiny-v3"), load_tokenizer("tiny-v3")


# the scores of the original evaluations

def original(predictions, references, words=False):
    "What the evaluation of ChatGLM-6B computes for each row, before it rounds."
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge
    jieba.setLogLevel(60)
    smooth, rows = SmoothingFunction().method3, []
    for said, wanted in zip(predictions, references):
        cut = [list(jieba.cut(text)) for text in (said, wanted)]
        found = Rouge().get_scores(*map(" ".join, cut))[0]
        a, b = cut if words else (list(said), list(wanted))
        rows.append([found[k]["f"] * 100 for k in rouges] + [sentence_bleu([b], a, smoothing_function=smooth) * 100])
    return np.array(rows).T


def test_equal_to_nltk_and_rouge_chinese_on_real_pairs(pairs):
    wanted = original(*pairs)
    found = [*rouge_zh(*pairs).values(), bleu4(*pairs)]
    assert [s.name for s in found] == [*rouges, "bleu-4"]
    for score, rows in zip(found, wanted):
        assert np.abs(score.values - rows).max() < 1e-9
        assert abs(score - rows.mean()) < 1e-9 and rows.std() > 1
    rounded = [*rouge_zh(*pairs, decimals=4).values(), bleu4(*pairs, decimals=4)]
    for score, rows in zip(rounded, wanted):
        assert np.abs(score.values - [round(x, 4) for x in rows]).max() < 1e-9
        assert abs(score - np.mean([round(x, 4) for x in rows])) < 1e-9


def test_bleu_of_words_is_what_the_evaluation_of_chatglm3_takes(pairs):
    few = [side[:60] for side in pairs]
    assert np.abs(bleu4(*few, tokenize="words").values - original(*few, words=True)[3]).max() < 1e-9


@pytest.mark.parametrize("tokenize", ["zh", "13a", "char", "intl", "none"])
def test_corpus_bleu_is_sacrebleu_empty_rows_included(tokenize):
    from sacrebleu.metrics import BLEU
    said = ["你好，世界很好。", "the cat sat on the mat", "", "我 们 去 看 海", "白色 连衣裙", "abc"]
    wanted = ["你好，世界不好。", "the cat is on the mat", "是的", "我 们 去 爬 山", "白色 的 连衣裙", ""]
    found = corpus_bleu(said, wanted, tokenize)
    assert found == pytest.approx(BLEU(tokenize=tokenize).corpus_score(said, [wanted]).score, abs=1e-9)
    low, high = found.interval(n=300)
    assert 0 <= low <= found <= high <= 100 and high > low and found.values[2] == found.values[5] == 0


def test_corpus_bleu_on_real_pairs_is_no_mean_of_rows(pairs):
    from sacrebleu.metrics import BLEU
    found = corpus_bleu(*pairs)
    assert found == pytest.approx(BLEU(tokenize="zh").corpus_score(pairs[0], [pairs[1]]).score, abs=1e-9)
    assert abs(found - found.values.mean()) > 0.1


def test_a_private_dictionary_cuts_as_jieba_does_and_ignores_words_added_to_it(pairs):
    import jieba
    for text in pairs[1][:50]: assert _cuts["words"](text) == jieba.lcut(text)
    total = jieba.dt.total
    jieba.add_word("连衣裙采用", freq=10**9)
    try: assert "连衣裙采用" not in _cuts["words"]("连衣裙采用棉") and "连衣裙采用" in jieba.lcut("连衣裙采用棉")
    finally:
        jieba.del_word("连衣裙采用")
        jieba.dt.total = total  # which del_word leaves as it is, and every other test would cut by it


def test_nothing_is_said_on_stdout_or_stderr_and_no_heavy_import_comes_early(tmp_path):
    code = ("import sys, chatglm_cookbook.metrics as m; heavy = {'torch', 'jieba', 'nltk', 'sacrebleu', 'rouge_chinese', 'pandas'};"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules); m.rouge_zh('白色连衣裙', '白色的裙子')")
    env = {**os.environ, "COOKBOOK_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.name for p in tmp_path.iterdir()] == ["jieba.cache"]


# ROUGE written a second time

def common(a, b):
    "Length of the longest common subsequence."
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b): last, row[j + 1] = row[j + 1], last + 1 if x == y else max(row[j], row[j + 1])
    return row[-1]


def f_of(both, a, b): return 200 * both / (a + b) if both else 0.0


words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat", "a"]), min_size=1, max_size=9)


@relaxed
@given(words, words)
def test_rouge_by_counting(a, b):
    text = " ".join(a), " ".join(b)
    grams = lambda words, n: Counter(zip(*(words[k:] for k in range(n))))
    counts = [(grams(a, n), grams(b, n)) for n in (1, 2)]
    lcs = f_of(common(a, b), len(a), len(b))
    for score, counted in ((rouge_en(*text), Counter.total if hasattr(Counter, "total") else lambda c: sum(c.values())),
                           (rouge_zh(*text, tokenize="spaces"), len)):
        wanted = [f_of(counted(p & q), counted(p), counted(q)) for p, q in counts] + [lcs]
        assert [*score.values()] == pytest.approx(wanted, abs=2e-5)


@relaxed
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_has_a_score_between_0_and_100(a, b):
    for score in (bleu4(a, b), *rouge_zh(a, b).values(), *rouge_en(a, b).values(), corpus_bleu(a, b), exact_match(a, b)):
        assert 0 <= score <= 100 + 1e-9
        if not a.strip() or not b.strip(): assert score == 0 and "empty" in score.note
    if a.strip(): assert exact_match(a, a) == 100


def test_empty_rows_are_kept_as_zero_and_said():
    said, wanted = ["你好吗朋友", "", "你好", "\n "], ["你好吗朋友", "你好", "  ", ""]
    scores = Scores(rouge_zh(said, wanted), **{"bleu-4": bleu4(said, wanted), "sacrebleu": corpus_bleu(said, wanted)})
    for score in scores.values():
        assert score.values[1:].tolist() == [0, 0, 0] and score.values[0] == pytest.approx(100, abs=1e-5) and len(score.rows) == 4
    for text in (repr(scores), scores._repr_markdown_()): assert text.count("3 of 4 rows") == 1


def test_words_that_the_cut_does_not_find_are_said():
    note = rouge_en(["白色", "a cat", ""], ["白色", "a cat", ""])["rouge-1"].note
    assert "1 of 3 rows have an empty" in note and "1 rows have no word" in note


@pytest.mark.parametrize("score", [bleu4, rouge_zh, rouge_en, corpus_bleu, exact_match])
def test_refusals(score):
    for said, wanted, kind, words in [
            (["a"], ["a", "b"], ValueError, "1 predictions but 2 references"), ([], [], ValueError, "predictions is empty"),
            (["a"], [], ValueError, "references is empty"), ("a", ["a"], TypeError, "predictions must be a list"),
            (["a"], "a", TypeError, "references must be a list"), (["a", None], ["a", "b"], TypeError, r"predictions\[1\]"),
            (["a"], [["a"]], TypeError, r"references\[0\]"), (None, ["a"], TypeError, "predictions must be"),
            ({"a": 1}, ["a"], TypeError, "predictions must be"), (3, ["a"], TypeError, "predictions must be")]:
        with pytest.raises(kind, match=words): score(said, wanted)
    assert type(score(iter(["a"]), ("a",))) in (Score, Scores)


def test_a_missing_package_names_the_extra(monkeypatch):
    calls = {"jieba": lambda: rouge_zh("a", "a"), "rouge_chinese": lambda: rouge_en("a", "a"),
             "nltk": lambda: bleu4("a", "a"), "sacrebleu": lambda: corpus_bleu("a", "a")}
    for package, call in calls.items():
        _jieba.cache_clear()
        with monkeypatch.context() as m:
            for name in [n for n in sys.modules if n.split(".")[0] == package]: m.delitem(sys.modules, name)
            m.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf'{package} is missing: pip install "chatglm-cookbook\[metrics\]"'): call()
    assert rouge_zh("好", "好")["rouge-1"] > 99
    with pytest.raises(ValueError, match="tokenize must be one of"): rouge_zh("a", "a", tokenize="13a")


@pytest.mark.parametrize("said, wanted, same", [
    ("Ｐａｒｉｓ！", "paris", 1), ("the U.S.A.", "usa", 1), ("答案是 42。", "答案是42", 1), ("-5", "−5", 1), ("0.50", "0.5", 0),
    ("- 5", "5", 1), ("1,000", "1000", 0), ("3/4", "34", 0), ("50 %", "50", 1), ("50%", "50", 0), ("don't", "dont", 1),
    ("The", "an", 0), ("", "the", 0), ("...", "", 0), ("...", "!", 0), ("...", "...", 1), ("x-y", "xy", 1), ("选A", "选a", 1)])
def test_exact_match(said, wanted, same):
    assert exact_match(said, wanted) == exact_match(wanted, said) == 100 * same


# intervals

@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_coverage_of_the_true_mean(method):
    "95 % intervals of skewed scores hold the true mean in about 95 % of 600 simulated test sets."
    draw, held, below = np.random.default_rng(3), 0, 0
    for k in range(600):
        low, high = bootstrap_interval(draw.beta(1.33, 7, 100) * 100, n=800, seed=k, method=method)
        held += low <= 100 * 1.33 / 8.33 <= high
        below += high < 100 * 1.33 / 8.33
    assert 0.92 < held / 600 < 0.975
    assert below > 600 * 0.015  # the skewness makes the upper end the one that is too low


def test_bca_by_the_book():
    "BCa for the median-free textbook case: quantiles moved by bias and acceleration, computed a second time."
    from statistics import NormalDist
    z, rows = NormalDist(), np.random.default_rng(5).gamma(0.7, 10, 60)
    draw = np.random.default_rng(0)
    found = np.sort([rows[draw.integers(60, size=60)].mean() for _ in range(4000)])
    shift = z.inv_cdf((found < rows.mean()).mean())
    jack = np.array([np.delete(rows, i).mean() for i in range(60)])
    gaps = jack.mean() - jack
    pull = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    assert pull > 0.02
    for q, end in zip((0.05, 0.95), bootstrap_interval(rows, level=0.9, n=4000)):
        moved = z.cdf(shift + (shift + z.inv_cdf(q)) / (1 - pull * (shift + z.inv_cdf(q))))
        assert end == pytest.approx(np.quantile(found, moved), abs=0.15)
        assert abs(end - np.quantile(found, q)) > 0.2  # and it is not the percentile


def test_paired_interval_with_any_statistic():
    draw = np.random.default_rng(0)
    before = draw.normal(50, 20, 300)
    after = before + draw.normal(2, 3, 300)
    mean = bootstrap_interval(after, against=before)
    assert mean == bootstrap_interval(after - before) and mean[0] > 1
    assert bootstrap_interval(after, lambda x: x.mean(), against=before) == pytest.approx(mean, abs=0.1)
    low, high = bootstrap_interval(after, np.median, against=before)
    assert low < np.median(after) - np.median(before) < high
    assert bootstrap_interval(before, np.max, against=before) == (0, 0)
    wide = bootstrap_interval(after, against=draw.permutation(before))
    assert wide[1] - wide[0] > 4 * (mean[1] - mean[0])


def test_interval_details():
    rows = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(rows, seed=1) == bootstrap_interval(list(rows), seed=1) != bootstrap_interval(rows, seed=2)
    assert bootstrap_interval([3, 3, 3]) == (3, 3)
    inner, outer = bootstrap_interval(rows, level=0.5), bootstrap_interval(rows, level=0.99)
    assert outer[0] < inner[0] < rows.mean() < inner[1] < outer[1]
    assert bootstrap_interval(rows * 2 + 1) == pytest.approx([2 * x + 1 for x in bootstrap_interval(rows)])
    assert bootstrap_interval(x for x in [0.0, 1.0, 2.0])[1] <= 2
    assert bootstrap_interval([0, 1], n=100) == (0, 1)
    ratio = lambda rows: rows[:, 0].sum() / rows[:, 1].sum()
    both = np.column_stack((rows + 10, np.full(50, 2.0)))
    assert bootstrap_interval(both, ratio) == pytest.approx(bootstrap_interval((rows + 10) / 2), abs=0.05)
    assert bootstrap_interval(both) == pytest.approx(bootstrap_interval((rows + 12) / 2), abs=0.05)


@pytest.mark.parametrize("values, given, kind, words", [
    ([1], {}, ValueError, "1 rows"), ([], {}, ValueError, "0 rows"), ([1, math.nan], {}, ValueError, r"values\[1\] is nan"),
    ([1, math.inf], {}, ValueError, r"values\[1\] is inf"), (["a", "b"], {}, TypeError, "list of numbers"),
    ([1, None], {}, ValueError, r"values\[1\]"), (5.0, {}, TypeError, "list of numbers"), ([1, 2], {"level": 95}, ValueError, "level"),
    ([1, 2], {"level": 0}, ValueError, "level"), ([1, 2], {"n": 10}, ValueError, "n must be"),
    ([1, 2], {"method": "t"}, ValueError, "method"), ([1, 2], {"against": [1]}, ValueError, "1 rows"),
    ([1, 2], {"against": [1, 2, 3]}, ValueError, "same rows"), ([1, 2], {"against": [1, math.nan]}, ValueError, r"against\[1\]")])
def test_refused_intervals(values, given, kind, words):
    with pytest.raises(kind, match=words): bootstrap_interval(values, **given)


def test_score_is_a_number_that_knows_its_rows():
    score = bleu4(["白色连衣裙", "黑色"], ["白色的连衣裙", "黑色"])
    assert isinstance(score, float) and f"{score:.2f}" == f"{score.values.mean():.2f}" and score + 1 > score
    assert json.loads(json.dumps({"bleu": score})) == {"bleu": float(score)}
    again = pickle.loads(pickle.dumps(score))
    assert again == score and again.values.tolist() == score.values.tolist() and again.interval() == score.interval()
    one = bleu4("是", "是")
    assert all(map(math.isnan, one.interval())) and "one row" in repr(one)
    lines = repr(Scores({"a": score, "longer name": one})).splitlines()
    assert len({len(line) for line in lines[:3]}) == 1 and f"{score:.2f}" in lines[1]
    with pytest.raises(ValueError, match="bleu: no rows"): Score("bleu", [])
    with pytest.raises(ValueError, match="same rows"): Scores(a=score).against(Scores(a=bleu4(["a"] * 3, ["a"] * 3)))


# perplexity

texts = ["The river is long and slow.", "河水很清。", "A", "One two three four five six. " * 6, "好" * 30]


def direct(model, tokenizer, text):
    "Perplexity of one text from the whole matrix of probabilities."
    before = [tokenizer.get_command(t) for t in (("[gMASK]", "<sop>") if tokenizer.generation == 1 else ("[gMASK]", "sop"))]
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad(): p = model(torch.tensor([before + ids])).logits[0].double().log_softmax(-1)
    return [-p[1 + k, i].item() for k, i in enumerate(ids)]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_padding_and_batches_change_nothing(tiny, batch_size):
    losses = [direct(*tiny, text) for text in texts]
    found = perplexity(*tiny, texts, batch_size=batch_size)
    assert found.values.tolist() == pytest.approx([math.exp(np.mean(some)) for some in losses], rel=1e-5)
    assert found == pytest.approx(math.exp(np.mean(sum(losses, []))), rel=1e-5)
    assert abs(found - found.values.mean()) > 0.5  # tokens count, not texts
    letters = perplexity(*tiny, texts, per="character", batch_size=batch_size)
    assert letters == pytest.approx(math.exp(sum(map(sum, losses)) / sum(map(len, texts))), rel=1e-5)


def test_the_text_of_chatglm_6b_comes_after_sop():
    model, tokenizer = load_model("tiny-v1"), load_tokenizer("tiny-v1")
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    perplexity(model, tokenizer, ["The river."])
    hook.remove()
    assert seen[0][0, :2].tolist() == [model.config.gmask_token_id, model.config.bos_token_id]


@pytest.mark.parametrize("window, stride", [(12, 3), (12, 9), (40, None), (7, 1)])
def test_windows_score_each_token_once_with_its_context(v3, window, stride):
    model, tokenizer = v3
    ids, room = tokenizer.encode(texts[3], add_special_tokens=False), window - 2
    step, end, total = stride or (window - 2) // 2, room, 0.0
    before = [tokenizer.get_command("[gMASK]"), tokenizer.get_command("sop")]
    first = direct(model, tokenizer, texts[3])[:room]
    while end < len(ids):
        new = min(step, len(ids) - end)
        row = before + ids[end + new - room:end + new]
        with torch.no_grad(): p = model(torch.tensor([row])).logits[0].log_softmax(-1)
        total -= sum(p[i - 1, row[i]].item() for i in range(len(row) - new, len(row)))
        end += new
    found = perplexity(model, tokenizer, [texts[3]], window=window, stride=stride)
    assert found.rows[0] == pytest.approx([sum(first) + total, len(ids)], rel=1e-5)


@relaxed
@given(st.integers(0, 2), st.integers(2, 60), st.integers(2, 12), st.data())
def test_every_token_is_scored_once_and_in_order(prefix, length, room, data):
    stride = data.draw(st.integers(1, room if prefix else room - 1))
    pieces = _windows([-1] * prefix, list(range(length)), room + prefix, stride)
    assert [i for ids, start in pieces for i in ids[start:]] == list(range(0 if prefix else 1, length))
    assert all(len(ids) <= room + prefix and start >= 1 for ids, start in pieces)


def test_a_random_model_is_as_unsure_as_its_vocabulary_is_large(tiny):
    assert perplexity(*tiny, texts) == pytest.approx(tiny[0].config.vocab_size, rel=0.2)


def test_perplexity_leaves_the_model_as_it_was(v3):
    model, tokenizer = v3
    model.train()
    try:
        perplexity(model, tokenizer, texts[:1])
        assert model.training
        with pytest.raises(ValueError): perplexity(model, tokenizer, texts[:1], batch_size=0)
        assert model.training
    finally: model.eval()
    assert all(p.grad is None for p in model.parameters())


def test_a_tokenizer_that_puts_nothing_first_leaves_the_first_token_out(v3):
    model, tokenizer = v3

    class Bare:
        eos_token_id = None
        def __getattr__(self, name): return getattr(tokenizer, name)
        def __call__(self, text, **kwargs): return tokenizer(text, **{**kwargs, "add_special_tokens": False})

    ids = tokenizer.encode(texts[0], add_special_tokens=False)
    with torch.no_grad(): p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = -sum(p[k, i].item() for k, i in enumerate(ids[1:]))
    found = perplexity(model, Bare(), [texts[0]])
    assert found.rows[0] == pytest.approx([wanted, len(ids) - 1], rel=1e-5)
    letters = perplexity(model, Bare(), [texts[0]], per="character")
    assert letters.rows[0, 1] == len(texts[0]) - len(tokenizer.decode(ids[:1]))
    with pytest.raises(ValueError, match=r"texts\[1\] has no token"): perplexity(model, Bare(), [texts[0], "A"])


@pytest.mark.parametrize("given, words", [
    ({"texts": []}, "texts is empty"), ({"texts": ["a", ""]}, r"texts\[1\] has no token"), ({"window": 3}, "window must be from 4"),
    ({"window": 10**6}, "window must be"), ({"window": 8, "stride": 0}, "stride"), ({"window": 8, "stride": 7}, "stride"),
    ({"batch_size": 0}, "batch_size"), ({"per": "word"}, "per must be")])
def test_refused_perplexity(v3, given, words):
    with pytest.raises(ValueError, match=words): perplexity(*v3, **{"texts": ["a river"], **given})


def test_refused_perplexity_types(v3):
    with pytest.raises(TypeError, match="texts must be a list"): perplexity(*v3, "a river")
    with pytest.raises(TypeError, match=r"texts\[0\] must be one string"): perplexity(*v3, [3])
    with pytest.raises(TypeError, match="pass \\(model, tokenizer"): perplexity(v3[1], v3[0], ["a"])


def test_damaged_weights_are_an_error():
    model, tokenizer = load_model("tiny-v3"), load_tokenizer("tiny-v3")
    with torch.no_grad(): model.lm_head.weight[5] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"): perplexity(model, tokenizer, ["a river"])


# the probe

def test_bundled_probe_is_sound():
    rows = [json.loads(line) for line in data_file("probe.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds = Counter((row["kind"], row["language"]) for row in rows)
    assert kinds == {("choice", "en"): 40, ("choice", "zh"): 40, ("text", "en"): 6, ("text", "zh"): 6}
    asked = [row for row in rows if row["kind"] == "choice"]
    assert len({row["prompt"] for row in asked}) == 80
    for row in asked: assert len({row["answer"], *row["others"]}) == 4 and row["prompt"] == row["prompt"].strip()
    for row in rows: assert any(c > "\u3400" for c in str(row)) == (row["language"] == "zh")


def test_probe_asks_for_the_most_likely_way_to_go_on(tiny):
    model, tokenizer = tiny
    rows = [{"kind": "choice", "language": "en", "prompt": "The water is", "answer": a, "others": [o for o in options if o != a]}
            for options in (["very cold", "long", "red and blue and green"],) for a in options]
    rows += [{"kind": "choice", "language": "zh", "prompt": "河水", "answer": a, "others": [o for o in "清长红" if o != a]} for a in "清长红"]
    found = forgetting_probe(model, tokenizer, rows, batch_size=3)
    for lang, start, joint in (("en", 0, " "), ("zh", 3, "")):  # by the likelihood of the whole text: the prompt is the same
        whole = [-sum(direct(model, tokenizer, r["prompt"] + joint + r["answer"])) for r in rows[start:start + 3]]
        assert found[f"accuracy {lang}"].values.tolist() == [100.0 * (w == max(whole)) for w in whole]
    assert "guessing: 33" in found["accuracy en"].note


def test_options_begin_where_they_leave_the_prompt(v3):
    tokenizer, options = v3[1], ["long", "lost", "a river"]
    for lang, joint in (("en", " "), ("zh", "")):
        found = _options(tokenizer, [7], {"language": lang, "prompt": "It is", "answer": options[0], "others": options[1:]})
        texts = [tokenizer.encode(f"It is{joint}{option}", add_special_tokens=False) for option in options]
        assert [ids for ids, _ in found] == [[7, *ids] for ids in texts]
        starts = {start for _, start in found}
        assert len(starts) == 1 and len({tuple(ids[:min(starts)]) for ids, _ in found}) == 1


def test_probe_compared_with_itself_and_with_one_too_sure_of_itself(tiny):
    model, tokenizer = tiny
    before = forgetting_probe(model, tokenizer)
    assert list(before) == ["accuracy en", "perplexity en", "accuracy zh", "perplexity zh"]
    same = forgetting_probe(model, tokenizer, batch_size=3).against(before)
    for old, new, low, high in same.values(): assert (new, low, high) == pytest.approx((old, 0, 0), abs=old * 1e-3)
    hook = model.register_forward_hook(lambda _, args, out: setattr(out, "logits", out.logits * 30))
    try: worse = forgetting_probe(model, tokenizer).against(before)
    finally: hook.remove()
    old, new, low, high = worse["perplexity en"]
    assert new > old and low > 0 and low < new - old < high and "higher" in repr(worse)


def test_one_answer_that_cannot_be_told_from_another_is_not_right(v3):
    row = {"kind": "choice", "language": "zh", "prompt": "河水", "answer": "清", "others": ["长", "红"]}
    model, tokenizer = v3
    hook = model.register_forward_hook(lambda _, args, out: setattr(out, "logits", out.logits * 0))
    try: found = forgetting_probe(model, tokenizer, [row])
    finally: hook.remove()
    assert len({len(tokenizer.encode("河水" + c, add_special_tokens=False)) for c in "清长红"}) == 1
    assert found["accuracy zh"] == 0


@pytest.mark.parametrize("rows, words", [
    ([], "rows is empty"), ([{}], r"rows\[0\]: kind"), (["text"], r"rows\[0\]: kind"),
    ([{"kind": "text", "language": "en", "text": ""}], "text is missing"),
    ([{"kind": "text", "text": "a"}], "language is missing"),
    ([{"kind": "choice", "language": "en", "prompt": "a", "answer": "b", "others": []}], "others is missing")])
def test_refused_probe_rows(v3, rows, words):
    with pytest.raises(ValueError, match=words): forgetting_probe(*v3, rows)
