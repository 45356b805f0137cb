"""Rules one by one, files as people leave them, repair, real data, and fuzzing of validator and encoder."""
import gzip
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatglm_cookbook import validate as module
from chatglm_cookbook.checkpoints import load_tokenizer
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import DataError, load_rows, load_toolalpaca
from chatglm_cookbook.labels import encode_example
from chatglm_cookbook.tokens import ChatGLMTokenizer
from chatglm_cookbook.validate import Report, check_file, main, validate

weather = {"name": "weather", "description": "", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


def turns(*roles: str, who: str = "role", what: str = "content") -> list[dict]:
    return [{who: role, what: f"words {i}"} for i, role in enumerate(roles)]


def call(parameters=None, name="weather", **more) -> dict:
    return {"role": "tool", "name": name, "parameters": {"city": "Rome"} if parameters is None else parameters, **more}


def tooled(*middle: dict) -> dict:
    return {"tools": [weather], "conversations": [*turns("user"), *middle, {"role": "assistant", "content": "Sunny."}]}


good_rows = {
    "alpaca": {"instruction": "Say hi", "input": "now", "output": "Hi", "history": [["a", "b"]], "system": "Be kind."},
    "adgen": {"content": "类型#裤*颜色#黑", "summary": "黑色的裤子"},
    "prompt_response": {"prompt": "a", "response": "b", "history": []},
    "context_target": {"context": "a", "target": "b"},
    "chatglm3": tooled(call(observation="sun")),
    "sharegpt": {"conversations": turns("human", "gpt", "human", "gpt", who="from", what="value"), "system": "", "tools": ""},
    "openai": {"messages": [*turns("system", "user"), {"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]}, {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "Sun"}], "tools": [{"type": "function", "function": weather}]},
    "alpaca_preference": {"instruction": "a", "input": "", "chosen": "b", "rejected": "c"},
    "sharegpt_preference": {"conversations": turns("human", who="from", what="value"), "chosen": {"from": "gpt", "value": "b"},
                            "rejected": {"from": "gpt", "value": "c"}},
    "trl_preference": {"prompt": turns("user"), "chosen": turns("assistant"), "rejected": [{"role": "assistant", "content": "no"}]},
    "kto": {"messages": turns("user", "assistant"), "label": True},
    "text": {"text": "A sentence."},
    "multiple_choice": {"Question": "1 + 1", "A": "1", "B": "2", "C": "3", "D": "4", "Answer": "B"},
}


def codes(row, format=None) -> list[str]: return sorted(p.code for p in validate([row], format).problems)


@pytest.mark.parametrize("format", good_rows)
def test_a_good_row_of_each_format_is_good(format):
    report = validate([good_rows[format]])
    assert (report.rows, report.good, report.problems) == (1, 1, [])
    assert validate([good_rows[format]], format).ok


def test_two_calls_have_two_answers():
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"city": city}}} for city in ("Rome", "Oslo")]
    row = {"messages": [*turns("user"), {"role": "assistant", "content": None, "tool_calls": [dict(c, function={**c["function"], "arguments":
           json.dumps(c["function"]["arguments"])}) for c in calls]}, *turns("tool", "tool", "assistant")], "tools": [weather]}
    assert codes(row) == []
    row["messages"][2:4] = []
    assert codes(row) == ["tool-without-observation"]


faults = [
    ("alpaca", {"instruction": "a"}, ["missing-field"]),
    ("alpaca", {"instruction": 1, "output": []}, ["wrong-type", "wrong-type"]),
    ("alpaca", {"instruction": " ", "output": "\n"}, ["empty-answer", "empty-prompt"]),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["a"], "x"]}, ["wrong-type", "wrong-type"]),
    ("alpaca", {"instruction": "a\ud800", "output": "b"}, ["broken-text"]),
    ("openai", {"messages": turns("user", "user", "assistant")}, ["repeated-role"]),
    ("openai", {"messages": turns("user", "assistant", "assistant")}, ["repeated-role"]),
    ("openai", {"messages": turns("user", "system", "assistant")}, ["system-not-first"]),
    ("openai", {"messages": turns("system", "system", "user", "assistant")}, ["system-twice"]),
    ("openai", {"messages": turns("system", "user")}, ["no-assistant"]),
    ("openai", {"messages": turns("user", "bot", "assistant")}, ["unknown-role"]),
    ("openai", {"messages": turns("user", "tool", "assistant")}, ["observation-without-call"]),
    ("openai", {"messages": []}, ["missing-field"]),
    ("openai", {"messages": "text"}, ["wrong-type"]),
    ("openai", {"messages": [5, None]}, ["wrong-type", "wrong-type"]),
    ("chatglm3", {"conversations": [*turns("user"), {"role": "assistant", "content": "b", "loss": False}]}, ["nothing-trained"]),
    ("chatglm3", {"conversations": [*turns("user"), {"role": "assistant", "content": "b", "loss": "no"}]}, ["wrong-type"]),
    ("chatglm3", tooled(call({}, observation="sun")), ["tool-arguments"]),
    ("chatglm3", tooled(call({"city": 5}, observation="sun")), ["tool-arguments"]),
    ("chatglm3", tooled(call(name="time", observation="sun")), ["tool-not-declared"]),
    ("chatglm3", tooled(call(name="", observation="sun")), ["tool-without-name"]),
    ("chatglm3", tooled({"role": "tool", "name": "weather", "observation": "sun"}), ["tool-without-parameters"]),
    ("chatglm3", tooled(call("city", observation="sun")), ["tool-without-parameters"]),
    ("chatglm3", tooled(call()), ["tool-without-observation"]),
    ("adgen", {"content": "类型#裤 颜色#黑", "summary": "黑裤"}, ["adgen-separator"]),
    ("adgen", {"content": "类型＃裤＊颜色＃黑", "summary": "黑裤"}, ["adgen-separator"]),
    ("adgen", {"content": "类型#裤*颜色", "summary": "黑裤"}, ["adgen-separator"]),
    ("alpaca_preference", {"instruction": "a", "chosen": "same", "rejected": "same "}, ["same-preference", "white-space"]),
    ("alpaca_preference", {"instruction": "a", "chosen": "", "rejected": "b"}, ["empty-answer"]),
    ("kto", {"messages": turns("user", "assistant"), "label": "yes"}, ["label-not-bool"]),
    ("kto", {"messages": turns("user", "assistant")}, ["missing-field"]),
    ("openai", {"messages": [{"role": "user", "content": "a", "tool_calls": [call()]}, *turns("assistant")]}, ["wrong-type"]),
    ("multiple_choice", {"Question": "a", "A": "1", "B": "2", "Answer": "C"}, ["answer-not-a-choice"]),
    ("text", {"text": " "}, ["empty-answer"]),
    ("alpaca", ["a"], ["wrong-type"]),
    (None, {"colour": "red"}, ["unknown-format"]),
]


@pytest.mark.parametrize("format, row, expected", faults)
def test_errors(format, row, expected):
    report = validate([row], format)
    assert sorted(p.code for p in report.problems) == expected
    assert report.bad == any(p.level == "error" for p in report.problems) == report.exit_code
    for problem in report.problems: assert problem.reason and problem.cure and "row 1" in str(problem)


warnings = [
    (good_rows["alpaca"] | {"output": "I am <NAME>"}, ["placeholder"]),
    (good_rows["alpaca"] | {"output": "Use ```{{name}}``` and <TD>"}, []),
    (good_rows["alpaca"] | {"instruction": "a <|user|> b [gMASK]"}, ["special-token"]),
    (good_rows["alpaca"] | {"output": "黑色<UNK>的<UNK>裤子"}, ["unknown-token"]),
    (good_rows["alpaca"] | {"output": "锟斤拷"}, ["lost-characters"]),
    (good_rows["alpaca"] | {"output": "b "}, ["white-space"]),
    ({"messages": turns("user", "assistant", "user")}, ["unanswered"]),
    ({"messages": turns("assistant", "user", "assistant")}, ["assistant-first"]),
    (good_rows["multiple_choice"] | {"A": "2"}, ["same-choice"]),
    ({"content": "这是一篇新闻。很长。", "summary": "新闻"}, ["not-adgen"]),
    ({k: v for k, v in tooled(call(observation="sun")).items() if k != "tools"}, ["undeclared-tool"]),
    ({"messages": [*turns("user"), {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {
        "name": "weather", "arguments": '{"city": "Rome"}'}}]}, {"role": "tool", "content": "sun", "tool_call_id": "c2"},
        *turns("assistant")], "tools": [weather]}, ["unknown-call-id"]),
]


@pytest.mark.parametrize("row, expected", warnings)
def test_warnings_do_not_fail(row, expected):
    assert codes(row) == expected and validate([row]).ok


def test_every_code_that_is_documented_is_tested_somewhere():
    tested = {code for *_, found in [*faults, *warnings] for code in found}
    elsewhere = {"broken-json", "json-comment", "trailing-comma", "bom", "encoding", "unknown-encoding", "unreadable", "refused",
                 "no-room", "too-long", "duplicate", "near-duplicate", "leakage"}
    assert tested | elsewhere == module._errors.keys() | module._warnings.keys()


def test_wrong_labels_are_known_in_every_kto_spelling():
    assert codes({"prompt": "a", "completion": "b", "label": True}) == []
    assert codes({"prompt": "a", "completion": "b", "label": 3}, "kto") == ["label-not-bool"]


def test_the_format_is_that_of_most_of_the_first_rows():
    rows = [good_rows["prompt_response"], *[good_rows["alpaca"] | {"output": str(i)} for i in range(3)]]
    report = validate(rows)
    assert report.bad == 1 and {p.line for p in report.problems} == {1}
    assert validate(rows, "prompt_response").bad == 3


def test_one_trained_answer_is_enough():
    row = {"conversations": [*turns("user"), {"role": "assistant", "content": "b", "loss": False}, *turns("user", "assistant")]}
    assert codes(row) == []
    row["conversations"][3]["loss"] = False
    assert codes(row) == ["nothing-trained"]


def test_unknown_formats_are_refused_before_any_row():
    def rows(): raise AssertionError("a row was read"); yield
    with pytest.raises(DataError, match="format"): validate(rows(), "alpacca")


# ---- rows compared with one another

def noisy(text: str, changes: int, rng: random.Random) -> str:
    letters = list(text)
    for i in rng.sample(range(len(letters)), changes): letters[i] = rng.choice("abcdefghijklmnopqrstuvwxyz天地人")
    return "".join(letters)


def exact(a: str, b: str) -> float:
    a, b = (set("".join(t.lower().split())[i:i + 5] for i in range(len("".join(t.split())) - 4)) for t in (a, b))
    return len(a & b) / len(a | b)


def test_near_duplicates_against_the_exact_jaccard_similarity():
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz "
    bases = ["".join(rng.choices(letters, k=300)) for _ in range(150)]
    texts = [t for base in bases for t in (base, noisy(base, rng.randint(1, 12), rng))]
    marks = np.stack([module._signature(module._shingles(t)) for t in texts])
    found = module._near_pairs(marks, 0.8)
    pairs = [(2 * i, 2 * i + 1, exact(*texts[2 * i:2 * i + 2])) for i in range(len(bases))]
    sure = [later for _, later, j in pairs if j >= 0.9]
    assert len(sure) > 30 and sum(later in found for later in sure) / len(sure) >= 0.97
    assert all(exact(texts[earlier], texts[later]) > 0.65 for later, (earlier, _) in found.items())
    errors = [score - exact(texts[earlier], texts[later]) for later, (earlier, score) in found.items()]
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 0.05
    assert not [i for i in found if i % 2 == 0]
    assert module._near_pairs(np.stack([marks[0], marks[2], marks[0]]), 0.8) == {2: (0, 1.0)}


def test_the_estimate_is_unbiased():
    rng = random.Random(2)
    for share in (0.3, 0.6, 0.9):
        scores = []
        for _ in range(60):
            common, own = int(200 * share), int(200 * (1 - share) / 2)
            pool = np.array(rng.sample(range(2**60), common + 2 * own), np.uint64)
            one, two = pool[:common + own], np.concatenate([pool[:common], pool[common + own:]])
            a, b = (module._signature(module._mixed(x)) for x in (one, two))
            scores.append(((a == b).mean() * 256 - 1) / 255)
        assert abs(np.mean(scores) - share) < 0.025


def test_both_places_of_a_duplicate_are_named(tmp_path):
    words = "The tide turns twice a day, and twice a day the boats of the small harbour turn with it." * 2
    rows = [{"instruction": "a", "output": words}, {"instruction": "b", "output": "x"}, {"instruction": "a", "output": words},
            {"instruction": "a", "output": words.replace("small", "smart", 1)}]
    report = validate(rows)
    assert [(p.code, p.line) for p in report.problems] == [("duplicate", 3), ("near-duplicate", 4)]
    assert "row 1" in report.problems[0].reason and "row 1" in report.problems[1].reason
    assert [p.code for p in validate(rows, similar=None).problems] == ["duplicate"]
    assert not validate([{"messages": turns("user", "assistant"), "label": label} for label in (True, False)], similar=None).problems


def test_leakage_counts_runs_of_words_and_of_characters():
    words = [f"word{i}" for i in range(30)]
    dev = [{"instruction": "Repeat", "output": " ".join(words)}, {"instruction": "天地玄黄宇宙洪荒日月盈昃辰宿列张", "output": "x y"}]
    rows = [{"instruction": "a", "output": " ".join(["x", *words[4:17], "y"])}, {"instruction": "b", "output": " ".join(words[4:16])},
            {"instruction": "请背：天地玄黄，宇宙洪荒，日月盈昃，辰宿", "output": "c"}, {"instruction": "天地玄黄宇宙洪荒日月盈", "output": "d"}]
    report = validate(rows, dev=dev)
    assert [(p.line, p.code, p.reason.split()[-1]) for p in report.problems] == [(1, "leakage", "1"), (3, "leakage", "2")]
    assert "2 of 4 rows" in report.notes[0] and "2 of 2 dev rows (100.0%)" in report.notes[0]
    assert [p.line for p in validate(rows, dev=dev, n=12).problems] == [1, 2, 3]
    assert not validate(rows, dev=[]).problems


# ---- files

good = '{"instruction": "a // b, ] /* c */ # d", "output": "http://x.y,]"}'


def write(folder, name: str, content: str | bytes):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


files = {
    "comments.json": (f"[\n // one\n {good},\n /* two\n lines */ {good.replace('a', 'z')} # end\n]", 2, {"json-comment": 3}, 2),
    "commas.json": (f"[{good[:-1]},}},\n]", 1, {"trailing-comma": 2}, 1),
    "ends.jsonl": (f"{good},\n{good.replace('a', 'z')} , // why\r\n{good.replace('a', 'y')},", 3, {"trailing-comma": 3, "json-comment": 1}, 3),
    "ends.json": (f"{good},\n{good.replace('a', 'z')},\n", 2, {"trailing-comma": 2}, 2),
    "object.json": ('{\n "instruction": "a",\n "output": "b",\n}', 1, {"trailing-comma": 1}, 1),
    "broken.json": ('[\n{"instruction": "a", "output": "b"},\n{"instruction": "c" "output": "d"},\n'
                    '{"instruction": "e", "output": "f"}\n]', 3, {"broken-json": 1}, 2),
    "open.json": ('[\n{"instruction": "a", "output": "b"}\n', 1, {"broken-json": 1}, 1),
    "bom.jsonl": ("\ufeff" + good, 1, {"bom": 1}, 1),
    "mixed.jsonl": (good + '\n{"instruction": \n[]\n5\nnull\n\n' + good[:-1] + ",}\n", 6,
                    {"broken-json": 1, "wrong-type": 3, "trailing-comma": 1, "duplicate": 1}, 1),
    "gbk.jsonl": ('{"instruction": "你好世界", "output": "再见"}\n{"instruction": "a", "output": "b"}\n'.encode("gbk"), 2, {"encoding": 1}, 2),
    "gbk.csv": ("instruction,output\n你好,再见\n".encode("gbk"), 1, {"encoding": 1}, 1),
    "wide.json": (json.dumps([{"instruction": "你好", "output": "再见"}], ensure_ascii=False).encode("utf-16"), 1, {"encoding": 1}, 1),
    "latin.jsonl": ('{"instruction": "naïve café, señor", "output": "b"}\n'.encode("latin-1"), 1,
                    {"unknown-encoding": 1, "lost-characters": 1}, 0),
    "number.jsonl": ('{"instruction": ' + "9" * 5000 + "}\n" + good, 2, {"broken-json": 1}, 1),
    "cells.csv": ("instruction,output\na,b\nc\n", 2, {"unreadable": 1}, 1),
    "adgen.jsonl": ('{"content": "类型＃裤 ＊ 颜色＃黑", "summary": " 黑裤"}\n{"content": "类型：裙，颜色：白", "summary": "白裙"}', 2,
                    {"adgen-separator": 2, "white-space": 1}, 2),
}


@pytest.mark.parametrize("name", files)
def test_files_as_people_leave_them(tmp_path, name):
    content, rows, counts, kept = files[name]
    path = write(tmp_path, name, content)
    before = path.read_bytes()
    report = check_file(path, fix=True)
    assert (report.rows, report.counts, report.exit_code) == (rows, counts, int(counts.keys() != {"bom"}))
    assert report.rows == report.good + report.bad and path.read_bytes() == before
    said = path.with_name(name.split(".")[0] + ".fixed.report.md")
    if not kept: return assert_nothing(report, said)
    assert f"{rows} rows read = {kept} written + {rows - kept} left out." in said.read_text(encoding="utf-8")
    again = check_file(report.fixed)
    assert (again.rows, again.exit_code) == (kept, 0)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("tmp")] == []


def assert_nothing(report, page): assert report.fixed is None and not page.exists() and "not one row" in report.notes[-1]


def test_comments_never_touch_strings(tmp_path):
    path = write(tmp_path, "a.json", f"[ // x\n{good},]")
    assert json.loads(check_file(path, fix=True).fixed.read_text()) == json.loads(good)


def test_places_are_line_and_column(tmp_path):
    path = write(tmp_path, "a.jsonl", f'{good}\n\n{{"instruction": "b", "output" "c"}}\n')
    (problem,) = check_file(path).problems
    assert (problem.file, problem.line) == (str(path), 3) and "column 31" in problem.reason
    (problem,) = check_file(write(tmp_path, "b.jsonl", '{"instruction": "x"}\n{"instruction": "é"}'.encode("latin-1")), None).problems[1:2]
    assert problem.line == 2 and problem.code == "unknown-encoding" and "e9 22 7d" in problem.reason and "byte 18" in problem.reason


def test_nine_of_ten_characters_that_are_common_make_it_gbk():
    for text, code in (("你好" * 4 + "你镕", "encoding"), ("你好" * 4 + "喆镕", "unknown-encoding")):
        read, ((line, found, _),) = module._decoded(text.encode("gbk"), 7)
        assert (line, found, read == text) == (7, code, code == "encoding")


@pytest.mark.parametrize("name", ["empty.json", "cut.jsonl.gz", "not.parquet", "no.suffix"])
def test_files_that_are_none(tmp_path, name):
    packed = gzip.compress(b"".join(random.Random(i).randbytes(999) for i in range(20)))[:-4000]
    report = check_file(write(tmp_path, name, b"" if name == "empty.json" else packed))
    assert report.exit_code == 1 and report.rows == report.good + report.bad
    with pytest.raises(DataError, match="no file"): check_file(tmp_path / "gone.json")


def test_nothing_is_ever_written_over(tmp_path):
    path, other = write(tmp_path, "a.json", f"[{good},]"), write(tmp_path, "a.csv", "instruction,output\na,b\n")
    fixed = check_file(path, fix=True).fixed
    page, before = fixed.with_name("a.fixed.report.md"), fixed.read_bytes()
    for source in (path, other):
        with pytest.raises(DataError, match="a.fixed.jsonl and a.fixed.report.md is there.*nothing is written over"): check_file(source, fix=True)
    fixed.unlink()
    with pytest.raises(DataError, match="a.fixed.report.md is there"): check_file(path, fix=True)
    page.unlink()
    assert check_file(path, fix=True).fixed.read_bytes() == before


def test_a_crash_leaves_no_copy(tmp_path, monkeypatch):
    path = write(tmp_path, "a.json", f"[{good},]")
    monkeypatch.setattr(module, "_told", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError): check_file(path, fix=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_copies_are_dropped_and_listed(tmp_path):
    path = write(tmp_path, "a.jsonl", f"{good}\n{good}\n" + '{"instruction": "x", "output": ""}\n')
    fixed = check_file(path, fix=True).fixed
    said = fixed.with_name("a.fixed.report.md").read_text()
    assert fixed.read_text().count("\n") == 1
    assert "* line 2: duplicate" in said and "* line 3: empty-answer: output: is empty" in said


def test_the_cure_is_that_of_the_fault():
    def cure(row, format=None): return [(p.code, p.cure) for p in validate([row], format).problems]
    ((code, said),) = cure({"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]})
    assert code == "unknown-role" and "human, gpt" in said and "tags" in said
    row = json.loads(json.dumps(good_rows["openai"]))
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"city": "Rome",}'
    assert cure(row) == [("broken-json", "delete the comma in front of the bracket")]
    row["messages"][-1]["loss"] = False
    assert [code for code, _ in cure(row)] == ["broken-json"]
    assert cure({"instruction": "a", "output": ""}) == [("empty-answer", module._errors["empty-answer"])]


def test_the_cure_of_a_file_is_that_of_its_fault(tmp_path):
    for name, text, said in (("a.tsv", "a\tb\n", "take one of .json"), ("a.csv", "instruction,output\na,b,c\n", "contains commas")):
        (problem,) = check_file(write(tmp_path, name, text)).problems
        assert problem.code == "unreadable" and said in problem.cure and said in str(problem)


def test_a_code_with_several_cures_shows_the_general_one_in_the_table():
    rows = [{"messages": [5]}, {"messages": [{"role": "user", "content": 5}]}]
    assert "put a string there" in str(validate(rows[1:])) and module._errors["wrong-type"] in str(validate(rows))


def test_no_turns_are_called_so():
    (problem,) = validate([{"conversations": []}]).problems
    assert (problem.code, problem.reason) == ("missing-field", "has no turns")


def test_repaired_lines_are_those_of_the_faults(tmp_path):
    path = write(tmp_path, "a.csv", "instruction,output\n你好,再见\n早上,晚上\n春天,夏天\n".encode("gbk"))
    assert "* encoding: 3, line 2, 3, 4\n" in check_file(path, fix=True).fixed.with_name("a.fixed.report.md").read_text()
    path = write(tmp_path, "b.json", f"[\n // one\n {good}\n]")
    assert "* json-comment: 1, line 2\n" in check_file(path, fix=True).fixed.with_name("b.fixed.report.md").read_text()


white = [({"instruction": "a", "output": "b", "history": [["c", "d "], ["e", "f"]]}, "history[0][1]"),
         ({"instruction": "a", "chosen": "b ", "rejected": "c"}, "chosen"),
         ({"instruction": "a", "chosen": "b", "rejected": " c"}, "rejected"),
         ({"conversations": turns("human", who="from", what="value"), "chosen": {"from": "gpt", "value": "b\n"},
           "rejected": {"from": "gpt", "value": "c"}}, "chosen"),
         ({"prompt": turns("user"), "chosen": turns("assistant"), "rejected": [{"role": "assistant", "content": " no"}]}, "rejected")]


@pytest.mark.parametrize("row, field", white)
def test_white_space_is_named_and_repaired_in_every_column(tmp_path, row, field):
    report = check_file(write(tmp_path, "a.jsonl", json.dumps(row)), fix=True)
    assert [(p.code, p.field) for p in report.problems] == [("white-space", field)]
    assert not check_file(report.fixed).problems
    assert "* white-space: 1, line 1\n" in report.fixed.with_name("a.fixed.report.md").read_text()


def test_whole_numbers_fit_integer():
    schema = {"properties": {"days": {"type": "integer"}}}
    assert not list(module._misfits({"days": 1.0}, schema)) and list(module._misfits({"days": 1.5}, schema))


def test_a_folder_is_one_report(tmp_path):
    write(tmp_path, "a.jsonl", good)
    write(tmp_path, "b.csv", "prompt,response\nc,d\ne,\n")
    report = check_file(tmp_path)
    assert (report.rows, [p.place for p in report.problems]) == (3, ["b.csv:3"])
    with pytest.raises(DataError, match="is a folder.*one by one"): check_file(tmp_path, fix=True)


# ---- the whole

@pytest.fixture(scope="module")
def tokenizer(): return load_tokenizer("tiny-v3")


def test_too_long_and_no_room(tokenizer):
    rows = [{"instruction": "a", "output": "b " * 100 + "c"}, {"instruction": "word " * 200 + "c", "output": "b"},
            {"instruction": "a", "output": "b"}]
    report = validate(rows, tokenizer=tokenizer, max_length=64)
    assert [(p.line, p.code) for p in report.problems] == [(1, "too-long"), (2, "no-room")]
    assert "64" in report.problems[0].reason and len(report.lengths) == 3
    lengths = [len(encode_example(tokenizer, row)["input_ids"]) for row in rows]
    assert list(report.lengths) == lengths
    assert report.trained + report.untrained == sum(lengths)
    assert report.trained == sum(label != -100 for row in rows for label in encode_example(tokenizer, row)["labels"])
    assert not validate(rows[:1], tokenizer=tokenizer, max_length=lengths[0]).problems
    assert validate(rows[:1], tokenizer=tokenizer, max_length=lengths[0] - 1).counts == {"too-long": 1}
    pair = {"instruction": "a", "chosen": "b " * 50 + "c", "rejected": "d"}
    assert list(validate([pair], tokenizer=tokenizer).lengths) == [len(encode_example(tokenizer, pair)["chosen"]["labels"])]
    assert "was not checked" in validate(rows, max_length=64).notes[0]


def test_letters_are_counted_by_script():
    report = validate([{"instruction": "ab 你好", "output": "1！"}])
    assert report.letters == {"English": 2, "Chinese": 2, "other": 2} and list(report.lengths) == [7]


def test_the_table_adds_up():
    report = validate([{"instruction": "a", "output": ""}] * 5 + [{"instruction": "b", "output": "c<|user|>"}])
    assert "5  empty-answer" in str(report) and "row 1, row 2, row 3 …" in str(report)
    assert "6 rows: 1 good, 5 with errors" in str(report)
    assert "| error | empty-answer | 5 |" in report._repr_markdown_()
    assert str(report).index("empty-answer") < str(report).index("special-token")


def test_the_plot_shows_what_was_counted(tokenizer):
    report = validate([{"instruction": "ab", "output": "你好" * i} for i in range(1, 30)], tokenizer=tokenizer, max_length=40)
    axes = report.plot("name").axes
    assert len(axes) == 3 and sum(bar.get_height() for bar in axes[0].patches) == 29
    lines = {line.get_label(): line.get_xdata()[0] for line in axes[0].lines}
    assert lines["window: 40"] == 40 and np.median(report.lengths) in lines.values()
    assert sum(bar.get_height() for bar in axes[1].patches) == pytest.approx(100)
    assert len(validate([]).plot().axes) == 2


def test_iterators_are_streamed(tokenizer):
    words = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]

    def rows(n):
        rng = random.Random(n)
        for i in range(n): yield {"instruction": f"{i}", "output": " ".join(rng.choices(words, k=40))}

    def peak(n, **options):
        tracemalloc.start()
        try:
            report = validate(rows(n), **options)
            assert report.rows == report.good == len(report.lengths) == n
            return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    for more, small, large in (({}, 300, 2300), ({"tokenizer": tokenizer}, 100, 600)):
        before = [peak(small, **more) for _ in "ab"][1]
        assert peak(large, **more) - before < (large - small) * 330 + 100_000  # bytes; the texts alone take more than 400 a row


# ---- real data

real = {  # rows, errors, warnings and errors by code, tokens with ChatGLM3's tokenizer: median, 95 %, most
    "advertise_gen_dev.jsonl": (1070, 0, {"unknown-token": 300, "near-duplicate": 6, "duplicate": 1}, (121, 166, 229)),
    "alpaca_en_demo.json": (999, 0, {"duplicate": 14}, (142, 444, 761)),
    "alpaca_zh_demo.json": (1000, 0, {"duplicate": 8}, (117, 273, 580)),
    "cmmlu/dev_agronomy.csv": (5, 0, {}, (46, 50, 51)),
    "cmmlu/dev_chinese_history.csv": (5, 0, {}, (81, 86, 87)),
    "cmmlu/dev_clinical_knowledge.csv": (5, 0, {}, (60, 67, 68)),
    "cmmlu/dev_computer_security.csv": (5, 0, {}, (49, 51, 52)),
    "cmmlu/dev_conceptual_physics.csv": (5, 0, {}, (77, 82, 83)),
    "cmmlu/dev_high_school_biology.csv": (5, 0, {}, (70, 81, 84)),
    "cmmlu/test_agronomy.csv": (169, 0, {}, (53, 83, 121)),
    "cmmlu/test_chinese_history.csv": (323, 0, {"near-duplicate": 3}, (105, 147, 215)),
    "cmmlu/test_clinical_knowledge.csv": (237, 0, {}, (111, 215, 242)),
    "cmmlu/test_computer_security.csv": (171, 0, {"near-duplicate": 5}, (68, 125, 184)),
    "cmmlu/test_conceptual_physics.csv": (147, 0, {}, (88, 124, 185)),
    "cmmlu/test_high_school_biology.csv": (169, 0, {}, (107, 188, 261)),
    "dpo_en_demo.json": (300, 0, {"duplicate": 5, "placeholder": 2}, (649, 1988, 5049)),
    "dpo_zh_demo.json": (300, 0, {"duplicate": 11, "lost-characters": 6}, (401, 877, 1846)),
    "glaive_toolcall_zh_demo.json": (300, 2, {"observation-without-call": 2, "tool-arguments": 4, "duplicate": 43, "near-duplicate": 4},
                                     (426, 1236, 2153)),
    "identity.json": (91, 0, {"placeholder": 85, "near-duplicate": 1}, (44, 52, 85)),
    "kto_en_demo.json": (300, 0, {"special-token": 2, "placeholder": 1, "white-space": 1}, (522, 1939, 4984)),
    "self_cognition.json": (80, 0, {"placeholder": 74, "near-duplicate": 1}, (46, 53, 85)),
    "toolalpaca_eval_simulated.json": (67, 0, {"tool-arguments": 2, "white-space": 1}, (870, 1611, 1643)),
    "wiki_demo.txt": (30, 0, {}, (8147, 18159, 28374)),
}


@pytest.fixture(scope="module")
def chatglm3(shared):
    file = shared / "golden/tokenizer/tokenizer.model"
    if not file.is_file(): pytest.skip(f"ChatGLM3's tokenizer.model is not at {file}: set COOKBOOK_SHARED to its folder")
    return ChatGLMTokenizer(str(file), generation=3)


def loaded(path): return load_toolalpaca(path)[0] if "toolalpaca" in path.name else load_rows(path)


@pytest.mark.parametrize("name", real)
def test_real_files(shared, name, chatglm3):
    rows, bad, known, lengths = real[name]
    read = loaded(shared / "data" / name)
    report = validate(read, tokenizer=chatglm3)
    assert (len(read), report.rows, report.bad, report.counts) == (rows, rows, bad, known)
    assert len(report.lengths) == report.good
    assert (int(np.median(report.lengths)), int(np.percentile(report.lengths, 95)), max(report.lengths)) == lengths
    wrong = {(p.file, p.line) for p in report.problems if p.level == "error"}
    encoded = [encode_example(chatglm3, row) for row in read if (row.file, row.line) not in wrong]
    assert len(encoded) == report.good
    said = {"identity.json": ("{{name}}", 60), "self_cognition.json": ("<NAME>", 60), "advertise_gen_dev.jsonl": ("<UNK>", 300)}.get(name)
    assert not said or sum(said[0] in p.reason for p in report.problems) >= said[1]


def test_every_real_file_is_in_the_table(shared):
    folder = shared / "data"
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl", ".csv", ".txt")}
    assert found == real.keys()


def test_toolalpaca_counts_add_up(shared):
    rows, told = load_toolalpaca(shared / "data/toolalpaca_eval_simulated.json")
    assert (told["instances"], told["converted"], sum(told["refused"].values())) == (100, 67, 33) and len(rows) == 67


bundled = {  # the columns of files that hold questions and expected answers, not rows to train on
    "self_cognition_heldout.jsonl": {"prompt": "instruction", "response": "expected"}, "probe.jsonl": {"prompt": "prompt", "response": "answer"}}
data = data_file("instructions.jsonl").parent


@pytest.mark.parametrize("path", sorted([*data.glob("*.jsonl"), *data.glob("*.txt"), *data.glob("choices/*.csv")]), ids=lambda path: path.name)
def test_bundled_rows_have_no_error(path, tokenizer):
    columns = bundled.get(path.name)
    rows = [row for row in load_rows(path, {"columns": columns}) if columns["response"] in row] if columns else path
    report = validate(rows, tokenizer=tokenizer)
    assert report.ok and report.rows >= 5 and len(report.lengths) == report.rows, str(report)
    assert report.counts.keys() <= {"near-duplicate"}, str(report)
    assert report.counts.get("near-duplicate", 0) <= 0.05 * report.rows


# ---- the shell

def test_main_prints_the_table_and_returns_the_exit_code(tmp_path, capsys):
    path = write(tmp_path, "a.json", f'[{good},\n{{"instruction": "b"}},]')
    assert main([str(path)]) == 1
    said = capsys.readouterr()
    assert "missing-field" in said.out and "a.json:2" in said.out and said.out.endswith("2 rows: 1 good, 1 with errors\n") and not said.err
    assert "a.json:2: error missing-field: output: missing; add the column" in said.out
    assert main([str(path), "--fix"]) == 1
    said = capsys.readouterr()
    assert f"1 rows written, 1 left out\ncopy: {tmp_path}/a.fixed.jsonl\nreport: {tmp_path}/a.fixed.report.md\n" in said.out
    assert main([str(tmp_path / "a.fixed.jsonl"), "--dev", str(tmp_path / "a.fixed.jsonl")]) == 0
    assert "leakage" in capsys.readouterr().out
    for wrong, reason in (([str(path), "--fix"], "nothing is written over"), (["gone.json"], "there is no file gone.json"),
                          ([str(path), "--format", "alpacca"], "did you mean 'alpaca'"), ([str(path), "--format", "{1"], "--format: broken JSON in column 2: Expecting"),
                          ([str(path), "--dev", "gone.json"], "there is no file gone.json")):
        assert main(wrong) == 2
        said = capsys.readouterr()
        assert reason in said.err and not said.out
    with pytest.raises(SystemExit) as e: main([])
    assert e.value.code == 2


def test_main_prints_twenty_problems_and_takes_several_files(tmp_path, capsys):
    good_one, bad = write(tmp_path, "a.jsonl", good), write(tmp_path, "b.jsonl", "".join(f'{{"instruction": "{i}"}}\n' for i in range(25)))
    assert main([str(good_one), str(bad), "--format", "alpaca"]) == 1
    said = capsys.readouterr().out
    assert said.count("b.jsonl:") == 20 + 3 and "… and 5 more; --all shows them\n" in said and "1 rows: 1 good" in said
    assert main([str(bad), "--format", "alpaca", "--all"]) == 1
    said = capsys.readouterr().out
    assert said.count("b.jsonl:") == 25 + 3 and "--all" not in said
    assert main([str(good_one), "gone.json", str(bad)]) == 2


def test_main_takes_columns_and_a_tokenizer(tmp_path, capsys):
    path = write(tmp_path, "a.jsonl", '{"q": "a", "a": "' + "b " * 100 + 'c"}\n')
    assert main([str(path)]) == 1 and "unknown-format" in capsys.readouterr().out
    columns = ["--format", '{"columns": {"prompt": "q", "response": "a"}}', "--tokenizer", "tiny-v3"]
    assert main([str(path), *columns]) == 0 and "too-long" not in capsys.readouterr().out
    assert main([str(path), *columns, "--max-length", "64"]) == 0 and "too-long" in capsys.readouterr().out


def test_the_module_runs(tmp_path):
    path = write(tmp_path, "a.json", f"[{good},]")
    command = [sys.executable, "-m", "chatglm_cookbook.validate", str(path), "--fix"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 1 and "trailing-comma" in done.stdout and (tmp_path / "a.fixed.jsonl").is_file(), done.stderr


# ---- fuzz

def anything(rng: random.Random, depth: int = 0):
    "A value that JSON or Python can hold, of any type."
    inner = range(rng.randint(0, 3) if depth < 3 else 0)
    names = ["role", "content", "from", "value", "messages", "name", "parameters", "tool_calls", "function", "arguments", "tools", "x", ""]
    words = ["user", "assistant", "tool", "system", "<|user|>", "\ud800", "", " ", "\x00", "[gMASK]", "{{name}}", "#*", "true", "{}", "[1", "9" * 5000]
    return rng.choice([lambda: None, lambda: rng.random() < 0.5, lambda: rng.randint(-10**30, 10**30), lambda: 10**5000, lambda: float("nan"),
                       lambda: rng.choice(words), lambda: "".join(map(chr, rng.choices(range(0x110000), k=4))),
                       lambda: [anything(rng, depth + 1) for _ in inner], lambda: b"bytes",
                       lambda: {rng.choice(names): anything(rng, depth + 1) for _ in inner}])()


def places(value, path=()):
    "Every place in a row where something can be changed."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if len(path) > 6: return
    for key, inner in items: yield from places(inner, (*path, key))


def changed(row, path, change, new, name):
    "A copy of `row` in which the place `path` is deleted, renamed, replaced, doubled or nested."
    if not path: return new if change == "replace" else row
    key, copy = path[0], dict(row) if isinstance(row, dict) else list(row)
    if len(path) > 1: copy[key] = changed(row[key], path[1:], change, new, name)
    elif change == "delete": del copy[key]
    elif change == "replace": copy[key] = new
    elif change == "nest":
        for _ in range(3000 if name == "x" else 20): copy[key] = [copy[key]]
    elif isinstance(copy, dict): copy[name] = copy.pop(key) if change == "rename" else copy[key]
    else: copy.insert(key, copy[key])
    return copy


def malformed(rng: random.Random) -> tuple:
    "The name of a format, and a good row of it after one to three mutations."
    format = rng.choice(sorted(good_rows))
    row = good_rows[format]
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(["x", "role", "from", "content", "label", "conversations", "messages", "text", "kind", "chosen", "loss"])
        change = rng.choice(["delete", "rename", "replace", "replace", "double", "nest"])
        row = changed(row, rng.choice(list(places(row))), change, anything(rng), name)
    return format, anything(rng) if rng.random() < 0.1 else row


def encoded_or_refused(tokenizer, row, format) -> bool:
    "False where the encoder raises its documented error; any other is a failure."
    try: encode_example(tokenizer, row, format, max_length=512)
    except DataError: return False
    return True


def test_twenty_thousand_malformed_rows(tokenizer):
    done = Counter()

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(seed=st.integers(0, 2**60), size=st.integers(52, 60))
    def check(seed, size):
        rng = random.Random(seed)
        rows, by_format = [malformed(rng) for _ in range(size)], {}
        for format, row in rows: by_format.setdefault(format, []).append(row)
        for format, found in by_format.items():
            report = validate(found, format, tokenizer=tokenizer, max_length=512, similar=None)
            bad = {p.line for p in report.problems if p.level == "error"}
            assert (report.rows, report.bad) == (len(found), len(bad)) and report.good <= len(report.lengths)
            assert all(p.reason and p.cure and len(str(p)) < 600 for p in report.problems)
            for line, row in enumerate(found, 1):
                encoded = isinstance(row, dict) and encoded_or_refused(tokenizer, row, format)
                assert encoded or line in bad
                done[line in bad] += 1
        report = validate([row for _, row in rows])
        assert report.rows == size == report.good + report.bad
        assert report.bad == len({p.line for p in report.problems if p.level == "error"})
    check()
    assert done[True] + done[False] >= 20_000 and done[True] > 10_000 and done[False] > 1000


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(name=st.sampled_from(sorted(files)), cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=6)), max_size=4))
def test_files_with_broken_bytes(name, cuts, tmp_path_factory):
    data = files[name][0]
    data = bytearray(data if isinstance(data, bytes) else data.encode())
    for at, size, new in cuts: data[at:at + size] = new
    folder = tmp_path_factory.mktemp("broken")
    report = check_file(write(folder, name, bytes(data)), fix=True)
    assert report.rows == report.good + report.bad
    if report.fixed: assert check_file(report.fixed).exit_code == 0


def test_counts_of_pairs_are_what_they_say():
    texts = ["one two three four five six seven"] * 3
    report = validate([{"instruction": t, "output": "x"} for t in texts])
    assert report.counts == {"duplicate": 2} and len(list(combinations(texts, 2))) == 3
    assert Counter(p.line for p in report.problems) == {2: 1, 3: 1} and isinstance(report, Report)


@pytest.mark.parametrize("row", [
    {"prompt": turns("user"), "completion": turns("assistant")},
    {"prompt": turns("user"), "completion": turns("assistant"), "label": 0},
    {"chosen": [*turns("user"), {"role": "assistant", "content": "Yes"}], "rejected": [*turns("user"), {"role": "assistant", "content": "No"}]},
    {"messages": turns("user", "assistant"), "label": "False"}])
def test_every_shape_that_is_read_is_good(row):
    report = validate([row])
    assert (report.good, report.problems) == (1, [])
