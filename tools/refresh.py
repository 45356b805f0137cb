"""Runs notebooks top to bottom on a clean kernel, stores their outputs and cleans them; `make refresh` calls it.

    python tools/refresh.py                  every notebook
    python tools/refresh.py 00_core index    some of them

The model is `smol` unless COOKBOOK_MODEL says another. Cells that need a GPU or the hub keep the outputs they have.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
skipped = re.compile(r"^#\s*\|\s*(eval:\s*false|cuda|hub|slow|notest)\b", re.M)


def refresh(path: Path) -> float:
    "Seconds that the notebook at `path` took; its outputs are stored. Raises at the first error of a cell."
    import nbformat
    from nbclient import NotebookClient
    nb = nbformat.read(path, 4)
    live = [c for c in nb.cells if not (c.cell_type == "code" and skipped.search(c.source))]
    work = nbformat.v4.new_notebook(cells=live, metadata=nb.metadata)
    work.cells = live  # the very cells of `nb`, so that their outputs are stored there
    start = time.time()
    NotebookClient(work, timeout=1800, kernel_name="python3", record_timing=False, coalesce_streams=True,
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in live: move_errors(cell)
    nb.metadata = {k: v for k, v in work.metadata.items() if k != "widgets"}  # live widgets are not stored
    nbformat.write(nb, path)
    subprocess.run([Path(sys.executable).with_name("nbdev_clean"), "--fname", path], cwd=root, check=True)
    return time.time() - start


def move_errors(cell) -> None:
    "Prints what `cell` wrote to stderr, such as warnings of libraries about this machine, instead of storing it."
    said = [o for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    for output in said: print(f"  {output['text'].strip()}", flush=True)
    if said: cell["outputs"] = [o for o in cell["outputs"] if o not in said]


def chosen(names: list[str]) -> list[Path]:
    "Paths of the notebooks with these `names`, or of all."
    known = {path.stem: path for path in sorted((root / "nbs").glob("[!_]*.ipynb"))}
    unknown = [name for name in names if name not in known]
    if unknown: sys.exit(f"no such notebook: {' '.join(unknown)}; there are {' '.join(known)}")
    return [known[name] for name in names] or list(known.values())


def main() -> int:
    os.environ.setdefault("COOKBOOK_MODEL", "smol")
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # bars leave residue in stored outputs
    failed = []
    for path in chosen([Path(name).stem for name in sys.argv[1:]]):
        try: print(f"{path.stem}: {refresh(path):.0f} s, {path.stat().st_size // 1024} KB", flush=True)
        except Exception as e: failed.append(path.stem); print(f"{path.stem}: FAILED\n{e}", flush=True)
    import readme
    if not failed: (root / "README.md").write_text(readme.render(root), encoding="utf-8")
    print(f"failed: {' '.join(failed)}" if failed else "all refreshed, README.md rendered")
    return bool(failed)


if __name__ == "__main__": sys.exit(main())
