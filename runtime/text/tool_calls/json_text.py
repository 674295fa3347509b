"""Reads one JSON value, character by character, and says where it ends: RFC 8259 to the letter, no value is built.

Owns the grammar only, as a state and a stack, so that neither depth nor length costs more than it is long. Knows no
call and no tool.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from runtime.text.cursor import Cursor, Steps, Unparsable

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")
_WORDS = {"t": "rue", "f": "alse", "n": "ull"}
# A number's states -> what may follow: the character -> the next state.
_DIGIT_TO = {
    "-": dict.fromkeys("123456789", "int") | {"0": "zero"},
    "zero": {".": ".", "e": "e", "E": "e"},
    "int": dict.fromkeys("0123456789", "int") | {".": ".", "e": "e", "E": "e"},
    ".": dict.fromkeys("0123456789", "frac"),
    "frac": dict.fromkeys("0123456789", "frac") | {"e": "e", "E": "e"},
    "e": dict.fromkeys("0123456789", "exp") | {"+": "sign", "-": "sign"},
    "sign": dict.fromkeys("0123456789", "exp"),
    "exp": dict.fromkeys("0123456789", "exp"),
}
_NUMBER_ENDS = frozenset({"zero", "int", "frac", "exp"})


class JsonScanner:
    """The state between two characters of a JSON value. ``done`` after its last one, ``broken`` before a wrong one.

    A number on its own has no last character: it is done at the first one that is not its own.
    """

    __slots__ = ("_stack", "_state", "_word", "broken", "done")

    def __init__(self) -> None:
        self._state = "value"
        self._stack: list[str] = []
        self._word = ""
        self.done = False
        self.broken = False

    def scan(self, text: str, start: int) -> int:
        """Go on from ``text[start]``; returns where it stopped: at the end of the text, done or broken."""
        position = start
        while position < len(text) and not self.done and not self.broken:
            read = self._string if self._state in {"string", "key"} else self._step
            position = read(text, position)
        return position

    def _string(self, text: str, start: int) -> int:
        match = _PLAIN.match(text, start)
        position = match.end() if match else start
        if position == len(text):
            return position
        if text[position] == '"':
            self._state = "colon" if self._state == "key" else self._closed()
        elif text[position] == "\\":
            self._state = f"{self._state} escape"
        else:
            self.broken = True
            return position
        return position + 1

    def _step(self, text: str, position: int) -> int:
        character = text[position]
        if self._state in _DIGIT_TO:
            return self._number(character, position)
        if self._word:
            return self._literal(character, position)
        if self._state.endswith(("escape", "hex")):
            return self._escape(character, position)
        if character in " \t\r\n":
            match = _BLANK.match(text, position)
            return match.end() if match else position + 1
        return self._structure(character, position)

    def _number(self, character: str, position: int) -> int:
        following = _DIGIT_TO[self._state].get(character)
        if following is not None:
            self._state = following
            return position + 1
        if self._state in _NUMBER_ENDS:
            self._state = self._closed()
        else:
            self.broken = True
        return position

    def _literal(self, character: str, position: int) -> int:
        if character != self._word[0]:
            self.broken = True
            return position
        self._word = self._word[1:]
        if not self._word:
            self._state = self._closed()
        return position + 1

    def _escape(self, character: str, position: int) -> int:
        where, _, rest = self._state.partition(" ")
        if rest == "escape" and character in _ESCAPES:
            self._state = where
        elif rest == "escape" and character == "u":
            self._state = f"{where} 4 hex"
        elif rest.endswith("hex") and character in _HEX:
            left = int(rest[0]) - 1
            self._state = f"{where} {left} hex" if left else where
        else:
            self.broken = True
            return position
        return position + 1

    def _structure(self, character: str, position: int) -> int:
        state = self._state
        if state in {"value", "value or end"} and self._begins_value(character):
            return position + 1
        if character == '"' and state in {"key expected", "key or end"}:
            self._state = "key"
        elif character == ":" and state == "colon":
            self._state = "value"
        elif character == "," and state == "after":
            self._state = "key expected" if self._stack[-1] == "}" else "value"
        elif state in {"after", "key or end", "value or end"} and character == self._stack[-1]:
            self._stack.pop()
            self._state = self._closed()
        else:
            self.broken = True
            return position
        return position + 1

    def _begins_value(self, character: str) -> bool:
        if character == '"':
            self._state = "string"
        elif character == "{":
            self._stack.append("}")
            self._state = "key or end"
        elif character == "[":
            self._stack.append("]")
            self._state = "value or end"
        elif character in _WORDS:
            self._word = _WORDS[character]
            self._state = "word"
        elif character == "-" or character in _DIGITS:
            self._state = {"-": "-", "0": "zero"}.get(character, "int")
        else:
            return False
        return True

    def _closed(self) -> str:
        self.done = not self._stack
        return "after"


def json_value(cursor: Cursor, sink: Callable[[str], object]) -> Steps[None]:
    """Read one JSON value; ``sink`` gets its text in pieces, as it was written."""
    scanner = JsonScanner()
    while True:
        end = scanner.scan(cursor.buffer, cursor.position)
        sink(cursor.buffer[cursor.position : end])
        cursor.position = end
        if scanner.done:
            return
        if scanner.broken or cursor.ended:
            raise Unparsable
        yield


def json_text(cursor: Cursor) -> Steps[str]:
    """As ``json_value``, as one text."""
    pieces: list[str] = []
    yield from json_value(cursor, pieces.append)
    return "".join(pieces)
