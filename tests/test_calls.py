"""Tool calls: schemas of functions, both written forms against the originals' data and back, and what must be refused."""
import json
import math
import random
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import pytest

from chatglm_cookbook.calls import check_arguments, parse_call, render_call, tool_schema
from chatglm_cookbook.core import data_file
from chatglm_cookbook.data import load_rows
from chatglm_cookbook.tokens import _call_arguments


def lines(path): return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------------------------------------------------- schemas
def forecast(city: Annotated[str, "where"], days: int = 1, unit: Literal["c", "f"] = "c", tags: list[str] | None = None,
             extra: dict[str, float] | None = None, any: Any = None) -> dict:
    """Forecast
    for a city.

    Args:
        days (int): how many
            days ahead
        tags: words
    Returns: the sky
    """


def test_schema_of_a_function():
    assert tool_schema(forecast) == {"name": "forecast", "description": "Forecast for a city.", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "where"},
            "days": {"type": "integer", "description": "how many days ahead", "default": 1},
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "description": "words"},
            "extra": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]}, "any": {}}}}


def test_sphinx_and_chinese_docstrings():
    def f(city: str, n: Optional[int] = None):
        """查天气

        :param city: 城市
        :param int n: 天数
        """
    found = tool_schema(f)
    assert found["description"] == "查天气" and found["parameters"]["properties"] == {
        "city": {"type": "string", "description": "城市"}, "n": {"type": ["integer", "null"], "description": "天数"}}

    def g(city: str):
        """查天气
        参数：
            city：城市"""
    assert tool_schema(g)["description"] == "查天气" and tool_schema(g)["parameters"]["properties"]["city"]["description"] == "城市"


def test_the_schema_equals_that_of_transformers():
    from transformers.utils import get_json_schema

    def f(numbers: list[float], order: str, times: int = 1):
        """Sorts numbers.

        Args:
            numbers: the numbers
            order: up or down
            times: how often
        """
    ours, theirs = tool_schema(f), get_json_schema(f)["function"]
    assert ours["parameters"]["properties"].pop("times") == {"type": "integer", "description": "how often", "default": 1}
    assert theirs["parameters"]["properties"].pop("times") == {"type": "integer", "description": "how often"}
    assert ours == theirs


def bare(city): "Weather."
def silent(city: str): pass
def many(*cities: str): "Weather."
def rest(**cities: str): "Weather."
def place(city: str, /): "Weather."
def odd(city: set[str]): "Weather."
def call_back(city: Callable): "Weather."
def start(city: list = [object()]): "Weather."
async def later(city: str): "Weather."


class Method:
    def ask(self, city: str): "Weather."


@pytest.mark.parametrize("fn,error,text", [
    (bare, TypeError, "bare: city has no type hint: write city: str"), (silent, ValueError, "silent has no docstring"),
    (many, TypeError, "called by the names"), (rest, TypeError, "called by the names"), (place, TypeError, "called by the names"),
    (odd, TypeError, "odd: city: JSON has no word for"), (call_back, TypeError, "JSON has no word for"),
    (start, TypeError, "default of city is no JSON value"), (later, TypeError, "later is async"),
    (lambda city: 1, ValueError, "no name for a tool"), (3, TypeError, "a function with a name"),
    ({"name": "f"}, TypeError, "a function")])
def test_functions_that_are_no_tools(fn, error, text):
    with pytest.raises(error, match=text): tool_schema(fn)


def test_methods_and_builtin_generics():
    assert tool_schema(Method().ask)["parameters"]["required"] == ["city"]
    def nested(rows: list[dict[str, list[int]]], plain: list, any: dict): "Nested."
    found = tool_schema(nested)["parameters"]["properties"]
    assert found["rows"] == {"type": "array",
                             "items": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}}}
    assert found["plain"] == {"type": "array"} and found["any"] == {"type": "object"}


# ----------------------------------------------------------------------------------------------------------- golden
def test_golden_calls_in_both_directions(golden):
    cases = lines(golden / "finetune/v3_format_function_call.jsonl")
    assert len(cases) == 4
    for case in cases:
        turn = f"some_tool\n```python\n{case['text']}\n```"
        assert render_call("some_tool", case["parameters"]) == turn
        assert parse_call(turn) == {"name": "some_tool", "parameters": case["parameters"]}


def test_golden_replies_are_read_as_the_original_reads_them(golden):
    read = refused = 0
    for case in lines(golden / "tokenizer/v3_process_response.jsonl"):
        if case["history"][0]["role"] != "system": continue
        turn = case["output"].split("<|assistant|>")[-1]
        if "error" in case:
            refused += 1
            with pytest.raises(ValueError, match="not a tool call that can be read"): parse_call(turn)
        elif isinstance(case["content"], dict):
            read += 1
            assert parse_call(turn) == case["content"]
        else:
            with pytest.raises(ValueError): parse_call(turn)
    assert read >= 3 and refused >= 1


def test_golden_dialogues_hold_the_rendered_calls(golden):
    found = 0
    for case in lines(golden / "finetune/v3_multiturn_old.jsonl"):
        if "<|observation|>" not in case["decoded"]: continue
        for turn in (t for t in case["item"]["conversations"] if t["role"] == "tool"):
            found += 1
            name, _, body = render_call(turn["name"], turn["parameters"]).partition("\n")
            assert f"<|assistant|>{name}\n {body}<|observation|>" in case["decoded"].replace("<|assistant|> ", "<|assistant|>")
    assert found >= 3


# ---------------------------------------------------------------------------------------------------------- fuzzing
parts = ["'", '"', "\\", "\n", "\r", "\t", "```", "```python\n", "\n```", "北京", "😀", "tool_call(", ")", "{", "}", "[", "=", ",",
         "<|user|>",
         "<|assistant|>", "\u2028", "\x85", "\x00", "\x1b", "\ufeff", "\ud800", "é", "{x}", "%s", "a", " ", "0", "None", "#",
         "\\n", "'''"]
words = ["city", "天数", "x", "_", "a1", "Name", "π", "tool_call", "self"]


def values(draw: random.Random, depth: int = 0):
    kind = draw.randrange(9 if depth < 5 else 7)
    if kind == 7: return [values(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 8:
        return {"".join(draw.choices(parts, k=draw.randrange(3))): values(draw, depth + 1) for _ in range(draw.randrange(4))}
    number = draw.choice([draw.gauss(0, 10.0 ** draw.randrange(-300, 300)), -0.0, 5e-324, 1.7976931348623157e308, 1e22])
    whole = draw.choice([draw.randrange(-9, 9), draw.randrange(-10**25, 10**25), 10**299, -(10**200)])
    return ["".join(draw.choices(parts, k=draw.randrange(7))), whole, number, None, True, False, "plain words"][kind]


@pytest.mark.parametrize("generation", [3, 4])
def test_ten_thousand_calls_come_back(generation):
    draw = random.Random(generation)
    same = lambda a: json.dumps(a)  # -0.0 and 0.0 are equal, and 1, 1.0 and True are
    for _ in range(10_000):
        keys = draw.sample(words, draw.randrange(4)) if generation == 3 else ["".join(draw.choices(parts, k=3))
                                                                              for _ in range(draw.randrange(3))]
        call = {"name": draw.choice(["f", "get_weather", "搜索", "a.b-c"]), "parameters": {key: values(draw) for key in keys}}
        text = render_call(call, generation=generation)
        back = parse_call(text, generation)
        assert same(back) == same(call), text
        if generation == 3: assert same(_call_arguments(text.partition("\n")[2])) == same(call["parameters"])


def test_spoilt_calls_are_refused_or_read_as_data():
    "Every single-character change either raises ValueError or gives JSON values, whatever it does to the call."
    draw, kept = random.Random(5), 0
    for generation in (3, 4):
        for _ in range(1500):
            text = render_call("f", {"x": values(draw), "y": values(draw)}, generation)
            at = draw.randrange(len(text))
            spoilt = text[:at] + draw.choice(["", "'", '"', "(", ")", "[", "*", ".", "x", "1", "\\", "\n", "-", ":",
                                              "é"]) + text[at + 1:]
            try: json.dumps(parse_call(spoilt, generation)["parameters"], allow_nan=False)
            except ValueError as e: assert "not a tool call that can be read" in str(e)
            else: kept += 1
    assert 300 < kept < 2700


# ---------------------------------------------------------------------------------------------------------- hostile
n = 30_000
hostile = {
    "import": "__import__('os').system('id')", "open": "tool_call(x=open('/etc/passwd').read())",
    "class": "tool_call(x=().__class__)",
    "attribute": "tool_call(x='a'.upper)", "method": "tool_call(x='{}'.format(1))", "name": "tool_call(x=secret)",
    "builtin": "tool_call(x=exit)",
    "stars": "tool_call(**{'x': 1})", "star": "tool_call(*[1])", "position": "tool_call(1)", "f-string": "tool_call(x=f'{open}')",
    "comprehension": "tool_call(x=[0 for i in 'ab'])", "lambda": "tool_call(x=lambda: 1)", "power": "tool_call(x=9**9**9)",
    "sum": "tool_call(x=1+1)",
    "walrus": "tool_call(x=(y:=1))", "condition": "tool_call(x=1 if True else 2)", "other": "system(x=1)",
    "call in call": "tool_call(x=tool_call(y=1))",
    "index": "tool_call(x=[1][0])", "two": "tool_call(x=1); tool_call(y=2)", "after": "tool_call(x=1).y",
    "assign": "tool_call = 1", "empty": "",
    "complex": "tool_call(x=1j)", "bytes": "tool_call(x=b'1')", "set": "tool_call(x={1, 2})", "key": "tool_call(x={1: 2})",
    "ellipsis": "tool_call(x=...)",
    "inf": "tool_call(x=1e999)", "minus inf": "tool_call(x=-1e999)", "nan": "tool_call(x=nan)", "twice": "tool_call(x=1, x=2)",
    "ligatures twice": "tool_call(ﬁ=1, fi=2)", "keyword": "tool_call(from=1)", "unclosed": "tool_call(x='a)",
    "unclosed bracket": "tool_call(x=[1)",
    "open text": "tool_call(x='a\nb')", "comment": "tool_call(x=1) # hi", "null": "tool_call(x=\x00)",
    "surrogate": "tool_call(x='\ud800')",
    "digits": "tool_call(x=" + "9" * n + ")", "hex digits": "tool_call(x=0x" + "f" * n + ")",
    "more digits": "tool_call(x=" + "9" * 5_000_000 + ")",
    "hex": "tool_call(x=0x" + "f" * 300 + ")", "underscores": "tool_call(x=" + "9_" * n + "9)",
    "float digits": "tool_call(x=0." + "9" * n + ")",
    "brackets": "tool_call(x=" + "[" * n, "closed brackets": "tool_call(x=" + "[" * n + "]" * 15_000 + ")",
    "braces": "tool_call(x=" + "{'a':" * 6000,
    "parentheses": "tool_call(x=" + "(" * n, "signs": "tool_call(x=" + "-" * n + "1)",
    "mixed signs": "tool_call(x=" + "-+" * 9000 + "1)",
    "tildes": "tool_call(x=" + "~" * n + "1)", "nots": "tool_call(x=" + "not " * 9000 + "1)",
    "dots": "tool_call(x=a" + ".a" * 9000 + ")",
    "sums": "tool_call(x=1" + "+1" * 9000 + ")", "calls": "tool_call(x=1)" + "(x=1)" * 6000,
    "commas": "tool_call(x=[" + "0," * 20_000 + "])",
    "quotes": "tool_call(x=" + "'" * n + ")", "backslashes": "tool_call(x='" + "\\" * n + ")",
    "texts": "tool_call(x=" + "'a' " * 9000 + ")",
    "lambdas": "tool_call(x=" + "lambda:" * 6000 + "1)",
    "keywords": "tool_call(" + ",".join(f"k{i}=1" for i in range(4000)) + ")",
    "one too deep": "tool_call(x=" + "[" * 31 + "]" * 31 + ")"}


def refused(text: str, generation: int) -> float:
    "Seconds until the refusal; the best of three, for this machine may be busy with something else."
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(ValueError, match="not a tool call that can be read"): parse_call(text, generation)
        best = min(best, time.perf_counter() - start)
    return best


@pytest.mark.parametrize("kind", hostile)
def test_hostile_calls_are_refused_at_once(kind, recwarn):
    assert refused(f"f\n```python\n{hostile[kind]}\n```", 3) < 0.05
    assert not recwarn.list


hostile_json = {
    "python": "{'x': 1}", "nan": '{"x": NaN}', "inf": '{"x": -Infinity}', "overflow": '{"x": 1e999}', "twice": '{"x": 1, "x": 2}',
    "list": "[1]",
    "number": "3", "empty": "", "rest": '{"x": 1} {"y": 2}', "code": '{"x": open("f")}', "digits": '{"x": ' + "9" * n + "}",
    "cut": '{"x": "a',
    "brackets": '{"x": ' + "[" * n, "braces": '{"x": ' * 6000, "more": '{"x": ' + "9" * 5_000_000 + "}",
    "one too deep": '{"x": ' + "[" * 31 + "]" * 31 + "}",
    "quotes": '{"x": ' + '"' * n + "}", "backslashes": '{"x": "' + "\\" * (n + 1) + '"}',
    "inner twice": '{"x": {"y": 1, "y": 2}}', "line": '{"x": "a\nb"}'}


@pytest.mark.parametrize("kind", hostile_json)
def test_hostile_json_is_refused_at_once(kind):
    assert refused(f"f\n{hostile_json[kind]}", 4) < 0.05


@pytest.mark.parametrize("text", ["", "\n", "f", "f\n", "two words\n```python\ntool_call()\n```",
                                  "f(x)\n```python\ntool_call()\n```", "1f\n```\ntool_call()\n```",
                                  "x" * 65 + "\n```python\ntool_call()\n```", "<|user|>\n```python\ntool_call()\n```",
                                  "f\ntool_call(x=1)",
                                  "f\n```python\ntool_call(x=1)", "f\n```python\ntool_call(x=1)\n```\nand then",
                                  "f ```python\ntool_call(x=1)\n```"])
def test_turns_that_are_no_calls(text):
    assert refused(text, 3) < 0.05


def test_what_is_lenient_on_purpose():
    want = {"name": "f", "parameters": {"x": [1, [2]], "s": "ab", "n": -1, "h": 255, "t": True, "u": 1000, "e": ""}}
    text = "f\n```\ntool_call(\n  x=(1, [2]),\n s='a' \"b\", n=- 1, h=0xff, t=True, u=1_000, e='''''',\n)\n```"
    assert parse_call(text) == want
    assert parse_call("f\r\n```python\ntool_call()\n```")["parameters"] == {}
    assert parse_call(r"f" "\n```python\ntool_call(x='\\d')\n```")["parameters"] == {"x": "\\d"}
    deep = "[" * 29 + "]" * 29
    other = parse_call('f\n{"x": ' + deep + "}", 4)["parameters"]["x"]
    assert parse_call(f"f\n```python\ntool_call(x={deep})\n```")["parameters"]["x"] == other


def test_no_setting_of_the_process_makes_long_numbers_slow():
    old = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(0)
        for kind in ("digits", "hex digits", "more digits", "underscores"):
            assert refused(f"f\n```\n{hostile[kind]}\n```", 3) < 0.05
        assert refused(f"f\n{hostile_json['digits']}", 4) < 0.05
    finally: sys.set_int_max_str_digits(old)


# ---------------------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("call,parameters,text", [
    ("f", {"x": math.nan}, "f: nan is no number"), ("f", {"x": math.inf}, "f: inf is no number"),
    ("f", {"x": {1}}, "a set is no JSON value"),
    ("f", {"x": b""}, "a bytes is no JSON value"), ("f", {"x": 1j}, "a complex"), ("f", {"x": {1: 2}}, "the key 1 is no text"),
    ("f", {"x": 10**300}, "more than 300 digits"), ("f", {"class": 1}, "'class' cannot be a parameter's name"),
    ("f", {"a b": 1}, "rename it"),
    ("f", {"ﬁ": 1}, "rename it"), ("f", {"": 1}, "rename it"), ("a b", {}, "no name for a tool"), ("f\n", {}, "no name"),
    ("", {}, "no name"),
    (None, {}, "no name"), ({"parameters": {}}, None, "no name"), ("f", None, "must be a dict, not NoneType"),
    ({"name": "f"}, None, "must be a dict"),
    ({"name": "f", "arguments": "[1]"}, None, "must be a dict, not list"), ({"name": "f", "arguments": "{"}, None, "Expecting")])
def test_calls_that_cannot_be_written(call, parameters, text):
    with pytest.raises(ValueError, match=text): render_call(call, parameters)


def test_what_cannot_be_read_back_cannot_be_written():
    deep = value = []
    for _ in range(40): value.append([]); value = value[0]
    for g in (3, 4):
        with pytest.raises(ValueError, match="nested more than 30"): render_call("f", {"x": deep}, g)
    for g in (1, 2, 5, None):
        with pytest.raises(ValueError, match="generation must be 3 or 4"): render_call("f", {}, g)
        with pytest.raises(ValueError, match="generation must be 3 or 4"): parse_call("f", g)
    assert render_call("f", {"from": 1}, 4) == 'f\n{"from": 1}'
    assert render_call({"type": "function",
                        "function": {"name": "f", "arguments": '{"x": "是"}'}}) == "f\n```python\ntool_call(x='是')\n```"
    assert parse_call(render_call("f", {"x": (1, (2,))}))["parameters"] == {"x": [1, [2]]}
    once = {"name": "f", "parameters": {"x": [1]}}
    render_call(once)
    assert once == {"name": "f", "parameters": {"x": [1]}}


# -------------------------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize("schema,value,good", [
    ({"type": "integer"}, 1, True), ({"type": "integer"}, 1.0, False), ({"type": "integer"}, True, False),
    ({"type": "number"}, 1, True),
    ({"type": "number"}, True, False), ({"type": "boolean"}, True, True), ({"type": "boolean"}, 1, False),
    ({"type": "string"}, 1, False),
    ({"type": "null"}, None, True), ({"type": ["string", "null"]}, None, True), ({"type": ["string", "null"]}, 1, False),
    ({}, {"x": 1}, True),
    ({"type": "array", "items": {"type": "integer"}}, [1, "2"], False), ({"type": "array"}, [1, "2"], True),
    ({"type": "object"}, {}, True),
    ({"anyOf": [{"type": "integer"}, {"enum": ["all"]}]}, "all", True),
    ({"anyOf": [{"type": "integer"}, {"enum": ["all"]}]}, "some", False),
    ({"enum": ["c", "f"]}, "k", False), ({"type": "int"}, "text", True)])
def test_arguments_and_types(schema, value, good):
    tool = {"name": "f", "parameters": {"properties": {"x": schema}}}
    assert (check_arguments(tool, {"x": value}) == []) is good
    assert check_arguments({"type": "function", "function": tool}, {"x": value}) == check_arguments(tool, {"x": value})


def test_arguments_missing_and_unknown():
    tool = {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}, "required": ["x"]}}
    assert check_arguments(tool, {"y": 1}) == ["x is missing", "y is unknown; there are x"]
    assert check_arguments({"name": "f"}, {"y": 1}) == ["y is unknown; there are no parameters"]
    assert check_arguments(tool, {"x": 3}) == ["x must be of type string, not 3"]


def test_arguments_fit_where_jsonschema_says_so():
    from jsonschema import Draft202012Validator
    rows = load_rows(data_file("tool_dialogues_heldout.jsonl"))
    schemas = [json.loads(text) for text in {json.dumps(t, sort_keys=True) for row in rows for t in row["tools"]}]
    calls = [m["parameters"] for row in rows for m in row["conversations"] if m["role"] == "tool"][::7]
    values, count = ["x", 3, 3.5, True, None, [], [1, "a"], {"a": 1}], 0
    for schema in schemas:
        strict = Draft202012Validator({**schema["parameters"], "additionalProperties": False})
        names = [*schema["parameters"]["properties"]]
        made = [dict.fromkeys(names, v) for v in values] + [{names[0]: v} for v in values] + calls + [{"odd": 1}]
        for parameters in made:
            assert (not check_arguments(schema, parameters)) == strict.is_valid(parameters), (schema, parameters)
            count += strict.is_valid(parameters)
    assert count > 60
