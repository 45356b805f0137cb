"""The bundled preference pairs: the rule decides each, and length decides none."""
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tools"))
import make_preferences as made  # noqa: E402

files = {"train": "preferences.jsonl", "held": "preferences_heldout.jsonl"}
rows = {part: [json.loads(line) for line in (root / "data" / name).read_text(encoding="utf-8").splitlines()]
        for part, name in files.items()}
every = rows["train"] + rows["held"]


def longer_is_right(found) -> float:
    "Share of pairs that `the longer answer is better` gets right; a tie counts half."
    signs = [(len(row["chosen"]) > len(row["rejected"])) + (len(row["chosen"]) == len(row["rejected"])) / 2 for row in found]
    return sum(signs) / len(signs)


def test_the_files_are_what_the_script_writes(tmp_path, monkeypatch, capsys):
    for name, text in made.bundled_files().items(): assert (root / "data" / name).read_bytes() == text.encode(), name
    script = [sys.executable, str(root / "tools" / "make_preferences.py"), "--check"]
    assert subprocess.run(script, capture_output=True).returncode == 0
    monkeypatch.setattr(made, "folder", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_preferences.py", "--check"])
    assert made.main() == 1 and "differ" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()), "--check must not write"


def test_numbers_rules_and_languages():
    assert len(rows["train"]) >= 640 and len(rows["held"]) >= 120
    for part, found in rows.items():
        assert Counter((row["rule"], row["language"]) for row in found) == {
            (rule, language): made.counts[part == "held"] for rule in made.rules for language in ("en", "zh")}
    keys = ["instruction", "input", "chosen", "rejected", "language", "rule", "check"]
    for row in every:
        assert list(row) == keys and all(isinstance(value, str) for value in row.values())
        assert row["instruction"] and row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"]
        assert bool(re.search(r"[\u4e00-\u9fff]", row["instruction"])) == (row["language"] == "zh")


def test_the_rule_decides_every_pair():
    for row in every:
        assert made.passes(row["check"], row["chosen"]) and not made.passes(row["check"], row["rejected"]), row


def test_arithmetic_is_right():
    signs = {"plus": "+", "minus": "-", "times": "*", "加": "+", "减": "-", "乘以": "*"}
    found = [row for row in every if row["rule"] == "correct"]
    for row in found:
        a, sign, b = re.search(r"(\d+) ?(plus|minus|times|加|减|乘以|[-+*]) ?(\d+)", row["instruction"]).groups()
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[signs.get(sign, sign)]
        assert row["check"] == f"number:{value}"
    assert sum(len(row["chosen"]) == len(row["rejected"]) for row in found) >= 30, "some pairs differ in the number alone"


@pytest.mark.parametrize("check, good, bad", [
    ("number:57", "12 plus 45 is 57.", "12 plus 57 is 45."), ("number:57", "57", "no idea"), ("contains:Paris", "it is paris", "It is Rome."),
    ("list:2", "- tea\n- milk", "- tea\n- milk\n- juice"), ("list:2", "- tea\n- milk\n", "tea, milk"), ("json:name,age", '{"name": "A", "age": 3}', '{"age": 3}'),
    ("json:name,age", '{"name": "A", "age": 3}', "[3]"), ("json:name,age", '{"name": "A", "age": 3}', "{name: A, age: 3}"),
    ("starts:Yes", "Yes, it is.", "It is, yes."), ("starts:是", "是，它会。", "不是。"), ("ends:over", "It is Rome. over", "over: it is Rome"),
    ("at most:3", "one two three", "one two three four"), ("at least:3", "one two three", "one two"),
    ("at most:3", "三个字。", "四个汉字。"), ("at least:4", "四个汉字。", "三个字。"), ("polite:", "The foolproof way is this.", "Only a fool asks."),
    ("polite:", "请检查一下。", "真笨。"), ("honest:", "I cannot know that.", "It is 27."), ("honest:", "我不知道。", "是27。"),
    ("language:en", "It is late.", "很晚了。"), ("language:zh", "很晚了。", "It is late.")])
def test_the_rules_by_hand(check, good, bad):
    assert made.passes(check, good) and not made.passes(check, bad)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'funny:yes'"): made.passes("funny:yes", "ha")


def test_length_says_nothing():
    for part, found in rows.items():
        assert 0.45 <= longer_is_right(found) <= 0.55, part
        groups = defaultdict(list)
        for row in found: groups[row["rule"]].append(row); groups[row["language"]].append(row); groups[row["rule"], row["language"]].append(row)
        for name, group in groups.items(): assert 0.4 <= longer_is_right(group) <= 0.6, (part, name)
    assert longer_is_right([{"chosen": "long", "rejected": "x"}] * 3 + [{"chosen": "ab", "rejected": "cd"}]) == 0.875


def test_length_says_nothing_in_either_size():
    for rule in made.rules:
        found = [row for row in rows["train"] if row["rule"] == rule]
        chosen, rejected = (sum(len(row[key]) for row in found) / len(found) for key in ("chosen", "rejected"))
        assert 0.8 < chosen / rejected < 1.25, (rule, chosen, rejected)


def test_lengths_are_compared_in_characters_and_tokens():
    assert made.longer_by("long", "x") == 1 and made.longer_by("x", "long") == -1 and made.longer_by("ab", "cd") == 0
    assert made.longer_by("三个字", "four") is None


def test_no_prompt_twice_and_none_in_both_files():
    prompts = {part: [(row["instruction"], row["input"]) for row in found] for part, found in rows.items()}
    for part, found in prompts.items(): assert len(set(found)) == len(found), part
    assert not set(prompts["train"]) & set(prompts["held"])
    assert len({row["instruction"] for row in rows["train"]}) >= 600
    assert len({json.dumps(row) for row in every}) == len(every)


def test_held_out_pairs_hold_topics_and_words_that_train_does_not():
    train = json.dumps(rows["train"], ensure_ascii=False)
    facts = [fact for fact in made.kept(made.facts, True)]
    assert len(facts) == 12 and not any(fact[0] in train or fact[3] in train for fact in facts)
    for options in (made.evasions, made.admissions):
        for text in [text for both in options for text in made.kept(both, True) if "{" not in text]:
            if len(text) > 8: assert text not in train, text


def test_no_text_of_special_tokens_and_a_small_file():
    for name in files.values():
        text = (root / "data" / name).read_text(encoding="utf-8")
        assert not re.search(r"<\||\|>|\[g?s?MASK\]|<sop>|<eop>|</?s>|<unk>|<pad>|\[\[|```|\{\}|\{[a-z]\}", text.replace("{name: ", ""))
    assert sum((root / "data" / name).stat().st_size for name in files.values()) < 1_000_000
