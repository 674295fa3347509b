"""How models mark the reasoning before their answer, and which model marks it how.

Owns the marks, the choice by name or by chat template, whether a prompt has already opened the section, and the
constraint part that lets the reasoning be free and holds what comes after it. Reads no answer.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum

from runtime.constraint.spec import (
    Choice,
    Either,
    Lark,
    Literal,
    Part,
    Pattern,
    Sequence,
    Tagged,
    Unless,
    Until,
)
from runtime.errors import UnknownParser


class Section(Enum):
    """Where an answer stands as it begins, as its prompt's end tells."""

    OPEN = "the prompt opened the section, or the model never opens it itself"
    POSSIBLE = "the model may open the section"
    CLOSED = "the prompt closed the section: there is no reasoning"


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """One way to mark the section: it begins with one of ``begins`` and ends with ``end``, or one of ``other_ends``.

    ``gap`` is what the models write between the end and the answer. ``implied``: the section is there even if nothing
    opens it. An answer that begins with ``skip`` has no section. ``end`` is also what a token budget writes to end the
    section. Marks that are not one control token each name those that they are made of in ``tokens``.
    """

    name: str
    begins: tuple[str, ...]
    end: str
    other_ends: tuple[str, ...] = ()
    gap: str = "\n\n"
    implied: bool = False
    skip: str = ""
    tokens: tuple[str, ...] = ()

    @property
    def control_texts(self) -> tuple[str, ...]:
        """What may be control tokens: their text must reach the parser, although such tokens are left out otherwise."""
        return self.tokens or (*self.begins, self.end, *self.other_ends)

    def section(self, prompt: str, *, prefill: str = "") -> Section:
        """What the end of a prompt says. ``prefill`` is the text of a last message that the answer continues."""
        if prefill:
            opened = max(prefill.rfind(begin) for begin in self.begins)
            if opened >= 0:
                return Section.CLOSED if self.end in prefill[opened:] else Section.OPEN
            return Section.CLOSED
        end = prompt.rstrip()
        if end.endswith(self.end):
            return Section.CLOSED
        return Section.OPEN if self.implied or end.endswith(self.begins) else Section.POSSIBLE

    def before(self, part: Part, section: Section) -> Part:
        """The constraint of an answer whose text after the reasoning must be ``part``."""
        rest = (Until(self.end), Literal(self.gap), part) if self.gap else (Until(self.end), part)
        if section is Section.CLOSED:
            return part
        if section is Section.OPEN:
            return Sequence(rest)
        at_once = Sequence((Literal(self.skip), part)) if self.skip else _unless_begun(part, self.begins)
        return Either((at_once, *(Sequence((Literal(begin), *rest)) for begin in self.begins)))

    def opened(self, part: Part, section: Section) -> Part | None:
        """The constraint that holds from behind a mark on, once the answer has begun with one.

        None where ``before`` leaves no text that begins with a mark and is no section.
        """
        is_told_apart = section is not Section.POSSIBLE or self.skip or not _may_begin_alike(part)
        return None if is_told_apart else self.before(part, Section.OPEN)


def _unless_begun(part: Part, begins: tuple[str, ...]) -> Part:
    """The part without texts that would be read as reasoning, as far as such a part can be written."""
    if isinstance(part, Either):
        return Either(tuple(_unless_begun(inner, begins) for inner in part.parts))
    return Unless(part, begins) if isinstance(part, Pattern | Choice) else part


def _may_begin_alike(part: Part) -> bool:
    """Whether what ``_unless_begun`` makes of a part may still begin with a mark: what is no JSON and not regular."""
    if isinstance(part, Either):
        return any(map(_may_begin_alike, part.parts))
    return isinstance(part, Lark) or (isinstance(part, Tagged) and bool(part.tags))


_THINK = ("<think>",)
THINK = ReasoningForm("think", _THINK, "</think>")
GRANITE = ReasoningForm(
    "granite",
    ("Here is my thought process:", "Here's my thought process:"),
    "Here is my response:",
    other_ends=("Here's my response:",),
    gap="",
)
MISTRAL = ReasoningForm("mistral", ("[THINK]",), "[/THINK]", gap="")
GEMMA4 = ReasoningForm("gemma4", ("<|channel>thought\n",), "<channel|>", gap="", tokens=("<|channel>", "<channel|>"))
GPT_OSS = ReasoningForm(
    "gpt_oss",
    ("<|channel|>analysis<|message|>",),
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    gap="",
    skip="<|channel|>final<|message|>",
    tokens=("<|channel|>", "<|message|>", "<|end|>", "<|start|>"),
)
SEED_OSS = ReasoningForm("seed_oss", ("<seed:think>",), "</seed:think>", gap="")
DEEPSEEK_R1 = ReasoningForm("deepseek_r1", _THINK, "</think>", implied=True)

FORMS = {form.name: form for form in (THINK, DEEPSEEK_R1, GRANITE, MISTRAL, GEMMA4, GPT_OSS, SEED_OSS)}
"""The forms by their names here."""
_ALIASES = (
    dict.fromkeys(
        ("deepseek_v3", "glm45", "holo2", "mimo", "nemotron_v3", "olmo3", "qwen3", "smollm3", "step3p5"), "think"
    )
    | dict.fromkeys(("minimax_m2", "qwq", "step3"), "deepseek_r1")
    | {"openai_gptoss": "gpt_oss"}
)
"""Other names, most of them vLLM's -> the form."""
NONE = "none"
_MARKS = (
    ("[THINK]", MISTRAL),
    ("<|channel>thought", GEMMA4),
    ("<|channel|>analysis<|message|>", GPT_OSS),
    ("<seed:think>", SEED_OSS),
    ("Here is my thought process:", GRANITE),
    ("<think>", THINK),
    ("</think>", THINK),
)
"""Text in a template's source -> the form it shows; the first that is found counts."""


def reasoning_by_name(name: str) -> ReasoningForm | None:
    """The form of this name, vLLM's names among them; None for "none". Raises UnknownParser, with all names."""
    if name == NONE:
        return None
    if (form := FORMS.get(_ALIASES.get(name, name))) is not None:
        return form
    names = sorted([*FORMS, *_ALIASES, NONE])
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownParser(f"there is no reasoning parser {name[:64]!r}; there are: {', '.join(names)}.{hint}")


def detect_reasoning(template_source: str) -> ReasoningForm | None:
    """The form that a chat template shows; None where it shows none."""
    return next((form for mark, form in _MARKS if mark in template_source), None)
