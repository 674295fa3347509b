"""The commands that the documentation shows: what a block of shell lines holds. Runs nothing.

A line that cannot run in a test says why in its comment: ``needs`` and one of ``NEEDS``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from tests.docs.markdown import Block, blocks, pages

NEEDS = frozenset({
    "a GPU", "a network", "Docker", "Kubernetes", "a terminal", "root", "your files", "another shell",
})  # fmt: skip
SHELLS = frozenset({"sh", "console"})
"""Languages of fences that hold commands; of ``console`` the lines behind a ``$``."""

_NEEDS = re.compile(r"\bneeds (?P<need>[^:,;]+)")
_SETS = re.compile(r"[A-Z_][A-Z0-9_]*=.*", re.DOTALL)
_BETWEEN = frozenset({"|", "||", "&&", ";", "&"})
_REDIRECTS = frozenset({">", ">>", "<"})


@dataclass(frozen=True, slots=True)
class Line:
    """One command line, its continuations joined and its comment taken off; ``need`` is why it is not run, or None."""

    block: Block
    text: str
    need: str | None

    def commands(self) -> list[list[str]]:
        """The words of each program that the line calls, without variables set before it and redirections behind."""
        found: list[list[str]] = [[]]
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, ""
        words = iter(lexer)
        for word in words:
            if word in _BETWEEN:
                found.append([])
            elif word in _REDIRECTS:
                next(words)
            elif found[-1] or not _SETS.fullmatch(word):
                found[-1].append(word)
        return [command for command in found if command]

    def programs(self) -> list[str]:
        """The names of those programs, without the folders they lie in."""
        return [PurePath(command[0]).name for command in self.commands()]


def shell_blocks() -> list[Block]:
    """Every block of commands, page by page, in order."""
    return [block for page in pages() for block in blocks(page) if block.language in SHELLS]


def lines(block: Block) -> Iterator[Line]:
    """The command lines of a block."""
    text, comments = "", list[str]()
    shown = block.lines
    if block.language == "console":
        shown = tuple(line.removeprefix("$ ") for line in block.lines if line.startswith("$ "))
    for physical in shown:
        code, comment = _split(physical, is_open=bool(text) and not _is_whole(text.removesuffix("\\")))
        comments += [comment] if comment else []
        text += code
        if not _is_whole(text):  # also where it ends in a backslash
            text = text.removesuffix("\\") + ("" if code.endswith("\\") else "\n")
        elif text.strip():
            yield Line(block, text.strip(), _need(" ".join(comments)))
            text, comments = "", []
        else:
            text, comments = "", []
    if text.strip():
        raise ValueError(f"{block.place}: a quote or a line ends nowhere: {text.strip()[:60]}")


def _split(physical: str, *, is_open: bool) -> tuple[str, str]:
    """A line's code and its comment, which begins at a ``#`` that follows a space and lies outside quotes."""
    for found in re.finditer(r"(?:^|(?<=\s))#(?:\s|$)", physical):
        if _is_whole(physical[: found.start()]) is not is_open:
            return physical[: found.start()].rstrip(), physical[found.end() :]
    return physical.rstrip(), ""


def _is_whole(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def _need(comment: str) -> str | None:
    found = _NEEDS.search(comment)
    return found["need"].strip() if found else None
