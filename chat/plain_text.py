"""Text from elsewhere -> text that a terminal only shows. Knows no terminal.

A model, or the endpoint that speaks for it, may be hostile: escape sequences can rename windows, write the clipboard,
and make what is shown differ from what is copied.
"""

from __future__ import annotations

# C0 but for tab and line feed, DEL, C1 (8-bit forms of the same sequences), and halves of surrogate pairs, which no
# encoding can write. A carriage return goes without a trace: mostly it is half of a line end.
_SHOWN = {code: chr(0x2400 + code) for code in range(32) if code not in {9, 10, 13}}
_SHOWN |= {13: "", 0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
# What makes text run the other way, or hides: lines could be read in another order than they are copied.
_SHOWN |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
_SHOWN |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def plain_text(text: str) -> str:
    """The text with control characters as visible signs; tabs and line feeds stay, carriage returns go."""
    return text.translate(_SHOWN)


def one_line(text: str, limit: int = 300) -> str:
    """The same on one line of at most ``limit`` characters, for messages."""
    line = " ".join(plain_text(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
