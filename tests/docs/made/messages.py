"""docs/reference/messages.md, made from the ``raise`` statements of the rooms. Runs nothing of theirs."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from tests.docs.made.cells import plain
from tests.paths import ROOT
from tests.test_architecture import ROOMS, modules, nodes

GAP = "…"
"""Stands in a message for what is put in when it is made."""

_HEAD = """# Messages

Every message that the code's errors are made with, by kind. `…` stands for what is put in: a name, a number, another
message. For the ones that people meet, [troubleshooting](../troubleshooting.md) has causes and fixes.
"""
_NOT_FOR_PEOPLE = {"AssertionError", "KeyError", "NotImplementedError", "TypeError"}
_REFUSAL = "ErrorAnswer"
_OF_CLICK = {"BadParameter", "ClickException", "UsageError"}


def page() -> str:
    """The whole page, Markdown: a section for each kind of error that has a message."""
    meanings, messages = kinds(), raised()
    lines = [_HEAD]
    for room in ROOMS:
        for name in sorted(name for name, home in meanings if home == room and name in messages):
            meaning = meanings[name, room]
            lines += [f"## {name}\n", f"{meaning} (`{room}`)\n", *(f"* {_shown(text)}" for text in messages[name]), ""]
    lines += ["## Refused before a route\n", *(f"* {_shown(text)}" for text in messages[_REFUSAL]), ""]
    words = sorted({text for name in _OF_CLICK for text in messages.get(name, ())})
    lines += ["## Wrong words on the command line\n", *(f"* {_shown(text)}" for text in words)]
    return "\n".join(lines) + "\n"


def kinds() -> dict[tuple[str, str], str]:
    """What each class of ``ROOM/errors.py`` stands for, by its name and room: the first paragraph of its docstring."""
    found: dict[tuple[str, str], str] = {}
    known = modules()
    for room in ROOMS:
        for node in nodes(known[f"{room}.errors"]):
            if isinstance(node, ast.ClassDef):
                meaning = (ast.get_docstring(node) or "").split("\n\n")[0]
                found[node.name, room] = plain(meaning).replace("``", "`")
    return found


def raised() -> dict[str, list[str]]:
    """The messages of each class that a ``raise`` or a refusal names, sorted, each once."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules().values():
        named = _named_texts(nodes(path))
        for node in nodes(path):
            made = node.exc if isinstance(node, ast.Raise) else node
            if isinstance(made, ast.Call) and (name := _name(made, is_raised=made is not node)):
                texts = [text for argument in made.args for text in _texts(argument, named) if _says(text)]
                found[name] |= set(texts if isinstance(made.args[0], ast.Name) else texts[:1])
    return {name: sorted(texts) for name, texts in found.items() if texts}


def every_text() -> list[str]:
    """Every text that the rooms and the command line write out or put together, in no order."""
    paths = [*modules().values(), ROOT / "powertrain.py"]
    return [text for path in paths for node in nodes(path) if (text := text_of(node))]


def _name(call: ast.Call, *, is_raised: bool) -> str | None:
    name = ast.unparse(call.func).rsplit(".", 1)[-1]
    is_wanted = call.args and name not in _NOT_FOR_PEOPLE and (is_raised or name == _REFUSAL)
    return name if is_wanted else None


def _named_texts(all_nodes: tuple[ast.AST, ...]) -> dict[str, list[str]]:
    """The texts that a module gives a name before it raises them, by that name."""
    found: dict[str, list[str]] = defaultdict(list)
    for node in all_nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (text := text_of(node.value)):
            found[node.targets[0].id].append(text)
    return found


def _texts(argument: ast.AST, named: dict[str, list[str]]) -> list[str]:
    if isinstance(argument, ast.Name):
        return named.get(argument.id, [])
    text = text_of(argument)
    return [] if text is None else [text]


def text_of(node: ast.AST) -> str | None:
    """The text that an expression makes, with a gap for each part that only a run knows; None for no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else (left or GAP) + (right or GAP)
    return None


def _says(text: str) -> bool:
    """Whether enough of a message stands in the code to find it by."""
    return len(re.findall(r"[A-Za-z]{2,}", text)) > 2


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return f"`` {words} ``" if "`" in words else f"`{words}`"
