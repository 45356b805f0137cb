"""Bring data/dataset_info.json up to date with the files beside it: their sha256, their rows, the order of the entries.

    python tools/make_registry.py            # writes the file
    python tools/make_registry.py --check    # exits 1 and says what differs

What is known of other people's data (ids, columns, licences, where each was read) is written into the file by hand and
stays as it is; this script changes only the entries of the part `ours`, and how the whole is laid out.
"""
from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent.parent / "data"
parts = ["ours", "instruction", "preference", "pre-training", "evaluation"]
keys = ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "script", "file_name", "file_sha1", "sha256", "subset", "split",
        "folder", "num_samples", "format", "formatting", "ranking", "columns", "tags", "facts"]


def lines(value, depth: int = 1, width: int = 118) -> str:
    "`value` as JSON on one line, or, where it is a dict that is longer than `width`, one line for each of its keys."
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or 2 * depth + len(flat) <= width: return flat
    inside = [f"{'  ' * depth}{json.dumps(key, ensure_ascii=False)}: {lines(v, depth + 1, width)}" for key, v in value.items()]
    return "{\n" + ",\n".join(inside) + f"\n{'  ' * (depth - 1)}}}"


def layout(registry: dict) -> str:
    "The text of the file: ours in the order they have, then the other parts, each by name; keys in one order."
    ours = [name for name in registry if registry[name]["facts"]["part"] == "ours"]
    order = sorted(registry, key=lambda name: (parts.index(registry[name]["facts"]["part"]), name not in ours or ours.index(name), name))
    blocks = {name: {key: registry[name][key] for key in sorted(registry[name], key=keys.index)} for name in order}
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {lines(entry, 2)}" for name, entry in blocks.items()) + "\n}\n"


def bundled(name: str) -> list[Path]:
    "The file called `name` in the data folder, or the files of the folder called so, sorted; none where it is not there."
    path = folder / name
    if path.is_dir(): return sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    return [path] if path.is_file() else []


def digest(files: list[Path]) -> str:
    "sha256 of a file; of a folder's files, the sha256 of the lines that `sha256sum` prints for them inside it."
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    if files[0].parent == folder: return sums[0]
    return hashlib.sha256("".join(f"{s}  {f.name}\n" for s, f in zip(sums, files, strict=True)).encode()).hexdigest()


def count_rows(file: Path) -> int:
    "Rows of a `.jsonl`, `.json`, `.csv` with a header, or `.txt` in which every line that is not empty is a row."
    with file.open(encoding="utf-8", newline="") as opened:
        if file.suffix == ".csv": return sum(1 for row in csv.reader(opened) if row) - 1
        if file.suffix == ".json": return len(json.load(opened))
        return sum(1 for line in opened if line.strip())


def refresh(registry: dict) -> tuple[dict, list[str]]:
    "`registry` with the sums and rows of the files that are there, and the problems: files without entry, entries without file."
    fresh, problems = json.loads(json.dumps(registry)), []
    ours = {name: entry for name, entry in fresh.items() if entry["facts"]["part"] == "ours"}
    for name, entry in ours.items():
        files = bundled(entry["file_name"])
        for place in entry, entry["facts"]: place.pop("sha256", None)
        entry["facts"]["rows"] = sum(map(count_rows, files)) if files else None
        if files: (entry if (folder / entry["file_name"]).is_file() else entry["facts"])["sha256"] = digest(files)
        else: problems.append(f"{name}: data/{entry['file_name']} is not there")
    listed = {entry["file_name"] for entry in ours.values()}
    found = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".jsonl", ".csv", ".txt", ".parquet")]
    return fresh, problems + [f"data/{name} has no entry" for name in found if name not in listed]


def main() -> int:
    "Write the file, or compare it with `--check`; 0 when all is well."
    path = folder / "dataset_info.json"
    before = path.read_text(encoding="utf-8")
    old = json.loads(before)
    fresh, problems = refresh(old)
    after = layout(fresh)
    if "--check" in sys.argv[1:]:
        problems += [f"{name}: rows or sha256 differ" for name in fresh if fresh[name] != old[name]]
        if before != after and fresh == old: problems.append("the layout differs")
    else: path.write_text(after, encoding="utf-8")
    print("\n".join(problems) or f"{path.name}: {len(fresh)} entries")
    return int(bool(problems))


if __name__ == "__main__": raise SystemExit(main())
