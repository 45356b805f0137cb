"""The bundled tool dialogues: what every call says and returns, who speaks, and what is kept for the held-out file."""
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tools"))
import make_tool_dialogues as made  # noqa: E402

files = {"train": "tool_dialogues.jsonl", "held": "tool_dialogues_heldout.jsonl", "pairs": "tool_pairs.jsonl"}
rows = {part: [json.loads(line) for line in (root / "data" / name).read_text(encoding="utf-8").splitlines()]
        for part, name in files.items()}
every = rows["train"] + rows["held"] + rows["pairs"]
special = re.compile(r"<\||\|>|\[g?s?MASK\]|<sop>|<eop>|</?s>|<unk>|<pad>|\[\[|```|<bos>|<eos>")


def calls(row): return [turn for turn in row["conversations"] if turn["role"] == "tool"]


def fits(value, kind) -> bool:
    "Whether `value` has the JSON type `kind`; a bool is no number."
    types = {"string": str, "integer": int, "number": (int, float), "array": list, "object": dict}
    return isinstance(value, types[kind]) and not isinstance(value, bool)


def faults(call: dict, schema: dict) -> list[str]:
    "What the call breaks of the schema."
    parameters = schema["parameters"]
    known, given = parameters["properties"], call["parameters"]
    found = [f"{key} is missing" for key in parameters["required"] if key not in given]
    for key, value in given.items():
        if key not in known: found.append(f"{key} is unknown")
        elif not fits(value, known[key]["type"]): found.append(f"{key} is no {known[key]['type']}")
        elif value not in known[key].get("enum", [value]): found.append(f"{key} is none of its choices")
        elif "items" in known[key] and not all(fits(v, known[key]["items"]["type"]) for v in value): found.append(f"{key} holds a wrong type")
    return found


def leaves(value) -> list[str]:
    if isinstance(value, dict): return [leaf for part in value.values() for leaf in leaves(part)]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [str(value)]


def test_the_files_are_what_the_script_writes(tmp_path, monkeypatch, capsys):
    for name, text in made.bundled_files().items(): assert (root / "data" / name).read_bytes() == text.encode(), name
    script = [sys.executable, str(root / "tools" / "make_tool_dialogues.py"), "--check"]
    assert subprocess.run(script, capture_output=True).returncode == 0
    monkeypatch.setattr(made, "folder", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_tool_dialogues.py", "--check"])
    assert made.main() == 1 and "differ" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()), "--check must not write"


def test_numbers_kinds_and_languages():
    assert len(rows["train"]) >= 640 and len(rows["held"]) >= 200
    for part, found in list(rows.items())[:2]:
        kinds = Counter((row["kind"], row["language"]) for row in found)
        assert kinds == {(kind, language): counts[part == "held"] for kind, counts in made.shares.items()
                         for language in ("en", "zh") if counts[part == "held"]}
        assert sum(row["kind"] == "no_call" for row in found) / len(found) >= 0.2
        assert sum(not calls(row) for row in found) / len(found) >= 0.25
    used = Counter(turn["name"] for row in rows["train"] for turn in calls(row))
    assert len(used) == 15 and min(used.values()) >= 16, used
    offered = Counter(len(row["tools"]) for row in every)
    assert set(offered) == {2, 3, 4} and min(offered.values()) >= 40, offered


def test_pairs_share_their_tools():
    for one, other in zip(rows["pairs"][::2], rows["pairs"][1::2], strict=True):
        assert one["tools"] == other["tools"] and one["language"] == other["language"] and one["conversations"] != other["conversations"]
        assert [t for t in one["conversations"] if t["role"] == "system"] == [t for t in other["conversations"] if t["role"] == "system"]
    kinds = Counter(row["kind"] for row in rows["pairs"])
    assert set(kinds) == set(made.shares) - {"new_tool"} and min(kinds.values()) >= 40, kinds
    assert min(Counter(turn["name"] for row in rows["pairs"] for turn in calls(row)).values()) >= 16
    assert abs(sum(row["language"] == "zh" for row in rows["pairs"]) / len(rows["pairs"]) - 0.5) < 0.05


def test_text_is_in_the_language_of_its_row():
    for row in every:
        users = "".join(turn["content"] for turn in row["conversations"] if turn["role"] in ("user", "assistant"))
        assert bool(re.search(r"[\u4e00-\u9fff\u3002\uff00-\uffef]", users)) == (row["language"] == "zh"), users


def test_turns_follow_each_other_as_chatglm3_has_them():
    after = {"system": {"user"}, "user": {"assistant", "tool"}, "assistant": {"user", "tool"}, "tool": {"tool", "assistant"}}
    for row in every:
        turns = row["conversations"]
        roles = [turn["role"] for turn in turns]
        assert roles[0] in ("system", "user") and roles[-1] == "assistant", roles
        assert all(b in after[a] for a, b in zip(roles, roles[1:])), roles
        for turn in turns:
            wanted = {"role", "name", "parameters", "observation"} if turn["role"] == "tool" else {"role", "content"}
            assert set(turn) - {"loss"} == wanted
            assert turn["role"] == "tool" or turn["content"].strip() == turn["content"] != ""


def test_schemas_are_well_formed_and_offered():
    for row in every:
        names = [tool["name"] for tool in row["tools"]]
        assert len(set(names)) == len(names)
        assert {turn["name"] for turn in calls(row)} <= set(names), "a tool is called that is not offered"
        assert row in rows["pairs"] or {turn["name"] for turn in calls(row)} < set(names), "nothing distracts"
        for tool in row["tools"]:
            parameters = tool["parameters"]
            assert tool["description"] and parameters["type"] == "object" and set(tool) == {"name", "description", "parameters"}
            assert set(parameters["required"]) <= set(parameters["properties"])
            assert tool in [made.schema(tool["name"], language) for language in ("en", "zh")]
    first = Counter(row["tools"][0]["name"] in {turn["name"] for turn in calls(row)} for row in every if row["kind"] == "single")
    assert 0.35 < first[True] / sum(first.values()) < 0.6, "the right tool must not always stand first"


def test_every_call_is_valid_for_its_schema():
    for row in every:
        schemas = {tool["name"]: tool for tool in row["tools"]}
        for call in calls(row): assert not faults(call, schemas[call["name"]]), call


@pytest.mark.parametrize("parameters, fault", [
    ({"city": "Paris", "day": "today"}, None), ({"city": "Paris"}, None), ({"day": "today"}, "missing"), ({"city": 3}, "no string"),
    ({"city": "Paris", "day": "monday"}, "choices"), ({"city": "Paris", "hour": 3}, "unknown")])
def test_the_check_of_schemas_can_fail(parameters, fault):
    found = faults({"parameters": parameters}, made.schema("get_weather", "en"))
    assert len(found) == (fault is not None) and (fault is None or fault in found[0])


def test_the_check_of_types_knows_bools_and_lists():
    sort = made.schema("sort_numbers", "en")
    assert not faults({"parameters": {"numbers": [1, 2.5], "order": "ascending"}}, sort)
    assert faults({"parameters": {"numbers": [1, "2"], "order": "ascending"}}, sort) == ["numbers holds a wrong type"]
    assert faults({"parameters": {"minutes": True}}, made.schema("set_timer", "en")) == ["minutes is no integer"]


def test_every_observation_is_what_the_tool_returns():
    for row in every:
        for recorded, computed in made.replay(row):
            assert recorded == json.loads(json.dumps(computed)) and type(recorded) is type(computed), (row["conversations"], computed)


def test_the_tools_by_hand():
    calls = [("calculate", {"expression": "(3+4)*2"}, 14), ("calculate", {"expression": "-7/2"}, -3.5),
             ("solve_equation", {"equation": "3*x+4=19"}, "x = 5"), ("solve_equation", {"equation": "(x-1)/2=4"}, "x = 9"),
             ("convert_unit", {"value": 1, "source": "mile", "target": "km"}, 1.609),
             ("convert_unit", {"value": 100, "source": "celsius", "target": "fahrenheit"}, 212),
             ("convert_unit", {"value": 212, "source": "fahrenheit", "target": "celsius"}, 100),
             ("days_between", {"start": "2024-02-28", "end": "2024-03-01"}, 2), ("add_days", {"date": "2023-12-31", "days": 1}, "2024-01-01"),
             ("weekday", {"date": "2000-01-01"}, {"en": "Saturday", "zh": "星期六"}),
             ("exchange", {"amount": 80, "source": "CNY", "target": "EUR"}, 10), ("count_text", {"text": "one two", "unit": "words"}, 2),
             ("count_text", {"text": "one two", "unit": "characters"}, 7), ("sort_numbers", {"numbers": [2, 10, 1], "order": "descending"}, [10, 2, 1]),
             ("statistics", {"numbers": [1, 2, 3, 10], "measure": "median"}, 2.5), ("statistics", {"numbers": [1, 2, 3, 10], "measure": "mean"}, 4),
             ("statistics", {"numbers": [1, 2, 3, 10], "measure": "range"}, 9), ("to_roman", {"number": 1994}, "MCMXCIV"),
             ("search_notes", {"query": "dogs"}, "Dogs must wait outside."), ("shop_item", {"item": "台灯"}, {"usd": 25, "stock": 7})]
    for name, parameters, result in calls: assert made.Toolbox().call(name, parameters) == result, (name, parameters)


@pytest.mark.parametrize("name, parameters, reason", [
    ("calculate", {"expression": "4/0"}, "division by zero"), ("calculate", {"expression": "__import__('os')"}, "only numbers"),
    ("calculate", {"expression": "2**9"}, "only numbers"), ("calculate", {"expression": "3 x 4"}, "cannot read"), ("calculate", {"expression": "x"}, "only numbers"),
    ("solve_equation", {"equation": "2*x=2*x"}, "every x"), ("solve_equation", {"equation": "2*x=2*x+1"}, "no x"),
    ("solve_equation", {"equation": "x*x=4"}, "not linear"), ("solve_equation", {"equation": "4"}, "one ="),
    ("convert_unit", {"value": 1, "source": "kg", "target": "km"}, "cannot become"), ("convert_unit", {"value": 1, "source": "stone", "target": "kg"}, "unknown unit"),
    ("weekday", {"date": "2023-02-29"}, "there is no day"), ("weekday", {"date": "29.2.2024"}, "must look like"), ("get_weather", {"city": "Atlantis"}, "unknown city"),
    ("exchange", {"amount": 1, "source": "USD", "target": "CHF"}, "no rate"), ("search_notes", {"query": "swimming pool"}, "no note"),
    ("shop_item", {"item": "piano"}, "no item"), ("todo", {"action": "done", "task": "nap"}, "no task"), ("set_timer", {"minutes": 0}, "at least 1"),
    ("statistics", {"numbers": [], "measure": "mean"}, "empty"), ("to_roman", {"number": 4000}, "1 to 3999")])
def test_a_failure_becomes_an_observation(name, parameters, reason):
    assert reason in made.Toolbox().call(name, parameters)["error"]


def test_tools_remember_within_a_dialogue_only():
    box = made.Toolbox()
    assert box.call("todo", {"action": "add", "task": "rest"}) == ["rest"]
    assert box.call("set_timer", {"minutes": 3}) == {"timer": 1, "minutes": 3}
    assert box.call("set_timer", {"minutes": 4})["timer"] == 2
    assert box.call("todo", {"action": "done", "task": "rest"}) == [] == made.Toolbox().call("todo", {"action": "list"})


def test_answers_use_the_observation_exactly():
    for row in every:
        turns = row["conversations"]
        for call, answer in zip(turns, turns[1:]):
            if call["role"] != "tool" or answer["role"] != "assistant": continue
            seen = call["observation"]
            if isinstance(seen, dict) and "error" in seen: continue
            if isinstance(seen, dict) and call["name"] == "weekday": seen = seen[row["language"]]
            assert all(leaf in answer["content"] for leaf in leaves(seen)), (call, answer)


def test_a_chain_feeds_the_first_result_into_the_second_call():
    for row in [row for row in every if row["kind"] == "chain"]:
        first, second = calls(row)
        given = str(second["parameters"])
        parts = leaves(first["observation"]) + re.findall(r"\d{4}-\d\d-\d\d", str(first["observation"])) + [str(first["observation"])[4:]]
        assert any(part and part in given for part in parts), row["conversations"]


def test_errors_are_explained_or_corrected():
    explained = corrected = 0
    for row in every:
        failed = [turn for turn in calls(row) if isinstance(turn["observation"], dict) and "error" in turn["observation"]]
        assert bool(failed) == (row["kind"] == "error")
        untrained = [turn for turn in row["conversations"] if turn.get("loss") is False]
        if not failed: assert not untrained
        elif calls(row)[-1] is failed[0]: explained += 1; assert not untrained
        else: corrected += 1; assert untrained == failed and calls(row)[-1]["name"] == failed[0]["name"]
    assert explained >= 40 and corrected >= 25


def test_an_argument_is_asked_for_before_the_call():
    for row in [row for row in every if row["kind"] == "ask_back"]:
        roles = [turn["role"] for turn in row["conversations"] if turn["role"] != "system"]
        assert roles == ["user", "assistant", "user", "tool", "assistant"]


def test_a_tool_that_does_not_fit_is_not_called():
    for row in [row for row in every if row["kind"] in ("unfit", "no_call")]: assert not calls(row)
    for row in [row for row in every if row["kind"] == "unfit"]:
        reply = row["conversations"][-1]["content"]
        for tool in row["tools"]: assert made.purposes[tool["name"]][row["language"] == "zh"] in reply


def test_nothing_twice_and_nothing_held_out_in_train():
    keys = {part: [made.row_key(row) for row in found] for part, found in rows.items()}
    keys["pairs"] = [made.row_key(row) for row in rows["pairs"] if row["kind"] != "no_call"]
    for part, found in keys.items(): assert len(set(found)) == len(found), part
    first = {part: {key[0] for key in found} for part, found in keys.items()}
    assert not (first["train"] | {made.row_key(row)[0] for row in rows["pairs"]}) & first["held"] and not set(keys["pairs"]) & set(keys["train"])
    for part in "train", "pairs": assert made.held_out_tool not in (root / "data" / files[part]).read_text(encoding="utf-8")
    assert sum(made.held_out_tool in {turn["name"] for turn in calls(row)} for row in rows["held"]) == 28
    assert all((row["kind"] == "new_tool") == (made.held_out_tool in {tool["name"] for tool in row["tools"]}) for row in every)


def pattern(wording: str) -> str:
    "What `wording` may look like when its slots are filled."
    return ".+".join(re.escape(part) for part in re.split(r"\{\w+\}", wording))


def test_held_out_wordings_are_in_no_train_row():
    for name in made.asked:
        asked = [made.row_key(row)[0] for row in rows["train"] + rows["pairs"] if row["kind"] == "single" and calls(row)[0]["name"] == name]
        usual, kept = ([pattern(w) for options in made.asked[name] for w in made.kept(options, held)] for held in (False, True))
        assert len(usual) == 3 * len(kept) and (name == made.held_out_tool or len(usual) == 24 and asked)
        for text in asked:
            if any(re.search(wording, text) for wording in kept): assert any(re.search(wording, text) for wording in usual), text


def test_held_out_texts_and_tasks_are_in_no_train_row():
    train = "".join((root / "data" / files[part]).read_text(encoding="utf-8") for part in ("train", "pairs"))
    for options in (*made.texts, *made.tasks):
        assert len(options) == 12 and not any(text in train for text in made.kept(options, True))
        assert sum(text in train for text in made.kept(options, False)) >= 5


def test_no_text_of_special_tokens_and_small_files():
    for name in files.values():
        text = (root / "data" / name).read_text(encoding="utf-8")
        assert not special.search(text), special.search(text)
        assert "\ufffd" not in text and "{}" not in text and not re.search(r"[^\x00-\x7f]\{\w+\}", text)
    assert sum((root / "data" / name).stat().st_size for name in files.values()) < 2_500_000


def test_rows_are_short_for_smol():
    from chatglm_cookbook.checkpoints import load_tokenizer
    try: tokenizer = load_tokenizer("smol")
    except (OSError, ValueError) as error: pytest.skip(f"smol's tokenizer is not here: {error}")
    template = (root / "data" / "smol" / "glm3.jinja").read_text(encoding="utf-8")
    sizes = sorted(size_of(tokenizer, template, row) for row in every[::4])
    assert sizes[len(sizes) // 2] <= 370 and sizes[int(len(sizes) * 0.9)] <= 530 and sizes[-1] <= 800, sizes[-1]


def size_of(tokenizer, template, row) -> int:
    "Tokens of a row as ChatGLM3's dialogue."
    messages = []
    for turn in row["conversations"]:
        if turn["role"] != "tool": messages.append(turn); continue
        call = {"name": turn["name"], "arguments": turn["parameters"]}
        seen = turn["observation"]
        messages += [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
                     {"role": "tool", "content": seen if isinstance(seen, str) else json.dumps(seen, ensure_ascii=False)}]
    return len(tokenizer.apply_chat_template(messages, tools=row["tools"], chat_template=template, return_dict=False))
