"""Counting a JSON text's values without parsing it: equal to what the parser finds, whatever stands in strings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.request.body_limits import BodyLimits, body_limits
from api.request.json_scan import Structure, check_structure, structure_of
from runtime.errors import RequestError

_TEXTS = st.text(alphabet='ab"\\,[]{}:/\n\u20ac', max_size=8)
_VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=20,
)


def count(value: Any) -> Structure:
    if not isinstance(value, dict | list):
        return Structure(0, 0)
    inner = [count(item) for item in (value.values() if isinstance(value, dict) else value)]
    commas = max(0, len(inner) - 1) + sum(found.commas for found in inner)
    return Structure(commas, 1 + sum(found.containers for found in inner))


@given(_VALUES)
def test_the_count_is_the_parsers(value: Any) -> None:
    assert structure_of(msgspec.json.encode(value)) == count(value)


def test_limits_are_exact_and_do_not_count_text() -> None:
    limits = BodyLimits(max_bytes=10_000, max_values=10, max_containers=3)
    check_structure(b"[0,0,0,0,0,0,0,0,0,0,0]", limits)
    with pytest.raises(RequestError, match="at most 10 values are allowed, got more than 11"):
        check_structure(b"[0,0,0,0,0,0,0,0,0,0,0,0]", limits)
    check_structure(b"[[],{}]", limits)
    with pytest.raises(RequestError, match="at most 3 objects and lists are allowed, got 4"):
        check_structure(b"[[],{},[]]", limits)
    check_structure(b'["' + rb"[[[[{{{{\",,,,,,,,,,,,\\" + b'"]', limits)
    with pytest.raises(RequestError, match="at most 20 strings are allowed, got 21"):
        check_structure(b"[" + b'"",' * 20 + b'""]', limits)


def test_limits_follow_the_context() -> None:
    assert body_limits(8192) == BodyLimits(256 * 1024, 32_768 + 2 * 8192, 16_384)
    assert body_limits(131_072).max_bytes == 4 * 2**20
    assert body_limits(131_072, 1000).max_bytes == 1000
