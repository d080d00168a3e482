"""Text whose knowledge is preserved: a Wikipedia dump, a text file or a data set."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from aeplus.errors import InputError
from aeplus.utils.paths import expanded

WIKI_SAMPLE = "wiki-sample"
_SAMPLE_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_DATASET = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")
_FILES = (".txt", ".text", ".md", ".xml", ".bz2")  # what names end in that are no ids
_PARAGRAPH = 200  # characters; shorter lines are headings, lists and parts of tables


def gensim_file(name: str) -> Path:
    """Path of a file that the installed gensim contains.

    Raises:
        InputError: If gensim or the file is missing.
    """
    spec = importlib.util.find_spec("gensim")
    path = Path(spec.origin).parent / name if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        msg = f"expected gensim's file {name}, got no such file; run: pip install gensim."
        raise InputError(msg)
    return path


def require_corpus(source: str) -> None:
    """A file exists; whether a data set does is found out where it is read.

    Args:
        source: As :func:`read_texts` takes it.

    Raises:
        InputError: If it is no data set's id, and there is no such file.
    """
    if source == WIKI_SAMPLE or expanded(source).is_file():
        return
    if source.endswith(_FILES) or not _DATASET.fullmatch(source):
        msg = (
            f"expected a text file, a Wikipedia dump, a data set id or {WIKI_SAMPLE!r} as corpus, got {source!r}; "
            "check the path."
        )
        raise InputError(msg)


def read_texts(source: str) -> Iterator[str]:
    """Yields paragraphs of plain text.

    Args:
        source: ``"wiki-sample"`` (206 Wikipedia articles bundled with gensim), a MediaWiki dump (``.xml`` or
            ``.xml.bz2``), a text file with paragraphs, or a ``datasets`` id such as
            ``"Salesforce/wikitext:wikitext-103-raw-v1"`` with a ``text`` column.

    Raises:
        InputError: If there is no such source, or it contains no text.
    """
    require_corpus(source)
    path = gensim_file(_SAMPLE_FILE) if source == WIKI_SAMPLE else expanded(source)
    if path.is_file():
        texts = _dump(path) if path.name.endswith((".xml", ".bz2")) else _text_file(path)
    else:
        texts = _dataset(source)
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        msg = f"expected text in the corpus {source!r}, got none; choose another source."
        raise InputError(msg)


def _dump(path: Path) -> Iterator[str]:
    if importlib.util.find_spec("gensim") is None:
        msg = f"expected gensim to read the Wikipedia dump {path}, got no such package; run: pip install gensim."
        raise InputError(msg)
    import bz2

    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    with bz2.open(path) if path.name.endswith(".bz2") else path.open("rb") as file:
        pages = extract_pages(file, filter_namespaces=("0",))
        while (found := _next_page(pages, path)) is not None:
            _, page, _ = found
            for line in filter_wiki(page, promote_remaining=True, simplify_links=True).splitlines():
                clean = re.sub(r"'{2,}|\[\[|\]\]|^[*#:;\s]+", "", line).strip()
                if len(clean) >= _PARAGRAPH and not clean.startswith(("|", "!", "{", "=")):
                    yield clean


def _next_page(pages: Iterator[Any], path: Path) -> Any:
    """The next page of a dump; ``None`` after the last. The parser itself limits how far entities expand."""
    try:
        return next(pages, None)
    except (ParseError, OSError, EOFError, ValueError, StopIteration) as error:
        msg = f"expected a MediaWiki dump in {path}, got a file that cannot be read ({error}); download it again."
        raise InputError(msg) from error


def _text_file(path: Path) -> Iterator[str]:
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        msg = f"expected a readable text file as corpus, got an error from {path} ({error.strerror}); check it."
        raise InputError(msg) from error
    for block in re.split(r"\n\s*\n", content):
        if block.strip():
            yield " ".join(block.split())


def _dataset(source: str) -> Iterator[str]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        rows = load_dataset(name, config or None, split="train", streaming=True)
    except Exception as error:
        msg = f"expected the data set {source!r} on the hub or in the cache, got an error ({error}); check its id."
        raise InputError(msg) from error
    for row in rows:
        if "text" not in row:
            msg = f"expected a 'text' column in {source!r}, got the columns {sorted(row)}; choose another data set."
            raise InputError(msg)
        if row["text"].strip():
            yield row["text"].strip()
