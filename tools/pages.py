"""The rules of a page: what `tools/check.py` asks of each notebook and of the book, without running anything.

A check takes the `Book` and returns problems, each one line that names the file, the fault and the cure.
"""
from __future__ import annotations

import ast
import configparser
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

largest = {"exported": 25, "cells": 70, "kilobytes": 300, "module": 600}  # more is a fault
aims = {"lesson": 12, "cells": 60, "module": 300, "symbols": 10, "image": 60}  # more gets a hint
tail_flags = {"cuda", "hub"}
skip_flags = tail_flags | {"slow", "notest"}


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook: its `index`, `kind` ("code", "markdown"), `source` and stored `outputs`."""
    index: int
    kind: str
    source: str
    outputs: list

    @cached_property
    def directives(self) -> dict[str, str]:
        found = re.findall(r"^#\s*\|\s*([\w-]+):?[ \t]*(.*)$", self.source, re.M) if self.kind == "code" else []
        return {name: value.strip() for name, value in found}

    @cached_property
    def code(self) -> str:
        "The source without directives and without lines for the shell or IPython."
        if self.kind != "code" or self.source.lstrip().startswith("%%"): return ""
        source = re.sub(r"^(\s+)[!%].*$", r"\1pass", self.source, flags=re.M)
        return "\n".join(line for line in source.split("\n") if not re.match(r"#\s*\||[!%]", line)).strip("\n")

    @property
    def exported(self) -> bool: return bool({"export", "exports", "exporti"} & set(self.directives))

    @property
    def evaluated(self) -> bool:
        return bool(self.code) and self.directives.get("eval", "true").lower() != "false"

    @property
    def flagged(self) -> bool: return bool(skip_flags & set(self.directives))


@dataclass(frozen=True)
class Page:
    """One notebook, named by its path below the book's root."""
    path: Path
    name: str

    @cached_property
    def raw(self) -> dict: return json.loads(self.path.read_text(encoding="utf-8"))

    @cached_property
    def cells(self) -> list[Cell]:
        return [Cell(i, c["cell_type"], "".join(c["source"]), c.get("outputs", []))
                for i, c in enumerate(self.raw["cells"])]

    @property
    def code_cells(self) -> list[Cell]: return [c for c in self.cells if c.kind == "code"]

    @property
    def number(self) -> float:
        found = re.match(r"(\d\d)_", self.path.name)
        return int(found[1]) if found else float("inf")  # the front page may use everything

    @property
    def is_lesson(self) -> bool: return self.number < 100

    @property
    def is_case_study(self) -> bool: return 60 <= self.number <= 69

    @property
    def module(self) -> str | None:
        names = [c.directives["default_exp"] for c in self.code_cells if "default_exp" in c.directives]
        return names[0] if names else None

    def at(self, cell: Cell) -> str: return f"{self.name} cell {cell.index}"


@dataclass(frozen=True)
class Book:
    """A checkout: its `root` folder, what settings.ini says, and its notebooks in reading order."""
    root: Path

    @cached_property
    def settings(self) -> dict[str, str]:
        parser = configparser.ConfigParser()
        parser.read(self.root / "settings.ini", encoding="utf-8")
        return dict(parser["DEFAULT"])

    @cached_property
    def pages(self) -> list[Page]:
        found = sorted(p for p in (self.root / "nbs").glob("*.ipynb"))
        return [Page(p, p.relative_to(self.root).as_posix()) for p in found]

    @property
    def lessons(self) -> list[Page]: return [p for p in self.pages if p.is_lesson]

    @property
    def package(self) -> Path: return self.root / self.settings["lib_path"]

    @property
    def address(self) -> str: return self.settings["git_url"]

    @property
    def install_cell(self) -> str:
        name, version = self.settings["lib_name"], self.settings["version"]
        return ('#| eval: false\nimport sys\nif "google.colab" in sys.modules:  # elsewhere the package is installed already\n'
                f'    !pip install -q "{name}[dev] @ git+{self.address}@v{version}"')

    def badge(self, page: Page) -> str:
        colab = "https://colab.research.google.com"
        where = self.address.replace("https://github.com", f"{colab}/github")
        target = f"{where}/blob/{self.settings['branch']}/{page.name}"
        return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({target})"


def lines_of(code: str) -> int:
    "Lines of `code` that somebody wrote: neither empty ones nor the marks that nbdev puts between cells."
    return sum(1 for line in code.split("\n") if line.strip() and not line.startswith("# %%"))


def imported_modules(cell: Cell, package: str) -> list[str]:
    "Names of the package's modules that `cell` imports by an import statement."
    found = []
    for node in ast.walk(ast.parse(cell.code)):
        if isinstance(node, ast.Import):
            found += [a.name.split(".")[1] for a in node.names if a.name.startswith(package + ".")]
        elif isinstance(node, ast.ImportFrom):
            origin = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            if origin == package: found += [a.name for a in node.names if not a.name.startswith("_")]
            elif origin.startswith(package + "."): found.append(origin.split(".")[1])
    return found


def check_names(book: Book) -> list[str]:
    "Each notebook is `index` or `NN_topic`; nbdev passes over names that begin with an underscore without a word."
    found = [f"{p.name}: name it NN_topic.ipynb" for p in book.pages
             if p.path.name != "index.ipynb" and not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", p.path.name)]
    numbers = [p.number for p in book.lessons]
    found += [f"{p.name}: another notebook has the number {p.number}" for p in book.lessons
              if numbers.count(p.number) > 1]
    return found if book.lessons else ["nbs: no notebook found"]


def check_contents(book: Book) -> list[str]:
    "The front page lists every lesson and no other."
    page = next((p for p in book.pages if p.path.name == "index.ipynb"), None)
    if not page: return ["nbs/index.ipynb: missing"]
    listed = set(re.findall(r"\]\((\d\d_\w+\.ipynb)\)", "\n".join(c.source for c in page.cells)))
    there = {p.path.name for p in book.lessons}
    return [f"nbs/index.ipynb: list the lesson {name}" for name in sorted(there - listed)] + [
        f"nbs/index.ipynb: lists {name}, which is not there" for name in sorted(listed - there)]


def check_links(book: Book) -> list[str]:
    "Links to files of the project lead to a file that is there."
    link = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
    return [f"{page.at(cell)}: link to {target}, which is not there" for page in book.pages for cell in page.cells
            if cell.kind == "markdown" for target in link.findall(cell.source)
            if not (page.path.parent / target).exists()]


def check_head(book: Book) -> list[str]:
    "A lesson opens with its module, title, one line, badge, table, its problem in English and Chinese."
    return [problem for page in book.lessons for problem in head_problems(book, page)]


def head_problems(book: Book, page: Page) -> list[str]:
    topic = page.path.stem[3:]
    found = []
    first = [f"#| default_exp {word}" for word in (topic, *topic.split("_"))]
    if not page.is_case_study and page.cells[0].source.strip() not in first:
        found.append(f"{page.name}: the first cell must be `{first[0]}` or one word of it, alone")
    heads = [c for c in page.cells if c.kind == "markdown"]
    title = heads[0].source if heads else ""
    if not re.match(r"# \S.*\n\n> \S", title):
        found.append(f"{page.name}: begin the first text with `# Title` and `> one line`")
    if book.badge(page) not in title: found.append(f"{page.name}: put this badge under the title: {book.badge(page)}")
    missing = [row for row in ("You will", "Before", "Needs", "Takes") if f"| **{row}**" not in title]
    if missing: found.append(f"{page.name}: the table lacks {', '.join(missing)}")
    if not any("> 中文：" in cell.source for cell in heads[1:2]):
        found.append(f"{page.name}: the second text lacks `> 中文：…`")
    return found


def check_install(book: Book) -> list[str]:
    "The one install cell, the same everywhere, made from settings.ini."
    found = []
    for page in book.lessons:
        cells = [c.source.strip() for c in page.code_cells if re.search(r"^\s*[!%]pip", c.source, re.M)]
        if cells != [book.install_cell]:
            found.append(f"{page.name}: have exactly one install cell, with the text\n{book.install_cell}")
    return found


def check_imports(book: Book) -> list[str]:
    "A notebook imports only from notebooks with a smaller number, by explicit names."
    numbers = {p.module: p.number for p in book.pages if p.module}
    return [problem for page in book.pages for cell in page.code_cells
            for problem in import_problems(book, page, cell, numbers)]


def import_problems(book: Book, page: Page, cell: Cell, numbers: dict[str, float]) -> list[str]:
    try: names = imported_modules(cell, book.settings["lib_path"])
    except SyntaxError as e: return [f"{page.at(cell)}: not Python: {e.msg}"]
    found = [f"{page.at(cell)}: no notebook exports `{n}`" for n in names if n not in numbers]
    found += [f"{page.at(cell)}: imports `{n}` of notebook {numbers[n]:02}; move the code or the notebook"
              for n in names if n in numbers and numbers[n] > page.number]
    if re.search(r"^\s*from \S+ import \*", cell.code, re.M):
        found.append(f"{page.at(cell)}: import explicit names, not *")
    return found


def check_tail(book: Book) -> list[str]:
    "Cells that need a GPU or the hub (`#| cuda`, `#| hub`) come last: no other code follows them."
    found = []
    for page in book.pages:
        flagged = [bool(tail_flags & set(c.directives)) for c in page.code_cells]
        first = flagged.index(True) if True in flagged else len(flagged)
        found += [f"{page.at(c)}: code after a cuda or hub cell; move it up or flag it"
                  for c, flag in zip(page.code_cells[first:], flagged[first:]) if not flag]
    return found


def check_case_studies(book: Book) -> list[str]:
    "Notebooks 60 to 69 export nothing; every other lesson exports something."
    found = [f"{p.name}: a case study exports nothing; remove default_exp and export" for p in book.lessons
             if p.is_case_study and (p.module or any(c.exported for c in p.code_cells))]
    return found + [f"{p.name}: exports nothing; flag a cell with `#| export`" for p in book.lessons
                    if not p.is_case_study and not any(c.exported for c in p.code_cells)]


def check_sizes(book: Book) -> list[str]:
    "Exported cells, notebooks and modules are within the sizes of the house style."
    found = [problem for page in book.pages for problem in size_problems(page)]
    return found + [f"{path.relative_to(book.root)}: {lines} lines, at most {largest['module']}; split the lesson"
                    for path, lines in module_lines(book) if lines > largest["module"]]


def module_lines(book: Book) -> list[tuple[Path, int]]:
    "Each exported module with its number of lines."
    paths = [path for path in sorted(book.package.glob("*.py")) if path.name != "_modidx.py"]
    return [(path, lines_of(path.read_text(encoding="utf-8"))) for path in paths]


def size_problems(page: Page) -> list[str]:
    found = [f"{page.at(c)}: exported cell of {lines_of(c.code)} lines, at most {largest['exported']}; split it"
             for c in page.code_cells if c.exported and lines_of(c.code) > largest["exported"]]
    cells, kilobytes = len(page.cells), page.path.stat().st_size // 1024
    if cells > largest["cells"]: found.append(f"{page.name}: {cells} cells, at most {largest['cells']}; split it")
    if kilobytes > largest["kilobytes"]:
        found.append(f"{page.name}: {kilobytes} KB, at most {largest['kilobytes']}; make the outputs smaller")
    return found


def size_hints(book: Book) -> list[str]:
    "What is larger than the house style aims for, without being a fault."
    found = [f"{p.at(c)}: lesson cell of {lines_of(c.code)} lines (aim for {aims['lesson']})" for p in book.pages
             for c in p.code_cells if not c.exported and lines_of(c.code) > aims["lesson"]]
    found += [f"{path.name}: {lines} lines (aim for {aims['module']})" for path, lines in module_lines(book)
              if lines > aims["module"]]
    for page in book.pages:
        counts = {"cells": len(page.cells), "public symbols": len(public_symbols(page))}
        found += [f"{page.name}: {n} {what} (aim for {aims[what.split()[-1]]})" for what, n in counts.items()
                  if n > aims[what.split()[-1]]]
        found += [f"{page.at(c)}: image of {size} KB (aim for {aims['image']})" for c in page.code_cells
                  for size in image_sizes(c) if size > aims["image"]]
    return found


def public_symbols(page: Page) -> list[str]:
    bodies = [ast.parse(c.code).body for c in page.code_cells if {"export", "exports"} & set(c.directives)]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for body in bodies for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def image_sizes(cell: Cell) -> list[int]:
    "Kilobytes of each image in the outputs of `cell`."
    found = [(kind, data) for output in cell.outputs for kind, data in output.get("data", {}).items()]
    return [len("".join(data)) * 3 // 4096 for kind, data in found if kind.startswith("image/")]


def check_outputs(book: Book) -> list[str]:
    "Stored outputs are there, without errors, machine paths, times or remains of progress bars."
    return [problem for page in book.pages for problem in output_problems(page)]


def output_problems(page: Page) -> list[str]:
    found = [f"{page.at(cell)}: {fault}" for cell in page.cells for fault in output_faults(cell)]
    kept = any(cell.outputs for cell in page.code_cells if not cell.flagged)
    return found if kept else found + [f"{page.name}: no stored output; make refresh"]


def output_faults(cell: Cell) -> list[str]:
    text = "\n".join(output_texts(cell))
    faults = {
        "an error as output; correct it and make refresh": any(o["output_type"] == "error" for o in cell.outputs),
        "a path of one machine in the source": machine_path.search(cell.source),
        "a path of one machine in the output; show a name instead": machine_path.search(text),
        "remains of a progress bar; switch the bar off in the lesson": bar.search(text),
        "a date and time in the output; leave it out": moment.search(text),
    }
    return [fault for fault, there in faults.items() if there]


machine_path = re.compile(r"(?<![\w.:~/-])/(home|root|work|tmp)/|[A-Z]:\\Users\\")
bar = re.compile(r"\d+%\|| \d+(\.\d+)?(it/s|s/it)\b|FloatProgress\(|IntProgress\(|\r(?!\n)")
moment = re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d")


def output_texts(cell: Cell) -> list[str]:
    "Everything in the outputs of `cell` that is text."
    found = [(kind, data) for output in cell.outputs for kind, data in output.get("data", {}).items()]
    return ["".join(output.get("text", [])) for output in cell.outputs] + [
        "".join(data) for kind, data in found if kind.startswith("text/")]


def check_proofs(book: Book) -> list[str]:
    "Each lesson runs something and proves something in cells that no flag skips."
    return [problem for page in book.pages for problem in proof_problems(page)]


def proof_problems(page: Page) -> list[str]:
    live = live_code(page)
    if not live: return [f"{page.name}: every cell is skipped; leave some to run"]
    proof = re.search(r"^\s*assert\b|\btest_\w+\(|\bexpect_fail\(|\braises\(", live, re.M)
    return [] if proof else [f"{page.name}: proves nothing; add an assert, a test_… or an expect_fail"]


def live_code(page: Page) -> str:
    "The code that a test run of `page` executes; none if its front matter says so."
    if any(re.search(r"^skip_exec\s*:", cell.source, re.M) for cell in page.cells): return ""
    return "\n".join(cell.code for cell in page.code_cells if cell.evaluated and not cell.flagged)


def check_address(book: Book) -> list[str]:
    "The repository's address stands once, in settings.ini; where it must be repeated it says the same."
    repo = re.escape(book.settings["repo"])
    link = re.compile(rf"(?:github\.com|research\.google\.com/github)/([\w.-]+)/{repo}\b")
    found = []
    for path in text_files(book.root):
        name = path.relative_to(book.root).as_posix()
        users = set(link.findall(path.read_text(encoding="utf-8", errors="ignore")))
        if users and not re.fullmatch(repeats, name):
            found.append(f"{name}: repeats the address; read it from settings.ini")
        found += [f"{name}: names the account {user}; settings.ini says {book.settings['user']}"
                  for user in sorted(users - {book.settings["user"]})]
    return found


repeats = r"nbs/.*\.ipynb|README(_zh)?\.md|pyproject\.toml|CHANGELOG\.md|chatglm_cookbook/_modidx\.py"


def text_files(root: Path) -> list[Path]:
    "Text files of the project below `root`, what is built or hidden excepted."
    kinds = {".py", ".md", ".toml", ".ini", ".yml", ".yaml", ".ipynb", ".txt", ".html", ".css", ""}
    skipped = {".venv", ".git", "_docs", "_proc", "build", "dist", "__pycache__", "golden", "data"}
    found = [root / ".ci" / "run", root / "Makefile", *root.glob("*.*"), *root.glob(".github/**/*.yml")]
    for folder in ("nbs", "tools", "docs", "tests", "configs", "chatglm_cookbook"): found += (root / folder).rglob("*")
    wanted = lambda path: path.is_file() and path.suffix in kinds and not skipped & set(path.relative_to(root).parts)
    return sorted(set(filter(wanted, found)))


def check_versions(book: Book) -> list[str]:
    "settings.ini, pyproject.toml, the package and CHANGELOG.md speak of one version and one project."
    version, name, oldest = (book.settings[key] for key in ("version", "lib_name", "min_python"))
    project = [f'version = "{version}"', f'name = "{name}"', f'requires-python = ">={oldest}"', f'"{book.address}"']
    wanted = {"pyproject.toml": project, "CHANGELOG.md": [f"## {version}"],
              f"{book.settings['lib_path']}/__init__.py": [f'__version__ = "{version}"']}
    return [f"{file}: lacks {text}, which settings.ini says" for file, texts in wanted.items()
            for text in texts if text not in (book.root / file).read_text(encoding="utf-8")]


checks = {
    "names": check_names, "contents": check_contents, "head": check_head, "install": check_install,
    "links": check_links, "imports": check_imports, "tail": check_tail, "case-studies": check_case_studies,
    "sizes": check_sizes, "outputs": check_outputs, "proofs": check_proofs, "address": check_address,
    "versions": check_versions,
}
