"""A megabyte of arguments, or of marks that come to nothing, costs twice what half of it costs; nothing piles up."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType

import pytest

from runtime.text.tool_calls.parser import ToolCallParser
from runtime.text.tool_calls.selection import FORMATS
from tests.runtime.text.tool_calls.answers import TOOLS, call, folded

_PIECE = 512
_NOW = '{"name": "now", "arguments": {}}'
_FILLS = {
    "hermes": ('<tool_call>{"name": "now", "arguments": {"a": "', 'x\\" </tool_', '"}}</tool_call>'),
    "llama3_json": ('{"name": "now", "parameters": {"a": [', '{"b": 1}, ', "0]}}"),
    "pythonic": ("[now(a='", "x\\' )], ", "')]"),
    "qwen3_coder": ("<tool_call><function=now><parameter=a>", "x </param", "</parameter></function></tool_call>"),
    "mistral": ("[TOOL_CALLS]now[ARGS]", " " * 10, "{}"),
    "functiongemma": ("<start_function_call>call:now{a:<escape>", "x<esca", "<escape>}<end_function_call>"),
    "deepseek_v31": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{\"a\":", "[" * 10, ""),
    "generic": ("", "```json\n{", ""),
}  # fmt: skip
"""Format -> what begins an answer in it, what is repeated inside, and what ends it."""


def work(name: str, pieces: Iterable[str]) -> int:
    """Python and C calls that reading takes."""
    parser = FORMATS[name].parser(TOOLS)
    assert isinstance(parser, ToolCallParser)
    longest = calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        for piece in pieces:
            parser.feed(piece)
            longest = max(longest, len(parser._cursor.buffer))
    finally:
        sys.setprofile(None)
    assert longest <= _PIECE + 64, "what was read is let go"
    return calls


@pytest.mark.parametrize("name", _FILLS)
def test_twice_the_text_is_twice_the_work(name: str) -> None:
    begin, fill, end = _FILLS[name]
    once, twice = (
        work(name, (text[start : start + _PIECE] for start in range(0, len(text), _PIECE)))
        for text in (begin + fill * (size // len(fill)) + end for size in (16_000, 32_000))
    )
    assert twice < 2.2 * once


@pytest.mark.parametrize("text", [f"<tool_call>{_NOW}</tool_call>", "", f"<tool_call>{_NOW} x "])
def test_nothing_is_kept_of_text_outside_of_calls(text: str) -> None:
    parser = FORMATS["hermes"].parser(TOOLS, single=True)
    assert isinstance(parser, ToolCallParser)
    for piece in [text, *["some words "] * 50]:
        parser.feed(piece)
    cursor = parser._cursor
    assert len(cursor.buffer) < 100
    assert cursor._kept == []


def test_a_megabyte_of_arguments_arrives_whole() -> None:
    arguments = '{"a": "' + "0123456789abcdef" * 65_536 + '"}'
    text = f'<tool_call>{{"name": "now", "arguments": {arguments}}}</tool_call>'
    for enforced in (False, True):
        parser = FORMATS["hermes"].parser(TOOLS, enforced=enforced)
        deltas = [delta for start in range(0, len(text), 4096) for delta in parser.feed(text[start : start + 4096])]
        assert folded(deltas + parser.finish()).calls == [call(arguments, "now")]
