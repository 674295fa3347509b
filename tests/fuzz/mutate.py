"""Hypothesis's way to inputs: a seed with a few edits, so that most get past the first check."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
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


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**400, 0.0, -1.0, 1e-300, 1e9, 1e300, float("nan"), float("inf"),
    "", "x", "\ud800", "\udcff", "\0", " ", "x" * 600, [], [1], ["x"], [None], {}, {"a": 1}, [0.0] * 8, [[]] * 2,
)  # fmt: skip


@st.composite
def changed_objects(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, JSON objects, after up to four changes: a member at any depth takes another value, or goes.

    The values are odd ones, or what stands under a key of any seed; a key may be one that only another seed has.
    """
    objects = [json.loads(seed) for seed in seeds]
    keys = sorted({key for each in objects for key in each})
    whole = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        place: Any = whole
        key: Any = draw(st.sampled_from(sorted(whole))) if draw(st.booleans()) else draw(st.sampled_from(keys))
        while inner := _members(place, key):
            if draw(st.booleans()):
                break
            place, key = place[key], draw(st.sampled_from(inner))
        if draw(st.booleans()):
            place[key] = deepcopy(draw(st.sampled_from(ODD)))
        elif draw(st.booleans()):
            donor = draw(st.sampled_from(objects))
            place[key] = deepcopy(donor[draw(st.sampled_from(sorted(donor)))])
        elif isinstance(place, dict):
            place.pop(key, None)
        else:
            del place[key:]
        if not whole:
            break
    return json.dumps(whole).encode()


def _members(place: Any, key: Any) -> list[Any]:
    """What may be chosen inside ``place[key]``: the keys of an object, the places of a list; else nothing."""
    value = place.get(key) if isinstance(place, dict) else place[key] if key < len(place) else None
    if isinstance(value, dict):
        return sorted(value)
    return list(range(len(value))) if isinstance(value, list) else []


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
