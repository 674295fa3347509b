"""What ``|safe`` makes of a text: Jinja2's ``Markup``, which escapes whatever is added to it, with trusted spans.

transformers escapes nothing by itself, but published templates write ``arguments | tojson | safe`` and then add to it,
and their prompts are what Jinja2 makes of that. A text keeps its trust only if escaping leaves it as it is.
"""

# ruff: noqa: D102 - __new__ is documented by its class

from __future__ import annotations

from markupsafe import Markup, escape

from runtime.text.template.piece import Piece, Spans, joined, marked, spans_of


class SafePiece(Markup):
    """Markup with trusted spans. ``SafePiece(text)`` has none, so whatever Markup itself returns is untrusted."""

    __slots__ = ("_spans",)
    _spans: Spans

    def __new__(cls, text: object = "") -> SafePiece:
        piece = super().__new__(cls, text)
        piece._spans = ()
        return piece

    def __str__(self) -> str:
        return marked(str.__str__(self), self._spans)

    def __add__(self, other: object) -> SafePiece:
        return safe(joined((str(self), _escaped(other)))) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> SafePiece:
        return safe(joined((_escaped(other), str(self)))) if isinstance(other, str) else NotImplemented


def safe(value: object) -> SafePiece:
    """The ``safe`` filter."""
    piece = SafePiece(value)
    if isinstance(value, Piece | SafePiece):
        piece._spans = spans_of(value)  # noqa: SLF001 - this module's own class
    return piece


def _escaped(text: str) -> str:
    plain, escaped = str(text), str(escape(text))
    return plain if plain == escaped else escaped
