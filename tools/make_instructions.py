"""Write data/instructions.jsonl: instructions and answers in Alpaca's layout, half Chinese, half English.

    python tools/make_instructions.py            # writes the file
    python tools/make_instructions.py --check    # exits 1 if the file in the repository differs

Most rows were written by hand and stand in tools/sources/instructions_en.txt and instructions_zh.txt; lines that begin
with `!` there are Python expressions about the row, which the tests run. The others pair wordings from templates_en.txt
and templates_zh.txt with seeded numbers and words; this script computes their answers. `topic` says which is which:
the topics in `draws` are computed.
"""
from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

tools = Path(__file__).resolve().parent
bundled = tools.parent / "data" / "instructions.jsonl"
parts = {"? ": "ask", "+ ": "ask", "< ": "input", "> ": "answer", "! ": "check"}

days = {"en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
        "zh": ["星期" + c for c in "一二三四五六日"]}
months = {"en": "January February March April May June July August September October November December".split(),
          "zh": [f"{n}月" for n in range(1, 13)]}
lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
units = {"en": [("kilometres", "kilometre", "metres", 1000), ("kilograms", "kilogram", "grams", 1000),
                ("litres", "litre", "millilitres", 1000), ("metres", "metre", "centimetres", 100),
                ("hours", "hour", "minutes", 60)],
         "zh": [("千米", "", "米", 1000), ("千克", "", "克", 1000), ("升", "", "毫升", 1000), ("米", "", "厘米", 100),
                ("小时", "", "分钟", 60)]}
goods = {"en": [(w, "") for w in ("notebooks", "melons", "candles", "postcards", "cushions")],
         "zh": [("练习册", "本"), ("西瓜", "个"), ("蜡烛", "支"), ("明信片", "张"), ("毛巾", "条")]}
things = {"en": "rope lamp soap key map tent stove cup torch blanket knife salt".split(),
          "zh": "苹果 雨伞 铅笔 毛巾 牛奶 绳子 水壶 地图 饼干 肥皂 台灯 手套".split()}
letters = [("banana", "a"), ("mississippi", "s"), ("strawberry", "r"), ("committee", "e"), ("balloon", "l"), ("coffee", "f"),
           ("bookkeeper", "e"), ("tomorrow", "o"), ("parallel", "l"), ("necessary", "s"), ("umbrella", "l"), ("cinnamon", "n")]
words = ("planet garden bridge castle window thunder pocket lantern harvest village basket feather mirror ladder "
         "pepper island button carpet forest candle").split()
catalogue = ("apple apricot almond bread butter basil carrot celery cherry date dill egg fennel fig garlic ginger honey "
             "kale leek lemon mango melon mint nutmeg oat olive onion parsley peach pear").split()


def read_records(path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    "`(topic, [(part, text), …])` of each record in `path`; a blank line and a `?` begin the next record."
    topic, record, part = "", [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(("== ", "? ")) and record:
            yield topic, [(part, text.strip("\n")) for part, text in record]
            record = []
        if line.startswith("== "): topic = line[3:]
        elif part := parts.get(line[:2]): record.append((part, line[2:]))
        else: record[-1:] = [(record[-1][0], record[-1][1] + "\n" + line)] if record else []
    if record: yield topic, [(part, text.strip("\n")) for part, text in record]


def written(language: str) -> Iterator[tuple[dict, list[str]]]:
    "Every row written by hand in `language`, with the expressions that must be true of it."
    for topic, record in read_records(tools / "sources" / f"instructions_{language}.txt"):
        asks, answers, inputs, checks = ([t for part, t in record if part == wanted] for wanted in
                                         ("ask", "answer", "input", "check"))
        row = {"instruction": asks[-1], "input": "".join(inputs), "output": answers[-1]}
        if len(asks) > 1: row["history"] = [list(pair) for pair in zip(asks, answers[:-1])]
        if len(asks) != len(answers) or len(inputs) > 1: raise ValueError(f"{topic}: {asks[0]}: parts do not match")
        yield {**row, "language": language, "topic": topic}, checks


def wordings(language: str) -> dict[str, tuple[list, list]]:
    "Topic → (questions with their inputs, answers) of the templates in `language`."
    found: dict[str, tuple[list, list]] = {}
    for topic, record in read_records(tools / "sources" / f"templates_{language}.txt"):
        questions, answers = found.setdefault(topic, ([], []))
        questions.append((record[0][1], "".join(text for part, text in record if part == "input")))
        answers += [text for part, text in record if part == "answer"]
    return found


def _joined(values, language: str, mark: str | None = None) -> str:
    "`values` as one text, with the comma of `language`."
    return (mark or {"en": ", ", "zh": "、"}[language]).join(map(str, values))


def multiply(rng, language):
    a, tens, ones = rng.randint(12, 99), 10 * rng.randint(1, 4), rng.randint(2, 9)
    return dict(a=a, b=tens + ones, tens=tens, ones=ones, p=a * tens, q=a * ones, r=a * (tens + ones))


def discount(rng, language):
    one, percent = rng.randint(2, 9), 5 * rng.randint(2, 9)
    return dict(price=100 * one, percent=percent, one=one, off=one * percent, rest=100 - percent, r=one * (100 - percent))


def average(rng, language):
    numbers = [rng.randint(11, 60) for _ in range(4)]
    numbers.append(60 + -sum(numbers) % 5)
    return dict(numbers=_joined(numbers, language), plus=" + ".join(map(str, numbers)), total=sum(numbers), r=sum(numbers) // 5)


def weekday(rng, language):
    start, weeks, rest = rng.randrange(7), rng.randint(2, 13), rng.randint(2, 6)
    return dict(day=days[language][start], n=7 * weeks + rest, weeks=weeks, whole=7 * weeks, rest=rest,
                r=days[language][(start + rest) % 7])


def duration(rng, language):
    hour, hours, first, extra = rng.randint(6, 13), rng.randint(2, 6), rng.randint(3, 29), rng.randint(2, 29)
    last = hour + 1 + hours
    return dict(start=f"{hour}:{60 - first:02d}", end=f"{last}:{extra:02d}", full=f"{hour + 1}:00", last=f"{last}:00",
                first=first, hours=hours, extra=extra, minutes=first + extra)


def metric(rng, language):
    big, single, small, factor = rng.choice(units[language])
    tenths = rng.choice([n for n in range(12, 99) if n % 10])
    return dict(value=f"{tenths // 10}.{tenths % 10}", big=big, single=single, small=small, factor=factor, r=tenths * factor // 10)


def sort_numbers(rng, language):
    numbers = rng.sample(range(3, 400), 7)
    ordered = sorted(numbers)
    return dict(numbers=_joined(numbers, language), sorted=_joined(ordered, language), middle=ordered[3], low=ordered[0],
                high=ordered[-1])


def alphabet(rng, language):
    chosen = rng.sample(catalogue, 7)
    return dict(words=_joined(chosen, language, ", "), sorted=_joined(sorted(chosen), language, ", "))


def count_letter(rng, language):
    word, letter = rng.choice(letters)
    places = [i for i, c in enumerate(word, 1) if c == letter]
    return dict(word=word, letter=letter, spelled="-".join(word), places=_joined(places, language), r=len(places))


def reverse(rng, language):
    word = rng.choice(words)
    return dict(word=word, spelled="-".join(word), backwards="-".join(word[::-1]), r=word[::-1])


def extremes(rng, language):
    numbers = rng.sample(range(4, 36), 7)
    return dict(numbers=_joined(numbers, language), low=min(numbers), high=max(numbers), r=max(numbers) - min(numbers))


def change(rng, language):
    (items, unit), n, price = rng.choice(goods[language]), rng.randint(3, 9), rng.randint(3, 12)
    paid = (n * price // 50 + 1) * 50
    return dict(items=items, unit=unit, n=n, price=price, paid=paid, cost=n * price, r=paid - n * price)


def journey(rng, language):
    speed, hours = 4 * rng.randint(12, 30), rng.randint(2, 7)
    return dict(speed=speed, hours=hours, r=speed * hours, quarter=speed // 4)


def rectangle(rng, language):
    b = rng.randint(3, 14)
    a = b + rng.randint(2, 12)
    return dict(a=a, b=b, area=a * b, half=a + b, edge=2 * (a + b))


def sequence(rng, language):
    first, step = rng.randint(2, 40), rng.randint(3, 17)
    terms = [first + i * step for i in range(10)]
    return dict(terms=_joined(terms[:5], language), first=first, step=step, last=terms[4], next=terms[5], after=terms[6],
                tenth=terms[9])


def division(rng, language):
    d, q = rng.choice([6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18]), rng.randint(7, 29)
    rest = rng.randint(2, d - 1)
    return dict(n=d * q + rest, d=d, q=q, whole=d * q, rest=rest)


def binary(rng, language):
    n = rng.choice([n for n in range(19, 120) if f"{n:b}".count("1") > 2])
    return dict(n=n, powers=" + ".join(str(2**i) for i in reversed(range(7)) if n >> i & 1), r=f"{n:b}")


def dedupe(rng, language):
    chosen = rng.sample(things[language], 5)
    doubled = chosen + rng.sample(chosen, 3)
    rng.shuffle(doubled)
    unique = list(dict.fromkeys(doubled))
    return dict(words=_joined(doubled, language), unique=_joined(unique, language), n=len(doubled), kept=len(unique))


def year_day(rng, language):
    month = rng.randint(2, 11)
    before, day = sum(lengths[:month]), rng.randint(2, 28)
    return dict(n=before + day, month=months[language][month], previous=months[language][month - 1], before=before, day=day)


def factors(rng, language):
    n = rng.choice([n for n in range(20, 120) if sum(n % d == 0 for d in range(1, n + 1)) >= 6])
    found = [d for d in range(1, n + 1) if n % d == 0]
    pairs = [f"{d} × {n // d} = {n}" for d in found if d * d <= n]
    return dict(n=n, all=_joined(found, language), count=len(found), pairs=_joined(pairs, language))


draws: dict[str, Callable] = {f.__name__: f for f in (
    multiply, discount, average, weekday, duration, metric, sort_numbers, alphabet, count_letter, reverse, extremes, change,
    journey, rectangle, sequence, division, binary, dedupe, year_day, factors)}


def computed(language: str, rng: random.Random, each: int = 5) -> Iterator[dict]:
    "`each` rows of every template in `language`, no two of them with the same pair of wordings or the same values."
    for topic, (questions, answers) in wordings(language).items():
        pairs, seen = [(q, a) for q in questions for a in answers], set()
        for (ask, given), answer in rng.sample(pairs, each):
            while (values := draws[topic](rng, language)).get("word", str(values)) in seen: pass
            seen.add(values.get("word", str(values)))
            yield {"instruction": ask.format(**values), "input": given.format(**values), "output": answer.format(**values),
                   "language": language, "topic": topic}


def rows(seed: int = 17) -> list[dict]:
    "All rows, shuffled by `seed`."
    rng, found = random.Random(seed), []
    for language in "en", "zh":
        found += [row for row, _ in written(language)] + list(computed(language, rng))
    rng.shuffle(found)
    return found


def bundled_text() -> str:
    "The bundled file as it must be."
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())


def main() -> int:
    "Write the file, or compare it with `--check`; 0 when all is well."
    text, check = bundled_text(), "--check" in sys.argv[1:]
    stale = not bundled.is_file() or bundled.read_text(encoding="utf-8") != text
    if not check: bundled.write_text(text, encoding="utf-8")
    counts = Counter(json.loads(line)["language"] for line in text.splitlines())
    print(f"{bundled.name} differs" if check and stale else f"{bundled.name}: " + ", ".join(f"{n} {c}" for c, n in
                                                                                          sorted(counts.items())))
    return int(check and stale)


if __name__ == "__main__": raise SystemExit(main())
