"""Write data/tool_dialogues.jsonl, tool_pairs.jsonl and tool_dialogues_heldout.jsonl: dialogues in which tools are called.

    python tools/make_tool_dialogues.py            # writes the files
    python tools/make_tool_dialogues.py --check    # exits 1 if the files in the repository differ

Every tool is a function of this file, and every observation is what it returned: `Toolbox.call` runs one, `replay` runs
all of a row again. Questions and answers are this project's own words, filled with seeded values. Of every list of
wordings each fourth one is kept for the held-out file, so are texts and tasks, and the tool `to_roman`. Weather, shop, exchange rates and
the notes of the library are made up. `kind` says what a row shows; `loss: false` marks a call that is wrong on purpose.
In `tool_pairs.jsonl` two dialogues each have one list of tools, so that they can be learned behind one prompt.
"""
from __future__ import annotations

import ast
import datetime
import json
import operator
import random
import re
import statistics as stats
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent.parent / "data"
held_out_tool = "to_roman"

# ---------------------------------------------------------------------------------------------------------- the tools

weekdays = {"en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
            "zh": "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()}
euro_rates = {"EUR": 1.0, "USD": 1.1, "CNY": 8.0, "JPY": 160.0, "GBP": 0.85}
lengths = {"m": 1.0, "km": 1000.0, "mile": 1609.344, "foot": 0.3048}
weights = {"kg": 1.0, "g": 0.001, "pound": 0.45359237}
skies = {"en": ["sunny", "cloudy", "rain", "windy", "fog", "snow"], "zh": ["晴", "多云", "小雨", "大风", "雾", "雪"]}
cities = {"en": "Berlin Paris London Rome Madrid Oslo Cairo Tokyo Boston Toronto Sydney Lima".split(),
          "zh": "北京 上海 广州 成都 西安 杭州 南京 武汉 昆明 青岛 厦门 拉萨".split()}
items = {"en": "lamp notebook umbrella backpack teapot clock kettle scarf pillow mirror".split(),
         "zh": "台灯 笔记本 雨伞 背包 茶壶 闹钟 水壶 围巾 枕头 镜子".split()}
prices = [25, 4.5, 12, 38, 18.5, 15, 29, 9.5, 16, 22]
stocks = [7, 120, 0, 15, 6, 9, 0, 31, 14, 3]
notes = {
    "en": ["The library opens at 9:00 and closes at 18:00 on weekdays.", "On Saturday the library is open from 10:00 to 14:00.",
           "A library card costs 5 euros a year.", "Children under 12 get a free library card.",
           "Books can be borrowed for 28 days.", "A loan can be renewed twice.", "A late book costs 20 cents a day.",
           "The reading group meets in room 3 every Thursday.", "The coffee machine is on the second floor.",
           "Printing costs 10 cents a page.", "The wifi password is at the front desk.", "Dogs must wait outside.",
           "The spring book sale is on 2025-04-12.", "The lift will be repaired on 2025-03-04.",
           "The story hour for children is on 2025-05-10.", "Lost keys are kept in the office for 30 days."],
    "zh": ["图书馆工作日9点开门，18点关门。", "图书馆周六10点到14点开放。", "借书证每年5欧元。", "12岁以下儿童免费办借书证。", "图书可以借28天。",
           "每本书可以续借两次。", "逾期每天罚款0.2欧元。", "读书会每周四在3号房间。", "咖啡机在二楼。", "打印每页0.1欧元。", "无线网密码在前台。",
           "宠物狗要在门外等。", "春季旧书市在2025-04-12。", "电梯将在2025-03-04维修。", "儿童故事会在2025-05-10。", "遗失的钥匙在办公室保存30天。"],
}


class ToolError(ValueError):
    """What a tool cannot do; its text becomes the observation."""


def tidy(value: float, digits: int = 4) -> int | float:
    "`value` rounded, and as an integer where it is one."
    value = round(value, digits)
    return int(value) if value == int(value) else value


def arithmetic(node: ast.AST, x: tuple | None = None) -> tuple[float, float]:
    "Slope and constant of an expression that is linear in `x`, or constant without one. Raises `ToolError`."
    signs = {ast.Add: operator.add, ast.Sub: operator.sub}
    if isinstance(node, ast.Constant) and type(node.value) in (int, float): return 0, node.value
    if isinstance(node, ast.Name) and node.id == "x" and x: return x
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return tuple(-part for part in arithmetic(node.operand, x))
    if not isinstance(node, ast.BinOp): raise ToolError("only numbers and + - * / ( ) are understood")
    (a, b), (c, d) = arithmetic(node.left, x), arithmetic(node.right, x)
    if type(node.op) in signs: return signs[type(node.op)](a, c), signs[type(node.op)](b, d)
    if isinstance(node.op, ast.Mult) and not (a and c): return a * d + b * c, b * d
    if isinstance(node.op, ast.Div) and not c:
        if not d: raise ToolError("division by zero")
        return a / d, b / d
    raise ToolError("only numbers and + - * / ( ) are understood" if not x else "the equation is not linear in x")


def parsed(text: str, cure: str) -> ast.AST:
    try: return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError): raise ToolError(f"cannot read {text!r}; {cure}") from None


def calculate(expression: str) -> int | float:
    "Value of an arithmetic `expression`."
    return tidy(arithmetic(parsed(expression, "write * for times"))[1])


def solve_equation(equation: str) -> str:
    "The `x` that solves a linear `equation`."
    if equation.count("=") != 1: raise ToolError("an equation has one =")
    (a, b), (c, d) = (arithmetic(parsed(side, "write 3*x for 3x"), (1, 0)) for side in equation.split("="))
    if a == c: raise ToolError("every x is a solution" if b == d else "no x is a solution")
    return f"x = {tidy((d - b) / (a - c))}"


def convert_unit(value: float, source: str, target: str) -> int | float:
    "`value` of unit `source` in unit `target`, to three digits."
    if {source, target} == {"celsius", "fahrenheit"}:
        return tidy(value * 1.8 + 32 if source == "celsius" else (value - 32) / 1.8, 2)
    for unit in source, target:
        if unit not in {*lengths, *weights, "celsius", "fahrenheit"}: raise ToolError(f"unknown unit {unit!r}")
    for table in lengths, weights:
        if source in table and target in table: return tidy(value * table[source] / table[target], 3)
    raise ToolError(f"{source} cannot become {target}")


def day_of(text: str) -> datetime.date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text): raise ToolError(f"{text!r} must look like 2024-05-01")
    try: return datetime.date.fromisoformat(text)
    except ValueError: raise ToolError(f"there is no day {text}") from None


def days_between(start: str, end: str) -> int:
    return (day_of(end) - day_of(start)).days


def add_days(date: str, days: int) -> str:
    return (day_of(date) + datetime.timedelta(days=days)).isoformat()


def weekday(date: str) -> dict:
    "Day of the week of a `date`, in both languages."
    return {language: names[day_of(date).weekday()] for language, names in weekdays.items()}


def exchange(amount: float, source: str, target: str) -> int | float:
    "`amount` of currency `source` in `target`, by the made-up fixed rates above, to two digits."
    for code in source, target:
        if code not in euro_rates: raise ToolError(f"no rate for {code!r}")
    return tidy(amount / euro_rates[source] * euro_rates[target], 2)


def pieces(text: str) -> set[str]:
    "Words of an English text without short ones, pairs of characters of a Chinese one."
    latin = {w.rstrip("s") for w in re.findall(r"[a-z0-9]{4,}", text.lower())} - {"library", "book", "cost"}
    han = re.findall(r"[\u4e00-\u9fff]+", text)
    return latin | {run[i:i + 2] for run in han for i in range(len(run) - 1)} - {"图书"}


def search_notes(query: str) -> str:
    "The note that shares most with `query`, the first of equals."
    scored = [(len(pieces(query) & pieces(note)), note) for found in notes.values() for note in found]
    best = max(score for score, _ in scored)
    if not best: raise ToolError("no note matches")
    return next(note for score, note in scored if score == best)


def count_text(text: str, unit: str) -> int:
    return len(text.split()) if unit == "words" else len(text)


def sort_numbers(numbers: list[float], order: str) -> list[float]:
    return sorted(numbers, reverse=order == "descending")


def statistics(numbers: list[float], measure: str) -> int | float:
    if not numbers: raise ToolError("numbers is empty")
    of = {"mean": stats.fmean, "median": stats.median, "min": min, "max": max, "range": lambda n: max(n) - min(n)}
    return tidy(of[measure](numbers), 2)


def get_weather(city: str, day: str = "today") -> dict:
    "Made-up weather of a `city`: any name of the list above, in its own language."
    for language, known in cities.items():
        if city in known:
            i = known.index(city) * 2 + (day == "tomorrow")
            return {"sky": skies[language][i * 5 % 6], "celsius": (i * 7) % 31 - 2}
    raise ToolError(f"unknown city {city!r}")


def shop_item(item: str) -> dict:
    "Made-up price in US dollars and stock of an `item`."
    for known in items.values():
        if item in known: return {"usd": prices[known.index(item)], "stock": stocks[known.index(item)]}
    raise ToolError(f"no item {item!r}")


def todo(state: dict, action: str, task: str = "") -> list[str]:
    "The list of tasks after `action`."
    tasks = state.setdefault("tasks", [])
    if action == "add": tasks.append(task)
    if action == "done" and task not in tasks: raise ToolError(f"no task {task!r}")
    if action == "done": tasks.remove(task)
    return list(tasks)


def set_timer(state: dict, minutes: int) -> dict:
    "Number and minutes of a new timer."
    if minutes < 1: raise ToolError("minutes must be at least 1")
    state["timers"] = state.get("timers", 0) + 1
    return {"timer": state["timers"], "minutes": minutes}


def to_roman(number: int) -> str:
    "Roman numeral of a `number` from 1 to 3999."
    if not 1 <= number <= 3999: raise ToolError("number must be from 1 to 3999")
    signs, text = zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), "M CM D CD C XC L XL X IX V IV I".split()), ""
    for value, sign in signs: text, number = text + sign * (number // value), number % value
    return text


functions = {f.__name__: f for f in (
    calculate, solve_equation, convert_unit, days_between, add_days, weekday, exchange, search_notes, count_text,
    sort_numbers, statistics, get_weather, shop_item, todo, set_timer, to_roman)}
stateful = {"todo", "set_timer"}


class Toolbox:
    """The tools with what they remember during one dialogue."""

    def __init__(self): self.state = {}

    def call(self, name: str, parameters: dict):
        "What the tool `name` returns; a failure is `{'error': reason}`."
        first = [self.state] if name in stateful else []
        try: return functions[name](*first, **parameters)
        except ToolError as error: return {"error": str(error)}


def replay(row: dict) -> list[tuple[object, object]]:
    "Recorded and recomputed observation of each call of `row`, in order."
    box = Toolbox()
    return [(t["observation"], box.call(t["name"], t["parameters"])) for t in row["conversations"] if t["role"] == "tool"]


# -------------------------------------------------------------------------------------------------------- the schemas

day_text = {"en": "like 2024-05-01", "zh": "如2024-05-01"}
unit_text = {"en": "m, km, mile, foot, g, kg, pound, celsius or fahrenheit", "zh": "m、km、mile、foot、g、kg、pound、celsius或fahrenheit"}
money_text = {"en": "USD, EUR, CNY, JPY or GBP", "zh": "USD、EUR、CNY、JPY或GBP"}
# name: description, then each parameter: its type, its description (or None) or its choices
described = {
    "calculate": (("Work out arithmetic.", "计算算式"), {"expression": ("string", {"en": "like (3+4)*2", "zh": "如(3+4)*2"})}),
    "solve_equation": (("Solve a linear equation for x.", "解一元一次方程"), {"equation": ("string", {"en": "like 3*x+4=19", "zh": "如3*x+4=19"})}),
    "convert_unit": (("Convert a length, weight or temperature.", "换算单位"), {"value": ("number", None), "source": ("string", unit_text), "target": ("string", None)}),
    "days_between": (("Days from one date to another.", "两个日期相差的天数"), {"start": ("string", day_text), "end": ("string", None)}),
    "add_days": (("The date some days later or earlier.", "推算若干天之后或之前的日期"), {"date": ("string", day_text), "days": ("integer", None)}),
    "weekday": (("Day of the week of a date.", "查某天是星期几"), {"date": ("string", day_text)}),
    "exchange": (("Convert money at fixed made-up rates.", "按虚构的固定汇率换算货币"), {"amount": ("number", None), "source": ("string", money_text), "target": ("string", None)}),
    "search_notes": (("Search the notes of the library.", "搜索图书馆的须知"), {"query": ("string", None)}),
    "count_text": (("Count words or characters of a text.", "统计词数或字符数"), {"text": ("string", None), "unit": ("string", ["words", "characters"])}),
    "sort_numbers": (("Sort numbers.", "给数字排序"), {"numbers": ("array", "number"), "order": ("string", ["ascending", "descending"])}),
    "statistics": (("A statistic of some numbers.", "求一组数的统计量"), {"numbers": ("array", "number"), "measure": ("string", ["mean", "median", "min", "max", "range"])}),
    "get_weather": (("Made-up weather of a city.", "查城市的虚构天气"), {"city": ("string", None), "day": ("string", ["today", "tomorrow"], False)}),
    "shop_item": (("Price in USD and stock of an item in a made-up shop.", "查虚构商店里商品的美元价格和库存"), {"item": ("string", None)}),
    "todo": (("Keep a to-do list.", "管理待办清单"), {"action": ("string", ["add", "list", "done"]), "task": ("string", None, False)}),
    "set_timer": (("Start a timer.", "设置计时器"), {"minutes": ("integer", None)}),
    "to_roman": (("Write a number as a Roman numeral.", "把数字写成罗马数字"), {"number": ("integer", {"en": "1 to 3999", "zh": "1到3999"})}),
}
# what the tools are for, in the middle of a sentence
purposes = {
    "calculate": ("work out arithmetic", "计算算式"), "solve_equation": ("solve linear equations", "解一元一次方程"),
    "convert_unit": ("convert units", "换算单位"), "days_between": ("count the days between two dates", "计算两个日期相差几天"),
    "add_days": ("find a date some days away", "推算日期"), "weekday": ("tell the day of the week", "查星期几"),
    "exchange": ("convert money", "换算货币"), "search_notes": ("search the library's notes", "搜索图书馆须知"),
    "count_text": ("count words or characters", "统计字数"), "sort_numbers": ("sort numbers", "给数字排序"),
    "statistics": ("work out statistics", "求统计量"), "get_weather": ("look up the weather", "查天气"),
    "shop_item": ("look up items in the shop", "查商店的商品"), "todo": ("keep a to-do list", "管理待办清单"),
    "set_timer": ("set a timer", "设置计时器"), "to_roman": ("write Roman numerals", "写罗马数字"),
}


def schema(name: str, language: str) -> dict:
    "JSON schema of the tool `name`, described in `language`."
    texts, parameters = described[name]
    properties = {}
    for key, (kind, more, *_) in parameters.items():
        extra = {"description": more[language]} if isinstance(more, dict) else {"enum": more} if isinstance(more, list) else {}
        properties[key] = {"type": kind, **extra, **({"items": {"type": more}} if kind == "array" else {})}
    required = [key for key, (_, _, *optional) in parameters.items() if not optional]
    return {"name": name, "description": texts[language == "zh"],
            "parameters": {"type": "object", "properties": properties, "required": required}}


# ------------------------------------------------------------------------------------------------- questions and answers

def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def kept(options: list, held: bool) -> list:
    "Every fourth of `options` when `held`, the others when not."
    return [option for i, option in enumerate(options) if (i % 4 == 3) == held]


# one wording a line, English and Chinese; in braces what `draws` gives
asked = {
    "calculate": (lines("""What is {e}?
        Calculate {e}.
        Please work out {e}.
        How much is {e}?
        I need the value of {e}.
        Can you compute {e} for me?
        {e} = ?
        Tell me the result of {e}.
        What does {e} come to?
        Evaluate {e}, please.
        My homework asks for {e}. What do I write?
        Give me the answer to {e}.
        Could you check what {e} gives?
        Work this out: {e}
        What do I get for {e}?
        I keep getting different results for {e}. Please settle it."""), lines("""{e}等于多少？
        请计算{e}。
        算一下{e}。
        {e}的结果是什么？
        帮我算{e}。
        你能算出{e}吗？
        {e}=？
        我想知道{e}的值。
        {e}得多少？
        麻烦计算一下{e}。
        作业里有一道题：{e}，答案是多少？
        请告诉我{e}是多少。
        计算：{e}
        {e}应该等于几？
        请把{e}算出来。
        我老是算错{e}，正确答案是多少？""")),
    "solve_equation": (lines("""Solve {q}.
        What is x if {q}?
        Find x: {q}
        For which x is {q}?
        Please solve the equation {q}.
        Which value of x makes {q} true?
        I have to solve {q}. Can you help?
        {q}. What is x?
        Can you find the solution of {q}?
        Solve for x: {q}
        Help me with this equation: {q}
        What must x be so that {q}?
        Tell me the solution of {q}.
        If {q}, how big is x?
        x satisfies {q}. Find it.
        My textbook says {q}. How much is x there?"""), lines("""解方程{q}。
        {q}，x是多少？
        求x：{q}
        请解{q}。
        当{q}时，x等于几？
        方程{q}的解是什么？
        帮我解一下{q}。
        已知{q}，求x。
        x取什么值时{q}？
        你会解{q}吗？
        作业题：{q}，求x。
        请求出方程{q}的解。
        {q}这个方程怎么解？
        如果{q}，那么x等于多少？
        请算出{q}里的x。
        课本上有方程{q}，x到底是几？""")),
    "convert_unit": (lines("""How many {t} are {v} {s}?
        Convert {v} {s} to {t}.
        What is {v} {s} in {t}?
        {v} {s} in {t}, please.
        Please turn {v} {s} into {t}.
        I have {v} {s}. What is that in {t}?
        Express {v} {s} in {t}.
        How much is {v} {s} in {t}?
        Can you convert {v} {s} into {t}?
        I need {v} {s} as {t}.
        Change {v} {s} to {t} for me.
        My book says {v} {s}. What is that in {t}?
        Give me {v} {s} in {t}.
        What would {v} {s} be in {t}?
        Tell me how many {t} make {v} {s}.
        The label reads {v} {s}, but I only think in {t}. Help!"""), lines("""{v}{s}是多少{t}？
        把{v}{s}换算成{t}。
        {v}{s}等于多少{t}？
        请将{v}{s}转换为{t}。
        {v}{s}合多少{t}？
        帮我把{v}{s}换成{t}。
        我想知道{v}{s}是多少{t}。
        {v}{s}用{t}表示是多少？
        请问{v}{s}相当于多少{t}？
        换算一下：{v}{s}是几{t}？
        能把{v}{s}换算为{t}吗？
        书上写着{v}{s}，那是多少{t}？
        {v}{s}换成{t}是多少？
        请用{t}告诉我{v}{s}有多少。
        {v}{s}折合{t}是多少？
        标签上写的是{v}{s}，我只熟悉{t}，怎么换算？""")),
    "days_between": (lines("""How many days are there from {a} to {b}?
        How many days lie between {a} and {b}?
        Count the days from {a} to {b}.
        How long is it from {a} to {b}, in days?
        I leave on {a} and come back on {b}. How many days later is that?
        What is the number of days between {a} and {b}?
        I start on {a} and finish on {b}. How many days in between?
        From {a} until {b}, how many days?
        Please tell me the days from {a} to {b}.
        If today is {a}, how many days until {b}?
        The project starts on {a} and is due on {b}. How many days lie in between?
        Work out how many days pass from {a} to {b}.
        How far apart are {a} and {b} in days?
        The parcel left on {a} and came on {b}. How many days did it take?
        Give me the days between {a} and {b}.
        We met on {a} and married on {b}. How many days did we wait?"""), lines("""从{a}到{b}有多少天？
        {a}和{b}相差几天？
        {a}到{b}隔多少天？
        请计算{a}到{b}的天数。
        {a}距离{b}多少天？
        我{a}出发，{b}回来，相隔几天？
        项目{a}开始，{b}截止，间隔多少天？
        帮我数一下{a}到{b}有几天。
        如果今天是{a}，到{b}还有几天？
        {a}与{b}之间隔了多少天？
        从{a}数到{b}，隔了多少天？
        包裹{a}寄出，{b}收到，路上几天？
        {a}至{b}是多少天？
        请问{a}到{b}相隔多少天？
        算算{a}到{b}有多少天。
        我们{a}认识，{b}结婚，中间过了多少天？""")),
    "add_days": (lines("""What date is {n} days after {d}?
        Which day comes {n} days after {d}?
        {d} plus {n} days: what date is that?
        I start on {d} and finish {n} days later. Which date is that?
        Add {n} days to {d}.
        If I count {n} days from {d}, where do I land?
        Today is {d}. What date is it in {n} days?
        The jam from {d} keeps for {n} days. Until when?
        What is the date {n} days from {d}?
        A loan made on {d} runs for {n} days. When is it due?
        Please tell me the date {n} days later than {d}.
        The visa runs out {n} days after {d}. Which date is that?
        {n} days after {d} is which date?
        Find the date that is {n} days after {d}.
        I ordered on {d}; delivery takes {n} days. When will it come?
        On {d} the doctor said to come back in {n} days. Which date is that?"""), lines("""{d}之后{n}天是哪一天？
        {d}过{n}天是几号？
        从{d}起再过{n}天是什么日期？
        {d}加{n}天是哪天？
        请算出{d}的{n}天后是几月几日。
        今天是{d}，{n}天后是哪天？
        我{d}下单，{n}天送到，哪天能到？
        签证在{d}之后{n}天到期，是哪天？
        果酱{d}生产，保质{n}天，到哪天？
        {d}往后数{n}天是哪一天？
        {d}借的书，{n}天后要还，是哪一天？
        帮我推算{d}之后第{n}天的日期。
        {n}天以后是几号？今天是{d}。
        {d}开工，{n}天后验收，是哪天？
        {d}再加上{n}天，是什么日子？
        医生{d}让我{n}天后复查，那是哪天？""")),
    "weekday": (lines("""What day of the week is {d}?
        Which weekday is {d}?
        On what day does {d} fall?
        Is {d} a Monday, or which day?
        Tell me the weekday of {d}.
        What day was or will be {d}?
        {d}: which day of the week is it?
        My niece was born on {d}. What day was that?
        My exam is on {d}. Which weekday is it?
        Please find the day of the week for {d}.
        What weekday does {d} fall on?
        The concert is on {d}. What day of the week is that?
        Can you tell me which day {d} is?
        Look up the weekday for {d}.
        Which day of the week belongs to {d}?
        My ticket says {d}. Do I travel on a weekend? Tell me the day."""), lines("""{d}是星期几？
        请问{d}是周几？
        {d}那天星期几？
        查一下{d}是星期几。
        侄女{d}出生，那天是星期几？
        考试在{d}，是星期几？
        告诉我{d}是礼拜几。
        {d}是一周里的哪一天？
        音乐会在{d}，那天是星期几？
        {d}是不是周末？请告诉我星期几。
        帮我看看{d}星期几。
        想知道{d}是星期几。
        {d}对应星期几？
        请算一下{d}是星期几。
        {d}会是星期几呢？
        票上写着{d}，那天星期几？""")),
    "exchange": (lines("""How much is {v} {s} in {t}?
        Convert {v} {s} to {t}.
        How many {t} do I get for {v} {s}?
        What are {v} {s} worth in {t}?
        I have {v} {s}. How much is that in {t}?
        Exchange {v} {s} into {t}, please.
        {v} {s} to {t}?
        My hotel costs {v} {s}. What is that in {t}?
        Please change {v} {s} into {t}.
        What would {v} {s} be in {t}?
        If I change {v} {s}, how many {t} will I hold?
        The book is {v} {s}. Tell me the price in {t}.
        Give me {v} {s} in {t}.
        How many {t} are {v} {s}?
        I want to know {v} {s} in {t}.
        Dinner was {v} {s}; my bank shows {t}. How much will it say?"""), lines("""{v}{s}是多少{t}？
        把{v}{s}换成{t}。
        {v}{s}能换多少{t}？
        {v}{s}折合多少{t}？
        我有{v}{s}，合多少{t}？
        请把{v}{s}兑换成{t}。
        {v}{s}等于多少{t}？
        酒店要{v}{s}，是多少{t}？
        帮我算算{v}{s}值多少{t}。
        {v}{s}兑{t}是多少？
        想用{v}{s}换{t}，能换多少？
        这本书{v}{s}，用{t}是多少钱？
        {v}{s}大约值多少{t}？
        请问{v}{s}可以兑换多少{t}？
        用{t}表示，{v}{s}是多少？
        晚饭花了{v}{s}，账单上的{t}会是多少？""")),
    "count_text": (lines("""How many {u} are in "{x}"?
        Count the {u} of "{x}".
        "{x}": how many {u}?
        Tell me how many {u} this has: "{x}"
        Please count the {u} in "{x}".
        What is the number of {u} in "{x}"?
        I wrote "{x}". How many {u} is that?
        Give me the count of {u} for "{x}".
        Can you count the {u} of "{x}"?
        My slogan is "{x}". How many {u} does it have?
        How long is "{x}" in {u}?
        Find out how many {u} "{x}" has.
        The sentence "{x}" has how many {u}?
        Check the number of {u}: "{x}"
        How many {u} does "{x}" contain?
        The form limits {u}. How many are there in "{x}"?"""), lines("""“{x}”有多少{u}？
        数一下“{x}”有几{u}。
        “{x}”一共多少{u}？
        请统计“{x}”有多少{u}。
        帮我数数“{x}”的字数，按{u}算。
        我写了“{x}”，有多少{u}？
        这句话有多少{u}：“{x}”
        “{x}”包含几{u}？
        口号是“{x}”，共多少{u}？
        请告诉我“{x}”是几{u}。
        “{x}”这句有几{u}？
        算算“{x}”有多少{u}。
        “{x}”总共有几{u}？
        请数“{x}”里有多少{u}。
        标题“{x}”有多少{u}？
        表格限制字数，“{x}”占几{u}？""")),
    "sort_numbers": (lines("""Sort {l} {o}.
        Put {l} in order, {o}.
        Arrange {l} {o}.
        Please sort these numbers {o}: {l}
        I have {l}. Order them {o}.
        Can you order {l} {o}?
        Here are my numbers: {l}. Sort them {o}.
        {l}: sorted {o}, please.
        Bring {l} into order, {o}.
        List {l} {o}.
        Rank {l} {o}.
        Could you arrange the values {l} {o}?
        Order the numbers {l} {o}.
        These scores need sorting {o}: {l}
        Give me {l} sorted {o}.
        The cards in my hand are {l}. How do they lie {o}?"""), lines("""把{l}{o}排序。
        请将{l}{o}排列。
        {l}，{o}怎么排？
        给这些数{o}排序：{l}
        我有{l}，请{o}排好。
        {o}排列{l}。
        帮我把{l}{o}排一下。
        请{o}给{l}排序。
        这些分数{o}排列：{l}
        {l}{o}排序的结果是什么？
        整理一下{l}，{o}。
        能把{l}{o}排列吗？
        请把{l}{o}排好顺序。
        数字{l}，要{o}排。
        {o}整理这些数：{l}
        我手里的牌是{l}，{o}该怎么放？""")),
    "statistics": (lines("""What is the {m} of {l}?
        Find the {m} of {l}.
        Give me the {m} of {l}.
        I have the numbers {l}. What is their {m}?
        Compute the {m} for {l}.
        {l}: what is the {m}?
        My scores are {l}. Tell me the {m}.
        Please work out the {m} of {l}.
        Can you find the {m} of these numbers: {l}?
        We measured {l}. What is the {m}?
        For {l}, what is the {m}?
        Tell me the {m} of {l}.
        The values are {l}. I need the {m}.
        How big is the {m} of {l}?
        Determine the {m} of {l}.
        My runs took {l} minutes. Which {m} do I report?"""), lines("""{l}的{m}是多少？
        求{l}的{m}。
        请算出{l}的{m}。
        我的成绩是{l}，{m}是多少？
        这组数{l}的{m}是什么？
        计算{l}的{m}。
        帮我求{l}的{m}。
        数据是{l}，{m}等于多少？
        {l}，求{m}。
        告诉我{l}的{m}。
        我们测得{l}，{m}是多少？
        请问{l}的{m}是几？
        一组数据：{l}，请求{m}。
        想知道{l}的{m}。
        {l}这些数的{m}是多少？
        跑步用时{l}分钟，{m}该写多少？""")),
    "get_weather": (lines("""What is the weather in {c} {w}?
        How is the weather in {c} {w}?
        Will I need an umbrella in {c} {w}?
        Tell me the weather for {c} {w}.
        How warm is it in {c} {w}?
        I am in {c}. What is the weather {w}?
        Look up the weather in {c} for {w}.
        Weather in {c} {w}, please.
        What should I expect of the weather in {c} {w}?
        What is it like outside in {c} {w}?
        Please check the weather of {c} {w}.
        Is it cold in {c} {w}?
        Can you tell me the temperature in {c} {w}?
        I have a picnic in {c} {w}. How is the weather?
        Give me the forecast of {c} for {w}.
        What should I wear in {c} {w}?"""), lines("""{c}{w}天气怎么样？
        {w}{c}天气如何？
        查一下{c}{w}的天气。
        {c}{w}多少度？
        我在{c}，{w}天气怎样？
        {c}{w}要带伞吗？
        请告诉我{c}{w}的天气。
        {w}{c}冷不冷？
        帮我看看{w}{c}的天气。
        {c}{w}的气温是多少？
        {w}去{c}，天气好吗？
        {w}在{c}野餐合适吗？
        想知道{c}{w}的天气。
        {c}{w}会下雨吗？
        请查{w}{c}的天气情况。
        {w}在{c}该穿什么？""")),
    "shop_item": (lines("""How much is the {i}?
        What does the {i} cost?
        Do you have the {i} in stock?
        Look up the price of the {i}.
        Is the {i} available?
        Price of the {i}, please.
        I want to buy {ai}. What do I pay?
        Check the shop for {ai}.
        Tell me the price of the {i}.
        How many of the {i} are left?
        Can you check the {i} in the shop?
        Does the shop have {ai}, and for how much?
        What is the price of {ai}?
        I am looking for {ai}. How much is it?
        Please find the {i} in the shop.
        My sister wants {ai}. How much is it, and is there one left?"""), lines("""{i}多少钱？
        {i}的价格是多少？
        {i}还有货吗？
        查一下{i}的价格。
        店里有{i}吗？
        我想买{i}，要多少钱？
        请查{i}的库存。
        {i}卖多少钱？
        帮我看看{i}还剩几个。
        告诉我{i}的价格。
        商店里的{i}怎么卖？
        {i}有现货吗，多少钱？
        我要找{i}，价格如何？
        请问{i}什么价？
        想知道{i}的价格和库存。
        妹妹想要{i}，多少钱，店里还有吗？""")),
    "todo": (lines("""Add "{k}" to my list.
        Put "{k}" on my to-do list.
        Please remember to note: {k}.
        New task: {k}.
        I must not forget to {k}. Add it to the list.
        Write "{k}" on the list.
        My list should also have "{k}".
        Note down the task "{k}".
        Add the task "{k}", please.
        Can you put "{k}" on the list?
        To my to-do list: {k}.
        I have to {k}. Put it on my list.
        One more task: {k}.
        Save "{k}" as a task.
        Please add "{k}".
        Tomorrow I want to {k}. Keep it on my list for me."""), lines("""把“{k}”加到清单里。
        待办清单加上“{k}”。
        请记一下：{k}。
        新任务：{k}。
        我不能忘了{k}，加到清单里。
        在清单上写“{k}”。
        清单里还要有“{k}”。
        记下任务“{k}”。
        请添加任务“{k}”。
        帮我把“{k}”放进待办。
        待办事项：{k}，请记下。
        我要{k}，请加入清单。
        再加一项：{k}。
        把“{k}”存为任务。
        添加待办“{k}”。
        明天我想{k}，帮我留在清单上。""")),
    "set_timer": (lines("""Set a timer for {n} minutes.
        Start a timer of {n} minutes.
        {n} minutes on the timer, please.
        Please time {n} minutes.
        Wake me in {n} minutes.
        I need a timer for {n} minutes.
        The eggs need {n} minutes. Start a timer.
        Can you start a timer for {n} minutes?
        Give me {n} minutes on the clock.
        My tea takes {n} minutes. Time it, please.
        Remind me when {n} minutes are over.
        Run a timer for {n} minutes.
        Put {n} minutes on a timer.
        Timer: {n} minutes.
        Let a timer run for {n} minutes.
        The cake stays in the oven for {n} minutes. Keep the time for me."""), lines("""设一个{n}分钟的计时器。
        请计时{n}分钟。
        {n}分钟后提醒我。
        开始{n}分钟的计时。
        帮我定时{n}分钟。
        我需要一个{n}分钟的计时器。
        煮蛋要{n}分钟，请计时。
        计时器：{n}分钟。
        泡茶{n}分钟，帮我计时。
        请开一个{n}分钟的计时器。
        过{n}分钟叫我。
        定个{n}分钟的时。
        {n}分钟计时，开始。
        设置计时器，{n}分钟。
        能计时{n}分钟吗？
        蛋糕要烤{n}分钟，帮我看着时间。""")),
    "to_roman": (lines("""What is {n} in Roman numerals?
        Write {n} as a Roman numeral.
        How do you write {n} in Roman numerals?
        Give me the Roman numeral for {n}.
        Convert {n} to a Roman numeral.
        Turn the number {n} into Roman numerals.
        I want {n} in Roman numerals on a clock tower. What do I carve?
        The Roman numeral of {n}, please."""), lines("""{n}用罗马数字怎么写？
        把{n}写成罗马数字。
        {n}的罗马数字是什么？
        请把{n}转换成罗马数字。
        罗马数字里{n}怎么表示？
        钟楼上要刻{n}的罗马数字，怎么刻？
        请给出{n}的罗马数字。
        {n}换成罗马数字是什么？""")),
}
# one answer a line; {r} is the observation, {r[key]} a part of it
said = {
    "calculate": (lines("""{e} = {r}.
        The result is {r}.
        That is {r}."""), lines("""{e}={r}。
        结果是{r}。
        等于{r}。""")),
    "solve_equation": (lines("""The solution is {r}.
        {r}.
        Solved: {r}."""), lines("""解是{r}。
        {r}。
        解得{r}。""")),
    "convert_unit": (lines("""{v} {s} = {r} {t}.
        That is {r} {t}.
        It comes to {r} {t}."""), lines("""{v}{s}={r}{t}。
        是{r}{t}。
        合{r}{t}。""")),
    "days_between": (lines("""It is {r} days.
        From {a} to {b} it is {r} days.
        That makes {r} days."""), lines("""是{r}天。
        从{a}到{b}是{r}天。
        相隔{r}天。""")),
    "add_days": (lines("""That is {r}.
        It is {r}.
        The date is {r}."""), lines("""是{r}。
        那天是{r}。
        日期是{r}。""")),
    "weekday": (lines("""{d} is a {r[en]}.
        It is a {r[en]}.
        That day is a {r[en]}."""), lines("""{d}是{r[zh]}。
        是{r[zh]}。
        那天是{r[zh]}。""")),
    "exchange": (lines("""{v} {s} = {r} {t}, by the fixed made-up rates.
        That is {r} {t} at the tool's fixed rate.
        At the fixed made-up rate it is {r} {t}."""), lines("""按虚构的固定汇率，{v}{s}={r}{t}。
        按固定汇率是{r}{t}。
        用工具里的固定汇率，合{r}{t}。""")),
    "search_notes": (lines("""The notes say: {r}
        {r}
        I found this: {r}"""), lines("""须知上写着：{r}
        {r}
        查到了：{r}""")),
    "count_text": (lines("""It has {r} {u}.
        That is {r} {u}.
        I count {r} {u}."""), lines("""有{r}{u}。
        一共{r}{u}。
        是{r}{u}。""")),
    "sort_numbers": (lines("""Sorted: {j}.
        Here they are: {j}.
        In order: {j}."""), lines("""排好了：{j}。
        结果是{j}。
        顺序为{j}。""")),
    "statistics": (lines("""The {m} is {r}.
        It is {r}.
        I get {r} for the {m}."""), lines("""{m}是{r}。
        是{r}。
        {m}等于{r}。""")),
    "get_weather": (lines("""{c} {w}: {r[sky]}, {r[celsius]} °C (made-up data).
        The made-up table gives {r[sky]} and {r[celsius]} °C.
        By the made-up table: {r[sky]}, {r[celsius]} °C."""), lines("""{c}{w}：{r[sky]}，{r[celsius]}°C（虚构数据）。
        虚构的天气表显示{r[sky]}，{r[celsius]}°C。
        按虚构的天气表：{r[sky]}，{r[celsius]}°C。""")),
    "shop_item": (lines("""The {i} costs {r[usd]} US dollars; {r[stock]} in stock.
        Price of the {i}: {r[usd]} US dollars, stock: {r[stock]}.
        {r[usd]} US dollars, with {r[stock]} left."""), lines("""{i}的价格是{r[usd]}美元，库存{r[stock]}。
        {i}：{r[usd]}美元，还有{r[stock]}件。
        {r[usd]}美元，库存{r[stock]}件。""")),
    "todo": (lines("""Done. Your list: {j}.
        Noted. On the list now: {j}.
        Your list now has: {j}."""), lines("""好的，清单里有：{j}。
        记下了，现在的清单：{j}。
        现在清单上有：{j}。""")),
    "set_timer": (lines("""Timer {r[timer]} is set for {r[minutes]} minutes.
        Timer {r[timer]} runs for {r[minutes]} minutes.
        Started: timer {r[timer]}, {r[minutes]} minutes."""), lines("""计时器{r[timer]}已设为{r[minutes]}分钟。
        计时器{r[timer]}开始，{r[minutes]}分钟。
        好的，计时器{r[timer]}：{r[minutes]}分钟。""")),
    "to_roman": (lines("""{n} is {r}.
        It is {r}."""), lines("""{n}是{r}。
        是{r}。""")),
}
# what is searched for and, after each bar, questions that this answers
note_questions = ([line.split("|") for line in lines("""open weekdays|When does the library open on weekdays?|Until when is the library open on a Tuesday?|What are the library's hours on weekdays?|Can I visit the library at 17:00 on a Monday?
    Saturday|Is the library open on Saturday?|When can I visit the library on Saturday?|What are the Saturday hours of the library?|I am free on Saturday. When is the library open?
    card year|What does a library card cost?|How much is the card of the library for a year?|Is the library card free for adults?|I need a library card. What do I pay?
    children free|Do children pay for the library card?|Is my son of 8 charged for a library card?|What does the library say about cards for children?|Until what age is the library free for children?
    borrowed days|For how many days can a library book be borrowed?|How long may I keep a book from the library?|What is the loan time of the library?|When must I give a library book back?
    renewed|Can I renew a library loan?|How often can a library book be renewed?|My library loan ends soon. May I extend it?|Does the library let me renew a book twice?
    late|What happens if my library book is late?|How much is the fine for a late library book?|My library book is three days late. What does a day cost?|Does the library charge for late books?
    reading group|When does the reading group meet?|Where does the library's reading group meet?|Which room is the reading group in?|I would like to join the reading group. When and where is it?
    coffee|Where can I get coffee in the library?|Is there a coffee machine in the library?|On which floor is the coffee machine?|I need coffee. Where in the library is it?
    printing|What does printing cost in the library?|How much is a printed page in the library?|Can I print in the library, and for how much?|What do I pay to print a page there?
    wifi|Where do I get the wifi password of the library?|How do I use the library's wifi?|Does the library have wifi?|Who gives me the password for the wifi in the library?
    dogs|May I bring my dog to the library?|Are dogs allowed in the library?|What is the library's rule about dogs?|Where does my dog stay when I visit the library?
    lost keys|I lost my keys in the library. Where are they?|Where does the library keep lost keys?|How long are lost keys kept in the library?|My keys are gone since I left the library. Whom do I ask?""")],
    [line.split("|") for line in lines("""工作日开门|图书馆工作日几点开门？|图书馆工作日几点关门？|图书馆平时的开放时间是什么？|周一下午五点图书馆还开着吗？
    周六开放|图书馆周六开吗？|图书馆周六几点开放？|周六什么时候能去图书馆？|我周六有空，图书馆几点开？
    借书证每年|图书馆借书证多少钱？|办图书馆的借书证每年要交多少？|成人的借书证免费吗？|我想办借书证，要付多少？
    儿童免费|儿童办借书证要钱吗？|我儿子8岁，办图书馆的证收费吗？|图书馆对儿童有优惠吗？|多大的孩子在图书馆免费？
    图书可以借|图书馆的书能借多少天？|从图书馆借书可以借多久？|图书馆的借期是几天？|图书馆的书什么时候要还？
    续借|图书馆的书可以续借吗？|图书馆的书能续借几次？|书快到期了，图书馆让续借吗？|借的书没看完，图书馆能延期吗？
    逾期罚款|图书馆的书逾期了怎么办？|逾期一天图书馆罚多少？|还书晚了，图书馆罚款吗？|图书馆的书晚还三天，每天罚多少？
    读书会|读书会什么时候举行？|图书馆的读书会在哪里？|读书会在几号房间？|我想参加读书会，什么时间在哪儿？
    咖啡机|图书馆哪里有咖啡？|图书馆有咖啡机吗？|咖啡机在几楼？|想喝咖啡，图书馆里去哪儿买？
    打印|图书馆打印多少钱？|在图书馆打印一页多少钱？|图书馆能打印吗，怎么收费？|在那儿打印要付多少？
    无线网密码|图书馆的无线网密码在哪儿？|怎么连图书馆的无线网？|图书馆有无线网吗？|图书馆的无线网密码找谁要？
    宠物狗|可以带狗进图书馆吗？|图书馆让狗进去吗？|图书馆对狗有什么规定？|我去图书馆，狗放在哪里？
    遗失的钥匙|我把钥匙丢在图书馆了，去哪儿找？|图书馆遗失的钥匙放在哪儿？|遗失的钥匙图书馆保存多久？|从图书馆出来钥匙不见了，该找谁？""")])
# what may stand around a question
frames = (lines("""{}
    Hi! {}
    Quick question: {}
    {} Thanks!
    Hello again. {}
    {} I am in a hurry.
    {} You may use a tool.
    Good evening! {}"""), lines("""{}
    你好！{}
    请教一下：{}
    {}谢谢！
    又来打扰了。{}
    {}有点急。
    {}可以用工具。
    晚上好！{}"""))

# ------------------------------------------------------------------------------------ one call: what the question speaks of

unit_words = {"m": ("metres", "米"), "km": ("kilometres", "公里"), "mile": ("miles", "英里"), "foot": ("feet", "英尺"), "g": ("grams", "克"),
              "kg": ("kilograms", "公斤"), "pound": ("pounds", "磅"), "celsius": ("degrees Celsius", "摄氏度"),
              "fahrenheit": ("degrees Fahrenheit", "华氏度")}
money_words = {"EUR": ("euros", "欧元"), "USD": ("US dollars", "美元"), "CNY": ("yuan", "人民币"), "JPY": ("yen", "日元"), "GBP": ("British pounds", "英镑")}
measure_words = {"mean": ("mean", "平均数"), "median": ("median", "中位数"), "min": ("minimum", "最小值"), "max": ("maximum", "最大值"),
                 "range": ("range", "极差")}
order_words = {"ascending": ("from small to large", "从小到大"), "descending": ("from large to small", "从大到小")}
text_words = {"words": ("words", "个词"), "characters": ("characters", "个字符")}
day_words = {"today": ("today", "今天"), "tomorrow": ("tomorrow", "明天")}
texts = (lines("""the early bird catches the worm
    a small step is still a step
    we plant trees on the hill
    tea tastes best when it rains
    every river finds the sea
    my grandmother bakes bread on Sundays
    slow and steady wins the race
    the moon hides behind a cloud
    good neighbours share their ladders
    paper boats sail in the gutter
    the cat sleeps on the warm stove
    nobody counts the stars twice"""), lines("""早起的鸟儿有虫吃
    千里之行始于足下
    我们在山上种树
    下雨天喝茶最好
    每条河都流向大海
    奶奶周日烤面包
    慢慢走也能到终点
    月亮躲在云后面
    好邻居互相帮忙
    纸船漂在水沟里
    猫睡在暖和的炉子上
    没人把星星数两遍"""))
tasks = (lines("""buy milk
    call the dentist
    water the plants
    pay the rent
    clean the kitchen
    book a train
    wash the car
    write to Anna
    return the drill
    fix the bike
    print the tickets
    feed the cat"""), lines("""买牛奶
    给牙医打电话
    浇花
    交房租
    打扫厨房
    订火车票
    洗车
    给安娜写信
    还电钻
    修自行车
    打印车票
    喂猫"""))
stories = (lines("""A box holds {a} apples. How many apples are in {b} boxes?|{a}*{b}
    I had {c} stamps and gave away {a}. How many are left?|{c}-{a}
    {a} girls and {b} boys are in the class. How many children is that?|{a}+{b}
    A ticket costs {a} euros. What do {b} tickets cost?|{a}*{b}
    {c} sweets are shared by {b} children. How many does each get?|{c}/{b}
    I walk {a} km every day. How far is that in {b} days?|{a}*{b}
    The train has {c} seats and {a} are taken. How many are free?|{c}-{a}
    There are {b} rows of {a} chairs. How many chairs are there?|{b}*{a}"""), lines("""一箱有{a}个苹果，{b}箱有多少个？|{a}*{b}
    我有{c}张邮票，送出{a}张，还剩几张？|{c}-{a}
    班里有{a}个女生和{b}个男生，一共多少人？|{a}+{b}
    一张票{a}元，{b}张票多少钱？|{a}*{b}
    {c}颗糖分给{b}个孩子，每人几颗？|{c}/{b}
    我每天走{a}公里，{b}天走多少公里？|{a}*{b}
    火车有{c}个座位，坐了{a}个，还空几个？|{c}-{a}
    有{b}排椅子，每排{a}把，共多少把？|{b}*{a}"""))
months = "January February March April May June July August September October November December".split()


def worded_day(date: str, zh: int) -> str:
    year, month, day = (int(part) for part in date.split("-"))
    return f"{year}年{month}月{day}日" if zh else f"{months[month - 1]} {day}, {year}"


def spoken_day(date: str, rng: random.Random, zh: int) -> str:
    "`date` as a person may write it."
    return worded_day(date, zh) if rng.random() < 0.4 else date


def any_day(rng: random.Random) -> str:
    return (datetime.date(2018, 1, 1) + datetime.timedelta(days=rng.randrange(3200))).isoformat()


def some_numbers(rng: random.Random) -> list[int]:
    return [rng.randint(1, 99) for _ in range(rng.choice([4, 4, 5, 5, 6]))]


def listed(values: list, zh: int) -> str:
    return ("、" if zh else ", ").join(str(v) for v in values)


def spoken_sum(rng: random.Random, zh: int) -> tuple[str, str]:
    "An expression as a person may write it, and as the calculator reads it."
    sign = rng.choice("++--**/")
    a, b = (rng.randint(2, 60), rng.randint(2, 30)) if sign in "*/" else (rng.randint(12, 999), rng.randint(12, 999))
    if sign == "/": a *= b
    if rng.random() < 0.25:
        third = rng.randint(2, 9)
        return rng.choice([(f"({a}{sign}{b})*{third}",) * 2, (f"{third}*{b}+{a}",) * 2])
    words = {"+": ("plus", "加"), "-": ("minus", "减"), "*": ("times", "乘以"), "/": ("divided by", "除以")}[sign]
    shown = rng.choice([f"{a}{sign}{b}", f"{a} {sign} {b}", f"{a}{words[1]}{b}" if zh else f"{a} {words[0]} {b}"])
    return shown, f"{a}{sign}{b}"


def draw_calculate(rng, zh, held):
    shown, expression = spoken_sum(rng, zh)
    return {"e": shown}, {"expression": expression}


def draw_solve_equation(rng, zh, held):
    a, x, b = rng.randint(2, 9), rng.randint(-9, 15), rng.randint(1, 40)
    q = rng.choice([f"{a}*x+{b}={a * x + b}", f"{a}*x-{b}={a * x - b}", f"{b}+{a}*x={a * x + b}", f"{a + 1}*x=x+{a * abs(x)}"])
    return {"q": q}, {"equation": q}


def draw_convert_unit(rng, zh, held):
    group = rng.choice([["m", "km", "mile", "foot"], ["g", "kg", "pound"], ["celsius", "fahrenheit"]])
    source, target = rng.sample(group, 2)
    value = rng.choice([rng.randint(2, 95), rng.randint(2, 40) + 0.5, rng.randint(10, 90) * 10 if len(group) > 2 else rng.randint(2, 60)])
    return {"v": value, "s": unit_words[source][zh], "t": unit_words[target][zh]}, {"value": value, "source": source, "target": target}


def draw_days_between(rng, zh, held):
    start = any_day(rng)
    end = add_days(start, rng.choice([rng.randint(5, 90), rng.randint(60, 400), 7 * rng.randint(2, 40)]))
    a, b = rng.choice([(start, end), tuple(worded_day(day, zh) for day in (start, end))])
    return {"a": a, "b": b}, {"start": start, "end": end}


def draw_add_days(rng, zh, held):
    date, days = any_day(rng), rng.randint(3, 90)
    return {"d": spoken_day(date, rng, zh), "n": days}, {"date": date, "days": days}


def draw_weekday(rng, zh, held):
    date = any_day(rng)
    return {"d": spoken_day(date, rng, zh)}, {"date": date}


def draw_exchange(rng, zh, held):
    source, target = rng.sample(list(money_words), 2)
    amount = rng.choice([rng.randint(2, 99), rng.randint(10, 90) * 10, rng.randint(5, 60) + 0.5])
    if source == "JPY": amount = int(amount) * 10
    return {"v": amount, "s": money_words[source][zh], "t": money_words[target][zh]}, {"amount": amount, "source": source, "target": target}


def draw_count_text(rng, zh, held):
    text, unit = rng.choice(kept(texts[zh], held)), "characters" if zh else rng.choice(["words", "words", "characters"])
    return {"x": text, "u": text_words[unit][zh]}, {"text": text, "unit": unit}


def draw_sort_numbers(rng, zh, held):
    numbers, order = some_numbers(rng), rng.choice(list(order_words))
    return {"l": listed(numbers, zh), "o": order_words[order][zh]}, {"numbers": numbers, "order": order}


def draw_statistics(rng, zh, held):
    numbers, measure = some_numbers(rng), rng.choice(list(measure_words))
    return {"l": listed(numbers, zh), "m": measure_words[measure][zh]}, {"numbers": numbers, "measure": measure}


def draw_get_weather(rng, zh, held):
    city, day = rng.choice(cities["zh" if zh else "en"]), rng.choice(list(day_words))
    return {"c": city, "w": day_words[day][zh]}, {"city": city, "day": day}


def with_article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def draw_shop_item(rng, zh, held):
    item = rng.choice(items["zh" if zh else "en"])
    return {"i": item, "ai": with_article(item)}, {"item": item}


def draw_todo(rng, zh, held):
    task = rng.choice(kept(tasks[zh], held))
    return {"k": task}, {"action": "add", "task": task}


def draw_set_timer(rng, zh, held):
    minutes = rng.randint(2, 90)
    return {"n": minutes}, {"minutes": minutes}


def draw_to_roman(rng, zh, held):
    number = rng.randint(4, 2100)
    return {"n": number}, {"number": number}


draws = {name: globals()[f"draw_{name}"] for name in asked}


class Dialogue:
    """A dialogue being written: its turns, its tools' memory, and how it chooses its words."""

    def __init__(self, rng: random.Random, zh: int, held: bool):
        self.rng, self.zh, self.held, self.turns, self.box = rng, zh, held, [], Toolbox()

    def one(self, options: list): return self.rng.choice(options)

    def worded(self, both: tuple, **slots) -> str:
        "One of the wordings of this language and file, filled."
        options = both[self.zh] if both is asked[held_out_tool] else kept(both[self.zh], self.held)
        return self.one(options).format(**slots)

    def user(self, text: str, framed: bool = False) -> None:
        "The user's turn; when `framed`, sometimes with a greeting or thanks around it."
        frame = self.worded_frame() if framed and self.rng.random() < 0.35 else "{}"
        self.turns.append({"role": "user", "content": frame.replace("{}", text).strip()})

    def worded_frame(self) -> str: return self.one(kept(frames[self.zh], self.held))

    def say(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def call(self, tool: str, trained: bool = True, **parameters):
        "What the tool returns; the call becomes a turn."
        turn = {"role": "tool", "name": tool, "parameters": parameters, "observation": self.box.call(tool, parameters)}
        self.turns.append(turn if trained else {**turn, "loss": False})
        return turn["observation"]

    def answer(self, tool: str, observation, **slots) -> None:
        "The assistant's turn with what `tool` returned."
        joined = listed(observation, self.zh) if isinstance(observation, list) else ""
        self.say(self.one(said[tool][self.zh]).format(r=observation, j=joined, **slots))

    def ask(self, tool: str, framed: bool = True) -> tuple[dict, dict]:
        "Slots and arguments of a question for `tool`, which the user asks."
        if tool == "search_notes": return self.ask_notes()
        slots, parameters = draws[tool](self.rng, self.zh, self.held)
        text = self.worded(asked[tool], **slots)
        if tool == "calculate" and self.rng.random() < 0.35: text, parameters = self.story()
        self.user(text, framed)
        return {**slots, **({"e": parameters["expression"]} if tool == "calculate" else {})}, parameters

    def story(self) -> tuple[str, dict]:
        b = self.rng.randint(2, 24)
        numbers = {"a": self.rng.randint(2, 40), "b": b, "c": b * self.rng.randint(4, 30) + (40 // b + 1) * b}
        text, expression = self.worded(stories, **numbers).split("|")
        return text, {"expression": expression}

    def ask_notes(self) -> tuple[dict, dict]:
        query, *questions = self.one(note_questions[self.zh])
        self.user(self.one(kept(questions, self.held)), framed=True)
        return {}, {"query": query}

    def tool_round(self, tool: str) -> None:
        "Question, call and answer."
        slots, parameters = self.ask(tool)
        if self.rng.random() < 0.08: self.say(self.one(thoughts[tool in ("todo", "set_timer")][self.zh]))
        self.answer(tool, self.call(tool, **parameters), **slots)


thoughts = ((["Let me look that up.", "I will use a tool for this.", "One moment, I will check."], ["我来查一下。", "这个我用工具来做。", "稍等，我看一下。"]),
            (["I will do that.", "One moment, please."], ["好，马上办。", "请稍等。"]))

# ---------------------------------------------------------------------------- something is missing: the assistant asks back

# question|what the assistant asks|the user's reply
missing = {
    "get_weather": (lines("""How is the weather {w}?|For which city?|{c}
        Will it be cold {w}?|Which city do you mean?|In {c}.
        Please check the weather for {w}.|Which city shall I look up?|I am in {c}.
        Do I need a coat {w}?|Where are you?|{c}, please."""), lines("""{w}天气怎么样？|请问是哪个城市？|{c}
        {w}冷吗？|您说的是哪个城市？|在{c}。
        查一下{w}的天气。|要查哪个城市？|我在{c}。
        {w}要穿外套吗？|您在哪个城市？|{c}，谢谢。""")),
    "exchange": (lines("""What are {v} {s} worth?|In which currency?|In {t}.
        I want to change {v} {s}.|Into which currency?|Into {t}, please.
        How much do I get for {v} {s}?|Which currency would you like?|{t}
        Please exchange {v} {s}.|What shall it become?|I need {t}."""), lines("""{v}{s}值多少钱？|要换成哪种货币？|{t}
        我想兑换{v}{s}。|换成什么货币？|换成{t}。
        {v}{s}能换多少？|您要换哪种货币？|要{t}。
        请兑换{v}{s}。|兑换成什么？|我需要{t}。""")),
    "convert_unit": (lines("""Convert {v} {s}.|Into which unit?|Into {t}.
        How much is {v} {s}?|In which unit would you like it?|In {t}, please.
        I need another unit for {v} {s}.|Which unit?|{t}
        What else can I call {v} {s}?|Which unit shall I convert to?|To {t}."""), lines("""换算{v}{s}。|换算成什么单位？|{t}
        {v}{s}是多少？|要用哪个单位表示？|用{t}。
        我想换算{v}{s}。|换成哪个单位？|换成{t}。
        {v}{s}怎么换算？|目标单位是什么？|是{t}。""")),
    "weekday": (lines("""Which day of the week was my niece born on?|What is her date of birth?|{d}
        What weekday is my exam?|On which date is your exam?|It is on {d}.
        Find the day of the week for me.|For which date?|{d}, please.
        What weekday does our wedding fall on?|What is the date of the wedding?|We marry on {d}."""), lines("""侄女出生那天是星期几？|她的出生日期是哪天？|{d}
        我的考试是星期几？|考试是哪一天？|是{d}。
        帮我查星期几。|查哪一天？|{d}，谢谢。
        我们的婚礼是星期几？|婚礼是哪天？|{d}结婚。""")),
    "add_days": (lines("""What date is it {n} days later?|Counting from which date?|From {d}.
        When are {n} days over?|When did they start?|They started on {d}.
        Add {n} days, please.|To which date?|To {d}.
        My course ends {n} days after its start. Which date is that?|When does it start?|It starts on {d}."""), lines("""{n}天后是几号？|从哪天算起？|从{d}算起。
        签约{n}天后合同到期，是哪天？|哪天签约的？|{d}签约。
        请加{n}天。|加到哪个日期上？|{d}
        开课{n}天后考试，是哪天？|哪天开课？|{d}开课。""")),
    "statistics": (lines("""Work out the {m}.|Of which numbers?|{l}
        I need the {m} of my scores.|What are your scores?|They are {l}.
        What is the {m}?|Please give me the numbers.|Here: {l}
        Can you find the {m} of our measurements?|What did you measure?|We measured {l}."""), lines("""请算{m}。|要算哪些数？|{l}
        我想知道成绩的{m}。|您的成绩是多少？|是{l}。
        {m}是多少？|请给出数据。|数据是{l}。
        能求一下测量结果的{m}吗？|测得的数是哪些？|测得{l}。""")),
    "sort_numbers": (lines("""Sort my numbers {o}.|Which numbers?|{l}
        Please sort some scores {o}.|What are the scores?|The scores are {l}.
        I need a list sorted {o}.|What is in the list?|It has {l}.
        Could you order my results {o}?|Please tell me the results.|{l}, please."""), lines("""把我的数字{o}排序。|有哪些数字？|{l}
        请把成绩{o}排一下。|成绩是多少？|成绩是{l}。
        我要一个{o}的列表。|列表里有什么数？|有{l}。
        能把结果{o}排列吗？|请告诉我结果。|是{l}。""")),
    "set_timer": (lines("""Set a timer.|For how many minutes?|{n}
        Please start a timer for my tea.|How many minutes does it need?|{n} minutes.
        Wake me later.|In how many minutes?|In {n} minutes.
        I want to time my eggs.|How long shall I time?|For {n} minutes."""), lines("""设个计时器。|多少分钟？|{n}
        泡茶，帮我计时。|要几分钟？|{n}分钟。
        等会儿叫我。|几分钟以后？|{n}分钟后。
        我要煮蛋，请计时。|计时多久？|计{n}分钟。""")),
    "todo": (lines("""Add something to my list.|What shall I add?|{k}
        I have a new task.|What is the task?|I have to {k}.
        Put one more thing on my to-do list.|Which thing?|Please add: {k}.
        Please extend my list.|By which task?|By this: {k}."""), lines("""往清单里加一项。|加什么？|{k}
        我有个新任务。|是什么任务？|要{k}。
        待办清单再添一件事。|哪件事？|请加上：{k}。
        请补充我的清单。|补充什么任务？|这件：{k}。""")),
    "shop_item": (lines("""What does it cost?|Which item do you mean?|The {i}.
        Is it in stock?|Which item?|A {i}.
        Please check a price in the shop.|Of which item?|The {i}, please.
        I want to buy a present. Is it available?|What would you like to buy?|I thought of the {i}."""), lines("""这个多少钱？|您指哪件商品？|{i}
        还有货吗？|哪件商品？|{i}，谢谢。
        请查一个价格。|查哪件商品的？|查{i}的。
        我想买礼物，有货吗？|想买什么？|想买{i}。""")),
    "days_between": (lines("""How many days until {b}?|Counting from which date?|From {a}.
        My exam is on {b}. How many days away is that?|Counting from which date?|Count from {a}.
        How long did I wait until {b}?|Since when did you wait?|Since {a}.
        Count the days up to {b}.|Starting on which day?|Start on {a}."""), lines("""到{b}还有几天？|从哪天算起？|从{a}。
        考试在{b}，还有几天？|从哪天算起？|从{a}算起。
        到{b}我等了多少天？|从哪天开始等的？|从{a}开始。
        数数到{b}有几天。|从哪天起？|{a}起。""")),
}


def ask_back(d: Dialogue, tool: str) -> None:
    "An argument is missing: the assistant asks for it, then calls."
    slots, parameters = draws[tool](d.rng, d.zh, d.held)
    question, counter, reply = d.worded(missing[tool], **slots).replace("A umbrella", "An umbrella").split("|")
    d.user(question)
    d.say(counter)
    d.user(reply)
    d.answer(tool, d.call(tool, **parameters), **slots)


# ------------------------------------------------------------------------------------------ the second call needs the first

chained = {
    "add_days weekday": (lines("""What day of the week is {n} days after {d}?
        I start on {d} and am done {n} days later. On which weekday?
        On which weekday do I land if I count {n} days from {d}?
        My parcel takes {n} days from {d}. Which day of the week does it arrive?"""), lines("""{d}之后{n}天是星期几？
        {d}开始，{n}天后做完，那天星期几？
        从{d}往后数{n}天，那天星期几？
        包裹{d}寄出，{n}天到，到的那天星期几？""")),
    "exchange calculate": (lines("""{n} friends share {v} {s}. How many {t} is that each?
        Change {v} {s} into {t} and divide it by {n}.
        We are {n} people with {v} {s} together. What does each get in {t}?
        A bill of {v} {s} is split {n} ways. How many {t} does one pay?"""), lines("""{n}个朋友平分{v}{s}，每人合多少{t}？
        把{v}{s}换成{t}再除以{n}。
        我们{n}个人共有{v}{s}，每人能得多少{t}？
        {v}{s}的账单{n}人分摊，每人付多少{t}？""")),
    "shop_item calculate": (lines("""What do {n} pieces of the {i} cost?
        I want the {i} {n} times. What do I pay?
        Look up the {i} and tell me the price for {n} of them.
        Our office orders {n} of the item {i}. How much is that?"""), lines("""{n}件{i}一共多少钱？
        我要买{n}件{i}，要付多少？
        查{i}的价格，再算{n}件的总价。
        办公室要订{n}件{i}，总共多少美元？""")),
    "shop_item exchange": (lines("""How much is the {i} in {t}?
        Tell me the price of the {i} in {t}.
        I pay in {t}. What does the {i} cost?
        My wallet holds only {t}. How much of it for the {i}?"""), lines("""{i}用{t}算是多少钱？
        告诉我{i}的{t}价格。
        我付{t}，{i}要多少？
        我身上只有{t}，买{i}要多少？""")),
    "days_between calculate": (lines("""How many weeks are there from {a} to {b}?
        Give me the weeks between {a} and {b}.
        Tell me in weeks how long it is from {a} to {b}.
        I wait from {a} until {b}. How many weeks will that be?"""), lines("""从{a}到{b}有多少周？
        {a}和{b}相差几周？
        请用周数告诉我{a}到{b}有多久。
        我从{a}等到{b}，要等几周？""")),
    "statistics convert_unit": (lines("""The boxes weigh {l} kilograms. What is the {m} in pounds?
        Give me the {m} of {l} kilograms, in pounds.
        I weighed {l} kilograms. Tell me the {m} in pounds.
        Parcels of {l} kilograms came. How many pounds is their {m}?"""), lines("""箱子重{l}公斤，{m}是多少磅？
        求{l}公斤的{m}，用磅表示。
        称得{l}公斤，请告诉我{m}是几磅。
        来了{l}公斤的包裹，它们的{m}合多少磅？""")),
    "get_weather convert_unit": (lines("""What is the temperature in {c} {w} in Fahrenheit?
        How many degrees Fahrenheit is it in {c} {w}?
        Tell me how warm {c} is {w}, in Fahrenheit please.
        I come from the US. How warm is it in {c} {w} in my degrees, Fahrenheit?"""), lines("""{c}{w}气温是多少华氏度？
        {w}{c}有几华氏度？
        请用华氏度告诉我{c}{w}的气温。
        我习惯华氏度，{w}{c}的气温是多少？""")),
    "solve_equation calculate": (lines("""Solve {q} and multiply x by {n}.
        If {q}, what is x times {n}?
        Find x in {q}. What is {n} times that x?
        I know that {q}. Tell me x multiplied by {n}."""), lines("""解方程{q}，再把x乘以{n}。
        已知{q}，x乘以{n}是多少？
        求{q}里的x，它的{n}倍是几？
        我知道{q}，请算x的{n}倍。""")),
    "search_notes weekday": (lines("""On which day of the week is {k}?
        Look up {k} in the notes. Which weekday is it?
        What weekday is {k}?
        I plan for {k}. Is that a workday? Tell me the day of the week."""), lines("""{k}是星期几？
        查一下须知里{k}的日期，那天星期几？
        {k}在周几？
        我要安排{k}，那天是星期几？""")),
}
events = (["the spring book sale", "the repair of the lift", "the story hour for children"], ["春季旧书市", "电梯维修", "儿童故事会"])
event_queries = (["spring sale", "lift repaired", "story hour"], ["春季旧书市", "电梯维修", "儿童故事会"])


def chain_text(dialogue: Dialogue, name: str, **slots) -> None:
    dialogue.user(dialogue.worded(chained[name], **slots), framed=True)


def chain_day(d):
    slots, parameters = draw_add_days(d.rng, d.zh, d.held)
    chain_text(d, "add_days weekday", **slots)
    date = d.call("add_days", **parameters)
    day = d.call("weekday", date=date)["zh" if d.zh else "en"]
    d.say(f"那天是{date}，{day}。" if d.zh else f"That is {date}, a {day}.")


def chain_share(d):
    slots, parameters = draw_exchange(d.rng, d.zh, d.held)
    n = d.rng.randint(2, 9)
    chain_text(d, "exchange calculate", n=n, **slots)
    total = d.call("exchange", **parameters)
    each = d.call("calculate", expression=f"{total}/{n}")
    d.say(f"共{total}{slots['t']}，每份{each}{slots['t']}。" if d.zh else f"It is {total} {slots['t']} in all and {each} {slots['t']} each.")


def chain_order(d):
    slots, parameters = draw_shop_item(d.rng, d.zh, d.held)
    n = d.rng.randint(2, 30)
    chain_text(d, "shop_item calculate", n=n, **slots)
    found = d.call("shop_item", **parameters)
    total = d.call("calculate", expression=f"{found['usd']}*{n}")
    d.say(f"每件{found['usd']}美元，{n}件共{total}美元。" if d.zh else f"One is {found['usd']} US dollars, so {n} are {total} US dollars.")


def chain_foreign(d):
    slots, parameters = draw_shop_item(d.rng, d.zh, d.held)
    code = d.one(["EUR", "CNY", "JPY", "GBP"])
    words = money_words[code][d.zh]
    chain_text(d, "shop_item exchange", t=words, **slots)
    usd = d.call("shop_item", **parameters)["usd"]
    price = d.call("exchange", amount=usd, source="USD", target=code)
    d.say(f"{usd}美元，按固定汇率是{price}{words}。" if d.zh else f"It costs {usd} US dollars, which is {price} {words} at the fixed rate.")


def chain_weeks(d):
    slots, parameters = draw_days_between(d.rng, d.zh, d.held)
    chain_text(d, "days_between calculate", **slots)
    days = d.call("days_between", **parameters)
    weeks = d.call("calculate", expression=f"{days}/7")
    d.say(f"{days}天，即{weeks}周。" if d.zh else f"It is {days} days, which is {weeks} weeks.")


def chain_pounds(d):
    slots, parameters = draw_statistics(d.rng, d.zh, d.held)
    chain_text(d, "statistics convert_unit", **slots)
    value = d.call("statistics", **parameters)
    pounds = d.call("convert_unit", value=value, source="kg", target="pound")
    d.say(f"{slots['m']}是{value}公斤，即{pounds}磅。" if d.zh else f"The {slots['m']} is {value} kilograms, which is {pounds} pounds.")


def chain_fahrenheit(d):
    slots, parameters = draw_get_weather(d.rng, d.zh, d.held)
    chain_text(d, "get_weather convert_unit", **slots)
    celsius = d.call("get_weather", **parameters)["celsius"]
    degrees = d.call("convert_unit", value=celsius, source="celsius", target="fahrenheit")
    d.say(f"按虚构的天气表是{celsius}°C，即{degrees}°F。" if d.zh else f"The made-up table says {celsius} °C, which is {degrees} °F.")


def chain_multiple(d):
    slots, parameters = draw_solve_equation(d.rng, d.zh, d.held)
    n = d.rng.randint(3, 12)
    chain_text(d, "solve_equation calculate", n=n, **slots)
    x = d.call("solve_equation", **parameters)
    value = d.call("calculate", expression=f"{x[4:]}*{n}")
    d.say(f"{x}，{n}倍是{value}。" if d.zh else f"{x}, and {n} times that is {value}.")


def chain_event(d):
    i = d.rng.randrange(3)
    chain_text(d, "search_notes weekday", k=events[d.zh][i])
    note = d.call("search_notes", query=event_queries[d.zh][i])
    date = re.search(r"\d{4}-\d\d-\d\d", note)[0]
    day = d.call("weekday", date=date)["zh" if d.zh else "en"]
    d.say(f"日期是{date}，{day}。" if d.zh else f"It is on {date}, a {day}.")


chains = dict(zip(chained, (chain_day, chain_share, chain_order, chain_foreign, chain_weeks, chain_pounds, chain_fahrenheit,
                            chain_multiple, chain_event)))

# --------------------------------------------------------------------------------------- a second question after the first

follow_ups = {
    "get_weather": (lines("""And in {c} {w}?
        What about {c} {w}?
        And {w} in {c}?
        Now the same for {c} {w}."""), lines("""那{c}{w}呢？
        {w}{c}怎么样？
        再看看{c}{w}的。
        {c}{w}也查一下。""")),
    "exchange": (lines("""And {v} {s} in {t}?
        What about {v} {s}, in {t}?
        Now {v} {s} to {t}.
        Do the same with {v} {s}, in {t}."""), lines("""那{v}{s}是多少{t}？
        {v}{s}换{t}呢？
        再算{v}{s}合多少{t}。
        {v}{s}换成{t}也算一下。""")),
    "convert_unit": (lines("""And {v} {s} in {t}?
        What about {v} {s}, in {t}?
        Now {v} {s} to {t}.
        Do the same with {v} {s}, in {t}."""), lines("""那{v}{s}是多少{t}？
        {v}{s}换成{t}呢？
        再算{v}{s}等于多少{t}。
        {v}{s}换成{t}也算一下。""")),
    "weekday": (lines("""And {d}?
        What about {d}?
        Now {d}, please.
        Do the same for {d}."""), lines("""那{d}呢？
        {d}是周几？
        再查{d}。
        {d}也查一下。""")),
    "shop_item": (lines("""And the {i}?
        What about the {i}?
        Now the {i}, please.
        Check the {i} as well."""), lines("""那{i}呢？
        {i}怎么卖？
        再查{i}。
        {i}也查一下。""")),
    "calculate": (lines("""And {e}?
        What about {e}?
        Now {e}, please.
        Then do {e}."""), lines("""那{e}呢？
        {e}是多少？
        再算{e}。
        {e}也算一下。""")),
    "todo": (lines("""And {k}.
        Also "{k}".
        Then "{k}", please.
        One more: {k}."""), lines("""还有{k}。
        再加“{k}”。
        也加上“{k}”。
        还要一项：{k}。""")),
    "set_timer": (lines("""And one for {n} minutes.
        Another one of {n} minutes, please.
        Now {n} minutes more on a second timer.
        Also one that runs {n} minutes."""), lines("""再来一个{n}分钟的。
        还要一个{n}分钟的计时器。
        另外计时{n}分钟。
        {n}分钟的也要一个。""")),
}
list_wordings = (lines("""What is on my list?
    Show me the list.
    Read my tasks to me.
    What do I still have to do?"""), lines("""清单上有什么？
    给我看看清单。
    念一下我的待办。
    我还有什么要做？"""))
done_wordings = (lines(""""{k}" is done.
    I finished the task "{k}".
    Tick off "{k}".
    Take "{k}" off the list, it is done."""), lines("""“{k}”做完了。
    完成了任务“{k}”。
    划掉“{k}”。
    “{k}”办好了，从清单里去掉。"""))
thanks = (lines("""Thank you!|You're welcome!
    Great, thanks.|Glad I could help.
    Thanks, that was quick.|Any time!
    Perfect, that is all.|You're welcome, goodbye!"""), lines("""谢谢！|不客气！
    太好了，多谢。|很高兴能帮上忙。
    谢谢，真快。|随时为您效劳。
    很好，没别的事了。|不客气，再见！"""))


def turns(d: Dialogue, tool: str) -> None:
    "Two questions of one kind, with calls; or one, and then a word of thanks."
    d.tool_round(tool)
    if tool not in follow_ups or d.rng.random() < 0.3:
        question, reply = d.worded(thanks).split("|")
        d.user(question)
        return d.say(reply)
    slots, parameters = draws[tool](d.rng, d.zh, d.held)
    if tool == "calculate": slots["e"] = slots["e"].strip()
    d.user(d.worded(follow_ups[tool], **slots))
    extra = {"e": parameters["expression"]} if tool == "calculate" else {}
    d.answer(tool, d.call(tool, **parameters), **{**slots, **extra})


def list_turns(d: Dialogue, tool: str = "todo") -> None:
    "A to-do list that is filled, shortened and read out."
    slots, parameters = d.ask("todo")
    d.answer("todo", d.call("todo", **parameters))
    second = d.one([task for task in kept(tasks[d.zh], d.held) if task != slots["k"]])
    d.user(d.worded(follow_ups["todo"], k=second))
    d.answer("todo", d.call("todo", action="add", task=second))
    if d.rng.random() < 0.5:
        d.user(d.worded(done_wordings, k=slots["k"]))
        return d.answer("todo", d.call("todo", action="done", task=slots["k"]))
    d.user(d.worded(list_wordings))
    left = listed(d.call("todo", action="list"), d.zh)
    d.say(f"清单上有：{left}。" if d.zh else f"On your list: {left}.")

# ------------------------------------------------------------------------------------- a call fails: explained, or corrected

strangers = (lines("""Vienna
    Lisbon
    Prague
    Dublin
    Athens
    Chicago
    Mumbai"""), lines("""天津
    大连
    苏州
    长沙
    三亚
    桂林
    洛阳"""))
not_sold = (lines("""piano
    bicycle
    sofa
    camera
    guitar
    helmet"""), lines("""钢琴
    自行车
    沙发
    相机
    吉他
    头盔"""))
other_money = [("CHF", "Swiss francs", "瑞士法郎"), ("KRW", "Korean won", "韩元"), ("INR", "Indian rupees", "印度卢比"), ("BRL", "Brazilian reais", "巴西雷亚尔")]
not_noted = (lines("""swimming pool|Is there a swimming pool in the library?
    parking|Does the library have parking?
    piano|Can I practise the piano in the library?
    shower|Is there a shower in the library?
    museum ticket|Does the library sell museum tickets?
    bicycle|Can I rent a bicycle at the library?
    yoga|Does the library offer yoga?
    restaurant|Is there a restaurant in the library?"""), lines("""游泳池|图书馆有游泳池吗？
    停车|图书馆能停车吗？
    钢琴|图书馆能练钢琴吗？
    淋浴|图书馆里能淋浴吗？
    博物馆门票|图书馆卖博物馆门票吗？
    自行车|图书馆出租自行车吗？
    瑜伽|图书馆有瑜伽课吗？
    餐厅|图书馆里有餐厅吗？"""))


def fail_city(d):
    slots, parameters = draw_get_weather(d.rng, d.zh, d.held)
    city = d.one(strangers[d.zh])
    d.user(d.worded(asked["get_weather"], **{**slots, "c": city}))
    d.call("get_weather", **{**parameters, "city": city})
    d.say(f"天气表里没有{city}。" if d.zh else f"The weather table does not have {city}.")


def fail_day(d):
    date = d.one([f"{year}-{day}" for year in range(2020, 2029) for day in ("02-30", "04-31", "06-31", "09-31", "11-31")])
    d.user(d.worded(asked["weekday"], d=date))
    d.call("weekday", date=date)
    d.say(f"{date}这一天不存在，请检查日期。" if d.zh else f"There is no day {date}; please check the date.")


def fail_zero(d):
    e = d.one([f"{d.rng.randint(2, 99)}/0", f"{d.rng.randint(2, 99)}/({(n := d.rng.randint(2, 9))}-{n})"])
    d.user(d.worded(asked["calculate"], e=e))
    d.call("calculate", expression=e)
    d.say("不能除以零，所以没有结果。" if d.zh else "That divides by zero, so it has no value.")


def fail_equation(d):
    a, b = d.rng.randint(2, 9), d.rng.randint(1, 30)
    q = f"{a}*x+{b}={a}*x+{b + d.rng.randint(1, 20)}"
    d.user(d.worded(asked["solve_equation"], q=q))
    d.call("solve_equation", equation=q)
    d.say("这个方程无解。" if d.zh else "This equation has no solution.")


def fail_item(d):
    item = d.one(not_sold[d.zh])
    d.user(d.worded(asked["shop_item"], i=item, ai=with_article(item)))
    d.call("shop_item", item=item)
    d.say(f"店里没有{item}。" if d.zh else f"The shop does not sell a {item}.")


def fail_units(d):
    source, target = d.rng.sample([d.one(list(lengths)), d.one(list(weights)), d.one(["celsius", "fahrenheit"])], 2)
    s, t = unit_words[source][d.zh], unit_words[target][d.zh]
    value = d.rng.randint(2, 95)
    d.user(d.worded(asked["convert_unit"], v=value, s=s, t=t))
    d.call("convert_unit", value=value, source=source, target=target)
    d.say(f"{s}不能换算成{t}，两者不是同一种量。" if d.zh else f"{s.capitalize()} cannot become {t}: they measure different things.")


def fail_money(d):
    slots, parameters = draw_exchange(d.rng, d.zh, d.held)
    code, *words = d.one(other_money)
    d.user(d.worded(asked["exchange"], **{**slots, "t": words[d.zh]}))
    d.call("exchange", **{**parameters, "target": code})
    d.say(f"汇率表里没有{words[d.zh]}。" if d.zh else f"The table has no rate for {words[d.zh]}.")


def fail_done(d):
    slots, parameters = d.ask("todo")
    d.answer("todo", d.call("todo", **parameters))
    other = d.one([task for task in kept(tasks[d.zh], d.held) if task != slots["k"]])
    d.user(d.worded(done_wordings, k=other))
    d.call("todo", action="done", task=other)
    d.say(f"清单上没有“{other}”。" if d.zh else f'"{other}" is not on your list.')


def fail_note(d):
    query, question = d.worded(not_noted).split("|")
    d.user(question, framed=True)
    d.call("search_notes", query=query)
    d.say(f"须知里没有提到{query}。" if d.zh else f"The notes say nothing about this: {query}.")


def fail_timer(d):
    n = d.one([0, 0, -5, -1])
    d.user(d.worded(asked["set_timer"], n=n))
    d.call("set_timer", minutes=n)
    d.say("计时器至少要一分钟。您想设多久？" if d.zh else "A timer needs at least one minute. How long shall it be?")


def mend_day(d):
    slots, parameters = draw_add_days(d.rng, d.zh, d.held)
    date = parameters["date"]
    d.user(d.worded(asked["add_days"], **{**slots, "d": date.replace("-", "/")}))
    d.call("add_days", trained=False, **{**parameters, "date": date.replace("-", "/")})
    d.answer("add_days", d.call("add_days", **parameters), **slots)


def mend_sum(d):
    a, b = d.rng.randint(2, 99), d.rng.randint(2, 99)
    d.user(d.worded(asked["calculate"], e=f"{a} x {b}"))
    d.call("calculate", trained=False, expression=f"{a} x {b}")
    d.answer("calculate", d.call("calculate", expression=f"{a}*{b}"), e=f"{a}*{b}")


def mend_equation(d):
    slots, parameters = draw_solve_equation(d.rng, d.zh, d.held)
    short = slots["q"].replace("*x", "x")
    d.user(d.worded(asked["solve_equation"], q=short))
    d.call("solve_equation", trained=False, equation=short)
    d.answer("solve_equation", d.call("solve_equation", **parameters))


def mend_city(d):
    slots, parameters = draw_get_weather(d.rng, d.zh, d.held)
    typed = slots["c"] + "市" if d.zh else slots["c"].lower()
    d.user(d.worded(asked["get_weather"], **{**slots, "c": typed}))
    d.call("get_weather", trained=False, **{**parameters, "city": typed})
    d.answer("get_weather", d.call("get_weather", **parameters), **slots)


def mend_money(d):
    slots, parameters = draw_exchange(d.rng, d.zh, d.held)
    d.user(d.worded(asked["exchange"], **slots))
    d.call("exchange", trained=False, **{**parameters, "target": slots["t"]})
    d.answer("exchange", d.call("exchange", **parameters), **slots)


def mend_unit(d):
    slots, parameters = draw_convert_unit(d.rng, d.zh, d.held)
    d.user(d.worded(asked["convert_unit"], **slots))
    d.call("convert_unit", trained=False, **{**parameters, "source": slots["s"]})
    d.answer("convert_unit", d.call("convert_unit", **parameters), **slots)


failures = (fail_city, fail_day, fail_zero, fail_equation, fail_item, fail_units, fail_money, fail_done, fail_note, fail_timer,
            mend_day, mend_sum, mend_equation, mend_city, mend_money, mend_unit)

# ----------------------------------------------------------------------------------- nothing is called: no tool fits, or none is needed

# a wish|what it takes, in the middle of a sentence
outside = (lines("""Book me a flight to Madrid.|book flights
    Play some jazz.|play music
    Send an e-mail to my boss.|send e-mail
    Call my mother.|make phone calls
    Take a photo of me.|take photos
    Turn off the light in the kitchen.|switch lights
    Order a pizza for me.|order food
    Reserve a table for two tonight.|reserve tables
    What are today's headlines?|read the news
    Who won the football match last night?|look up sports results
    Translate this web page for me.|open web pages
    Show me the way to the station.|show maps
    Unlock my front door.|open doors
    Pay my electricity bill.|make payments
    Find a film for this evening.|search for films
    Is there a traffic jam on my way to work?|check the traffic"""), lines("""帮我订一张去马德里的机票。|订机票
    放一首爵士乐。|播放音乐
    给我的老板发一封邮件。|发邮件
    给我妈妈打电话。|打电话
    给我拍张照。|拍照
    把厨房的灯关掉。|控制电灯
    给我点一份披萨。|点外卖
    今晚订一张两人桌。|订餐位
    今天的头条新闻是什么？|看新闻
    昨晚的足球谁赢了？|查比赛结果
    帮我翻译这个网页。|打开网页
    告诉我去车站怎么走。|查地图
    帮我把大门打开。|开门
    替我交电费。|付款
    找一部今晚看的电影。|查电影
    上班路上堵车吗？|查路况"""))
beyond = ["get_weather", "exchange", "shop_item", "search_notes", "set_timer", "todo"]


def unfit(d: Dialogue, offered: list[str]) -> None:
    "No tool that is offered can do what the user wants, and the assistant says so."
    wanted = d.one([tool for tool in beyond if tool not in offered])
    if d.rng.random() < 0.5:
        question, wish = d.worded(outside).split("|")
        d.user(question, framed=True)
    else:
        wish = purposes[wanted][d.zh]
        d.ask(wanted, framed=False)
    able = [purposes[tool][d.zh] for tool in offered]
    if d.zh: return d.say(d.one([f"抱歉，我没有能{wish}的工具。我可以{'、'.join(able)}。", f"我的工具不能{wish}，只能{'、'.join(able)}。"]))
    able = ", ".join(able[:-1]) + " or " + able[-1]
    d.say(d.one([f"Sorry, I have no tool to {wish}. I can {able}.", f"None of my tools can {wish}. I can {able}."]))


capitals = (dict(zip(lines("""France
    Spain
    Portugal
    Greece
    Egypt
    Japan
    Canada
    Norway
    Poland
    Peru
    Kenya
    Austria"""), "Paris Madrid Lisbon Athens Cairo Tokyo Ottawa Oslo Warsaw Lima Nairobi Vienna".split())),
    dict(zip("法国 西班牙 葡萄牙 希腊 埃及 日本 加拿大 挪威 波兰 秘鲁 肯尼亚 奥地利".split(),
             "巴黎 马德里 里斯本 雅典 开罗 东京 渥太华 奥斯陆 华沙 利马 内罗毕 维也纳".split())))
opposites = (dict(zip("cold early full heavy loud open rich soft tall wet young sharp".split(),
                      "hot late empty light quiet closed poor hard short dry old blunt".split())),
             dict(zip("冷 早 满 重 吵闹 开 富 软 高 湿 年轻 快".split(), "热 晚 空 轻 安静 关 穷 硬 矮 干 年老 慢".split())))
plain = (lines("""What is a median?|The middle value of numbers that are in order.
    What does "exchange rate" mean?|It says how much of one currency you get for another.
    Why are there leap years?|Because a year is about a quarter of a day longer than 365 days.
    What is an equation?|A statement that two expressions are equal.
    Who uses miles?|Mostly people in the United States and Great Britain.
    What is a to-do list good for?|It keeps in view what you still have to do.
    How does a thermometer work?|A liquid or a sensor in it changes with the temperature.
    What is the difference between weather and climate?|Weather is what happens today, climate is what is usual over many years.
    What is a library?|A place where people read and borrow books.
    Why do people sort things?|Sorted things are easier to find.
    What is a prime number?|A number above 1 that only 1 and itself divide.
    What does "kilo" mean?|It means a thousand.
    How many days does a week have?|Seven.
    How many months are in a year?|Twelve.
    Which month comes after March?|April.
    What do we call half a dozen?|Six.
    Which is longer, a mile or a kilometre?|A mile is longer.
    Is zero a number?|Yes, zero is a number.
    What is money for?|People use it to pay for things.
    Name a currency.|The yen.
    Which day follows Sunday?|Monday.
    What is a timer used for?|To tell when a set time is over.
    How do you spell "calendar"?|c-a-l-e-n-d-a-r
    What is a forecast?|A statement of what will probably happen.
    Hello!|Hello! What can I do for you?
    Good morning!|Good morning! How can I help?
    How are you?|I am fine, thank you. How can I help you?
    Are you there?|Yes, I am here.
    I am tired today.|Then take a rest if you can.
    I passed my exam!|Congratulations!
    It is my birthday.|Happy birthday!
    I already worked it out myself, thanks.|Good! Tell me if you need anything else.
    No tool is needed, I only want to talk.|Fine, what shall we talk about?
    I changed my mind, forget the timer.|All right, I will not start one.
    Please do not look anything up. Just say hi.|Hi!
    Goodbye!|Goodbye, and have a nice day!
    See you tomorrow.|See you tomorrow!
    You are very helpful.|Thank you, that is kind.
    Can you wait a moment?|Of course, take your time.
    I did not understand that.|Shall I explain it in other words?
    Do you sleep?|No, a program does not sleep.
    Can you make mistakes?|Yes, so please check what matters.
    Tell me a joke.|Why did the book go to the doctor? It had hurt its spine.
    Say something nice.|You ask good questions.
    Give me a tip for learning words.|Read them aloud and use each in a sentence.
    How can I sleep better?|Go to bed at the same time every day.
    How do I start running?|Begin slowly, with short runs and breaks.
    Write one sentence about the sea.|The sea lay calm under the evening light.
    Write one sentence about a dog.|The dog waited for its friend at the door.
    Give me a title for a story about rain.|The Street of Umbrellas
    Suggest a name for a cat.|Pepper.
    Suggest a hobby.|Gardening.
    Name three fruits.|Apple, pear and plum.
    Name two colours.|Blue and green.
    Name a musical instrument.|The violin.
    Name a tree.|The oak.
    Name a river in Europe.|The Danube.
    Which animal barks?|A dog.
    Which animal gives milk?|A cow.
    Where do fish live?|In water.
    What colour is grass?|Green.
    What colour is a ripe banana?|Yellow.
    What do plants need?|Water, light and air.
    What is bread made of?|Flour, water, yeast and salt.
    What is ice?|Frozen water.
    What is the sun?|A star.
    Which planet do we live on?|The Earth.
    Which planet has rings?|Saturn.
    What is the moon?|A body that circles the Earth.
    What do teachers do?|They help others learn.
    What does a baker do?|A baker makes bread and cakes.
    Who wrote Hamlet?|William Shakespeare.
    What is a poem?|A short text in which sound and rhythm matter.
    What is a noun?|A word for a thing, a person or an idea.
    What is the plural of "mouse"?|Mice.
    What is the past tense of "go"?|Went.
    Which language is spoken in Brazil?|Portuguese.
    Which ocean lies between Europe and America?|The Atlantic.
    Is a whale a fish?|No, a whale is a mammal.
    Can penguins fly?|No, but they swim well.
    What do bees collect?|Nectar and pollen.
    Why do we wash our hands?|To get rid of dirt and germs.
    What is a bridge for?|For getting over a river or a road.
    What do you call a baby cat?|A kitten.
    What is a calculator?|A device that works out sums.
    What is a shop?|A place where things are sold.
    Why do clocks have two hands?|One shows the hours, the other the minutes.
    What is the use of a dictionary?|It tells what words mean.
    Is a tomato a fruit?|Botanically, yes.
    How many legs does a spider have?|Eight.
    What do we breathe?|Air.
    What is glass made from?|Mostly from sand.
    What does a gardener do?|A gardener looks after plants.
    Which season comes after winter?|Spring.
    What do you need to make tea?|Tea leaves and hot water.
    What is snow?|Small crystals of ice that fall from clouds."""), lines("""什么是中位数？|把数按大小排好后位于中间的数。
    “汇率”是什么意思？|一种货币能换多少另一种货币。
    为什么有闰年？|因为一年比365天大约多四分之一天。
    什么是方程？|含有未知数的等式。
    哪些人用英里？|主要是美国人和英国人。
    待办清单有什么用？|提醒自己还有哪些事要做。
    温度计是怎么工作的？|里面的液体或传感器随温度变化。
    天气和气候有什么区别？|天气是一时的，气候是多年的平均。
    图书馆是什么？|读书和借书的地方。
    为什么要排序？|排好序的东西更容易找。
    什么是质数？|大于1、只能被1和自己整除的数。
    “千克”的“千”是什么意思？|一千。
    一周有几天？|七天。
    一年有几个月？|十二个月。
    三月之后是几月？|四月。
    半打是几个？|六个。
    一英里和一公里哪个长？|一英里更长。
    零是数吗？|是，零是数。
    钱有什么用？|用来买东西。
    说出一种货币。|日元。
    星期日之后是星期几？|星期一。
    计时器是做什么的？|到了设定的时间就提醒。
    “日历”的拼音怎么写？|rì lì
    什么是天气预报？|对将来天气的推测。
    你好！|你好！有什么可以帮您？
    早上好！|早上好！需要帮忙吗？
    你好吗？|我很好，谢谢。有什么事吗？
    你在吗？|我在。
    我今天很累。|那就好好休息一下。
    我考试通过了！|恭喜你！
    今天是我的生日。|生日快乐！
    我已经自己算出来了，谢谢。|好的，有需要再告诉我。
    不用工具，我只想聊聊天。|好啊，聊什么呢？
    我改主意了，不用计时了。|好的，那就不计时。
    什么都不用查，打个招呼就行。|你好！
    再见！|再见，祝您愉快！
    明天见。|明天见！
    你真有用。|谢谢夸奖。
    能等一下吗？|当然，不着急。
    我没听懂。|要我换个说法吗？
    你睡觉吗？|不睡，程序不需要睡觉。
    你会出错吗？|会，重要的事请再核对。
    讲个笑话。|书为什么去看医生？因为它的书脊疼。
    说句好听的话。|您的问题问得真好。
    背单词有什么好办法？|大声读，并用每个词造句。
    怎样睡得更好？|每天按时上床。
    怎么开始跑步？|慢慢来，先跑短距离，中间休息。
    写一句关于大海的话。|傍晚的大海很平静。
    写一句关于狗的话。|小狗在门口等它的朋友。
    给一个下雨的故事取个题目。|《雨伞街》
    给小猫起个名字。|花花。
    推荐一个爱好。|种花。
    说出三种水果。|苹果、梨和桃子。
    说出两种颜色。|蓝色和绿色。
    说出一种乐器。|小提琴。
    说出一种树。|松树。
    说出中国的一条河。|长江。
    哪种动物汪汪叫？|狗。
    哪种动物产奶？|奶牛。
    鱼生活在哪里？|水里。
    草是什么颜色？|绿色。
    熟香蕉是什么颜色？|黄色。
    植物需要什么？|水、阳光和空气。
    馒头是用什么做的？|面粉、水和酵母。
    冰是什么？|冻住的水。
    太阳是什么？|一颗恒星。
    我们住在哪个行星上？|地球。
    哪个行星有光环？|土星。
    月亮是什么？|绕着地球转的天体。
    老师做什么？|教学生知识。
    面包师做什么？|做面包和蛋糕。
    《红楼梦》是谁写的？|曹雪芹。
    诗是什么？|讲究声音和节奏的短文。
    什么是名词？|表示人、事物或概念的词。
    “美丽”的近义词是什么？|漂亮。
    “一石二鸟”是什么意思？|做一件事得到两个好处。
    巴西说什么语言？|葡萄牙语。
    欧洲和美洲之间是什么洋？|大西洋。
    鲸是鱼吗？|不是，鲸是哺乳动物。
    企鹅会飞吗？|不会，但它很会游泳。
    蜜蜂采什么？|花蜜和花粉。
    为什么要洗手？|为了去掉脏东西和细菌。
    桥有什么用？|让人过河或过路。
    “一寸光阴一寸金”是什么意思？|时间非常宝贵。
    计算器是什么？|用来算数的工具。
    商店是什么？|卖东西的地方。
    钟为什么有两根针？|一根指小时，一根指分钟。
    字典有什么用？|查字和词的意思。
    西红柿是水果吗？|从植物学上说，是。
    蜘蛛有几条腿？|八条。
    我们呼吸什么？|空气。
    玻璃主要是用什么做的？|主要是沙子。
    园丁做什么？|照料花草树木。
    冬天之后是什么季节？|春天。
    泡茶需要什么？|茶叶和热水。
    雪是什么？|从云里落下的小冰晶。"""))
plain[0].extend([f"What is the capital of {k}?|{v}." for k, v in capitals[0].items()] + [f'What is the opposite of "{k}"?|{v.capitalize()}.' for k, v in opposites[0].items()])
plain[1].extend([f"{k}的首都是哪里？|{v}。" for k, v in capitals[1].items()] + [f"“{k}”的反义词是什么？|{v}。" for k, v in opposites[1].items()])
about_tools = (lines("""What can you do?
    Which tools do you have?
    How can you help me?
    What are your tools for?"""), lines("""你能做什么？
    你有哪些工具？
    你能帮我什么？
    你的工具能做什么？"""))


def no_call(d: Dialogue, offered: list[str]) -> None:
    "Tools are offered, and none is needed."
    if d.rng.random() < 0.06:
        able = [purposes[tool][d.zh] for tool in offered]
        d.user(d.worded(about_tools))
        return d.say(f"我可以{'、'.join(able)}。" if d.zh else f"I can {', '.join(able[:-1])} and {able[-1]}.")
    question, reply = d.one(kept(plain[d.zh], d.held)).split("|")
    d.user(question)
    d.say(reply)


# ------------------------------------------------------------------------------------------------------------------ rows

# rows of each kind and language: train, held-out
shares = {"single": (116, 42), "chain": (34, 10), "turns": (36, 10), "error": (32, 10), "no_call": (84, 27), "ask_back": (32, 10),
          "unfit": (26, 8), "new_tool": (0, 14)}
seen_tools = [name for name in functions if name != held_out_tool]
offer_sizes = [2] * 14 + [3, 4]
system_texts = (["You are a helpful assistant.", "Answer briefly."], ["你是一个乐于助人的助手。", "请简短回答。"])


def fill(d: Dialogue, kind: str, number: int) -> list[str] | None:
    "Writes a dialogue of this `kind`; the tools it offers where that is settled."
    if kind in ("no_call", "unfit"):
        offered = d.rng.sample(seen_tools, d.one(offer_sizes))
        return (no_call if kind == "no_call" else unfit)(d, offered) or offered
    if kind == "single": d.tool_round(seen_tools[number % len(seen_tools)])
    if kind == "new_tool": d.tool_round(held_out_tool)
    if kind == "chain": list(chains.values())[number % len(chains)](d)
    if kind == "error": failures[3 * number % len(failures)](d)
    if kind == "ask_back": ask_back(d, list(missing)[number % len(missing)])
    if kind == "turns" and number % 6 == 5: list_turns(d)
    elif kind == "turns": turns(d, seen_tools[4 * number % len(seen_tools)])


def as_row(d: Dialogue, kind: str, offered: list[str] | None) -> dict:
    "The row of a finished dialogue: its tools and others that distract, in any order."
    used = list(dict.fromkeys(turn["name"] for turn in d.turns if turn["role"] == "tool"))
    if offered is None:
        others = [tool for tool in seen_tools if tool not in used]
        offered = used + d.rng.sample(others, max(1, d.one(offer_sizes) - len(used)))
    d.rng.shuffle(offered)
    language = "zh" if d.zh else "en"
    system = [{"role": "system", "content": d.one(system_texts[d.zh])}] if d.rng.random() < 0.05 else []
    described_in = d.one(["zh", "en", "en"]) if d.zh else "en"
    return {"tools": [schema(tool, described_in) for tool in offered], "conversations": system + d.turns, "language": language, "kind": kind}


def row_key(row: dict) -> tuple[str, ...]:
    "What the user says; with the tools, where that is what the question is about."
    said = tuple(turn["content"] for turn in row["conversations"] if turn["role"] == "user")
    return said + tuple(sorted(tool["name"] for tool in row["tools"])) if said[0] in sum(about_tools, []) else said


def rows(held: bool, seed: int = 23) -> list[dict]:
    "All rows of one file, no two with the same words of the user."
    rng, found, seen = random.Random(seed + held), [], set()
    for kind, counts in shares.items():
        for zh in (0, 1):
            number = tries = 0
            while number < counts[held]:
                tries += 1
                if tries > 5000: raise RuntimeError(f"{kind}: not enough different wordings for {counts[held]} rows")
                d = Dialogue(rng, zh, held)
                row = as_row(d, kind, fill(d, kind, number))
                key = row_key(row)
                if key in seen: continue
                seen.add(key)
                found.append(row)
                number += 1
    rng.shuffle(found)
    return found


def tool_of(fail) -> str:
    "The tool that the failure `fail` is about."
    d = Dialogue(random.Random(0), 0, False)
    fail(d)
    return next(turn["name"] for turn in d.turns if turn["role"] == "tool")


def fill_for(d: Dialogue, kind: str, offered: list[str]) -> bool:
    "Writes a dialogue of this `kind` with `offered` tools; false where none of them can do it."
    if kind in ("no_call", "unfit"): return not globals()[kind](d, offered)
    fits = {"single": offered, "turns": offered, "ask_back": [tool for tool in offered if tool in missing],
            "chain": [pair for pair in chained if set(pair.split()) <= {*offered}],
            "error": [fail for fail in failures if tool_of(fail) in offered]}[kind]
    if not fits: return False
    chosen = d.one(fits)
    if kind == "single": d.tool_round(chosen)
    elif kind == "ask_back": ask_back(d, chosen)
    elif kind == "chain": chains[chosen](d)
    elif kind == "error": chosen(d)
    else: (list_turns if chosen == "todo" else turns)(d, chosen)
    return True


def partner(rng: random.Random, row: dict, seen: set) -> dict:
    "Another dialogue under the tools of `row`, with words that are not in `seen`."
    offered, weights = [tool["name"] for tool in row["tools"]], {kind: counts[0] for kind, counts in shares.items() if counts[0]}
    while True:
        d, kind = Dialogue(rng, row["language"] == "zh", False), rng.choices([*weights], weights.values())[0]
        if not fill_for(d, kind, offered): continue
        system = [turn for turn in row["conversations"][:1] if turn["role"] == "system"]
        found = {**row, "conversations": system + d.turns, "kind": kind}
        if row_key(found) not in seen: return found


def paired_rows(count: int = 400, seed: int = 29) -> list[dict]:
    "The rows of `count` pairs with one list of tools each; only plain questions may stand in `tool_dialogues.jsonl` too."
    rng, seen, found = random.Random(seed), {row_key(row) for row in rows(False) if row["kind"] != "no_call"}, []
    for row in rows(False, seed):
        if row_key(row) in seen or len(found) == 2 * count: continue
        seen.add(row_key(row))
        other = partner(rng, row, seen)
        seen.add(row_key(other))
        found += row, other
    return found


def bundled_files() -> dict[str, str]:
    "File name → text of everything this script writes."
    files = {"tool_dialogues.jsonl": rows(False), "tool_pairs.jsonl": paired_rows(), "tool_dialogues_heldout.jsonl": rows(True)}
    return {name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found) for name, found in files.items()}


def main() -> int:
    "Write the files, or compare them with `--check`; 0 when all is well."
    files, check = bundled_files(), "--check" in sys.argv[1:]
    stale = [n for n, text in files.items()
             if not (folder / n).is_file() or (folder / n).read_bytes() != text.encode()]
    for name in [] if check else files: (folder / name).write_bytes(files[name].encode())
    counts = ", ".join(f"{name}: {text.count(chr(10))} rows" for name, text in files.items())
    print(f"{', '.join(stale)} differ" if check and stale else counts)
    return int(check and bool(stale))


if __name__ == "__main__": raise SystemExit(main())
