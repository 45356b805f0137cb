"""Clothing copy and plain texts: the bundled bytes are the generators', the copy says what its table says, splits differ."""
import calendar
import json
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, median

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tools"))

import make_adgen  # noqa: E402
import make_text  # noqa: E402

counts = {"train": 4200, "dev": 300, "test": 300}


def read(path: Path) -> list[dict]: return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]: return {name: read(root / "data" / f"adgen_{name}.jsonl") for name in counts}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return {name: (root / "data" / f"text_{name}.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n") for name in ("en", "zh")}


def values(row: dict) -> list[str]: return [pair.split("#")[1] for pair in row["content"].split("*")]


def runs(units, size: int = 13) -> list[tuple]: return [tuple(units[i:i + size]) for i in range(len(units) - size + 1)]


def shared_part(row: dict, seen: set) -> float:
    "Share of the 13-character pieces of a summary that `seen` holds."
    return mean(run in seen for run in runs(row["summary"]))


@pytest.mark.slow
@pytest.mark.parametrize("script", [make_adgen, make_text])
def test_the_generator_writes_exactly_what_is_bundled(script, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["make", "--check"])
    assert script.main() == 0
    monkeypatch.setattr(script, "folder", tmp_path)
    assert script.main() == 1 and not list(tmp_path.iterdir()), "--check misses the files, and writes nothing"
    monkeypatch.setattr(sys, "argv", ["make"])
    script.main()
    for path in tmp_path.iterdir(): assert path.read_bytes() == (root / "data" / path.name).read_bytes()
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make", "--check"])
    assert script.main() == 1


def test_counts_keys_sizes_and_separators(splits):
    assert {name: len(rows) for name, rows in splits.items()} == counts
    assert sum((root / "data" / f"adgen_{name}.jsonl").stat().st_size for name in counts) <= 2_500_000
    known = {"类型", "版型", "材质", "颜色", "风格", "图案"}
    for row in sum(splits.values(), []):
        assert list(row) == ["content", "summary"]
        assert re.fullmatch(r"类型#(上衣|裙|裤)(\*[^#*\s]+#[^#*\s]+)+", row["content"]), row
        pairs = row["content"].split("*")
        assert len(set(pairs)) == len(pairs) and 4 <= len(pairs) <= 9
        kind = pairs[0].split("#")[1][-1]
        assert all(pair.split("#")[0] in known or pair.split("#")[0][0] == kind for pair in pairs), f"a key of another garment: {row}"
        assert row["summary"].endswith("。") and not re.search(r"[\[\]{}<>|#*\sA-UW-Z]", re.sub("T恤|A字", "", row["summary"])), row


def test_no_row_content_or_summary_stands_twice(splits):
    rows = sum(splits.values(), [])
    for key in "content", "summary": assert len({row[key] for row in rows}) == len(rows)
    assert len({frozenset(values(row)) for row in rows}) == len(rows), "no split repeats a combination, in whatever order"


def test_every_summary_says_its_table_and_nothing_else(splits):
    for row in sum(splits.values(), []): assert make_adgen.mistakes(row) == [], row


def test_mistakes_are_found():
    row = {"content": "类型#上衣*材质#棉*颜色#白色*衣样式#衬衫*衣袖长#短袖", "summary": "这件白色短袖衬衫选用棉质面料，很舒服。"}
    assert make_adgen.mistakes(row) == []
    assert make_adgen.mistakes({**row, "summary": "这件短袖衬衫选用棉质面料，很舒服。"}) == ["白色 is not expressed"]
    assert make_adgen.mistakes({**row, "summary": row["summary"] + "配上长袖更好。"}) == ["长袖 is made up"]
    assert make_adgen.mistakes({**row, "summary": row["summary"] + "露出手腕。"}) == ["手腕 contradicts 短袖|五分袖"]
    assert make_adgen.mistakes({**row, "summary": row["summary"] + "米白色的领口。"}) == ["米白 is made up"]
    assert make_adgen.mistakes({**row, "summary": "这件米白色短袖衬衫选用棉质面料。"}) == ["白色 is not expressed", "米白 is made up"]
    assert make_adgen.mistakes({**row, "summary": row["summary"] + "也可以当外套。"}) == ["外套 is made up"], "another garment"
    assert make_adgen.mistakes({"content": "类型#裤*裤长#九分裤", "summary": "这条裤子是九分的。"}) == []


def test_copy_agrees_with_its_table_without_the_generators_word_lists(splits):
    rows = sum(splits.values(), [])
    exact = [value in row["summary"] for row in rows for value in values(row)]
    assert .75 < mean(exact) < .95, "most values stand there word for word, some in other words"
    exclusive = [["长袖", "短袖", "无袖", "七分袖"], ["圆领", "V领", "方领", "翻领", "娃娃领", "西装领"], ["羊毛", "雪纺", "蕾丝", "亚麻", "网纱"],
                 ["泡泡袖", "灯笼袖", "喇叭袖", "蝙蝠袖"], ["黑色", "白色", "粉色", "驼色", "紫色", "灰色", "酒红"], ["阔腿", "直筒", "哈伦"]]
    for row in rows:
        for group in exclusive:
            said = {word for word in group if word in row["summary"]}
            assert said <= {word for word in group if word in row["content"]}, (row, said)


def test_held_out_rows_share_little_with_training(splits):
    seen = {run for row in splits["train"] for run in runs(row["summary"])}
    assert shared_part(splits["train"][0], seen) == 1
    for name in "dev", "test":
        parts = [shared_part(row, seen) for row in splits[name]]
        assert max(parts) <= make_adgen.share_allowed == .1
        assert mean(parts) <= .04, name


def test_pairs_of_values_are_held_out(splits):
    pairs = [set(pair.split()) for pair in make_adgen.held_out]
    parts = {name: mean(any(pair <= set(values(row)) for pair in pairs) for row in rows) for name, rows in splits.items()}
    assert parts["train"] == 0 and parts["dev"] > .25 and parts["test"] > .25
    train = {value for row in splits["train"] for value in values(row)}
    for name in "dev", "test": assert {value for row in splits[name] for value in values(row)} <= train, "no value is new, only its company"


def test_copy_varies(splits):
    summaries = [row["summary"] for row in splits["train"]]
    pieces = [run for text in summaries[:1000] for run in runs(text, 4)]
    assert len(set(pieces)) / len(pieces) > .4
    assert len(set("".join(summaries))) > 1100
    assert max(Counter(text[:6] for text in summaries).values()) < 100, "no opening is worn out"
    for text in summaries: assert max(Counter(runs(text, 4)).values()) == 1, f"a phrase stands twice in {text}"
    assert len(make_adgen.grammar()) > 100 and sum(map(len, make_adgen.grammar().values())) > 700


def test_lengths_are_near_those_of_the_real_task_and_its_sentences_are_not_ours(splits, shared):
    path = shared / "data" / "advertise_gen_dev.jsonl"
    if not path.is_file(): pytest.skip("the real ADGEN dev file is not here")
    real = read(path)
    for key in "content", "summary":
        ours, theirs = (median(len(row[key]) for row in rows) for rows in (splits["train"], real))
        assert abs(ours - theirs) / theirs < .15
    sizes = [mean(len(values(row)) for row in rows) for rows in (splits["train"], real)]
    assert abs(sizes[0] - sizes[1]) < .6
    theirs = {run for row in real for run in runs(row["summary"])}
    assert not theirs & {run for rows in splits.values() for row in rows for run in runs(row["summary"])}


@pytest.mark.parametrize("language, most", [("en", .04), ("zh", .14)])
def test_paragraphs_are_clean_and_seldom_repeat(texts, language, most):
    found = texts[language]
    assert 150_000 <= (root / "data" / f"text_{language}.txt").stat().st_size <= 250_000
    assert len(set(found)) == len(found) > 400
    for text in found:
        assert text == text.strip() and "\n" not in text and not re.search(r"[\[\]{}<>|]|  |。。|，，|，。|\.\.", text), text
        assert text[-1] in '.?!"。？！”', text
    seen, again, total = set(), 0, 0
    for text in found:
        for run in runs(text.split() if language == "en" else text):
            again, total = again + (run in seen), total + 1
            seen.add(run)
    assert again / total < most


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_written_part_is_there(texts, language):
    written = make_text.written(language)
    assert sum(len(text.encode()) for text in written) >= 12_000
    assert set(written) <= set(texts[language])


def test_numbers_in_words():
    assert [make_text.words_en(n) for n in (0, 13, 21, 40, 105, 342, 1001)] == \
        ["zero", "thirteen", "twenty-one", "forty", "one hundred and five", "three hundred and forty-two", "one thousand and one"]
    assert [make_text.words_zh(n) for n in (0, 10, 15, 20, 105, 110, 1001, 3020)] == ["零", "十", "十五", "二十", "一百零五", "一百一十", "一千零一", "三千零二十"]


def test_stated_facts_are_true(texts):
    both = "\n".join(texts["en"] + texts["zh"])
    divided = re.findall(r"(\d+) divided by (\d+) is (\d+), remainder (\d+)", both) + re.findall(r"(\d+) = (\d+) × (\d+) \+ (\d+)", both) + re.findall(r"(\d+)除以(\d+)，商(\d+)，余(\d+)", both)
    assert len(divided) > 12 and all(int(n) == int(k) * int(e) + int(r) and int(r) < int(k) for n, k, e, r in divided)
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    weeks = re.findall(r"(?:today is|that today is) (\w+day)\. .*? in (\d+) days\?.*(?:reach|come to) (\w+day)\.", both)
    assert len(weeks) > 4 and all(days[(days.index(a) + int(n)) % 7] == b for a, n, b in weeks)
    years = re.findall(r"The year (\d+) \w+ (\d+) days, \w+ it is (a|not a) leap year", both) + \
        [(y, n, {"是": "a", "不是": "not a"}[w]) for y, n, w in re.findall(r"(\d+)年(?:有|一共是)(\d+)天，因为它(是|不是)闰年", both)]
    assert len(years) > 2 and all(calendar.isleap(int(y)) == (w == "a") and int(n) == 365 + calendar.isleap(int(y)) for y, n, w in years)
    trips = re.findall(r"leaves at (\d+):(\d+) and \w+ (\d+) minutes.*?(?:arrives at|there at|get off at) (\d+):(\d+)", both)
    assert len(trips) > 4 and all(int(h) * 60 + int(m) + int(t) == int(x) * 60 + int(y) for h, m, t, x, y in trips)
    fields = re.findall(r"(\d+) metres long and (\d+) metres wide.*? (\d+) square metres, and .*? (\d+) metres\.", both) + \
        re.findall(r"长(\d+)米，宽(\d+)米。面积是.*?(\d+)平方米，.*?是(\d+)米。", both)
    assert len(fields) > 4 and all(int(a) * int(b) == int(s) and 2 * (int(a) + int(b)) == int(r) for a, b, s, r in fields)
    corners = re.findall(r"has (\d+) corners.*? (?:make|is) (\d+) degrees", both) + re.findall(r"有(\d+)个角.*?(?:加起来|之和)是(\d+)度", both)
    assert len(corners) > 6 and all(180 * (int(n) - 2) == int(s) for n, s in corners)
