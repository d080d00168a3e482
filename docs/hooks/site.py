"""Hooks of MkDocs: what the site has beyond the Markdown files in `docs`.

- a page for each method of the registry, in its order;
- CONTRIBUTING.md, CHANGELOG.md and README.md of the repository as pages;
- links that leave `docs` as GitHub has them lead to those pages, to the repository, or become names of files;
- headings have the anchors that GitHub gives them;
- references in docstrings (`:class:` and the like) are links, where the site describes what they name;
- cells of tables with long texts have the class `long`, and a page of wide tables has no contents beside them;
- formulas are MathML, so that a reader needs a browser only, no script and no network.
"""

import html
import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from aeplus.methods.registry import METHODS  # noqa: E402

GENERATED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "readme.md": "README.md"}
"""Pages of the site by the file of the repository they are made from."""

WIDE = ("results.md",)
"""Pages whose tables take the place of the contents beside them."""

_LOG = logging.getLogger("mkdocs.hooks.site")  # a warning ends a strict build
_PAGES = {source: page for page, source in GENERATED.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):<code>(~?)([\w.]+)</code>")
_CELL = re.compile(r"<td>(.*?)</td>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_LONG = 40  # characters that a column of a table must not break into single words
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def github_slug(text: str, separator: str = "-") -> str:
    """The anchor that GitHub gives a heading: `How to add …` has `how-to-add-`."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)


def method_pages() -> list[dict[str, str]]:
    """The entries of the navigation: every method's page, under its name."""
    return [{name: f"methods/{name}.md"} for name in METHODS]


def on_config(config: Any) -> Any:
    """Completes the navigation, and sets what YAML cannot."""
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    methods = next(entry["Methods"] for entry in reference if "Methods" in entry)
    methods += [page for page in method_pages() if page not in methods]
    config.mdx_configs["toc"]["slugify"] = github_slug
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made from files of the repository."""
    from mkdocs.structure.files import File

    for page, source in GENERATED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links to where they go on the site; code stays as it is."""
    source = page.file.src_uri
    if source in WIDE:
        page.meta["hide"] = [*page.meta.get("hide", []), "toc"]
    here = "" if source in GENERATED else posixpath.join("docs", posixpath.dirname(source))

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, sharp, anchor = target.partition("#")
        if "://" in target or not path or target.startswith("mailto:"):
            return match[0]
        wanted = posixpath.normpath(posixpath.join(here, path))
        if wanted in _PAGES:
            inside = _PAGES[wanted]
        elif wanted.startswith("docs/"):
            inside = wanted.removeprefix("docs/")
            if files.get_file_from_path(f"{inside}/index.md") is not None:
                inside += "/index.md"
        elif not (ROOT / wanted).exists():
            return match[0]  # MkDocs says that there is no such file
        elif config.repo_url:
            return f"{image}[{text}]({config.repo_url.rstrip('/')}/blob/main/{wanted}{sharp}{anchor})"
        else:
            return text if text.startswith("`") else f"{text} (`{wanted}`)"
        relative = posixpath.relpath(inside, posixpath.dirname(source) or ".")
        return f"{image}[{text}]({relative}{sharp}{anchor})"

    return _outside_code(markdown, lambda prose: _LINK.sub(link, prose))


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML, references of docstrings as links, and long texts of tables told from others."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        tag, bracket, latex = match.groups()
        display = "block" if bracket == "[" else "inline"
        mathml = convert(html.unescape(latex).strip(), display=display)
        if "\\" in mathml:
            _LOG.warning("%s: a command of the formula %r is unknown", page.file.src_uri, latex)
        return f'<{tag} class="arithmatex">{mathml}</{tag}>'

    def reference(match: re.Match[str]) -> str:
        short, name = match.groups()
        shown = f"<code>{name.rpartition('.')[2] if short else name}</code>"
        return f'<autoref optional identifier="{name}">{shown}</autoref>' if "." in name else shown

    def cell(match: re.Match[str]) -> str:
        long = len(html.unescape(_TAG.sub("", match[1]))) > _LONG
        return f'<td class="long">{match[1]}</td>' if long else match[0]

    return _ROLE.sub(reference, _FORMULA.sub(formula, _CELL.sub(cell, content)))


def _outside_code(markdown: str, change: Any) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
