"""Reads Markdown as far as the checks of the documentation need: pages, headings, links, fenced blocks.

Knows no rules; those are the tests'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

_FENCE = re.compile(r"^ *```(?P<language>\S*)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page, the line of its fence, the word behind the fence, and its lines without indentation."""

    page: Path
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def place(self) -> str:
        """Page and line, for a person."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README.md and every page of docs/, sorted."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opened: tuple[int, str, int] | None = None
    found: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence := _FENCE.match(line):
            if opened is None:
                opened, found = (number, fence["language"], len(line) - len(line.lstrip())), []
            else:
                yield Block(page, opened[0], opened[1], tuple(found))
                opened = None
        elif opened is not None:
            found.append(line[opened[2] :])


def prose(page: Path) -> list[tuple[int, str]]:
    """The lines of a page outside fenced blocks, with their numbers."""
    found, is_block = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            is_block = not is_block
        elif not is_block:
            found.append((number, line))
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Line and target of each link and picture of a page."""
    for number, line in prose(page):
        for found in _LINK.finditer(_CODE.sub("code", line)):
            yield number, found["target"]


def anchors(page: Path) -> set[str]:
    """What a link to the page may have behind ``#``, as forges make it of headings, and as mkdocs.yml says."""
    names: set[str] = set()
    for _, line in prose(page):
        if line.startswith("#"):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip())
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            number = 1
            while (unique := name if number == 1 else f"{name}-{number - 1}") in names:
                number += 1
            names.add(unique)
    return names
