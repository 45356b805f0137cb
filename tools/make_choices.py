"""Write data/choices/dev_TOPIC.csv and test_TOPIC.csv: multiple-choice questions in the layout of CMMLU.

    python tools/make_choices.py            # writes the files
    python tools/make_choices.py --check    # exits 1 if the files in the repository differ

Six topics were written by hand (tools/sources/choices_en.txt and choices_zh.txt: question | right | wrong | wrong |
wrong), one is Python code whose value this script computes (choices_code.txt: expression | wrong | wrong | wrong),
three are computed from seeded numbers. The right answer goes to A, B, C and D equally often, in seeded order; of
computed numbers it is as often the smallest as the largest, so that its size gives nothing away.
"""
from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path

tools = Path(__file__).resolve().parent
folder = tools.parent / "data" / "choices"
letters, few_shots = "ABCD", 5

names = {"en": ["Ada", "Ben", "Cleo", "Dan", "Elif", "Finn", "Gus", "Hana"],
         "zh": ["小林", "小陈", "小吴", "小何", "小方", "小沈", "小丁", "小许"]}
measures = [("千米", "米", 1000), ("米", "厘米", 100), ("厘米", "毫米", 10), ("千克", "克", 1000), ("吨", "千克", 1000),
            ("斤", "克", 500), ("升", "毫升", 1000), ("小时", "分钟", 60), ("分钟", "秒", 60), ("天", "小时", 24),
            ("平方米", "平方厘米", 10000), ("公顷", "平方米", 10000), ("元", "角", 10)]


def listed(name: str) -> Iterator[tuple[str, list[str]]]:
    "`(topic, fields)` of every line in the source file `name`."
    topic = ""
    for line in (tools / "sources" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "): topic = line[3:]
        elif line.strip(): yield topic, line.split(" | ")


def code_options(expression: str, wrong: list[str]) -> tuple[str, list[str]]:
    "Question and options for the value of a Python `expression`, the right one first."
    return f"What is the value of the Python expression `{expression}`?", [repr(eval(expression)), *wrong]


def spread(right: int, wrong: list[int], rng: random.Random) -> list[int]:
    "`right` and three other numbers: tempting ones in `wrong` first, with 0 to 3 of them below it, equally often."
    rank = rng.randrange(4)
    near = [right + sign * step for step in rng.sample([1, 2, 3, 4, 5, 6, 8, 10, 12, 20], 10) for sign in (1, -1)]
    pool = [n for n in dict.fromkeys(wrong + near) if n > 0 and n != right]
    below, above = [n for n in pool if n < right], [n for n in pool if n > right]
    low = below[:rank]
    return [right, *low, *above[:3 - len(low)]]


sums = {
    "en_arithmetic": [
        lambda a, b, c, who: (f"What is {a} + {b}?", a + b, [a + b - 10, a + b + 10]),
        lambda a, b, c, who: (f"What is {a + b} - {a}?", b, [b + 10, b - 10]),
        lambda a, b, c, who: (f"What is {b} × {c}?", b * c, [b * c + c, b * c - c, b * c + 10]),
        lambda a, b, c, who: (f"What is {a * c} ÷ {c}?", a, [a + c, a - c]),
        lambda a, b, c, who: (f"What is {a} + {b} × {c}?", a + b * c, [(a + b) * c, a + b + c, a * c + b]),
        lambda a, b, c, who: (f"What is {5 * c} percent of {20 * b}?", c * b, [2 * b * c, 5 * c, b * c + b, b * c - b]),
        lambda a, b, c, who: (f"What is the square of {b}?", b * b, [2 * b, b * b + b, b * b - b, b * b + 100]),
        lambda a, b, c, who: (f"What is the remainder when {(c + 5) * b + a % (c + 4) + 1} is divided by {c + 5}?",
                              a % (c + 4) + 1, [a % (c + 4) + 2, a % (c + 4)]),
        lambda a, b, c, who: (f"What is the average of {a}, {a + 3 * c} and {a + 6 * c}?", a + 3 * c, [a + c, a + 4 * c]),
        lambda a, b, c, who: (f"{who[0]} has {a} stamps, {who[1]} has {c} fewer. How many do they have together?", 2 * a - c,
                              [2 * a + c, a - c, 2 * a]),
        lambda a, b, c, who: (f"{who[0]} buys {c} tickets at {b} coins each and pays with {b * c + a} coins. "
                              "How many coins come back?", a, [a + 10, a - 10]),
        lambda a, b, c, who: (f"A path of {a * b} m has a lamp every {a} m, with one at both ends. "
                              "How many lamps are there?", b + 1, [b, b - 1, b + 2]),
        lambda a, b, c, who: (f"{who[0]} reads {c} pages a day. How many pages is that in {b} days?", b * c,
                              [b + c, b * c - c, b * c + b])],
    "zh_arithmetic": [
        lambda a, b, c, who: (f"{a}与{b}的和是多少？", a + b, [a + b - 10, a + b + 10]),
        lambda a, b, c, who: (f"{a + b}减去{b}等于多少？", a, [a + 10, a - 10]),
        lambda a, b, c, who: (f"{b}的{c}倍是多少？", b * c, [b * c + c, b + c, b * c + 10]),
        lambda a, b, c, who: (f"{a * c}平均分成{c}份，每份是多少？", a, [a + c, a - c]),
        lambda a, b, c, who: (f"{a} + {b} × {c}的结果是多少？", a + b * c, [(a + b) * c, a + b + c, a * c + b]),
        lambda a, b, c, who: (f"{20 * b}的{5 * c}%是多少？", b * c, [2 * b * c, 5 * c, b * c + b, b * c - b]),
        lambda a, b, c, who: (f"边长为{b}厘米的正方形，周长是多少厘米？", 4 * b, [b * b, 2 * b, 4 * b + 4, 3 * b]),
        lambda a, b, c, who: (f"长{a}米、宽{c}米的长方形，面积是多少平方米？", a * c, [2 * (a + c), a + c, a * c + c]),
        lambda a, b, c, who: (f"{who[0]}今年{4 + a % 6}岁，妈妈比{who[0]}大{23 + c}岁，妈妈今年多少岁？", 27 + a % 6 + c,
                              [23 + c, 19 - a % 6 + c, 28 + c + a % 6]),
        lambda a, b, c, who: (f"一排树共{b}棵，相邻两棵相距{c}米，从第一棵到最后一棵相距多少米？", (b - 1) * c,
                              [b * c, (b + 1) * c, (b - 2) * c]),
        lambda a, b, c, who: (f"{who[0]}买了{c}本书，每本{b}元，付出{b * c + a}元，应找回多少元？", a, [a + 10, a - 10]),
        lambda a, b, c, who: (f"{who[0]}有{a}张卡片，比{who[1]}多{2 * c}张，两人一共有多少张？", 2 * a - 2 * c,
                              [2 * a + 2 * c, 2 * a, a - 2 * c]),
        lambda a, b, c, who: (f"一辆汽车{c}小时行驶{c * b}千米，平均每小时行驶多少千米？", b, [b + c, b - c, b + 10])]}


def sum_questions(topic: str, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    "Two questions of each kind of sum in `topic`, with four options, the right one first."
    for kind in sums[topic]:
        for a, b, c in zip(rng.sample(range(24, 90), 2), rng.sample(range(13, 49), 2), rng.sample(range(3, 10), 2)):
            question, right, wrong = kind(a, b, c, rng.sample(names[topic[:2]], 2))
            yield question, [str(n) for n in spread(right, wrong, rng)]


def unit_questions(rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    "Both ways between every pair of `measures`, with four options, the right one first."
    for big, small, factor in measures:
        for n in rng.sample(range(2, 10) if factor in (24, 60, 500) else range(12, 99), 2):
            right, question = n * factor, f"{n}{big}等于多少{small}？"
            if n % 2: right, question = n, f"{right}{small}是多少{big}？"
            wrong = [right * 10, right * 100] + [right // 10**k for k in (1, 2) if right % 10**k == 0]
            wrong += [right + sign * step * right // n for step in (1, 2, 10) for sign in (1, -1)]
            rng.shuffle(wrong)
            yield question, [str(n) for n in spread(right, wrong, rng)]


def topics(seed: int = 23) -> dict[str, list[list[str]]]:
    "Topic → rows (question, A, B, C, D, answer); each answer equally often, everything in seeded order."
    rng, found = random.Random(seed), {}
    for name in "choices_en.txt", "choices_zh.txt":
        for topic, (question, *options) in listed(name): found.setdefault(topic, []).append((question, options))
    for topic, (expression, *wrong) in listed("choices_code.txt"):
        found.setdefault(topic, []).append(code_options(expression, wrong))
    found |= {topic: list(sum_questions(topic, rng)) for topic in sums}
    found["zh_units"] = list(unit_questions(rng))
    return {topic: placed(questions, rng) for topic, questions in sorted(found.items())}


def placed(questions: list[tuple[str, list[str]]], rng: random.Random) -> list[list[str]]:
    "`questions` in seeded order, the right option at a letter that is as frequent as the others."
    rng.shuffle(questions)
    order = rng.sample(letters, 4)
    places = [order[i % 4] for i in range(len(questions))]
    rng.shuffle(places)
    rows = []
    for (question, (right, *wrong)), answer in zip(questions, places):
        rng.shuffle(wrong)
        wrong.insert(letters.index(answer), right)
        rows.append([question, *wrong, answer])
    return rows


def as_csv(rows: list[list[str]]) -> str:
    "`rows` as the text of a CSV file with CMMLU's header and numbered lines."
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["", "Question", *letters, "Answer"])
    table.writerows([i, *row] for i, row in enumerate(rows))
    return text.getvalue()


def bundled_files() -> dict[str, str]:
    "File name → text of everything this script writes: the first five rows of a topic are the examples."
    files = {}
    for topic, rows in topics().items():
        files[f"dev_{topic}.csv"], files[f"test_{topic}.csv"] = as_csv(rows[:few_shots]), as_csv(rows[few_shots:])
    return files


def main() -> int:
    "Write the files, or compare them with `--check`; 0 when all is well."
    files, check = bundled_files(), "--check" in sys.argv[1:]
    if not check: folder.mkdir(parents=True, exist_ok=True)
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.csv")}
    stale = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    for name in [] if check else files: (folder / name).write_text(files[name], encoding="utf-8")
    print(f"{', '.join(stale)} differ" if check and stale else f"{len(files)} files, "
          f"{sum(len(rows) for rows in topics().values())} questions")
    return int(check and bool(stale))


if __name__ == "__main__": raise SystemExit(main())
