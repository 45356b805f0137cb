"""Evaluation: scores beside the packages, batches and kills, paired tests, samples as HTML, tool calls and the command."""
import json
import math
import pickle
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from chatglm_cookbook import evaluate, predict, tools
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.deploy import stop_ids
from chatglm_cookbook.evaluate import (Evaluation, SampleBrowser, evaluate_generation, evaluate_tools, main, multiple_choice,
                                       paired_p, repetition, score_predictions, text_scores, verdicts)
from chatglm_cookbook.metrics import Score, Scores
from chatglm_cookbook.predict import read_predictions
from chatglm_cookbook.tools import call_scores, decisions, render_call, written

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
root = Path(__file__).resolve().parent.parent
rouges = ("rouge-1", "rouge-2", "rouge-l")


@pytest.fixture(scope="module", params=["tiny-v1", "tiny-v3"])
def pair(request): return load_model(request.param, dtype=torch.float32), load_tokenizer(request.param)


@pytest.fixture(scope="module")
def v3(): return load_model("tiny-v3"), load_tokenizer("tiny-v3")


@pytest.fixture(scope="module")
def rows(): return load_rows(data_file("adgen_test.jsonl"))[:14]


# --- scores

def reference_scores(said, wanted):
    "What the evaluation of ChatGLM-6B computes for each row, before it rounds."
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge
    jieba.setLogLevel(60)
    smooth, found = SmoothingFunction().method3, []
    for p, r in zip(said, wanted):
        both = Rouge().get_scores(" ".join(jieba.cut(p)), " ".join(jieba.cut(r)))[0]
        found.append([sentence_bleu([list(r)], list(p), smoothing_function=smooth) * 100, *(both[k]["f"] * 100 for k in rouges)])
    return np.array(found).T


def check_500(texts):
    said = [b if i % 2 else a[:len(a) // 2] + b[len(b) // 2:] for i, (a, b) in enumerate(zip(texts, texts[1:]))]
    result = score_predictions([{"predict": p, "label": r} for p, r in zip(said, texts)])
    for name, wanted in zip(("bleu-4", *rouges), reference_scores(said, texts)):
        assert len(wanted) == 500 and np.abs(result[name].values - wanted).max() < 1e-9 and abs(result[name] - wanted.mean()) < 1e-9


def test_500_real_pairs_are_scored_as_nltk_and_rouge_chinese_do(shared):
    file = shared / "data" / "advertise_gen_dev.jsonl"
    if not file.is_file(): pytest.skip("advertise_gen_dev.jsonl is not in the shared data")
    check_500([json.loads(line)["summary"] for line in file.read_text(encoding="utf-8").splitlines()[:501]])


def test_500_bundled_pairs_are_scored_as_nltk_and_rouge_chinese_do():
    check_500([row["summary"] for row in load_rows(data_file("adgen_train.jsonl"))[:501]])


@pytest.mark.parametrize(("said", "wanted", "language"), [
    ("It is red.", "It is blue.", "en"), ("红色的裙子", "蓝色的裙子", "zh"), ("用 Python 写的程序真不错", "这个程序是用 Python 写的", "zh"),
    ("1 + 1 = 2", "2", "zh"), ("The word 你好 means hello in Chinese", "It means hello, my friend", "en")])
def test_the_language_is_told_by_the_texts(said, wanted, language):
    guessed, told = text_scores([said], [wanted]), text_scores([said], [wanted], language)
    assert all(guessed[k] == told[k] for k in told)
    assert guessed.keys() == {"bleu-4", *rouges, "repetition"}


def test_answers_in_another_language_do_not_change_the_score_that_is_taken():
    found = text_scores(["I do not know any Chinese, sorry", "好看"], ["白色的裙子", "好看"])
    assert found["rouge-1"].values[1] == pytest.approx(100) and found["bleu-4"] == text_scores(
        ["I do not know any Chinese, sorry", "好看"], ["白色的裙子", "好看"], "zh")["bleu-4"]
    assert text_scores(["only words here"], [""])["bleu-4"] == 0


def test_repetition_grows_with_every_copy():
    found = [repetition("今天天气真好" * k) for k in range(1, 6)]
    assert found[0] == 0 and all(a < b for a, b in zip(found, found[1:]))
    assert math.isclose(found[1], 100 * (1 - 6 / 9)) and repetition("") == 0
    assert repetition("a b c d a b c d", "en") == pytest.approx(20) and repetition("a b c d e f g h", "en") == 0


def test_empty_rows_stay_and_score_nothing(v3):
    rows = [{"prompt": "Hi", "response": ""}, {"prompt": "Hello", "response": "Hi there, my friend"}]
    found = evaluate_generation(*v3, rows, max_new_tokens=6)
    assert len(found.samples) == 2 and found.samples[0]["label"] == ""
    assert found["bleu-4"].values[0] == 0 and "1 of 2 rows" in found["bleu-4"].note


# --- one call

def test_the_batch_size_changes_no_score(pair, rows):
    found = [evaluate_generation(*pair, rows, max_new_tokens=10, batch_size=k, sort=sort)
             for k, sort in ((1, True), (5, True), (14, False))]
    for other in found[1:]:
        assert other.samples == found[0].samples
        for name, score in found[0].items():
            assert float(other[name]) == float(score) and (other[name].values == score.values).all()
    assert found[0]["length"] > 0 and {"bleu-4", *rouges, "repetition", "length", "stopped"} == {*found[0]}


def test_torn_and_resumed_a_run_has_the_same_scores(v3, rows, tmp_path):
    how = dict(max_new_tokens=8, batch_size=3)
    whole = evaluate_generation(*v3, rows, **how)
    first = evaluate_generation(*v3, rows, output=tmp_path, **how)
    told, file = (tmp_path / "scores.json").read_text(), tmp_path / "generated_predictions.jsonl"
    data = file.read_bytes()
    for share in (0.15, 0.5, 0.93):
        file.write_bytes(data[:int(len(data) * share)])
        (tmp_path / "scores.json").unlink()
        again = evaluate_generation(*v3, rows, output=tmp_path, resume=True, **how)
        assert again.samples == first.samples == whole.samples
        assert (tmp_path / "scores.json").read_text() == told
    with pytest.raises(ValueError, match="resume=True"): evaluate_generation(*v3, rows, output=tmp_path, **how)
    saved = json.loads(told)["rouge-l"]
    assert saved["low"] <= saved["score"] == float(whole["rouge-l"]) <= saved["high"] and saved["rows"] == 14


def test_the_original_layout_holds_the_same_answers(v3, rows, tmp_path):
    found = evaluate_generation(*v3, rows, max_samples=5, max_new_tokens=5, output=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()]
    assert [(line["labels"], line["predict"]) for line in lines] == [(s["label"], s["predict"]) for s in found.samples]
    assert len(found.samples) == 5
    assert float(score_predictions(read_predictions(tmp_path / "generated_predictions.txt"))["rouge-1"]) == float(found["rouge-1"])


def test_bad_rows_stop_it_before_an_answer_or_a_file(v3, tmp_path, monkeypatch):
    monkeypatch.setattr(v3[0], "generate", lambda **_: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=r"rows\[1\]: prompt: the question is empty"):
        evaluate_generation(*v3, [{"prompt": "a", "response": "b"}, {"prompt": "", "response": "b"}], output=tmp_path / "run")
    with pytest.raises(ValueError, match="max_samples"): evaluate_generation(*v3, [{"prompt": "a", "response": "b"}], max_samples=0)
    assert not (tmp_path / "run").exists()


def test_the_bar_counts_rows_and_stays_away_from_logs(v3, rows, capsys):
    evaluate_generation(*v3, rows, max_samples=3, max_new_tokens=2)
    assert capsys.readouterr().err == ""
    evaluate_generation(*v3, rows, max_samples=3, max_new_tokens=2, progress=True)
    assert "answers" in capsys.readouterr().err


def test_a_result_can_be_kept_and_compared(v3, rows):
    one = evaluate_generation(*v3, rows, max_new_tokens=6)
    two = evaluate_generation(*v3, rows, max_new_tokens=9)
    again = pickle.loads(pickle.dumps(one))
    assert again.samples == one.samples and float(again["bleu-4"]) == float(one["bleu-4"])
    change = two.against(one)["length"]
    assert change[1] - change[0] == pytest.approx(float(two["length"]) - float(one["length"]))
    with pytest.raises(ValueError, match="other questions"):
        one.against(evaluate_generation(*v3, rows[1:], max_new_tokens=6))


# --- real or luck

def test_few_rows_are_tried_in_all_patterns():
    draw = np.random.default_rng(0)
    for size in (3, 7, 11):
        a, b = draw.normal(0.4, 1, size), draw.normal(size=size)
        means = [abs(sum(sign * (x - y) for sign, x, y in zip(signs, a, b))) for signs in product((1, -1), repeat=size)]
        assert paired_p(a, b) == pytest.approx(sum(m >= means[0] - 1e-9 for m in means) / 2**size, abs=1e-12)


def test_drawn_patterns_agree_with_the_t_test_on_many_rows():
    draw = np.random.default_rng(3)
    for shift in (0.05, 0.1, 0.15):
        a = draw.normal(shift, 1, 300)
        t = abs(a.mean()) / (a.std(ddof=1) / math.sqrt(300))
        assert paired_p(a, 0 * a, n=20_000) == pytest.approx(math.erfc(t / math.sqrt(2)), abs=0.015)
    assert paired_p(a, 0 * a) == paired_p(0 * a, a) and paired_p(a + 5, 0 * a) == pytest.approx(1 / 10_001)


def test_holm_against_its_definition():
    ps = [0.2, 0.001, 0.04, 0.011, 0.9, 0.012]
    order = sorted(ps)
    for p, found in zip(ps, evaluate._holm(ps)):
        assert found == pytest.approx(max(min(1, (6 - k) * q) for k, q in enumerate(order) if q <= p))


def results(**means):
    draw = np.random.default_rng(0)
    base = draw.normal(20, 8, 200)
    noise = {name: draw.normal(shift, 2, 200) for name, shift in means.items()}
    return {name: Scores({"rouge-l": Score("rouge-l", base + own - own.mean() + means[name])}) for name, own in noise.items()}


def test_verdicts_name_the_better_model_of_every_pair():
    found = verdicts(results(plain=0, same=0.05, better=1, worse=-2))
    told = {(r["model"], r["against"]): r["verdict"] for r in found}
    assert told[("same", "plain")] == "no difference shown" and told[("better", "plain")] == "better is higher"
    assert told[("worse", "plain")] == "plain is higher" and len(told) == 6
    shown = found._repr_markdown_()
    assert "better − plain" in shown and "6 comparisons" in shown and "200 rows" in shown
    row = next(r for r in found if (r["model"], r["against"]) == ("better", "plain"))
    assert row["difference"] == pytest.approx(1) and row["interval"][0] < 1 < row["interval"][1]


def test_verdicts_refuse_what_cannot_be_compared(v3, rows):
    one = evaluate_generation(*v3, rows[:3], max_new_tokens=2)
    with pytest.raises(ValueError, match="other questions"):
        verdicts({"a": one, "b": evaluate_generation(*v3, rows[3:6], max_new_tokens=2)})
    with pytest.raises(ValueError, match="has no score 'f1'"): verdicts({"a": one, "b": one}, "f1")
    with pytest.raises(ValueError, match="at least two"): verdicts({"a": one})


# --- samples

def evaluation(said, wanted, prompts=None):
    lines = [{"row": i, "turn": 0, "prompt": (prompts or [f"q{i}"] * 99)[i], "predict": p, "label": r, "tokens": len(p), "stopped": i % 2 == 0,
              "key": str(i)} for i, (p, r) in enumerate(zip(said, wanted))]
    return score_predictions(lines, "zh")


class Tags(HTMLParser):
    def __init__(self): super().__init__(); self.open, self.text = [], ""
    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "meta", "input"): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): self.text += data


@pytest.fixture
def two():
    wanted = ["白色的连衣裙很好看", "牛仔外套非常百搭", "这双鞋子很轻便舒适"]
    return {"before": evaluation(["黑色", "牛仔外套非常百搭", "x"], wanted), "after": evaluation(["白色的连衣裙", "外套", "这双鞋子很轻"], wanted)}


def test_orders_are_by_score(two):
    browser = SampleBrowser(two)
    last, first = two["after"]["rouge-l"].values, two["before"]["rouge-l"].values
    assert browser.order() == [0, 1, 2]
    assert browser.order("worst first") == list(np.argsort(last)) and browser.order("best first") == list(np.argsort(-last))
    assert browser.order("largest change first")[0] == int(np.abs(last - first).argmax())


def test_nothing_in_an_answer_becomes_markup(tmp_path):
    evil = "<script>alert(1)</script>&amp;\"'</div>"
    result = evaluation([evil, "好"], [evil, ""], [evil, "问"])
    page = SampleBrowser({evil: result}).save(tmp_path / "a.html", title=evil).read_text(encoding="utf-8")
    assert page.count("<script>") == 1 and page.count("alert(1)") >= 4 and "<script>alert" not in page
    parser = Tags()
    parser.feed(page)
    assert parser.open == [] and "empty" in parser.text and evil in parser.text


def test_marks_are_pieces_of_both_texts():
    shown = evaluate._marked("白色的连衣裙好", "这条白色连衣裙")
    assert re.findall("<mark[^>]*>(.*?)</mark>", shown) == ["白色", "连衣裙"]
    assert re.sub("<[^>]*>", "", shown) == "白色的连衣裙好" and "<mark" not in evaluate._marked("abc", "xyz")


def test_a_stored_page_shows_three_rows_and_a_live_one_has_controls(two, monkeypatch):
    browser = SampleBrowser(two)
    stored = browser._repr_mimebundle_()
    assert stored["text/html"].count('class="card"') == 3 and "application/vnd.jupyter.widget-view+json" not in stored
    monkeypatch.setattr(evaluate, "_in_notebook", lambda: True)
    assert "application/vnd.jupyter.widget-view+json" in browser._repr_mimebundle_()
    (by, at), shown = browser.controls.children[0].children, browser.controls.children[1]
    by.value, at.value = "as in the file", 1
    assert "牛仔" in shown.value and shown.value == browser.html([1])
    by.value = "best first"
    assert shown.value == browser.html([browser.order("best first")[1]])


def test_browsers_refuse_other_rows(two):
    with pytest.raises(ValueError, match="other questions"):
        SampleBrowser({"a": two["before"], "b": evaluation(["x"], ["y"])})
    with pytest.raises(ValueError, match="no score"): SampleBrowser(two, "f1")
    with pytest.raises(ValueError, match="nothing to show"): SampleBrowser({})
    part = {"one": Evaluation({"part": Score("part", [1.0])}, two["before"].samples)}
    with pytest.raises(ValueError, match="no value for each of one's"): SampleBrowser(part, "part")
    with pytest.raises(ValueError, match="by must be"): SampleBrowser(two).order("score")


def test_a_wrong_language_is_told_before_the_first_answer(pair, rows, monkeypatch):
    monkeypatch.setattr(evaluate, "predictions", lambda *_, **__: pytest.fail("the model was asked"))
    with pytest.raises(ValueError, match="language must be"): evaluate_generation(*pair, rows, language="fr")
    monkeypatch.setattr(evaluate, "bleu4", lambda *_, **__: (_ for _ in ()).throw(ImportError("no nltk")))
    with pytest.raises(ImportError, match="no nltk"): evaluate_generation(*pair, rows)


# --- tool calls

@pytest.fixture(scope="module")
def talk(): return load_rows(data_file("tool_dialogues_heldout.jsonl"))


def test_turns_of_dialogues_are_asked_kept_and_scored(v3, talk, tmp_path):
    some = talk[:9]
    found = evaluate_tools(*v3, some, output=tmp_path, max_new_tokens=6, batch_size=3)
    places = decisions(some)
    assert found == call_scores(places, written(*v3, places, max_new_tokens=6)) and len(found.samples) == len(places) > 12
    for place, line in zip(places, found.samples):
        assert line["prompt"] == place["messages"][-1]["content"]
        assert line["label"] == (place["answer"] or render_call(place["call"]))
    assert json.loads((tmp_path / "scores.json").read_text())["right tool"]["rows"] == sum(bool(p["call"]) for p in places)
    kept = (tmp_path / "generated_predictions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "generated_predictions.jsonl").write_bytes(b"".join(kept[:5]))
    again = evaluate_tools(*v3, some, output=tmp_path, resume=True, max_new_tokens=6, batch_size=7)
    assert again == found and again.samples == found.samples


def test_a_call_after_a_text_is_read_from_the_stored_line(v3, talk):
    model, words = v3
    call = render_call("get_weather", {"city": "北京\n", "days": 3})
    ids = words("Let me see.", add_special_tokens=False)["input_ids"] + [words.convert_tokens_to_ids("<|assistant|>")]
    ids += words(call, add_special_tokens=False)["input_ids"] + stop_ids(model, words)[:1]
    raw = predict._reply(words, ids, stop_ids(model, words))["raw"]
    wanted = tools._turns(words, ids, stop_ids(model, words), ["get_weather"])
    assert tools._messages_of(raw.split("<|assistant|>"), ["get_weather"]) == wanted
    assert [m.get("metadata") for m in wanted] == [None, "get_weather"]


def test_dialogues_that_cannot_be_asked(v3, talk):
    with pytest.raises(ValueError, match="no row offers a tool"): evaluate_tools(*v3, [{"prompt": "Hi", "response": "Hello"}])
    with pytest.raises(ValueError, match="rows is empty"): evaluate_tools(*v3, [])
    with pytest.raises(ValueError, match=r"rows\[0\]: a prompt has \d+ tokens .* lower max_new_tokens"):
        evaluate_tools(*v3, talk[:2], max_new_tokens=evaluate.context_window(v3[0]) - 5)


# --- the command

def test_options_come_from_the_signatures():
    known = evaluate._known_options("generation")
    assert {"model", "data", "adapter", "max_samples", "max_new_tokens", "batch_size", "temperature", "probe", "resume"} <= {*known}
    assert {"shots", "style", "batch_size", "split", "subjects", "max_samples", "benchmark"} <= {*evaluate._known_options("choices")}
    assert {"output", "resume", "max_samples"} <= {*evaluate._known_options("tools")} and "functions" not in evaluate._known_options("tools")
    assert evaluate._given(["a.yaml", "--max-samples", "3", "batch_size=2", "--probe", "--top_p=0.7", "--resume"]) == (
        ["a.yaml"], {"max_samples": "3", "batch_size": "2", "probe": True, "top_p": "0.7", "resume": True})
    assert evaluate._given(["--resume", "a.yaml"]) == (["a.yaml"], {"resume": True})
    assert evaluate._given(["--output", "run/a=b", "--probe", "seed=1"]) == ([], {"output": "run/a=b", "probe": True, "seed": "1"})


@pytest.mark.parametrize(("arguments", "told"), [
    (["--model", "tiny"], "data is missing"), (["--data", "x"], "model is missing"), (["task=x"], "task must be"),
    (["model=tiny", "data=x", "max_token=3"], "did you mean max_new_tokens|did you mean"),
    (["model=tiny", "data=x", "batch_size=2.5"], "batch_size: needs int"), (["model=tiny", "data=x", "probe=maybe"], "probe: needs bool"),
    (["model=tiny", "data=x", "top_p=7"], "top_p must be"), (["model=tiny", "data=x", "--output"], "--output needs a value"), (["a.yaml", "b.yaml"], "one recipe at most")])
def test_mistakes_are_named_before_a_model_is_loaded(arguments, told, monkeypatch):
    monkeypatch.setattr("chatglm_cookbook.checkpoints.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=told): main(arguments)


def test_help_lists_every_option(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for task in ("generation", "choices", "tools") for name in evaluate._known_options(task))


def test_a_run_from_a_recipe(tmp_path, capsys):
    recipe = tmp_path / "eval.yaml"
    recipe.write_text(f"model: tiny-v1\ndata: adgen_test\nmax_new_tokens: 3\noutput: {tmp_path / 'run'}\n")
    assert main([str(recipe), "max_samples=4"]) == 0
    assert "rouge-l" in capsys.readouterr().out and len(read_predictions(tmp_path / "run")) == 4
    kept = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert (kept["model"], kept["max_samples"], kept["max_new_tokens"]) == ("tiny-v1", 4, 3) and {"torch", "peft"} < kept["versions"].keys()
    assert main([str(recipe), "--max_samples", "6", "--resume"]) == 0
    assert len(read_predictions(tmp_path / "run")) == 6


def test_multiple_choice_from_options(tmp_path, capsys, monkeypatch):
    data, output = str(data_file("choices/test_zh_units.csv").parent), str(tmp_path / "choices.jsonl")
    asked = ["task=choices", "model=tiny-v3", f"data={data}", "--subjects", "zh_units", "--max-samples", "3", "--shots", "1"]
    assert main([*asked, "--output", output]) == 0
    shown = capsys.readouterr().out
    assert "zh_units" in shown and "By guessing: 25.0." in shown and len(open(output).readlines()) == 4
    assert json.loads((tmp_path / "choices.eval.json").read_text())["subjects"] == "zh_units"
    monkeypatch.setattr("chatglm_cookbook.checkpoints.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(FileNotFoundError, match="unpack the benchmark"): main(["task=choices", "model=tiny-v3", "data=nowhere"])
    with pytest.raises(ValueError, match="no subject 'law'"): main([*asked[:3], "--subjects", "law"])


recipes = sorted((root / "configs" / "recipes").glob("eval_*.yaml"))


@pytest.mark.parametrize("path", recipes, ids=lambda path: path.stem)
def test_bundled_recipes_are_complete(path):
    options = evaluate._eval_options([str(path)])
    assert options["model"] and options["data"]


def test_there_are_recipes_for_all_tasks():
    assert {evaluate._eval_options([str(path)])["task"] for path in recipes} == {"generation", "choices", "tools"}


@pytest.mark.parametrize("method", ["lora", "prefix", "freeze"])
def test_what_a_training_run_leaves_is_evaluated(method, tmp_path):
    from chatglm_cookbook.train import finetune
    rows, words = load_rows(data_file("adgen_train.jsonl"))[:8], load_tokenizer("tiny-v1")
    settings = {"lora": {"rank": 2}, "prefix": {"prefix_length": 4}, "freeze": {"blocks": "last 1"}}[method]
    run = finetune(load_model("tiny-v1"), words, rows, method, output=tmp_path, show=False, steps=3, batch_size=4,
                   **{"learning_rate": 5e-3 if method != "prefix" else 0.5} | settings)
    loaded, plain, ids = evaluate._with_adapter(load_model("tiny-v1"), str(run.folder)), load_model("tiny-v1"), torch.tensor([
        words(rows[0]["content"])["input_ids"]])
    with torch.no_grad(): new, old, kept = (m.eval()(ids).logits for m in (loaded, plain, run.model))
    assert (new - kept).abs().max() < 1e-5 < (new - old).abs().max()
    with pytest.raises(FileNotFoundError, match="adapter"): evaluate._with_adapter(plain, str(tmp_path / "nothing"))


def test_multiple_choice_is_offered_here():
    from chatglm_cookbook import choices
    assert multiple_choice is choices.multiple_choice and "multiple_choice" in evaluate.__all__
    assert isinstance(Evaluation({}, []), Scores)
