"""Where answers and notes are written. The only one that knows what a terminal understands.

Everything from a model or an endpoint passes ``plain_text``; the only escape sequences written are the two below, and
only to a terminal that wants them. In a pipe the answer's text alone goes to the output, notes go elsewhere.
"""

from __future__ import annotations

from typing import TextIO

from chat.plain_text import plain_text
from chat.wire import Piece

_DIM, _RESET = "\x1b[2m", "\x1b[0m"


class Screen:
    """``out`` gets the answer. ``notes`` gets the rest, and is the same for a person who reads both."""

    def __init__(self, out: TextIO, notes: TextIO | None = None, *, style: bool = False) -> None:
        self._out = out
        self._notes = out if notes is None else notes
        self._only_content = notes is not None
        self._style = style
        self._kind: str | None = None
        self._is_fresh = True
        self._is_dim = False

    def piece(self, piece: Piece) -> None:
        """Write the next piece of an answer at once."""
        if self._only_content and piece.kind != "content":
            return
        if piece.kind != self._kind or piece.kind == "tool_name":
            self._begin(piece.kind)
        self._write(plain_text(piece.text))

    def end(self) -> None:
        """End the answer's last line."""
        self._reset()
        self._kind = None
        if not self._is_fresh:
            self._write("\n")

    def note(self, text: str) -> None:
        """A line, or several, that is not the model's."""
        if self._notes is self._out:
            self.end()
        dim, reset = (_DIM, _RESET) if self._style else ("", "")
        self._notes.write("".join(f"{dim}{line}{reset}\n" for line in plain_text(text).splitlines()))
        self._notes.flush()

    def _begin(self, kind: str) -> None:
        before, self._kind = self._kind, kind
        self._reset()
        if kind == "content":
            if before is not None:
                self._write("\n" if self._is_fresh else "\n\n")
            return
        if kind != "tool_arguments" and not self._is_fresh:
            self._write("\n")
        if self._style:
            self._out.write(_DIM)
            self._is_dim = True
        self._write({"reasoning": "[thinking] ", "tool_name": "[tool call] "}.get(kind, " "))

    def _reset(self) -> None:
        if self._is_dim:
            self._out.write(_RESET)
            self._is_dim = False

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
            self._is_fresh = text.endswith("\n")
