"""The blocks of code in README and docs: found, marked, and shell taken apart into commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from small import ROOT

NEEDS = ("hub", "gpu", "server", "minutes", "model")
"""What a marker may name: a package index or hub (or data from there), a GPU, a server, minutes, a real model."""

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SHELL, _OPENING = ("bash", "sh", "shell", "console"), re.compile(r"^( *)(```+|~~~+)\s*([\w+-]*)")
_MARKER = re.compile(r"^\s*<!-- (needs|file): ([\w.\-, ]+?) -->\s*$")
_COMMANDS = re.compile(r"^\s*(aeplus|python|pip|make|nice|for|vllm|tensorboard|\.venv/bin/\w+|[A-Z]\w*=\S)")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page: Its file, relative to the repository.
        line: The number of its first line.
        language: ``bash``, ``python``, ``yaml``, ``json``, … or empty; indented blocks are ``bash`` if they begin with
            a command.
        text: What it holds, without indentation.
        needs: What the marker above it names; empty if there is none.
        file: The name of the file that it is, if the marker above it says so.
    """

    page: str
    line: int
    language: str
    text: str
    needs: tuple[str, ...] = ()
    file: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, loops and variables expanded, as lists of words."""
        return list(shell_commands(self.text))


def blocks_of(text: str, page: str) -> list[Block]:
    """All fenced and indented blocks of a page."""
    found, lines, number = [], text.split("\n"), 0
    while number < len(lines):
        start = number
        if fence := _OPENING.match(lines[number]):
            indent, mark, language = fence.groups()
            number += 1
            while number < len(lines) and lines[number].strip() != mark:
                number += 1
            if number == len(lines):
                msg = f"expected a fence that is closed, got one left open at {page}:{start + 1}; close it."
                raise ValueError(msg)
            body = [line.removeprefix(indent) for line in lines[start + 1 : number]]
            found.append(_block(page, start, "bash" if language in _SHELL else language, body, lines))
        elif lines[number].startswith("    ") and lines[number].strip() and (not start or not lines[start - 1].strip()):
            while number + 1 < len(lines) and (lines[number + 1].startswith("    ") or not lines[number + 1].strip()):
                number += 1
            body = [line[4:] for line in lines[start : number + 1]]
            language = "bash" if _COMMANDS.match(body[0]) else ""
            found.append(_block(page, start, language, body, lines))
        number += 1
    return found


def all_blocks() -> list[Block]:
    """The blocks of README and of every page of docs."""
    return [block for path in PAGES for block in blocks_of(path.read_text("utf-8"), str(path.relative_to(ROOT)))]


def _block(page: str, start: int, language: str, body: list[str], lines: list[str]) -> Block:
    marks, above = dict[str, str](), start - 1
    while above >= 0 and (not lines[above].strip() or _MARKER.match(lines[above])):
        if marker := _MARKER.match(lines[above]):
            marks.setdefault(marker[1], marker[2])
        above -= 1
    needs = tuple(word.strip() for word in marks.get("needs", "").split(",") if word.strip())
    return Block(page, start + 1, language, "\n".join(body).strip("\n") + "\n", needs, marks.get("file", ""))


def shell_commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell text: words as the shell would pass them on, but patterns of files as they are.

    Known are comments, quotes, continued lines, ``;``, ``&&``, variables and ``for … in …; do … done``.
    """
    words = list[str]()
    for line in re.sub(r"\\\n", " ", text).split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words += [*lexer, ";"]
    yield from _run(_statements(words), {})


def _statements(words: list[str]) -> list[list[str]]:
    statements: list[list[str]] = [[]]
    for word in words:
        if word in (";", "&&"):
            statements.append([])
        elif word == "do":  # the first command of a loop may stand behind it
            statements += [["do"], []]
        else:
            statements[-1].append(word)
    return [statement for statement in statements if statement]


def _run(statements: list[list[str]], variables: dict[str, str]) -> Iterator[list[str]]:
    position = 0
    while position < len(statements):
        statement = statements[position]
        if statement[0] == "for":
            end = _done(statements, position)
            for value in _expanded(statement[3:], variables):
                variables[statement[1]] = value
                yield from _run(statements[position + 2 : end], variables)
            position = end
        elif len(statement) == 1 and (setting := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", statement[0])):
            variables[setting[1]] = _expanded([setting[2]], variables)[0]
        else:
            yield _expanded(statement, variables)
        position += 1


def _done(statements: list[list[str]], start: int) -> int:
    depth = 0
    for position in range(start, len(statements)):
        depth += {"for": 1, "done": -1}.get(statements[position][0], 0)
        if depth == 0:
            return position
    msg = "expected a loop that ends, got one without done; add it."
    raise ValueError(msg)


def _expanded(words: list[str], variables: dict[str, str]) -> list[str]:
    return [_VARIABLE.sub(lambda name: variables[name[1] or name[2]], word) for word in words]


def files_of_pages() -> dict[str, str]:
    """Files that pages tell their readers to save: compositions by the name of their method, and marked blocks."""
    files = {}
    for block in all_blocks():
        if block.file:
            files[block.file] = block.text
        elif block.language == "yaml" and (name := re.search(r"^ {4}name: (\w+)$", block.text, re.MULTILINE)):
            files[f"{name[1]}.yaml"] = block.text
    return files
