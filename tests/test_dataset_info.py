"""The registry of data sets: its shape, what it says of licences, and that it agrees with the files bundled beside it."""
import hashlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

from chatglm_cookbook.data import DataError, as_conversation, load_rows

root = Path(__file__).resolve().parent.parent
text = (root / "data" / "dataset_info.json").read_text(encoding="utf-8")
registry = json.loads(text)
ours = {name: entry for name, entry in registry.items() if entry["facts"]["part"] == "ours"}
theirs = {name: entry for name, entry in registry.items() if name not in ours}

def string(v): return isinstance(v, str) and v.strip() == v != ""
def one_of(*values): return lambda v: v in values
def table(*allowed): return lambda v: isinstance(v, dict) and v and set(v) <= set(allowed) and all(map(string, v.values()))
def listing(v): return isinstance(v, list) and all(map(string, v)) and len(set(v)) == len(v)
def hexadecimal(size): return lambda v: isinstance(v, str) and re.fullmatch(f"[0-9a-f]{{{size}}}", v)
def hub(v): return isinstance(v, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", v)

formats = ["alpaca", "adgen", "prompt_response", "context_target", "chatglm3", "sharegpt", "openai", "alpaca_preference",
           "sharegpt_preference", "trl_preference", "kto", "text", "multiple_choice"]
schema = {  # LLaMA-Factory's keys, and four of ours: script, sha256, format, facts
    "hf_hub_url": hub, "ms_hub_url": hub, "om_hub_url": hub, "script_url": string, "script": one_of(True),
    "file_name": lambda v: string(v) and not v.startswith(("/", ".")) and "\\" not in v, "file_sha1": hexadecimal(40),
    "sha256": hexadecimal(64), "subset": string, "split": string, "folder": string, "num_samples": lambda v: type(v) is int and v > 0,
    "format": one_of(*formats), "formatting": one_of("alpaca", "sharegpt"), "ranking": one_of(True),
    "columns": table("prompt", "query", "response", "history", "messages", "system", "tools", "images", "chosen", "rejected",
                     "kto_tag"),
    "tags": table("role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"),
    "facts": lambda v: isinstance(v, dict)}
fact_schema = {
    "part": one_of("ours", "instruction", "preference", "pre-training", "evaluation"), "about": string, "licence": string,
    "commercial": lambda v: v is True or v is False or v == "unclear", "language": lambda v: listing(v) and len(v) > 0,
    "rows": lambda v: v is None or type(v) is int and v > 0, "size": string, "origin": string,
    "seen_in": listing, "sha256": hexadecimal(64), "source": table("id", "licence", "rows")}


def faults(registry: dict) -> list[str]:
    "What is wrong with the shape of `registry`: `NAME: KEY` for each unknown key, wrong value or missing fact."
    found = []
    for name, entry in registry.items():
        facts = entry.get("facts") or {}
        found += [f"{name}: {k}" for k, v in entry.items() if k not in schema or not schema[k](v)]
        found += [f"{name}: facts.{k}" for k, v in facts.items() if k not in fact_schema or not fact_schema[k](v)]
        required = set(fact_schema) - {"size", "origin", "seen_in", "sha256"}
        found += [f"{name}: no facts.{k}" for k in sorted(required - set(facts))]
        found += [f"{name}: no source of {k}" for k in ("id", "licence", "rows") if k not in facts.get("source", {})]
        places = {"hf_hub_url", "ms_hub_url", "script_url", "file_name"}
        if not places & set(entry): found.append(f"{name}: nowhere to load it from")
        if "tags" in entry and entry.get("formatting") != "sharegpt": found.append(f"{name}: tags without sharegpt")
    return found


@pytest.fixture(scope="module")
def script():
    "tools/make_registry.py as a module."
    spec = importlib.util.spec_from_file_location("make_registry", root / "tools" / "make_registry.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_every_entry_has_the_shape_of_the_schema(): assert faults(registry) == []


@pytest.mark.parametrize("change, fault", [
    ({"column": {"prompt": "a"}}, "x: column"), ({"columns": {"promt": "a"}}, "x: columns"), ({"ranking": "yes"}, "x: ranking"),
    ({"hf_hub_url": "wiki_qa"}, "x: hf_hub_url"), ({"hf_hub_url": "https://huggingface.co/a/b"}, "x: hf_hub_url"),
    ({"formatting": "openai"}, "x: formatting"), ({"sha256": "ab"}, "x: sha256"), ({"file_name": "/tmp/a.json"}, "x: file_name"),
    ({"tags": {"role_tag": "role"}}, "x: tags without sharegpt"), ({"hf_hub_url": None}, "x: hf_hub_url"),
    ({"facts": {"licence": ""}}, "x: facts.licence"), ({"facts": {"commercial": "yes"}}, "x: facts.commercial"),
    ({"facts": {"rows": 0}}, "x: facts.rows"), ({"facts": {"language": "zh"}}, "x: facts.language")])
def test_each_fault_is_seen(change, fault):
    facts = {"part": "instruction", "about": "a", "licence": "mit", "commercial": True, "language": ["zh"], "rows": 1,
             "source": {"id": "a", "licence": "b", "rows": "c"}}
    entry = {"hf_hub_url": "owner/name", "facts": facts}
    assert faults({"x": entry}) == []
    assert fault in faults({"x": entry | change | {"facts": facts | change.get("facts", {})}})


def test_no_name_stands_twice():
    names = re.findall(r'^  "([^"]+)": \{', text, flags=re.M)
    assert len(names) == len(set(names)) == len(registry)
    assert len({name.lower() for name in names}) == len(names)
    pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    for _, entry in pairs: assert len({key for key, _ in entry}) == len(entry)


def test_what_the_seeds_name_is_listed():
    named = """
        alpaca alpaca_en alpaca_zh alpaca_gpt4_en alpaca_gpt4_zh identity chatglm_self_cognition open_assistant sharegpt_zh guanaco
        belle_2m belle_1m belle_0.5m belle_dialog belle_math belle_multiturn ultra_chat lima open_platypus codealpaca alpaca_cot
        openorca slimorca mathinstruct firefly wikiqa webqa webnovel nectar_sft deepctrl adgen sharegpt_hyper sharegpt4
        ultrachat_200k agent_instruct lmsys_chat evol_instruct glaive_toolcall_100k cosmopedia stem_zh ruozhiba_gpt4 llava_150k_en
        llava_150k_zh oasst_de dolly_15k_de alpaca-gpt4_de openschnabeltier_de evol_instruct_de dolphin_de booksum_de airoboros_de
        ultrachat_de dpo_mix_en dpo_mix_zh orca_pairs orca_dpo_de hh_rlhf_en nectar_rm kto_mix_en comparison_gpt4_en
        comparison_gpt4_zh wiki_demo refinedweb redpajama_v2 wikipedia_en wikipedia_zh pile skypile fineweb fineweb_edu the_stack
        starcoder_python toolalpaca chatdoctor_healthcaremagic chatdoctor_icliniq genmedgpt moss_002_sft moss_003_sft ceval cmmlu
        mmlu""".split()
    assert set(named) <= set(theirs), sorted(set(named) - set(theirs))


def test_commercial_use_is_never_claimed_without_a_licence():
    for name, entry in registry.items():
        facts, licence = entry["facts"], entry["facts"]["licence"].lower()
        if licence in ("unknown", "other"): assert facts["commercial"] == "unclear", name
        if "-nc" in licence: assert facts["commercial"] is False, name
        if facts["commercial"] is True: assert "not found" not in facts["source"]["licence"], name
        if facts["source"]["licence"] == "not found": assert licence == "unknown", name
        if "names no licence" in facts["source"]["licence"]: assert licence == "unknown", name


def test_rows_and_their_source_go_together():
    for name, entry in theirs.items():
        facts = entry["facts"]
        if facts["rows"] is None and "size" not in facts: assert facts["source"]["rows"] == "not found", name
        else: assert facts["source"]["rows"] != "not found", name


def test_sets_that_only_load_by_a_script_say_so():
    for name, entry in registry.items(): assert ("script" in entry) == ("script_url" in entry), name
    assert {name for name, entry in registry.items() if entry.get("script")} == {
        "belle_multiturn", "ultra_chat", "hh_rlhf_en", "redpajama_v2", "cmmlu"}
    for name in registry:
        if registry[name].get("script"): assert "hf_hub_url" in registry[name] or "origin" in registry[name]["facts"], name


def test_our_files_are_there_with_their_sum_and_rows():
    for name, entry in ours.items():
        path = root / "data" / entry["file_name"]
        assert path.exists(), f"{name}: {path.name} is not there"
        if path.is_file(): assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), name
        else: assert "sha256" not in entry and entry["facts"]["sha256"], name
        if path.suffix == ".jsonl":
            assert entry["facts"]["rows"] == len([json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]), name
        assert entry["facts"]["licence"] == "apache-2.0" and entry["facts"]["rows"]


def test_our_columns_are_in_the_files():
    for name, entry in ours.items():
        path = root / "data" / entry["file_name"]
        if path.suffix != ".jsonl" or "columns" not in entry: continue
        rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
        for part, column in entry["columns"].items():
            have = sum(column in row for row in rows)
            if name == "probe": assert 0 < have < len(rows)
            else: assert have == len(rows) or part in ("query", "history", "system", "tools"), f"{name}: {part} is {column}, in {have} rows"


def test_our_sets_load_by_name_and_are_read():
    for name, entry in ours.items():
        rows = load_rows(name)
        assert len(rows) == entry["facts"]["rows"], name
        kinds = {as_conversation(row)["kind"] for row in rows if "text" not in row or name != "probe"}
        assert kinds == {"preference" if entry.get("ranking") else {"multiple_choice": "choice", "text": "text"}.get(entry.get("format"), "chat")}


@pytest.mark.parametrize("name", [name for name in registry if registry[name].get("script")])
def test_scripts_of_others_are_refused(name):
    with pytest.raises(DataError, match=f"{name}.* read by a script.*parquet"): load_rows(name)


def test_the_file_is_up_to_date(script, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_registry.py", "--check"])
    assert script.main() == 0, capsys.readouterr().out


@pytest.fixture
def small(script, tmp_path, monkeypatch):
    "The script on a folder of its own with one file and one folder of questions."
    monkeypatch.setattr(script, "folder", tmp_path)
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n', encoding="utf-8")
    (tmp_path / "quiz").mkdir()
    (tmp_path / "quiz" / "b.csv").write_text('q,a\n"two\nlines",A\n', encoding="utf-8")
    (tmp_path / "quiz" / "a.csv").write_text("q,a\n1,A\n2,B\n", encoding="utf-8")
    facts = {"part": "ours", "rows": None}
    entries = {"z": {"facts": {"part": "evaluation"}}, "quiz": {"file_name": "quiz", "facts": facts}, "b": {"facts": {"part": "instruction"}},
               "a": {"facts": facts, "file_name": "a.jsonl"}}
    return tmp_path, entries


def test_sums_and_rows_of_a_file_and_of_a_folder(script, small):
    folder, entries = small
    fresh, problems = script.refresh(entries)
    assert problems == []
    assert fresh["a"]["facts"]["rows"] == 2 and fresh["quiz"]["facts"]["rows"] == 3
    assert fresh["a"]["sha256"] == hashlib.sha256((folder / "a.jsonl").read_bytes()).hexdigest()
    sums = "".join(f"{hashlib.sha256((folder / 'quiz' / f).read_bytes()).hexdigest()}  {f}\n" for f in ("a.csv", "b.csv"))
    assert fresh["quiz"]["facts"]["sha256"] == hashlib.sha256(sums.encode()).hexdigest()
    assert list(json.loads(script.layout(fresh))) == ["quiz", "a", "b", "z"]
    assert json.loads(script.layout(fresh)) == fresh and entries["a"]["facts"]["rows"] is None
    assert list(json.loads(script.layout(fresh))["a"]) == ["file_name", "sha256", "facts"]


def test_check_names_what_is_missing_changed_or_unlisted(script, small, capsys, monkeypatch):
    folder, entries = small
    (folder / "dataset_info.json").write_text(script.layout(entries), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["make_registry.py"])
    assert script.main() == 0 and "4 entries" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["make_registry.py", "--check"])
    assert script.main() == 0
    (folder / "a.jsonl").write_text('{"x": 3}\n', encoding="utf-8")
    (folder / "new.txt").write_text("one\n", encoding="utf-8")
    for file in (folder / "quiz").iterdir(): file.unlink()
    assert script.main() == 1
    said = capsys.readouterr().out
    assert "a: rows or sha256 differ" in said and "new.txt has no entry" in said and "quiz: data/quiz is not there" in said


def test_check_sees_another_layout(script, small, capsys, monkeypatch):
    folder, entries = small
    fresh, _ = script.refresh(entries)
    (folder / "dataset_info.json").write_text(json.dumps(fresh), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["make_registry.py", "--check"])
    assert script.main() == 1 and capsys.readouterr().out.strip() == "the layout differs"


def test_the_layout_is_one_block_for_each_entry(script):
    assert text == script.layout(registry)
    assert max(map(len, text.splitlines())) <= 400
    order = [registry[name]["facts"]["part"] for name in registry]
    assert order == sorted(order, key=script.parts.index)
    for part in script.parts[1:]:
        names = [name for name in registry if registry[name]["facts"]["part"] == part]
        assert names == sorted(names)


def test_demo_files_have_the_rows_that_are_stated(shared):
    found = 0
    for name, entry in theirs.items():
        file = shared / "data" / entry.get("file_name", "-")
        if not file.is_file(): continue
        lines = file.read_text(encoding="utf-8")
        rows = json.loads(lines) if file.suffix == ".json" else [line for line in lines.splitlines() if line.strip()]
        assert len(rows) == entry["facts"]["rows"], name
        if file.suffix == ".json": assert set(entry.get("columns", {}).values()) <= set(rows[0]), name
        shape = {key: entry[key] for key in ("formatting", "columns", "tags", "ranking") if key in entry}
        loaded = load_rows(file, entry.get("format") or shape or "alpaca")
        kind = {"preference": "preference", "pre-training": "text"}.get(entry["facts"]["part"], "chat")
        if "kto" in name: kind = "binary"
        assert {as_conversation(row)["kind"] for row in loaded} == {kind} and len(loaded) == len(rows), name
        found += 1
    if not found: pytest.skip("none of the demo files is here")
    assert found >= 5
