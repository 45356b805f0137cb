"""Builds the site into _docs/html from the notebooks' stored outputs and the modules' docstrings; runs no notebook.

`make docs` calls it. A warning is an error.
"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tools"))

from pages import Book, Page  # noqa: E402

parts = {0: "Foundations", 10: "Use", 20: "Fine-tune", 30: "Align", 37: "Judge and ship", 50: "Beyond", 60: "Case studies"}


def web_cell(cell: dict, book: Book) -> dict | None:
    "`cell` as the site shows it, or None: no directives, and links out of the book lead to the repository."
    source = "".join(cell["source"])
    if cell["cell_type"] == "code":
        if re.search(r"^#\s*\|\s*(default_exp|hide)\b", source, re.M): return None
        source = re.sub(r"^#\s*\|.*\n?", "", source, flags=re.M)
    blob = f"{book.address}/blob/{book.settings['branch']}/"
    return {**cell, "source": source.replace("](../", f"]({blob}")} if source.strip() else None


def web_page(page: Page, book: Book) -> dict:
    "The notebook of `page` as the site shows it."
    cells = [web_cell(cell, book) for cell in page.raw["cells"]]
    about = {**page.raw["metadata"], "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return {**page.raw, "metadata": about, "cells": [cell for cell in cells if cell]}


def contents(book: Book) -> str:
    "Tables of contents, one for each part of the book that has lessons and one for the modules."
    part = lambda page: parts[max(first for first in parts if first <= int(page.number))]
    groups = {title: [p.path.stem for p in book.lessons if part(p) == title] for title in parts.values()}
    groups["Modules"] = [f"api/{p.module}" for p in book.lessons if p.module]
    return "\n".join(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(names) + "\n```\n"
                     for title, names in groups.items() if names)


def module_page(page: Page, book: Book) -> str:
    "Page of the module that a lesson exports, in MyST."
    name = f"{book.settings['lib_path']}.{page.module}"
    return (f"# {page.module}\n\nThe lesson: [{page.path.stem}](../{page.path.name})\n\n"
            f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n")


def gather(book: Book, folder: Path) -> None:
    "Writes all sources of the site into `folder`, anew."
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    for page in book.pages:
        notebook = web_page(page, book)
        if page.path.stem == "index":
            last = {"cell_type": "markdown", "id": "contents", "metadata": {}, "source": contents(book)}
            notebook["cells"].append(last)
        (folder / page.path.name).write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")
    for page in book.lessons:
        if page.module: (folder / "api" / f"{page.module}.md").write_text(module_page(page, book), encoding="utf-8")


def main() -> int:
    book, built = Book(root), root / "_docs"
    gather(book, built / "source")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", root / "docs", "-d", built / "doctrees", "-W",
               "--keep-going", "-q", built / "source", built / "html"]
    status = subprocess.run([str(part) for part in command], cwd=root).returncode
    print("the site is in _docs/html/index.html" if status == 0 else "the site has faults, named above")
    return status


if __name__ == "__main__": sys.exit(main())
