"""Data and files: what the lessons do not show. Real files, every pair of formats, dialects, fuzzing, memory, refusals."""
import copy
import csv
import gzip
import json
import pickle
import random
import time
import tracemalloc
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chatglm_cookbook.data as data
import chatglm_cookbook.files as files
from chatglm_cookbook.data import DataError, Row, as_conversation, convert, detect_format, load_rows, mix, split_dev
from chatglm_cookbook.files import _records, dataset_info, load_toolalpaca, save_rows

formats = tuple(data._formats)
real = {"advertise_gen_dev.jsonl": ("adgen", 1070), "alpaca_en_demo.json": ("alpaca", 999), "alpaca_zh_demo.json": ("alpaca", 1000),
        "dpo_en_demo.json": ("sharegpt_preference", 300), "dpo_zh_demo.json": ("sharegpt_preference", 300), "kto_en_demo.json": ("kto", 300),
        "glaive_toolcall_zh_demo.json": ("sharegpt", 300), "identity.json": ("alpaca", 91), "self_cognition.json": ("alpaca", 80)}


def turn(role, content, **extra): return {"role": role, "content": content, **extra}


def call(name, arguments, **extra): return {"type": "function", "function": {"name": name, "arguments": arguments}, **extra}


# ---------------------------------------------------------------- real files
@pytest.mark.parametrize("name", real)
def test_real_file_row_by_row(shared, name):
    path, (format, count) = shared / "data" / name, real[name]
    text = path.read_text(encoding="utf-8")
    expected = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    rows = load_rows(path)
    assert len(rows) == count and rows == expected and {row.format for row in rows} == {format}
    begins = [i for i, line in enumerate(text.split("\n"), 1) if line.startswith("  {" if name.endswith("n") else "{") and line.strip(" {") != "x"]
    assert [row.line for row in rows] == [i for i in begins if name.endswith("l") or text.split("\n")[i - 1] == "  {"]


def test_real_benchmark_and_text(shared):
    folder = shared / "data" / "cmmlu"
    expected = [row for path in sorted(folder.glob("*.csv")) for row in csv.DictReader(open(path, encoding="utf-8", newline=""))]
    rows = load_rows(folder)
    assert rows == expected and len(rows) == 1246 and {row.format for row in rows} == {"multiple_choice"}
    assert len(load_rows(folder, split="dev")) == 30 and len(load_rows(folder, split="test")) == 1216
    lines = [line for line in (shared / "data" / "wiki_demo.txt").read_text(encoding="utf-8").split("\n") if line.strip()]
    assert [row["text"] for row in load_rows(shared / "data" / "wiki_demo.txt")] == lines and len(lines) == 30


@pytest.mark.parametrize("name", [*real, "cmmlu"])
def test_real_rows_through_every_format(shared, name):
    rows, fits = load_rows(shared / "data" / name), Counter()
    for to in formats:
        for row in rows:
            try: there = convert([row], to)
            except DataError as e: assert e.line == row.line and e.reason and e.cure; continue
            fits[to] += 1
            assert convert(there, row.format) == [row], (to, row)
    assert fits[rows[0].format] == len(rows)
    chat = {"alpaca", "sharegpt", "adgen", "multiple_choice"}
    assert all(fits[to] == len(rows) for to in ("sharegpt", "openai", "chatglm3") if rows[0].format in chat)


def test_real_toolalpaca_adds_up(shared):
    path = shared / "data" / "toolalpaca_eval_simulated.json"
    apis = json.loads(path.read_text(encoding="utf-8"))
    rows, report = load_toolalpaca(path)
    assert report["instances"] == sum(len(api["Instructions"]) for api in apis) == 100
    assert report["converted"] == len(rows) == 67 and sum(report["refused"].values()) == len(report["problems"]) == 33
    broken = sum(any(not good_json(g["Action_Input"]) for g in golden) for api in apis for golden in api["Golden_Answers"])
    assert broken >= report["refused"]["the input of an action is not a JSON object"] == 24
    for row in rows:
        names = {tool["name"] for tool in row["tools"]}
        assert {t["name"] for t in row["conversations"] if t["role"] == "tool"} <= names
    assert {row["conversations"][0]["content"] for row in rows} <= {text for api in apis for text in api["Instructions"]}


def good_json(text):
    try: return isinstance(json.loads(text), dict)
    except ValueError: return False


# ---------------------------------------------------------------- dialects: every row must come back equal
weather = {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
dialects = [
    ("alpaca", {"instruction": "a", "output": "b"}), ("alpaca", {"instruction": "a", "input": None, "output": "b", "system": "", "history": []}),
    ("alpaca", {"instruction": "", "input": "x", "output": ""}), ("alpaca", {"instruction": "a\nb", "input": "b", "output": "c", "language": "zh"}),
    ("alpaca", {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]], "system": "S", "tools": json.dumps([weather])}),
    ("alpaca", {"instruction": "c", "input": "", "output": "d", "tools": [weather]}),
    ("prompt_response", {"prompt": "c", "response": "d", "history": [["a", "b"], ["e", "f"]]}), ("prompt_response", {"prompt": "c", "response": "d"}),
    ("adgen", {"content": "类型#裙*颜色#红", "summary": "好看"}), ("context_target", {"context": "a", "target": "b", "id": 3}),
    ("prompt_completion", {"prompt": "a", "completion": "b"}),
    ("chatglm3", {"conversations": [turn("system", "S"), turn("user", "a"), turn("assistant", "b", loss=False), turn("user", "c"), turn("assistant", "d", loss=True)]}),
    ("chatglm3", {"tools": ["doc's \"text\"\n"], "conversations": [turn("user", "a"), {"role": "tool", "name": "f", "parameters": {"x": None, "y": [1, {"z": 0.5}]},
                  "observation": [1, 2, {"k": "v"}], "loss": False}, turn("assistant", "b")]}),
    ("chatglm3", {"conversations": [turn("user", "a"), {"role": "tool", "name": "f", "parameters": {}}]}),
    ("chatglm3", {"conversations": [turn("user", "a"), turn("observation", "x"), turn("assistant", "b")], "tools": []}),
    ("chatglm3", {"conversations": [turn("user", "a"), {"role": "tool", "name": "f", "parameters": {}, "observation": "o", "call_id": "7", "tool_tool_call_id": "7", "note": 1}]}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "S", "tools": ""}),
    ("sharegpt", {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}, {"from": "function_call", "value": '{"arguments":{"city":"Oslo"},"name":"weather"}'},
                  {"from": "observation", "value": "4"}, {"from": "gpt", "value": "b", "weight": 0}], "tools": [weather]}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": json.dumps([{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"x": 1}}])},
                  {"from": "observation", "value": "[1, 2]"}, {"from": "gpt", "value": "b"}], "tools": json.dumps([weather]), "kept": "mine"}),
    ("openai", {"messages": [turn("developer", "S"), turn("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), turn("assistant", "c", name="bot")]}),
    ("openai", {"messages": [turn("user", "a"), turn("assistant", None, tool_calls=[call("weather", '{"city":"Oslo"}', id="1")]),
                turn("tool", "4", tool_call_id="1", name="weather"), turn("assistant", "b")], "tools": [{"type": "function", "function": weather}]}),
    ("openai", {"messages": [turn("user", "a"), turn("assistant", "I look.", tool_calls=[call("f", "", id="1"), call("g", '{"x": 1}', id="2")]), turn("tool", "4"), turn("tool", "5")], "tools": [weather]}),
    ("openai", {"messages": [turn("user", "a"), {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, turn("function", "4", name="f")]}),
    ("alpaca_preference", {"instruction": "a", "input": "i", "chosen": "c", "rejected": "d"}), ("alpaca_preference", {"instruction": "a", "chosen": "c", "rejected": "d", "history": [["q", "r"]]}),
    ("sharegpt_preference", {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "c"}, "rejected": {"from": "gpt", "value": "d", "score": 1}}),
    ("trl_preference", {"prompt": "a", "chosen": "c", "rejected": "d"}),
    ("trl_preference", {"prompt": [turn("system", "S"), turn("user", "a")], "chosen": [turn("assistant", "c")], "rejected": [turn("assistant", "d"), turn("user", "e"), turn("assistant", "f")]}),
    ("kto", {"messages": [turn("user", "a"), turn("assistant", "b")], "label": True}), ("kto", {"prompt": "a", "completion": "b", "label": False}),
    ("kto", {"instruction": "a", "input": "i", "output": "b", "kto_tag": True}), ("kto", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "label": False}),
    ("text", {"text": "a\nb", "meta": {"url": "x"}}), ("multiple_choice", {"id": "1", "question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C", "explanation": ""}),
    ("multiple_choice", {"question": "q", "A": "a", "B": "b", "answer": ""}), ("multiple_choice", {"question": "q", "choices": ["a", "b", "c"], "answer": 2, "subject": "s"}),
    ("multiple_choice", {"": "0", "Question": "q", "A": "1", "B": "2", "C": "3", "D": "4", "Answer": "A"}),
]


@pytest.mark.parametrize("format,row", dialects)
def test_dialects_come_back_equal_by_every_way(format, row):
    before = copy.deepcopy(row)
    assert detect_format(row) == format
    assert convert([row], format) == [row] and convert([as_conversation(row)], format) == [row]
    ways = 0
    for to in formats:
        try: there = convert([row], to)
        except DataError as e: assert "cannot hold" in e.reason or "needs" in e.reason; continue
        ways += 1
        assert detect_format(there[0]) == to and convert(there, format) == [row], to
        for onward in formats:
            try: assert convert(convert(there, onward), format) == [row], (to, onward)
            except DataError: continue
    assert ways >= 1 and row == before


def test_an_edited_row_is_not_undone_by_what_was_kept():
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "tools": "", "system": "S"}
    there = convert([row], "openai")[0]
    there["messages"][-1]["content"] = "edited"
    back = convert([there], "sharegpt")[0]
    assert back["conversations"][-1]["value"] == "edited"
    assert as_conversation(back)["messages"] == as_conversation(there)["messages"]


parallel = {"messages": [turn("user", "a"), turn("assistant", None, tool_calls=[call("f", "{}"), call("g", "{}")])]}
beside = {"messages": [turn("user", "a"), turn("assistant", "text", tool_calls=[call("f", "{}")])]}
pair = [turn("user", "a"), turn("assistant", "b")]


@pytest.mark.parametrize("row,to,reason", [
    (parallel, "chatglm3", "2 calls in one turn"), (beside, "chatglm3", "text beside a call"), (beside, "sharegpt", "text beside a call"),
    (parallel, "alpaca", "`tool_calls`"), ({"messages": [turn("system", "S"), *pair]}, "adgen", "a system message"),
    ({"messages": pair * 2}, "context_target", "earlier turns"), ({"messages": pair[:1]}, "alpaca", "turns other than"),
    ({"messages": [*pair, pair[1]]}, "alpaca", "turns other than"), ({"messages": pair, "tools": [weather]}, "prompt_response", "tools"),
    ({"messages": pair, "input": "x"}, "alpaca", "the column 'input'"), ({"messages": pair, "summary": "x"}, "adgen", "the column 'summary'"),
    ({"messages": [pair[0], turn("assistant", "b", loss=False)]}, "alpaca", "`loss`"), ({"text": "a"}, "openai", "text without turns"),
    ({"instruction": "a", "chosen": "b", "rejected": "c"}, "alpaca", "rejected"), ({"messages": pair, "label": True}, "openai", "a label"),
    ({"messages": pair}, "trl_preference", "needs two answers"), ({"messages": pair}, "multiple_choice", "needs options"), ({"messages": pair}, "text", "needs text"),
])
def test_what_a_format_cannot_hold(row, to, reason):
    with pytest.raises(DataError) as e: convert([{"text": "a"}][:0] + [row], to)
    assert reason in e.value.reason and e.value.cure and e.value.field.startswith("rows[0]")


@pytest.mark.parametrize("row,format,field,reason", [
    ({"instruction": "a"}, None, "output", "missing"), ({"instruction": 3, "output": "b"}, None, "instruction", "must be text, not a number"),
    ({"instruction": "a", "output": None}, None, "output", "not null"), ({"instruction": "a", "output": "b", "history": {"a": 1}}, None, "history", "list of pairs"),
    ({"instruction": "a", "output": "b", "history": [["a"]]}, None, "history[0]", "must be a pair"),
    ({"conversations": "x"}, None, "conversations", "list of turns, not text"), ({"conversations": []}, None, "conversations", "no turns"),
    ({"conversations": [3]}, None, "conversations[0]", "must be an object, not a number"), ({"conversations": [turn("bot", "x")]}, None, "conversations[0].role", "unknown role 'bot'"),
    ({"conversations": [turn(["user"], "x")]}, None, "conversations[0].role", "unknown role"), ({"conversations": [turn("user", None)]}, None, "conversations[0].content", "not null"),
    ({"conversations": [turn("user", "x", loss="no")]}, None, "conversations[0].loss", "true or false"),
    ({"conversations": [{"role": "tool", "name": "f", "parameters": "x=1"}]}, None, "conversations[0].parameters", "must be an object"),
    ({"conversations": [{"role": "tool", "parameters": {}}]}, None, "conversations[0]", "needs a name"),
    ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, None, "conversations[0].value", "broken JSON"),
    ({"conversations": [{"from": "function_call", "value": "[]"}]}, None, "conversations[0].value", "no calls"),
    ({"messages": [turn("user", [{"type": "image_url", "image_url": "x"}])]}, None, "messages[0].content", "not text"),
    ({"messages": [turn("assistant", None, tool_calls=[call("f", "[1]")])]}, None, "messages[0].tool_calls[0].arguments", "must be an object, not a list"),
    ({"messages": pair, "tools": "[{"}, None, "tools", "broken JSON"), ({"messages": pair, "tools": 3}, None, "tools", "list of tool schemas"),
    ({"messages": pair, "label": "no"}, "kto", "label", "true or false"), ({"instruction": "a", "chosen": "b", "rejected": None}, None, "rejected", "not null"),
    ({"prompt": "a", "chosen": None, "rejected": "b"}, None, "chosen", "missing"), ({"Question": "q", "A": "a", "B": "b", "Answer": "E"}, None, "Answer", "one of A, B"),
    ({"text": ["a"]}, None, "text", "must be text"), ({"a": 1}, "nonsense", "format", "no format is called"), ({"a": 1}, {"formatting": "x"}, "format", "not known"),
    ({"a": 1}, 3, "format", "a name or an object"), ({"a": 1}, {"columns": {"prompts": "a"}}, "format", "not read here"), (["a"], None, "", "must be an object"),
])
def test_a_bad_row_is_named(row, format, field, reason):
    row = Row(row, "f.json", 7) if isinstance(row, dict) else row
    with pytest.raises(DataError) as e: as_conversation(row, format)
    assert e.value.field == field and reason in e.value.reason
    if isinstance(row, dict): assert str(e.value).startswith("f.json:7: ")


# ---------------------------------------------------------------- random conversations
texts = st.text(max_size=12)
values = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | texts, lambda x: st.lists(x, max_size=2) | st.dictionaries(texts, x, max_size=2), max_leaves=4)
calls_ = st.builds(lambda name, arguments: call(name, arguments), st.text(min_size=1, max_size=5), st.dictionaries(texts, values, max_size=2))
messages_ = st.lists(st.one_of(
    st.builds(turn, st.sampled_from(["system", "user", "assistant"]), texts), st.builds(turn, st.just("tool"), values),
    st.builds(lambda text, made: turn("assistant", text, tool_calls=made), st.just("") | texts, st.lists(calls_, min_size=1, max_size=2)),
    st.builds(lambda text, loss: turn("assistant", text, loss=loss), texts, st.booleans())), min_size=1, max_size=6)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages_, st.lists(st.just(weather) | st.text("abc", min_size=1), max_size=2), st.dictionaries(st.sampled_from(["id", "input", "kept", "label2"]), values, max_size=2))
def test_random_conversations_survive_or_are_refused(messages, tools, rest):
    start = {"kind": "chat", "messages": messages, **({"tools": tools} if tools else {}), **({"rest": rest} if rest else {})}
    for to in ("openai", "chatglm3", "sharegpt", "alpaca", "prompt_response"):
        try: there = convert([start], to)[0]
        except DataError: assert to != "openai" or any(m["role"] == "tool" and m.get("json") for m in messages) or rest; continue
        back = as_conversation(json.loads(json.dumps(dict(there))), to)
        assert (back["messages"], back.get("tools", [])) == (messages, tools)
        assert convert(convert([there], "openai"), to) == [there]


junk = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=6), lambda x: st.lists(x, max_size=3) | st.dictionaries(
    st.sampled_from(["role", "content", "from", "value", "name", "parameters", "arguments", "function", "tool_calls", "observation", "loss", "kind", "text"]), x, max_size=4), max_leaves=8)
columns_ = st.sampled_from(["instruction", "input", "output", "history", "system", "tools", "conversations", "messages", "chosen", "rejected", "label", "prompt",
                            "response", "text", "Question", "A", "B", "Answer", "choices", "kind", "kept", "content", "summary", "question"])


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(columns_, junk, max_size=5), st.none() | st.sampled_from(formats))
def test_junk_raises_only_data_errors(row, format):
    try: conversation = as_conversation(row, format)
    except DataError as e: assert e.reason; return
    assert conversation["kind"] in data._kinds
    for to in formats:
        try: convert([row], to, format)
        except DataError: pass


# ---------------------------------------------------------------- reading files
def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def errors(path): return [(line, value.reason) for line, value in _records(path) if isinstance(value, DataError)]


@pytest.mark.parametrize("indent,separator", [(None, ", "), (None, ",\n"), (2, None), ("\t", None), (0, None)])
def test_lists_are_read_over_the_edge_of_the_window(tmp_path, indent, separator):
    draw = random.Random(1)
    rows = [{"text": "漢字😀é\\\"" * draw.randrange(0, 900), "n": draw.choice([1, -2.5e10, None, True]), "list": [[], {}]} for _ in range(120)]
    text = json.dumps(rows, ensure_ascii=False, indent=indent) if separator is None else "[" + separator.join(json.dumps(r, ensure_ascii=False) for r in rows) + "]"
    path = write(tmp_path / "a.json", "\ufeff" + text)
    found = list(_records(path))
    assert [value for _, value in found] == rows
    at, lines, decoder = text.index("{"), [], json.JSONDecoder()
    for _ in rows:
        lines.append(text.count("\n", 0, at) + 1)
        at = text.find("{", decoder.raw_decode(text, at)[1])
    assert [line for line, _ in found] == lines
    numbers = write(tmp_path / "n.json", "[" + ",".join(str(n) for n in range(40_000)) + "]")
    assert [value for _, value in _records(numbers)] == list(range(40_000))


@pytest.mark.parametrize("name,content,line,reason", [
    ("a.jsonl", '{"text": "a"}\n\n{"text": "b",}\n', 3, "broken JSON in column 14"), ("a.jsonl", '{"text": 1}\n{"a": 1, "a": 2}', 2, "stands twice"),
    ("a.jsonl", '{"text": NaN}', 1, "NaN is not JSON"), ("a.jsonl", '{"text": "\\ud800"}', 1, "half a character"), ("a.jsonl", "[" * 200_000, 1, "nested too deeply"),
    ("a.json", "", None, "empty"), ("a.csv", "", None, "empty"), ("a.json", '[{"text": "a"}', 1, "between the rows"), ("a.json", '[{"text": "a"} {"text": "b"}]', 1, "between the rows"),
    ("a.json", '[{"text": "a"}]\nx', 2, "text after the list"), ("a.json", '[\n{"text": "a"},\n{"text: 1}\n]', 3, "broken JSON"), ("a.json", '{"text": "a"', 1, "broken JSON"),
    ("a.json", '{\n"text": "a"}\n{\n"text": "b"}', 3, "more than one object"), ("a.json", '[\n {"a": 1, "a": 2},\n {"text": "x"}]', 2, "stands twice"),
    ("a.jsonl", '{"text": "中文字"}'.encode("gbk"), 1, "GBK"), ("a.jsonl", '{"text": "é"}'.encode("latin-1"), 1, "Latin-1"), ("a.jsonl", '{"text": "a"}'.encode("utf-16"), 1, "UTF-16"),
    ("a.json", ('[\n{"text": "a"},\n{"text": "中文字"}]').encode("gbk"), 3, "GBK"), ("a.csv", "a,b\n中文,字\n".encode("gbk"), 2, "GBK"), ("a.txt", b"ok\n\xff\xff\n", 2, "not UTF-8"),
    ("a.csv", 'a,b\n1,2\n"x\ny",2\n1\n', 5, "1 cells in a row, 2 columns"), ("a.csv", "a,a\n1,2\n", 1, "stands twice in the header"), ("a.csv", 'a,b\n"x"y,2\n', 2, "broken CSV"),
    ("a.csv", 'a,b\n"x,2\n', 2, "broken CSV"), ("a.jsonl.gz", b"no gzip", None, "cannot be read"), ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], None, "cannot be read"),
    ("a.parquet", b"PAR1 no", None, "broken parquet"), ("a.docx", b"x", None, "no data file: .docx"), ("a.parquet.gz", b"x", None, "no data file"),
])
def test_a_broken_file_says_where_and_why(tmp_path, name, content, line, reason):
    found = errors(write(tmp_path / name, content))
    assert found and found[0][0] == line and reason in found[0][1], found
    with pytest.raises(DataError) as e: load_rows(tmp_path / name, format="text")
    assert e.value.file == str(tmp_path / name) and e.value.cure


def test_reading_goes_on_behind_a_broken_row(tmp_path):
    rows = [{"text": f"{i}", "turns": [{"a": "{"}]} for i in range(3000)]
    lines = json.dumps(rows, indent=1).split("\n")
    bad = [i for i, line in enumerate(lines) if '"text": "7' in line]
    for i in bad: lines[i] = lines[i].replace('": "', '": ')
    found = list(_records(write(tmp_path / "a.json", "\n".join(lines))))
    assert [v for _, v in found if isinstance(v, dict)] == [r for r in rows if not r["text"].startswith("7")]
    assert [line for line, v in found if isinstance(v, DataError)] == [i + 1 for i in bad] and len(found) == 3000
    minified = write(tmp_path / "b.json", '[{"text": "a"}, {"text": b}, {"text": "c"}]')
    assert [("not read" in r) for _, r in errors(minified)] == [True] and sum(1 for _ in _records(minified)) == 2


def test_json_under_other_shapes(tmp_path):
    rows = [{"text": "a"}, {"text": "b"}]
    for name, content in (("a.json", '{"text": "a"}\n{"text": "b"}\n'), ("a.jsonl", '[{"text": "a"},\n{"text": "b"}]'), ("b.json", '{"data": [{"text": "a"}, {"text": "b"}], "v": 1}'),
                          ("c.json", ' \n{"v": "[", "rows":\n[{"text": "a"}, {"text": "b"}]}'), ("a.ndjson", '{"text": "a"}\r\n{"text": "b"}')):
        assert load_rows(write(tmp_path / name, content)) == rows, name
    assert load_rows(write(tmp_path / "one.json", json.dumps({"text": "a"}, indent=1))) == rows[:1]
    for two in ({"train": rows, "test": rows}, {"data": rows, "info": {"a": 1}}):
        with pytest.raises(DataError, match="unknown columns"): load_rows(write(tmp_path / "two.json", json.dumps(two)))
    with pytest.raises(DataError, match="a row must be an object, not a list"): load_rows(write(tmp_path / "l.jsonl", '{"text": "a"}\n["b"]'))


def test_benchmarks_without_header_and_with(tmp_path):
    plain = load_rows(write(tmp_path / "mmlu.csv", '"What,\nnow?",1,2,3,4,B\nq,a,b,c,d,A\n'))
    assert [(r.line, r.format, r["answer"]) for r in plain] == [(1, "multiple_choice", "B"), (3, "multiple_choice", "A")]
    ceval = load_rows(write(tmp_path / "ceval.csv", "id,question,A,B,C,D\n0,q,w,x,y,z\n"), "multiple_choice")
    assert [(r.line, dict(r)) for r in ceval] == [(2, {"id": "0", "question": "q", "A": "w", "B": "x", "C": "y", "D": "z"})]
    found = as_conversation(plain[0])
    assert found["messages"] == [turn("user", "What,\nnow?\nA. 1\nB. 2\nC. 3\nD. 4"), turn("assistant", "B")] and found["answer"] == "B"
    listed = as_conversation({"question": "q", "choices": ["x", "y"], "answer": 1})
    assert (listed["choices"], listed["answer"]) == ({"A": "x", "B": "y"}, "B")


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([".json", ".jsonl", ".csv", ".txt", ".jsonl.gz", ".parquet"]), st.binary(max_size=8), st.integers(0, 10**6), st.integers(0, 30), st.booleans())
def test_damaged_files_never_raise(tmp_path_factory, suffix, insert, at, cut, lined):
    folder = tmp_path_factory.getbasetemp()
    rows = [{"text": "a\"b,\n中", "b": "😀"}, {"text": "[{", "b": "}"}] * 2
    save_rows(rows, folder / f"good{suffix}") if suffix != ".txt" else write(folder / "good.txt", "a\n中\n")
    content = (folder / f"good{suffix}").read_bytes()
    at %= len(content) + 1
    found = list(_records(write(folder / f"bad{suffix}", content[:at] + insert + content[at + cut:])))
    assert all(isinstance(v, DataError) and v.file and v.reason and v.cure is not None or line >= 1 for line, v in found)


def test_memory_is_flat_when_streaming(tmp_path):
    def peak(rows):
        path = write(tmp_path / "many.json", json.dumps([{"text": "x" * 300 + str(i)} for i in range(rows)], indent=2))
        tracemalloc.start()
        count = sum(1 for _ in load_rows(path, streaming=True))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return most
    peak(10)
    assert peak(10_000) < 1.2 * peak(1_000)


# ---------------------------------------------------------------- writing
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_what_is_saved_loads_equal(tmp_path, suffix):
    rows = [{"text": 'a "b",\r\n\tc', "o": ""}, {"text": "二\u2028😀", "o": " x "}, {"text": "\n", "o": "'"}]
    assert save_rows(iter(rows), tmp_path / f"a{suffix}") == 3
    assert load_rows(tmp_path / f"a{suffix}") == rows
    first = (tmp_path / f"a{suffix}").read_bytes()
    save_rows(rows, tmp_path / f"a{suffix}")
    assert first == (tmp_path / f"a{suffix}").read_bytes() and [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]
    if "parquet" not in suffix: assert save_rows([], tmp_path / f"e{suffix}") == 0


@pytest.mark.parametrize("name,rows,reason", [
    ("a.csv", [{"a": "x"}, {"b": "x"}], "not those of the first"), ("a.csv", [{"a": 1}], "CSV holds text, not a number"), ("a.jsonl", [{"a": {1, 2}}], "not JSON serializable"),
    ("a.json", [{"a": float("nan")}], "not JSON compliant"), ("a.parquet", [{"a": {"x": 1}}, {"a": {"y": 1}}], "would change it"), ("a.parquet", [{"a": 1}, {"a": "x"}], "parquet cannot hold"),
    ("a.txt", [{"text": "x"}], "cannot write .txt"), ("a.parquet.gz", [{"a": "x"}], "cannot write"),
])
def test_what_cannot_be_saved_leaves_the_old_file(tmp_path, name, rows, reason):
    write(tmp_path / name, "old")
    with pytest.raises(DataError, match=reason): save_rows(rows, tmp_path / name)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"old")]


# ---------------------------------------------------------------- registry, mixtures, splits
def test_registry(tmp_path, monkeypatch):
    write(tmp_path / "r.jsonl", '{"q": "a", "a": "b"}\n{"q": "c", "a": "d"}\n')
    (tmp_path / "sub").mkdir()
    for name in ("x_dev.csv", "x_train.csv", "readme.txt"): write(tmp_path / "sub" / name, f"text\n{name}\n")
    entries = {"mine": {"file_name": "r.jsonl", "columns": {"prompt": "q", "response": "a"}}, "folder": {"file_name": "sub", "format": "text"},
               "gone": {"file_name": "gone.json"}, "empty": {}, "code": {"hf_hub_url": "a/b", "script": True}, "scope": {"ms_hub_url": "a/b"}}
    path = write(tmp_path / "dataset_info.json", json.dumps(entries))
    assert dataset_info(registry=path) == entries
    monkeypatch.setenv("COOKBOOK_DATASETS", str(path))
    rows = load_rows("mine")
    assert [as_conversation(r)["messages"][1]["content"] for r in rows] == ["b", "d"] and convert(rows, "alpaca")[0]["output"] == "b"
    assert [r["text"] for r in load_rows("folder")] == ["x_dev.csv", "x_train.csv"] and len(load_rows("folder", split="dev")) == 1
    assert [r.get("q", "-") for r in load_rows("mine,folder,mine", max_samples=1)] == ["a", "-", "a"]
    for name, reason in (("gone", "gone.json is not there"), ("empty", "no file_name"), ("code", "refs/convert/parquet"), ("scope", "modelscope"), ("mime", "did you mean mine")):
        with pytest.raises(DataError, match=reason): load_rows(name)
    with pytest.raises(DataError, match="registry is one object"): dataset_info("x", write(tmp_path / "l.json", "[1]"))


def test_a_hub_set_fails_fast_without_a_network(monkeypatch):
    import datasets
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    start = time.time()
    with pytest.raises(DataError) as e: load_rows("adgen")
    assert e.value.reason == "adgen: the hub cannot be reached" and "pass its folder to load_rows" in e.value.cure
    assert time.time() - start < 30


def test_hub_rows_keep_format_and_number(monkeypatch):
    import datasets
    asked = {}
    monkeypatch.setattr("chatglm_cookbook.checkpoints._online", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.update(a=a, **k) or iter([{"content": "a", "summary": "b"}] * 3))
    rows = load_rows("adgen", split="dev", max_samples=2)
    assert [(r.file, r.line, r.format) for r in rows] == [("adgen", 1, "adgen"), ("adgen", 2, "adgen")]
    assert asked["a"][0] == "HasturOfficial/adgen" and asked["split"] == "validation" and asked["streaming"]


def test_every_entry_of_the_bundled_registry_has_a_format_we_know():
    for name, entry in dataset_info().items():
        format = files._entry_format(entry)
        if format is None: continue
        try: data._spec(format)
        except DataError as e: assert "is not read here" in e.reason and {"images", "videos", "audios"} & entry["columns"].keys(), (name, e)


def test_mixtures(tmp_path):
    a, b, c = ([f"{x}{i}" for i in range(n)] for x, n in (("a", 500), ("b", 50), ("c", 5)))
    for seed in range(5):
        mixed = mix([a, b, c], [10, 5, 1], "interleave", seed)
        assert Counter(mixed) == Counter(a + b + c) and all([x for x in mixed if x[0] == s[0][0]] == s for s in (a, b, c))
    firsts = [mix([a, b], [4, 1], "interleave", seed)[0][0] for seed in range(2000)]
    assert abs(firsts.count("b") / 2000 - 0.2) < 0.04
    short = mix([a, c], None, "interleave", 0, "first")
    assert short.count("c4") == 1 and len(short) < 60 and not {x for x in short if x not in a + c}
    lazy = mix([iter(a), b], strategy="interleave")
    assert not isinstance(lazy, list) and sorted(lazy) == sorted(a + b) and mix([]) == []
    for bad in ({"strategy": "zip"}, {"stop": "never"}, {"weights": [1], "strategy": "interleave"}, {"weights": [1, 0], "strategy": "interleave"}, {"weights": [1, 1]}):
        with pytest.raises(DataError): mix([a, b], **bad)
    for name, n in (("x", 30), ("y", 10)): save_rows([{"text": f"{name}{i}"} for i in range(n)], tmp_path / f"{name}.jsonl")
    rows = load_rows(f"{tmp_path}/x.jsonl,{tmp_path}/y.jsonl", strategy="interleave", weights=[1, 1], seed=3, streaming=True)
    assert sorted(r["text"] for r in rows) == sorted([f"x{i}" for i in range(30)] + [f"y{i}" for i in range(10)])


def test_folders_and_arguments(tmp_path):
    for name in ("b.jsonl", "a_train.jsonl", "sub/val.jsonl", ".hidden.jsonl", "contrast.jsonl", "notes.md", "card.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, json.dumps({"text": name}) + "\n")
    assert [r["text"] for r in load_rows(tmp_path)] == ["a_train.jsonl", "b.jsonl", "contrast.jsonl", "sub/val.jsonl"]
    assert [r["text"] for r in load_rows(tmp_path, split="train")] == ["a_train.jsonl"] and [r["text"] for r in load_rows(tmp_path, split="dev")] == ["sub/val.jsonl"]
    for options, reason in (({"split": "test"}, "no data file for split test"), ({"split": "x"}, "must be train, dev or test"), ({"max_samples": 0}, "at least 1")):
        with pytest.raises(DataError, match=reason): load_rows(tmp_path, **options)
    with pytest.raises(DataError, match="among the files of a folder"): load_rows(tmp_path / "b.jsonl", split="dev")
    with pytest.raises(DataError, match="no such file"): load_rows(tmp_path / "none.jsonl")


def test_a_split_keeps_equal_prompts_together_and_stays():
    rows = [{"messages": [turn("system", f"{i}"), turn("user", f"  Q{i % 97} \n"), turn("assistant", f"{i}")]} for i in range(1000)]
    train, dev = split_dev(rows, 0.3, seed=1)
    asked = lambda side: {r["messages"][1]["content"] for r in side}
    assert not asked(train) & asked(dev) and len(train) + len(dev) == 1000 and len(asked(dev)) in range(15, 45)
    assert split_dev(rows[:500], 0.3, seed=1)[1] == [r for r in rows[:500] if r in dev] and split_dev(rows, 0.3, seed=2)[1] != dev
    assert all(r in dev for r in split_dev(rows, 0.1, seed=1)[1])


# ---------------------------------------------------------------- the classes, and names from later lessons
def test_rows_and_errors_travel():
    row = Row({"text": ["a"]}, "f.json", 3, "text")
    for twin in (pickle.loads(pickle.dumps(row)), copy.copy(row), copy.deepcopy(row), row.copy()):
        assert (twin, twin.file, twin.line, twin.format) == (row, "f.json", 3, "text") and type(twin) is Row
    assert copy.deepcopy(row)["text"] is not row["text"] and row == {"text": ["a"]} and json.dumps(row) == '{"text": ["a"]}'
    error = DataError("empty", "fill it", file="f.json", line=3, field="output")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "f.json:3: output: empty; fill it" and str(DataError("empty")) == "empty"
    assert DataError("x", line=9).at(row).line == 9 and DataError("x").at(row).file == "f.json"


def test_names_of_other_lessons_come_on_demand():
    assert data.save_rows is save_rows and data._records is _records
    with pytest.raises(AttributeError, match="has no attribute 'load_row'"): data.load_row


def test_toolalpaca_training_counts(tmp_path):
    api = {"Function_Description": {"f": "F.\nParameters: {\"x\": \"Required. integer.\"}\nOutput: {}", "components": ""}}
    step = [["f", '{"x": 1}', "think\nASSISTANT Action: f"], "seen"]
    good = {"input": "q", "output": "a", "intermediate_steps": [step, [["getDetails", '{"Question": "which?"}', ""], "this"]]}
    bad = {"no final answer": {**good, "output": " "}, "no instruction": {**good, "input": None}, "the instance records an error": {**good, "error": "x"},
           "a step is not [[action, input, log], observation]": {**good, "intermediate_steps": [["f"]]}, "an action is none of the tools": {**good, "intermediate_steps": [[["g", "{}", ""], "x"]]},
           "a call without an observation": {**good, "intermediate_steps": [[step[0], None]]}, "the input of an action is not a JSON object": {**good, "intermediate_steps": [[["f", "x=1", ""], "x"]]}}
    path = write(tmp_path / "t.json", json.dumps([{**api, "Instances": [good, *bad.values(), 3]}, {"Instances": [good]}]))
    rows, report = load_toolalpaca(path)
    assert rows == [{"tools": [{"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"x": {"description": "Required. integer."}}, "required": ["x"]}}],
                     "conversations": [turn("user", "q"), turn("assistant", "think"), {"role": "tool", "name": "f", "parameters": {"x": 1}, "observation": "seen"},
                                       turn("assistant", "which?"), turn("user", "this"), turn("assistant", "a")]}]
    assert report["instances"] == 10 and report["converted"] == 1
    assert report["refused"] == {**dict.fromkeys(bad, 1), "the instance records an error": 2, "the API describes no function": 1}
    assert convert(convert(rows, "openai"), "chatglm3") == rows
    with pytest.raises(DataError, match="no API of ToolAlpaca"): load_toolalpaca(write(tmp_path / "x.json", '[{"a": 1}]'))


# ---------------------------------------------------------------- what fuzzing found
def test_a_value_is_quoted_in_one_short_line_whatever_it_is():
    for value in (10**5000, ["x" * 10**5], "y" * 10**5):
        row = {"conversations": [{"role": value, "from": value, "content": "a"}]}
        for format in ("openai", "chatglm3", "sharegpt"):
            with pytest.raises(DataError, match="unknown role") as e: as_conversation({**row, "messages": row["conversations"]}, format)
            assert len(e.value.reason) < 100


def test_a_key_that_says_what_another_says_is_refused():
    row = {"conversations": [{"from": "human", "value": "a", "role": "gpt"}, {"from": "gpt", "value": "b"}]}
    with pytest.raises(DataError, match="a second time") as e: as_conversation(row)
    assert e.value.field == "conversations[0].role"
    for format, turn in (("chatglm3", {"role": "user", "content": "a", "tool_calls": 5}), ("sharegpt", {"from": "gpt", "value": "a", "content": 1})):
        with pytest.raises(DataError, match="a second time"): as_conversation({"conversations": [turn]}, format)
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    with pytest.raises(DataError, match="calls of user"): as_conversation({"messages": [{"role": "user", "content": "a", "tool_calls": [call]}]})


def test_the_text_of_a_tool_turn_of_chatglm3_comes_back():
    turn = {"role": "tool", "name": "f", "parameters": {}, "observation": 1}
    for more in ({}, {"content": None}, {"content": "I look it up."}):
        row = {"conversations": [{"role": "user", "content": "a"}, {**turn, **more}, {"role": "assistant", "content": "b"}]}
        told = as_conversation(row)["messages"][1]
        assert told["content"] == (more.get("content") or "") and told["tool_calls"]
        if not told["content"]: assert convert([row], "chatglm3") == [row]
    with pytest.raises(DataError, match="must be text"): as_conversation({"conversations": [{**turn, "content": 5}]})


@pytest.mark.parametrize("change, field", [
    ({"messages": [{"role": "gpt", "content": "a"}]}, "messages[0].role"), ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "loss": 1}]}, "messages[0].loss"), ({"kind": "preference"}, "chosen"),
    ({"kind": "binary"}, "label"), ({"kind": "preference", "chosen": "a", "rejected": []}, "chosen"), ({"rest": 1}, "rest"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "", "tool_calls": [1]}]}, "messages[0].tool_calls"), ({"tools": 5}, "tools")])
def test_what_only_looks_like_a_conversation_is_refused(change, field):
    good = {"kind": "chat", "messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": {"any": "JSON"}}]}
    assert as_conversation(good) == good
    with pytest.raises(DataError) as e: as_conversation(good | change)
    assert e.value.field == field
    with pytest.raises(DataError): convert([good | change], "sharegpt")


# ---------------------------------------------------------------- what a reader with files of other trainers found
M, A, B = [turn("user", "x")], [turn("assistant", "y")], [turn("assistant", "z")]


@pytest.mark.parametrize("row, label", [
    ({"prompt": "a", "completion": "b", "label": 0}, False), ({"messages": M + A, "label": "false"}, False), ({"messages": M + A, "kto_tag": "TRUE"}, True),
    ({"instruction": "a", "output": "b", "label": "True"}, True), ({"prompt": M, "completion": A, "label": False}, False), ({"prompt": M, "completion": A, "label": 1}, True)])
def test_a_label_in_any_spelling_makes_a_row_kto(row, label):
    told = as_conversation(row)
    assert (detect_format(row), told["kind"], told["label"]) == ("kto", "binary", label)
    back = convert(convert([row], "kto"), "kto")
    assert json.dumps(back[0], sort_keys=True) == json.dumps(row, sort_keys=True)  # 0 and false are equal, and not the same


def test_other_labels(tmp_path):
    row = {"messages": M + A, "label": "sports"}
    assert detect_format(row) == "openai" and as_conversation(row)["rest"] == {"label": "sports"} and detect_format({**row, "label": 2}) == "openai"
    assert detect_format({"question": "q", "A": "a", "B": "b", "label": 1}) == "multiple_choice" and detect_format({"text": "a", "label": 1}) == "text"
    for value in ("good", 2, None, 1.0):
        with pytest.raises(DataError, match="kto_tag: must be true or false"): as_conversation({"prompt": "a", "completion": "b", "kto_tag": value})
    path = write(tmp_path / "k.csv", "prompt,completion,label\na,b,True\nc,d,False\n")
    assert [as_conversation(row)["label"] for row in load_rows(path)] == [True, False]


@pytest.mark.parametrize("format, row, prompt", [
    ("trl_preference", {"prompt": "x", "chosen": M + A, "rejected": M + B, "score": 3}, M), ("trl_preference", {"prompt": M, "chosen": M + A, "rejected": M + B}, M),
    ("trl_preference", {"chosen": M + A, "rejected": M + B}, M), ("trl_preference", {"chosen": [turn("system", "S")] + M + A + M + A, "rejected": [turn("system", "S")] + M + A + M + B}, [turn("system", "S")] + M + A + M),
    ("sharegpt_preference", {"conversations": [{"from": "human", "value": "x"}], "chosen": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
                             "rejected": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "z"}]}, M)])
def test_a_prompt_inside_the_answers_is_taken_off(format, row, prompt):
    told = as_conversation(row)
    assert (detect_format(row), told["messages"], told["chosen"], told["rejected"]) == (format, prompt, A, B)
    for to in (format, "trl_preference", "sharegpt_preference"): assert convert(convert([row], to), format) == [row]


@pytest.mark.parametrize("row, reason", [
    ({"prompt": "other", "chosen": M + A, "rejected": M + B}, "begin with an assistant"), ({"prompt": "x", "chosen": M + A, "rejected": B}, "begin with an assistant"),
    ({"prompt": "x", "chosen": M, "rejected": M}, "begin with an assistant"), ({"chosen": A, "rejected": B}, "shares no prompt"), ({"chosen": M, "rejected": M}, "shares no prompt"),
    ({"prompt": M, "completion": M}, "begin with an assistant"), ({"messages": [*M, turn("assistant", "y", weight=2)]}, "must be 0 or 1"),
    ({"messages": [*M, turn("assistant", "y", weight="0")]}, "must be 0 or 1"), ({"messages": [turn("user", "x", weight=1), *A]}, "must be 0 or 1"),
    ({"messages": [*M, turn("assistant", "y", weight=0, loss=True)]}, "a second time")])
def test_what_other_trainers_would_not_mean_either(row, reason):
    with pytest.raises(DataError, match=reason): as_conversation(row)


def test_weight_is_loss():
    row = {"messages": [turn("user", "x", weight=None), turn("assistant", "y", weight=0), *M, turn("assistant", "z", weight=1)]}
    assert [m.get("loss") for m in as_conversation(row)["messages"]] == [None, False, None, True]
    for to in ("openai", "chatglm3", "sharegpt"): assert json.dumps(convert(convert([row], to), "openai")[0]) == json.dumps(row)


@pytest.mark.parametrize("row", [
    {"prompt": M, "completion": A}, {"prompt": [turn("system", "S"), *M, *A, *M], "completion": B},
    {"prompt": M, "completion": [turn("assistant", None, tool_calls=[call("f", "{}")]), turn("tool", "4"), *A], "tools": [weather]}])
def test_conversational_prompt_and_completion(row):
    assert detect_format(row) == "prompt_completion" and as_conversation(row)["messages"][0] == row["prompt"][0]
    for to in ("prompt_completion", "openai", "sharegpt", "chatglm3"): assert convert(convert([row], to), "prompt_completion") == [row], to
    assert as_conversation(row)["messages"][-1] == row["completion"][-1]


def test_nulls_are_absent_and_keep_little():
    nulls = {"tool_calls": None, "name": None, "loss": None}
    row = {"messages": [turn("user", "long " * 100, **nulls), turn("assistant", "y", **nulls)]}
    assert as_conversation(row)["messages"] == [turn("user", "long " * 100), turn("assistant", "y")]
    for to in ("openai", "alpaca", "sharegpt", "chatglm3"):
        there = convert([row], to)
        assert to == "openai" or "long" not in json.dumps(there[0]["kept"])
        assert json.dumps(convert(there, "openai")) == json.dumps([row])
    assert convert([{**row, "tools": None}], "sharegpt", keep=False)[0].keys() == {"conversations"}
    assert convert([row], "openai", keep=False) == [{"messages": as_conversation(row)["messages"]}]
    alpaca = {"instruction": "a", "input": "b", "output": "c", "system": None, "id": 3}
    assert convert([alpaca], "openai", keep=False) == [{"messages": [turn("user", "a\nb"), turn("assistant", "c")], "id": 3}]
    choice = {"question": "q", "A": "a", "B": "b", "answer": "A"}
    assert convert([choice], "openai", keep=False)[0].keys() == {"messages"} and convert([alpaca], "alpaca", keep=False)[0]["input"] == "b"
    there = convert([row], "sharegpt")[0]
    for junk in ({}, {"columns": {}, "absent": [], "turns": {"messages": [[9, {}]]}}, {"columns": {}, "absent": [], "turns": 3}):
        assert convert([{**there, "kept": {"openai": junk}}], "openai")[0]["messages"] == as_conversation(row)["messages"]


def test_several_sources_as_a_list(tmp_path):
    paths = [write(tmp_path / f"{x},.jsonl", json.dumps({"text": x}) + "\n") for x in "ab"]
    assert [row["text"] for row in load_rows(paths)] == ["a", "b"] == [row["text"] for row in load_rows(tuple(map(str, paths)), streaming=True)]


def test_an_empty_list_has_no_turns():
    for row in ({"conversations": []}, {"messages": []}, {"prompt": [], "completion": A}):
        with pytest.raises(DataError, match="has no turns"): as_conversation(row)


def test_names_of_other_lessons_show(): assert {"encode_example", "Collator", "check_file", "save_rows", "convert"} <= set(dir(data))
