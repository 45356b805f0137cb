"""Settings of the site; `build.py` gathers what it shows."""
import configparser
from pathlib import Path

settings = configparser.ConfigParser()
settings.read(Path(__file__).resolve().parents[1] / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project, author, release = settings["lib_name"], settings["author"], settings["version"]
copyright = settings["copyright"]
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables too
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.lexer"]
default_role = "literal"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_show_sourcelink = False
html_sidebars = {"**": ["book.html"]}
templates_path = ["_templates"]
html_theme_options = {
    "navbar_start": ["navbar-logo"], "navbar_center": [], "show_prev_next": True, "navigation_with_keys": False,
    "icon_links": [{"name": "Repository", "url": settings["git_url"], "icon": "fa-brands fa-github"}],
}


def plain(text: str) -> str:
    "`text` of a docstring as reStructuredText: code in backticks, nothing else is markup."
    parts = text.split("`")
    escaped = ["".join("\\" + c if c in "\\*|_<>:-" else c for c in part) for part in parts]
    return "".join(f"``{part}``" if i % 2 and part.strip() else escaped[i] for i, part in enumerate(parts))


def parameters(source: object) -> list[tuple[str, str]]:
    "Names and comments of the parameters of a function, in order; the last one is `return`."
    from fastcore.docments import docments
    try: found = docments(source, full=True, returns=True)
    except (TypeError, ValueError, OSError, SyntaxError, AttributeError): return []
    return [(name, one["docment"]) for name, one in found.items() if isinstance(one, dict) and one.get("docment")]


def is_function(thing: object) -> bool: return callable(thing) and not isinstance(thing, type)


def describe(app, what, name, thing, options, lines: list[str]) -> None:
    "Makes a docstring safe and adds a table of the comments beside its parameters."
    lines[:] = [plain(line.strip()) for line in lines]
    found = parameters(thing) if is_function(thing) else []
    if not found: return
    lines += ["", ".. list-table::", "   :class: docments", "   :widths: auto", ""]
    for parameter, comment in found:
        label = "*returns*" if parameter == "return" else f"``{parameter}``"
        lines += [f"   * - {label}", f"     - {plain(' '.join(comment.split()))}"]
    lines.append("")


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", describe)
    return {"parallel_read_safe": True}
