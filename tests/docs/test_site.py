"""The site of the documentation: navigation, links and reference. `make docs` builds it; nothing here needs MkDocs."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import aeplus.functional
import aeplus.journal
import aeplus.metrics
from aeplus.methods.registry import METHODS
from small import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
SOURCES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(DOCS / page for page in PAGES)]
LINK = re.compile(r"\]\(([^()\s]+)\)")


def load_hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


@pytest.fixture
def config() -> Any:
    values = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    return hooks.on_config(SimpleNamespace(nav=values["nav"], mdx_configs={"toc": {}}, repo_url=None))


def pages_of(entry: Any) -> list[str]:
    """The pages of a part of the navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(part)]


# ---- navigation


def test_every_page_is_in_the_navigation_once(config: Any) -> None:
    assert sorted(pages_of(config.nav)) == sorted([*PAGES, *hooks.GENERATED])
    assert [name for entry in config.nav for name in entry] == [
        "Start",
        "How to",
        "Reference",
        "Math",
        "Results",
        "Develop",
    ]


def test_the_pages_of_methods_are_the_registrys(config: Any) -> None:
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    methods = next(entry["Methods"] for entry in reference if "Methods" in entry)
    assert methods[2:] == [{name: f"methods/{name}.md"} for name in METHODS]
    assert {page.removeprefix("methods/") for page in pages_of(methods)} == {p.name for p in DOCS.glob("methods/*.md")}


def test_every_page_has_a_line_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    howto = (DOCS / "howto" / "index.md").read_text()
    for page in PAGES:
        if page.startswith("howto/"):
            assert page == "howto/index.md" or f"({page.removeprefix('howto/')})" in howto, page
        elif page != "index.md":
            assert f"({page}" in index, page


# ---- links


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^ *(```|~~~).*?^ *\1", "", text, flags=re.MULTILINE | re.DOTALL)
    found, seen = set(), dict[str, int]()
    for heading in re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE):
        slug = hooks.github_slug(re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading))
        found.add(slug if slug not in seen else f"{slug}-{seen[slug]}")
        seen[slug] = seen.get(slug, 0) + 1
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(source: Path) -> None:
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (source.parent / path).resolve() if path else source
        assert file.exists(), f"{source.name}: {target} leads to no file"
        if anchor and file.suffix == ".md":
            assert anchor in headings(file.read_text(encoding="utf-8")), f"{source.name}: {target} leads to no heading"


def test_anchors_are_githubs() -> None:
    assert hooks.github_slug("How to add …") == "how-to-add-"
    assert hooks.github_slug("What bounds P̃, measured") == "what-bounds-p-measured"
    assert hooks.github_slug("`best` against `converge`".replace("`", "")) == "best-against-converge"


@pytest.mark.parametrize(
    ("page", "given", "expected"),
    [
        ("data.md", "[s](streams.md#pools)", "[s](streams.md#pools)"),
        ("data.md", "[m](methods)", "[m](methods/index.md)"),
        ("index.md", "[C](../CONTRIBUTING.md#tests)", "[C](contributing.md#tests)"),
        ("methods/blue.md", "[C](../../CHANGELOG.md)", "[C](../changelog.md)"),
        ("readme.md", "![i](docs/images/a.png) [b](docs/methods)", "![i](images/a.png) [b](methods/index.md)"),
        ("contributing.md", "[r](README.md#install)", "[r](readme.md#install)"),
        ("methods/rect.md", "[`rect.yaml`](../../pyproject.toml)", "`rect.yaml`"),
        ("install.md", "[pins](../constraints.txt)", "pins (`constraints.txt`)"),
        ("install.md", "[w](https://a.b/c) [x](#extras)", "[w](https://a.b/c) [x](#extras)"),
        ("install.md", "[no](../gone.txt)", "[no](../gone.txt)"),
        ("install.md", "```\n[C](../CONTRIBUTING.md)\n```\n", "```\n[C](../CONTRIBUTING.md)\n```\n"),
    ],
)
def test_links_out_of_the_folder_stay_on_the_site(config: Any, page: str, given: str, expected: str) -> None:
    files = SimpleNamespace(get_file_from_path=lambda path: path if (DOCS / path).is_file() else None)
    shown = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hooks.on_page_markdown(given, shown, config, files) == expected


def test_links_to_sources_lead_to_the_repository_where_it_is_known(config: Any) -> None:
    config.repo_url = "https://example.org/aeplus/"
    shown = SimpleNamespace(file=SimpleNamespace(src_uri="install.md"))
    text = hooks.on_page_markdown("[pins](../constraints.txt#L2)", shown, config, SimpleNamespace())
    assert text == "[pins](https://example.org/aeplus/blob/main/constraints.txt#L2)"


# ---- what is made of docstrings


def described() -> list[str]:
    """What the pages of the reference describe."""
    return [
        name for path in DOCS.glob("reference/*.md") for name in re.findall(r"^::: ([\w.]+)$", path.read_text(), re.M)
    ]


@pytest.mark.parametrize("name", described())
def test_the_reference_describes_what_there_is(name: str) -> None:
    assert inspect.getdoc(pkgutil.resolve_name(name)), name


def test_the_reference_has_everything_that_is_public() -> None:
    names = set(described())
    assert {"aeplus.api.edit", "aeplus.api.EditResult", "aeplus.journal.Journal", "aeplus.functional"} <= names
    assert {f"aeplus.metrics.{module.name}" for module in pkgutil.iter_modules(aeplus.metrics.__path__)} <= names
    for public in aeplus.journal.__all__:
        assert f"aeplus.journal.{public}" in names
    for public in aeplus.functional.__all__:  # some functions hide the module of their name from the package's page
        assert getattr(aeplus.functional, public).__module__ in names, public


def test_references_of_docstrings_become_links() -> None:
    pytest.importorskip("latex2mathml")
    shown = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    text = "<p>see :class:<code>~aeplus.journal.Journal</code> and :meth:<code>log</code></p>"
    assert hooks.on_page_content(text, shown, None, None) == (
        '<p>see <autoref optional identifier="aeplus.journal.Journal"><code>Journal</code></autoref> and '
        "<code>log</code></p>"
    )


# ---- tables


def test_long_texts_of_tables_are_told_from_others() -> None:
    pytest.importorskip("latex2mathml")
    shown = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    long, name = "with <em>two</em> words &amp; " + "more " * 8, "<code>" + "x" * 30 + "</code>"
    text = f'<tr><td>{name}</td><td style="text-align: right;">5</td><td>{long}</td></tr>'
    assert hooks.on_page_content(text, shown, None, None) == text.replace(f"<td>{long}", f'<td class="long">{long}')


def test_the_results_have_no_contents_beside_them(config: Any) -> None:
    for page, hidden in (("results.md", ["toc"]), ("faq.md", [])):
        shown = SimpleNamespace(file=SimpleNamespace(src_uri=page), meta={})
        hooks.on_page_markdown("# Title", shown, config, SimpleNamespace())
        assert shown.meta.get("hide", []) == hidden
