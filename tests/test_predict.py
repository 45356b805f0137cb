"""Answers in batches: any batch size, sampled or not, files that survive real kills, rows that are refused."""
import json
import os
import subprocess
import sys

import pytest
import torch

from chatglm_cookbook import predict
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import DataError, load_rows
from chatglm_cookbook.deploy import chat
from chatglm_cookbook.predict import predictions, questions, read_predictions, write_original

texts = lambda lines: [line["predict"] for line in lines]


@pytest.fixture(scope="module")
def rows(): return load_rows(data_file("adgen_test.jsonl"))[:9] + load_rows(data_file("instructions.jsonl"))[:9]


@pytest.fixture(scope="module", params=["tiny-v1", "tiny-v2", "tiny-v3"])
def pair(request): return load_model(request.param, dtype=torch.float32), load_tokenizer(request.param)


@pytest.fixture(scope="module")
def v3(): return load_model("tiny-v3"), load_tokenizer("tiny-v3")


# --- batches

def test_batch_size_and_order_change_no_answer(pair, rows):
    asked = questions(*pair, rows, max_new_tokens=12)
    alone = predictions(*pair, asked, batch_size=1, max_new_tokens=12)
    for how in (dict(batch_size=5), dict(batch_size=18), dict(batch_size=4, sort=False)):
        assert predictions(*pair, asked, max_new_tokens=12, **how) == alone
    assert len(set(texts(alone))) > 8  # they are not all the same answer
    assert [line["row"] for line in alone] == list(range(18))


def test_an_answer_is_that_of_chat(pair, rows):
    asked = questions(*pair, rows[:3], max_new_tokens=10)
    for q, line in zip(asked, predictions(*pair, asked, max_new_tokens=10)):
        assert line["predict"] == chat(*pair, q.prompt, temperature=0, max_new_tokens=10)[0]


def test_a_sample_belongs_to_its_question(v3, rows):
    asked, how = questions(*v3, rows, max_new_tokens=8), dict(max_new_tokens=8, temperature=0.95, top_p=0.7)
    drawn = predictions(*v3, asked, batch_size=1, **how)
    assert predictions(*v3, asked, batch_size=7, sort=False, **how) == drawn
    assert predictions(*v3, asked[5:8], **how) == drawn[5:8]
    assert texts(predictions(*v3, asked, seed=1, **how)) != texts(drawn)
    assert texts(predictions(*v3, asked, max_new_tokens=8)) != texts(drawn)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    predictions(*v3, asked[:2], **how)
    assert torch.equal(state, torch.random.get_rng_state())


def test_draws_have_the_distribution_of_the_warpers():
    from transformers.generation.logits_process import TopPLogitsWarper
    scores = torch.tensor([[2.0, 1.5, 0.3, -0.5, -3.0]])
    kept = TopPLogitsWarper(0.8)(None, scores).softmax(-1)[0]
    noise = predict._OwnNoise([11], [TopPLogitsWarper(0.8)])
    found = torch.bincount(torch.tensor([int(noise(None, scores).argmax()) for _ in range(6000)]), minlength=5) / 6000
    assert (found - kept).abs().max() < 0.025 and not found[kept == 0].any()


def test_beams_are_passed_on(v3, rows):
    asked = questions(*v3, rows[:4], max_new_tokens=6)
    assert predictions(*v3, asked, num_beams=3, max_new_tokens=6, batch_size=1) == \
        predictions(*v3, asked, num_beams=3, max_new_tokens=6, batch_size=4)


def test_stops_and_lengths(v3, monkeypatch, rows):
    model, tokenizer = v3
    asked, end = questions(*v3, rows[:2], max_new_tokens=6), tokenizer.get_vocab()["<|user|>"]

    def generate(input_ids, **settings):
        word = tokenizer.encode("word", add_special_tokens=False)[0]
        new = [[word, word, end, word, word, word], [word] * 6]
        return torch.cat([input_ids, torch.tensor(new)], 1)
    monkeypatch.setattr(model, "generate", generate)
    found = predictions(*v3, asked, max_new_tokens=6, sort=False)
    assert [(line["tokens"], line["stopped"]) for line in found] == [(2, True), (6, False)]


def test_a_batch_without_memory_is_halved(v3, monkeypatch, rows):
    asked, usual, sizes = questions(*v3, rows, max_new_tokens=4), v3[0].generate, []
    wanted = predictions(*v3, asked, max_new_tokens=4)

    def short(input_ids, **settings):
        sizes.append(len(input_ids))
        if len(input_ids) > 5: raise torch.OutOfMemoryError("no memory")
        return usual(input_ids=input_ids, **settings)
    monkeypatch.setattr(v3[0], "generate", short)
    assert predictions(*v3, asked, max_new_tokens=4, batch_size=18) == wanted
    assert sizes[:3] == [18, 9, 4]
    monkeypatch.setattr(v3[0], "generate", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(torch.OutOfMemoryError): predictions(*v3, asked, max_new_tokens=4)


# --- questions

def test_turns_calls_and_marked_mistakes(v3):
    rows = load_rows(data_file("tool_dialogues_heldout.jsonl"))
    last, every = questions(*v3, rows, max_new_tokens=4), questions(*v3, rows, max_new_tokens=4, turns="all")
    assert len(last) == len(rows) and [q.row for q in last] == list(range(len(rows)))
    assert {(q.row, q.label) for q in last} <= {(q.row, q.label) for q in every}
    kinds = {rows[q.row]["kind"] for q in every if q.calls}
    assert kinds == {"single", "chain", "turns", "error", "ask_back", "new_tool"}
    wrong = [(i, t) for i, row in enumerate(rows) for t in row["conversations"] if t.get("loss") is False]
    assert wrong and not any(q.row == i and q.calls and q.calls[0]["arguments"] == t["parameters"] and q.calls[0]["name"] == t["name"]
                             for i, t in wrong for q in every)
    call = next(q for q in every if q.calls)
    assert call.label.startswith(call.calls[0]["name"] + "\n```python\ntool_call(") or call.calls[0]["name"] in call.label
    line = predictions(*v3, [call], max_new_tokens=4)[0]
    assert "raw" in line and "raw" not in predictions(*v3, questions(*v3, [{"prompt": "Hi", "response": "x"}]), max_new_tokens=4)[0]


@pytest.mark.parametrize("name", ["adgen_test.jsonl", "instructions.jsonl", "tool_dialogues_heldout.jsonl"])
def test_what_is_asked_is_what_training_teaches_to_answer(v3, name):
    from chatglm_cookbook.labels import encode_example
    rows = load_rows(data_file(name), max_samples=40)
    for q in questions(*v3, rows, max_new_tokens=4, turns="all"):
        example = encode_example(v3[1], rows[q.row])
        assert example["input_ids"][:len(q.ids)] == q.ids
        assert example["labels"][len(q.ids)] != -100 and example["labels"][len(q.ids) - 1] == -100


def test_bad_rows_are_named_by_file_and_line_before_the_model_runs(v3, tmp_path, monkeypatch):
    monkeypatch.setattr(v3[0], "generate", lambda **_: pytest.fail("the model ran"))
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Hi", "response": "x"}\n{"prompt": "", "response": "x"}\n{"prompt": "Hi", "response": null}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:2: prompt: the question is empty \(and 1 more rows: 3\)") as e:
        questions(*v3, load_rows(file))
    assert e.value.line == 2 and e.value.cure


@pytest.mark.parametrize(("row", "told"), [
    ({"messages": [{"role": "assistant", "content": "Hello"}]}, "the question is empty"),
    ({"instruction": "Hi", "input": "", "chosen": "a", "rejected": "b"}, "kind preference"),
    ({"foo": 1}, "unknown columns"), ("text", "a row must be an object"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]}, "no reply"),
    ({"prompt": "long " * 3000, "response": "x"}, "lower max_new_tokens")])
def test_rows_that_cannot_be_asked(v3, row, told):
    with pytest.raises(DataError, match=told): questions(*v3, [row])


def test_tools_are_refused_where_the_model_has_no_format_for_them():
    pair = load_model("tiny-v2"), load_tokenizer("tiny-v2")
    with pytest.raises(DataError, match="no tool format"):
        questions(*pair, load_rows(data_file("tool_dialogues_heldout.jsonl"))[:2])


def test_settings_that_would_break_the_count(v3, rows):
    asked = questions(*v3, rows[:1])
    for name, value in {"num_return_sequences": 2, "logits_processor": [], "stopping_criteria": [], "max_length": 9}.items():
        with pytest.raises(TypeError, match=name): predictions(*v3, asked, **{name: value})
    with pytest.raises(ValueError, match="batch_size"): predictions(*v3, asked, batch_size=0)
    with pytest.raises(ValueError, match="temperature must be"): predictions(*v3, asked, temperature=-1)
    with pytest.raises(TypeError, match="did you mean 'top_p'"): predictions(*v3, asked, topp=0.5)
    assert predict._settings({"top_p": 0.7})["do_sample"] and not predict._settings({})["do_sample"]


# --- files

@pytest.fixture(scope="module")
def asked(v3, rows): return questions(*v3, rows[:6], max_new_tokens=5)


def test_a_file_cut_anywhere_goes_on_to_the_same_end(v3, asked, tmp_path):
    how = dict(output=tmp_path, max_new_tokens=5, batch_size=2)
    whole, file = predictions(*v3, asked, **how), tmp_path / "generated_predictions.jsonl"
    data = file.read_bytes()
    start = data.rstrip().rfind(b"\n") + 1
    for end in [start, start + 1, (start + len(data)) // 2, len(data) - 2, len(data) - 1, 0, 7]:
        file.write_bytes(data[:end])
        assert predictions(*v3, asked, resume=True, **how) == whole
        assert file.read_bytes().count(b"\n") == 6 and len(read_predictions(file)) == 6
        assert len({(line["row"], line["turn"]) for line in read_predictions(file)}) == 6


def test_a_finished_run_asks_nothing_again(v3, asked, tmp_path, monkeypatch):
    whole = predictions(*v3, asked, output=tmp_path, max_new_tokens=5)
    monkeypatch.setattr(v3[0], "generate", lambda **_: pytest.fail("the model ran"))
    assert predictions(*v3, asked, output=tmp_path, resume=True, max_new_tokens=5) == whole
    with pytest.raises(ValueError, match="take another folder"): predictions(*v3, asked, output=tmp_path, max_new_tokens=5)


def test_other_settings_weights_or_rows_are_refused(v3, asked, rows, tmp_path):
    how = dict(output=tmp_path, max_new_tokens=5, resume=True)
    predictions(*v3, asked[:2], **how)
    with pytest.raises(ValueError, match="temperature was 1.0 and is 0.5|do_sample"):
        predictions(*v3, asked, **{**how, "temperature": 0.5})
    other = load_model("tiny-v3")
    with torch.no_grad(): other.model.norm.weight[0] += 0.5
    with pytest.raises(ValueError, match="the model has other weights"): predictions(other, v3[1], asked, **how)
    with pytest.raises(ValueError, match="row 0 is another question now"):
        predictions(*v3, questions(*v3, rows[3:6], max_new_tokens=5), **how)
    assert len(predictions(*v3, asked, **how, batch_size=1)) == 6


def test_an_adapter_that_is_switched_off_is_another_model():
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(load_model("tiny-v3"), LoraConfig(target_modules=["q_proj"]))
    on = predict._weights_sum(model)
    with model.disable_adapter(): assert predict._weights_sum(model) != on
    assert predict._weights_sum(model) == on


def test_two_runs_in_one_folder(v3, asked, tmp_path):
    from filelock import FileLock
    with FileLock(str(tmp_path / ".lock")):
        with pytest.raises(ValueError, match="another run is writing"): predictions(*v3, asked, output=tmp_path)


def test_a_damaged_line_in_the_middle_is_named(v3, asked, tmp_path):
    predictions(*v3, asked, output=tmp_path, max_new_tokens=5)
    file = tmp_path / "generated_predictions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match="jsonl:3: no prediction"):
        predictions(*v3, asked, output=tmp_path, resume=True, max_new_tokens=5)


def test_the_originals_layouts(tmp_path):
    lines = [{"predict": "好", "label": "很好"}, {"predict": "", "label": "b\nc"}]
    written = write_original(lines, tmp_path / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == [{"labels": p["label"], "predict": p["predict"]} for p in lines]
    assert read_predictions(tmp_path) == lines
    factory = "\n".join(json.dumps({"prompt": "q", **p}) for p in lines)  # without a newline at the end
    (tmp_path / "factory.jsonl").write_text(factory)
    assert texts(read_predictions(tmp_path / "factory.jsonl")) == ["好", ""]
    with pytest.raises(FileNotFoundError): read_predictions(tmp_path / "nothing")


# --- files of others, and runs that are not the same

row_line = json.dumps({"prompt": "q", "predict": "a", "label": "b"})


@pytest.mark.parametrize("name, text", [
    ("generated_predictions.jsonl", f"{row_line}\n{row_line}"), ("generated_predictions.jsonl", row_line),
    ("generated_predictions.jsonl", f"{row_line}\n"), ("generated_predictions.txt", row_line), ("scores.json", "{}")])
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_others_are_refused_and_left_as_they_are(v3, asked, tmp_path, name, text, resume):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"holds .*wrote {name}; take another folder"):
        predictions(*v3, asked, output=tmp_path, resume=resume, max_new_tokens=5)
    assert (tmp_path / name).read_text() == text and {f.name for f in tmp_path.iterdir()} <= {name, ".lock"}


def test_without_resume_an_own_torn_file_is_left_as_it_is(v3, asked, tmp_path):
    predictions(*v3, asked, output=tmp_path, max_new_tokens=5)
    file = tmp_path / "generated_predictions.jsonl"
    file.write_bytes(torn := file.read_bytes()[:-9])
    for how in (dict(), dict(resume=True, temperature=0.5, seed=3)):  # refused, in a torn file too, before it is cut
        with pytest.raises(ValueError, match="holds 6 predictions; go on with resume=True|resume: "):
            predictions(*v3, asked, output=tmp_path, max_new_tokens=5, **how)
        assert file.read_bytes() == torn
    write_original([], tmp_path / "generated_predictions.txt").write_text("mine")
    file.unlink()
    with pytest.raises(ValueError, match="holds generated_predictions.txt; go on"): predictions(*v3, asked, output=tmp_path)


def test_lines_of_others_in_an_own_file(v3, asked, tmp_path):
    predictions(*v3, asked[:2], output=tmp_path, max_new_tokens=5)
    with (tmp_path / "generated_predictions.jsonl").open("a") as file: file.write(row_line + "\n")
    with pytest.raises(ValueError, match="jsonl:3: a line without row, turn and key"):
        predictions(*v3, asked, output=tmp_path, resume=True, max_new_tokens=5)


def test_questions_of_two_files_do_not_take_each_others_answers(v3, rows):
    one, two = (questions(*v3, some, max_new_tokens=4) for some in (rows[:2], rows[2:4]))
    with pytest.raises(ValueError, match="row 0, reply 0 2 times.*call questions once with the rows of both"):
        predictions(*v3, one + two, max_new_tokens=4)


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e"])
def test_signs_that_only_python_takes_for_the_end_of_a_line(v3, tmp_path, sign):
    asked = questions(*v3, [{"prompt": f"one{sign}two", "response": f"a{sign}b"}, {"prompt": "three", "response": "c"}])
    whole = predictions(*v3, asked[:1], output=tmp_path, max_new_tokens=4)
    again = predictions(*v3, asked, output=tmp_path, resume=True, max_new_tokens=4)
    assert again[:1] == whole and read_predictions(tmp_path) == again and again[0]["label"] == f"a{sign}b"
    assert texts(read_predictions(write_original(again, tmp_path / "a.txt"))) == texts(again)


def test_files_that_are_no_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    for text in (f"[{row_line}]", f"[\n{row_line}\n]", f"[{row_line}]\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="a.jsonl:1: no prediction: .*this is a JSON array: write its items one a line"):
            read_predictions(file)
    for text in ("3", '"text"\n', "plain words"):
        file.write_text(text)
        with pytest.raises(ValueError, match="a.jsonl:1: no prediction: .*a line is an object"): read_predictions(file)
    file.write_text(f"{row_line}\n{row_line}", encoding="utf-8-sig")
    assert read_predictions(file) == [json.loads(row_line)] * 2
    cut = (row_line + "\n" + row_line.replace('"a"', '"好"')).encode()
    file.write_bytes(cut[:cut.index("好".encode()) + 1])  # torn within a character
    assert texts(read_predictions(file)) == ["a"]


def test_any_weight_and_the_dtype_belong_to_the_model(v3, asked, tmp_path):
    model, how = load_model("tiny-v3"), dict(output=tmp_path, max_new_tokens=5, resume=True)
    predictions(model, v3[1], asked[:2], **how)
    once = predict._weights_sum(model)
    for weight in model.parameters():
        place = tuple(k // 3 for k in weight.shape)
        was = weight.data[place].clone()
        weight.data[place] += 0.01
        assert predict._weights_sum(model) != once
        with pytest.raises(ValueError, match="the model has other weights"): predictions(model, v3[1], asked, **how)
        weight.data[place] = was
    assert predict._weights_sum(model) == once
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try: assert predict._weights_sum(model) == once
    finally: torch.set_num_threads(threads)
    with pytest.raises(ValueError, match="dtype was 'float32' and is 'bfloat16'"):
        predictions(load_model("tiny-v3", dtype=torch.bfloat16), v3[1], asked, **how)


def test_arguments_that_cannot_be(v3, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "_weights_sum", lambda _: pytest.fail("work was done"))
    (file := tmp_path / "file").write_text("mine")
    for output in (file, file / "folder"):
        with pytest.raises(ValueError, match="output must be a folder, and .*file is a file"): predictions(*v3, asked, output=output)
    for size in ("4", 2.5, True, None):
        with pytest.raises(TypeError, match="batch_size must be a whole number, not"): predictions(*v3, asked, batch_size=size)


talk = {"messages": [{"role": r, "content": c} for r, c in zip(("user", "assistant") * 3, "1a2b3c")]}


def test_a_reply_has_its_own_number_and_a_run_may_grow_from_the_last_to_all(v3, tmp_path):
    last, every = questions(*v3, [talk]), questions(*v3, [talk], turns="all")
    assert [q.turn for q in last] == [2] and [q.turn for q in every] == [0, 1, 2] and last[0] == every[2]
    wrong = {"messages": [m | {"loss": False} if m["content"] == "b" else m for m in talk["messages"]]}
    assert [(q.turn, q.label) for q in questions(*v3, [wrong], turns="all")] == [(0, "a"), (2, "c")]
    how = dict(output=tmp_path, resume=True, max_new_tokens=4)
    one = predictions(*v3, last, **how)
    assert predictions(*v3, every, **how)[2:] == one
    with pytest.raises(ValueError, match="holds 3 answers and 1 questions are asked: 2 answers belong to none.*turns"):
        predictions(*v3, last, **how)


def test_fewer_rows_than_the_file_holds(v3, asked, tmp_path):
    how = dict(output=tmp_path, resume=True, max_new_tokens=5)
    predictions(*v3, asked, **how)
    before = (tmp_path / "generated_predictions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds 6 answers and 4 questions are asked: 2 answers.*max_samples"):
        predictions(*v3, asked[:4], **how)
    assert (tmp_path / "generated_predictions.jsonl").read_bytes() == before
    other = questions(*v3, [{"prompt": "Another", "response": "x"}])
    with pytest.raises(ValueError, match="row 0 is another question now .reply 0.: the rows, `turns`"): predictions(*v3, other, **how)


def test_a_prompt_that_is_too_long_is_told_once_and_by_us(v3, caplog, monkeypatch):
    from transformers.utils import logging
    words = load_tokenizer("tiny-v3")
    words.model_max_length = 8192
    monkeypatch.setattr(predict, "encode_chat", lambda words, messages, tools: words(messages[-1]["content"])["input_ids"])
    logging.enable_propagation()
    try:
        with pytest.raises(DataError, match="the model's window leaves"):
            questions(v3[0], words, [{"prompt": "word " * 9000, "response": "x"}])
        assert "indexing errors" not in caplog.text and words.model_max_length == 8192
        words("word " * 9000)
        assert "indexing errors" in caplog.text  # what it says otherwise
    finally: logging.disable_propagation()


# --- kills

killed = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from chatglm_cookbook.checkpoints import load_model, load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.predict import predictions, questions
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
pair = load_model("tiny-v3"), load_tokenizer("tiny-v3")
asked = questions(*pair, load_rows(data_file("adgen_test.jsonl"))[:60], max_new_tokens=12)
lot, file, counts = random.Random(5), folder / "a" / "generated_predictions.jsonl", []

def child(name):
    pid = os.fork()
    if pid: return pid
    try: predictions(*pair, asked, output=folder / name, resume=True, batch_size=2, max_new_tokens=12)
    except BaseException as e: print("child:", e, file=sys.stderr); os._exit(1)
    os._exit(0)

def lines(): return file.read_bytes().count(b"\\n") if file.exists() else 0

while len(counts) < kills:  # a process of its own each time, killed some lines later, at any moment
    begin, pid = lines(), child("a")
    enough = begin + lot.randint(1, 10)
    while lines() < enough and os.waitpid(pid, os.WNOHANG) == (0, 0): time.sleep(0.001)
    time.sleep(lot.random() * 0.05)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    counts.append((begin, lines(), os.WIFSIGNALED(status)))
for name in "ab": assert os.waitpid(child(name), 0)[1] == 0
print(counts)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path), "4"], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = eval(done.stdout.strip().splitlines()[-1])
    assert all(signalled for *_, signalled in counts) and 4 <= counts[-1][1] < 60, counts
    assert all(after >= before for before, after, _ in counts)
    for (_, after, _), (before, *_) in zip(counts, counts[1:]): assert before == after  # what was written stayed
    one, two = read_predictions(tmp_path / "a"), read_predictions(tmp_path / "b")
    assert one == two and len(one) == 60
