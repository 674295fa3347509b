"""Bytes in, characters out, and the place in the text of what each piece of bytes begins.

An incomplete character waits for the bytes that complete it; bytes that nothing can complete become U+FFFD, one for
each maximal ill-formed part as the Unicode standard recommends (3.9, D93b). Knows no tokens.
"""

from __future__ import annotations

import codecs


class Utf8Text:
    """A text that grows by bytes. ``num_chars`` counts its characters so far, an incomplete one not included."""

    __slots__ = ("_decoder", "num_chars")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.num_chars = 0

    @property
    def is_inside(self) -> bool:
        """True when the last bytes are the beginning of a character."""
        return bool(self._decoder.getstate()[0])

    def add(self, data: bytes) -> str:
        """The characters that ``data`` completes."""
        return self._counted(self._decoder.decode(data))

    def finish(self) -> str:
        """What becomes of an incomplete character when nothing more comes."""
        return self._counted(self._decoder.decode(b"", final=True))

    def place_of(self, data: bytes) -> int:
        """Which character of the text, counted from 0, the first byte of ``data`` will belong to when added next.

        Of no bytes it is the place that the next ones may begin at.
        """
        state = self._decoder.getstate()
        if not data or not state[0]:
            return self.num_chars
        text = self._decoder.decode(data[:1])
        begins_or_continues = self.is_inside
        self._decoder.setstate(state)
        return self.num_chars + (len(text) if begins_or_continues else len(text) - 1)

    def _counted(self, text: str) -> str:
        self.num_chars += len(text)
        return text
