"""Bundled instructions and multiple-choice questions: every number, program, list and date in them is worked out again."""
import ast
import csv
import datetime
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
week = {"en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(), "zh": [f"星期{c}" for c in "一二三四五六日"]}
computed = ("multiply discount average weekday duration metric sort_numbers alphabet count_letter reverse extremes change "
            "journey rectangle sequence division binary dedupe year_day factors").split()
near_duplicate = 0.5


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, root / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in (root / "data" / "instructions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def by_hand() -> list[tuple[dict, list[str]]]:
    made = tool("make_instructions")
    return [pair for language in ("en", "zh") for pair in made.written(language)]


def whole_text(row: dict) -> str:
    return "\n".join([row["instruction"], row["input"], row["output"], *(t for turn in row.get("history", []) for t in turn)])


def code_of(row: dict) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", row["output"], re.S))


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


@pytest.mark.parametrize("script", ["make_instructions.py", "make_choices.py"])
def test_files_are_what_the_script_writes(script):
    done = subprocess.run([sys.executable, str(root / "tools" / script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script, name", [("make_instructions", "bundled"), ("make_choices", "folder")])
def test_check_notices_a_difference(script, name, tmp_path, monkeypatch, capsys):
    made = tool(script)
    monkeypatch.setattr(made, name, tmp_path / ("instructions.jsonl" if name == "bundled" else ""))
    monkeypatch.setattr(sys, "argv", [script])
    assert made.main() == 0
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    assert made.main() == 0
    changed = next(p for p in sorted(tmp_path.iterdir()))
    changed.write_text(changed.read_text(encoding="utf-8").replace("1", "2"), encoding="utf-8")
    assert made.main() == 1 and f"{changed.name} differ" in capsys.readouterr().out


# ---- instructions

def test_counts_languages_and_shares(rows):
    languages, drawn = Counter(r["language"] for r in rows), [r for r in rows if r["topic"] in computed]
    assert len(rows) >= 480 and set(languages) == {"en", "zh"}
    assert abs(languages["en"] - languages["zh"]) <= 0.05 * len(rows)
    assert len(rows) - len(drawn) >= 300 and len(drawn) <= 0.4 * len(rows)
    assert {r["topic"] for r in drawn} == set(computed)
    assert sum("history" in r for r in rows) >= 20
    per_topic = Counter((r["topic"], r["language"]) for r in rows)
    assert min(per_topic.values()) >= 5 and max(per_topic.values()) <= 0.06 * len(rows)


def test_every_row_is_plain_alpaca(rows):
    for row in rows:
        assert set(row) - {"history"} == {"instruction", "input", "output", "language", "topic"}
        texts = [row["instruction"], row["input"], row["output"], *(t for turn in row.get("history", []) for t in turn)]
        assert all(isinstance(t, str) and t == t.strip() for t in texts), row
        assert all(t for t in texts if t is not row["input"]), row
        assert all(len(turn) == 2 for turn in row.get("history", [])) and row.get("history") != []
        limit = (lambda t: len(t.split()) <= 150) if row["language"] == "en" else (lambda t: len(t) <= 400)
        assert limit(row["output"]), row["output"]


def test_language_of_the_instruction(rows):
    for row in rows:
        chinese = re.search("[一-鿿]", row["instruction"])
        assert bool(chinese) == (row["language"] == "zh"), row["instruction"]
        if row["topic"] != "translate":
            assert row["topic"] in ("code", "extract") or bool(re.search("[一-鿿]", row["output"])) == bool(chinese), row


def test_nothing_a_validator_would_refuse(rows):
    for row in rows:
        text = whole_text(row)
        assert not re.search(r"<[A-Z_]+>|\{\{|\}\}|\[[A-Z_]{2,}\]|<\|[^>]*\|>|</?s>|\[g?MASK\]|<[se]op>|TODO|XXX", text), text
        assert not re.search(r"ChatGLM|ChatGPT|Cookie|曲奇|language model|语言模型|AI assistant|人工智能助手", text), text
        assert not re.search(r"\b(19|20)\d\d\b|�|\t", text) or row["topic"] in computed, text
        if row["topic"] in computed: assert "{" not in text and "}" not in text


def test_no_near_duplicates(rows):
    grams = [{t[i:i + 5] for i in range(len(t) - 4)} for t in map(whole_text, rows)]
    for (i, a), (j, b) in itertools.combinations(enumerate(grams), 2):
        assert len(a & b) < near_duplicate * len(a | b), (rows[i]["instruction"], rows[j]["instruction"])
    assert len({(r["instruction"], r["input"]) for r in rows}) == len(rows)


def test_expressions_beside_the_rows_hold(by_hand):
    checked = 0
    for row, checks in by_hand:
        space = {"output": row["output"], "input": row["input"], "words": ["tea", "milk", "water"]}
        exec(code_of(row), space)
        for check in checks:
            checked += 1
            assert eval(check, space), f"{row['instruction']}: {check}"
    assert checked >= 45 and sum(bool(code_of(row)) for row, _ in by_hand) >= 18
    assert all(checks for row, checks in by_hand if row["topic"] == "code")


def test_what_the_two_printing_questions_print(rows):
    for row in rows:
        if row["topic"] != "code" or "print(" not in row["input"]: continue
        printed = subprocess.run([sys.executable, "-c", row["input"]], capture_output=True, text=True).stdout.split("\n")[:-1]
        assert printed and all(f"`{line}`" in row["output"] for line in printed), row


def arithmetic(text: str) -> list[tuple[str, str]]:
    "`(left, right)` of every equation between plain numbers outside of code in `text`."
    text = re.sub(r"```.*?```", " ", text, flags=re.S)
    number, sums = r"\d+(?:\.\d+)?", r"\d+(?:\.\d+)?(?: [-+×÷] \d+(?:\.\d+)?)+"
    found = re.findall(rf"(?<![\w.)] [-+×÷] )(?<![\d.])({sums}) = ({number})(?! [-+×÷])", text)
    return found + [(right, left) for left, right in re.findall(rf"(?<![-+×÷] )(?<![\d.])({number}) = ({sums})", text)]


def exact(text: str) -> Fraction:
    "Value of a sum such as `3 × 4.5 + 1`, without rounding."
    text = re.sub(r"\d+(?:\.\d+)?", lambda m: f"Fraction('{m[0]}')", text)
    return eval(text.replace("×", "*").replace("÷", "/"), {"Fraction": Fraction})


def test_every_equation_is_right(rows):
    found = [(pair, row) for row in rows for text in (row["output"], *(t for turn in row.get("history", []) for t in turn))
             for pair in arithmetic(text)]
    assert len(found) >= 330
    for (left, right), row in found: assert exact(left) == exact(right), (left, right, row["instruction"])
    assert arithmetic("3 × 4 = 13, and 2 = 1 + 2") == [("3 × 4", "13"), ("1 + 2", "2")]
    assert exact("2 + 3 × 1.5") == Fraction(13, 2)


def leaves(value) -> list:
    if isinstance(value, dict): return [leaf for item in value.items() for part in item for leaf in leaves(part)]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


def test_extracted_json_stands_in_the_input(rows):
    extracted = [r for r in rows if r["topic"] == "extract"]
    assert len(extracted) >= 20
    for row in extracted:
        value = json.loads(row["output"])
        found = (leaves(list(value.values())) if isinstance(value, dict) else
                 [leaf for item in value for leaf in leaves(list(item.values()) if isinstance(item, dict) else item)])
        for leaf in found:
            if leaf is not None and not isinstance(leaf, bool): assert str(leaf).lower() in row["input"].lower(), (leaf, row)


def test_tables_and_csv_have_a_cell_for_every_column(rows):
    tables = [r["output"] for r in rows if r["output"].startswith("| ")]
    assert len(tables) == 2
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    lists = [r["output"].splitlines() for r in rows if r["topic"] == "format" and "CSV" in r["instruction"]]
    assert len(lists) == 2
    for header, *lines in lists:
        points = [int(line.split(",")[1]) for line in lines]
        assert header.count(",") == 1 and points == sorted(points, reverse=True)


# ---- answers of the computed topics, worked out in another way

def longest_list(text: str, mark: str) -> list[str]:
    word = "[a-z]+" if mark == ", " else r"\w+"
    return max(re.findall(rf"{word}(?:{mark}{word})+", text), key=len).split(mark)


def day_number(row: dict) -> list[str]:
    n, = set(numbers(row["instruction"])) - {1, 2, 28, 365}
    date = datetime.date(2023, 1, 1) + datetime.timedelta(n - 1)
    return [date.strftime("%B ") + str(date.day) if row["language"] == "en" else f"{date.month}月{date.day}日"]


def day_of_week(row: dict) -> list[str]:
    name, = (d for d in week[row["language"]] if d in row["instruction"])
    monday = datetime.date(2001, 1, 1)
    date = monday + datetime.timedelta(week[row["language"]].index(name) + numbers(row["instruction"])[-1])
    answer = week[row["language"]][date.isoweekday() - 1]
    return [rf"re:(to|be a|comes) {answer}\b|[是]{answer}"]


def time_passed(row: dict) -> list[str]:
    start, end = (datetime.datetime.strptime(t, "%H:%M") for t in re.findall(r"\d+:\d\d", row["instruction"]))
    hours, minutes = divmod((end - start).seconds // 60, 60)
    return [f"{hours} hours and {minutes} minutes" if row["language"] == "en" else f"{hours}小时{minutes}分钟"]


def converted(row: dict) -> list[str]:
    sizes = {"kilometres": 1000, "centimetres": "0.01", "metres": 1, "kilograms": 1000, "grams": 1, "millilitres": "0.001",
             "litres": 1, "hours": 60, "minutes": 1, "千米": 1000, "厘米": "0.01", "米": 1, "千克": 1000, "克": 1,
             "毫升": "0.001", "升": 1, "小时": 60, "分钟": 1}
    value, big = re.search(rf"(\d+\.\d)\s*({'|'.join(sizes)})", row["instruction"]).groups()
    small = re.search("|".join(sizes), row["instruction"].replace(f"{value} {big}", "").replace(f"{value}{big}", ""))[0]
    result = Fraction(value) * Fraction(sizes[big]) / Fraction(sizes[small])
    return [f"{result} {small}" if row["language"] == "en" else f"{result}{small}"]


def letter_places(row: dict) -> list[str]:
    found = re.findall("[a-z]+", row["instruction"])
    if row["language"] == "zh": word, letter = max(found, key=len), min(found, key=len)
    else:
        word = re.search(r'(?:in "|word "?)([a-z]+)', row["instruction"])[1]
        letter = re.search(r"letter \"?([a-z])\b|the ([a-z])'s", row["instruction"])
        letter = letter[1] or letter[2]
    places = [str(m.start() + 1) for m in re.finditer(letter, word)]
    comma = ", " if row["language"] == "en" else "、"
    return [comma.join(places), f"{len(places)} times" if row["language"] == "en" else f"re:{len(places)}[次个]"]


def backwards(row: dict) -> list[str]:
    word = max(re.findall(r"[a-z]+(?=[\" ”。，]|$)", row["instruction"].split("Write ")[-1].split(" in ")[0]), key=len) \
        if row["language"] == "zh" else re.search(r'word "([a-z]+)|Write ([a-z]+)', row["instruction"])[0].split()[-1].strip('"')
    return ["".join(reversed(word)), "-".join(reversed(word))]


def spread_of(row: dict) -> list[str]:
    found = numbers(row["instruction"] + " " + row["input"])
    return [str(min(found)), str(max(found)), f"= {max(found) - min(found)}"]


def continued(row: dict) -> list[str]:
    terms = numbers(row["instruction"] + " " + row["input"])
    step, = {b - a for a, b in zip(terms, terms[1:])}
    return [str(terms[-1] + step), str(terms[-1] + 2 * step), f"= {terms[0] + 9 * step}"]


def listed(values, row: dict) -> str:
    return (", " if row["language"] == "en" or values and not str(values[0]).isdigit() and str(values[0]).isascii() else
            "、").join(map(str, values))


def without_repeats(row: dict) -> list[str]:
    words, seen = longest_list(row["input"] or row["instruction"], ", " if row["language"] == "en" else "、"), []
    for word in words: seen += [word] * (word not in seen)
    return [listed(seen, row), str(len(seen))]


def expected(row: dict) -> list[str]:
    "Texts that the answer of a computed `row` must contain, worked out from its question alone."
    n, text = numbers(row["instruction"] + " " + row["input"]), row["input"] or row["instruction"]
    works = {
        "multiply": lambda: [f"{n[0] * n[1]}"], "discount": lambda: [f"= {n[0] * (100 - n[1]) // 100}"],
        "average": lambda: [f"= {sum(n[-5:]) // 5}", f"= {sum(n[-5:])}"], "weekday": lambda: day_of_week(row),
        "duration": lambda: time_passed(row), "metric": lambda: converted(row),
        "sort_numbers": lambda: [listed(sorted(n), row), str(sorted(n)[3])],
        "alphabet": lambda: [", ".join(sorted(longest_list(text, ", ")))], "count_letter": lambda: letter_places(row),
        "reverse": lambda: backwards(row), "extremes": lambda: spread_of(row),
        "change": lambda: [f"= {n[2] - n[0] * n[1]}"],
        "journey": lambda: [f"= {n[0] * n[1]}", f"= {max(n) // 4}"],
        "rectangle": lambda: [f"= {n[0] * n[1]}", f"= {2 * n[0] + 2 * n[1]}"], "sequence": lambda: continued(row),
        "division": lambda: [str(n[0] // n[1]), str(n[0] - n[0] // n[1] * n[1])],
        "binary": lambda: [format(n[0], "b")], "dedupe": lambda: without_repeats(row), "year_day": lambda: day_number(row),
        "factors": lambda: [listed([d for d in range(1, n[0] + 1) if n[0] % d == 0], row)]}
    return works[row["topic"]]()


def answers(row: dict, output: str) -> bool:
    return all(re.search(part[3:] if part.startswith("re:") else rf"(?<![\d.]){re.escape(part)}(?![\d]|\.\d)", output)
               for part in expected(row))


@pytest.mark.parametrize("topic", computed)
def test_computed_answers(rows, topic):
    found = [r for r in rows if r["topic"] == topic]
    assert len(found) == 10
    for row in found: assert answers(row, row["output"]), (row, expected(row))
    for row, other in itertools.permutations(found, 2):
        if row["language"] == other["language"] and expected(row) != expected(other):
            assert not answers(row, other["output"]), (row["instruction"], other["output"])


# ---- multiple choice

@pytest.fixture(scope="module")
def choices() -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for path in sorted((root / "data" / "choices").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file: found[path.stem] = list(csv.DictReader(file))
    return found


def test_layout_counts_and_languages(choices):
    topics = {name.split("_", 1)[1] for name in choices}
    assert len(topics) >= 6 and set(choices) == {f"{part}_{t}" for t in topics for part in ("dev", "test")}
    for name, table in choices.items():
        assert name.startswith("test_") or len(table) == 5
        for i, row in enumerate(table):
            assert list(row) == ["", "Question", "A", "B", "C", "D", "Answer"] and row[""] == str(i)
            assert all(v and v == v.strip() and "\n" not in v for v in row.values())
            assert row["Answer"] in list("ABCD") and len({row[c].lower() for c in "ABCD"}) == 4
            assert bool(re.search("[一-鿿]", row["Question"])) == ("_zh_" in f"_{name}")
    sizes = {lang: sum(len(t) for n, t in choices.items() if f"_{lang}_" in n) for lang in ("en", "zh")}
    assert sum(sizes.values()) >= 240 and sizes["en"] == sizes["zh"]


def test_no_question_stands_twice(choices):
    questions = [(row["Question"], *sorted(row[c] for c in "ABCD")) for table in choices.values() for row in table]
    assert len(set(questions)) == len({q[0] for q in questions}) == len(questions)


def test_letters_are_balanced_and_length_tells_nothing(choices):
    every = [row for table in choices.values() for row in table]
    for part in (every, [r for n, t in choices.items() if n.startswith("test_") for r in t]):
        letters = Counter(row["Answer"] for row in part)
        assert all(0.2 <= letters[c] / len(part) <= 0.3 for c in "ABCD"), letters
    for topics in "en", "zh", "":
        part = [r for n, t in choices.items() if f"_{topics}" in n for r in t]
        for pick in max, min:
            score = Fraction(0)
            for row in part:
                chosen = [c for c in "ABCD" if len(row[c]) == pick(len(row[k]) for k in "ABCD")]
                score += Fraction(row["Answer"] in chosen, len(chosen))
            assert 0.15 < score / len(part) < 0.35, (topics, pick.__name__, float(score / len(part)))


def test_size_of_a_number_tells_nothing(choices):
    ranks = Counter()
    for name, table in choices.items():
        for row in table if "arithmetic" in name or "units" in name else []:
            ranks[sorted((int(row[c]), c) for c in "ABCD").index((int(row[row["Answer"]]), row["Answer"]))] += 1
    assert sum(ranks.values()) == 78 and all(0.1 <= ranks[i] / 78 <= 0.4 for i in range(4)), ranks


def test_values_of_expressions(choices):
    table = choices["dev_en_code_reading"] + choices["test_en_code_reading"]
    assert len(table) == 26
    for row in table:
        value = eval(re.search("`(.*)`", row["Question"])[1])
        assert repr(value) == row[row["Answer"]], row
        for letter in set("ABCD") - {row["Answer"]}: assert ast.literal_eval(row[letter]) != value, row


sums = {
    r"What is (\d+) \+ (\d+)\?": lambda a, b: a + b, r"What is (\d+) - (\d+)\?": lambda a, b: a - b,
    r"What is (\d+) × (\d+)\?": lambda a, b: a * b, r"What is (\d+) ÷ (\d+)\?": lambda a, b: Fraction(a, b),
    r"What is (\d+) \+ (\d+) × (\d+)\?": lambda a, b, c: a + (b * c),
    r"What is (\d+) percent of (\d+)\?": lambda a, b: Fraction(a, 100) * b,
    r"What is the square of (\d+)\?": lambda a: a ** 2,
    r"What is the remainder when (\d+) is divided by (\d+)\?": lambda a, b: a - b * (a // b),
    r"What is the average of (\d+), (\d+) and (\d+)\?": lambda a, b, c: Fraction(a + b + c, 3),
    r"\w+ has (\d+) stamps, \w+ has (\d+) fewer.*": lambda a, b: a + (a - b),
    r"\w+ buys (\d+) tickets at (\d+) coins each and pays with (\d+) coins.*": lambda a, b, c: c - a * b,
    r"A path of (\d+) m has a lamp every (\d+) m.*": lambda a, b: len(range(0, a + 1, b)),
    r"\w+ reads (\d+) pages a day.* in (\d+) days\?": lambda a, b: a * b,
    r"(\d+)与(\d+)的和是多少？": lambda a, b: a + b, r"(\d+)减去(\d+)等于多少？": lambda a, b: a - b,
    r"(\d+)的(\d+)倍是多少？": lambda a, b: a * b, r"(\d+)平均分成(\d+)份，每份是多少？": lambda a, b: Fraction(a, b),
    r"(\d+) \+ (\d+) × (\d+)的结果是多少？": lambda a, b, c: a + (b * c),
    r"(\d+)的(\d+)%是多少？": lambda a, b: Fraction(b, 100) * a, r"边长为(\d+)厘米的正方形，周长.*": lambda a: a + a + a + a,
    r"长(\d+)米、宽(\d+)米的长方形，面积.*": lambda a, b: a * b,
    r"\w+今年(\d+)岁，妈妈比\w+大(\d+)岁，妈妈今年多少岁？": lambda a, b: a + b,
    r"一排树共(\d+)棵，相邻两棵相距(\d+)米.*": lambda a, b: range(0, a * b, b)[-1],
    r"\w+买了(\d+)本书，每本(\d+)元，付出(\d+)元，应找回多少元？": lambda a, b, c: c - a * b,
    r"\w+有(\d+)张卡片，比\w+多(\d+)张，两人一共有多少张？": lambda a, b: a + (a - b),
    r"一辆汽车(\d+)小时行驶(\d+)千米，平均每小时.*": lambda a, b: Fraction(b, a)}


def solved(question: str) -> Fraction | int:
    if unit := re.fullmatch(r"(\d+)(\D+?)(?:等于多少|是多少)(\D+)？", question):
        size = {"千米": (1, 1000), "米": (1, 1), "厘米": (1, "0.01"), "毫米": (1, "0.001"), "吨": (2, 1000), "千克": (2, 1),
                "斤": (2, "0.5"), "克": (2, "0.001"), "升": (3, 1), "毫升": (3, "0.001"), "天": (4, 1440), "小时": (4, 60),
                "分钟": (4, 1), "秒": (4, Fraction(1, 60)), "公顷": (5, 10000), "平方米": (5, 1), "平方厘米": (5, "0.0001"),
                "元": (6, 1), "角": (6, "0.1")}
        (kind, a), (same, b) = size[unit[2]], size[unit[3]]
        assert kind == same, question
        return int(unit[1]) * Fraction(a) / Fraction(b)
    (work, found), = [(work, m) for pattern, work in sums.items() if (m := re.fullmatch(pattern, question))]
    return work(*map(int, found.groups()))


@pytest.mark.parametrize("topic", ["en_arithmetic", "zh_arithmetic", "zh_units"])
def test_computed_choices(choices, topic):
    table = choices[f"dev_{topic}"] + choices[f"test_{topic}"]
    assert len(table) == 26
    for row in table: assert [c for c in "ABCD" if int(row[c]) == solved(row["Question"])] == [row["Answer"]], row
