"""A Dockerfile as stages of instructions: as much of its grammar as ours use. Expands no variables."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

IMAGES = ("cpu", "gpu")


@dataclass(frozen=True)
class Instruction:
    """``ENV`` and what follows it, on one line, without comments."""

    name: str
    text: str

    @property
    def words(self) -> list[str] | None:
        """The exec form's words; None for the shell form."""
        return json.loads(self.text) if self.text.startswith("[") else None


@dataclass(frozen=True)
class Stage:
    """One ``FROM`` up to the next."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        return [item for item in self.instructions if item.name == name]

    def pairs(self, name: str) -> dict[str, str]:
        """The ``KEY=VALUE`` of every ``ENV`` or ``LABEL``."""
        words = [word for item in self.all(name) for word in shlex.split(item.text)]
        return {key: value for key, _, value in (word.partition("=") for word in words)}


def instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        Instruction(name.upper(), rest.strip()) for name, _, rest in (x.partition(" ") for x in joined.splitlines())
    ]


def stages(path: Path) -> tuple[dict[str, str], dict[str, Stage]]:
    """(the ``ARG`` before the first stage, every stage by its name)."""
    arguments: dict[str, str] = {}
    found: dict[str, Stage] = {}
    current: list[Instruction] = []
    for item in instructions(path.read_text(encoding="utf-8")):
        if item.name == "FROM":
            base, _, name = item.text.partition(" AS ")
            found[name] = Stage(name, base, ())
            current = []
        elif found:
            current.append(item)
            name = next(reversed(found))
            found[name] = Stage(name, found[name].base, tuple(current))
        else:
            key, _, value = item.text.partition("=")
            arguments[key] = value
    return arguments, found
