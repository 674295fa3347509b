"""Hypothesis's way to inputs: a seed with a few edits, so that most get past the first check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from hypothesis import strategies as st

from tests.paths import ROOT

_ROOMS = tuple(str(ROOT / room) for room in ("api", "export", "runtime"))
_WORDS = (
    b"", b"\0", b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"-1", b"1e308", b"9" * 30, b'"', b"{",
    b"[" * 300, b"\\u0000", b"\xed\xa0\x80", b"null", b"true", b"../", b"x" * 600, b"0.0", b"NaN",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after up to six edits: bytes replaced, words put in, parts cut out, doubled or joined."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 16))
        match draw(st.sampled_from("rwcdj")):
            case "r":
                data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
            case "w":
                data[place : place + draw(st.sampled_from([0, 1, length]))] = draw(st.sampled_from(_WORDS))
            case "c":
                del data[place : place + draw(st.sampled_from([1, length, len(data)]))]
            case "d":
                data[place:place] = data[place : place + length]
            case _:
                data[place:] = draw(st.sampled_from(seeds))[place:]
    return bytes(data)


def lines_run(call: Callable[[], object]) -> int:
    """How many distinct lines of our own code a call runs: what a search is to make larger."""
    seen: set[tuple[Any, int]] = set()

    def local(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            seen.add((frame.f_code, frame.f_lineno))
        return local

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(_ROOMS) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return len(seen)
