"""Pieces of Markdown tables. Knows nothing of what stands in them."""

from __future__ import annotations


def code(value: object) -> str:
    """``value`` as code within a table's cell, where a bar would end the cell."""
    return "`" + str(value).replace("|", "\\|") + "`"


def plain(text: str) -> str:
    """A text of several lines within a cell; what could be read as HTML is not."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def row(*cells: str) -> str:
    """One line of a table."""
    return "| " + " | ".join(cells) + " |"
