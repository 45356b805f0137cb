"""Multiple choice: every published layout, scores without any shortcut, kills, and lm_eval on the same questions."""
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chatglm_cookbook import choices
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.choices import (choice_in, choice_prompt, lm_eval_model, lm_eval_tasks, load_questions, multiple_choice,
                                      save_submission)
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import DataError
from chatglm_cookbook.tokens import encode_chat

root = Path(__file__).resolve().parent.parent
bundled = data_file("choices/test_zh_units.csv").parent


def loaded(name): return load_model(name, dtype=torch.float32), load_tokenizer(name)


@pytest.fixture(scope="module")
def v1(): return loaded("tiny-v1")


@pytest.fixture(scope="module")
def v3(): return loaded("tiny-v3")


@pytest.fixture(scope="module")
def questions(): return load_questions(bundled, max_samples=5)


@pytest.fixture
def some(questions): return {n: questions[n] for n in ("zh_idioms", "en_commonsense")}


def llama():
    "A random Llama with the tiny tokenizer: a model that is no ChatGLM."
    from transformers import LlamaConfig, LlamaForCausalLM
    words = load_tokenizer("tiny-v3")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=4096)
    return LlamaForCausalLM(config).eval(), words


def by_hand(model, ids, letter):
    "Log-likelihood of the ids of `letter` behind `ids`, from one row without padding, mask or cache."
    with torch.no_grad(): logits = model(input_ids=torch.tensor([ids + letter])).logits[0].double().log_softmax(-1)
    return sum(logits[len(ids) + k - 1, token].item() for k, token in enumerate(letter))


# files

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


rows = {"csv": "id,question,A,B,C,D,answer\n0,Q one,a,b,c,d,A\n1,Q two,e,f,g,h,D\n", "cmmlu": ",Question,A,B,C,D,Answer\n0,Q one,a,b,c,d,A\n1,Q two,e,f,g,h,D\n",
        "mmlu": "Q one,a,b,c,d,A\nQ two,e,f,g,h,D\n",
        "jsonl": '{"question": "Q one", "choices": ["a", "b", "c", "d"], "answer": 0}\n{"question": "Q two", "choices": ["e", "f", "g", "h"], "answer": 3}\n'}


@pytest.mark.parametrize("name, kind", [
    ("val/law_val.csv", "csv"), ("test/law.csv", "cmmlu"), ("test/law_test.csv", "mmlu"), ("test_law.csv", "cmmlu"), ("law_test.csv", "csv"),
    ("law/test.jsonl", "jsonl"), ("test/law.jsonl", "jsonl"), ("law.csv", "csv"), ("law/validation-00000-of-00001.jsonl", "jsonl")])
def test_split_and_subject_are_read_off_the_names(tmp_path, name, kind):
    write(tmp_path / name, rows[kind])
    split = "val" if "val" in name else "test"
    law = load_questions(tmp_path, split=split)["law"]
    assert [(r["question"], r["answer"], r["choices"]["C"]) for r in law.test] == [("Q one", "A", "c"), ("Q two", "D", "g")]
    assert [r["id"] for r in law.test] == ["0", "1"]
    with pytest.raises(DataError, match="no questions for split 'dev'"): load_questions(tmp_path, split="dev")


def test_a_column_may_name_the_subject_and_training_files_are_left_out(tmp_path):
    lines = [json.dumps({"question": f"Q {s}", "choices": ["a", "b"], "answer": 1, "subject": s}) for s in ("law", "art", "law")]
    write(tmp_path / "all" / "test.jsonl", "\n".join(lines) + "\n")
    write(tmp_path / "auxiliary_train" / "arc.csv", rows["mmlu"])
    found = load_questions(tmp_path)
    assert {n: len(s.test) for n, s in found.items()} == {"art": 1, "law": 2}
    write(tmp_path / "test" / "constraint_solving.csv", rows["cmmlu"])  # has "train" inside, and is no training file
    assert [*load_questions(tmp_path)] == ["art", "constraint_solving", "law"] and [*load_questions(tmp_path, subjects="law")] == ["law"]
    assert [*load_questions(tmp_path, subjects=["law"], max_samples=1)["law"].test[0]["choices"]] == ["A", "B"]


def test_a_subject_in_two_files_is_not_counted_twice(tmp_path):
    for kind in ("csv", "jsonl"): write(tmp_path / "test" / f"law.{kind}", rows[kind])
    with pytest.raises(DataError, match=r"law\.jsonl: the subject is in law\.csv too"): load_questions(tmp_path)


def test_the_test_split_of_c_eval_has_a_header_like_a_question_of_mmlu(tmp_path):
    write(tmp_path / "test" / "law_test.csv", "id,question,A,B,C,D\n0,Q one,a,b,c,d\n1,Q two,e,f,g,B\n")
    law = load_questions(tmp_path)["law"]
    assert [(r["id"], r["question"], r["choices"]["D"], r.get("answer")) for r in law.test] == [("0", "Q one", "d", None), ("1", "Q two", "B", None)]
    assert [r.line for r in law.test] == [2, 3]


def test_titles_and_categories_are_the_benchmarks(tmp_path):
    for name in ("agronomy", "chinese_history"): write(tmp_path / "test" / f"{name}.csv", rows["cmmlu"])
    found = load_questions(tmp_path)
    assert (found["agronomy"].title, found["agronomy"].categories) == ("农学", ("Other",))
    assert found["chinese_history"].categories == ("Humanities", "China specific")
    assert load_questions(tmp_path, benchmark="mmlu")["agronomy"].categories == ("English",)
    known = json.loads(data_file("subjects.json").read_text(encoding="utf-8"))
    assert {b: len({n for s in c.values() for n in s}) for b, c in known.items()} == {"ceval": 52, "cmmlu": 67, "mmlu": 57, "bundled": 10}


@pytest.mark.parametrize("text, message", [
    (",Question,A,B,C,D,Answer\n0,Q,a,b,c,d,A\n1,Q,a,b,c,d,F\n", r"law\.csv:3: Answer: must be one of A, B, C, D, not 'F'"),
    (",Question,A,B,C,D,Answer\n0, ,a,b,c,d,A\n", r"law\.csv:2: question: empty"),
    (",Question,A,Answer\n0,Q,a,A\n", r"law\.csv:2: choices: needs at least two"),
    (",Question,A,B,C,D,Answer\n0,Q,a,b\n", r"law\.csv:2: 4 cells in a row, 7 columns"),
    ("", r"law\.csv.*empty"),
    (",Question,A,B,C,D,Answer\n0,\"Q,a,b,c,d,A\n", r"law\.csv.*broken CSV")])
def test_a_broken_row_is_named(tmp_path, text, message):
    write(tmp_path / "test" / "law.csv", text)
    with pytest.raises(DataError, match=message): load_questions(tmp_path)


def test_what_is_not_there_is_named(tmp_path, some, v3):
    with pytest.raises(FileNotFoundError, match="unpack the benchmark"): load_questions(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there are: en_arithmetic"): load_questions(bundled, subjects=["law"])
    for wrong in ({"split": "train"}, {"max_samples": 0}, {"benchmark": "gaokao"}):
        with pytest.raises(ValueError, match="must be"): load_questions(bundled, **wrong)
    for wrong in ({"by": "luck"}, {"batch_size": 0}, {"style": "base"}, {"shots": 6}):
        with pytest.raises(ValueError, match="must be|solved examples"): multiple_choice(*v3, some, **wrong)
    with pytest.raises(ValueError, match="empty"): multiple_choice(*v3, {})


# prompts

def test_prompts_written_by_hand(questions):
    units = questions["zh_units"]
    text = choice_prompt(units, units.test[0], 1, "input_output")
    assert text == ("以下是关于单位换算的单项选择题，请直接给出正确答案的选项。\n\n"
                    "910000平方米是多少公顷？\nA. 89\nB. 91\nC. 90\nD. 81\n答案：B\n\n41000克是多少千克？\nA. 51\nB. 4100\nC. 43\nD. 41\n答案：")
    turns = choice_prompt(units, units.test[0], 1)
    assert [m["role"] for m in turns] == ["user", "assistant", "user"] and turns[1]["content"] == "B"
    assert text == turns[0]["content"] + "B\n\n" + turns[2]["content"]
    grammar = questions["en_grammar"]
    assert choice_prompt(grammar, grammar.test[0], 1, "input_output").count("Answer: C\n\n") == 1


@pytest.mark.parametrize("name, start, end", [
    ("tiny-v1", "[Round 0]\n问：以下是", "答案：\n答："), ("tiny-v2", "[Round 1]\n\n问：以下是", "答案：\n\n答："), ("tiny-v3", "<|user|>", "<|assistant|>")])
def test_each_generation_is_asked_in_its_own_format(questions, name, start, end):
    from chatglm_cookbook.tokens import render
    units, words = questions["zh_units"], load_tokenizer(name)
    text = render(choice_prompt(units, units.test[0], 1), int(name[-1]))
    assert start in text and text.replace("[gMASK]<sop>", "").endswith(end) and text.count("答案：") == 2
    made = choices._Prompts(load_model(name), words, units, 1, "chat")
    whole = encode_chat(words, [*choice_prompt(units, units.test[2], 1), {"role": "assistant", "content": "C"}], add_generation_prompt=False)
    assert made.contexts[2] + made.letters["C"] == whole[:-1]


def test_questions_that_are_too_long_lose_examples_and_then_are_refused(questions, v1):
    model, words = v1
    kept, model.config.max_sequence_length = model.config.max_sequence_length, 260
    try:
        found = multiple_choice(model, words, {"zh_units": questions["zh_units"]}, shots=5)
        used = int(next(n for n in found.notes if n.startswith("Fewer")).split()[-1].rstrip("."))
        assert 0 < used < 5
        model.config.max_sequence_length = 20
        with pytest.raises(DataError, match=r"test_zh_units\.csv:\d+: the question takes \d+ tokens and the model reads 20"):
            multiple_choice(model, words, {"zh_units": questions["zh_units"]})
    finally: model.config.max_sequence_length = kept


# scores

@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3", "llama"])
@pytest.mark.parametrize("style", ["chat", "input_output"])
def test_scores_are_those_of_single_rows_without_any_shortcut(name, style, some):
    model, words = llama() if name == "llama" else loaded(name)
    found = multiple_choice(model, words, some, shots=3, style=style, batch_size=4)
    assert any("No prefix cache" in n for n in found.notes) == (name == "tiny-v1")
    for subject in some.values():
        made = choices._Prompts(model, words, subject, 3, style)
        own = [a for a in found.answers if a["subject"] == subject.name]
        for i, answer in enumerate(own):
            wanted = {c: by_hand(model, made.contexts[i], ids) for c, ids in made.letters.items()}
            assert answer["scores"] == pytest.approx(wanted, abs=2e-5)
            assert answer["choice"] == max(wanted, key=wanted.get) and answer["answer"] == subject.test[i]["answer"]


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3"])
def test_neither_batch_size_nor_cache_changes_a_score(name, some):
    model, words = loaded(name)
    runs = [multiple_choice(model, words, some, shots=2, batch_size=b, prefix_cache=c) for b, c in ((1, False), (3, True), (16, True), (16, False))]
    for run in runs[1:]:
        assert [a["choice"] for a in run.answers] == [a["choice"] for a in runs[0].answers]
        for a, b in zip(run.answers, runs[0].answers): assert a["scores"] == pytest.approx(b["scores"], abs=2e-5)


def test_reading_the_examples_once_would_be_wrong_for_the_first_chatglm(v1, some, monkeypatch):
    model, words = v1
    made = choices._Prompts(model, words, some["zh_idioms"], 2, "chat")
    skip = len(os.path.commonprefix(made.contexts))
    other = [t for t in made.contexts[1][skip:]]
    with torch.no_grad():
        hidden = [model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, :skip] for ids in made.contexts[:2]]
    assert skip > 50 and other and (hidden[0] - hidden[1]).abs().max() > 1e-3  # the examples' states depend on the question


def test_a_model_whose_cache_is_wrong_is_found_out(v3, some, monkeypatch):
    real = choices._read_beginning
    def shifted(model, ids):
        cache = real(model, ids)
        for layer in cache.layers: layer.keys = layer.keys.roll(1, -2)
        return cache
    monkeypatch.setattr(choices, "_read_beginning", shifted)
    found = multiple_choice(*v3, some, shots=2)
    monkeypatch.undo()
    assert any("with it the scores of the first question change" in n for n in found.notes)
    for a, b in zip(found.answers, multiple_choice(*v3, some, shots=2, prefix_cache=False).answers):
        assert a["scores"] == pytest.approx(b["scores"], abs=2e-5)


def test_a_prefix_of_p_tuning_is_in_front_of_every_batch(some):
    from chatglm_cookbook.ptuning import add_prefix
    model, words = loaded("tiny-v3")
    plain = multiple_choice(model, words, some, shots=1)
    torch.manual_seed(0)
    add_prefix(model, 4)
    runs = [multiple_choice(model, words, some, shots=1, prefix_cache=c, batch_size=b) for c, b in ((True, 5), (False, 1))]
    for a, b, c in zip(runs[0].answers, runs[1].answers, plain.answers):
        assert a["scores"] == pytest.approx(b["scores"], abs=5e-5) and a["scores"] != pytest.approx(c["scores"], abs=1e-3)


def test_a_value_that_is_not_finite_is_refused(some):
    model, words = loaded("tiny-v3")
    with torch.no_grad(): model.lm_head.weight[7] = float("nan")
    with pytest.raises(FloatingPointError, match="load the model with dtype"): multiple_choice(model, words, some, shots=0)


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v3", "llama"])
def test_writing_is_the_same_alone_in_a_batch_and_behind_a_cache(name, some):
    model, words = llama() if name == "llama" else loaded(name)
    runs = [multiple_choice(model, words, some, shots=2, by="generation", max_new_tokens=6, batch_size=b, prefix_cache=c)
            for b, c in ((1, False), (5, True), (3, False))]
    assert [[a["text"] for a in r.answers] for r in runs[1:]] == [[a["text"] for a in runs[0].answers]] * 2
    silent = sum(a["choice"] is None for a in runs[0].answers)
    assert not silent or f"{silent} of 10 replies name no choice: counted as wrong." in runs[0].notes


# the table

def test_accuracy_and_means_by_hand(some):
    subjects = {n: s for n, s in some.items()}
    said = {"zh_idioms": "AAAAA", "en_commonsense": "BBBBB"}
    items = [{"subject": n, "answer": r["answer"], "choice": c, "choices": "ABCD", "number": i, "id": r["id"], "question": i}
             for n, s in subjects.items() for i, (r, c) in enumerate(zip(s.test, said[n]))]
    items = items[:-2]  # three questions in the second subject
    found = choices._scored(items, subjects, [], {})
    right = {n: [100.0 * (i["choice"] == i["answer"]) for i in items if i["subject"] == n] for n in subjects}
    assert found["zh_idioms"] == np.mean(right["zh_idioms"]) and found["all questions"] == np.mean(sum(right.values(), []))
    assert found["mean of subjects"] == pytest.approx(np.mean([np.mean(v) for v in right.values()]))
    assert found["mean of Chinese"] == found["zh_idioms"] and len(found.answers) == 8
    assert "By guessing: 25.0." in repr(found) and "| mean of subjects |" in found._repr_markdown_()
    assert found.against(found)["all questions"][2:] == (0.0, 0.0)


@pytest.mark.parametrize("text, letter", [
    ("B", "B"), ("(B)", "B"), ("Ｂ", "B"), ("B. 二", "B"), ("答案：B", "B"), ("答案为 B，因为 A 不对", "B"), ("所以正确答案是(C)。", "C"), ("我选D", "D"),
    ("The correct answer is **C**.", "C"), ("Option D is right", "D"), ("A", "A"), ("a", None), ("", None), ("A cat sat", None),
    ("A or B", None), ("三", "C"), ("一 和 二", None), ("CD", None), ("It's D's turn", None), ("先排除A和B，答案是C", "C"), ("answer: b", None), ("The answer is a cat", None), ("ANSWER B", "B"),
    ("The answer is B. Option A is wrong because it is too small.", "B"), ("答案：B\n解析：选项A错误", "B"), ("B。因为选项A不对", "B"),
    ("C正确，选项A错误", "C"), ("应选B而不选A", "B"), ("不选A", None), ("The correct answer is B, not A", "B"), ("答案是Ｂ，不选Ａ", "B"),
    ("answer is A or B", None), ("A、B", None), ("Answer A is better than Answer B.", None), ("The answer is not A", None), ("D，四。", "D"),
    ("答案：A。选项B、C、D均不正确", "A"), ("Is the answer A? No. The answer is B.", "B"), ("正确答案是B、C", None), ("A. 一\nB. 二", None),
    ("Not A and not B, so C", "C"), ("排除A、B、D", None)])
def test_the_letter_in_a_reply(text, letter): assert choice_in(text, {"A": "一", "B": "二", "C": "三", "D": "四"}) == letter


def test_a_line_of_equal_answers_is_called_so(some):
    items = [{"subject": n, "answer": r["answer"], "choice": "", "choices": "ABCD", "number": i, "id": r["id"], "question": i}
             for n, s in some.items() for i, r in enumerate(s.test)]
    notes = choices._scored(items, some, [], {}).notes
    assert any("All answers alike in zh_idioms, en_commonsense" in note for note in notes)


# kills

def test_a_killed_run_goes_on_and_gives_the_same_scores(tmp_path, v3):
    whole = multiple_choice(*v3, load_questions(bundled), shots=1, batch_size=4)
    file = tmp_path / "choices.jsonl"
    program = ("import time\nfrom chatglm_cookbook import choices\nfrom chatglm_cookbook.checkpoints import load_model, load_tokenizer\n"
               "real = choices._letter_scores\ndef slow(*a, **k): time.sleep(0.03); return real(*a, **k)\nchoices._letter_scores = slow\n"
               f"m, t = load_model('tiny-v3'), load_tokenizer('tiny-v3')\n"
               f"choices.multiple_choice(m, t, choices.load_questions({str(bundled)!r}), shots=1, batch_size=4, output={str(file)!r})\n")
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL)
    end, lines = time.monotonic() + 60, lambda: file.read_bytes().count(b"\n") if file.exists() else 0
    while time.monotonic() < end and process.poll() is None and lines() < 60: time.sleep(0.01)
    process.kill()
    process.wait()
    assert 60 <= lines() < 211, lines()
    before = file.read_bytes()
    with file.open("ab") as end: end.write(b'{"subject": "zh_un')  # what a kill in the middle of a write leaves
    resumed = multiple_choice(*v3, load_questions(bundled), shots=1, batch_size=4, output=file)
    assert file.read_bytes().startswith(before) and file.read_bytes().count(b"\n") == 211
    assert [a["choice"] for a in resumed.answers] == [a["choice"] for a in whole.answers]
    assert {n: float(s) for n, s in resumed.items()} == {n: float(s) for n, s in whole.items()}
    assert multiple_choice(*v3, load_questions(bundled), shots=1, output=file).answers == resumed.answers


def test_a_log_of_something_else_is_refused(tmp_path, v3, some):
    file = tmp_path / "choices.jsonl"
    multiple_choice(*v3, some, shots=1, output=file)
    kept = file.read_bytes()
    for change in ({"shots": 2}, {"style": "input_output"}, {"by": "generation"}):
        with pytest.raises(ValueError, match="was written with"): multiple_choice(*v3, some, **{"shots": 1} | change, output=file)
    changed, words = loaded("tiny-v3")
    with torch.no_grad(): changed.lm_head.weight.mul_(1.1)
    with pytest.raises(ValueError, match="written by another model"): multiple_choice(changed, words, some, shots=1, output=file)
    lines = kept.splitlines(keepends=True)
    record = json.loads(lines[3])
    file.write_bytes(b"".join(lines[:3]) + json.dumps(record | {"prompt": "0" * 12}).encode() + b"\n")
    with pytest.raises(ValueError, match=r"choices\.jsonl:4: this question had another prompt"): multiple_choice(*v3, some, shots=1, output=file)
    file.write_bytes(b"".join(lines[:3]) + json.dumps(record | {"answer": "E"}).encode() + b"\n")
    with pytest.raises(ValueError, match=r"choices\.jsonl:4: this question had another answer"): multiple_choice(*v3, some, shots=1, output=file)
    file.write_bytes(lines[0] + b"broken\n" + lines[1])
    with pytest.raises(ValueError, match=r"choices\.jsonl:2: not JSON"): multiple_choice(*v3, some, shots=1, output=file)


@pytest.mark.parametrize("text", ["# Notes\nwithout an end", '{"a": 1}', '[1, 2]\n', '{"row": 0, "predict": "x"}\n{"row": 1'])
def test_a_file_that_is_no_log_stays_as_it_is(text, tmp_path, v3, some):
    (file := tmp_path / "notes.md").write_text(text)
    with pytest.raises(ValueError, match="notes.md"): multiple_choice(*v3, some, shots=1, output=file)
    assert file.read_text() == text
    with pytest.raises(ValueError, match="is a folder: output must be a file"): multiple_choice(*v3, some, shots=1, output=tmp_path)


def test_a_little_noise_makes_another_model(tmp_path, some):
    model, words = loaded("tiny-v3")
    model, file = model.to(torch.bfloat16), tmp_path / "choices.jsonl"
    multiple_choice(model, words, some, shots=1, output=file)
    with torch.no_grad(): model.lm_head.weight[3, 5] += 0.1
    with pytest.raises(ValueError, match="written by another model"): multiple_choice(model, words, some, shots=1, output=file)


def test_a_log_that_a_kill_left_without_a_whole_line_begins_anew(tmp_path, v3, some):
    whole = multiple_choice(*v3, some, shots=1, output=tmp_path / "choices.jsonl")
    data = (tmp_path / "choices.jsonl").read_bytes()
    (tmp_path / "torn.jsonl").write_bytes(data[:20])
    assert multiple_choice(*v3, some, shots=1, output=tmp_path / "torn.jsonl").answers == whole.answers
    assert (tmp_path / "torn.jsonl").read_bytes() == data


def test_comparisons_need_the_same_questions(v3, some):
    one, two = (multiple_choice(*v3, {"zh_idioms": replace(some["zh_idioms"], test=part)}, shots=0)
                for part in (some["zh_idioms"].test[:2], some["zh_idioms"].test[2:4]))
    with pytest.raises(ValueError, match="other questions"): two.against(one)
    same = multiple_choice(*v3, {"zh_idioms": replace(some["zh_idioms"], test=some["zh_idioms"].test[:2])}, shots=1)
    assert same.against(one)


@pytest.mark.parametrize("wrong", [{"shots": -1}, {"shots": 1.5}, {"batch_size": "4"}, {"batch_size": 0}, {"max_new_tokens": 0}])
def test_numbers_are_checked_first(wrong, v3, some):
    with pytest.raises(ValueError, match=f"{[*wrong][0]} must be a number from"): multiple_choice(*v3, some, **wrong)


# lm_eval

@pytest.fixture
def witness():
    try: import lm_eval
    except ImportError: pytest.skip('lm_eval is not installed: pip install "lm_eval==0.4.13"')
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    def run(model, tokenizer, questions, shots, folder, **options):
        tasks = lm_eval_tasks(questions, folder, shots)
        found = lm_eval.simple_evaluate(lm_eval_model(model, tokenizer, 8), tasks=tasks, bootstrap_iters=0, log_samples=True,
                                        task_manager=TaskManager(include_path=str(folder), include_defaults=False), **options)
        samples = [s for task in tasks for s in sorted(found["samples"][task], key=lambda s: s["doc_id"])]
        return [[score for (score, _), in s["resps"]] for s in samples], [s["acc"] for s in samples]
    return run


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
@pytest.mark.parametrize("shots", [0, 2])
def test_lm_eval_agrees_on_every_question(name, shots, some, tmp_path, witness):
    model, words = loaded(name)
    ours = multiple_choice(model, words, some, shots=shots, style="input_output")
    scores, right = witness(model, words, some, shots, tmp_path)
    assert [a["choice"] == a["answer"] for a in ours.answers] == [bool(r) for r in right]
    for answer, wanted in zip(ours.answers, scores): assert [*answer["scores"].values()] == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize("name", ["tiny-v1", "tiny-v2", "tiny-v3"])
def test_lm_eval_reads_dialogues_with_their_role_tokens(name, some, witness, tmp_path):
    model, words = loaded(name)
    lm, turns = lm_eval_model(model, words), choice_prompt(some["zh_idioms"], some["zh_idioms"].test[0], 1)
    text = lm.apply_chat_template(turns)
    made = choices._Prompts(model, words, some["zh_idioms"], 1, "chat")
    for letter in "ABCD":
        context, answer = lm._encode_pair(text, letter)
        assert context == encode_chat(words, turns) and context + answer == made.contexts[0] + made.letters[letter]
    scores, _ = witness(model, words, {"zh_idioms": some["zh_idioms"]}, 0, tmp_path, apply_chat_template=True)
    assert len(scores) == 5
    from lm_eval.api.instance import Instance
    asked = [Instance(request_type="generate_until", doc={}, arguments=(text, {"max_gen_toks": 5, "until": [], "do_sample": False}), idx=0)]
    wanted = choices._written(model, words, [encode_chat(words, turns)], 5)[0]
    assert lm.generate_until(asked, disable_tqdm=True)[0].strip().split("\n\n")[0] == wanted


@pytest.mark.slow
def test_smol_and_lm_eval_agree_on_real_questions(shared, witness, tmp_path):
    folder = shared / "data" / "cmmlu"
    if not folder.is_dir(): pytest.skip("cmmlu is not in the shared data")
    model, words = loaded("smol")
    real = load_questions(folder, subjects=["agronomy", "computer_security", "conceptual_physics"], max_samples=36)
    ours = multiple_choice(model, words, real, shots=0, style="input_output")
    scores, right = witness(model, words, real, 0, tmp_path)
    assert len(right) == 108 and [a["choice"] == a["answer"] for a in ours.answers] == [bool(r) for r in right]
    assert max(abs(a - b) for o, t in zip(ours.answers, scores) for a, b in zip(o["scores"].values(), t)) < 1e-3


def test_without_lm_eval_the_cure_is_named(v3, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for name in [m for m in sys.modules if m.startswith("lm_eval.")]: monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match='pip install "lm_eval==0.4.13"'): lm_eval_model(*v3)


# C-Eval's site

def test_a_submission_needs_all_subjects_and_each_question_once(tmp_path, v3):
    known = json.loads(data_file("subjects.json").read_text(encoding="utf-8"))["ceval"]
    names = [n for some in known.values() for n in some]
    for name in names:
        write(tmp_path / "test" / f"{name}_test.csv", "id,question,A,B,C,D\n0,哪个是长度？,米,克,秒,升\n1,哪个是时间？,米,克,秒,升\n")
    found = multiple_choice(*v3, tmp_path, shots=0)
    assert len(found) == 0 and "104 questions have no known answer: not scored." in found.notes and "104" in repr(found)
    sent = json.loads(save_submission(found, tmp_path / "answers.json").read_text())
    assert sorted(sent) == sorted(names) and all([*v] == ["0", "1"] and set(v.values()) <= set("ABCD") for v in sent.values())
    found.answers[1]["id"] = "0"
    with pytest.raises(ValueError, match="the id '0' twice"): save_submission(found, tmp_path / "answers.json")
