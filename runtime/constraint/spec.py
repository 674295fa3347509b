"""What an answer's text must look like, as plain values: the agreement between who asks and the compiler.

A tree of parts. Whoever asks (a request's fields, a tool-call format, a reasoning section) builds one; the compiler
turns it into a grammar, in another process first. Values only: nothing here is checked, rewritten or compiled, and no
size is limited.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class Json(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """JSON that a schema admits, written compactly. ``schema`` is the schema as JSON text."""

    schema: str


class Pattern(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Text that a regular expression matches as a whole."""

    regex: str


class Choice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Exactly one of these texts."""

    texts: tuple[str, ...]


class Lark(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Text of a context-free grammar in llguidance's Lark dialect, as a client wrote it: it may name no token."""

    grammar: str


class Literal(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Exactly this text. From the server, never from a client: the names of control tokens in it are those tokens."""

    text: str


class Until(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Any text up to and with the first ``end``, which is a Literal's text. With it a reasoning section ends."""

    end: str


class Sequence(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One part after the other."""

    parts: tuple[Part, ...]


class Either(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One of these parts."""

    parts: tuple[Part, ...]


class Unless(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A pattern or a choice, without the texts that begin with one of ``begins``."""

    part: Pattern | Choice
    begins: tuple[str, ...]


class Repeat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A part ``at_least`` to ``at_most`` times (None: any number), ``separator`` (a Literal's text) between them."""

    part: Part
    at_least: int = 0
    at_most: int | None = None
    separator: str = ""


class Tag(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A constrained island in free text: ``begin``, then ``body``, then ``end``; both marks are Literals' texts.

    ``trigger`` is the start of ``begin`` from which on the text is no longer free.
    """

    begin: str
    body: Part
    end: str
    trigger: str


class Tagged(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Free text in which every trigger begins one of ``tags``.

    ``at_least_one``: the text cannot end without a tag. ``stop_after_first``: it ends after one.
    """

    tags: tuple[Tag, ...]
    at_least_one: bool = False
    stop_after_first: bool = False


Part = Json | Pattern | Choice | Lark | Literal | Until | Sequence | Either | Unless | Repeat | Tagged


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """What one request demands, and the dotted name of the ``field`` to blame where it cannot be had."""

    part: Part
    field: str
