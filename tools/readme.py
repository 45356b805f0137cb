"""Renders README.md from nbs/index.ipynb; `--check` only says whether it is up to date."""
from __future__ import annotations

import re
import sys
from pathlib import Path

notice = "<!-- Rendered from nbs/index.ipynb by tools/readme.py: edit the notebook. -->\n\n"


def render(root: Path) -> str:
    "The text of README.md that nbs/index.ipynb of the checkout at `root` gives."
    import nbformat
    from nbconvert import MarkdownExporter
    nb = nbformat.read(root / "nbs" / "index.ipynb", 4)
    nb.cells = [cell for cell in map(plain_cell, nb.cells) if cell.source.strip()]
    nb.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    return notice + relink(re.sub(r"\n{3,}", "\n\n", text).strip()) + "\n"


def plain_cell(cell):
    "`cell` without directives; empty if it is hidden."
    directives = re.findall(r"^#\s*\|\s*(\w+)", cell.source, re.M) if cell.cell_type == "code" else []
    if {"hide", "default_exp"} & set(directives): cell.source = ""
    if cell.cell_type == "code": cell.source = re.sub(r"^#\s*\|.*\n?", "", cell.source, flags=re.M)
    return cell


def relink(text: str) -> str:
    "`text` with links that hold in nbs/ turned into links that hold in the folder above."
    return re.sub(r"\]\((?!\w+:|#|\.\./)", "](nbs/", text).replace("](../", "](")


def is_current(root: Path) -> bool:
    path = root / "README.md"
    return path.exists() and path.read_text(encoding="utf-8") == render(root)


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    if "--check" not in sys.argv:
        (root / "README.md").write_text(render(root), encoding="utf-8")
    elif not is_current(root):
        print("README.md is not nbs/index.ipynb rendered; run python tools/readme.py")
        return 1
    return 0


if __name__ == "__main__": sys.exit(main())
